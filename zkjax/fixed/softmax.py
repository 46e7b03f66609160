"""Softmax and cross-entropy over any number of entries, from one table of exponentials.

With m the maximum and s = sum_j exp(x_j - m), an entry is p_j = exp(-(L - x_j)), L = m + ln s: the
same table once more, at a key that lies on the grid of x because ln s is rounded to it. So an entry
costs two lookups and no rounding, and its error does not grow with the number of entries:

    relative error of the exponentials' sum   n 2^-(F + 1) <= 2^-11, with F of ``SUMS``
    rounding of ln s to the grid              exp(2^-(fraction + 1)) - 1

ln s is found as a step function of s (``fixed.locate``): row i holds where exp((i - 1/2) 2^-f) <= s
< exp((i + 1/2) 2^-f).
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from zkjax._arguments import checked
from zkjax.errors import OptionError
from zkjax.fixed.functions import exp, locate, onehot
from zkjax.fixed.primitives import max_p
from zkjax.fixed.rounding import current_cotangent_format, round
from zkjax.fixed.types import Array, TableFraction
from zkjax.program.tables import Table, round_exactly, step_table

MOST_ENTRIES = 1 << 17
# Up to so many entries, fraction bits F of exponentials that are added: a sum is within 2^-11. Few
# steps, so that rows of similar lengths (tiles of one score matrix) are rounded alike.
SUMS = ((1 << 6, 16), (1 << 14, 24), (MOST_ENTRIES, 28))
LOSS_FRACTION = 12  # of ln s in a cross-entropy, at least


def _log2(n: int) -> int:
    return (n - 1).bit_length()


def _exp_fraction(n: int) -> int:
    if n > MOST_ENTRIES:
        raise OptionError(f"softmax over {n:,} entries; it is defined for {MOST_ENTRIES:,} at most")
    return next(fraction for most, fraction in SUMS if n <= most)


@cache
def log_steps(log_n: int, in_fraction: int, fraction: int) -> Table:
    """ln s, rounded to ``fraction`` bits, for 1 <= s <= 2^log_n with ``in_fraction`` bits."""
    count = int(np.ceil(log_n * np.log(2) * 2.0**fraction)) + 1
    steps = np.arange(count)

    def boundary(i: int) -> Decimal:
        return (Decimal(2 * i - 1) / Decimal(2 ** (fraction + 1))).exp() * Decimal(2**in_fraction)

    name = f"ln s up to 2^{log_n}, {in_fraction} to {fraction} bits"
    near = np.exp((steps - 0.5) * 2.0**-fraction) * 2.0**in_fraction
    firsts = np.maximum(round_exactly(near, boundary, name), 1 << in_fraction)
    firsts, rows = np.unique(firsts, return_index=True)
    last = 1 << (in_fraction + log_n)
    inside = firsts <= last
    return step_table(name, firsts[inside], last, steps[rows[inside]])


def _log_sum(s, n: int, in_fraction: int, fraction: int):
    return locate(s, log_steps(_log2(n), in_fraction, fraction), in_fraction, (fraction,))[0]


def _require_domain(fraction: int) -> None:
    if fraction > 16:
        raise OptionError(
            f"softmax of values with {fraction} fraction bits has no domain: 16 bits hold their "
            "differences; round to at most 16 fraction bits"
        )


def _sum_of_exp(x, mask, fraction: int):
    """(the maximum m, sum_j exp(x_j - m) with ``_exp_fraction`` bits) over the last axis."""
    bits = _exp_fraction(x.shape[-1])
    m = max_p.bind(x, bits=16)[0]
    e = exp(x - m[..., None], fraction, bits)
    return m, jnp.sum(e if mask is None else jnp.where(mask, e, 0.0), axis=-1)


def _at_level(x, level, mask, fraction: int, out_fraction: int):
    """exp(x_j - level), zero where masked."""
    below = x - level[..., None]
    if mask is None:
        return exp(below, fraction, out_fraction)
    return jnp.where(mask, exp(jnp.where(mask, below, 0.0), fraction, out_fraction), 0.0)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _softmax(x, mask, fraction, out_fraction, cotangent):
    n = x.shape[-1]
    m, s = _sum_of_exp(x, mask, fraction)
    level = m + _log_sum(s, n, _exp_fraction(n), fraction)
    return _at_level(x, level, mask, fraction, out_fraction)


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


@checked
def softmax(
    x: Array,
    mask: Array | None = None,
    fraction: TableFraction = 12,
    out_fraction: TableFraction = 16,
) -> jax.Array:
    """Softmax over the last axis of n <= 2^17 entries; x has at most ``fraction`` bits, and
    max(x) - min(x) + ln n stays below 2^(16 - fraction).

    Each result p is within p (exp(2^-(fraction + 1)) - 1 + 2^-10) + 2^-(out_fraction + 1) of the
    real function, whatever n. ``fraction`` is at most 16: beyond, nothing is in the domain.

    Args:
      mask: constant booleans, broadcast against x; False entries get probability zero. Their x
        should be the lowest value of the range, so that they do not become the maximum.
    """
    _require_domain(fraction)
    return _softmax(x, mask, fraction, out_fraction, current_cotangent_format())


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cross_entropy(logits, target, fraction):
    return _cross_entropy_fwd(logits, target, fraction)[0]


def _cross_entropy_fwd(logits, target, fraction):
    n = logits.shape[-1]
    bits, fine = _exp_fraction(n), int(np.maximum(fraction, LOSS_FRACTION))
    m, s = _sum_of_exp(logits, None, fraction)
    log_sum = _log_sum(s, n, bits, fine)
    coarse = log_sum if fine == fraction else round(log_sum, fraction, 16)
    p = _at_level(logits, m + coarse, None, fraction, bits)
    hit = onehot(target, n)
    chosen = jnp.sum(hit * logits, axis=-1)
    return log_sum + m - chosen, (p, hit)


def _cross_entropy_bwd(fraction, residuals, ct):
    p, hit = residuals
    return ct[..., None] * (p - hit), None


_cross_entropy.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)


@checked
def cross_entropy(logits: Array, target: Array, fraction: TableFraction = 12) -> jax.Array:
    """-log softmax(logits)[target] over the last axis of n <= 2^17 classes; logits as for
    ``softmax``. The result has max(fraction, 12) fraction bits.

    Within 2^-11 + 2^-13 of the real function, whatever n. The gradient is softmax(logits) -
    onehot(target), with the error of ``softmax``.
    """
    _require_domain(fraction)
    return _cross_entropy(logits, target, fraction)
