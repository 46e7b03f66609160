"""The user's view of one contributor: pin its adapter, exchange activations, check its proof."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from zkjax.errors import SessionError, VerificationError, ZkjaxError
from zkjax.models.config import ModelConfig
from zkjax.proofs.adapter import frames
from zkjax.proofs.adapter.manifest import Manifest
from zkjax.proofs.adapter.record import Digest, Limits, Record
from zkjax.proofs.adapter.statement import require_valid

REASON_SECONDS = 1.0  # to hear why the peer has closed the connection
MAX_WAITING = 1 << 10  # users before this one that a contributor may name


class Channel(Protocol):
    """The user's end. Every failure is a ``SessionError`` that names what happened."""

    def send(self, data: bytes) -> None:
        """Send one frame."""
        ...

    def receive(self, seconds: float) -> bytes:
        """The next frame; SessionError("idle") if none comes in time."""
        ...

    def close(self) -> None:
        """End the connection; never raises."""
        ...


class Peer:
    """One contributor, from the offer to the verified proof.

    Args:
      name: what errors call this contributor.
      config, base: the base model and its digest; an adapter that does not fit it is refused.
      manifest: the digest that the manifest must have, if the adapter is known before.
      least: the least security profile accepted.
      progress: called with how many proofs are made before this one.
    """

    def __init__(
        self,
        channel: Channel,
        name: str,
        *,
        config: ModelConfig | None = None,
        base: str | None = None,
        manifest: str | bytes | None = None,
        least: str = "s100",
        limits: Limits | None = None,
        progress: Callable[[str], None] = lambda message: None,
    ):
        self.channel, self.name, self.least, self.progress = channel, name, least, progress
        self.limits = limits or Limits()
        self._sent = self._received = 0
        self._ended = False
        self._digest = Digest()
        try:
            self._send(frames.Hello(secrets.token_bytes(32), least))
            offer = self._expect(frames.Offer)
            self.manifest = self._pinned(offer, config, base, manifest)
            self.record = Record(self.manifest, self.limits.session_bytes)
            self._send(frames.Accept(self.manifest.digest))
        except ZkjaxError as error:
            self.abandon("manifest", "the user does not accept this adapter")
            raise self._named(error) from error

    def deltas(self, layer: int, group: str, x: np.ndarray) -> dict[str, np.ndarray]:
        """{target: (tokens, outputs)} int32 for activations (tokens, inputs) int16."""
        groups = self.manifest.groups()
        if layer not in self.manifest.layers or group not in groups:
            detail = f"no adapter at layer {layer} {group}; it is at {', '.join(groups)}"
            raise SessionError("query", detail, self.name)
        form = (x.dtype.name, x.ndim, x.shape[-1] if x.ndim else 0)
        if form != ("int16", 2, self.manifest.inputs(group)) or not len(x):
            detail = f"activations are int16 of shape (tokens, {self.manifest.inputs(group)})"
            raise SessionError("query", f"{detail}; got {x.dtype} of shape {x.shape}", self.name)
        try:
            step = self._tokens_per_frame(group)
            parts = [self._exchange(layer, group, part) for part in split_rows(x, step)]
        except ZkjaxError as error:
            self.abandon()
            raise self._named(error) from error
        return self.manifest.split(group, np.concatenate(parts))

    @property
    def digest(self) -> bytes:
        """That of all frames so far."""
        return self._digest.value

    def finish(self) -> Record:
        """Ask for the proof and check it against what was sent and received."""
        return self._finish(frames.Finish(self.digest), self.record.verify)

    def finish_sealed(self, commitments, shared: bytes, check) -> Record:
        """The same for sealed activations and deltas; ``check`` verifies the messages."""
        data = json.dumps([c.identity() for c in commitments], sort_keys=True).encode()
        return self._finish(frames.FinishSealed(self.digest, data, shared), check)

    def _finish(self, request: frames.Finish | frames.FinishSealed, check) -> Record:
        try:
            self._require_open()
            _ = self.record.tokens
            self.record.session = request.digest
            self._send(request)
            check(self._awaited_proof())
            self._send(frames.Done())
        except VerificationError as error:
            self.abandon("proof", f"rejected: {error.check}")
            raise self._named(error) from error
        except ZkjaxError as error:
            self.abandon()
            raise self._named(error) from error
        self._ended = True
        self.channel.close()
        return self.record

    def abandon(self, check: str = "", detail: str = "") -> None:
        """End the session; with a reason, the contributor hears it."""
        if check:
            with contextlib.suppress(SessionError):
                self._send(frames.Refusal(check, detail))
        self._ended = True
        self.channel.close()

    def _exchange(self, layer: int, group: str, x: np.ndarray) -> np.ndarray:
        self.record.room(group, len(x))
        self._send(frames.Query(layer, group, x))
        answer = self._expect(frames.Answer)
        if (answer.layer, answer.group) != (layer, group):
            raise SessionError("answer", f"it is for layer {answer.layer} {answer.group}")
        if answer.deltas.shape != (len(x), self.manifest.outputs(group)):
            raise SessionError("answer", f"deltas of shape {answer.deltas.shape}")
        self.record.add(layer, group, x, answer.deltas)
        return answer.deltas

    def _awaited_proof(self) -> bytes:
        """The proof's messages. The contributor may say that others come first, and fewer every
        time, so it cannot keep its user waiting for ever.
        """
        ahead = MAX_WAITING
        while True:
            frame = self._expect(frames.ProofFrame | frames.Waiting, self.limits.proof_seconds)
            if isinstance(frame, frames.ProofFrame):
                return frame.body
            if frame.ahead >= ahead:
                raise SessionError("frame", f"{frame.ahead} proofs come first, after {ahead}")
            ahead = frame.ahead
            if ahead:
                self.progress(f"{ahead} proof{'s' * (ahead > 1)} before that of {self.name}")

    def _tokens_per_frame(self, group: str) -> int:
        widest = max(2 * self.manifest.inputs(group), 4 * self.manifest.outputs(group))
        fitting = max(1, (self.limits.frame_bytes - 64) // widest)
        return min(fitting, self.limits.query_rows)

    def _pinned(
        self,
        offer: frames.Offer,
        config: ModelConfig | None,
        base: str | None,
        expected: str | bytes | None,
    ) -> Manifest:
        manifest = Manifest.decode(offer.manifest)
        commitment = replace(manifest.commitment, range_proof=offer.range_proof)
        manifest = replace(manifest, commitment=commitment)
        require_valid(manifest, config=config, base=base, expected=expected, least=self.least)
        return manifest

    def _require_open(self) -> None:
        if self._ended:
            raise SessionError("closed", "this session has ended; open another")

    def _send(self, frame: frames.Frame) -> None:
        self._require_open()
        data = frames.encode(frame, self._sent)
        self._sent += 1
        self._digest.update(data)
        try:
            self.channel.send(data)
        except SessionError as error:
            if error.check == "disconnected" and not isinstance(frame, frames.Refusal):
                self._expect_reason()
            raise

    def _expect_reason(self) -> None:
        """SessionError("refused") if the peer said why before it went."""
        try:
            self._expect(frames.Refusal, REASON_SECONDS)
        except SessionError as error:
            if error.check == "refused":
                raise

    def _expect(self, kind: Any, seconds: float | None = None):
        data = self.channel.receive(seconds or self.limits.idle_seconds)
        frame = frames.decode(data, self._received, self.limits.frame_bytes)
        self._received += 1
        self._digest.update(data)
        if isinstance(frame, frames.Refusal):
            raise SessionError("refused", f"{frame.check}: {frame.detail}")
        if not isinstance(frame, kind):
            raise SessionError("frame", f"{type(frame).__name__} is out of turn")
        return frame

    def _named(self, error: ZkjaxError) -> ZkjaxError:
        """The same error, naming this contributor."""
        if isinstance(error, SessionError):
            return SessionError(error.check, error.detail, self.name)
        if isinstance(error, VerificationError):
            return VerificationError(error.check, f"{self.name}: {error.detail}")
        return type(error)(f"{self.name}: {error}")


def split_rows(x: np.ndarray, step: int) -> list[np.ndarray]:
    return [x[i : i + step] for i in range(0, len(x), step)]
