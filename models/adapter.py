"""LoRA adapters of a decoder, and where what they add comes from.

An adapter is a plain pytree, stacked over the layers of the model:
``{target: {"a": (layers, inputs, r), "b": (layers, r, outputs)}}``.

What an adapter adds to the linear layers of a block comes from a function ``deltas(group, x)``,
called once for each activation that linear layers read (``config.INPUT_GROUPS``). It can compute
LoRA here, ask the owner of a private adapter, or hand in values received earlier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from zkjax._arguments import checked
from zkjax._marks import RandomKey
from zkjax.errors import OptionError
from zkjax.fixed.types import Real
from zkjax.models.config import INPUT_GROUPS, LoraConfig, ModelConfig, Positive
from zkjax.models.numerics import Numerics

__all__ = ["init_adapter", "lora_delta", "warm_adapter"]

Adapter = dict[str, dict[str, Any]]
Key = Annotated[Any, RandomKey()]
Deltas = Callable[[str, Any], dict[str, Any]]  # (input group, x) -> {target: added to x W}


def no_deltas(group: str, x) -> dict[str, Any]:
    """A base model without an adapter."""
    return {}


@checked
def lora_delta(
    x: Real, a: Real, b: Real, numerics: Numerics, scale: Positive = 1.0, site: str = "lora"
):
    """scale (x A) B with x A rounded. A scale that is no power of two is rounded on purpose, and
    multiplies x A before that is.
    """
    shapes = [tuple(np.shape(value)) for value in (x, a, b)]
    if (
        any(len(s) < 2 for s in shapes[1:])
        or not shapes[0]
        or (shapes[0][-1] != shapes[1][-2] or shapes[1][-1] != shapes[2][-2])
    ):
        told = ", ".join(f"{n} {list(s)}" for n, s in zip("xab", shapes, strict=True))
        raise OptionError(f"lora_delta: {told}; x is (..., inputs), a (inputs, r), b (r, outputs)")
    mantissa = float(2 * np.frexp(float(scale))[0])
    low = x @ numerics.round(a, "lora.weight")
    if mantissa != 1.0:
        low = numerics.round_cotangent(low, site) * numerics.constant(mantissa)
    low = numerics.round(low, site)
    return (scale / mantissa) * (low @ numerics.round(b, "lora.weight"))


def lora_deltas(adapter: Adapter | None, scale: float, numerics: Numerics) -> Deltas:
    """(alpha / r) (x A) B for the targets of one layer's adapter."""

    def delta(target: str, x):
        a, b = adapter[target]["a"], adapter[target]["b"]
        return lora_delta(x, a, b, numerics, scale, f"{target}.lora")

    def deltas(group: str, x) -> dict[str, Any]:
        return {
            target: delta(target, x)
            for target in INPUT_GROUPS[group]
            if adapter and target in adapter
        }

    return deltas


def normal(key, shape, scale: float):
    """Normal random float32 values of this standard deviation."""
    return scale * jax.random.normal(key, shape, dtype=jnp.float32)


@checked
def init_adapter(config: ModelConfig, lora: LoraConfig, key: Key) -> Adapter:
    """A random, B zero, float32."""
    adapter: Adapter = {}
    for i, target in enumerate(lora.targets):
        inputs, outputs = config.projection_shape(target)
        layers = config.num_hidden_layers
        a = normal(jax.random.fold_in(key, i), (layers, inputs, lora.r), inputs**-0.5)
        adapter[target] = {"a": a, "b": jnp.zeros((layers, lora.r, outputs), jnp.float32)}
    return adapter


@checked
def warm_adapter(config: ModelConfig, lora: LoraConfig, key: Key) -> Adapter:
    """An adapter as it may look in the middle of training: B is random too. For calibration: with
    B = 0 half of the gradient is zero.
    """
    fresh = init_adapter(config, lora, key)
    return {
        target: {"a": ab["a"], "b": normal(jax.random.fold_in(key, 99 + i), ab["b"].shape, 0.02)}
        for i, (target, ab) in enumerate(fresh.items())
    }
