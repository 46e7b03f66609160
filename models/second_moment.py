"""Adam's second moment in fixed point: a number of 64 bits in two parts, its update and its root.

Squares of gradients lie between 1e-16 and 1e2, and an update moves their average by a thousandth of
itself. Both together take more than the 52 bits of a value, so nu = coarse + fine, of 32 bits each.
In units in which a gradient h has 13 fraction bits and is below 2^15 - 1/2,

    h^2 = p^2 + 2 p q + q^2,  p the nearest integer, |q| <= 1/2
    nu' = nu + c (h^2 - nu),  c = 1 - b2 of 12 bits

and each product is exact in fewer than 52 bits. Only what falls below the last bit of nu is
rounded, upwards: nu is never smaller than the exact average of the same gradients, for which an
update would be too large, and by at most 2^-32 / c larger.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from zkjax import fixed
from zkjax.models.hyperparameters import FACTOR_BITS

GRADIENT = fixed.Format(13, 29)
PART = 32  # bits of each part
COARSE, FINE = 1, 1 + PART  # their fraction bits
ROOT_FRACTION = 22
SMALL = 18  # bits of a coarse part with which the fine one counts in the root


class Wide(NamedTuple):
    """A number in two parts: values, or the int32 in which they are stored."""

    coarse: Any
    fine: Any


def zeros(shape: tuple[int, ...]) -> Wide:
    """0 as it is stored."""
    return Wide(np.zeros(shape, np.int32), np.zeros(shape, np.int32))


def load(stored: Wide) -> Wide:
    """The values of two stored parts."""
    return Wide(fixed.decode(stored.coarse, COARSE), fixed.decode(stored.fine, FINE))


def store(nu: Wide) -> Wide:
    """The values of two parts as int32."""
    return Wide(fixed.encode(nu.coarse, COARSE), fixed.encode(nu.fine, FINE))


def _ceil(x, fraction: int, bits: int):
    """The next multiple of 2^-fraction that is not below x."""
    return -fixed.round_value(-x - 2.0 ** -(fraction + 1), fraction, bits)


def decayed_square(nu: Wide, h, c: float) -> Wide:
    """nu + c (h^2 - nu), c a dyadic number of 12 bits below 1; h as in ``GRADIENT``."""
    exponent = int(np.frexp(c)[1])  # c < 2^exponent
    p = fixed.round_value(h, 0, 16, site="optimizer.gradient")
    q = fixed.round_value(h - p, GRADIENT.fraction, GRADIENT.fraction + 1)  # says how small it is
    # Of the coarse part: p^2 and nu are at most 2^30.
    change = c * (p * p - nu.coarse)
    whole = fixed.round_value(change, COARSE, PART + 1 + exponent)
    # Of the fine one: 2 p q is at most 2^15, q^2 and what is left of nu at most 1/4.
    cross, rest = 2.0 * c * (p * q), c * (q * q - nu.fine)
    if FACTOR_BITS - exponent + GRADIENT.fraction - 1 > FINE:
        cross = _ceil(cross, FINE, FINE + 17 + exponent)
    rest = _ceil(rest, FINE, FINE + 1 + exponent)
    below = nu.fine + (change - whole) + cross + rest
    carry = fixed.round_value(below, COARSE, COARSE + 3 + max(0, 15 + exponent))
    return Wide(nu.coarse + whole + carry, below - carry)


def root(nu: Wide):
    """sqrt(nu) with 22 fraction bits, within 2^-11 of it and half a unit."""
    large = nu.coarse >= 2.0 ** (SMALL - COARSE)
    rest = fixed.round_value(jnp.where(large, 0.0, nu.coarse), COARSE, SMALL + 1)
    rest = rest + jnp.where(large, 0.0, nu.fine)
    of_large = fixed.sqrt(jnp.where(large, nu.coarse, 0.0), COARSE, ROOT_FRACTION, PART - 1)
    return of_large + fixed.sqrt(rest, FINE, ROOT_FRACTION, SMALL + PART + 1)
