"""Nonlinear functions: table lookups, division, rsqrt, max, softmax, onehot, cross-entropy.

Derivatives are products with exact or tabulated factors; they are rounded where they pass the
``round`` that made the argument.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from zkjax.errors import OptionError
from zkjax.fixed.primitives import divide_p, lookup_p, max_p, onehot_p, rsqrt_p
from zkjax.fixed.rounding import current_cotangent_format, round
from zkjax.program.tables import Table, function_table

EXP_FRACTION = 13
MOST_PROBABILITIES = 1 << 12  # entries of a softmax: each adds 2^-14 to the error of their sum
MOST_CLASSES = 1 << 10  # of a cross-entropy, whose loss has that error


def lookup(x, table: Table, in_fraction: int, out_fractions: tuple[int, ...]):
    """Columns of a public table at key x 2^in_fraction, as values with the given fraction bits.

    Not differentiable; wrap it in ``jax.custom_vjp`` with a column that holds the derivative.
    """
    return lookup_p.bind(x, table=table, in_fraction=in_fraction, out_fractions=out_fractions)


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
def exp_table(in_fraction: int) -> Table:
    """exp(-k 2^-in_fraction) for k < 2^16, 13 fraction bits."""
    functions = [(lambda x: np.exp(-x), lambda x: (-x).exp(), EXP_FRACTION)]
    return function_table(f"exp(-x), {in_fraction} bits", 0, 1 << 16, in_fraction, functions)


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


def exp(x, fraction: int = 12):
    """exp(x) for -2^(16 - fraction) < x <= 0 with ``fraction`` fraction bits; result has 13.

    Within 2^-14 of the real function, correctly rounded.
    """
    return _exp(x, fraction)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _exp(x, fraction):
    return lookup(-x, exp_table(fraction), fraction, (EXP_FRACTION,))[0]


_exp.defvjp(lambda x, f: (_exp(x, f),) * 2, lambda f, y, ct: (ct * y,))


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


def silu(x, fraction: int = 12, out_fraction: int = 12):
    """x * sigmoid(x) for -2^(15 - fraction) <= x < 2^(15 - fraction), x with at most ``fraction``
    fraction bits.

    Within 2^-(out_fraction + 1) of the real function, correctly rounded; so is its derivative.
    """
    return _silu(x, fraction, out_fraction)


def sigmoid(x, fraction: int = 12, out_fraction: int = 14):
    """1 / (1 + exp(-x)) for -2^(15 - fraction) <= x < 2^(15 - fraction), x with at most
    ``fraction`` fraction bits.

    Within 2^-(out_fraction + 1) of the real function, correctly rounded; so is its derivative.
    """
    return _logistic(x, fraction, out_fraction)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _log(x, fraction, out_fraction, cotangent):
    return lookup(x, log_table(fraction, out_fraction), fraction, (out_fraction,))[0]


def _log_bwd(fraction, out_fraction, cotangent, x, ct):
    return (ct * reciprocal(x, cotangent.fraction),)


_log.defvjp(lambda x, i, o, c: (_log(x, i, o, c), x), _log_bwd)


def log(x, fraction: int = 8, out_fraction: int = 16):
    """ln x for 0 < x < 2^(16 - fraction), x with at most ``fraction`` fraction bits.

    Within 2^-(out_fraction + 1) of the real function, correctly rounded.
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


def divide(n, d, fraction: int, bits: int = 32):
    """floor(n / d at ``fraction`` bits) for d > 0; equal shapes or broadcastable.

    Less than 2^-fraction below n / d. The result has to fit ``bits``.
    """
    shape = jnp.broadcast_shapes(jnp.shape(n), jnp.shape(d))
    n, d = jnp.broadcast_to(n, shape), jnp.broadcast_to(d, shape)
    return _divide(n, d, fraction, bits, current_cotangent_format())


def reciprocal(x, fraction: int, bits: int = 32):
    """floor(1 / x at ``fraction`` bits) for x > 0."""
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


def rsqrt(x, fraction: int, bits: int = 20):
    """floor(1 / sqrt(x) at ``fraction`` bits) for x > 0, below 2^(bits - fraction).

    Less than 2^-fraction below the real function. So x has to exceed 4^(fraction - bits).
    """
    return _rsqrt(x, fraction, bits, current_cotangent_format())


# Along an axis ------------------------------------------------------------------------------


def onehot(index, n: int):
    """[index == j] for j < n on a new last axis; every index must be below n (proved)."""
    return onehot_p.bind(jax.lax.stop_gradient(jnp.asarray(index)), n=n)[0]


def embed(table, index):
    """Rows of ``table`` (n, d) at integer indices: onehot(index) @ table."""
    return onehot(index, table.shape[0]) @ table


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max(x, bits):
    return max_p.bind(x, bits=bits)[0]


_max.defvjp(
    lambda x, bits: (_max(x, bits), (x, _max(x, bits))),
    lambda bits, res, ct: (ct[..., None] * (res[0] == res[1][..., None]),),
)


def max(x, bits: int = 16):
    """The maximum over the last axis; max - x must stay below 2^bits last-fraction units.

    Ties share the full cotangent, as every maximal entry receives it.
    """
    return _max(x, bits)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _softmax(x, mask, fraction, out_fraction, cotangent):
    return _softmax_parts(x, mask, fraction, out_fraction)[0]


def _require_at_most(most: int, count: int, what: str) -> None:
    if count > most:
        raise OptionError(
            f"{what} over {count:,} entries; it is within its error for at most {most:,}"
        )


def _softmax_parts(x, mask, fraction, out_fraction):
    _require_at_most(MOST_PROBABILITIES, x.shape[-1], "softmax")
    m = max_p.bind(x, bits=16)[0]
    e = exp(x - m[..., None], fraction)
    if mask is not None:
        e = jnp.where(mask, e, 0.0)
    s = jnp.sum(e, axis=-1)
    # At least 9 exact bits of 1 / s for the flattest distribution, more for peaked ones; with at
    # most 256 entries the product then drops 16 bits, so its remainder costs one lookup.
    flattest = int(np.ceil(np.log2(x.shape[-1])))
    precise = int(np.maximum(16 + out_fraction - EXP_FRACTION, flattest + 9))
    inverse = reciprocal(s, precise, precise + 2)
    return round(e * inverse[..., None], out_fraction, 16), m, s


def _softmax_fwd(x, mask, fraction, out_fraction, cotangent):
    p = _softmax(x, mask, fraction, out_fraction, cotangent)
    return p, p


def _softmax_bwd(fraction, out_fraction, cotangent, p, ct):
    """p (ct - <p, ct>)."""
    ct = round(ct, *cotangent, cotangent=cotangent)
    total = jnp.sum(p * ct, axis=-1, keepdims=True)
    mean = round(total, *cotangent, cotangent=cotangent)
    return p * (ct - mean), None


_softmax.defvjp(_softmax_fwd, _softmax_bwd)


def softmax(x, mask=None, fraction: int = 12, out_fraction: int = 14):
    """Softmax over the last axis of n <= 4,096; x has at most ``fraction`` bits and spans less than
    2^(16 - fraction).

    Each result is within n 2^-14 + 2^-out_fraction of the real function: every exponential is
    rounded to 13 bits, and their sum is at least 1.

    Args:
      mask: constant booleans, broadcast against x; False entries get probability zero. Their x
        should be the lowest value of the range, so that they do not become the maximum.
    """
    return _softmax(x, mask, fraction, out_fraction, current_cotangent_format())


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cross_entropy(logits, target, fraction):
    return _cross_entropy_fwd(logits, target, fraction)[0]


def _cross_entropy_fwd(logits, target, fraction):
    _require_at_most(MOST_CLASSES, logits.shape[-1], "cross-entropy")
    p, m, s = _softmax_parts(logits, None, fraction, 14)
    hit = onehot(target, logits.shape[-1])
    chosen = jnp.sum(hit * logits, axis=-1)
    bits = int(np.ceil(np.log2(logits.shape[-1])))
    log_sum = log(round(s, 15 - bits, 17), 15 - bits, 16)
    return log_sum + m - chosen, (p, hit)


def _cross_entropy_bwd(fraction, residuals, ct):
    p, hit = residuals
    return ct[..., None] * (p - hit), None


_cross_entropy.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)


def cross_entropy(logits, target, fraction: int = 12):
    """-log softmax(logits)[target] over the last axis of n <= 1,024 classes, 16 fraction bits.

    Within n 2^-13 + 2^-16 of the real function: the sum of exponentials of 13 bits is rounded to
    15 - log2(n) bits before its logarithm is taken. The gradient is softmax(logits) -
    onehot(target), from the same softmax.
    """
    return _cross_entropy(logits, target, fraction)
