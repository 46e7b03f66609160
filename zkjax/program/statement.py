"""Statements: what a proof is about, independent of JAX once traced.

A statement is a program with named ports. ``Statement.save`` writes it, ``Statement.load`` reads it
back in a process without JAX. The digest covers everything that is computed and the names.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from zkjax.errors import OverflowBoundError, StatementError
from zkjax.files import write_atomically
from zkjax.program.bounds import prove_bounds, undischarged
from zkjax.program.dtypes import MAX_BOUND
from zkjax.program.ops import RULES, Op
from zkjax.program.program import Lookup, Port, Program
from zkjax.program.tables import Table

MAGIC = b"ZKJXSTM1"
MAX_BYTES = 1 << 30


@dataclass
class Statement:
    """A traced function: the program, and which ports belong to which commitment."""

    program: Program
    plans: dict = field(default_factory=dict)
    _proven: bool = field(default=False, repr=False)

    @property
    def digest(self) -> bytes:
        return self.program.digest

    def require_proven(self) -> None:
        """OverflowBoundError unless all relations and obligations hold over the integers."""
        if not self._proven:
            missing = undischarged(self.program, prove_bounds(self.program))
            if missing:
                var, low, high = missing[0]
                raise OverflowBoundError(
                    f"variable {var} may leave [{low}, {high}]", self.program.where(var)
                )
            self._proven = True

    def group_ports(self, ports: list[Port]) -> dict[int, list[Port]]:
        """Sealed ports by commitment number, in order."""
        groups: dict[int, list[Port]] = {}
        for port in ports:
            if port.sealed:
                groups.setdefault(port.group, []).append(port)
        return dict(sorted(groups.items()))

    def save(self, path: str | Path) -> None:
        data = self.program.encode()
        body = zlib.compress(data, 6)
        write_atomically(path, MAGIC + len(data).to_bytes(8, "little") + self.digest + body)

    @classmethod
    def load(cls, path: str | Path) -> Statement:
        """Read a statement file; StatementError says what is wrong with it."""
        try:
            return cls.decode(Path(path).read_bytes())
        except OSError as error:
            raise StatementError(f"cannot read the statement: {error}") from error

    @classmethod
    def decode(cls, data: bytes) -> Statement:
        if data[:8] != MAGIC:
            raise StatementError("not a zkjax statement of this version")
        size = int.from_bytes(data[8:16], "little")
        if len(data) < 48 or size > MAX_BYTES:
            raise StatementError("the statement file is malformed")
        unpack = zlib.decompressobj()
        try:
            raw = unpack.decompress(data[48:], size)
            if len(raw) != size or unpack.unconsumed_tail or not unpack.eof or unpack.unused_data:
                raise StatementError("the statement file is truncated or extended")
            statement = cls(_decode_program(raw))
        except StatementError:
            raise
        except Exception as error:  # any malformed content
            raise StatementError(f"the statement file is malformed ({error})") from error
        if statement.digest != data[16:48]:
            raise StatementError("the statement file does not match its digest")
        return statement


def _tuples(value):
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _decode_program(raw: bytes) -> Program:
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    position = 8 + length

    def array(shape) -> np.ndarray:
        nonlocal position
        count = math.prod(shape)
        if count < 0 or position + 8 * count > len(raw):
            raise StatementError("the statement file is truncated")
        values = np.frombuffer(raw, dtype="<i8", count=count, offset=position)
        position += 8 * count
        if count and (values.min() < -MAX_BOUND or values.max() > MAX_BOUND):
            raise StatementError("a constant is larger than fixed point holds")
        return values.reshape(shape).astype(np.int64)

    constants = [array(tuple(shape)) for shape in header["constants"]]
    tables = []
    for name, rows, width in header["tables"]:
        columns = tuple(array((rows,)) for _ in range(width))
        if not rows or not width or np.any(np.diff(columns[0]) != 1):
            raise StatementError("a table's keys are not consecutive")
        tables.append(Table(name, columns))
    if position != len(raw):
        raise StatementError("the statement file has trailing bytes")
    ops = []
    for index, (kind, inputs, shape, params) in enumerate(header["ops"]):
        if kind not in RULES or not all(0 <= i < index for i in inputs):
            raise StatementError(f"operation {index} is malformed")
        ops.append(Op(kind, tuple(inputs), tuple(shape), _tuples(params)))
    count = range(len(ops))
    lookups = [Lookup(t, tuple(v)) for t, v in header["lookups"]]
    for lookup in lookups:
        if lookup.table not in range(len(tables)) or not set(lookup.vars) <= set(count):
            raise StatementError("a lookup is malformed")
        if len(lookup.vars) != tables[lookup.table].width:
            raise StatementError("a lookup does not fit its table")
        if len({ops[v].shape for v in lookup.vars}) != 1:
            raise StatementError("a lookup mixes shapes")
    ports = [[Port(*p) for p in header[key]] for key in ("inputs", "outputs")]
    if not {p.var for p in ports[0] + ports[1]} | set(header["zeros"]) <= set(count):
        raise StatementError("a port is malformed")
    obligations = [(int(v), int(low), int(high)) for v, low, high in header["obligations"]]
    if not {v for v, _, _ in obligations} <= set(count):
        raise StatementError("an obligation is malformed")
    zeros = header["zeros"]
    return Program(ops, constants, tables, lookups, zeros, ports[0], ports[1], obligations)
