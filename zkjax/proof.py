"""What travels: commitments, claims and proofs, and their files. NumPy only."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zkjax._arguments import checked
from zkjax.argument.budget import PROFILES, choose_code, profile_named
from zkjax.argument.code import Code
from zkjax.argument.layout import Layout, choose_log_row, padded_log
from zkjax.errors import StatementError, VerificationError
from zkjax.files import write_atomically
from zkjax.program.dtypes import DTYPE_RANGES, PUBLIC_RANGES
from zkjax.wire import (
    base64_bytes,
    hexadecimal,
    integer,
    items,
    numbered,
    one_of,
    parse,
    record,
    require_same,
    shape,
    text,
)

MAGIC = b"ZKJXPRF1"
VERSION = "zkjax proof 1"
MAX_OPENINGS = 1 << 16
MAX_TENSORS = 1 << 16  # of a commitment, or ports of a statement
MAX_CLAIMS = 1 << 30  # bytes of a claims file
MAX_CONTEXT = 1 << 20  # bytes


@dataclass(frozen=True)
class Commitment:
    """A hiding commitment to a list of integer tensors.

    ``openings`` is the number of proofs it can enter in its life. The code and the layout follow
    from the shapes, the openings and the profile. Not part of the commitment are ``treedef``, the
    pytree structure of the committed value where it is known (see ``like``), and ``range_proof``,
    which shows once and for all that the values fit their dtypes (see ``zkjax.ranges``).
    """

    root: bytes
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    openings: int
    profile: str
    treedef: Any = field(default=None, compare=False, repr=False)
    range_proof: bytes | None = field(default=None, compare=False, repr=False)

    def like(self, example: Any) -> Commitment:
        """This commitment with the pytree structure of ``example``, for ``verify`` of a
        function.
        """
        import jax

        return replace(self, treedef=jax.tree_util.tree_structure(example))

    @cached_property
    def layout(self) -> Layout:
        return committed_layout(self.shapes, self.openings, self.profile)

    @property
    def code(self) -> Code:
        return self.layout.code

    def to_json(self) -> dict:
        data = self.identity()
        if self.range_proof is not None:
            data["range_proof"] = base64.b64encode(self.range_proof).decode()
        return data

    @property
    def digest(self) -> bytes:
        """The name of the commitment. Its root alone is none: the shapes say how to read it."""
        return hashlib.blake2s(self.encode(), person=b"zkj.cmmt").digest()

    def encode(self) -> bytes:
        """What is absorbed into transcripts."""
        return json.dumps(self.identity(), sort_keys=True).encode()

    def identity(self) -> dict:
        """Everything but the range proof."""
        return {
            "root": self.root.hex(),
            "shapes": [list(s) for s in self.shapes],
            "dtypes": list(self.dtypes),
            "openings": self.openings,
            "profile": self.profile,
        }

    @classmethod
    def from_json(cls, data: Any) -> Commitment:
        """The commitment that ``to_json`` told; StatementError if ``data`` cannot be from there."""
        told = _read_commitment(data, "a commitment")
        if len(told["shapes"]) != len(told["dtypes"]):
            raise StatementError("a commitment has another number of shapes than of dtypes")
        commitment = cls(**told)
        if commitment.to_json() != data:
            raise StatementError("a commitment is not in its canonical form")
        return commitment

    def __str__(self) -> str:
        return self.digest.hex()


def committed_layout(shapes, openings: int, profile: str) -> Layout:
    """The layout of tensors committed together, for a number of openings."""
    elements = sum(1 << padded_log(s) for s in shapes)
    code = choose_code(choose_log_row(elements), openings, profile_named(profile))
    return Layout(tuple(shapes), code)


@dataclass
class Claims:
    """What a verifier is told: public inputs and outputs, commitments to sealed ones.

    ``context`` is bound by the proof and otherwise without meaning: a name, a date, a digest of a
    document, that the prover vouches for together with the statement.
    """

    statement: bytes
    profile: str
    inputs: dict[int, np.ndarray]
    outputs: dict[int, np.ndarray]
    input_commitments: list[Commitment]
    output_commitments: list[Commitment]
    context: bytes = b""

    def to_json(self) -> str:
        """The claims file; what ``from_json`` takes is exactly what this gives."""
        return json.dumps(
            {
                "context": self.context.hex(),
                "statement": self.statement.hex(),
                "profile": self.profile,
                "inputs": {str(k): _array_json(v) for k, v in sorted(self.inputs.items())},
                "outputs": {str(k): _array_json(v) for k, v in sorted(self.outputs.items())},
                "input_commitments": [c.to_json() for c in self.input_commitments],
                "output_commitments": [c.to_json() for c in self.output_commitments],
            },
            indent=1,
        )

    @classmethod
    @checked
    def from_json(cls, text: str | bytes) -> Claims:
        """Read a claims file; StatementError says what is wrong with it."""
        where = "the claims"
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        claims = cls(**_read_claims(parse(data, where, MAX_CLAIMS, escapes=False), where))
        require_same(data, claims.to_json().encode(), where)
        return claims


def _array_json(a: np.ndarray) -> dict:
    data = np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("<")).tobytes()
    return {
        "dtype": a.dtype.name,
        "shape": list(a.shape),
        "data": base64.b64encode(data).decode(),
    }


_read_array = record({"dtype": one_of(PUBLIC_RANGES), "shape": shape, "data": base64_bytes})


def _array_from(value: Any, where: str) -> np.ndarray:
    told = _read_array(value, where)
    dtype, raw = np.dtype(told["dtype"]), told["data"]
    if len(raw) != dtype.itemsize * math.prod(told["shape"]):
        raise StatementError(f"{where}: not of its declared size")
    if told["dtype"] == "bool" and raw.strip(b"\0\1"):
        raise StatementError(f"{where}: a boolean that is neither 0 nor 1")
    return np.frombuffer(raw, dtype=dtype.newbyteorder("<")).astype(dtype).reshape(told["shape"])


_read_commitment = record(
    {
        "root": hexadecimal(32, 32),
        "shapes": items(shape, MAX_TENSORS, 1),
        "dtypes": items(one_of(DTYPE_RANGES), MAX_TENSORS, 1),
        "openings": integer(1, MAX_OPENINGS),
        "profile": one_of(PROFILES),
    },
    optional={"range_proof": base64_bytes},
)
_commitments = items(lambda value, where: Commitment.from_json(value), MAX_TENSORS)
_read_claims = record(
    {
        "context": hexadecimal(MAX_CONTEXT),
        "statement": hexadecimal(32, 32),
        "profile": text(8),
        "inputs": numbered(_array_from, MAX_TENSORS),
        "outputs": numbered(_array_from, MAX_TENSORS),
        "input_commitments": _commitments,
        "output_commitments": _commitments,
    }
)


@dataclass
class Proof:
    """A zero-knowledge proof: the claims it is about and the messages."""

    claims: Claims
    body: bytes
    report: dict | None = None

    def __repr__(self) -> str:
        statement = self.claims.statement.hex()[:16]
        return f"Proof(statement {statement}, {self.profile}, {len(self.body):,} bytes)"

    @property
    def profile(self) -> str:
        return self.claims.profile

    def encode(self) -> bytes:
        """The proof file: magic, profile, messages."""
        return MAGIC + self.profile.encode().ljust(8, b"\0") + self.body

    @checked
    def save(self, path: str | Path) -> None:
        write_atomically(path, self.encode())

    @classmethod
    @checked
    def decode(cls, data: bytes, claims: Claims) -> Proof:
        """Read a proof file; the profile it names must be the one claimed."""
        if data[:8] != MAGIC or len(data) < 16:
            raise VerificationError("proof header", "not a zkjax proof of this version")
        if claims.profile not in PROFILES:
            raise VerificationError("profile", f"unknown profile {claims.profile!r}")
        if data[8:16] != claims.profile.encode().ljust(8, b"\0"):
            raise VerificationError("proof header", "the proof is of another profile")
        return cls(claims, data[16:])
