"""The operations of a statement: shape, exact evaluation, and how a claim on the output reduces.

A variable is an integer tensor. Operations fall in three classes:

- ``linear``: an affine map, rank-one functionals go to rank-one functionals (``pull``);
- ``product``: multiply, contract, onehot; reduced by a sumcheck in ``products``;
- ``advice``: committed by the prover; ``evaluate`` is the honest hint. Its uniqueness comes from
  the relations the tracer adds beside it.

A functional on a variable is a tuple of vectors, one (kappa, length) array an axis, over *logical*
coordinates only: padding has no weight anywhere. ``pull`` returns (operand, weights, coefficient);
operand None is the constant 1.

Values are float64 arrays of exact integers below 2^53; the claims live in the field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from zkjax.field import dense
from zkjax.field import extension as ext
from zkjax.field import goldilocks as gl
from zkjax.field.scalar import Scalar

Shape = tuple[int, ...]
Weights = tuple[np.ndarray, ...]
Pulled = list[tuple[int | None, Weights, Scalar]]


@dataclass(frozen=True)
class Op:
    """One instruction. ``inputs`` are variable numbers; ``params`` holds integers, strings,
    tuples.
    """

    kind: str
    inputs: tuple[int, ...]
    shape: Shape
    params: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Rule:
    """What the system knows of one kind of operation."""

    cls: str  # "input", "linear", "product" or "advice"
    evaluate: Callable[..., np.ndarray] | None = None
    pull: Callable[..., Pulled] | None = None


RULES: dict[str, Rule] = {}


def rule(kind: str, cls: str, pull=None):
    """Register the evaluation that follows (and the pull-back) of an operation."""

    def register(evaluate):
        RULES[kind] = Rule(cls, evaluate, pull)
        return evaluate

    return register


def total(w: np.ndarray) -> Scalar:
    """The sum of a weight vector."""
    return Scalar.from_array(ext.sum_mod(w))


def ones(n: int, kappa: int) -> np.ndarray:
    w = np.zeros((kappa, n), dtype=np.uint64)
    w[0] = 1
    return w


RULES["input"] = Rule("input")
RULES["constant"] = Rule("input")


# Linear --------------------------------------------------------------------------------------


def _affine_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    pulled: Pulled = [(i, w, one * c) for i, c in enumerate(op.params[0])]
    if op.params[1]:
        mass = one * op.params[1]
        for v in w:
            mass = mass * total(v)
        pulled.append((None, (), mass))
    return pulled


@rule("affine", "linear", _affine_pull)
def _affine(op: Op, *xs):
    """sum_i c_i x_i + offset; params (coefficients, offset)."""
    coefficients, offset = op.params
    result = xs[0] if coefficients[0] == 1 else xs[0] * float(coefficients[0])
    for x, c in zip(xs[1:], coefficients[1:], strict=True):
        if c == 1:
            result = result + x
        elif c == -1:
            result = result - x
        else:
            result = result + x * float(c)
    return result + float(offset) if offset else result


@rule("alias", "linear", lambda op, w, one: [(0, w, one)])
def _alias(op: Op, x):
    """The operand itself."""
    return x


def _transpose_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    inside = [w[0]] * len(w)
    for out_axis, in_axis in enumerate(op.params[0]):
        inside[in_axis] = w[out_axis]
    return [(0, tuple(inside), one)]


@rule("transpose", "linear", _transpose_pull)
def _transpose(op: Op, x):
    return np.transpose(x, op.params[0])


def _broadcast_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    """params (dims, operand shape): operand axis i is output axis dims[i], perhaps stretched from
    1.
    """
    dims, in_shape = op.params
    coefficient, inside = one, []
    for axis in range(len(op.shape)):
        if axis not in dims:
            coefficient = coefficient * total(w[axis])
    for i, axis in enumerate(dims):
        if in_shape[i] == op.shape[axis]:
            inside.append(w[axis])
        else:
            inside.append(ext.sum_mod(w[axis])[:, None])
    return [(0, tuple(inside), coefficient)]


@rule("broadcast", "linear", _broadcast_pull)
def _broadcast(op: Op, x):
    dims, in_shape = op.params
    shape = [1] * len(op.shape)
    for i, axis in enumerate(dims):
        shape[axis] = in_shape[i]
    return np.broadcast_to(np.reshape(x, shape), op.shape)


def reshape_groups(inside: Shape, outside: Shape) -> list[tuple[list[int], list[int]]]:
    """Match runs of axes with equal products: [(input axes, output axes), ...]; length-1 axes
    alone.
    """
    groups = []
    i = j = 0
    while i < len(inside) or j < len(outside):
        if i < len(inside) and inside[i] == 1:
            groups.append(([i], []))
            i += 1
            continue
        if j < len(outside) and outside[j] == 1:
            groups.append(([], [j]))
            j += 1
            continue
        ins, outs = [i], [j]
        a, b = inside[i], outside[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                ins.append(i)
                a *= inside[i]
                i += 1
            else:
                outs.append(j)
                b *= outside[j]
                j += 1
        groups.append((ins, outs))
    return groups


def factor_rank_one(vector: np.ndarray, lengths: list[int]) -> list[np.ndarray] | None:
    """Split a vector over a product of axes into one vector an axis, or None if its rank is not
    one.
    """
    if len(lengths) == 1:
        return [vector]
    kappa = vector.shape[0]
    table = vector.reshape(kappa, lengths[0], -1)
    nonzero = np.argwhere(table.any(axis=0))
    if not len(nonzero):
        return [np.zeros((kappa, n), dtype=np.uint64) for n in lengths]
    i, j = nonzero[0]
    pivot = Scalar.from_array(table[:, i, j]).inverse().array()
    column = ext.mul(table[:, :, j], pivot[:, None])
    row = table[:, i, :]
    if not np.array_equal(ext.mul(column[:, :, None], row[:, None, :]), table):
        return None
    rest = factor_rank_one(row, lengths[1:])
    return None if rest is None else [column, *rest]


def _reshape_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    """params (operand shape,). Raises ``NotRankOne`` where merged axes do not factor."""
    (in_shape,) = op.params
    inside: list[np.ndarray | None] = [None] * len(in_shape)
    coefficient = one
    for ins, outs in reshape_groups(in_shape, op.shape):
        if not ins:
            coefficient = coefficient * total(w[outs[0]])
        elif not outs:
            inside[ins[0]] = ones(1, one.kappa)
        elif len(ins) == len(outs) == 1:
            inside[ins[0]] = w[outs[0]]
        else:
            vector = dense.kron([w[j] for j in outs], one.kappa)
            parts = factor_rank_one(vector, [in_shape[i] for i in ins])
            if parts is None:
                raise NotRankOne
            for i, part in zip(ins, parts, strict=True):
                inside[i] = part
    return [(0, tuple(inside), coefficient)]


class NotRankOne(Exception):
    """A functional on merged axes does not split; ``products`` uses a sumcheck instead."""


@rule("reshape", "linear", _reshape_pull)
def _reshape(op: Op, x):
    return np.reshape(x, op.shape)


def _slice_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    """params (starts, steps, operand shape)."""
    starts, steps, in_shape = op.params
    inside = []
    for axis, n in enumerate(in_shape):
        if op.shape[axis] == n:
            inside.append(w[axis])
            continue
        v = np.zeros((w[axis].shape[0], n), dtype=np.uint64)
        last = starts[axis] + steps[axis] * (op.shape[axis] - 1) + 1
        v[:, starts[axis] : last : steps[axis]] = w[axis]
        inside.append(v)
    return [(0, tuple(inside), one)]


@rule("slice", "linear", _slice_pull)
def _slice(op: Op, x):
    starts, steps, _ = op.params
    return x[
        tuple(
            slice(s, s + t * (n - 1) + 1, t)
            for s, t, n in zip(starts, steps, op.shape, strict=True)
        )
    ]


def _pad_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    """params (low, step, operand shape): operand index i sits at low + step * i, zeros
    elsewhere.
    """
    low, step, in_shape = op.params
    inside = tuple(
        w[a] if op.shape[a] == n else w[a][:, low[a] : low[a] + step[a] * (n - 1) + 1 : step[a]]
        for a, n in enumerate(in_shape)
    )
    return [(0, inside, one)]


@rule("pad", "linear", _pad_pull)
def _pad(op: Op, x):
    low, step, in_shape = op.params
    out = np.zeros(op.shape)
    out[
        tuple(slice(a, a + s * (n - 1) + 1, s) for a, s, n in zip(low, step, in_shape, strict=True))
    ] = x
    return out


def _sum_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    """params (axes, operand shape)."""
    axes, in_shape = op.params
    rest = iter(w)
    inside = [ones(n, one.kappa) if a in axes else next(rest) for a, n in enumerate(in_shape)]
    return [(0, tuple(inside), one)]


@rule("sum", "linear", _sum_pull)
def _sum(op: Op, x):
    return np.sum(x, axis=op.params[0])


def _reverse_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    return [(0, tuple(v[:, ::-1] if a in op.params[0] else v for a, v in enumerate(w)), one)]


@rule("reverse", "linear", _reverse_pull)
def _reverse(op: Op, x):
    return np.flip(x, op.params[0])


def _take_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    """params (axis, indices, operand shape): output index j reads operand index indices[j]."""
    axis, indices, in_shape = op.params
    v = np.zeros((one.kappa, in_shape[axis]), dtype=np.uint64)
    for j, i in enumerate(indices):
        v[:, i] = gl.add(v[:, i], w[axis][:, j])
    return [(0, (*w[:axis], v, *w[axis + 1 :]), one)]


@rule("take", "linear", _take_pull)
def _take(op: Op, x):
    axis, indices, _ = op.params
    return np.take(x, np.array(indices, dtype=np.int64), axis=axis)


def _shift_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    """The carry of a scan: out[0] = init, out[l] = carry[l-1]; params (reverse,) runs it
    backwards.
    """
    lead = w[0][:, ::-1] if op.params[0] else w[0]
    moved = np.zeros_like(lead)
    moved[:, :-1] = lead[:, 1:]
    moved = moved[:, ::-1] if op.params[0] else moved
    return [(0, w[1:], Scalar.from_array(lead[:, 0])), (1, (moved, *w[1:]), one)]


@rule("shift", "linear", _shift_pull)
def _shift(op: Op, init, carry):
    if op.params[0]:
        return np.concatenate([carry[1:], init[None]])
    return np.concatenate([init[None], carry[:-1]])


# Products -------------------------------------------------------------------------------------


@rule("multiply", "product")
def _multiply(op: Op, x, y):
    return x * y


@dataclass(frozen=True)
class ContractAxes:
    """Axis numbers of a contraction: output axes are batch, then free of x, then free of y."""

    batch: tuple[tuple[int, int], ...]
    summed: tuple[tuple[int, int], ...]
    x_free: tuple[int, ...]
    y_free: tuple[int, ...]

    @classmethod
    def of(cls, op: Op, x_rank: int, y_rank: int) -> ContractAxes:
        batch, summed = op.params
        used_x = {a for a, _ in batch + summed}
        used_y = {b for _, b in batch + summed}
        return cls(
            batch,
            summed,
            tuple(a for a in range(x_rank) if a not in used_x),
            tuple(b for b in range(y_rank) if b not in used_y),
        )


@rule("contract", "product")
def _contract(op: Op, x, y):
    """params (batch pairs, summed pairs)."""
    axes = ContractAxes.of(op, x.ndim, y.ndim)
    left = np.transpose(
        x, [a for a, _ in axes.batch] + list(axes.x_free) + [a for a, _ in axes.summed]
    )
    right = np.transpose(
        y, [b for _, b in axes.batch] + [b for _, b in axes.summed] + list(axes.y_free)
    )
    batch = left.shape[: len(axes.batch)]
    inner = int(np.prod([x.shape[a] for a, _ in axes.summed], dtype=np.int64))
    left = left.reshape(*batch, -1, inner)
    right = right.reshape(*batch, inner, -1)
    return np.matmul(left, right).reshape(op.shape)


@rule("onehot", "product")
def _onehot(op: Op, *bits):
    """[index == j] on a new last axis of length params[0]; the index is given by its bits, low
    first.
    """
    index = sum(b * float(1 << i) for i, b in enumerate(bits))
    return (index[..., None] == np.arange(op.params[0])).astype(np.float64)


# Advice: the honest hints -------------------------------------------------------------------


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
