"""Advice: what the prover commits to, with its honest hints."""

from __future__ import annotations

import numpy as np

from zkjax.program.ops.rule import RULES, Op, Rule, rule


@rule("round", "advice")
def _round(op: Op, z):
    """floor((z + 2^(s-1)) / 2^s); params (s,)."""
    return np.floor(z * 2.0 ** -op.params[0] + 0.5)


@rule("limb", "advice")
def _limb(op: Op, v):
    """Bits [shift, shift + width) of a non-negative value; params (shift, width)."""
    shift, width = op.params
    high = np.floor(v * 2.0**-shift)
    return high - np.floor(high * 2.0**-width) * 2.0**width


@rule("lookup", "advice")
def _lookup(op: Op, x, *, tables):
    """A column of a table at key x; params (table, column)."""
    table = tables[op.params[0]]
    index = np.clip(x - table.columns[0][0], 0, table.rows - 1).astype(np.int64)
    return table.columns[op.params[1]][index].astype(np.float64)


@rule("divide", "advice")
def _divide(op: Op, numerator, denominator):
    """floor(n / d) for d > 0 (0 where d is not positive, which the relations then reject)."""
    safe = np.where(denominator > 0, denominator, 1.0)
    q = np.floor(numerator / safe)
    q = np.where(q * safe > numerator, q - 1, q)
    q = np.where((q + 1) * safe <= numerator, q + 1, q)
    return np.where(denominator > 0, q, 0.0)


@rule("rsqrt", "advice")
def _rsqrt(op: Op, x):
    """The largest y >= 0 with x y^2 <= 2^k; params (k,)."""
    target = 2.0 ** op.params[0]
    safe = np.where(x > 0, x, 1.0)
    y = np.floor(np.sqrt(target / safe))
    y = np.where(safe * y * y > target, y - 1, y)
    y = np.where(safe * (y + 1) * (y + 1) <= target, y + 1, y)
    return np.where(x > 0, y, 0.0)


@rule("max", "advice")
def _max(op: Op, x):
    """Maximum over the last axis."""
    return np.max(x, axis=-1)


@rule("argmax_bit", "advice")
def _argmax_bit(op: Op, x):
    """Bit params[0] of the first index at which the last axis is largest."""
    return ((np.argmax(x, axis=-1) >> op.params[0]) & 1).astype(np.float64)


@rule("nonnegative", "advice")
def _nonnegative(op: Op, x):
    """1 where x >= 0, else 0."""
    return (x >= 0).astype(np.float64)


# A scan's carry-out; its values come from running the scan, because they depend on themselves.
RULES["carry"] = Rule("advice")
