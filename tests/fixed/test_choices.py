"""tanh, gelu, relu, argmax and tables of one's own: on the whole of their domains, with both kinds
of derivatives.
"""

from __future__ import annotations

from decimal import Decimal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

import zkjax
from zkjax import fixed
from zkjax._compat import x64
from zkjax.errors import OptionError, ValueRangeError
from zkjax.fixed.tabulated import _phi

SIGNED = np.arange(-(1 << 15), 1 << 15)


@pytest.fixture(autouse=True)
def double_precision():
    with x64():
        yield


def density(x):
    return np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def near_gelu(x):
    return np.asarray(jax.nn.gelu(x, approximate=True))


FUNCTIONS = {
    "tanh": (fixed.tanh, np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "gelu": (
        lambda x, i, o: fixed.gelu(x, i, o, approximate=False),
        lambda x: x * ndtr(x),
        lambda x: ndtr(x) + x * density(x),
    ),
    "gelu by tanh": (
        fixed.gelu,
        near_gelu,
        lambda x: np.asarray(jax.vmap(jax.grad(jax.nn.gelu))(x)),
    ),
}


@pytest.mark.parametrize("fractions", [(4, 8), (8, 12), (12, 12), (12, 11), (14, 16)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_keys_within_the_stated_error(name, fractions):
    ours, real, slope = FUNCTIONS[name]
    inside, outside = fractions
    x = SIGNED * 2.0**-inside
    value, derivative = jax.vjp(lambda v: ours(v, inside, outside), jnp.asarray(x))
    bound = 2.0 ** -(outside + 1) * (1 + 1e-9)
    assert np.abs(value - real(x)).max() <= bound
    assert np.abs(derivative(jnp.ones(x.shape))[0] - slope(x)).max() <= bound


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_derivative_is_the_same_forward(name):
    ours = FUNCTIONS[name][0]
    x = jnp.asarray(SIGNED[::97] * 2.0**-12)
    backward = jax.vjp(lambda v: ours(v, 12, 12), x)[1](jnp.ones(x.shape))[0]
    _, forward = jax.jvp(lambda v: ours(v, 12, 12), (x,), (jnp.ones(x.shape),))
    chex.assert_trees_all_equal(forward, backward)


def test_the_normal_distribution_to_fifty_digits():
    """Against its series and its continued fraction, which meet at 6, and one known value."""
    known = Decimal("0.84134474606854294858523254563203792722806987138")
    assert abs(_phi(Decimal(1)) - known) < Decimal("1e-25")  # by the context's 28 digits
    below, above = _phi(Decimal("-6")), _phi(Decimal("-6.000000000000000000001"))
    assert 0 < below - above < Decimal("1e-28")
    assert abs(_phi(Decimal(3)) + _phi(Decimal(-3)) - 1) < Decimal("1e-25")


def test_relu_on_all_keys():
    x = SIGNED * 2.0**-12
    value, pull = jax.vjp(fixed.relu, jnp.asarray(x))
    chex.assert_trees_all_equal(np.asarray(value), np.maximum(x, 0.0))
    chex.assert_trees_all_equal(np.asarray(pull(jnp.ones(x.shape))[0]), (x > 0) * 1.0)


def test_argmax_is_the_first_index(rng):
    x = rng.integers(-3, 4, (500, 7)) * 0.5
    chex.assert_trees_all_equal(np.asarray(fixed.argmax(x)), np.argmax(x, -1).astype(np.int32))
    stacked = jax.vmap(fixed.argmax, in_axes=1)(jnp.asarray(x.reshape(50, 10, 7)))
    chex.assert_trees_all_equal(np.asarray(stacked), np.argmax(x.reshape(50, 10, 7), -1).T)


def test_a_table_of_ones_own_on_all_keys():
    softplus = fixed.table(
        lambda x: np.log1p(np.exp(x)), 8, 12, low=-16, high=16, derivative=lambda x: ndtr(x) * 0 + 1
    )
    x = np.arange(-16 * 256, 16 * 256) / 256
    assert np.abs(softplus(x) - np.log1p(np.exp(x))).max() <= 2.0**-13 * (1 + 1e-9)
    run = zkjax.provable(lambda k: fixed.encode(softplus(fixed.decode(k, 8)), 12))
    assert run(np.array([4095], np.int16)) == round(np.log1p(np.exp(4095 / 256)) * 4096)
    for outside in (-4097, 4096):
        with pytest.raises(ValueRangeError, match="table"):
            run(np.array([outside], np.int16))


def test_a_table_without_a_derivative_says_so():
    plain = fixed.table(np.cosh, 4, 8, low=-2, high=2)
    with pytest.raises(OptionError, match="derivative="):
        jax.grad(lambda x: plain(x))(0.5)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"function": np.log}, "low= and high="),
        ({"function": lambda x: 1.0}, "np.vectorize"),
        ({"function": lambda x: [][0]}, "np.vectorize"),
        ({"low": 2, "high": 1}, "low is a number below high"),
        ({"fraction": 40, "low": -10, "high": 10}, "narrow low= and high="),
        ({"function": lambda x: x * 1e20}, "above 2"),
        ({"function": np.arctan, "derivative": lambda x: x / 0.0}, "derivative of fixed.table"),
    ],
)
def test_functions_that_make_no_table(arguments, what):
    with pytest.raises(OptionError, match=what), np.errstate(all="ignore"):
        fixed.table(**{"function": np.cosh, "fraction": 4, "out_fraction": 4, **arguments})
