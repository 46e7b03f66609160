"""Nonlinear functions: table lookups, division, rsqrt, max, onehot.

Derivatives are products with exact or tabulated factors; they are rounded where they pass the
``round`` that made the argument.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from zkjax._arguments import checked
from zkjax.errors import OptionError
from zkjax.fixed.primitives import divide_p, locate_p, lookup_p, max_p, onehot_p, rsqrt_p
from zkjax.fixed.rounding import current_cotangent_format, round
from zkjax.fixed.types import Array, Axis, Bits, Fraction, TableFraction, as_array
from zkjax.program.tables import Table, function_table, require_steps

EXP_FRACTION = 13


@checked
def lookup(
    x: Array, table: Table, in_fraction: Fraction, out_fractions: tuple[Fraction, ...]
) -> list[jax.Array]:
    """Columns of a public table at key x 2^in_fraction, as values with the given fraction bits.

    Not differentiable; wrap it in ``jax.custom_vjp`` with a column that holds the derivative.
    """
    _require_columns(table, 1, out_fractions)
    return lookup_p.bind(x, table=table, in_fraction=in_fraction, out_fractions=out_fractions)


@checked
def locate(
    x: Array, table: Table, in_fraction: Fraction, out_fractions: tuple[Fraction, ...]
) -> list[jax.Array]:
    """Columns of a step function (``tables.step_table``) at x 2^in_fraction, with the given
    fraction bits.

    One lookup and two range checks of an interval's size, however wide the domain. Not
    differentiable.
    """
    require_steps(table)
    _require_columns(table, 3, out_fractions)
    return locate_p.bind(x, table=table, in_fraction=in_fraction, out_fractions=out_fractions)


def _require_columns(table: Table, first: int, out_fractions: tuple[int, ...]) -> None:
    if len(out_fractions) != table.width - first:
        raise OptionError(
            f"table {table.name!r} has {table.width - first} columns of values; out_fractions "
            f"names {len(out_fractions)}"
        )


# Tables --------------------------------------------------------------------------------------


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))


def _sigmoid_exact(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp())


def _silu_slope(x: np.ndarray) -> np.ndarray:
    s = _sigmoid(x)
    return s * (1 + x * (1 - s))


def _silu_slope_exact(x: Decimal) -> Decimal:
    s = _sigmoid_exact(x)
    return s * (1 + x * (1 - s))


@cache
def exp_table(in_fraction: int, out_fraction: int = EXP_FRACTION) -> Table:
    """exp(-k 2^-in_fraction) for k < 2^16."""
    functions = [(lambda x: np.exp(-x), lambda x: (-x).exp(), out_fraction)]
    name = f"exp(-x), {in_fraction} to {out_fraction} bits"
    return function_table(name, 0, 1 << 16, in_fraction, functions)


@cache
def silu_table(in_fraction: int, out_fraction: int) -> Table:
    """silu and its derivative on 16-bit signed keys."""
    functions = [
        (lambda x: x * _sigmoid(x), lambda x: x * _sigmoid_exact(x), out_fraction),
        (_silu_slope, _silu_slope_exact, out_fraction),
    ]
    name = f"silu, {in_fraction} to {out_fraction} bits"
    return function_table(name, -(1 << 15), 1 << 16, in_fraction, functions)


@cache
def sigmoid_table(in_fraction: int, out_fraction: int) -> Table:
    """The logistic function and its derivative on 16-bit signed keys."""
    functions = [
        (_sigmoid, _sigmoid_exact, out_fraction),
        (
            lambda x: _sigmoid(x) * _sigmoid(-x),
            lambda x: _sigmoid_exact(x) * _sigmoid_exact(-x),
            out_fraction,
        ),
    ]
    name = f"sigmoid, {in_fraction} to {out_fraction} bits"
    return function_table(name, -(1 << 15), 1 << 16, in_fraction, functions)


@cache
def log_table(in_fraction: int, out_fraction: int) -> Table:
    """The natural logarithm on keys 1 to 2^16 - 1."""
    functions = [(np.log, lambda x: x.ln(), out_fraction)]
    name = f"log, {in_fraction} to {out_fraction} bits"
    return function_table(name, 1, (1 << 16) - 1, in_fraction, functions)


# Elementwise functions ----------------------------------------------------------------------


@checked
def exp(
    x: Array, fraction: TableFraction = 12, out_fraction: TableFraction = EXP_FRACTION
) -> jax.Array:
    """exp(x) for -2^(16 - fraction) < x <= 0 with ``fraction`` fraction bits.

    Within 2^-(out_fraction + 1) of the real function, correctly rounded.

    >>> from zkjax import fixed
    >>> float(fixed.exp(-1.0))
    0.367...
    """
    return _exp(x, fraction, out_fraction)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _exp(x, fraction, out_fraction):
    return lookup(-x, exp_table(fraction, out_fraction), fraction, (out_fraction,))[0]


_exp.defvjp(lambda x, i, o: (_exp(x, i, o),) * 2, lambda i, o, y, ct: (ct * y,))


def _tabulated(table):
    """A differentiable function from a table with columns (key, value, derivative)."""

    @partial(jax.custom_vjp, nondiff_argnums=(1, 2))
    def apply(x, in_fraction, out_fraction):
        return fwd(x, in_fraction, out_fraction)[0]

    def fwd(x, in_fraction, out_fraction):
        fractions = (out_fraction, out_fraction)
        y, slope = lookup(x, table(in_fraction, out_fraction), in_fraction, fractions)
        return y, slope

    apply.defvjp(fwd, lambda i, o, slope, ct: (ct * slope,))
    return apply


_silu = _tabulated(silu_table)
_logistic = _tabulated(sigmoid_table)


@checked
def silu(x: Array, fraction: TableFraction = 12, out_fraction: TableFraction = 12) -> jax.Array:
    """x * sigmoid(x) for -2^(15 - fraction) <= x < 2^(15 - fraction), x with at most ``fraction``
    fraction bits.

    Within 2^-(out_fraction + 1) of the real function, correctly rounded; so is its derivative.

    >>> from zkjax import fixed
    >>> float(fixed.silu(1.0))
    0.73095703125
    """
    return _silu(x, fraction, out_fraction)


@checked
def sigmoid(x: Array, fraction: TableFraction = 12, out_fraction: TableFraction = 14) -> jax.Array:
    """1 / (1 + exp(-x)) for -2^(15 - fraction) <= x < 2^(15 - fraction), x with at most
    ``fraction`` fraction bits.

    Within 2^-(out_fraction + 1) of the real function, correctly rounded; so is its derivative.

    >>> from zkjax import fixed
    >>> float(fixed.sigmoid(0.0))
    0.5
    """
    return _logistic(x, fraction, out_fraction)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _log(x, fraction, out_fraction, cotangent):
    return lookup(x, log_table(fraction, out_fraction), fraction, (out_fraction,))[0]


def _log_bwd(fraction, out_fraction, cotangent, x, ct):
    return (ct * reciprocal(x, cotangent.fraction),)


_log.defvjp(lambda x, i, o, c: (_log(x, i, o, c), x), _log_bwd)


@checked
def log(x: Array, fraction: TableFraction = 8, out_fraction: TableFraction = 16) -> jax.Array:
    """ln x for 0 < x < 2^(16 - fraction), x with at most ``fraction`` fraction bits.

    Within 2^-(out_fraction + 1) of the real function, correctly rounded.

    >>> from zkjax import fixed
    >>> float(fixed.log(2.0))
    0.69314...
    """
    return _log(x, fraction, out_fraction, current_cotangent_format())


# Division and roots -------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _divide(n, d, fraction, bits, cotangent):
    return divide_p.bind(n, d, fraction=fraction, bits=bits)[0]


def _divide_fwd(n, d, fraction, bits, cotangent):
    y = _divide(n, d, fraction, bits, cotangent)
    return y, (y, d)


def _divide_bwd(fraction, bits, cotangent, residuals, ct):
    y, d = residuals
    inverse = _divide(jnp.ones_like(d), d, fraction, bits, cotangent)
    slope = round(ct * inverse, *cotangent, cotangent=cotangent)
    return slope, -round(slope * y, *cotangent, cotangent=cotangent)


_divide.defvjp(_divide_fwd, _divide_bwd)


@checked
def divide(n: Array, d: Array, fraction: Fraction, bits: Bits = 32) -> jax.Array:
    """floor(n / d at ``fraction`` bits) for d > 0; equal shapes or broadcastable.

    Less than 2^-fraction below n / d. The result has to fit ``bits``.

    >>> import numpy as np
    >>> from zkjax import fixed
    >>> print(fixed.divide(np.array([1.0, -1.0]), np.array([3.0, 3.0]), fraction=4))
    [ 0.3125 -0.375 ]
    """
    shape = jnp.broadcast_shapes(jnp.shape(n), jnp.shape(d))
    n, d = jnp.broadcast_to(n, shape), jnp.broadcast_to(d, shape)
    return _divide(n, d, fraction, bits, current_cotangent_format())


@checked
def reciprocal(x: Array, fraction: Fraction, bits: Bits = 32) -> jax.Array:
    """floor(1 / x at ``fraction`` bits) for x > 0.

    >>> from zkjax import fixed
    >>> float(fixed.reciprocal(3.0, fraction=4))
    0.3125
    """
    return divide(jnp.ones_like(x), x, fraction, bits)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _rsqrt(x, fraction, bits, cotangent):
    return rsqrt_p.bind(x, fraction=fraction, bits=bits)[0]


def _rsqrt_bwd(fraction, bits, cotangent, y, ct):
    """-1/2 y^3 ct, rounded after each product."""
    for factor in (1.0, y, y):
        ct = round(ct * factor, *cotangent, cotangent=cotangent)
    return (-0.5 * ct * y,)


_rsqrt.defvjp(lambda x, f, b, c: (_rsqrt(x, f, b, c),) * 2, _rsqrt_bwd)


@checked
def rsqrt(x: Array, fraction: Fraction, bits: Bits = 20) -> jax.Array:
    """floor(1 / sqrt(x) at ``fraction`` bits) for x > 0, below 2^(bits - fraction).

    Less than 2^-fraction below the real function. So x has to exceed 4^(fraction - bits).

    >>> from zkjax import fixed
    >>> float(fixed.rsqrt(4.0, fraction=8))
    0.5
    """
    return _rsqrt(x, fraction, bits, current_cotangent_format())


# Along an axis ------------------------------------------------------------------------------


@checked
def onehot(index: Array, n: Axis) -> jax.Array:
    """[index == j] for j < n on a new last axis; every index must be below n (proved).

    >>> import numpy as np
    >>> from zkjax import fixed
    >>> print(fixed.onehot(np.array([2, 0]), 3))
    [[0. 0. 1.]
     [1. 0. 0.]]
    """
    return onehot_p.bind(jax.lax.stop_gradient(jnp.asarray(index)), n=n)[0]


@checked
def embed(table: Array, index: Array) -> jax.Array:
    """Rows of ``table`` (n, d) at integer indices: onehot(index) @ table.

    >>> import numpy as np
    >>> from zkjax import fixed
    >>> print(fixed.embed(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1, 1, 0])))
    [[3. 4.]
     [3. 4.]
     [1. 2.]]
    """
    table = as_array(table)
    return onehot(index, table.shape[0]) @ table


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max(x, bits):
    return max_p.bind(x, bits=bits)[0]


_max.defvjp(
    lambda x, bits: (_max(x, bits), (x, _max(x, bits))),
    lambda bits, res, ct: (ct[..., None] * (res[0] == res[1][..., None]),),
)


@checked
def max(x: Array, bits: Bits = 16) -> jax.Array:
    """The maximum over the last axis; max - x must stay below 2^bits last-fraction units.

    Ties share the full cotangent, as every maximal entry receives it.

    >>> import numpy as np
    >>> from zkjax import fixed
    >>> print(fixed.max(np.array([[0.5, -1.0], [2.0, 3.0]])))
    [0.5 3. ]
    """
    return _max(as_array(x), bits)
