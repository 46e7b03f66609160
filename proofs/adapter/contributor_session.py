"""The contributor's side of one session.

A session is a state machine over frames (``receive`` takes one and returns the answer, if any), so
the same code runs behind a socket, in memory and in tests.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import jax

import zkjax
from zkjax.argument.budget import PROFILES
from zkjax.errors import SealError, SessionError
from zkjax.proof import Commitment
from zkjax.proofs.adapter import frames
from zkjax.proofs.adapter.accounts import Account
from zkjax.proofs.adapter.record import Digest, Record

if TYPE_CHECKING:
    from zkjax.proofs.adapter.contributor import Contributor


class UsedUp(Exception):
    """No opening is left, or its count is lost."""


MAX_COMMITMENTS = 1 << 16  # bytes of JSON
USED = "they are not about this session, or have been used before; seal the values again"


class ContributorSession:
    """One user's session. ``receive`` and ``prove`` never raise: they answer by a refusal.

    Args:
      account: counts what this user is answered; a query or proof beyond its quota is refused.

    Attributes:
      closed: no more frames are taken, and a proof is not gone on with.
      error: why it ended early, if it did.
      record: what was asked and answered.
    """

    def __init__(self, contributor: Contributor, account: Account | None = None):
        self.contributor, self.account = contributor, account
        self._request: frames.Finish | frames.FinishSealed | None = None
        self.closed = False
        self.accepted = False
        self.error: SessionError | None = None
        self.record = Record(contributor.manifest, contributor.limits.session_bytes)
        self._received = self._sent = 0
        self._digest = Digest()
        self._expects: tuple[type, ...] = (frames.Hello,)
        self._ends = time.monotonic() + contributor.limits.session_seconds

    def receive(self, data: bytes) -> bytes | None:
        """Take one frame of the user; the answer, if there is one.

        A proof is not made here: ``wants_proof`` says that the user has a right to one.
        """
        return self._guarded(lambda: self._taken(data))

    @property
    def wants_proof(self) -> bool:
        """Whether the user waits for a proof, which ``prove`` makes."""
        return self._request is not None and not self.closed

    def waiting(self, ahead: int) -> bytes:
        """What tells the user how many proofs are made before its own."""
        return self._send(frames.Waiting(ahead))

    def prove(self) -> bytes | None:
        """Make the proof that the user waits for, unless the session is closed meanwhile."""
        return self._guarded(self._proved)

    def interrupt(self, data: bytes) -> bytes | None:
        """Take a frame that comes while the proof is made: the end, whatever it is."""

        def out_of_turn() -> NoReturn:
            frame = frames.decode(data, self._received, self.contributor.limits.frame_bytes)
            _require_no_refusal(frame)
            raise SessionError("frame", f"{type(frame).__name__} is out of turn")

        return self._guarded(out_of_turn)

    def _taken(self, data: bytes) -> bytes | None:
        if time.monotonic() > self._ends:
            raise SessionError("limit", "the session has lasted too long")
        frame = frames.decode(data, self._received, self.contributor.limits.frame_bytes)
        self._received += 1
        _require_no_refusal(frame)
        if not isinstance(frame, self._expects):
            raise SessionError("frame", f"{type(frame).__name__} is out of turn")
        before = self._digest.value
        self._digest.update(data)
        reply = self._answer(frame, before)
        return None if reply is None else self._send(reply)

    def _proved(self) -> bytes:
        request, self._request = self._request, None
        self._require_wanted()
        if self.account is not None:
            self.account.count_proof()
        try:
            if isinstance(request, frames.FinishSealed):
                body = self._prove_sealed(*self._reopen(request))
            else:
                body = self.contributor.prove(self.record, self._require_wanted)
        except SealError:
            self._require_openings()
            raise
        return self._send(frames.ProofFrame(body))

    def _require_wanted(self) -> None:
        """Before each phase of a proof: nobody proves for a user who has left."""
        if self.closed:
            raise SessionError("disconnected", "the user has left")

    def _guarded(self, step: Callable[[], bytes | None]) -> bytes | None:
        """What a step of this session answers; a refusal if it raises anything."""
        if self.closed:
            return None
        try:
            return step()
        except UsedUp:
            detail = "the adapter's commitment is used up; its owner has to commit again"
            return self.refuse(SessionError("openings", detail))
        except SessionError as error:
            return self.refuse(error)
        except Exception as error:
            # The peer learns that, not what, went wrong.
            reply = self.refuse(SessionError("internal", "the contributor failed"))
            self.error = SessionError("internal", f"{type(error).__name__}: {error}")
            return reply

    @property
    def complete(self) -> bool:
        """Whether all sites were asked about the same tokens, so that a proof may be next."""
        with contextlib.suppress(SessionError):
            return self.record.tokens > 0
        return False

    def close(self) -> None:
        """The connection is gone."""
        self.closed = True

    def forget(self) -> None:
        """Let go of what was asked and answered, whoever still holds the session."""
        self.record, self._request = Record(self.contributor.manifest), None

    def _send(self, frame: frames.Frame) -> bytes:
        data = frames.encode(frame, self._sent)
        self._sent += 1
        self._digest.update(data)
        return data

    def refuse(self, error: SessionError) -> bytes | None:
        """End the session; what to tell the user."""
        # A copy without the frames that it went through: they hold what was asked and answered.
        self.closed, self.error = True, SessionError(error.check, error.detail)
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
            self._expects, self._request = (frames.Done,), frame
            self.record.session = before
            return None
        self.closed = self.accepted = True
        return None

    def _require_openings(self) -> None:
        """Before anything is answered or computed for a session that cannot end in a proof."""
        if self.contributor.sealed.remaining < 1:
            raise UsedUp

    def _prove_sealed(self, xs: zkjax.Sealed, deltas: zkjax.Sealed) -> bytes:
        """The proof; a refusal if another session has used the user's openings meanwhile."""
        try:
            return self.contributor.prove_sealed(self.record, xs, deltas, self._require_wanted)
        except SealError as error:
            self._require_openings()
            if isinstance(error.__cause__, OSError):  # nobody's fault but the disk's
                raise
            raise SessionError("commitments", USED) from None

    def _query(self, frame: frames.Query) -> frames.Answer:
        manifest, x = self.contributor.manifest, frame.x
        if frame.layer not in manifest.layers or frame.group not in manifest.groups():
            raise SessionError("query", f"no adapter at layer {frame.layer} {frame.group}")
        if x.shape[1] != manifest.inputs(frame.group):
            raise SessionError("query", f"activations of {x.shape[1]}")
        self.record.room(frame.group, len(x))
        if len(x) > self.contributor.limits.query_rows:
            most = self.contributor.limits.query_rows
            raise SessionError("limit", f"{len(x)} activations in a query; {most} are allowed")
        if frames.HEADER.size + 16 + 4 * len(x) * manifest.outputs(frame.group) > (
            self.contributor.limits.frame_bytes
        ):
            raise SessionError("limit", "the answer would not fit a frame; send fewer tokens")
        self._admit(frame)
        deltas = self.contributor.deltas(frame.layer, frame.group, x)
        self.record.add(frame.layer, frame.group, x, deltas)
        return frames.Answer(frame.layer, frame.group, deltas)

    def _admit(self, frame: frames.Query) -> None:
        """Count a query, of the site and of the user, before it is answered."""
        admit = self.contributor.leakage.admit
        if self.account is None:
            return admit(frame.layer, frame.group, frame.x)
        with self.account.asking(len(frame.x)) as asking:
            admit(frame.layer, frame.group, frame.x, asking)

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
                folder = self.contributor.received
                value = zkjax.Sealed.from_secrets(tree, commitment, rest[:size], folder=folder)
            except SealError:
                raise SessionError("commitments", USED) from None
            out.append(value)
            rest = rest[size:]
        if rest:
            raise SessionError("commitments", "trailing bytes")
        return out[0], out[1]


def _require_no_refusal(frame: frames.Frame) -> None:
    if isinstance(frame, frames.Refusal):
        raise SessionError("refused", f"{frame.check}: {frame.detail}")


class MemoryChannel:
    """A contributor in the same process: each frame is answered when it is sent."""

    def __init__(self, session: ContributorSession):
        self.session = session
        self._replies: list[bytes] = []

    def send(self, data: bytes) -> None:
        if self.session.closed:
            raise SessionError("disconnected", "the contributor has ended the session")
        reply = self.session.receive(data)
        if self.session.wants_proof:
            reply = self.session.prove()
        if reply is not None:
            self._replies.append(reply)

    def receive(self, seconds: float) -> bytes:
        if not self._replies:
            raise SessionError("idle", "no answer")
        return self._replies.pop(0)

    def close(self) -> None:
        self.session.close()
