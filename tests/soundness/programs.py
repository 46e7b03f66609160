"""Small provable programs that together use every hint, and one training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zkjax import fixed
from zkjax.program.tables import Table, step_table


@cache
def cubes() -> Table:
    """k -> (k^3, 3 k^2) for -8 <= k < 8."""
    keys = np.arange(-8, 8, dtype=np.int64)
    return Table("cubes", (keys, keys**3, 3 * keys**2))


def rounded(x):
    """Two roundings, one of them wide enough to need limbs."""
    v = fixed.decode(x, 4)
    wide = fixed.round(v * v * v, 6, 20)
    return fixed.encode(fixed.round(wide, 2, 18), 2), fixed.encode(fixed.round(v, 0, 6), 0)


STEPS = step_table("steps", np.array([0, 4, 9, 100]), 250, np.array([5, -7, 2, 9]))


def located(x):
    return fixed.locate(fixed.decode(x, 0), STEPS, 0, (0,))[0].astype(jnp.int32)


def tabulated(x):
    a, b = fixed.lookup(x.astype(jnp.float64), cubes(), 0, (0, 0))
    return (a + b).astype(jnp.int32)


def divided(x):
    v = x.astype(jnp.float64)
    return fixed.encode(fixed.divide(v, v * v + 3.0, 6, 12), 6)


def inverse_root(x):
    v = x.astype(jnp.float64)
    return fixed.encode(fixed.rsqrt(v * v + 2.0, 8, 10), 8)


def maximum(x):
    return fixed.max(x.astype(jnp.float64), 10).astype(jnp.int32)


def compared(x):
    v = x.astype(jnp.float64)
    return jnp.where(v > 1.0, v, -2.0 * v).astype(jnp.int32), jnp.maximum(v, 0.0).astype(jnp.int32)


def embedded(x):
    table = np.arange(12.0).reshape(6, 2) - 5.0
    return fixed.embed(table, jnp.abs(fixed.decode(x, 0))).astype(jnp.int32)


def scanned(x):
    v = x.astype(jnp.float64)

    def body(carry, row):
        new = fixed.round(carry * 0.5 + row, 0, 8)
        return new, new * row

    last, rows = jax.lax.scan(body, v[0] * 0.0, v)
    return last.astype(jnp.int32), rows.astype(jnp.int32)


def first(x):
    """The first of equal maxima."""
    return jnp.argmax(x, axis=1).astype(jnp.int32)


def largest_two(x):
    """With their indices."""
    return jax.lax.top_k(x, 2)


def quotient(x):
    """Rounded down, of numbers of both signs."""
    return jnp.floor_divide(x.astype(jnp.int16), 5)


def whole_part(x):
    return jnp.floor(fixed.decode(x, 3)).astype(jnp.int32)


def counted(x):
    """Indexing by a loop's counter: set, read back, added."""

    def body(i, y):
        y = y.at[i].set(fixed.round(y[i - 1] * 0.5 + y[2 - i], 2, 16))
        return y.at[0].add(fixed.decode(x, 1)[i])

    return fixed.encode(jax.lax.fori_loop(1, 3, body, fixed.decode(x, 1)), 2)


def clipped(x):
    """The derivative of clipping, in which equal operands share the cotangent."""
    v = x.astype(jnp.float64)
    slope = jax.grad(lambda u: jnp.sum(jnp.clip(u, -9.0, 5.0) * u))(v)
    return fixed.encode(slope, 2)


def normalised(x):
    return fixed.encode(fixed.softmax(x.astype(jnp.float64) * 0.25, None, 12, 8), 8)


SMALL: dict[str, tuple[Callable, np.ndarray]] = {
    "rounded": (rounded, np.array([37, -11, 120], dtype=np.int8)),
    "tabulated": (tabulated, np.array([3, -8, 7], dtype=np.int8)),
    "located": (located, np.array([120, 4, 8], dtype=np.uint8)),
    "divided": (divided, np.array([5, -9, 100], dtype=np.int8)),
    "inverse_root": (inverse_root, np.array([5, -9, 100], dtype=np.int8)),
    "maximum": (maximum, np.array([[5, -9, 100], [7, 3, -2]], dtype=np.int8)),
    "compared": (compared, np.array([5, -9, 1, 0], dtype=np.int8)),
    "embedded": (embedded, np.array([0, 5, -3], dtype=np.int8)),
    "first": (first, np.array([[3, 7, 7], [-7, -3, -3]], dtype=np.int8)),
    "largest_two": (largest_two, np.array([[3, 5, 5], [-9, -5, -5]], dtype=np.int8)),
    "quotient": (quotient, np.array([-10, 9, 37], dtype=np.int8)),
    "whole_part": (whole_part, np.array([37, -11, 120], dtype=np.int8)),
    "counted": (counted, np.array([5, -9, 100], dtype=np.int8)),
    "clipped": (clipped, np.array([5, -9], dtype=np.int8)),
    "scanned": (scanned, np.array([[1, 2], [-3, 4], [5, -6]], dtype=np.int8)),
}


def every_hint(x: dict[str, Any]):
    """Embedding, matrix product, rounding, normalisation, silu, relu, softmax, scan, division."""
    w = fixed.decode(x["weights"], 6)
    h = fixed.embed(fixed.decode(x["table"], 6), x["tokens"])
    scale = fixed.rsqrt(
        fixed.round(jnp.sum(h * h, axis=-1, keepdims=True), 8, 16) + 0.00390625, 10, 16
    )
    h = fixed.round(h * scale, 10, 16)

    def layer(carry, kernel):
        y = fixed.round(carry @ kernel, 10, 16)
        new = fixed.round(carry + fixed.silu(y, 10, 10), 10, 16)
        return new, fixed.max(new)

    h, peaks = jax.lax.scan(layer, h, w)
    p = fixed.softmax(h, None, 10, 10)
    ratio = fixed.divide(jnp.where(h > 0.0, h, 0.0), p + 1.0, 8, 16)
    return fixed.encode(p, 10), fixed.encode(ratio, 8), fixed.encode(peaks, 10)


def every_hint_input() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "weights": rng.integers(-40, 40, (2, 4, 4)).astype(np.int8),
        "table": rng.integers(-60, 60, (6, 4)).astype(np.int8),
        "tokens": np.array([0, 5, 3], dtype=np.uint8),
    }


@cache
def training(optimizer: Any = None) -> tuple[Callable, tuple[Any, ...]]:
    """A step on the adapter of a one-layer LLaMA, of SGD or of an optimizer's configuration: the
    function and plain arguments.
    """
    from flax import nnx

    from zkjax.models.adapter import init_adapter
    from zkjax.models.config import LlamaConfig, LoraConfig
    from zkjax.models.llama import Llama
    from zkjax.proofs.finetune import (
        FineTuning,
        init_state,
        make_hyperparameters,
        make_step,
        store_adapter,
        store_base,
        store_rate,
    )

    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    run = FineTuning(model=config, lora=LoraConfig(r=2))
    parameters = nnx.to_pure_dict(nnx.split(Llama(config, rngs=nnx.Rngs(0)))[1])
    base = store_base(jax.tree.map(np.asarray, parameters))
    adapter = store_adapter(init_adapter(config, run.lora, jax.random.key(1)))
    adapter = jax.tree.map(lambda a: np.where(a == 0, 1 << 20, a).astype(np.int32), adapter)
    tokens = np.array([[3, 1, 4, 1, 5]], dtype=np.uint8)
    if optimizer is None:
        return make_step(run), (base, adapter, tokens, store_rate(0.5))
    state, hyper = init_state(run, optimizer, adapter), make_hyperparameters(run, optimizer)(0)
    return make_step(run, optimizer), (base, adapter, state, tokens, hyper)
