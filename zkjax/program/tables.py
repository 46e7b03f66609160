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

from zkjax.errors import OptionError
from zkjax.program.dtypes import MAX_BOUND

MAX_ROWS = 1 << 24
MAX_COLUMNS = 64
MAX_NAME = 200  # characters


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of integers: equally long columns, the first one consecutive keys.

    Columns are given as arrays of integers (or of floats that are integers) of any type and kept as
    read-only int64 copies, so that what is proved, looked up and named by ``digest`` is one thing.

    Raises:
      OptionError: the columns are no table.
    """

    name: str
    columns: tuple[np.ndarray, ...]

    def __post_init__(self):
        def require(condition: bool, what: str) -> None:
            if not condition:
                raise OptionError(f"table {str(self.name)[:MAX_NAME]!r}: {what}")

        require(isinstance(self.name, str) and len(self.name) <= MAX_NAME, "its name is too long")
        require(1 <= len(self.columns) <= MAX_COLUMNS, f"it has 1 to {MAX_COLUMNS} columns")
        columns = tuple(_integers(column, require) for column in self.columns)
        rows = columns[0].shape
        require(all(c.shape == rows for c in columns), "its columns differ in length")
        require(1 <= rows[0] <= MAX_ROWS, f"it has 1 to {MAX_ROWS:,} rows")
        require(not np.any(np.diff(columns[0]) != 1), "its keys are not consecutive")
        object.__setattr__(self, "columns", columns)

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


def require_steps(table: Table) -> None:
    """OptionError unless a table is a step function: the intervals of its rows, in columns 1 and 2,
    follow each other. Otherwise a number may lie in two rows or none.
    """
    if table.width < 3:
        raise OptionError(f"table {table.name!r} has no columns of intervals; use step_table")
    firsts, lasts = table.columns[1:3]
    if np.any(firsts > lasts) or np.any(firsts[1:] != lasts[:-1] + 1):
        raise OptionError(f"table {table.name!r}: its intervals do not follow each other")


def _integers(column: Any, require: Callable[[bool, str], None]) -> np.ndarray:
    """A column as a read-only int64 copy with the same numbers."""
    given = np.asarray(column)
    require(given.ndim == 1, "a column is not one-dimensional")
    require(given.dtype.kind in "biuf", f"a column is {given.dtype}; columns hold integers")
    if given.dtype.kind == "f":
        whole = np.isfinite(given).all() and not np.any(given != np.floor(given))
        require(bool(whole), "a column holds numbers that are no integers; scale and round them")
    if given.size:
        fits = int(given.min()) >= -MAX_BOUND and int(given.max()) <= MAX_BOUND
        require(fits, "a column holds a number above 2^52")
    values = given.astype(np.int64)
    values.setflags(write=False)
    return values


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


def step_table(name: str, firsts: np.ndarray, last: int, *columns: np.ndarray) -> Table:
    """A step function: row i holds for the integers from firsts[i] to firsts[i + 1] - 1, the last
    row to ``last``. Columns: row number, first, last of the interval, then those given.

    Such a table is looked up by *value* (``fixed.locate``), so its domain may be as wide as 52
    bits.
    """
    firsts = np.asarray(firsts, dtype=np.int64)
    lasts = np.append(firsts[1:] - 1, last)
    if np.any(lasts < firsts):
        raise OptionError(f"table {name!r}: the intervals of its rows are not in order")
    return Table(name, (np.arange(len(firsts)), firsts, lasts, *columns))
