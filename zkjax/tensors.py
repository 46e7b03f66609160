"""Named arrays from a safetensors file of a stranger, NumPy only.

The file begins with the length of a header (8 bytes, little endian), then comes the header, JSON:
for each name its dtype, shape and place in the rest of the file. The header is looked at before any
array is read, so a file that holds something else costs no more than its header. (The library that
defines the format maps the whole file and knows no limit.)
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zkjax import wire
from zkjax.errors import StatementError
from zkjax.files import open_regular

MAX_HEADER = 1 << 22
# As they lie in a file. BF16 is the upper half of a float32.
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4", "I16": "<i2"}


class Described(NamedTuple):
    """What a header says of an array; ``start`` and ``end`` are its place after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_tensors(
    path: str | Path, most: int, require: Callable[[Mapping[str, Described]], None]
) -> dict[str, np.ndarray]:
    """All arrays of a file of at most ``most`` bytes, BF16 as float32.

    Args:
      require: called with what the header says before any array is read; may refuse it.
    Raises:
      StatementError: the file is none of this format, or too large.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise StatementError(f"{path} is larger than {most:,} bytes")
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
            wire.refuse(str(path), "not a safetensors file (its header has no possible length)")
        header = wire.parse(file.read(length), f"header of {path}", MAX_HEADER)
        found = _described(header, str(path))
        require(found)
        _require_places(found, size - 8 - length, str(path))
        arrays = {}
        for name, told in sorted(found.items(), key=lambda item: item[1].start):
            data = file.read(told.end - told.start)
            if len(data) != told.end - told.start:
                wire.refuse(str(path), "it has become shorter meanwhile")
            arrays[name] = _array(data, told)
        return arrays


_POSITION = wire.integer(0, (1 << 62) - 1)
_ENTRY = wire.record(
    {
        "dtype": wire.text(16),
        "shape": wire.items(wire.integer(0, wire.MAX_AXIS), wire.MAX_RANK),
        "data_offsets": wire.row(_POSITION, _POSITION),
    }
)


def _described(header: Any, where: str) -> dict[str, Described]:
    if type(header) is not dict:
        wire.refuse(where, "its header is not an object")
    if type(header.pop("__metadata__", {})) is not dict:
        wire.refuse(where, "its metadata are not an object")
    entries = {name: _ENTRY(value, f"{where}, {name}") for name, value in header.items()}
    return {n: Described(e["dtype"], e["shape"], *e["data_offsets"]) for n, e in entries.items()}


def _require_places(found: Mapping[str, Described], size: int, where: str) -> None:
    """Arrays of known types, one after another, and nothing beside them."""
    end = 0
    for name, told in sorted(found.items(), key=lambda item: (item[1].start, item[1].end)):
        if told.dtype not in DTYPES:
            wire.refuse(f"{where}, {name}", f"{told.dtype} is not one of {', '.join(DTYPES)}")
        length = math.prod(told.shape) * np.dtype(DTYPES[told.dtype]).itemsize
        if (told.start, told.end) != (end, end + length):
            wire.refuse(f"{where}, {name}", "its place does not follow from shapes and types")
        end = told.end
    if end != size:
        wire.refuse(where, f"{size:,} bytes of arrays where {end:,} are described")


def _array(data: bytes, told: Described) -> np.ndarray:
    values = np.frombuffer(data, DTYPES[told.dtype]).reshape(told.shape)
    if told.dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values
