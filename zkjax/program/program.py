"""Programs: the straight-line code of a statement, its normal form and its exact evaluation."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from zkjax.errors import ValueRangeError
from zkjax.program.dtypes import MAX_BOUND
from zkjax.program.ops import RULES, Op, Shape
from zkjax.program.tables import Table

OF_TABLES = {"lookup", "locate"}  # whose values stand in a table
GROW = {"affine", "contract", "multiply", "sum"}  # whose values may exceed their operands'


@dataclass(frozen=True)
class Lookup:
    """The variables (one a column, equal shapes) are elementwise rows of table number ``table``."""

    table: int
    vars: tuple[int, ...]


@dataclass(frozen=True)
class Port:
    """An input or output: its variable, dtype, commitment (-1 if public) and name in the pytree.

    A ``ranged`` input is sealed and not range-checked by this program: its commitment has to come
    with a range proof of its own (``zkjax.ranges``).
    """

    var: int
    dtype: str
    group: int
    name: str
    ranged: bool = False

    @property
    def sealed(self) -> bool:
        return self.group >= 0


def _encode_port(port: Port) -> list:
    return [port.var, port.dtype, port.group, port.name, *([True] if port.ranged else [])]


@dataclass
class Program:
    """Variables are numbered by their position in ``ops``; operands come before their uses.

    Attributes:
      zeros: variables that must vanish everywhere.
      obligations: (variable, low, high): what the meaning of the program rests on, and its
        relations imply (see ``bounds``).
      notes: where variables come from, for messages; not part of the statement.
    """

    ops: list[Op]
    constants: list[np.ndarray]
    tables: list[Table]
    lookups: list[Lookup]
    zeros: list[int]
    inputs: list[Port]
    outputs: list[Port]
    obligations: list[tuple[int, int, int]] = field(default_factory=list)
    notes: dict[int, str] = field(default_factory=dict)

    def shape(self, var: int) -> Shape:
        return self.ops[var].shape

    @property
    def advice(self) -> list[int]:
        """The variables the prover commits besides private inputs and outputs."""
        return [v for v, op in enumerate(self.ops) if RULES[op.kind].cls == "advice"]

    def encode(self) -> bytes:
        """The normal form as canonical bytes; the digest is a hash of them."""
        header = {
            "ops": [[op.kind, op.inputs, op.shape, op.params] for op in self.ops],
            "constants": [c.shape for c in self.constants],
            "tables": [[t.name, t.rows, t.width] for t in self.tables],
            "lookups": [[r.table, r.vars] for r in self.lookups],
            "zeros": self.zeros,
            "inputs": [_encode_port(p) for p in self.inputs],
            "outputs": [_encode_port(p) for p in self.outputs],
            "obligations": self.obligations,
        }
        text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
        arrays = [*self.constants, *(c for t in self.tables for c in t.columns)]
        data = [np.ascontiguousarray(a, dtype="<i8").tobytes() for a in arrays]
        return b"".join([len(text).to_bytes(8, "little"), text, *data])

    @property
    def digest(self) -> bytes:
        return hashlib.blake2s(self.encode(), person=b"zkj.stmt").digest()

    def evaluate(
        self, inputs: Sequence[np.ndarray], carries: Sequence[np.ndarray] = ()
    ) -> list[np.ndarray]:
        """Exact values of all variables as float64 integers.

        Args:
          inputs: one integer array an input port.
          carries: values of the ``carry`` variables by number, from running the scans.
        Raises:
          ValueRangeError: a value is outside the table it is looked up in, or so large that float64
            may not hold it exactly.
        """
        values: list[np.ndarray] = []
        ports = {p.var: np.asarray(x) for p, x in zip(self.inputs, inputs, strict=True)}
        for var, op in enumerate(self.ops):
            if op.kind == "input":
                value = ports[var].astype(np.float64)
            elif op.kind == "constant":
                value = self.constants[op.params[0]].astype(np.float64)
            elif op.kind == "carry":
                value = np.asarray(carries[op.params[0]], dtype=np.float64)
            else:
                operands = [values[i] for i in op.inputs]
                extra = {"tables": self.tables} if op.kind in OF_TABLES else {}
                value = RULES[op.kind].evaluate(op, *operands, **extra)
                self._require_exact(var, value, operands)
            values.append(np.asarray(value, dtype=np.float64).reshape(op.shape))
        self._check_lookups(values)
        for var in self.zeros:
            if np.any(values[var]):
                raise ValueRangeError(f"{self.where(var)}: a relation of the program does not hold")
        return values

    def where(self, var: int) -> str:
        return self.notes.get(var, f"variable {var}")

    def _require_exact(self, var: int, value, operands) -> None:
        """That float64 held a value and, in a sum of products, everything on the way to it."""
        op = self.ops[var]
        sizes = [float(np.max(np.abs(v), initial=0)) for v in operands] if op.kind in GROW else []
        largest = float(np.max(np.abs(value), initial=0)) if op.kind in GROW else 0.0
        if op.kind == "affine":
            coefficients, offset = op.params
            if sum(abs(c) * x for c, x in zip(coefficients, sizes, strict=True)) > MAX_BOUND:
                terms = zip(coefficients, operands, strict=True)
                total = abs(offset) + sum(abs(c) * np.abs(v) for c, v in terms)
                # The sum of a rounding's remainder is that of two numbers below 2^52.
                largest = max(largest, float(np.max(total)) / 2)
        elif op.kind == "sum" and sizes[0] * operands[0].size > MAX_BOUND:
            largest = float(np.max(np.sum(np.abs(operands[0]), axis=op.params[0])))
        elif op.kind == "contract":
            # |partial sums| <= |x| |y|, first of the whole operands and then of their entries.
            x, y = sizes
            summed = [operands[0].shape[a] for a, _ in op.params[1]]
            if x * y * math.prod(summed) > MAX_BOUND:
                norms = [
                    float(np.max(np.sum(v * v, axis=tuple(pair[side] for pair in op.params[1]))))
                    for side, v in enumerate(operands)
                ]
                largest = max(largest, math.sqrt(norms[0]) * math.sqrt(norms[1]))
        if largest > MAX_BOUND:
            raise ValueRangeError(
                f"{self.where(var)}: a value reaches {math.log2(largest):.1f} bits and fixed point "
                "holds 52; round an operand to fewer fraction bits with zkjax.fixed.round before "
                "this line"
            )

    def _check_lookups(self, values: list[np.ndarray]) -> None:
        for lookup in self.lookups:
            table = self.tables[lookup.table]
            key = values[lookup.vars[0]]
            low, high = int(table.columns[0][0]), int(table.columns[0][-1])
            if key.min() < low or key.max() > high:
                raise ValueRangeError(
                    f"{self.where(lookup.vars[0])}: value out of range: the check allows "
                    f"[{low}, {high}] and saw [{int(key.min())}, {int(key.max())}] (units of the "
                    "last fraction bit, offset included); raise `bits` or lower `fraction` there"
                )
            for column, var in zip(table.columns[1:], lookup.vars[1:], strict=True):
                expected = column[(key - low).astype(np.int64)]
                if not np.array_equal(expected, values[var]):
                    raise ValueRangeError(f"{self.where(var)}: not the table's value")

    def multiplicities(self, values: list[np.ndarray]) -> list[np.ndarray]:
        """For each table how often each of its rows is looked up, as float64 (rows,)."""
        counts = [np.zeros(t.rows) for t in self.tables]
        for lookup in self.lookups:
            table = self.tables[lookup.table]
            index = (values[lookup.vars[0]] - float(table.columns[0][0])).astype(np.int64)
            counts[lookup.table] += np.bincount(index.reshape(-1), minlength=table.rows)
        return counts
