"""The frames of the adapter protocol: a strict binary schema, parsed without trust.

Every frame is a header of 16 bytes and a body. The header is magic, version, type, two zero bytes,
the sequence number in its direction and the length of the body, all little endian. Bodies are fixed
fields and raw integer arrays whose sizes follow from the fields; nothing is ever unpickled, and a
frame is refused before anything is allocated for it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, fields
from typing import ClassVar

import numpy as np

from zkjax.errors import SessionError
from zkjax.models.config import INPUT_GROUPS

MAGIC = b"ZKJA"
VERSION = 2
HEADER = struct.Struct("<4sBBHII")
GROUPS = tuple(INPUT_GROUPS)
MAX_TEXT = 500


@dataclass(frozen=True)
class Hello:
    """User: the first frame. ``least`` is the least security profile it accepts."""

    nonce: bytes
    least: str


@dataclass(frozen=True)
class Offer:
    """Contributor: its manifest, pinned before the first activation, and its range proof."""

    nonce: bytes
    manifest: bytes
    range_proof: bytes


@dataclass(frozen=True)
class Accept:
    """User: the digest of the manifest it accepts."""

    manifest: bytes


@dataclass(frozen=True)
class Query:
    """User: what the linear layers of one group read, (tokens, inputs) int16."""

    layer: int
    group: str
    x: np.ndarray = field(compare=False)


@dataclass(frozen=True)
class Answer:
    """Contributor: x A B for the adapted targets of the group, in order, side by side,
    (tokens, total outputs) int32.
    """

    layer: int
    group: str
    deltas: np.ndarray = field(compare=False)


@dataclass(frozen=True)
class Finish:
    """User: no more queries; the digest of all frames so far, as it saw them."""

    digest: bytes


@dataclass(frozen=True)
class FinishSealed:
    """User: as ``Finish``, with commitments to the activations and deltas of the session.

    ``secrets`` are the blinding and the nonces of the two commitments: the contributor knows the
    values, and opens the same commitments in its proof.
    """

    digest: bytes
    commitments: bytes
    secrets: bytes


@dataclass(frozen=True)
class Waiting:
    """Contributor: so many proofs are made before this one; 0: it is being made."""

    ahead: int


@dataclass(frozen=True)
class ProofFrame:
    """Contributor: the messages of its proof."""

    body: bytes


@dataclass(frozen=True)
class Done:
    """User: the proof is accepted; the end of the session."""


@dataclass(frozen=True)
class Refusal:
    """Either side: the session ends here, for this reason."""

    check: str
    detail: str


Frame = (
    Hello
    | Offer
    | Accept
    | Query
    | Answer
    | Finish
    | FinishSealed
    | Waiting
    | ProofFrame
    | Done
    | Refusal
)
TYPES: tuple[type, ...] = (
    Hello,
    Offer,
    Accept,
    Query,
    Answer,
    Finish,
    FinishSealed,
    Waiting,
    ProofFrame,
    Done,
    Refusal,
)


class _Reader:
    """Takes fields off a body; every shortage or excess is a SessionError."""

    def __init__(self, body: memoryview):
        self.body, self.position = body, 0

    def take(self, n: int) -> memoryview:
        if n < 0 or self.position + n > len(self.body):
            raise SessionError("frame", "truncated")
        self.position += n
        return self.body[self.position - n : self.position]

    def number(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def blob(self) -> bytes:
        return bytes(self.take(self.number()))

    def digest(self) -> bytes:
        return bytes(self.take(32))

    def text(self) -> str:
        raw = self.blob()
        if len(raw) > MAX_TEXT:
            raise SessionError("frame", "a text is too long")
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise SessionError("frame", "a text is not UTF-8") from None
        if not text.isprintable():
            raise SessionError("frame", "a text has control characters")
        return text

    def group(self) -> str:
        index = self.take(1)[0]
        if index >= len(GROUPS):
            raise SessionError("frame", f"unknown input group {index}")
        return GROUPS[index]

    def matrix(self, dtype: str) -> np.ndarray:
        """(rows, columns), both at least 1; a view of the frame."""
        rows, columns = self.number(), self.number()
        if not rows or not columns:
            raise SessionError("frame", "an empty array")
        raw = self.take(rows * columns * np.dtype(dtype).itemsize)
        return np.frombuffer(raw, dtype).reshape(rows, columns)

    def end(self) -> None:
        if self.position != len(self.body):
            raise SessionError("frame", "trailing bytes")


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def _array(values: np.ndarray, dtype: str) -> bytes:
    rows, columns = values.shape
    return struct.pack("<II", rows, columns) + np.ascontiguousarray(values, dtype).tobytes()


def _text(text: str) -> bytes:
    plain = "".join(c if c.isprintable() else " " for c in text)
    return _sized(plain.encode("ascii", "replace")[:MAX_TEXT])


class Schema:
    """How each field of a frame is written and read, by the field's name."""

    digest = (lambda v: v, _Reader.digest)
    sized = (_sized, _Reader.blob)
    text = (_text, _Reader.text)
    FIELDS: ClassVar = {
        "nonce": digest,
        "digest": digest,
        "least": text,
        "check": text,
        "detail": text,
        "manifest": sized,
        "range_proof": sized,
        "commitments": sized,
        "secrets": sized,
        "body": sized,
        "layer": (lambda v: v.to_bytes(4, "little"), _Reader.number),
        "ahead": (lambda v: v.to_bytes(4, "little"), _Reader.number),
        "group": (lambda v: bytes([GROUPS.index(v)]), _Reader.group),
        "x": (lambda v: _array(v, "<i2"), lambda r: r.matrix("<i2")),
        "deltas": (lambda v: _array(v, "<i4"), lambda r: r.matrix("<i4")),
    }


def encode(frame: Frame, sequence: int) -> bytes:
    """The bytes of a frame."""
    body = b"".join(Schema.FIELDS[f.name][0](getattr(frame, f.name)) for f in fields(frame))
    header = HEADER.pack(MAGIC, VERSION, TYPES.index(type(frame)), 0, sequence, len(body))
    return header + body


def decode(data: bytes, sequence: int, limit: int) -> Frame:
    """Parse one frame that must be number ``sequence`` in its direction.

    Raises:
      SessionError: "frame", "sequence" or "limit"; never anything else, whatever the bytes.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise SessionError("frame", "not binary")
    if len(data) > limit:
        raise SessionError("limit", f"a frame of {len(data)} bytes; the limit is {limit}")
    if len(data) < HEADER.size:
        raise SessionError("frame", "truncated")
    magic, version, kind, zero, number, length = HEADER.unpack_from(data)
    if magic != MAGIC or zero:
        raise SessionError("frame", "not a frame of this protocol")
    if version != VERSION:
        raise SessionError("frame", f"protocol version {version}; this is version {VERSION}")
    if kind >= len(TYPES):
        raise SessionError("frame", f"unknown type {kind}")
    if length != len(data) - HEADER.size:
        raise SessionError("frame", "truncated or extended")
    if number != sequence:
        raise SessionError("sequence", f"frame {number} where {sequence} was due")
    reader = _Reader(memoryview(data)[HEADER.size :])
    values = {f.name: Schema.FIELDS[f.name][1](reader) for f in fields(TYPES[kind])}
    reader.end()
    return TYPES[kind](**values)
