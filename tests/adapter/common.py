"""A tiny adapter, committed once a process, and tools to meddle with a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from soundness.cheating import unchecked

import zkjax
from zkjax.errors import SessionError
from zkjax.models.config import LlamaConfig
from zkjax.proofs.adapter import frames
from zkjax.proofs.adapter.contributor import Contributor, commit_adapter
from zkjax.proofs.adapter.leakage import Leakage
from zkjax.proofs.adapter.ledger import Ledger
from zkjax.proofs.adapter.manifest import Manifest
from zkjax.proofs.adapter.peer import Peer
from zkjax.proofs.adapter.record import Digest, Limits, Record
from zkjax.proofs.adapter.statement import make_deltas, one_token_digest
from zkjax.verify import verify_ranges

CONFIG = LlamaConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
TARGETS = ("q_proj", "v_proj", "down_proj")  # groups "attention" and "inner"
LAYERS = (0, 1)
NONCE = bytes(32)
ROOM = 1 << 24  # a frame limit that no honest frame of these tests meets


def weights(seed: int = 0) -> dict:
    """Random stored weights."""
    rng = np.random.default_rng(seed)
    return {
        target: {
            "a": rng.integers(-400, 400, (len(LAYERS), inputs, 2)).astype(np.int16),
            "b": rng.integers(-400, 400, (len(LAYERS), 2, outputs)).astype(np.int16),
        }
        for target, (inputs, outputs) in ((t, CONFIG.projection_shape(t)) for t in TARGETS)
    }


@cache
def _committed(seed: int) -> tuple[zkjax.Sealed, Manifest]:
    """Made once, and what every user checks first is compiled and remembered: tests with short
    limits or a count of memory are about something else.
    """
    sealed, manifest = commit_adapter(weights(seed), LAYERS, 1, sessions=40)
    verify_ranges(manifest.commitment)
    assert one_token_digest(manifest) == manifest.statement
    return sealed, manifest


def committed(seed: int = 0) -> tuple[zkjax.Sealed, Manifest]:
    """The sealed adapter of a seed and its manifest."""
    return _committed(seed)


def contributor(
    seed: int = 0, *, leakage: Leakage | None = None, limits: Limits | None = None
) -> Contributor:
    """A contributor of a committed adapter, with its openings restored and no leakage limit. Each
    answer counts as one direction.
    """
    sealed, manifest = committed(seed)
    sealed.counter.left = 40
    leakage = leakage or Leakage(manifest, 1.0)
    owner = Contributor(sealed, manifest, leakage=leakage, limits=limits)
    owner.leakage.readings = {}
    return owner


def counting(fraction: float, path: Path) -> Leakage:
    """What the adapter has revealed, counted in a file, which is started if there is none."""
    manifest = committed()[1]
    if not path.exists():
        Ledger.start(manifest.digest.hex(), path)
    return Leakage(manifest, fraction, path)


def sites(manifest: Manifest) -> list[tuple[int, str]]:
    return [(layer, group) for layer in manifest.layers for group in manifest.groups()]


def activations(inputs: int, tokens: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3000, 3000, (tokens, inputs)).astype(np.int16)


def drive(peer: Peer, tokens: int = 2, seed: int = 0) -> None:
    """A forward pass as far as the contributor can tell: one query a site."""
    for i, (layer, group) in enumerate(sites(peer.manifest)):
        x = activations(peer.manifest.inputs(group), tokens, 100 * seed + i)
        answer = peer.deltas(layer, group, x)
        assert set(answer) == set(peer.manifest.groups()[group])


def local_deltas(seed: int, layer: int, group: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """What an adapter should answer, in plain integers."""
    out = {}
    for target in committed(seed)[1].groups()[group]:
        a, b = (weights(seed)[target][k][layer].astype(np.int64) for k in ("a", "b"))
        out[target] = ((x.astype(np.int64) @ a + 2048) >> 12) @ b
    return out


class Tampered:
    """A channel on which someone sits: ``outgoing`` and ``incoming`` map (number, frame) to what is
    delivered instead; None keeps a frame back.
    """

    def __init__(
        self,
        inner,
        outgoing: Callable[[int, bytes], bytes | None] = lambda i, data: data,
        incoming: Callable[[int, bytes], bytes | None] = lambda i, data: data,
    ):
        self.inner, self.outgoing, self.incoming = inner, outgoing, incoming
        self.sent: list[bytes] = []
        self.received: list[bytes] = []

    @property
    def session(self):
        return self.inner.session

    def send(self, data: bytes) -> None:
        self.sent.append(data)
        changed = self.outgoing(len(self.sent) - 1, data)
        if changed is not None:
            self.inner.send(changed)

    def receive(self, seconds: float) -> bytes:
        data = self.inner.receive(seconds)
        self.received.append(data)
        changed = self.incoming(len(self.received) - 1, data)
        if changed is None:
            raise SessionError("idle", "no answer")
        return changed

    def close(self) -> None:
        self.inner.close()


class Raw:
    """A user that builds its frames itself and sends whatever it likes."""

    def __init__(self, contributor: Contributor):
        self.contributor, self.session = contributor, contributor.session()
        self.manifest = contributor.manifest
        self.sent = self.received = 0
        self.digest = Digest()
        self.replies: list[bytes] = []

    def tell(self, frame: frames.Frame, sequence: int | None = None) -> frames.Frame | None:
        """Send a frame; the answer, if there is one."""
        data = frames.encode(frame, self.sent if sequence is None else sequence)
        self.sent += 1
        self.digest.update(data)
        return self.bytes(data)

    def bytes(self, data: bytes) -> frames.Frame | None:
        reply = self.session.receive(data)
        if self.session.wants_proof:
            reply = self.session.prove()
        if reply is None:
            return None
        self.replies.append(reply)
        frame = frames.decode(reply, self.received, ROOM)
        self.received += 1
        self.digest.update(reply)
        return frame

    def open(self) -> Raw:
        """Hello and Accept."""
        assert isinstance(self.tell(frames.Hello(NONCE, "s100")), frames.Offer)
        assert self.tell(frames.Accept(self.manifest.digest)) is None
        return self

    def ask_all(self, tokens: int = 2) -> Raw:
        """One query a site."""
        for i, (layer, group) in enumerate(sites(self.manifest)):
            x = activations(self.manifest.inputs(group), tokens, i)
            assert isinstance(self.tell(frames.Query(layer, group, x)), frames.Answer)
        return self

    def refused(self, reply: frames.Frame | None, check: str) -> str:
        """The reply must be a refusal for this reason, and the end; gives the detail."""
        assert isinstance(reply, frames.Refusal), reply
        assert reply.check == check, reply
        assert self.session.closed and not self.session.accepted
        assert self.session.error is not None and self.session.error.check == check
        assert self.session.receive(frames.encode(frames.Done(), self.sent)) is None
        return reply.detail


@contextmanager
def ends(check: str, detail: str = "", party: str = "alice") -> Iterator[None]:
    """The block raises SessionError(check) about ``party``, with ``detail`` in its text."""
    with pytest.raises(SessionError) as caught:
        yield
    assert (caught.value.check, caught.value.party) == (check, party), caught.value
    assert detail in caught.value.detail, caught.value
    assert str(caught.value).startswith(f"{party}: " if party else f"{check}")


def serves_on(contributor: Contributor) -> None:
    """The contributor still serves an honest user, up to the verified proof."""
    peer = Peer(contributor.connect(), "bob")
    drive(peer, seed=77)
    peer.finish()
    assert peer.channel.session.accepted


@contextmanager
def claiming(*outputs: Any) -> Iterator[None]:
    """A prover claims these outputs, or one number for all entries, whatever it has computed; and
    it does not look whether a proof of that will do.
    """

    def replaced(ports, ours, expected):
        for i, value in enumerate(ours):
            value[...] = outputs[i % len(outputs)]
        assert len(outputs) in (1, len(ours))

    with mock.patch("zkjax.prove.compare_with_jax", replaced), unchecked():
        yield


def unchecked_prove(
    self: Contributor, record: Record, wanted: Any = None, weights_of: Contributor | None = None
) -> bytes:
    """A contributor that claims what it said and proves what it can."""
    function = make_deltas(self.manifest.dtype, self.manifest.fractions)
    with claiming(*(record.deltas[t] for t in sorted(record.deltas))):
        run = zkjax.prove(function, context=record.context)
        return run((weights_of or self).sealed, record.xs)[1].body
