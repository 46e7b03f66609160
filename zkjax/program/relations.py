"""Relations of a program as statements about integers mod p: a sum is in an interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zkjax.field.goldilocks import P
from zkjax.program.intervals import Value
from zkjax.program.program import Program

HALF = P // 2


@dataclass
class Relation:
    """``sum c_i x_i + offset`` is in [low, high] mod p; the sum is the variable ``var``.

    Attributes:
      terms: (x_i, c_i), looked at through views.
      waiting: how many of the terms are not known yet.
      settled: whether it is shown to hold over the integers.
    """

    var: int
    low: int
    high: int
    terms: list[tuple[int, int]]
    offset: int
    waiting: int = 0
    settled: bool = False

    def in_field(self, pivot: int, rest: Value) -> Value:
        """An interval of which one number is x mod p, for a term x with coefficient 1 or -1 beside
        a ``rest``. If x is committed and the interval within (-p/2, p/2), that number is x.
        """
        x = self._solved(pivot, rest)
        return x[:2] if x is not None and abs(x[2]) == 1 else None

    def over_integers(self, pivot: int, rest: Value) -> Value:
        """What x is within if the relation holds over the integers."""
        x = self._solved(pivot, rest)
        return None if x is None else (-(-x[0] // x[2]), x[1] // x[2])

    def _solved(self, pivot: int, rest: Value) -> tuple[int, int, int] | None:
        """(low, high, c), c > 0: c x is within, for the only term of x."""
        mine = [c for v, c in self.terms if v == pivot]
        if len(mine) != 1 or rest is None or not mine[0]:
            return None
        low, high = self.low - rest[1], self.high - rest[0]
        return (low, high, mine[0]) if mine[0] > 0 else (-high, -low, -mine[0])

    def sum(self, values: Sequence[Value], without: int = -1) -> Value:
        low = high = self.offset
        for v, c in self.terms:
            if v == without or not c:
                continue
            x = values[v]
            if x is None:
                return None
            low, high = low + min(c * x[0], c * x[1]), high + max(c * x[0], c * x[1])
        return low, high

    def holds(self, value: Value) -> bool:
        """Whether e in ``value`` and e = t mod p, t in [low, high], imply e = t."""
        return value is not None and value[1] - self.low < P and self.high - value[0] < P


def centred(x: Value) -> Value:
    """An interval of representatives mod p, if it holds no two of one element nor one too large."""
    return x if x is not None and x[0] <= x[1] and x[0] >= -HALF and x[1] <= HALF else None


def relations_of(program: Program) -> Iterable[tuple[int, int, int]]:
    """(variable, low, high) of all lookups, column by column, and zeros."""
    for lookup in program.lookups:
        for var, column in zip(lookup.vars, program.tables[lookup.table].columns, strict=True):
            yield var, int(column.min()), int(column.max())
    for var in program.zeros:
        yield var, 0, 0
