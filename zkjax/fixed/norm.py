"""The inverse root mean square over an axis, and x times it, for means of any size.

1 / sqrt(mean(x^2) + eps) is a step function (``fixed.locate``) of the exact sum of squares: its
steps are 2^-10 of the argument, so it is within 2^-12 of itself from the smallest sum to the
largest, and neither 1 / size nor eps is rounded.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from zkjax._arguments import checked
from zkjax.errors import OptionError
from zkjax.fixed.functions import locate
from zkjax.fixed.rounding import Format, current_cotangent_format, round_value
from zkjax.fixed.rounding import scale as scale_by
from zkjax.fixed.types import Array, Fraction, as_array
from zkjax.program.tables import Table, round_exactly, step_table

STEP = 10  # bits of the argument that a row of the table resolves
LARGEST = 1 << 52  # sum of squares, in units
FINER = 4  # bits more of the mean that a backward pass subtracts, of which there are few
NARROW = 16  # bits of a cotangent whose products with weights and values need no rounding


@cache
def inverse_rms_table(size: int, in_fraction: int, eps: float, form: Format) -> Table:
    """1 / sqrt(S 2^-in_fraction / size + eps) for S <= 2^52, where it fits the format's bits: the
    value at the middle of each row's interval.
    """
    fraction, bits = form
    if not 0 <= eps < np.inf:
        raise OptionError(f"eps = {eps!r}; it is a number that is not negative")
    dense = np.arange(0 if eps > 0 else 1, 1 << STEP, dtype=np.int64)
    octaves = LARGEST.bit_length() - 1 - STEP
    within = (1 << STEP) + np.arange(1 << STEP, dtype=np.int64)
    firsts = np.concatenate([dense, *(within << k for k in range(octaves))])
    least = size * (4.0 ** (fraction - bits) - eps) * 2.0**in_fraction  # of sums that fit
    firsts = firsts[np.searchsorted(firsts, least) :]
    if not len(firsts):
        raise OptionError(
            f"an inverse rms of {bits} bits with {fraction} fraction bits holds nothing"
        )
    lasts = np.append(firsts[1:] - 1, LARGEST)

    def exact(i: int) -> Decimal:
        middle = (Decimal(int(firsts[i])) + Decimal(int(lasts[i]))) / 2
        mean = middle / Decimal(2**in_fraction) / size + Decimal(eps)
        return Decimal(2**fraction) / mean.sqrt()

    name = f"inverse rms of {size}, eps {eps:g}, {in_fraction} to {fraction} bits"
    mean = (firsts + lasts) * 0.5 * 2.0**-in_fraction / size + eps
    values = round_exactly(2.0**fraction / np.sqrt(mean), exact, name)
    return step_table(name, firsts, LARGEST, values)


@checked
def inverse_rms(x: Array, in_fraction: Fraction, eps: float, form: Format) -> jax.Array:
    """1 / sqrt(mean(x^2) + eps) over the last axis, kept with size 1; x has at most ``in_fraction``
    fraction bits.

    Within 2^-12 of it, relatively, plus 2^-(fraction + 1), for a sum of squares of at most 2^(52 -
    2 in_fraction) and a result below 2^(bits - fraction) by a step of the table, 2^-10 of the sum.
    Not differentiable; ``rms_normalize`` is.
    """
    x = as_array(x)
    table = inverse_rms_table(x.shape[-1], 2 * in_fraction, float(eps), Format(*form))
    total = jnp.sum(x * x, axis=-1, keepdims=True)
    return locate(total, table, 2 * in_fraction, (form[0],))[0]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5, 6))
def _normalize(x, statistic, eps, inverse, out, cotangent, site):
    return _normalize_fwd(x, statistic, eps, inverse, out, cotangent, site)[0]


def _normalize_fwd(x, statistic, eps, inverse, out, cotangent, site):
    squared = round_value(x, *statistic, site=site and f"{site}.statistic")
    scale = inverse_rms(squared, statistic.fraction, eps, inverse)
    y = round_value(x * scale, *out, site=site)
    return y, (y, scale)


def _normalize_bwd(statistic, eps, inverse, out, cotangent, site, residuals, ct):
    """scale (ct - y mean(ct y)), the difference rounded to the cotangent format."""
    y, scale = residuals
    site = f"{site} (backward)" if site else ""
    if cotangent.bits > NARROW:
        ct = round_value(ct, *cotangent, site=site)
    fine = cotangent.fraction + FINER, cotangent.bits + FINER
    mean = scale_by(jnp.sum(ct * y, axis=-1, keepdims=True), 1 / y.shape[-1], *fine, site=site)
    return (round_value(ct - y * mean, *cotangent, site=site) * scale,)


_normalize.defvjp(_normalize_fwd, _normalize_bwd)


@checked
def rms_normalize(
    x: Array,
    eps: float,
    statistic: Format,
    inverse: Format,
    out: Format,
    cotangent: Format | None = None,
    site: str = "",
) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) over the last axis, rounded to ``out``.

    Args:
      statistic: the format in which x is squared; a coarse one lets many wide values be added.
      inverse: the format of the inverse root mean square, which is positive.
      cotangent: what the backward pass rounds to (default: ``cotangent_format``). One of at most 16
        bits is rounded to once: what enters the backward pass should be a value of that size times
        one of 16 bits at most. A wider one is rounded to where it enters too.
      site: a name for this place, for messages.
    Returns:
      Values within 2^-12 of the real ones, relatively, plus |x| 2^-(inverse.fraction + 1), the
      rounding to ``out``, and what rounding x to ``statistic`` changes in the mean square.
    """
    form = cotangent or current_cotangent_format()
    forms = Format(*statistic), float(eps), Format(*inverse), Format(*out), Format(*form)
    return _normalize(x, *forms, site)
