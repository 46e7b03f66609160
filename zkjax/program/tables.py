"""Public lookup tables: ranges, and functions tabulated with correct rounding.

A table is a set of integer rows; a lookup says that a tuple of variables is one of them. Function
tables are rounded from float64 where that is safe and from 50-digit decimals where a value lies
close to a tie, so that every machine builds the same integers whatever its libm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache, cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of integers: ``columns`` are equally long int64 arrays, the first one consecutive
    keys.
    """

    name: str
    columns: tuple[np.ndarray, ...]

    def __post_init__(self):
        if np.any(np.diff(self.columns[0]) != 1):
            raise ValueError(f"the keys of table {self.name!r} are not consecutive")

    @property
    def rows(self) -> int:
        return len(self.columns[0])

    @property
    def width(self) -> int:
        return len(self.columns)

    @cached_property
    def digest(self) -> bytes:
        h = hashlib.blake2s(person=b"zkj.tabl")
        h.update(len(self.columns).to_bytes(4, "little"))
        for column in self.columns:
            h.update(len(column).to_bytes(8, "little"))
            h.update(np.ascontiguousarray(column, dtype="<i8").tobytes())
        return h.digest()

    def __eq__(self, other) -> bool:
        return isinstance(other, Table) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@cache
def range_table(bits: int) -> Table:
    """The integers [0, 2^bits), bits <= 16."""
    if not 0 <= bits <= 16:
        raise ValueError("range tables have at most 2^16 rows")
    return Table(f"range{bits}", (np.arange(1 << bits, dtype=np.int64),))


def round_exactly(
    approximate: np.ndarray, exact: Callable[[int], Decimal], name: str
) -> np.ndarray:
    """Round to nearest, ties up, deciding near ties with 50-digit decimals.

    Args:
      approximate: float64 values, relative error below 1e-12.
      exact: index -> the true value as a ``Decimal``.
    """
    result = np.floor(approximate + 0.5)
    margin = 1e-10 * np.maximum(1.0, np.abs(approximate))
    distance = np.abs(approximate - np.floor(approximate) - 0.5)
    for i in np.flatnonzero(distance <= margin):
        with localcontext() as context:
            context.prec = 50
            half = exact(int(i)) + Decimal("0.5")
            result[i] = int(half.to_integral_value(rounding="ROUND_FLOOR"))
    if np.abs(result).max(initial=0) >= 2**46:
        raise ValueError(f"table {name!r} holds values of more than 46 bits")
    return result.astype(np.int64)


def function_table(
    name: str,
    low: int,
    rows: int,
    in_fraction: int,
    functions: Sequence[tuple[Callable[..., Any], Callable[..., Any], int]],
) -> Table:
    """Tabulate functions at keys low, low + 1, ..., with ``in_fraction`` fraction bits.

    ``functions`` holds (float64 version, decimal version, fraction bits of the result) a column.
    """
    keys = np.arange(low, low + rows, dtype=np.int64)
    columns = [keys]
    for approximate, exact, fraction in functions:
        scale = Decimal(2**fraction)

        def at(i: int, exact=exact, scale=scale) -> Decimal:
            return exact(Decimal(low + i) / Decimal(2**in_fraction)) * scale

        values = approximate(keys * 2.0**-in_fraction) * 2.0**fraction
        columns.append(round_exactly(values, at, name))
    return Table(name, tuple(columns))
