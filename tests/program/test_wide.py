"""Values whose formats would allow more than 52 bits: traced, and seen to stay below when run."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import zkjax
from zkjax import fixed
from zkjax.errors import OverflowBoundError, ValueRangeError
from zkjax.program.builder import distinct
from zkjax.program.trace import trace_call


def products(x, y):
    """Sums of 64 products of 30-bit numbers: up to 2^64 / 2^2 by their types."""
    v, w = fixed.decode(x, 0), fixed.decode(y, 0)
    v, w = fixed.round(v, 0, 28), fixed.round(w, 0, 28)
    return fixed.encode(fixed.round(v @ w, -20, 32) * 2.0**-20, 0)


def evaluated(x, y):
    traced = trace_call(products, (x, y))
    return traced.statement.program.evaluate([x, y], traced.run([x, y])[1])


def test_small_values_of_wide_types_are_proved():
    x = np.arange(64, dtype=np.int32) * 100_000
    total = int((x.astype(np.int64) ** 2).sum())
    out, _ = zkjax.prove(products)(zkjax.seal(x), x)
    assert out == (total + (1 << 19)) >> 20


def test_a_sum_that_float64_may_not_hold_is_refused():
    x = np.full(64, 1 << 24, dtype=np.int32)
    with pytest.raises(ValueRangeError, match=r"54.0 bits and fixed point holds 52"):
        evaluated(x, x)


def test_partial_sums_count_too():
    """The sum is 0 and half of it is not exact."""
    x = np.full(64, 1 << 24, dtype=np.int32)
    signs = np.where(np.arange(64) < 32, 1, -1).astype(np.int32)
    with pytest.raises(ValueRangeError, match="fixed point holds 52"):
        evaluated(x, x * signs)
    evaluated(x, signs)


def test_sums_along_an_axis_count_their_parts():
    """Six numbers of 53 bits, whose sum is small."""

    def fn(a, b, c):
        product = fixed.decode(a, 0) * fixed.decode(b, 0) * fixed.decode(c, 0)
        return fixed.encode(jnp.sum(product), 0)

    top = 2**31 - 1
    a = np.array([top, top, top, -top, -top, -top + 2], np.int32)
    b, c = np.full(6, 32767, np.int16), np.full(6, 63, np.int8)
    with pytest.raises(ValueRangeError, match="fixed point holds 52"):
        trace_call(fn, (a, b, c)).statement.program.evaluate([a, b, c])
    trace_call(fn, (a, b, c)).statement.program.evaluate([a >> 8, b, c])


def test_a_multiple_of_a_difference_is_not_a_difference_of_multiples():
    """101 (x - y) is exact where 101 x is not."""

    def fn(a, b):
        v, w = fixed.decode(a, 0), fixed.decode(b, 0)
        return fixed.encode(101.0 * (v * 786431.0 - w * 786431.0), 0)

    a = np.array([2**30], np.int32)
    (out,), _ = zkjax.prove(lambda a, b: (fn(a, b),))(zkjax.seal(a), a - 1)
    assert out == 101 * 786431


def test_what_might_wrap_around_is_refused_when_traced():
    def fn(x):
        v = fixed.decode(x, 0)
        return fixed.encode(fixed.round(v * v, -20, 32) * 2.0**-20, 0)

    x = np.zeros(4, np.uint32)
    with pytest.raises(OverflowBoundError, match="64 bits; fixed point holds 61"):
        zkjax.trace(fn)(x)


def test_repetitions_of_a_broadcast_are_looked_through():
    x = np.broadcast_to(np.arange(3)[:, None], (5, 3, 7))
    assert distinct(x).shape == (1, 3, 1)
    assert np.array_equal(np.broadcast_to(distinct(x), x.shape), x)
    assert distinct(np.zeros((2, 1, 3))).shape == (2, 1, 3)
    assert distinct(np.array(4.0)).shape == ()


def test_a_mask_that_is_repeated_a_million_times_is_traced():
    """Its repetitions are never written out: they would be 80 GB."""
    import jax
    import jax.numpy as jnp

    def fn(x):
        mask = jnp.broadcast_to(jnp.tril(jnp.ones((8, 8), bool)), (10_000, 125_000, 8, 8))
        wide = jnp.broadcast_to(fixed.decode(x, 0)[:, None], (10_000, 125_000, 8, 8))
        return fixed.encode(jnp.sum(jnp.where(mask, wide, 0.0)[:1, :1]), 0)

    statement = zkjax.trace(fn)(zkjax.Private(jax.ShapeDtypeStruct((8,), np.int16)))
    assert sum(c.size for c in statement.program.constants) <= 65
