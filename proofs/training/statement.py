"""What is proved of a run: that it starts from nothing learned, and every step of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

import zkjax
from zkjax.program.statement import Statement
from zkjax.proofs.finetune import FineTuning, init_state, make_hyperparameters, make_step
from zkjax.proofs.training.settings import Facts


def start(adapter: Any, state: Any) -> tuple[Any, Any]:
    """Every B of the first adapter, and the optimizer's first state, to be seen: all zero. Its A
    stay private; they are the owner's choice.
    """
    return {target: parts["b"] for target, parts in adapter.items()}, state


@dataclass(frozen=True)
class StepStatement:
    """One step of a run as a function of (base, adapter, state, batch, hyper-parameters).

    The base model and the batch are public or private as the facts say. The optimizer's state is
    one private value, unless the optimizer has none.
    """

    facts: Facts
    run: FineTuning

    @cached_property
    def step(self) -> Callable:
        return make_step(self.run, self.facts.optimizer_config)

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

    def trace(self, base: Any, adapter: Any, state: Any, batch: Any) -> Statement:
        """The statement of every step; of private arguments only shapes and types are used."""
        args = (
            base if self.facts.public_base else zkjax.Private(base, ranged=True),
            zkjax.Private(adapter),
            zkjax.Private(state) if self.has_state else state,
            batch if self.facts.public_data else zkjax.Private(batch),
        )
        trace = zkjax.trace(self.step, sealed_outputs=self.sealed_outputs)
        return trace(*args, self.hyperparameters(0))

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
