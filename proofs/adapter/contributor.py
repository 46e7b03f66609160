"""The contributor's side: an adapter, its commitment, and the sessions in which it is used.

A session is a state machine over frames (``receive`` takes one and returns the answer, if any), so
the same code runs behind a socket, in memory and in tests.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from zkjax.models.config import TARGETS
from zkjax.proofs.adapter import frames
from zkjax.proofs.adapter.leakage import Leakage
from zkjax.proofs.adapter.limits import Limits
from zkjax.proofs.adapter.manifest import (
    STORED,
    WEIGHT_FRACTION,
    Manifest,
)
from zkjax.proofs.adapter.record import Digest, Record
from zkjax.proofs.adapter.statement import (
    NUMERICS,
    make_deltas,
    make_differences,
    one_token_digest,
)

import zkjax
from zkjax.argument.budget import PROFILES
from zkjax.errors import SealError, SessionError, ValueRangeError
from zkjax.proof import Commitment
from zkjax.prove import prove_ranges

DEFAULT_SESSIONS = 100
MAX_COMMITMENTS = 1 << 16  # bytes of JSON


def commit_adapter(
    weights: Any,
    layers: tuple[int, ...],
    log2_scale: int,
    *,
    sessions: int = DEFAULT_SESSIONS,
    profile: str = "s100",
) -> tuple[zkjax.Sealed, Manifest]:
    """Commit to an adapter, prove the range of its weights, and describe it.

    Args:
      weights: stored weights {target: {"a": (layers, inputs, r), "b": (layers, r, outputs)}},
        int16 with 12 fraction bits, or a ``Sealed`` value of these or of int32 with 24 bits, for
        example an output of a fine-tuning proof.
      layers: the layers of the base model that the leading axis stands for.
      log2_scale: log2 of alpha / r.
      sessions: how many sessions the commitment may serve; each costs blinding.
    Returns:
      the sealed adapter (private) and its manifest (public).
    """
    rounded_weights(weights.tree if isinstance(weights, zkjax.Sealed) else weights)
    if not isinstance(weights, zkjax.Sealed):
        weights = zkjax.seal(weights, openings=sessions, profile=profile, ranges=True)
    elif weights.commitment.range_proof is None:
        prove_ranges(weights)
    tree = weights.tree
    targets = {t: (tree[t]["a"].shape[1], tree[t]["b"].shape[2]) for t in TARGETS if t in tree}
    first = next(iter(tree.values()))["a"]
    manifest = Manifest(
        layers, targets, first.shape[2], log2_scale, first.dtype.name, "00" * 32, weights.commitment
    )
    manifest = replace(manifest, statement=one_token_digest(manifest))
    manifest.check()
    return weights, manifest


class Contributor:
    """A sealed adapter, ready to serve sessions.

    Args:
      sealed, manifest: from ``commit_adapter``.
      leakage: what the answers of all sessions have revealed; by default half of the dimensions
        may be queried.
      progress: called with the name of each phase of a proof.
    """

    def __init__(
        self,
        sealed: zkjax.Sealed,
        manifest: Manifest,
        *,
        limits: Limits | None = None,
        leakage: Leakage | None = None,
        progress: Callable[[str], None] | None = None,
    ):
        if sealed.commitment != manifest.commitment:
            raise SessionError("manifest", "it is about another commitment")
        self.sealed, self.manifest = sealed, manifest
        self.limits = limits or Limits()
        self.leakage = leakage or Leakage(manifest)
        self.progress = progress
        self.report: dict = {}  # figures of the last proof
        self._proving = threading.Lock()
        self._options: dict = {"profile": manifest.commitment.profile, "progress": progress}
        self._weights = rounded_weights(sealed.tree)

    def session(self) -> ContributorSession:
        """A new session; nothing is shared with others but the leakage counts."""
        return ContributorSession(self)

    def connect(self):
        """A user's channel to this contributor in the same process."""
        from zkjax.proofs.adapter.channel import MemoryChannel

        return MemoryChannel(self)

    def deltas(self, layer: int, group: str, x: np.ndarray) -> np.ndarray:
        """(x A) B of one group, side by side, (tokens, outputs) int32, exact in float64."""
        index = self.manifest.layers.index(layer)
        parts = []
        for target in self.manifest.groups()[group]:
            weights = self._weights[target]
            low = _rounded(x.astype(np.float64) @ weights["a"][index], WEIGHT_FRACTION)
            _require_bits(low, NUMERICS.activations.bits, "x A")
            delta = low @ weights["b"][index]
            _require_bits(delta, 32, "x A B")
            parts.append(delta.astype(np.int32))
        return np.concatenate(parts, axis=1)

    def prove(self, record: Record) -> bytes:
        """The messages of the proof about a session; one at a time."""
        function = make_deltas(STORED[self.manifest.dtype])
        with self._proving:
            outputs, proof = zkjax.prove(function, context=self.manifest.digest, **self._options)(
                self.sealed, record.xs
            )
            self.report = proof.report or {}
        given = record.deltas
        if any(not np.array_equal(outputs[t], given[t]) for t in given):
            raise SessionError("internal", "the answers are not what the statement computes")
        record.proof = proof
        return proof.body

    def prove_sealed(self, record: Record, xs: zkjax.Sealed, deltas: zkjax.Sealed) -> bytes:
        """As ``prove``, about activations and deltas that the user has committed to."""
        function = make_differences(STORED[self.manifest.dtype])
        with self._proving:
            _, proof = zkjax.prove(function, context=self.manifest.digest, **self._options)(
                self.sealed, xs, deltas
            )
            self.report = proof.report or {}
        return proof.body


def _rounded(values: np.ndarray, shift: int) -> np.ndarray:
    """floor(v 2^-shift + 1/2) in float64, as ``fixed.round``."""
    return np.floor(np.asarray(values, dtype=np.float64) * 2.0**-shift + 0.5)


def rounded_weights(tree: Any) -> Any:
    """Stored weights as the products use them, 12 fraction bits in float64; ValueRangeError if one
    does not fit 16 bits.
    """

    def rounded(w: np.ndarray) -> np.ndarray:
        out = _rounded(w, STORED[w.dtype.name] - WEIGHT_FRACTION)
        if np.abs(out + 0.5).max() > 2 ** (NUMERICS.weights.bits - 1):
            raise ValueRangeError(
                f"a weight of {np.abs(out).max() * 2.0**-WEIGHT_FRACTION:.2f} does not fit; "
                "adapters are stored in fixed point below 8 in absolute value"
            )
        return out

    return jax.tree.map(rounded, tree)


def _require_bits(values: np.ndarray, bits: int, what: str) -> None:
    if values.size and (values.min() < -(2 ** (bits - 1)) or values.max() >= 2 ** (bits - 1)):
        raise SessionError("range", f"{what} leaves {bits} bits for an activation of this query")


class ContributorSession:
    """One user's session. ``receive`` never raises: a bad frame is answered by a refusal.

    Attributes:
      closed: no more frames are taken.
      error: why it ended early, if it did.
      record: what was asked and answered.
    """

    def __init__(self, contributor: Contributor):
        self.contributor = contributor
        self.closed = False
        self.accepted = False
        self.error: SessionError | None = None
        self.record = Record(contributor.manifest, contributor.limits.session_bytes)
        self._received = self._sent = 0
        self._digest = Digest()
        self._expects: tuple[type, ...] = (frames.Hello,)
        self._ends = time.monotonic() + contributor.limits.session_seconds

    def receive(self, data: bytes) -> bytes | None:
        """Take one frame of the user; the answer, if there is one."""
        if self.closed:
            return None
        try:
            if time.monotonic() > self._ends:
                raise SessionError("limit", "the session has lasted too long")
            frame = frames.decode(data, self._received, self.contributor.limits.frame_bytes)
            self._received += 1
            if isinstance(frame, frames.Refusal):
                raise SessionError("refused", f"{frame.check}: {frame.detail}")
            if not isinstance(frame, self._expects):
                raise SessionError("frame", f"{type(frame).__name__} is out of turn")
            before = self._digest.value
            self._digest.update(data)
            reply = self._answer(frame, before)
            return None if reply is None else self._send(reply)
        except SessionError as error:
            return self._end(error)
        except SealError:
            return self._end(SessionError("openings", "the adapter's commitment is used up"))
        except Exception as error:
            # The peer learns that, not what, went wrong.
            reply = self._end(SessionError("internal", "the contributor failed"))
            self.error = SessionError("internal", f"{type(error).__name__}: {error}")
            return reply

    def expects_proof(self, data: bytes) -> bool:
        """Whether answering this frame takes a proof."""
        kinds = [frames.TYPES.index(t) for t in (frames.Finish, frames.FinishSealed)]
        return len(data) > 5 and data[5] in kinds and frames.Finish in self._expects

    def close(self) -> None:
        """The connection is gone."""
        self.closed = True

    def _send(self, frame: frames.Frame) -> bytes:
        data = frames.encode(frame, self._sent)
        self._sent += 1
        self._digest.update(data)
        return data

    def _end(self, error: SessionError) -> bytes | None:
        self.closed, self.error = True, error
        if error.check == "refused":
            return None
        return self._send(frames.Refusal(error.check, error.detail))

    def _answer(self, frame: frames.Frame, before: bytes) -> frames.Frame | None:
        manifest = self.contributor.manifest
        if isinstance(frame, frames.Hello):
            least = PROFILES.get(frame.least)
            profile = manifest.commitment.profile
            if least is None or PROFILES[profile].bits < least.bits:
                raise SessionError("profile", f"this adapter is committed with {profile}")
            self._require_openings()
            self._expects = (frames.Accept,)
            range_proof = manifest.commitment.range_proof or b""
            return frames.Offer(secrets.token_bytes(32), manifest.encode(), range_proof)
        if isinstance(frame, frames.Accept):
            if frame.manifest != manifest.digest:
                raise SessionError("manifest", "the user accepted another one")
            self._expects = (frames.Query, frames.Finish, frames.FinishSealed)
            return None
        if isinstance(frame, frames.Query):
            return self._query(frame)
        if isinstance(frame, frames.Finish | frames.FinishSealed):
            if frame.digest != before:
                raise SessionError("record", "the two sides saw different frames")
            _ = self.record.tokens
            self._require_openings()
            self._expects = (frames.Done,)
            if isinstance(frame, frames.Finish):
                return frames.ProofFrame(self.contributor.prove(self.record))
            xs, deltas = self._reopen(frame)
            return frames.ProofFrame(self.contributor.prove_sealed(self.record, xs, deltas))
        self.closed = self.accepted = True
        return None

    def _require_openings(self) -> None:
        """Before anything is answered or computed for a session that cannot end in a proof."""
        if self.contributor.sealed.remaining < 1:
            raise SealError("no openings left")

    def _query(self, frame: frames.Query) -> frames.Answer:
        manifest, x = self.contributor.manifest, frame.x
        if frame.layer not in manifest.layers or frame.group not in manifest.groups():
            raise SessionError("query", f"no adapter at layer {frame.layer} {frame.group}")
        if x.shape[1] != manifest.inputs(frame.group):
            raise SessionError("query", f"activations of {x.shape[1]}")
        self.record.room(frame.group, len(x))
        if frames.HEADER.size + 16 + 4 * len(x) * manifest.outputs(frame.group) > (
            self.contributor.limits.frame_bytes
        ):
            raise SessionError("limit", "the answer would not fit a frame; send fewer tokens")
        self.contributor.leakage.admit(frame.layer, frame.group, x)
        deltas = self.contributor.deltas(frame.layer, frame.group, x)
        self.record.add(frame.layer, frame.group, x, deltas)
        return frames.Answer(frame.layer, frame.group, deltas)

    def _reopen(self, frame: frames.FinishSealed) -> tuple[zkjax.Sealed, zkjax.Sealed]:
        """The user's commitments, rebuilt from this side's own record."""
        profile = self.contributor.manifest.commitment.profile
        values = (self.record.xs, self.record.deltas)
        if len(frame.commitments) > MAX_COMMITMENTS:
            raise SessionError("commitments", "too long")
        try:
            given = [Commitment.from_json(c) for c in json.loads(frame.commitments)]
        except Exception:
            raise SessionError("commitments", "malformed") from None
        if len(given) != 2:
            raise SessionError("commitments", "there must be two")
        rest, out = frame.secrets, []
        for tree, commitment in zip(values, given, strict=True):
            leaves = jax.tree.leaves(tree)
            shapes = tuple(x.shape for x in leaves)
            dtypes = tuple(x.dtype.name for x in leaves)
            same = (commitment.shapes, commitment.dtypes, commitment.profile)
            if same != (shapes, dtypes, profile) or commitment.openings > 4:
                raise SessionError("commitments", "they are not about this session")
            size = zkjax.Sealed.secrets_size(commitment)
            try:
                out.append(zkjax.Sealed.from_secrets(tree, commitment, rest[:size]))
            except SealError:
                raise SessionError("commitments", "they are not about this session") from None
            rest = rest[size:]
        if rest:
            raise SessionError("commitments", "trailing bytes")
        return out[0], out[1]
