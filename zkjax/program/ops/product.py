"""Products: multiply, contract (einsum of two operands) and onehot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zkjax.program.intervals import contracted, matched, multiplied
from zkjax.program.ops.rule import Op, rule


@rule("multiply", "product", interval=multiplied)
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


@rule("onehot", "product", interval=matched)
def _onehot(op: Op, *bits):
    """[index == j] on a new last axis of length params[0]; the index is given by its bits, low
    first.
    """
    index = sum(b * float(1 << i) for i, b in enumerate(bits))
    return (index[..., None] == np.arange(op.params[0])).astype(np.float64)
