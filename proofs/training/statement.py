"""What is proved of a run: that it starts from nothing learned, and every step of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

import zkjax
from zkjax.program.statement import Statement
from zkjax.proofs.finetune import (
    FineTuning,
    init_state,
    make_gradient_step,
    make_hyperparameters,
    make_step,
    make_update_step,
)
from zkjax.proofs.training.settings import Facts


def start(adapter: Any, state: Any) -> tuple[Any, Any]:
    """Every B of the first adapter, and the optimizer's first state, to be seen: all zero. Its A
    stay private; they are the owner's choice.
    """
    return {target: parts["b"] for target, parts in adapter.items()}, state


class Part(NamedTuple):
    """What one proof of a step is about."""

    function: Callable
    sealed_outputs: Any
    arguments: tuple


@dataclass(frozen=True)
class StepStatement:
    """One step of a run as a function of (base, adapter, state, batch, hyper-parameters).

    It is proved as a whole, or in two parts: its gradient, and what the optimizer makes of it. The
    base model and the batch are public or private as the facts say. The optimizer's state is one
    private value, unless the optimizer has none.
    """

    facts: Facts
    run: FineTuning

    @cached_property
    def step(self) -> Callable:
        return make_step(self.run, self.facts.optimizer_config)

    @cached_property
    def gradient_step(self) -> Callable:
        return make_gradient_step(self.run, self.facts.optimizer_config)

    @cached_property
    def update_step(self) -> Callable:
        return make_update_step(self.run, self.facts.optimizer_config)

    @cached_property
    def hyperparameters(self) -> Callable[[int], dict]:
        """Step, counted from 0 -> its public numbers."""
        return make_hyperparameters(self.run, self.facts.optimizer_config)

    def init_state(self, adapter: Any) -> Any:
        return init_state(self.run, self.facts.optimizer_config, adapter)

    @cached_property
    def has_state(self) -> bool:
        adapter = {
            target: {"a": np.zeros((1, 1, 1), np.int32), "b": np.zeros((1, 1, 1), np.int32)}
            for target in self.facts.targets
        }
        return bool(jax.tree.leaves(self.init_state(adapter)))

    @property
    def sealed_outputs(self) -> tuple[bool, bool, bool]:
        """(new adapter, new state, loss)."""
        return True, self.has_state, False

    def parts(self, base: Any, adapter: Any, state: Any, batch: Any) -> list[Part]:
        """The one or two proofs of a step; of private arguments only shapes and types are used."""
        base = base if self.facts.public_base else zkjax.Private(base, ranged=True)
        mine = zkjax.Private(adapter)
        kept = zkjax.Private(state) if self.has_state else state
        batch = batch if self.facts.public_data else zkjax.Private(batch)
        hyper = self.hyperparameters(0)
        if not self.facts.split:
            return [Part(self.step, self.sealed_outputs, (base, mine, kept, batch, hyper))]
        return [  # a gradient has the form of the adapter
            Part(self.gradient_step, (True, False), (base, mine, batch)),
            Part(self.update_step, (True, self.has_state), (mine, kept, mine, hyper)),
        ]

    def trace(self, base: Any, adapter: Any, state: Any, batch: Any) -> list[Statement]:
        """The statements of every step, one or two."""
        return [
            zkjax.trace(part.function, sealed_outputs=part.sealed_outputs)(*part.arguments)
            for part in self.parts(base, adapter, state, batch)
        ]

    def trace_start(self, adapter: Any, state: Any) -> Statement:
        private = zkjax.Private(state) if self.has_state else state
        return zkjax.trace(start)(zkjax.Private(adapter), private)

    def example_adapter(self) -> Any:
        """The pytree of a stored adapter, zeros."""
        config, layers = self.run.model, self.run.model.num_hidden_layers
        return {
            target: {
                "a": np.zeros((layers, inputs, self.facts.r), np.int32),
                "b": np.zeros((layers, self.facts.r, outputs), np.int32),
            }
            for target in self.facts.targets
            for inputs, outputs in [config.projection_shape(target)]
        }

    def example_batch(self) -> Any:
        """A batch of the right shapes, zeros."""
        f = self.facts
        parts = f.optimizer_config.gradient_accumulation_steps
        lead = (parts, f.batch) if parts > 1 else (f.batch,)
        tokens = np.zeros((*lead, f.length + 1), np.int32)
        if not f.masked:
            return tokens
        return {"tokens": tokens, "learned": np.zeros((*lead, f.length), bool)}
