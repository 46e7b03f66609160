"""Advice: what the prover commits to, with its honest hints."""

from __future__ import annotations

import numpy as np

from zkjax.program.ops.rule import (
    RULES,
    Op,
    Rule,
    Shape,
    is_integer,
    parameters,
    require,
    rule,
    shape_rule,
)

MAX_BITS = 62


@rule("round", "advice")
def _round(op: Op, z):
    """floor((z + 2^(s-1)) / 2^s); params (s,)."""
    return np.floor(z * 2.0 ** -op.params[0] + 0.5)


@shape_rule("round")
def _round_shape(op: Op, z: Shape) -> Shape:
    (s,) = parameters(op, 1)
    require(is_integer(s, 1, MAX_BITS), "the number of bits to drop")
    return z


@rule("limb", "advice")
def _limb(op: Op, v):
    """Bits [shift, shift + width) of a non-negative value; params (shift, width)."""
    shift, width = op.params
    high = np.floor(v * 2.0**-shift)
    return high - np.floor(high * 2.0**-width) * 2.0**width


@shape_rule("limb")
def _limb_shape(op: Op, v: Shape) -> Shape:
    shift, width = parameters(op, 2)
    require(is_integer(shift, 0, MAX_BITS), "the first bit of a limb")
    require(is_integer(width, 1, MAX_BITS), "the width of a limb")
    return v


@rule("lookup", "advice")
def _lookup(op: Op, x, *, tables):
    """A column of a table at key x; params (table, column)."""
    table = tables[op.params[0]]
    index = np.clip(x - table.columns[0][0], 0, table.rows - 1).astype(np.int64)
    return table.columns[op.params[1]][index].astype(np.float64)


@shape_rule("lookup")
def _lookup_shape(op: Op, x: Shape) -> Shape:
    """That there is such a column of such a table is for the program to check."""
    table, column = parameters(op, 2)
    require(is_integer(table, 0, 2**31) and is_integer(column, 1, 2**31), "a table's column")
    return x


@rule("locate", "advice")
def _locate(op: Op, x, *, tables):
    """The row of a table of consecutive intervals that holds x; params (table,). Columns: row
    number, first and last value of the interval, and others.
    """
    rows, first, *_ = tables[op.params[0]].columns
    row = np.searchsorted(first, x, side="right") - 1
    return (np.clip(row, 0, len(rows) - 1) + rows[0]).astype(np.float64)


@shape_rule("locate")
def _locate_shape(op: Op, x: Shape) -> Shape:
    """That there is such a table is for the program to check."""
    (table,) = parameters(op, 1)
    require(is_integer(table, 0, 2**31), "a table")
    return x


@rule("divide", "advice")
def _divide(op: Op, numerator, denominator):
    """floor(n / d) for d > 0 (0 where d is not positive, which the relations then reject)."""
    safe = np.where(denominator > 0, denominator, 1.0)
    q = np.floor(numerator / safe)
    q = np.where(q * safe > numerator, q - 1, q)
    q = np.where((q + 1) * safe <= numerator, q + 1, q)
    return np.where(denominator > 0, q, 0.0)


@shape_rule("divide", operands=2)
def _divide_shape(op: Op, numerator: Shape, denominator: Shape) -> Shape:
    parameters(op, 0)
    require(numerator == denominator, "numerator and denominator of different shapes")
    return numerator


@rule("rsqrt", "advice")
def _rsqrt(op: Op, x):
    """The largest y >= 0 with x y^2 <= 2^k; params (k,)."""
    target = 2.0 ** op.params[0]
    safe = np.where(x > 0, x, 1.0)
    y = np.floor(np.sqrt(target / safe))
    y = np.where(safe * y * y > target, y - 1, y)
    y = np.where(safe * (y + 1) * (y + 1) <= target, y + 1, y)
    return np.where(x > 0, y, 0.0)


@shape_rule("rsqrt")
def _rsqrt_shape(op: Op, x: Shape) -> Shape:
    (k,) = parameters(op, 1)
    require(is_integer(k, 0, MAX_BITS), "the scale of an inverse root")
    return x


@rule("max", "advice")
def _max(op: Op, x):
    """Maximum over the last axis."""
    return np.max(x, axis=-1)


@shape_rule("max")
def _max_shape(op: Op, x: Shape) -> Shape:
    parameters(op, 0)
    require(len(x) >= 1, "the maximum of a scalar")
    return x[:-1]


@rule("argmax_bit", "advice")
def _argmax_bit(op: Op, x):
    """Bit params[0] of the first index at which the last axis is largest."""
    return ((np.argmax(x, axis=-1) >> op.params[0]) & 1).astype(np.float64)


@shape_rule("argmax_bit")
def _argmax_bit_shape(op: Op, x: Shape) -> Shape:
    (bit,) = parameters(op, 1)
    require(len(x) >= 1 and is_integer(bit, 0, MAX_BITS), "the bit of an index")
    return x[:-1]


@rule("nonnegative", "advice")
def _nonnegative(op: Op, x):
    """1 where x >= 0, else 0."""
    return (x >= 0).astype(np.float64)


@shape_rule("nonnegative")
def _nonnegative_shape(op: Op, x: Shape) -> Shape:
    parameters(op, 0)
    return x


# A scan's carry-out; its values come from running the scan, because they depend on themselves.
RULES["carry"] = Rule("advice")


@shape_rule("carry", operands=0)
def _carry_shape(op: Op) -> Shape:
    """Any with an axis for the steps; params (number of the carry,)."""
    (number,) = parameters(op, 1)
    require(len(op.shape) >= 1 and is_integer(number, 0, 2**31), "the number of a carry")
    return op.shape
