"""Linear operations: each with its pull-back of rank-one functionals."""

from __future__ import annotations

import math

import numpy as np

from zkjax.field import dense
from zkjax.field import extension as ext
from zkjax.field import goldilocks as gl
from zkjax.field.scalar import Scalar
from zkjax.program.intervals import padded, selected, shifted, summed
from zkjax.program.ops.rule import (
    NotRankOne,
    Op,
    Pulled,
    Shape,
    Weights,
    are_axes,
    are_integers,
    is_integer,
    ones,
    parameters,
    require,
    rule,
    shape_rule,
    total,
    zeros,
)
from zkjax.work import STEP, charge

MAX_INTEGER = 2**63 - 1


def _affine_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    pulled: Pulled = [(i, w, one * c) for i, c in enumerate(op.params[0]) if c]
    if op.params[1]:
        mass = one * op.params[1]
        for v in w:
            mass = mass * total(v)
        pulled.append((None, (), mass))
    return pulled


@rule("affine", "linear", _affine_pull, merges=True)
def _affine(op: Op, *xs):
    """sum_i c_i x_i + offset; params (coefficients, offset). A coefficient may be 0: then the
    relations of x_i count, its value does not.
    """
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


@shape_rule("affine", operands=None)
def _affine_shape(op: Op, *xs: Shape) -> Shape:
    coefficients, offset = parameters(op, 2)
    right = are_integers(coefficients, len(xs), -MAX_INTEGER, MAX_INTEGER)
    require(right and is_integer(offset, -MAX_INTEGER, MAX_INTEGER), "the coefficients of a sum")
    require(len(set(xs)) == 1, "summands of different shapes")
    require(len(set(op.inputs)) == len(op.inputs), "a summand that stands twice in a sum")
    return xs[0]


@rule("alias", "linear", lambda op, w, one: [(0, w, one)], selected)
def _alias(op: Op, x):
    """The operand itself."""
    return x


@shape_rule("alias")
def _alias_shape(op: Op, x: Shape) -> Shape:
    """params (), or the interval of the name's own relations."""
    if op.params:
        low, high = parameters(op, 2)
        right = are_integers(op.params, 2, -MAX_INTEGER, MAX_INTEGER)
        require(right and low <= high, "the bounds of a name")
    return x


def _transpose_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    inside = [w[0]] * len(w)
    for out_axis, in_axis in enumerate(op.params[0]):
        inside[in_axis] = w[out_axis]
    return [(0, tuple(inside), one)]


@rule("transpose", "linear", _transpose_pull, selected, merges=True)
def _transpose(op: Op, x):
    return np.transpose(x, op.params[0])


@shape_rule("transpose")
def _transpose_shape(op: Op, x: Shape) -> Shape:
    (order,) = parameters(op, 1)
    right = are_integers(order, len(x), 0, len(x) - 1)
    require(right and len(set(order)) == len(x), "not a permutation of the axes")
    return tuple(x[a] for a in order)


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
            inside.append(total(w[axis]).array()[:, None])
    return [(0, tuple(inside), coefficient)]


@rule("broadcast", "linear", _broadcast_pull, selected, merges=True)
def _broadcast(op: Op, x):
    dims, in_shape = op.params
    shape = [1] * len(op.shape)
    for i, axis in enumerate(dims):
        shape[axis] = in_shape[i]
    return np.broadcast_to(np.reshape(x, shape), op.shape)


@shape_rule("broadcast")
def _broadcast_shape(op: Op, x: Shape) -> Shape:
    dims, in_shape = parameters(op, 2)
    require(in_shape == x and are_axes(dims, len(op.shape)) and len(dims) == len(x), "axes")
    fits = all(n in (1, op.shape[a]) for n, a in zip(x, dims, strict=True))
    require(fits, "an axis longer than 1 is stretched")
    return op.shape


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
    done = 0
    for rows in ext.outer(column, row):
        if not np.array_equal(rows, table[:, done : done + rows.shape[1]]):
            return None
        done += rows.shape[1]
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
            charge(math.prod(in_shape[i] for i in ins))
            vector = dense.kron([w[j] for j in outs], one.kappa)
            parts = factor_rank_one(vector, [in_shape[i] for i in ins])
            if parts is None:
                raise NotRankOne
            for i, part in zip(ins, parts, strict=True):
                inside[i] = part
    return [(0, tuple(inside), coefficient)]


@rule("reshape", "linear", _reshape_pull, selected, merges=True)
def _reshape(op: Op, x):
    return np.reshape(x, op.shape)


@shape_rule("reshape")
def _reshape_shape(op: Op, x: Shape) -> Shape:
    (in_shape,) = parameters(op, 1)
    require(in_shape == x and math.prod(x) == math.prod(op.shape), "another number of elements")
    return op.shape


def _slice_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    """params (starts, steps, operand shape)."""
    starts, steps, in_shape = op.params
    inside = []
    for axis, n in enumerate(in_shape):
        if op.shape[axis] == n:
            inside.append(w[axis])
            continue
        v = zeros(n, one.kappa)
        last = starts[axis] + steps[axis] * (op.shape[axis] - 1) + 1
        v[:, starts[axis] : last : steps[axis]] = w[axis]
        inside.append(v)
    return [(0, tuple(inside), one)]


@rule("slice", "linear", _slice_pull, selected)
def _slice(op: Op, x):
    starts, steps, _ = op.params
    return x[
        tuple(
            slice(s, s + t * (n - 1) + 1, t)
            for s, t, n in zip(starts, steps, op.shape, strict=True)
        )
    ]


def _strided(low, step, inner: Shape, outer: Shape) -> bool:
    """Whether inner index i can sit at outer index low + step * i, on every axis."""
    rank = len(outer)
    right = len(inner) == rank and are_integers(low, rank, 0, max(outer, default=0))
    if not right or not are_integers(step, rank, 1, max(outer, default=1)):
        return False
    return all(a + s * (n - 1) < m for a, s, n, m in zip(low, step, inner, outer, strict=True))


@shape_rule("slice")
def _slice_shape(op: Op, x: Shape) -> Shape:
    starts, steps, in_shape = parameters(op, 3)
    require(in_shape == x and _strided(starts, steps, op.shape, x), "a slice leaves its operand")
    return op.shape


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


@rule("pad", "linear", _pad_pull, padded)
def _pad(op: Op, x):
    low, step, in_shape = op.params
    out = np.zeros(op.shape)
    out[
        tuple(slice(a, a + s * (n - 1) + 1, s) for a, s, n in zip(low, step, in_shape, strict=True))
    ] = x
    return out


@shape_rule("pad")
def _pad_shape(op: Op, x: Shape) -> Shape:
    low, step, in_shape = parameters(op, 3)
    require(in_shape == x and _strided(low, step, x, op.shape), "an operand leaves its padding")
    return op.shape


def _sum_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    """params (axes, operand shape)."""
    axes, in_shape = op.params
    rest = iter(w)
    inside = [ones(n, one.kappa) if a in axes else next(rest) for a, n in enumerate(in_shape)]
    return [(0, tuple(inside), one)]


@rule("sum", "linear", _sum_pull, summed)
def _sum(op: Op, x):
    return np.sum(x, axis=op.params[0])


@shape_rule("sum")
def _sum_shape(op: Op, x: Shape) -> Shape:
    axes, in_shape = parameters(op, 2)
    require(in_shape == x and are_axes(axes, len(x)), "the axes of a sum")
    return tuple(n for a, n in enumerate(x) if a not in axes)


def _reverse_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    return [(0, tuple(v[:, ::-1] if a in op.params[0] else v for a, v in enumerate(w)), one)]


@rule("reverse", "linear", _reverse_pull, selected)
def _reverse(op: Op, x):
    return np.flip(x, op.params[0])


@shape_rule("reverse")
def _reverse_shape(op: Op, x: Shape) -> Shape:
    (axes,) = parameters(op, 1)
    require(are_axes(axes, len(x)), "the axes to reverse")
    return x


def _take_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    """params (axis, indices, operand shape): output index j reads operand index indices[j]."""
    axis, indices, in_shape = op.params
    charge(STEP // 8 * len(indices))
    v = zeros(in_shape[axis], one.kappa)
    for j, i in enumerate(indices):
        v[:, i] = gl.add(v[:, i], w[axis][:, j])
    return [(0, (*w[:axis], v, *w[axis + 1 :]), one)]


@rule("take", "linear", _take_pull, selected)
def _take(op: Op, x):
    axis, indices, _ = op.params
    return np.take(x, np.array(indices, dtype=np.int64), axis=axis)


@shape_rule("take")
def _take_shape(op: Op, x: Shape) -> Shape:
    axis, indices, in_shape = parameters(op, 3)
    require(in_shape == x and is_integer(axis, 0, len(x) - 1), "the axis of an index")
    right = type(indices) is tuple and are_integers(indices, len(indices), 0, x[axis] - 1)
    require(right, "an index outside its axis")
    return (*x[:axis], len(indices), *x[axis + 1 :])


def _shift_pull(op: Op, w: Weights, one: Scalar) -> Pulled:
    """The carry of a scan: out[0] = init, out[l] = carry[l-1]; params (reverse,) runs it
    backwards.
    """
    lead = w[0][:, ::-1] if op.params[0] else w[0]
    moved = zeros(lead.shape[1], one.kappa)
    moved[:, :-1] = lead[:, 1:]
    moved = moved[:, ::-1] if op.params[0] else moved
    return [(0, w[1:], Scalar.from_array(lead[:, 0])), (1, (moved, *w[1:]), one)]


@rule("shift", "linear", _shift_pull, shifted)
def _shift(op: Op, init, carry):
    if op.params[0]:
        return np.concatenate([carry[1:], init[None]])
    return np.concatenate([init[None], carry[:-1]])


@shape_rule("shift", operands=2)
def _shift_shape(op: Op, init: Shape, carry: Shape) -> Shape:
    (reverse,) = parameters(op, 1)
    require(is_integer(reverse, 0, 1), "the direction of a scan")
    require(len(carry) >= 1 and carry[1:] == init, "a carry that is no stack of its start")
    return carry
