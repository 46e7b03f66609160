"""Products: multiply, contract (einsum of two operands) and onehot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zkjax.program.intervals import contracted, matched, multiplied
from zkjax.program.ops.rule import (
    Op,
    Shape,
    are_integers,
    is_integer,
    parameters,
    require,
    rule,
    shape_rule,
)


@rule("multiply", "product", interval=multiplied)
def _multiply(op: Op, x, y):
    return x * y


@shape_rule("multiply", operands=2)
def _multiply_shape(op: Op, x: Shape, y: Shape) -> Shape:
    parameters(op, 0)
    require(x == y, "factors of different shapes")
    return x


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


@rule("contract", "product", interval=contracted)
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


@shape_rule("contract", operands=2)
def _contract_shape(op: Op, x: Shape, y: Shape) -> Shape:
    for pairs in parameters(op, 2):
        require(type(pairs) is tuple, "axis pairs")
        for pair in pairs:
            right = are_integers(pair, 2, 0, max(len(x), len(y)) - 1)
            require(right and pair[0] < len(x) and pair[1] < len(y), "axis pairs")
            require(x[pair[0]] == y[pair[1]], "paired axes of different lengths")
    batch, summed = op.params
    for side in (0, 1):
        used = [pair[side] for pair in batch + summed]
        require(len(set(used)) == len(used), "an axis is paired twice")
    axes = ContractAxes.of(op, len(x), len(y))
    free = [x[a] for a in axes.x_free] + [y[b] for b in axes.y_free]
    return (*(x[a] for a, _ in batch), *free)


@rule("onehot", "product", interval=matched)
def _onehot(op: Op, *bits):
    """[index == j] on a new last axis of length params[0]; the index is given by its bits, low
    first.
    """
    index = sum(b * float(1 << i) for i, b in enumerate(bits))
    return (index[..., None] == np.arange(op.params[0])).astype(np.float64)


@shape_rule("onehot", operands=None)
def _onehot_shape(op: Op, *bits: Shape) -> Shape:
    (n,) = parameters(op, 1)
    require(len(set(bits)) == 1, "bits of different shapes")
    require(is_integer(n, 2, 2**31), "the length of an axis")
    require((n - 1).bit_length() == len(bits), "another number of bits than the axis needs")
    return (*bits[0], n)
