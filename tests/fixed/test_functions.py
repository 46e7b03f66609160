"""Every fixed-point function against real arithmetic: values, derivatives, vmap, exactness."""

from __future__ import annotations

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zkjax import fixed
from zkjax._compat import x64
from zkjax.fixed.functions import exp_table, log_table, sigmoid_table, silu_table
from zkjax.program.tables import round_exactly


@pytest.fixture(autouse=True)
def double_precision():
    with x64():
        yield


def grid(low: float, high: float, fraction: int, n: int = 48) -> np.ndarray:
    return fixed.constant(np.linspace(low, high, n), fraction)


# name: (fixed function, real function, inputs, tolerance of values, tolerance of derivatives)
CASES = {
    "round": (lambda x: fixed.round(x, 6, 16), lambda x: x, grid(-3, 3, 12), 2**-7, 1e-9),
    "exp": (lambda x: fixed.exp(x, 12), jnp.exp, grid(-9, 0, 12), 2**-14, 2**-13),
    "silu": (lambda x: fixed.silu(x, 12, 12), jax.nn.silu, grid(-7.9, 7.9, 12), 2**-13, 2**-12),
    "sigmoid": (lambda x: fixed.sigmoid(x), jax.nn.sigmoid, grid(-7, 7, 12), 2**-15, 2**-14),
    "log": (lambda x: fixed.log(x, 8, 16), jnp.log, grid(0.5, 200, 8), 2**-17, 2**-19),
    "reciprocal": (
        lambda x: fixed.reciprocal(x, 16),
        lambda x: 1 / x,
        grid(0.5, 30, 10),
        2**-16,
        2**-14,
    ),
    "divide": (
        lambda x: fixed.divide(3.0 - x, x, 14),
        lambda x: (3.0 - x) / x,
        grid(0.5, 30, 10),
        2**-14,
        2**-11,
    ),
    "rsqrt": (
        lambda x: fixed.rsqrt(x, 14, 18),
        jax.lax.rsqrt,
        grid(0.25, 30, 10),
        2**-14,
        2**-11,
    ),
    "softmax": (
        lambda x: fixed.softmax(x, None, 12),
        jax.nn.softmax,
        grid(-4, 4, 12, 8),
        2**-12,
        2**-11,
    ),
    "max": (lambda x: fixed.max(x), lambda x: jnp.max(x, -1), grid(-4, 4, 12, 8), 0.0, 0.0),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives(name):
    ours, real, x, tolerance, slope_tolerance = CASES[name]
    assert np.abs(np.asarray(ours(x)) - np.asarray(real(x))).max() <= tolerance * 1.001
    weights = fixed.constant(np.linspace(-1, 1, np.asarray(real(x)).size), 8)
    weights = weights.reshape(np.shape(real(x)))
    got = jax.grad(lambda v: jnp.sum(ours(v) * weights))(x)
    expected = jax.grad(lambda v: jnp.sum(real(v) * weights))(jnp.asarray(x))
    assert np.abs(got - expected).max() <= slope_tolerance * 1.001 + 2**-20


@pytest.mark.parametrize("name", CASES)
def test_vmap_and_jit_give_the_same_bits(name):
    ours, _, x, _, _ = CASES[name]
    stacked = jnp.stack([x, x[::-1]], axis=1)
    one_by_one = jnp.stack([ours(stacked[:, 0]), ours(stacked[:, 1])])
    assert np.array_equal(jax.jit(jax.vmap(ours, in_axes=1))(stacked), one_by_one)


def test_onehot_and_embed_under_vmap():
    table = fixed.constant(np.arange(12.0).reshape(4, 3), 4)
    ids = jnp.array([[0, 3], [2, 1]], dtype=jnp.uint8)
    assert np.array_equal(fixed.onehot(ids, 4), jax.nn.one_hot(ids, 4))
    assert np.array_equal(jax.vmap(lambda i: fixed.embed(table, i))(ids), table[np.asarray(ids)])
    slope = jax.grad(lambda t: jnp.sum(fixed.embed(t, ids)))(jnp.asarray(table))
    assert np.array_equal(slope, np.ones((4, 3)))


def test_cross_entropy_and_its_gradient(rng):
    logits = fixed.constant(rng.normal(0, 2, (6, 11)), 10)
    target = rng.integers(0, 11, 6).astype(np.uint8)

    def real(x):
        return -jnp.sum(jax.nn.log_softmax(x)[jnp.arange(6), target])

    got = fixed.cross_entropy(logits, target, 10)
    assert abs(float(jnp.sum(got)) - float(real(logits))) < 0.005
    slope = jax.grad(lambda x: jnp.sum(fixed.cross_entropy(x, target, 10)))(logits)
    assert np.abs(slope - jax.grad(real)(jnp.asarray(logits))).max() < 2**-11 + 2**-10


def test_softmax_mask():
    x = grid(-4, 4, 12, 8)
    mask = np.arange(8) < 5
    p = fixed.softmax(jnp.where(mask, x, -8.0), mask, 12)
    assert not np.asarray(p)[5:].any() and abs(float(p.sum()) - 1) < 2**-11


@pytest.mark.parametrize("fraction", [0, 5, 12])
def test_round_is_to_nearest_with_ties_up(fraction):
    x = np.array([-1.5, -0.5, -0.25, 0.25, 0.5, 1.5, 2.5]) * 2.0**-fraction
    expected = np.array([-1, 0, 0, 0, 1, 2, 3]) * 2.0**-fraction
    assert np.array_equal(fixed.round(x, fraction), expected)


def test_the_vjp_of_round_rounds_the_cotangent_to_the_scope_of_the_forward_call():
    def loss(x):
        with fixed.cotangent_format(4, 16):
            y = fixed.round(x, 8)
        return jnp.sum(y * fixed.constant(0.3, 12))

    assert float(jax.grad(loss)(jnp.float64(1.0))) == 5 / 16
    explicit = jax.grad(
        lambda x: fixed.round(x, 8, cotangent=fixed.Format(2, 8)) * fixed.constant(0.3, 12)
    )
    assert float(explicit(jnp.float64(1.0))) == 0.25


def test_encode_and_decode_are_inverse():
    stored = np.arange(-300, 300, 7, dtype=np.int16)
    assert np.array_equal(fixed.encode(fixed.decode(stored, 9), 9, jnp.int16), stored)


EXACT = {
    "exp": (exp_table(10), 10, 13, lambda x: (-x).exp()),
    "silu": (silu_table(11, 11), 11, 11, lambda x: x / (1 + (-x).exp())),
    "sigmoid": (sigmoid_table(12, 14), 12, 14, lambda x: 1 / (1 + (-x).exp())),
    "log": (log_table(8, 16), 8, 16, lambda x: x.ln()),
}


@pytest.mark.parametrize("name", EXACT)
def test_tables_are_correctly_rounded(name, rng):
    """200 random rows against 50-digit decimals, rounded to nearest with ties up."""
    table, in_fraction, out_fraction, function = EXACT[name]
    with localcontext() as context:
        context.prec = 50
        for i in rng.integers(0, table.rows, 200):
            x = Decimal(int(table.columns[0][i])) / 2**in_fraction
            value = function(x) * 2**out_fraction + Decimal("0.5")
            assert int(value.to_integral_value(rounding="ROUND_FLOOR")) == table.columns[1][i]


def test_what_is_close_to_a_tie_is_rounded_by_decimals():
    """A float64 that may be off to either side does not decide, or machines would differ."""
    near = np.array([0.5 - 2.0**-45, 1.5 + 2.0**-45, 2.25, -0.5])
    exact = [Decimal("0.5"), Decimal("1.49999999999999999999"), None, Decimal("-0.5")]
    assert round_exactly(near, exact.__getitem__, "t").tolist() == [1, 1, 2, 0]
