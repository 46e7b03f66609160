"""One way to read JSON from a stranger: bounded, typed, canonical. Standard library and NumPy only.

``parse`` looks at the text before a parser builds anything from it: its size, the number of its
values (an empty list takes 3 bytes of text and 64 of memory), its depth, the length of its numbers.
Then a *reader* takes the value apart. A reader is a function (value, where) -> typed value that
raises ``StatementError``, and readers of lists and objects are made from readers of their parts. An
integer is a Python ``int`` in a range; no boolean, float or string stands for one. An object has
exactly the keys that it should have. What is read is encoded again by whoever reads it, and
``require_same`` refuses a text that differs: there is one way to write everything.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from zkjax.errors import StatementError

Reader = Callable[[Any, str], Any]

MAX_VALUES = 1 << 19  # lists, objects and their members in one text
MAX_DEPTH = 16
MAX_DIGITS = 19  # of an integer: 2^63 has so many

_BLOCK = 1 << 20
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS + 1))
_HEXADECIMAL = re.compile("[0-9a-f]*")
_NUMBER = re.compile("0|[1-9][0-9]{0,18}")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def refuse(where: str, wanted: str) -> NoReturn:
    raise StatementError(f"{where}: {wanted}")


def parse(data: bytes, where: str, most: int, escapes: bool = True) -> Any:
    """The value of a JSON text in ASCII of at most ``most`` bytes.

    Without ``escapes`` no string may hold a backslash; then none takes more memory than it has
    bytes.

    Raises:
      StatementError: it is none, or larger, deeper or with longer numbers than allowed, or it holds
        a float, NaN or the same key twice.
    """
    if len(data) > most:
        refuse(where, f"{len(data):,} bytes of text; {most:,} are allowed")
    if not data.isascii():
        refuse(where, "a byte that is not ASCII")
    if not escapes and b"\\" in data:
        refuse(where, "a backslash")
    # Backslashes go first, in pairs from the left, then every quote left opens or ends a string.
    skeleton = _outside_strings(data.replace(rb"\\", b"").replace(rb"\"", b""))
    if sum(map(skeleton.count, (b"[", b"{", b",", b":"))) > MAX_VALUES:
        refuse(where, f"more than {MAX_VALUES:,} values")
    brackets = np.frombuffer(skeleton.translate(None, _NO_BRACKETS), dtype=np.uint8)
    opening = (brackets == ord("[")) | (brackets == ord("{"))
    if np.cumsum(np.where(opening, 1, -1)).max(initial=0) > MAX_DEPTH:
        refuse(where, f"nested more than {MAX_DEPTH} deep")
    if _LONG_NUMBER.search(skeleton):
        refuse(where, f"a number of more than {MAX_DIGITS} digits")
    del skeleton
    try:
        return json.loads(
            data.decode(), object_pairs_hook=_unique, parse_float=_float, parse_constant=_float
        )
    except (ValueError, RecursionError) as error:
        raise StatementError(f"{where}: not JSON ({error})") from error


def _outside_strings(data: bytes) -> bytes:
    """The text without its strings, block by block so that their number takes no memory."""
    parts, inside = [], np.uint8(0)
    for start in range(0, len(data), _BLOCK):
        block = np.frombuffer(data[start : start + _BLOCK], dtype=np.uint8)
        quotes = block == ord('"')
        within = np.bitwise_xor.accumulate(quotes.view(np.uint8)) ^ inside
        inside = within[-1]
        parts.append(block[~(quotes | (within != 0))].tobytes())
    return b"".join(parts)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _float(text: str) -> NoReturn:
    raise ValueError("a number is not an integer")


def require_same(data: bytes, again: bytes, where: str) -> None:
    """StatementError unless what was read is written as it was found."""
    if data != again:
        refuse(where, "not in its canonical form")


# Readers ------------------------------------------------------------------------------------


def integer(low: int, high: int) -> Reader:
    """An integer in [low, high]."""

    def read(value: Any, where: str) -> int:
        if type(value) is not int or not low <= value <= high:
            refuse(where, f"not an integer from {low} to {high}")
        return value

    return read


def text(most: int) -> Reader:
    """A string of at most so many characters."""

    def read(value: Any, where: str) -> str:
        if type(value) is not str or len(value) > most:
            refuse(where, f"not a string of at most {most} characters")
        return value

    return read


def one_of(names) -> Reader:
    """One of some strings."""
    names = frozenset(names)

    def read(value: Any, where: str) -> str:
        if type(value) is not str or value not in names:
            refuse(where, "not one of " + ", ".join(sorted(names)))
        return value

    return read


def true(value: Any, where: str) -> bool:
    """The value true; false is told by leaving it out."""
    if value is not True:
        refuse(where, "not true")
    return True


def items(reader: Reader, most: int, least: int = 0) -> Reader:
    """A list of alike things, as a tuple."""

    def read(value: Any, where: str) -> tuple:
        if type(value) is not list or not least <= len(value) <= most:
            refuse(where, f"not a list of {least} to {most} things")
        return tuple(reader(v, where) for v in value)

    return read


def row(*readers: Reader, optional: int = 0) -> Reader:
    """A list of different things, as a tuple; the last ``optional`` ones may be left out."""

    def read(value: Any, where: str) -> tuple:
        least = len(readers) - optional
        if type(value) is not list or not least <= len(value) <= len(readers):
            refuse(where, f"not a list of {least} to {len(readers)} things")
        return tuple(r(v, where) for r, v in zip(readers, value, strict=False))

    return read


def nested(leaf: Reader, depth: int) -> Reader:
    """Lists of lists of leaves, at most ``depth`` deep, as tuples."""

    def read(value: Any, where: str, left: int = depth) -> Any:
        if type(value) is not list:
            return leaf(value, where)
        if not left:
            refuse(where, f"nested more than {depth} deep")
        return tuple(read(v, where, left - 1) for v in value)

    return read


def record(fields: Mapping[str, Reader], optional: Mapping[str, Reader] | None = None) -> Reader:
    """An object with exactly these keys, and perhaps the ``optional`` ones, as a dict."""
    readers = {**fields, **(optional or {})}

    def read(value: Any, where: str) -> dict[str, Any]:
        if type(value) is not dict or not fields.keys() <= value.keys() <= readers.keys():
            refuse(where, "not an object with the keys " + ", ".join(fields))
        return {k: readers[k](v, f"{where}, {k}") for k, v in value.items()}

    return read


def numbered(reader: Reader, most: int) -> Reader:
    """An object whose keys are the decimal digits of different integers in [0, most)."""

    def read(value: Any, where: str) -> dict[int, Any]:
        if type(value) is not dict or not all(_NUMBER.fullmatch(k) for k in value):
            refuse(where, "not an object with numbers for keys")
        if not all(int(k) < most for k in value):
            refuse(where, f"a key that is not below {most}")
        return {int(k): reader(v, f"{where} {k}") for k, v in value.items()}

    return read


def hexadecimal(most: int, least: int = 0) -> Reader:
    """Bytes as lower-case hexadecimal digits."""

    def read(value: Any, where: str) -> bytes:
        right = type(value) is str and len(value) % 2 == 0 and _HEXADECIMAL.fullmatch(value)
        if not right or not least <= len(value) // 2 <= most:
            refuse(where, f"not {least} to {most} bytes in lower-case hexadecimal digits")
        return bytes.fromhex(value)

    return read


def base64_bytes(value: Any, where: str) -> bytes:
    """Bytes in base64."""
    try:
        if type(value) is not str:
            raise ValueError("not a string")
        return base64.b64decode(value, validate=True)
    except ValueError as error:
        raise StatementError(f"{where}: not base64 ({error})") from error


# Shapes -------------------------------------------------------------------------------------

MAX_RANK = 32
MAX_AXIS = 1 << 26
MAX_ELEMENTS = 1 << 40  # of one tensor, each axis padded to a power of two


def shape(value: Any, where: str) -> tuple[int, ...]:
    """The shape of a tensor that is not empty."""
    lengths = _lengths(value, where)
    if math.prod(1 << (n - 1).bit_length() for n in lengths) > MAX_ELEMENTS:
        refuse(where, f"a tensor of more than {MAX_ELEMENTS:,} elements")
    return lengths


_lengths = items(integer(1, MAX_AXIS), MAX_RANK)
