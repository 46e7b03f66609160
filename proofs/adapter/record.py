"""What one party saw of a session: the basis of its own check, now or later."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import zkjax
from zkjax.errors import SessionError, StatementError
from zkjax.files import read_capped, write_atomically
from zkjax.program.trace import trace_call
from zkjax.proofs.adapter.manifest import MAX_BYTES, STORED, Manifest
from zkjax.proofs.adapter.statement import example, make_deltas
from zkjax.verify import require_profile, verify_statement

MAX_PROOF = 1 << 26
FILES = ("manifest.json", "range.zkp", "record.safetensors", "proof.zkp")
MOST = (MAX_BYTES, MAX_PROOF, 1 << 32, MAX_PROOF)  # bytes of each that are read


@dataclass(frozen=True)
class Limits:
    """Limits of a session, the same on both sides; the server adds ``sessions``.

    Attributes:
      frame_bytes: the largest frame that is read.
      session_bytes: activations and deltas that the record of one session may hold.
      idle_seconds: how long a peer may be silent, or not read.
      proof_seconds: how long a user waits for a proof.
      session_seconds: the longest session.
      sessions: sessions at a time.
    """

    frame_bytes: int = 32 << 20
    session_bytes: int = 128 << 20
    idle_seconds: float = 60.0
    proof_seconds: float = 900.0
    session_seconds: float = 3600.0
    sessions: int = 32


class Record:
    """The activations and deltas of one session, and the digest of every frame.

    Attributes:
      manifest: what the contributor pinned, with its range proof.
      proof: the contributor's proof, once it has come.
    """

    def __init__(self, manifest: Manifest, limit: int | None = None):
        self.manifest, self.limit = manifest, limit
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

    def verify(self, body: bytes, least: str = "s100") -> None:
        """Check a contributor's proof against this record alone; VerificationError otherwise."""
        manifest = self.manifest
        require_profile(manifest.commitment.profile, least)
        _ = self.tokens
        args = (manifest.commitment.like(example(manifest)), self.xs)
        traced = trace_call(make_deltas(STORED[manifest.dtype]), args)
        deltas = self.deltas
        claims = traced.claims(
            args,
            manifest.commitment.profile,
            [deltas[t] for t in sorted(deltas)],
            context=manifest.digest,
        )
        proof = zkjax.Proof(claims, body)
        verify_statement(traced.statement, proof)
        self.proof = proof

    def save(self, folder: str | Path) -> None:
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

    @classmethod
    def load(cls, folder: str | Path) -> tuple[Record, bytes]:
        """A saved record and its proof's messages, not yet verified."""
        from safetensors.numpy import load

        folder = Path(folder)
        try:
            data = [read_capped(folder / n, most) for n, most in zip(FILES, MOST, strict=True)]
            manifest, range_proof, body = Manifest.decode(data[0]), data[1], data[3]
            tensors = load(data[2])
        except (SessionError, StatementError):
            raise
        except Exception as error:  # whatever the files hold
            raise StatementError(f"{folder} is not a saved session: {error!r}") from error
        commitment = replace(manifest.commitment, range_proof=range_proof)
        manifest = replace(manifest, commitment=commitment)
        record = cls(manifest)
        names = {f"x.{g}" for g in manifest.groups()} | {f"delta.{t}" for t in manifest.targets}
        if set(tensors) != names:
            raise SessionError("record", "the saved arrays are not those of the manifest")
        tokens = {v.shape[1] if v.ndim == 3 else -1 for v in tensors.values()}
        if len(tokens) != 1:
            raise SessionError("record", "the saved arrays differ in their tokens")
        (n,) = tokens
        for group, targets in manifest.groups().items():
            x = tensors[f"x.{group}"]
            deltas = [tensors[f"delta.{t}"] for t in targets]
            shapes = [(len(manifest.layers), n, manifest.targets[t][1]) for t in targets]
            if x.shape != (len(manifest.layers), n, manifest.inputs(group)) or x.dtype != np.int16:
                raise SessionError("record", f"x.{group} has another shape or type")
            if [d.shape for d in deltas] != shapes or any(d.dtype != np.int32 for d in deltas):
                raise SessionError("record", f"deltas of {group} have another shape or type")
            for i, layer in enumerate(manifest.layers):
                record.add(layer, group, x[i], np.concatenate([d[i] for d in deltas], axis=1))
        return record, body


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


def verify_session(folder: str | Path, least: str = "s100") -> Record:
    """Verify a saved session of either side again; VerificationError names the check that fails."""
    record, body = Record.load(folder)
    record.verify(body, least)
    return record
