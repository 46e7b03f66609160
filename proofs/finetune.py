"""The fine-tuning statement: base model, adapter, tokens, hyper-parameters -> new adapter, loss.

``make_step`` gives a pure function of stored integers. Which of its arguments are private is the
caller's choice: seal them for ``zkjax.prove``, or pass them as plain arrays to make them public.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import nnx

from zkjax import fixed
from zkjax.models.config import LlamaConfig, LoraConfig
from zkjax.models.llama import Llama, mean_loss
from zkjax.models.numerics import FixedPoint
from zkjax.models.optimizers import MASTER, apply_updates, sgd

WEIGHT_FRACTION = 12
RATE_FRACTION = 14
LOSS_FRACTION = 16


@dataclass(frozen=True)
class FineTuning:
    """Everything about a run that is public and fixed.

    ``loss_scale`` multiplies the loss before differentiation and is divided out of the gradient, so
    that small cotangents keep their bits.
    """

    model: LlamaConfig = field(default_factory=LlamaConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    numerics: FixedPoint = field(default_factory=FixedPoint)
    loss_scale: float = 16.0


def graph_of(config: LlamaConfig) -> Any:
    """The NNX graph definition of a model, without parameters."""
    return nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))[0]


def store_base(parameters: Any) -> Any:
    """Base weights (pure dict of floats) as int16 with 12 fraction bits."""
    return jax.tree.map(lambda x: fixed.quantize(x, WEIGHT_FRACTION, "int16"), parameters)


def store_adapter(adapter: Any) -> Any:
    """Adapter master weights as int32 with 24 fraction bits."""
    return jax.tree.map(lambda x: fixed.quantize(x, MASTER.fraction, "int32"), adapter)


def load_adapter(stored: Any) -> Any:
    """The inverse of ``store_adapter``, exact in float64."""
    return jax.tree.map(lambda x: np.asarray(x) * 2.0**-MASTER.fraction, stored)


def store_rate(learning_rate: float) -> np.ndarray:
    """A learning rate below 4 as a uint16 with 14 fraction bits."""
    return fixed.quantize(learning_rate, RATE_FRACTION, "uint16")


def bind(config: LlamaConfig, base: Any) -> Llama:
    """The model with these decoded base weights."""
    graph = graph_of(config)
    state = nnx.eval_shape(lambda: nnx.split(Llama(config, rngs=nnx.Rngs(0)))[1])
    nnx.replace_by_pure_dict(state, base)
    return nnx.merge(graph, state)


def make_loss(run: FineTuning) -> Callable:
    """(decoded base, decoded adapter, tokens (batch, length + 1)) -> mean cross-entropy."""

    def loss(base, adapter, tokens):
        model = bind(run.model, base)
        logits = model(tokens[:, :-1], adapter, run.lora.scale, run.numerics)
        return mean_loss(logits, tokens[:, 1:], run.numerics)

    return loss


def make_step(run: FineTuning) -> Callable:
    """One step of SGD on the adapter, as a provable function of stored integers.

    The function takes (base, adapter, tokens, learning_rate) as ``store_*`` make them and returns
    (new adapter, loss with 16 fraction bits as int32).
    """
    loss = make_loss(run)

    def step(base, adapter, tokens, learning_rate):
        weights = jax.tree.map(lambda x: fixed.decode(x, WEIGHT_FRACTION), base)
        masters = jax.tree.map(lambda x: fixed.decode(x, MASTER.fraction), adapter)
        rate = fixed.decode(learning_rate, RATE_FRACTION)

        def scaled(masters):
            value = loss(weights, masters, tokens)
            return value * run.loss_scale, value

        grads, value = jax.grad(scaled, has_aux=True)(masters)
        grads = jax.tree.map(lambda g: g * (1.0 / run.loss_scale), grads)
        optimizer = sgd(rate)
        updates, _ = optimizer.update(grads, optimizer.init(masters), masters)
        new = apply_updates(masters, updates)
        stored = jax.tree.map(lambda x: fixed.encode(x, MASTER.fraction), new)
        return stored, fixed.encode(value, LOSS_FRACTION)

    return step
