"""What one party saw of a session: the basis of its own check, now or later."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np

import zkjax
from zkjax import wire
from zkjax._arguments import checked, typed
from zkjax._marks import Between, NewPath
from zkjax.errors import SessionError
from zkjax.files import read_capped, write_atomically
from zkjax.models.config import Checked, ModelConfig
from zkjax.program.trace import trace_call
from zkjax.proofs.adapter.manifest import MAX_BYTES, Manifest
from zkjax.proofs.adapter.statement import example, make_deltas, require_valid
from zkjax.tensors import Described, read_tensors
from zkjax.verify import verify_statement

MAX_PROOF = 1 << 26
MAX_RECORD = 1 << 32
FILES = ("manifest.json", "range.zkp", "record.safetensors", "proof.zkp", "session")
MOST = (MAX_BYTES, MAX_PROOF, MAX_RECORD, MAX_PROOF, 64)  # bytes of each that are read


Most = Annotated[int, Between(0, 1 << 50)]


@dataclass(frozen=True)
class Limits(Checked):
    """Limits of a session, the same on both sides; the server adds ``sessions``.

    Attributes:
      frame_bytes: the largest frame that is read.
      query_rows: activations that one query may hold.
      session_bytes: activations and deltas that the record of one session may hold.
      idle_seconds: how long a peer may be silent, or not read.
      proof_seconds: how long a user waits for a proof.
      session_seconds: the longest session.
      sessions: sessions at a time.
    """

    frame_bytes: Most = 32 << 20
    query_rows: Most = 1024
    session_bytes: Most = 128 << 20
    idle_seconds: float = 60.0
    proof_seconds: float = 900.0
    session_seconds: float = 3600.0
    sessions: Most = 32


class Record:
    """The activations and deltas of one session, and the digest of every frame.

    Attributes:
      manifest: what the contributor pinned, with its range proof.
      session: the digest of all frames before the request for a proof, once that has come.
      proof: the contributor's proof, once it has come.
    """

    @checked
    def __init__(self, manifest: Manifest, limit: Most | None = None):
        self.manifest, self.limit = manifest, limit
        self.session = b""
        self.proof: zkjax.Proof | None = None
        self.size = 0
        self._tokens = Counter[tuple[int, str]]()
        self._x: dict[tuple[int, str], list[np.ndarray]] = defaultdict(list)
        self._deltas: dict[tuple[int, str], list[np.ndarray]] = defaultdict(list)

    def room(self, group: str, tokens: int) -> None:
        """SessionError("limit") unless a query of this size still fits."""
        bytes_ = tokens * (2 * self.manifest.inputs(group) + 4 * self.manifest.outputs(group))
        if self.limit is not None and self.size + bytes_ > self.limit:
            raise SessionError("limit", f"a session may hold {self.limit} bytes")

    def add(self, layer: int, group: str, x: np.ndarray, deltas: np.ndarray) -> None:
        """One query and its answer: (tokens, inputs) int16 and (tokens, outputs) int32."""
        self.room(group, len(x))
        self.size += x.nbytes + deltas.nbytes
        self._tokens[layer, group] += len(x)
        self._x[layer, group].append(x)
        self._deltas[layer, group].append(deltas)

    @property
    def tokens(self) -> int:
        """Tokens at every site; SessionError("record") if the sites differ or there are none."""
        manifest = self.manifest
        counts = {self._tokens[layer, g] for layer in manifest.layers for g in manifest.groups()}
        if counts == {0}:
            raise SessionError("record", "nothing was asked in this session")
        if len(counts) != 1:
            raise SessionError("record", "the session ended in the middle of a forward pass")
        return counts.pop()

    def _stacked(self, parts, group: str) -> np.ndarray:
        return np.stack([np.concatenate(parts[layer, group]) for layer in self.manifest.layers])

    @property
    def xs(self) -> dict[str, np.ndarray]:
        """{group: (layers, tokens, inputs)} int16."""
        return {g: self._stacked(self._x, g) for g in self.manifest.groups()}

    @property
    def deltas(self) -> dict[str, np.ndarray]:
        """{target: (layers, tokens, outputs)} int32."""
        out = {}
        for group in self.manifest.groups():
            out |= self.manifest.split(group, self._stacked(self._deltas, group))
        return {t: np.ascontiguousarray(v) for t, v in out.items()}

    @property
    def context(self) -> bytes:
        """What the proof is bound to: the adapter and the session."""
        return self.manifest.digest + self.session

    @typed
    def verify(self, body: bytes) -> None:
        """Check a contributor's proof against this record; VerificationError otherwise. The
        manifest is believed: ``require_valid`` checks it.
        """
        manifest = self.manifest
        _ = self.tokens
        args = (manifest.commitment.like(example(manifest)), self.xs)
        traced = trace_call(make_deltas(manifest.dtype, manifest.fractions), args)
        deltas = self.deltas
        claims = traced.claims(
            args,
            manifest.commitment.profile,
            [deltas[t] for t in sorted(deltas)],
            context=self.context,
        )
        proof = zkjax.Proof(claims, body)
        verify_statement(traced.statement, proof)
        self.proof = proof

    @checked
    def save(self, folder: NewPath) -> None:
        """Write what a later check needs. The activations are those that the peers saw."""
        from safetensors.numpy import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.proof is None:
            raise SessionError("record", "the session has no proof yet")
        tensors = {f"x.{g}": v for g, v in self.xs.items()}
        tensors |= {f"delta.{t}": v for t, v in self.deltas.items()}
        write_atomically(folder / FILES[0], self.manifest.encode())
        write_atomically(folder / FILES[1], self.manifest.commitment.range_proof or b"")
        write_atomically(folder / FILES[2], save(tensors), private=True)
        write_atomically(folder / FILES[3], self.proof.body)
        write_atomically(folder / FILES[4], self.session.hex().encode())

    @classmethod
    @typed
    def load(cls, folder: str | Path) -> tuple[Record, bytes]:
        """A saved record and its proof's messages, not yet verified."""
        folder = Path(folder)
        told, range_proof, body, session = (
            read_capped(folder / FILES[i], MOST[i]) for i in (0, 1, 3, 4)
        )
        manifest = Manifest.decode(told)
        commitment = replace(manifest.commitment, range_proof=range_proof)
        record = cls(replace(manifest, commitment=commitment))
        record.session = wire.hexadecimal(32, 32)(session.decode("latin-1"), FILES[4])
        layers, groups = len(manifest.layers), manifest.groups()
        wanted = {f"x.{g}": ("I16", (layers, -1, manifest.inputs(g))) for g in groups} | {
            f"delta.{t}": ("I32", (layers, -1, o)) for t, (_, o) in manifest.targets.items()
        }
        require = partial(_require_described, wanted)
        arrays = read_tensors(folder / FILES[2], MAX_RECORD, require)
        if len({v.shape[1] for v in arrays.values()}) != 1:
            raise SessionError("record", "the saved arrays differ in their tokens")
        for group, targets in groups.items():
            x = arrays[f"x.{group}"]
            for i, layer in enumerate(manifest.layers):
                deltas = [arrays[f"delta.{t}"][i] for t in targets]
                record.add(layer, group, x[i], np.concatenate(deltas, axis=1))
        return record, body


def _require_described(
    wanted: Mapping[str, tuple[str, tuple[int, ...]]], found: Mapping[str, Described]
) -> None:
    """SessionError unless these are the arrays of a manifest, of any number of tokens."""
    if set(found) != set(wanted):
        raise SessionError("record", "the saved arrays are not those of the manifest")
    for name, (dtype, (layers, _, size)) in wanted.items():
        shape = found[name].shape
        right = len(shape) == 3 and (shape[0], shape[2]) == (layers, size)
        if found[name].dtype != dtype or not right:
            raise SessionError("record", f"{name} has another shape or type")


class Digest:
    """A running hash of all frames of a session, in the order they were sent and received."""

    def __init__(self):
        self._hash = hashlib.blake2s(person=b"zkj.sess")

    def update(self, frame: bytes) -> None:
        self._hash.update(len(frame).to_bytes(8, "little"))
        self._hash.update(frame)

    @property
    def value(self) -> bytes:
        return self._hash.copy().digest()


@typed
def verify_session(
    folder: str | Path,
    least: str = "s100",
    *,
    config: ModelConfig | None = None,
    base: str | None = None,
) -> Record:
    """Verify a saved session of either side again; VerificationError names the check that fails.

    With ``config`` and ``base`` the adapter has to fit this base model, of this digest.
    """
    record, body = Record.load(folder)
    require_valid(record.manifest, config=config, base=base, least=least)
    record.verify(body)
    return record
