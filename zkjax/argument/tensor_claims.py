"""Many rank-one claims on a tensor reduce to its value at one random point.

Statement: sum_j c_j <high_j (x) low_j, T> = v for a tensor read as a matrix (2^a, 2^b). The first a
rounds bind the rows, where T enters only through T low_j (one matrix product a claim); then T is
replaced by eq(r)^T T and the last b rounds bind the columns. So the tensor itself is read J + 1
times in narrow integers and never lifted to the extension as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from zkjax.argument.rounds import ProductRounds
from zkjax.argument.sumcheck import idle_factor, point_array
from zkjax.field import dense
from zkjax.field import extension as ext
from zkjax.field.multilinear import eq_vector
from zkjax.field.scalar import Scalar


class Matrix(Protocol):
    """A tensor seen as a matrix (2^a, 2^b) that is only ever multiplied by vectors."""

    def right(self, low: np.ndarray) -> np.ndarray:
        """T low: (kappa, 2^a)."""
        ...

    def left(self, high: np.ndarray) -> np.ndarray:
        """T^T high: (kappa, 2^b)."""
        ...


class DenseMatrix:
    """A dense small-integer tensor seen as (2^a, 2^b)."""

    def __init__(self, values: np.ndarray, high: int, low: int, bound: int):
        self._values = values.reshape(1 << high, 1 << low)
        self._bound = bound

    def right(self, low: np.ndarray) -> np.ndarray:
        return dense.matvec(self._values, low, self._bound)

    def left(self, high: np.ndarray) -> np.ndarray:
        return dense.matvec(self._values.T, high, self._bound)


@dataclass
class Job:
    """One tensor: its two logs, the matrix, and claims (coefficient, high, low), padded vectors."""

    key: int
    high: int
    low: int
    matrix: Matrix
    claims: list[tuple[Scalar, np.ndarray, np.ndarray]]
    claim_value: Scalar


class TensorRounds:
    """The prover's rounds for a batch of jobs."""

    def __init__(self, jobs: Sequence[Job], kappa: int):
        self._kappa = kappa
        self._point: list[Scalar] = []
        self._jobs = list(jobs)
        self._groups: dict[int, ProductRounds] = {}
        self._last = ProductRounds(2, kappa)
        for job in self._jobs:
            if job.high == 0:
                self._last.add(job.key, job.low, job.claim_value, lambda j=job: self._columns(j))
                continue
            group = self._groups.setdefault(job.low, ProductRounds(2, kappa, end=job.low))
            merged: dict[int, tuple[np.ndarray, np.ndarray]] = {}
            for c, high, low in job.claims:
                weight = ext.mul(high, c.array()[:, None])
                if id(low) in merged:
                    weight = ext.add(weight, merged[id(low)][0])
                merged[id(low)] = weight, low
            for i, (weight, low) in enumerate(merged.values()):
                table = job.matrix.right(low)
                group.add(
                    (job.key, i),
                    job.high + job.low,
                    Scalar.from_array(ext.dot(weight, table)),
                    lambda w=weight, t=table: np.stack([w, t]),
                )

    def _columns(self, job: Job) -> np.ndarray:
        """The two factors of the column rounds: combined weights, and eq(r)^T T."""
        eq = eq_vector(point_array(self._point[len(self._point) - job.high :], self._kappa))
        weight = np.zeros((self._kappa, 1 << job.low), dtype=np.uint64)
        for c, high, low in job.claims:
            share = ext.mul(ext.dot(high, eq), c.array())
            weight = ext.add(weight, ext.mul(low, share[:, None]))
        return np.stack([weight, job.matrix.left(eq)])

    def _start_columns(self, remaining: int) -> None:
        """Jobs whose rows are all bound go on with their columns."""
        for job in self._jobs:
            if job.high and job.low == remaining:
                scale = idle_factor(self._point[: len(self._point) - job.high], 0, self._kappa)
                tables = self._columns(job)
                self._last.add(job.key, remaining, self._last.zero, lambda t=tables: t, scale)

    def message(self, remaining: int, degree: int) -> list[Scalar]:
        self._start_columns(remaining)
        parts = [self._last.message(remaining, degree)]
        parts += [g.message(remaining, degree) for g in self._groups.values()]
        return [sum(column[1:], column[0]) for column in zip(*parts, strict=True)]

    def bind(self, r: Scalar) -> None:
        self._point.append(r)
        self._last.bind(r)
        for group in self._groups.values():
            group.bind(r)

    def finals(self) -> dict[int, Scalar]:
        """For each job T at its point."""
        self._start_columns(0)
        return {key: values[1] for key, values in self._last.finals().items()}


def split_axes(logs: Sequence[int], claims: int) -> int:
    """How many leading axes make the rows: the split with the least extension work."""
    total = sum(logs)
    best, best_cost = 0, float("inf")
    for i in range(len(logs) + 1):
        low = sum(logs[i:])
        cost = claims * (1 << (total - low)) * (total > low) + (1 << low)
        if cost < best_cost:
            best, best_cost = i, cost
    return best
