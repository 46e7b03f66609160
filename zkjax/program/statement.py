"""Statements: what a proof is about, independent of JAX once traced.

A statement is a program with named ports. ``Statement.save`` writes it, ``Statement.load`` reads it
back in a process without JAX. The digest covers everything that is computed and the names.

A file is magic (8 bytes), size of the program's encoding (8 bytes), its digest (32 bytes), and the
encoding packed by zlib. The encoding is a length (8 bytes), a header in JSON, and the integers of
constants and tables, 8 bytes each. Files come from strangers: what they may make a reader do is
bounded by the constants below, and a header is what ``_HEADER`` says and nothing else.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from zkjax._arguments import checked
from zkjax.errors import OptionError, OverflowBoundError, StatementError
from zkjax.files import read_capped, write_atomically
from zkjax.program.bounds import prove_bounds, undischarged
from zkjax.program.dtypes import MAX_BOUND, PUBLIC_RANGES
from zkjax.program.ops import RULES, Op
from zkjax.program.ops.linear import MAX_INTEGER
from zkjax.program.program import Lookup, Port, Program
from zkjax.program.tables import MAX_COLUMNS, MAX_ROWS, Table
from zkjax.program.tables import MAX_NAME as MAX_TABLE_NAME
from zkjax.program.wellformed import require_well_formed
from zkjax.wire import (
    Reader,
    integer,
    items,
    nested,
    one_of,
    parse,
    record,
    require_same,
    row,
    shape,
    text,
    true,
)

MAGIC = b"ZKJXSTM1"
FIXED = 48  # bytes before the packed part: magic, unpacked size, digest
MAX_BYTES = 1 << 30  # of a file, and of what it unpacks to
MAX_HEADER = 1 << 22
# A file may unpack to so many bytes, or else to at most MAX_RATIO times its own.
FREE_BYTES = 1 << 24
MAX_RATIO = 20
MAX_COUNT = 1 << 18  # of operations, relations, ports, tables
MAX_NAME = 1024


@dataclass
class Statement:
    """A traced function: the program, and which ports belong to which commitment."""

    program: Program
    plans: dict = field(default_factory=dict)
    _proven: bool = field(default=False, repr=False)

    def __repr__(self) -> str:
        p = self.program
        ports = f"{len(p.inputs)} inputs, {len(p.outputs)} outputs"
        return f"Statement({self.digest.hex()[:16]}, {len(p.ops):,} operations, {ports})"

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

    @checked
    def group_ports(self, ports: list[Port]) -> dict[int, list[Port]]:
        """Sealed ports by commitment number, in order."""
        groups: dict[int, list[Port]] = {}
        for port in ports:
            if port.sealed:
                groups.setdefault(port.group, []).append(port)
        return dict(sorted(groups.items()))

    def encode(self) -> bytes:
        """The statement file. What packs too well to be unpacked by a cautious reader is stored.

        Raises:
          StatementError: the program is larger than a reader takes.
        """
        data = self.program.encode()
        for level in (6, 0):
            packed = zlib.compress(data, level)
            file = MAGIC + len(data).to_bytes(8, "little") + self.digest + packed
            if len(data) <= _most_unpacked(len(file)):
                decode_program(data)
                return file
        raise StatementError(f"the statement is larger than {MAX_BYTES:,} bytes")

    @checked
    def save(self, path: str | Path) -> None:
        write_atomically(path, self.encode())

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Statement:
        """Read a statement file; StatementError says what is wrong with it."""
        return cls.decode(read_capped(path, MAX_BYTES))

    @classmethod
    @checked
    def decode(cls, data: bytes) -> Statement:
        """Read a statement file's bytes; StatementError says what is wrong with them."""
        if data[:8] != MAGIC:
            raise StatementError("not a zkjax statement of this version")
        if not FIXED <= len(data) <= MAX_BYTES:
            raise StatementError("the statement file is truncated or too large")
        size, most = int.from_bytes(data[8:16], "little"), _most_unpacked(len(data))
        if size > most:
            raise StatementError(f"the statement unpacks to {size:,} bytes; {most:,} are allowed")
        unpack = zlib.decompressobj()
        try:
            raw = unpack.decompress(data[FIXED:], size + 1)  # 0 would stand for no limit
        except zlib.error as error:
            raise StatementError(f"the statement file is malformed ({error})") from error
        if len(raw) != size or not unpack.eof or unpack.unused_data:
            raise StatementError("the statement file is truncated or extended")
        if hashlib.blake2s(raw, person=b"zkj.stmt").digest() != data[16:FIXED]:
            raise StatementError("the statement file does not match its digest")
        return cls(decode_program(raw))


def _most_unpacked(file_bytes: int) -> int:
    return min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * file_bytes))


_variable = integer(0, MAX_COUNT - 1)
_bound = integer(-MAX_INTEGER - 1, MAX_INTEGER)
_port = row(
    _variable, one_of(PUBLIC_RANGES), integer(-1, MAX_COUNT), text(MAX_NAME), true, optional=1
)
_HEADER: dict[str, Reader] = {
    "ops": items(
        row(
            one_of(RULES),
            items(_variable, MAX_COUNT),
            shape,
            items(nested(integer(-MAX_INTEGER, MAX_INTEGER), 2), MAX_COUNT),
        ),
        MAX_COUNT,
    ),
    "constants": items(shape, MAX_COUNT),
    "tables": items(
        row(text(MAX_TABLE_NAME), integer(1, MAX_ROWS), integer(1, MAX_COLUMNS)), MAX_COUNT
    ),
    "lookups": items(row(_variable, items(_variable, MAX_COLUMNS, 1)), MAX_COUNT),
    "zeros": items(_variable, MAX_COUNT),
    "obligations": items(row(_variable, _bound, _bound), MAX_COUNT),
    "inputs": items(_port, MAX_COUNT),
    "outputs": items(_port, MAX_COUNT),
}
_read_header = record(_HEADER)


def decode_program(raw: bytes) -> Program:
    """The program of an encoding (``Program.encode``); StatementError unless it is well-formed and
    canonical.
    """
    length = int.from_bytes(raw[:8], "little")
    if length > len(raw) - 8:
        raise StatementError("the statement file is truncated")
    where = "the header of the statement"
    header = _read_header(parse(raw[8 : 8 + length], where, MAX_HEADER), where)
    position = 8 + length

    def array(shape: tuple[int, ...]) -> np.ndarray:
        nonlocal position
        count = math.prod(shape)
        if position + 8 * count > len(raw):
            raise StatementError("the statement file is truncated")
        values = np.frombuffer(raw, dtype="<i8", count=count, offset=position)
        position += 8 * count
        if values.min() < -MAX_BOUND or values.max() > MAX_BOUND:
            raise StatementError("a constant is larger than fixed point holds")
        return values.reshape(shape).astype(np.int64)

    constants = [array(s) for s in header["constants"]]
    tables = []
    for name, rows, width in header["tables"]:
        columns = tuple(array((rows,)) for _ in range(width))
        try:
            tables.append(Table(name, columns))
        except OptionError as error:
            raise StatementError(str(error)) from error
    if position != len(raw):
        raise StatementError("the statement file has trailing bytes")
    program = Program(
        [Op(*op) for op in header["ops"]],
        constants,
        tables,
        [Lookup(*lookup) for lookup in header["lookups"]],
        list(header["zeros"]),
        [Port(*port) for port in header["inputs"]],
        [Port(*port) for port in header["outputs"]],
        list(header["obligations"]),
    )
    require_well_formed(program)
    require_same(raw, program.encode(), "the statement")
    return program
