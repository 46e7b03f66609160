"""The square root over many octaves, as a step function (``fixed.locate``) of its argument.

A row of the table holds for an interval of 2^-STEP of its own length, so the relative error is the
same for the largest argument and the smallest: rsqrt, which is exact, has 50 bits for its square.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from typing import Annotated

import jax
import numpy as np

from zkjax._arguments import checked
from zkjax._marks import Between
from zkjax.errors import OptionError
from zkjax.fixed.functions import locate
from zkjax.fixed.types import Array, Fraction, TableFraction
from zkjax.program.tables import Table, round_exactly, step_table

STEP = 9  # bits of the argument that a row of the table resolves
MOST_BITS = 52


def geometric_steps(step: int, bits: int) -> np.ndarray:
    """The first integers of intervals that cover [0, 2^bits): single ones below 2^step, then 2^step
    in every octave.
    """
    within = (1 << step) + np.arange(1 << step, dtype=np.int64)
    dense = np.arange(1 << min(step, bits), dtype=np.int64)
    return np.concatenate([dense, *(within << k for k in range(bits - step))])


@cache
def sqrt_table(in_fraction: int, out_fraction: int, bits: int) -> Table:
    """sqrt(k 2^-in_fraction) for 0 <= k < 2^bits, at the middle of each row's interval."""
    firsts = geometric_steps(STEP, bits)
    lasts = np.append(firsts[1:] - 1, (1 << bits) - 1)

    def exact(i: int) -> Decimal:
        middle = Decimal(int(firsts[i]) + int(lasts[i])) / 2
        return (middle / Decimal(2) ** in_fraction).sqrt() * Decimal(2) ** out_fraction

    name = f"square root of {bits} bits, {in_fraction} to {out_fraction} bits"
    near = np.sqrt((firsts + lasts) * 0.5 * 2.0**-in_fraction) * 2.0**out_fraction
    if near[-1] >= 2.0**46:
        raise OptionError(
            f"a square root of {bits} bits with {in_fraction} fraction bits has more than 46 bits "
            f"if it has {out_fraction} fraction bits; lower out_fraction or bits"
        )
    return step_table(name, firsts, int(lasts[-1]), round_exactly(near, exact, name))


@checked
def sqrt(
    x: Array,
    fraction: Fraction = 24,
    out_fraction: TableFraction = 16,
    bits: Annotated[int, Between(1, MOST_BITS)] = MOST_BITS,
) -> jax.Array:
    """sqrt(x) for 0 <= x < 2^(bits - fraction), x with at most ``fraction`` fraction bits.

    Within 2^-11 of it, relatively, plus 2^-(out_fraction + 1); the root of 0 is 0. One lookup in a
    table of 2^9 rows an octave, and two range checks of bits - 10 bits. Not differentiable;
    ``rsqrt`` is.

    >>> from zkjax import fixed
    >>> float(fixed.sqrt(2.0))
    1.414...
    """
    return locate(x, sqrt_table(fraction, out_fraction, bits), fraction, (out_fraction,))[0]
