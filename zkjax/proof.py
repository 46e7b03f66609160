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

from zkjax.argument.budget import PROFILES, choose_code, profile_named
from zkjax.argument.code import Code
from zkjax.argument.layout import Layout, choose_log_row, padded_log
from zkjax.errors import StatementError, VerificationError
from zkjax.files import write_atomically

MAGIC = b"ZKJXPRF1"
VERSION = "zkjax proof 1"
INTEGERS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32")  # that can be sealed
MAX_OPENINGS = 1 << 16


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
    def from_json(cls, data: dict) -> Commitment:
        root = bytes.fromhex(data["root"])
        shapes = tuple(tuple(int(n) for n in s) for s in data["shapes"])
        openings = int(data["openings"])
        dtypes, proof = tuple(map(str, data["dtypes"])), data.get("range_proof")
        described = len(shapes) == len(dtypes) > 0 and all(n >= 1 for s in shapes for n in s)
        known = data["profile"] in PROFILES and set(dtypes) <= set(INTEGERS)
        if len(root) != 32 or not 1 <= openings <= MAX_OPENINGS or not described or not known:
            raise StatementError("a commitment is malformed")
        if proof is not None:
            proof = base64.b64decode(proof, validate=True)
        return cls(root, shapes, dtypes, openings, data["profile"], range_proof=proof)

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
        return json.dumps(
            {
                "context": self.context.hex(),
                "statement": self.statement.hex(),
                "profile": self.profile,
                "inputs": {str(k): _array_json(v) for k, v in self.inputs.items()},
                "outputs": {str(k): _array_json(v) for k, v in self.outputs.items()},
                "input_commitments": [c.to_json() for c in self.input_commitments],
                "output_commitments": [c.to_json() for c in self.output_commitments],
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Claims:
        try:
            data = json.loads(text)
            return cls(
                bytes.fromhex(data["statement"]),
                str(data["profile"]),
                {int(k): _array_from(v) for k, v in data["inputs"].items()},
                {int(k): _array_from(v) for k, v in data["outputs"].items()},
                [Commitment.from_json(c) for c in data["input_commitments"]],
                [Commitment.from_json(c) for c in data["output_commitments"]],
                bytes.fromhex(data["context"]),
            )
        except StatementError:
            raise
        except Exception as error:  # any malformed content
            raise StatementError(f"the claims are malformed ({error})") from error


def _array_json(a: np.ndarray) -> dict:
    data = np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("<")).tobytes()
    return {
        "dtype": a.dtype.name,
        "shape": list(a.shape),
        "data": base64.b64encode(data).decode(),
    }


def _array_from(data: dict) -> np.ndarray:
    dtype = np.dtype(data["dtype"])
    if dtype.kind not in "iub":
        raise StatementError("a claimed array is not of integers")
    raw = base64.b64decode(data["data"], validate=True)
    shape = tuple(int(n) for n in data["shape"])
    if len(raw) != dtype.itemsize * math.prod(shape) or min(shape, default=0) < 0:
        raise StatementError("a claimed array does not have its declared size")
    return np.frombuffer(raw, dtype=dtype.newbyteorder("<")).astype(dtype).reshape(shape)


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

    def save(self, path: str | Path) -> None:
        write_atomically(path, self.encode())

    @classmethod
    def decode(cls, data: bytes, claims: Claims) -> Proof:
        """Read a proof file; the profile it names must be the one claimed."""
        if data[:8] != MAGIC or len(data) < 16:
            raise VerificationError("proof header", "not a zkjax proof of this version")
        if claims.profile not in PROFILES:
            raise VerificationError("profile", f"unknown profile {claims.profile!r}")
        if data[8:16] != claims.profile.encode().ljust(8, b"\0"):
            raise VerificationError("proof header", "the proof is of another profile")
        return cls(claims, data[16:])
