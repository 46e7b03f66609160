"""Attacks on an adapter session in memory: each side lies, replays, stops and asks too much."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load, save

import zkjax
from adapter.common import (
    CONFIG,
    LAYERS,
    NONCE,
    ROOM,
    Raw,
    Tampered,
    activations,
    claiming,
    committed,
    contributor,
    counting,
    drive,
    ends,
    local_deltas,
    serves_on,
    sites,
    unchecked_prove,
    weights,
)
from zkjax._compat import x64
from zkjax.errors import (
    OptionError,
    SealError,
    SessionError,
    StatementError,
    ValueRangeError,
    VerificationError,
)
from zkjax.models.adapter import lora_delta
from zkjax.models.config import LlamaConfig
from zkjax.models.llama import Llama
from zkjax.models.numerics import FixedPoint
from zkjax.program import trace
from zkjax.proofs.adapter import frames
from zkjax.proofs.adapter.contributor import Contributor, commit_adapter
from zkjax.proofs.adapter.inference import Part, _verify_part
from zkjax.proofs.adapter.leakage import Leakage, entry_bits, reading_bits
from zkjax.proofs.adapter.manifest import Manifest
from zkjax.proofs.adapter.peer import Peer
from zkjax.proofs.adapter.record import FILES, Limits, Record, verify_session
from zkjax.proofs.adapter.session import Session
from zkjax.proofs.adapter.statement import make_deltas, one_token_digest
from zkjax.proofs.finetune import bind, store_base

NAMED = (VerificationError, SessionError, StatementError)


@contextmanager
def rejected(party: str = "alice", *, checks: set[str]):
    """One of these checks raises VerificationError, naming the contributor."""
    with pytest.raises(VerificationError) as caught:
        yield
    assert party in str(caught.value)
    assert caught.value.check in checks, caught.value


@contextmanager
def lying(change: Callable[[int, str, np.ndarray], np.ndarray]):
    """``change(layer, group, deltas)`` is answered, and proved as well as a liar can."""
    honest, prove_sealed = Contributor.deltas, Contributor.prove_sealed

    def no_difference(*args):
        with claiming(0):
            return prove_sealed(*args)

    with (
        mock.patch.object(
            Contributor, "deltas", lambda self, at, g, x: change(at, g, honest(self, at, g, x))
        ),
        mock.patch.object(Contributor, "prove", unchecked_prove),
        mock.patch.object(Contributor, "prove_sealed", no_difference),
    ):
        yield


def finished(seed: int = 0) -> tuple[Record, bytes]:
    """The verified record of an honest session and its proof."""
    return _finished(seed)


@cache
def _finished(seed: int) -> tuple[Record, bytes]:
    peer = Peer(contributor(seed).connect(), "alice")
    drive(peer)
    record = peer.finish()
    return record, record.proof.body


# Wrong answers --------------------------------------------------------------------------------


def test_honest_answers_are_the_adapter():
    """The answers are (x A) B in plain integers, and the proof of them is accepted."""
    peer = Peer(contributor().connect(), "alice")
    for layer, group in sites(peer.manifest):
        x = activations(peer.manifest.inputs(group), 3, layer)
        told, expected = peer.deltas(layer, group, x), local_deltas(0, layer, group, x)
        assert all(np.array_equal(told[t], expected[t]) for t in expected)
    record = peer.finish()
    assert record.tokens == 3 and peer.channel.session.accepted


def test_a_liar_that_says_the_truth_is_believed():
    """What refuses the lies below is what they say, not how they are proved."""
    with lying(lambda layer, group, deltas: deltas):
        peer = Peer(contributor().connect(), "alice")
        drive(peer)
        peer.finish()
        sealed, values, secrets = sealed_peer(contributor())
        sealed.finish_sealed([v.commitment for v in values], secrets, part_check(sealed, values))
    assert peer.channel.session.accepted and sealed.channel.session.accepted


@pytest.mark.parametrize(
    ("site", "by"),
    [
        ((0, "attention", 0, 0), 1),
        ((1, "attention", 1, 23), -1),
        ((1, "inner", 0, 15), 2**20),
        ((0, "inner", 1, 3), -1),
    ],
)
def test_wrong_delta_for_one_token(site, by):
    """One entry of one answer is off by one, with the best proof that the liar can make."""
    layer, group, token, column = site

    def change(at, g, deltas):
        if (at, g) == (layer, group):
            deltas = deltas.copy()
            deltas[token, column] += by
        return deltas

    owner = contributor()
    peer = Peer(owner.connect(), "alice")
    with lying(change):
        drive(peer)
        with rejected(checks={"linear test"}):
            peer.finish()
    assert peer.channel.session.error.check == "refused"
    assert not peer.channel.session.accepted
    assert peer.record.proof is None
    serves_on(owner)


def test_a_wrong_delta_by_accident_stops_the_contributor():
    """An honest contributor notices that its answers are not what its statement computes."""
    honest = Contributor.deltas
    peer = Peer(contributor().connect(), "alice")
    with mock.patch.object(Contributor, "deltas", lambda *a: honest(*a) + np.int32(1)):
        drive(peer)
    with ends("refused", "internal: the answers are not"):
        peer.finish()


def test_answers_swapped_between_tokens():
    """All deltas are right, for another token of the same query."""
    peer = Peer(contributor().connect(), "alice")
    with lying(lambda layer, group, deltas: deltas[::-1]):
        drive(peer)
        with rejected(checks={"linear test"}):
            peer.finish()


def test_answers_swapped_between_targets():
    """The deltas of two targets in one answer change places."""
    peer = Peer(contributor().connect(), "alice")
    swap = lambda layer, group, d: np.roll(d, 8, 1) if group == "attention" else d  # noqa: E731
    with lying(swap):
        drive(peer)
        with rejected(checks={"linear test"}):
            peer.finish()


def test_answers_of_another_layer():
    """The weights of the other layer are used, and proved in the right place."""
    honest = Contributor.deltas
    peer = Peer(contributor().connect(), "alice")
    with (
        mock.patch.object(Contributor, "deltas", lambda s, at, g, x: honest(s, 1 - at, g, x)),
        mock.patch.object(Contributor, "prove", unchecked_prove),
    ):
        drive(peer)
        with rejected(checks={"linear test"}):
            peer.finish()


@pytest.mark.parametrize("proof_by", [0, 1])
def test_another_adapter_mid_session(proof_by):
    """From the second layer on another adapter answers; either adapter makes the proof."""
    first, second = contributor(0), contributor(1)
    peer = Peer(first.connect(), "alice")
    honest = Contributor.deltas

    def deltas(self, layer, group, x):
        return honest(second if layer else first, layer, group, x)

    def prove(self, record, wanted):
        return unchecked_prove(first, record, wanted, (first, second)[proof_by])

    with (
        mock.patch.object(Contributor, "deltas", deltas),
        mock.patch.object(Contributor, "prove", prove),
    ):
        drive(peer)
        with rejected(checks={"merkle path" if proof_by else "linear test"}):
            peer.finish()


def test_another_adapter_with_a_proof_of_its_own():
    """The whole session is answered and truly proved, with an adapter that was not offered."""
    first, second = contributor(0), contributor(1)
    peer = Peer(first.connect(), "alice")
    with (
        mock.patch.object(first, "deltas", second.deltas),
        mock.patch.object(first, "prove", lambda r, _: unchecked_prove(first, r, None, second)),
    ):
        drive(peer)
        with rejected(checks={"merkle path"}):
            peer.finish()


def test_answers_changed_on_the_way():
    """Someone between the two adds one to a delta: the two sides saw different frames."""

    def change(i, data):
        return data[:-4] + b"\1\0\0\0" if i == 1 else data

    peer = Peer(Tampered(contributor().connect(), incoming=change), "alice")
    drive(peer)
    with ends("refused", "record: "):
        peer.finish()


# What is offered ------------------------------------------------------------------------------


def test_another_adapter_than_expected():
    """The user knows the manifest beforehand; another adapter is refused, named."""
    digest = committed(0)[1].digest.hex()
    with pytest.raises(VerificationError, match=f"alice.*{committed(1)[1].digest.hex()}"):
        Peer(contributor(1).connect(), "alice", manifest=digest)
    with ends("manifest", "name the manifest's digest"):
        root = committed(0)[1].commitment.root.hex()
        Peer(contributor(0).connect(), "alice", manifest=root)
    for form in (digest, digest.upper(), "0x" + digest, bytes.fromhex(digest)):
        Peer(contributor(0).connect(), "alice", manifest=form).abandon()
    for form in (digest[:16], digest[:-1] + "g", ""):
        with ends("manifest"):
            Peer(contributor(0).connect(), "alice", manifest=form)


@pytest.mark.parametrize("change", [{"log2_scale": 2}, {"layers": [0, 3]}], ids=str)
def test_the_adapter_expected_with_another_scale_or_place(change):
    """The commitment is the one that is known, the rest of the manifest is not."""
    with pytest.raises(VerificationError, match="manifest: alice: the adapter is"):
        Peer(offering(with_manifest(**change)), "alice", manifest=committed(0)[1].digest.hex())


def offering(change: Callable[[frames.Offer], frames.Offer], seed: int = 0) -> Tampered:
    """A channel to a contributor whose offer is changed."""

    def incoming(i, data):
        if i:
            return data
        return frames.encode(change(frames.decode(data, 0, ROOM)), 0)

    return Tampered(contributor(seed).connect(), incoming=incoming)


def with_manifest(**changes) -> Callable[[frames.Offer], frames.Offer]:
    """An offer whose manifest has other values, in canonical form."""

    def change(offer):
        data = json.loads(offer.manifest)
        commitment = data["commitment"] | changes.get("commitment", {})
        data |= changes | {"commitment": commitment}
        raw = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
        return replace(offer, manifest=raw)

    return change


def with_targets(
    down: list, q: list, v: list, r: int = 2
) -> Callable[[frames.Offer], frames.Offer]:
    """A manifest of other sizes whose commitment and statement have the same."""
    targets = {"down_proj": down, "q_proj": q, "v_proj": v}
    shapes = [s for i, o in targets.values() for s in ([2, int(i), r], [2, r, int(o)])]

    def change(offer):
        honest = committed()[1]
        sizes = {t: tuple(targets[t]) for t in honest.targets}
        changed = with_manifest(targets=targets, r=r, commitment={"shapes": shapes})
        try:
            statement = one_token_digest(replace(honest, targets=sizes, r=r))
        except Exception:
            return changed(offer)
        return with_manifest(statement=statement)(changed(offer))

    return change


OTHER = {"targets": {"q_proj": [16, 16], "v_proj": [16, 8]}}
BAD_MANIFESTS = {
    "not JSON": lambda o: replace(o, manifest=b"\0"),
    "empty": lambda o: replace(o, manifest=b""),
    "not canonical": lambda o: replace(o, manifest=o.manifest + b" "),
    "no layers": with_manifest(layers=[]),
    "layers twice": with_manifest(layers=[0, 0]),
    "layers out of order": with_manifest(layers=[1, 0]),
    "a negative layer": with_manifest(layers=[-1, 0]),
    "a layer as text": with_manifest(layers=["0", "1"]),
    "a third layer": with_manifest(layers=[0, 1, 2]),
    "no targets": with_manifest(targets={}),
    "other targets": with_manifest(**OTHER),
    "an unknown target": with_manifest(targets={"x_proj": [16, 16]}),
    "a size of zero": with_manifest(targets={"q_proj": [16, 0], "v_proj": [16, 8]}),
    "inputs that differ": with_manifest(
        targets={"down_proj": [24, 16], "q_proj": [16, 16], "v_proj": [8, 8]}
    ),
    "a size as a fraction": with_targets([24.0, 16], [16, 16], [16, 8]),
    "a size as true": with_targets([24, 16], [16, 16], [16, True]),
    "a huge size": with_targets([1 << 20, 16], [16, 16], [16, 8]),
    "inputs that differ, committed": with_targets([24, 16], [16, 16], [8, 8]),
    "three sizes": with_manifest(
        targets={"down_proj": [24, 16], "q_proj": [16, 16, 1], "v_proj": [16, 8]}
    ),
    "another rank": with_manifest(r=3),
    "a rank above a layer's size": with_targets([24, 16], [16, 16], [16, 8], 9),
    "rank 0": with_manifest(r=0),
    "a huge rank": with_manifest(r=1 << 40),
    "a huge scale": with_manifest(log2_scale=9),
    "scale as a fraction": with_manifest(log2_scale=0.5),
    "another dtype": with_manifest(dtype="int32"),
    "an unknown dtype": with_manifest(dtype="int64"),
    "a dtype that is not stored": with_manifest(dtype="int8", commitment={"dtypes": ["int8"] * 6}),
    "dtype as a list": with_manifest(dtype=["int16"]),
    "another statement": with_manifest(statement="ab" * 32),
    "no statement": with_manifest(statement=""),
    "statement not hex": with_manifest(statement="zz" * 32),
    "a short root": with_manifest(commitment={"root": "00" * 31}),
    "other shapes": with_manifest(commitment={"shapes": [[2, 2, 2]] * 6}),
    "other dtypes": with_manifest(commitment={"dtypes": ["int8"] * 6}),
    "no openings": with_manifest(commitment={"openings": 0}),
    "too many openings": with_manifest(commitment={"openings": 1 << 17}),
    "an unknown profile": with_manifest(commitment={"profile": "s99"}),
    "a range proof inside": with_manifest(commitment={"range_proof": "AAAA"}),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_a_manifest_that_contradicts_itself(name):
    with ends("manifest"):
        Peer(offering(BAD_MANIFESTS[name]), "alice")


@pytest.mark.parametrize("statement", ["", "ab", "ab" * 31, "ab" * 33, "g" * 64])
def test_a_statement_digest_of_another_length(statement):
    manifest = replace(committed()[1], statement=statement)
    with pytest.raises(SessionError) as caught:
        Manifest.decode(manifest.encode())
    assert caught.value.check == "manifest"


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, intermediate_size=32),
        replace(CONFIG, num_key_value_heads=4),
        replace(CONFIG, num_hidden_layers=1),
        LlamaConfig(),
    ],
)
def test_an_adapter_of_another_base_model(config):
    with ends("manifest", "base model"):
        Peer(contributor().connect(), "alice", config=config)


def test_sizes_are_compared_with_the_base_model_before_anything_is_computed():
    """A manifest of enormous shapes costs a user with a base model nothing."""
    with (
        mock.patch("zkjax.proofs.adapter.statement.one_token_digest", side_effect=AssertionError),
        mock.patch("zkjax.proofs.adapter.statement.verify_ranges", side_effect=AssertionError),
        ends("manifest", "base model"),
    ):
        Peer(contributor().connect(), "alice", config=LlamaConfig())


def enormous() -> Manifest:
    """A consistent manifest of 20 kB about 8 GiB of activations a token."""
    blank = replace(
        committed()[1],
        layers=tuple(range(4095)),
        targets={"down_proj": ((1 << 20) - 1, 1)},
        r=1,
    )
    shapes = tuple(blank.leaves())
    commitment = replace(committed()[1].commitment, shapes=shapes, dtypes=("int16",) * len(shapes))
    return replace(blank, commitment=commitment)


def test_an_enormous_manifest_allocates_nothing():
    """A user without a base model in mind is sent a manifest of impossible sizes."""
    manifest = enormous()
    manifest.check()
    tracemalloc.start()
    try:
        one_token_digest(manifest)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "change",
    [with_manifest(log2_scale=2), with_manifest(layers=[0, 3])],
    ids=["log2_scale", "layers"],
)
def test_manifest_changed_on_the_way(change):
    """The user accepts what it was shown; the contributor does not stand by that."""
    channel = offering(change)
    peer = Peer(channel, "alice")
    assert channel.session.closed and channel.session.error.check == "manifest"
    with ends("refused", "manifest"):
        drive(peer)


def test_manifest_changed_after_the_offer():
    """A second offer, of another adapter, in place of an answer."""
    second = frames.encode(
        frames.Offer(NONCE, committed(1)[1].encode(), committed(1)[1].commitment.range_proof), 1
    )
    peer = Peer(
        Tampered(contributor().connect(), incoming=lambda i, d: second if i == 1 else d), "alice"
    )
    with ends("frame", "Offer is out of turn"):
        drive(peer)
    assert peer.manifest.commitment == committed(0)[1].commitment


def test_a_contributor_is_about_its_own_commitment():
    with pytest.raises(SessionError) as caught:
        Contributor(committed(0)[0], committed(1)[1])
    assert caught.value.check == "manifest"


@pytest.mark.parametrize("least", ["s128", "s99", "", "S100"])
def test_a_weaker_profile_is_refused(least):
    """The contributor refuses, or, if it lies, the user does."""
    with ends("refused", "profile: "):
        Peer(contributor().connect(), "alice", least=least)


def test_a_weaker_profile_is_refused_by_the_user():
    hello = frames.encode(frames.Hello(NONCE, "s100"), 0)
    channel = Tampered(contributor().connect(), outgoing=lambda i, d: d if i else hello)
    with rejected(checks={"profile"}):
        Peer(channel, "alice", least="s128")


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


BAD_RANGE_PROOFS = {
    "missing": lambda proof: b"",
    "of another commitment": lambda proof: committed(1)[1].commitment.range_proof,
    "first byte": lambda proof: flipped(proof, 0),
    "middle": lambda proof: flipped(proof, len(proof) // 2),
    "last byte": lambda proof: flipped(proof, len(proof) - 1),
    "cut": lambda proof: proof[:-1],
    "longer": lambda proof: proof + b"\0",
    "noise": lambda proof: hashlib.shake_256(b"noise").digest(len(proof)),
}


@pytest.mark.parametrize("name", BAD_RANGE_PROOFS)
def test_range_proof(name):
    def change(offer):
        return replace(offer, range_proof=BAD_RANGE_PROOFS[name](offer.range_proof))

    with rejected(checks={"range proof"}):
        Peer(offering(change), "alice")


def test_a_root_whose_range_proof_is_of_another():
    """The commitment is swapped for another one below an honest range proof."""
    change = with_manifest(commitment={"root": committed(1)[1].commitment.root.hex()})
    with rejected(checks={"range proof"}):
        Peer(offering(change), "alice")


# Frames on the way ----------------------------------------------------------------------------


def renumbered(data: bytes, sequence: int) -> bytes:
    return data[:8] + sequence.to_bytes(4, "little") + data[12:]


TAMPERING = {
    "replayed": (lambda seen, i, d: seen[i - 1], "sequence"),
    "the first again": (lambda seen, i, d: seen[0], "sequence"),
    "replayed with a new number": (lambda seen, i, d: renumbered(seen[0], i), "frame"),
    "skipped ahead": (lambda seen, i, d: renumbered(d, i + 1), "sequence"),
    "number wrapped": (lambda seen, i, d: renumbered(d, 2**32 - 1), "sequence"),
    "cut by one": (lambda seen, i, d: d[:-1], "frame"),
    "cut in the header": (lambda seen, i, d: d[:10], "frame"),
    "nothing": (lambda seen, i, d: b"", "frame"),
    "longer": (lambda seen, i, d: d + b"\0", "frame"),
    "twice in one": (lambda seen, i, d: d + d, "frame"),
    "oversized": (lambda seen, i, d: d + bytes(1 << 20), "limit"),
    "another version": (lambda seen, i, d: d[:4] + b"\1" + d[5:], "frame"),
    "another protocol": (lambda seen, i, d: b"GET " + d[4:], "frame"),
}
SMALL = Limits(frame_bytes=1 << 20)


@pytest.mark.parametrize("name", TAMPERING)
@pytest.mark.parametrize("at", [1, 3])
def test_frames_to_the_contributor(name, at):
    """The contributor refuses, by name; the user hears the reason, or finds the session over."""
    change, check = TAMPERING[name]
    channel = Tampered(contributor(limits=SMALL).connect())
    channel.outgoing = lambda i, d: change(channel.sent, i, d) if i == at else d
    with pytest.raises(SessionError) as caught:
        drive(Peer(channel, "alice"))
    assert caught.value.check in ("refused", "disconnected") and caught.value.party == "alice"
    assert channel.session.closed and channel.session.error.check == check


@pytest.mark.parametrize("name", TAMPERING)
@pytest.mark.parametrize("at", [1, 3])
def test_frames_to_the_user(name, at):
    change, check = TAMPERING[name]
    channel = Tampered(contributor().connect())
    channel.incoming = lambda i, d: change(channel.received, i, d) if i == at else d
    peer = Peer(channel, "alice", limits=SMALL)
    with ends(check):
        drive(peer)
    assert channel.session.closed


@pytest.mark.parametrize("at", [0, 1, 2, 5])
def test_a_frame_that_never_comes(at):
    """The channel says that nobody answers; the error names who."""
    channel = Tampered(contributor().connect(), incoming=lambda i, d: None if i == at else d)
    with ends("idle"):
        peer = Peer(channel, "alice")
        drive(peer)
        peer.finish()
    assert channel.session.closed


ANSWERS = {
    "another layer": (lambda a: replace(a, layer=1), "answer"),
    "a layer that is not adapted": (lambda a: replace(a, layer=9), "answer"),
    "another group": (lambda a: replace(a, group="inner"), "answer"),
    "a token less": (lambda a: replace(a, deltas=a.deltas[:-1]), "answer"),
    "a token more": (lambda a: replace(a, deltas=np.repeat(a.deltas, 2, 0)), "answer"),
    "a column less": (lambda a: replace(a, deltas=a.deltas[:, 1:]), "answer"),
    "transposed": (lambda a: replace(a, deltas=a.deltas.T), "answer"),
    "a refusal": (lambda a: frames.Refusal("leakage", "enough"), "refused"),
    "a proof": (lambda a: frames.ProofFrame(b""), "frame"),
    "a query": (lambda a: frames.Query(a.layer, a.group, activations(16)), "frame"),
    "a hello": (lambda a: frames.Hello(NONCE, "s100"), "frame"),
    "an accept": (lambda a: frames.Accept(NONCE), "frame"),
    "a finish": (lambda a: frames.Finish(NONCE), "frame"),
    "done": (lambda a: frames.Done(), "frame"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_something_else_than_the_answer(name):
    """A well-formed frame with the right number that does not answer the query."""
    change, check = ANSWERS[name]

    def incoming(i, data):
        return frames.encode(change(frames.decode(data, i, ROOM)), i) if i == 1 else data

    peer = Peer(Tampered(contributor().connect(), incoming=incoming), "alice")
    with ends(check):
        drive(peer)


@pytest.mark.parametrize("frame", [frames.Done(), frames.Answer(0, "inner", np.ones((1, 1)))])
def test_something_else_than_the_offer_or_the_proof(frame):
    with ends("frame", "out of turn"):
        Peer(
            Tampered(contributor().connect(), incoming=lambda i, d: frames.encode(frame, i)),
            "alice",
        )
    channel = Tampered(contributor().connect())
    peer = Peer(channel, "alice")
    drive(peer)
    channel.incoming = lambda i, d: frames.encode(frame, i)
    with ends("frame", "out of turn"):
        peer.finish()


X = activations(16)
OUT_OF_TURN = {
    "Hello": frames.Hello(NONCE, "s100"),
    "Offer": frames.Offer(NONCE, b"{}", b""),
    "Accept": frames.Accept(NONCE),
    "Query": frames.Query(0, "attention", X),
    "Answer": frames.Answer(0, "attention", np.zeros((2, 24), np.int32)),
    "Finish": frames.Finish(NONCE),
    "FinishSealed": frames.FinishSealed(NONCE, b"[]", b""),
    "ProofFrame": frames.ProofFrame(b""),
    "Done": frames.Done(),
}
STATES = {
    "connected": (lambda owner: Raw(owner), {"Hello"}),
    "offered": (lambda owner: offered(owner), {"Accept"}),
    "asking": (lambda owner: Raw(owner).open(), {"Query", "Finish", "FinishSealed"}),
}


def offered(owner: Contributor) -> Raw:
    raw = Raw(owner)
    raw.tell(frames.Hello(NONCE, "s100"))
    return raw


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", OUT_OF_TURN)
def test_frames_out_of_turn(state, name):
    make, due = STATES[state]
    if name in due:
        return
    raw = make(contributor())
    assert "out of turn" in raw.refused(raw.tell(OUT_OF_TURN[name]), "frame")


@pytest.mark.parametrize("name", [n for n in OUT_OF_TURN if n != "Done"])
def test_nothing_but_done_after_the_proof(name):
    """No second proof, and no further query, in a session that is over."""
    owner = contributor()
    raw = Raw(owner).open().ask_all()
    with mock.patch.object(owner, "prove", lambda *_: b"proof"):
        assert isinstance(raw.tell(frames.Finish(raw.digest.value)), frames.ProofFrame)
        raw.refused(raw.tell(OUT_OF_TURN[name]), "frame")


def test_a_user_that_refuses_is_not_answered():
    for make, _ in STATES.values():
        raw = make(contributor())
        assert raw.tell(frames.Refusal("proof", "rejected")) is None
        assert raw.session.closed and not raw.session.accepted
        assert raw.session.error.check == "refused"


def test_the_user_accepts_another_manifest():
    raw = offered(contributor())
    raw.refused(raw.tell(frames.Accept(committed(1)[1].digest)), "manifest")


def test_two_sessions_are_not_mixed():
    """Frames recorded in one session are refused in another, or lead to another digest."""
    owner = contributor()
    channel = Tampered(owner.connect())
    peer = Peer(channel, "alice")
    drive(peer)
    peer.finish()
    other = owner.session()
    replies = [other.receive(data) for data in channel.sent]
    assert other.error.check == "record" and not other.accepted
    assert not any(r and r[5] == frames.TYPES.index(frames.ProofFrame) for r in replies)


# The end of a session -------------------------------------------------------------------------


def test_finish_with_nothing_asked():
    owner = contributor()
    raw = Raw(owner).open()
    raw.refused(raw.tell(frames.Finish(raw.digest.value)), "record")
    peer = Peer(owner.connect(), "alice")
    with ends("record", "nothing was asked"):
        peer.finish()
    assert owner.sealed.remaining == 40


@pytest.mark.parametrize("kind", [frames.Finish, frames.FinishSealed])
def test_finish_in_the_middle_of_a_forward_pass(kind):
    """One site less than the others: no proof, and no opening is spent."""
    owner = contributor()
    peer = Peer(owner.connect(), "alice")
    for layer, group in sites(peer.manifest)[:-1]:
        peer.deltas(layer, group, activations(peer.manifest.inputs(group)))
    with ends("record"):
        peer.finish()
    raw = Raw(owner).open().ask_all()
    raw.tell(frames.Query(0, "attention", X))
    rest = () if kind is frames.Finish else (b"[]", b"")
    raw.refused(raw.tell(kind(raw.digest.value, *rest)), "record")
    assert owner.sealed.remaining == 40


@pytest.mark.parametrize("kind", [frames.Finish, frames.FinishSealed])
def test_a_wrong_digest_of_the_session(kind):
    owner = contributor()
    raw = Raw(owner).open().ask_all()
    digest = flipped(raw.digest.value, 31)
    rest = () if kind is frames.Finish else (b"[]", b"")
    raw.refused(raw.tell(kind(digest, *rest)), "record")
    assert owner.sealed.remaining == 40


def test_a_session_that_lasts_too_long():
    owner = contributor(limits=Limits(session_seconds=-1.0))
    raw = Raw(owner)
    raw.refused(raw.tell(frames.Hello(NONCE, "s100")), "limit")


def test_a_session_that_ended_takes_nothing():
    """After its error a peer is of no use any more, and says so."""
    channel = Tampered(contributor().connect(), incoming=lambda i, d: d[:-1] if i == 1 else d)
    peer = Peer(channel, "alice")
    with ends("frame"):
        drive(peer)
    for call in (lambda: peer.deltas(0, "attention", X), peer.finish):
        with ends("closed", "open another"):
            call()


def test_a_query_about_no_tokens():
    peer = Peer(contributor().connect(), "alice")
    with ends("query", "of shape (0, 16)"):
        peer.deltas(0, "attention", X[:0])


# Proofs ---------------------------------------------------------------------------------------


def test_proof_of_another_session():
    """The contributor keeps an old proof for other activations, and sends it again."""
    _, old = finished()
    owner = contributor()
    peer = Peer(owner.connect(), "alice")
    drive(peer, seed=5)
    with mock.patch.object(owner, "prove", lambda *_: old), rejected(checks={"merkle path"}):
        peer.finish()


def test_proof_of_another_commitment():
    _, body = finished(1)
    owner = contributor(0)
    peer = Peer(owner.connect(), "alice")
    drive(peer)
    with mock.patch.object(owner, "prove", lambda *_: body), rejected(checks={"merkle path"}):
        peer.finish()


BAD_PROOFS = {
    "empty": lambda p: b"",
    "range proof": lambda p: committed()[1].commitment.range_proof,
    "first half": lambda p: p[: len(p) // 2],
    "cut": lambda p: p[:-1],
    "longer": lambda p: p + b"\0",
    "zeros": lambda p: bytes(len(p)),
    **{f"bit at {i} of 16": (lambda p, i=i: flipped(p, i * (len(p) - 1) // 16)) for i in range(17)},
}


@pytest.mark.parametrize("name", BAD_PROOFS)
def test_changed_proofs(name):
    record, body = finished()
    kept = record.proof
    with pytest.raises(VerificationError):
        record.verify(BAD_PROOFS[name](body))
    assert record.proof is kept


def test_a_changed_proof_names_its_contributor():
    def incoming(i, data):
        proof = frames.TYPES.index(frames.ProofFrame)
        return flipped(data, len(data) - 1) if data[5] == proof else data

    channel = Tampered(contributor().connect(), incoming=incoming)
    peer = Peer(channel, "alice")
    drive(peer)
    with rejected(checks={"merkle path"}):
        peer.finish()
    assert channel.session.error.check == "refused"
    assert "rejected: " in channel.session.error.detail


def test_the_user_believes_its_own_record_only():
    """The contributor's copy of the record is changed after the answers; its proof fits that."""
    owner = contributor()
    peer = Peer(owner.connect(), "alice")
    drive(peer)
    copy = peer.channel.session.record
    site = LAYERS[0], "attention"
    copy._x[site][0] = activations(16, 2, 99)
    copy._deltas[site][0] = owner.deltas(*site, copy._x[site][0])
    with rejected(checks={"merkle path"}):
        peer.finish()


def test_activations_of_the_user_are_not_those_of_the_contributor():
    """A contributor that answers for other activations, and proves those."""
    honest = Contributor.deltas
    owner = contributor()
    peer = Peer(owner.connect(), "alice")
    zero = lambda s, at, g, x: honest(s, at, g, np.zeros_like(x))  # noqa: E731

    def prove(record, wanted):
        xs = {g: np.zeros_like(x) for g, x in record.xs.items()}
        context = record.context
        return zkjax.prove(make_deltas("int16"), context=context)(owner.sealed, xs)[1].body

    with (
        mock.patch.object(Contributor, "deltas", zero),
        mock.patch.object(owner, "prove", prove),
    ):
        drive(peer)
        with rejected(checks={"merkle path"}):
            peer.finish()


# Saved sessions -------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path) -> Path:
    finished()[0].save(tmp_path / "session")
    return tmp_path / "session"


def test_a_saved_session_is_verified_again(saved):
    record = verify_session(saved)
    assert record.tokens == finished()[0].tokens and record.proof is not None
    assert sorted(p.name for p in saved.iterdir()) == sorted(FILES)
    assert saved.stat().st_mode & 0o077 == 0
    assert (saved / FILES[2]).stat().st_mode & 0o077 == 0


def test_a_saved_session_of_less_security(saved):
    with pytest.raises(VerificationError) as caught:
        verify_session(saved, "s128")
    assert caught.value.check == "profile"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "longer", "first", "last", "noise"])
def test_a_saved_file_is_changed(saved, name, how):
    path = saved / name
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "cut": data[:-1],
                "longer": data + b"\0",
                "first": flipped(data, 0),
                "last": flipped(data, len(data) - 1),
                "noise": hashlib.shake_256(b"noise").digest(len(data)),
            }[how]
        )
    with pytest.raises(NAMED):
        verify_session(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_saved_file_of_another_session(saved, tmp_path, name):
    """Each file alone is replaced by that of a session with another adapter."""
    finished(1)[0].save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / name, saved / name)
    with pytest.raises(NAMED):
        verify_session(saved)


def arrays(saved: Path) -> dict[str, np.ndarray]:
    return {k: v.copy() for k, v in load((saved / FILES[2]).read_bytes()).items()}


def refuses_arrays(saved: Path, tensors: dict[str, np.ndarray]) -> Exception:
    tensors = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    (saved / FILES[2]).write_bytes(save(tensors))
    with pytest.raises(NAMED) as caught:
        verify_session(saved)
    return caught.value


NAMES = ("x.attention", "x.inner", "delta.q_proj", "delta.v_proj", "delta.down_proj")


@pytest.mark.parametrize("name", NAMES)
def test_one_entry_of_a_saved_array(saved, name):
    honest = arrays(saved)
    for layer in LAYERS:
        tensors = honest | {name: honest[name].copy()}
        tensors[name][layer, -1, -1] += 1
        assert isinstance(refuses_arrays(saved, tensors), VerificationError)


ARRAY_CHANGES = {
    "missing": lambda v: None,
    "other dtype": lambda v: v.astype(np.int64),
    "unsigned": lambda v: v.view(np.uint16 if v.itemsize == 2 else np.uint32),
    "float": lambda v: v.astype(np.float32),
    "no tokens": lambda v: v[:, :0],
    "a token less": lambda v: v[:, 1:],
    "a token twice": lambda v: np.repeat(v, 2, 1),
    "a layer less": lambda v: v[1:],
    "a layer more": lambda v: np.concatenate([v, v]),
    "a column less": lambda v: v[..., 1:],
    "flat": lambda v: v.reshape(-1),
    "a scalar": lambda v: v[0, 0, 0],
    "more axes": lambda v: v[None],
    "layers swapped": lambda v: v[::-1],
    "tokens swapped": lambda v: v[:, ::-1],
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["pipe", "endless", "sparse", "folder"])
def test_a_saved_file_that_never_ends(saved, name, kind):
    """Neither waited for nor read into memory."""
    path = saved / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(1 << 34)
    with pytest.raises(StatementError, match=r"not a file|larger than"):
        verify_session(saved)


@pytest.mark.parametrize("how", ARRAY_CHANGES)
def test_a_saved_array_is_changed(saved, how):
    honest = arrays(saved)
    for name in NAMES:
        tensors = dict(honest)
        changed = ARRAY_CHANGES[how](tensors[name])
        if changed is None:
            del tensors[name]
        else:
            tensors[name] = changed
        error = refuses_arrays(saved, tensors)
        assert isinstance(error, VerificationError if "swapped" in how else SessionError)


@pytest.mark.parametrize("how", ["no tokens", "a token less", "a token twice", "a layer less"])
def test_all_saved_arrays_are_changed_alike(saved, how):
    refuses_arrays(saved, {k: ARRAY_CHANGES[how](v) for k, v in arrays(saved).items()})


def test_a_saved_column_is_moved_to_another_target(saved):
    """Side by side the deltas of a group are the same, cut elsewhere."""
    tensors = arrays(saved)
    both = np.concatenate([tensors["delta.q_proj"], tensors["delta.v_proj"]], axis=2)
    tensors["delta.q_proj"], tensors["delta.v_proj"] = both[..., :15], both[..., 15:]
    assert isinstance(refuses_arrays(saved, tensors), SessionError)


def test_one_saved_array_too_many(saved):
    refuses_arrays(saved, arrays(saved) | {"x.heads": np.zeros((2, 2, 16), np.int16)})


def change_manifest(saved: Path, **changes) -> None:
    data = json.loads((saved / FILES[0]).read_bytes())
    commitment = data["commitment"] | changes.pop("commitment", {})
    data |= changes | {"commitment": commitment}
    raw = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    (saved / FILES[0]).write_bytes(raw)


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": [0]},
        {"layers": [0, 1, 2]},
        {"r": 1},
        {"dtype": "int32"},
        {"targets": {"down_proj": [24, 16], "k_proj": [16, 16], "v_proj": [16, 8]}},
        {"targets": {"down_proj": [24, 16], "q_proj": [16, 8], "v_proj": [16, 16]}},
        {"commitment": {"openings": 42}},
        {"commitment": {"profile": "s128"}},
        {"commitment": {"root": "00" * 32}},
    ],
    ids=str,
)
def test_the_saved_manifest_is_changed(saved, changes):
    change_manifest(saved, **changes)
    with pytest.raises(NAMED):
        verify_session(saved)


@pytest.mark.parametrize(
    "changes", [{"log2_scale": 3}, {"layers": [3, 9]}, {"statement": "11" * 32}], ids=str
)
def test_the_scale_the_layers_and_the_statement_of_the_saved_manifest_are_changed(saved, changes):
    """alpha / r is eight times what it was, or the adapter is said to sit in other layers."""
    change_manifest(saved, **changes)
    with pytest.raises(NAMED):
        verify_session(saved)


def safetensors_of(dtype: str, size: int) -> bytes:
    header = json.dumps({"x": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


@pytest.mark.parametrize(("dtype", "size"), [("BF16", 2), ("F8_E4M3", 1)])
def test_a_saved_array_of_an_exotic_type(saved, dtype, size):
    (saved / FILES[2]).write_bytes(safetensors_of(dtype, size))
    with pytest.raises(NAMED):
        verify_session(saved)


def test_a_session_without_proof_is_not_saved(tmp_path):
    peer = Peer(contributor().connect(), "alice")
    drive(peer)
    with pytest.raises(SessionError) as caught:
        peer.record.save(tmp_path / "session")
    assert caught.value.check == "record"


def test_the_contributor_can_save_its_side(tmp_path):
    """In a dispute the contributor shows what it was asked, and that it answered rightly."""
    peer = Peer(contributor().connect(), "alice")
    drive(peer)
    peer.finish()
    peer.channel.session.record.save(tmp_path / "session")
    verify_session(tmp_path / "session")


# Queries --------------------------------------------------------------------------------------

BAD_QUERIES = {
    "a layer that is not adapted": (2, "attention", 16),
    "a layer of 2^32 - 1": (2**32 - 1, "attention", 16),
    "a group that is not adapted": (0, "heads", 16),
    "another group that is not adapted": (1, "mlp", 16),
    "too narrow": (0, "attention", 15),
    "too wide": (0, "attention", 17),
    "the width of another group": (0, "attention", 24),
    "one column": (0, "inner", 1),
}


@pytest.mark.parametrize("name", BAD_QUERIES)
def test_bad_queries(name):
    layer, group, width = BAD_QUERIES[name]
    owner = contributor()
    raw = Raw(owner).open()
    with mock.patch.object(owner, "deltas", side_effect=AssertionError):
        raw.refused(raw.tell(frames.Query(layer, group, activations(width))), "query")
    assert owner.leakage.worst() == 0 and raw.session.record.size == 0


@pytest.mark.parametrize(("a", "b", "what"), [(4097, 1, "x A"), (4096, -32768, "x A B")])
def test_an_activation_that_leaves_the_fixed_point_is_not_answered(a, b, what):
    """x A does not fit an activation, or x A B an answer: refused, before it is sent wrapped."""
    owner = contributor()
    parts = {"a": np.zeros((2, 16, 2)), "b": np.full((2, 2, 16), float(b))}
    parts["a"][:, 0] = a
    x = np.zeros((1, 16), np.int16)
    x[0, 0] = -32768
    peer = Peer(owner.connect(), "alice")
    with (
        mock.patch.object(owner, "_weights", owner._weights | {"q_proj": parts}),
        ends("refused", f"range: {what} leaves"),
    ):
        peer.deltas(0, "attention", x)
    peer = Peer(owner.connect(), "alice")
    with mock.patch.object(owner, "_weights", owner._weights | {"q_proj": parts}):
        told = peer.deltas(0, "attention", x // 2)["q_proj"]
    assert told[0, 0] == 2 * b * ((-16384 * a + 2048) >> 12)


def query_bytes(tokens: int) -> int:
    return tokens * (2 * 16 + 4 * 24)  # attention: q_proj and v_proj


def test_the_contributor_limits_the_bytes_of_a_session():
    """The last query that fits is answered, the next is not, and nothing is kept of it."""
    owner = contributor(limits=Limits(session_bytes=query_bytes(10)))
    raw = Raw(owner).open()
    for _ in range(2):
        assert isinstance(raw.tell(frames.Query(0, "attention", activations(16, 5))), frames.Answer)
    before = owner.leakage.worst()
    raw.refused(raw.tell(frames.Query(0, "attention", activations(16, 1, 9))), "limit")
    assert raw.session.record.size == query_bytes(10)
    assert owner.leakage.worst() == before
    serves_on(contributor())


def test_the_user_limits_the_bytes_of_a_session():
    """The user does not even send what it may not keep."""
    channel = Tampered(contributor().connect())
    peer = Peer(channel, "alice", limits=Limits(session_bytes=query_bytes(10)))
    peer.deltas(0, "attention", activations(16, 10))
    sent = len(channel.sent)
    with ends("limit"):
        peer.deltas(0, "attention", activations(16, 1))
    assert len(channel.sent) == sent and peer.record.size == query_bytes(10)


def test_an_answer_larger_than_a_frame():
    """A query fits a frame, its answer would not: refused before anything is computed."""
    owner = contributor(limits=Limits(frame_bytes=4096))
    raw = Raw(owner).open()
    with mock.patch.object(owner, "deltas", side_effect=AssertionError):
        detail = raw.refused(raw.tell(frames.Query(0, "attention", activations(16, 100))), "limit")
    assert "answer" in detail and owner.leakage.worst() == 0


def test_long_activations_are_sent_in_parts():
    """What does not fit a frame is split, and the deltas are those of the whole."""
    limits = Limits(frame_bytes=2048)
    owner = contributor(limits=limits)
    channel = Tampered(owner.connect())
    with mock.patch("zkjax.proofs.adapter.peer.frames.decode", any_size):
        peer = Peer(channel, "alice", limits=limits)
    x = activations(16, 100)
    told, expected = peer.deltas(0, "attention", x), local_deltas(0, 0, "attention", x)
    assert all(np.array_equal(told[t], expected[t]) for t in expected)
    assert len(channel.sent) > 4 and max(map(len, channel.sent)) <= 2048


decode = frames.decode


def any_size(data: bytes, sequence: int, limit: int) -> frames.Frame:
    return decode(data, sequence, ROOM)


# Leakage --------------------------------------------------------------------------------------


def unit(size: int, *positions: int) -> np.ndarray:
    """Activations along single axes."""
    x = np.zeros((len(positions), size), dtype=np.int16)
    x[range(len(positions)), positions] = 1000
    return x


def test_queries_beyond_the_limit_are_refused_in_all_sessions():
    """Half of 16 inputs may be known: eight answers are given, over any number of sessions."""
    leakage = Leakage(committed()[1], 0.5)
    owner = contributor(leakage=leakage)
    for i in range(8):
        Peer(owner.connect(), "alice").deltas(0, "attention", unit(16, i))
    assert leakage.dimension(0, "attention") == 8
    more = [
        unit(16, 8),
        np.concatenate([unit(16, 0), unit(16, 15)]),
        unit(16, 3) + unit(16, 5),  # a sum of known ones is a new question: x A is rounded
        unit(16, 3),
    ]
    with mock.patch.object(owner, "deltas", side_effect=AssertionError):
        for x in more:
            peer = Peer(owner.connect(), "alice")
            with ends("refused", "leakage: "):
                peer.deltas(0, "attention", x)
    # other sites and other layers are answered still
    Peer(owner.connect(), "alice").deltas(1, "attention", unit(16, *range(8)))
    Peer(owner.connect(), "alice").deltas(0, "inner", unit(24, *range(12)))
    with ends("refused", "leakage: "):
        Peer(owner.connect(), "alice").deltas(0, "inner", unit(24, 12))


def entropy(values: np.ndarray) -> float:
    _, counts = np.unique(values, return_counts=True)
    return float(-np.sum(counts / counts.sum() * np.log2(counts / counts.sum())))


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.9])
def test_small_weights_cannot_be_read_from_sums_of_known_activations(fraction):
    """x = e_i + M e_j packs two small weights in one number. Whatever is asked, the answers' bits
    stay below the share of what A holds.
    """
    sealed, manifest = committed()
    owner = Contributor(sealed, manifest, leakage=Leakage(manifest, fraction))
    a = owner._weights["q_proj"]["a"][0]
    answered = 0
    for scale in range(1, 200):
        x = unit(16, 0) // 1000 + scale * (unit(16, 1) // 1000)
        try:
            Peer(owner.connect(), "alice").deltas(0, "attention", x)
        except SessionError as error:
            assert error.check == "refused"
            break
        answered += 1
    assert 16 * answered <= fraction * len(a) * max(1.0, entropy(a))
    assert owner.leakage.fraction(0, "attention") <= fraction
    assert owner.leakage.dimension(0, "attention") <= 2


def planted(rng, kind: str, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """A column of few bits, and how many bits each entry takes who knows where which ones are."""
    if kind == "1 bit":
        return rng.choice([-700, 900], size), np.ones(size)
    if kind == "1 bit, small":
        return rng.integers(0, 2, size), np.ones(size)
    if kind == "4 bits":
        return 37 * rng.integers(-8, 8, size), np.full(size, 4.0)
    if kind == "1 and 12 bits":
        bits = np.where(np.arange(size) < size // 2, 1.0, 12.0)
        wide = rng.integers(-2048, 2048, size)
        return np.where(bits == 1, 700 * (1 + wide % 2), wide), bits
    if kind == "1, 4 and 12 bits":
        bits = rng.choice([1.0, 4.0, 12.0], size)
        wide = rng.integers(-2048, 2048, size)
        few = np.where(bits == 1, 700 * (1 + wide % 2), 3000 + wide % 16)
        return np.where(bits == 12, wide, few), bits
    assert kind == "12 bits"
    return rng.integers(-2048, 2048, size), np.full(size, 12.0)


KINDS = ("1 bit", "1 bit, small", "4 bits", "1 and 12 bits", "1, 4 and 12 bits", "12 bits")


@pytest.mark.parametrize("kind", KINDS)
def test_the_count_is_never_below_what_answers_allow_to_read(rng, kind):
    """A reader that knows which entries take few bits reads those first, as many as fit 16 bits an
    answer; the other columns are wide. The count is at least that, after any number of answers.
    """
    column, bits = planted(rng, kind)
    matrix = np.stack([rng.integers(-2048, 2048, 256), column, rng.permutation(4096)[:256]], 1)
    leakage = Leakage(wide_manifest(256), 1.0)
    leakage.readings = {(0, "inner"): reading_bits([matrix])}
    needed, answers = np.cumsum(np.sort(bits)), 0
    while leakage.told(0, "inner") < 256:
        leakage.admit(0, "inner", unit(256, answers % 256))
        answers += 1
        read = int(np.searchsorted(needed, 16 * answers, side="right"))
        assert leakage.told(0, "inner") >= read, answers
    assert 1 <= answers <= needed[-1] / 16 + 1


def test_reading_a_column_of_one_bit(rng):
    """The attack itself: x packs sixteen entries of {0, 1} into one number of x A. With half of
    the column allowed, less than half can be read before queries are refused.
    """
    a = rng.integers(0, 2, (256, 1)).astype(np.int16)
    leakage = Leakage(wide_manifest(256), 0.5)
    leakage.readings = {(0, "inner"): reading_bits([a])}
    read = np.zeros(256, bool)
    for start in range(0, 256, 14):  # 2^14 is the largest power that int16 holds
        places = np.arange(start, min(start + 14, 256))
        x = np.zeros((1, 256), np.int16)
        x[0, places] = 1 << np.arange(len(places))
        try:
            leakage.admit(0, "inner", x)
        except SessionError as error:
            assert error.check == "leakage"
            break
        answer = int(x[0].astype(int) @ a[:, 0].astype(int))
        found = answer >> np.arange(len(places)) & 1
        assert np.array_equal(found, a[places, 0])
        read[places] = True
    assert 0.3 < read.mean() <= leakage.fraction(0, "inner") <= 0.5


def test_the_weakest_column_counts(rng):
    """One column of one bit among many wide ones: as if all were so."""
    wide = rng.integers(-2000, 2000, (256, 15))
    weak = np.concatenate([wide, rng.integers(0, 2, (256, 1))], axis=1)
    alone = reading_bits([weak[:, 15:]])
    assert np.array_equal(reading_bits([weak]), np.minimum(alone, reading_bits([wide])))
    assert np.array_equal(reading_bits([wide, weak]), reading_bits([weak]))
    assert reading_bits([weak])[-1] < 257 < reading_bits([wide])[-1]


def test_what_the_entries_of_a_column_hold(rng):
    """No more than its entropy, all together; a column that is constant is told by one answer."""
    for column in (*(planted(rng, k, 4096)[0] for k in KINDS), np.round(rng.normal(0, 80, 4096))):
        bits = entry_bits(column)
        assert bits.min() >= 0 and bits.sum() <= 4096 * entropy(column) * (1 + 1e-9)
    assert entry_bits(rng.integers(0, 2, 4096)).mean() == pytest.approx(1, rel=0.03)
    assert entry_bits(np.round(rng.normal(0, 80, 1 << 16))).mean() > 6
    leakage = Leakage(wide_manifest(256), 1.0)
    leakage.readings = {(0, "inner"): reading_bits([np.zeros((256, 4))])}
    assert leakage.told(0, "inner") == 0
    leakage.admit(0, "inner", unit(256, 0))
    assert leakage.told(0, "inner") == 256


def test_the_rank_is_limited_as_well():
    """Were an answer to tell next to nothing of an entry, the directions still count."""
    leakage = Leakage(committed()[1], 0.5)
    leakage.readings = {(0, "attention"): np.arange(17) * 1e6}
    for _ in range(20):
        leakage.admit(0, "attention", unit(16, *range(8)))
    with pytest.raises(SessionError, match="leakage"):
        leakage.admit(0, "attention", unit(16, 8))
    assert leakage.dimension(0, "attention") == 8 and leakage.told(0, "attention") == 0


def test_one_query_beyond_the_limit_is_refused_as_a_whole():
    owner = contributor(leakage=Leakage(committed()[1], 0.5))
    raw = Raw(owner).open()
    raw.refused(raw.tell(frames.Query(0, "attention", unit(16, *range(9)))), "leakage")
    assert owner.leakage.worst() == 0 and owner.leakage.summary()["0/attention"]["tokens"] == 0


def test_the_limit_holds_after_a_restart(tmp_path):
    """The counts are kept, never less than before."""
    path, manifest = tmp_path / "leakage.json", committed()[1]
    first = counting(0.5, path)
    first.admit(0, "attention", unit(16, 0, 1, 2, 3, 4))
    assert path.stat().st_mode & 0o077 == 0
    second = Leakage(manifest, 0.5, path)
    assert second.dimension(0, "attention") == 5
    assert second.summary() == first.summary()
    with pytest.raises(SessionError) as caught:
        second.admit(0, "attention", unit(16, 5, 6, 7, 8))
    assert caught.value.check == "leakage"
    second.admit(0, "attention", unit(16, 5, 6, 7))
    third = Leakage(manifest, 0.5, path)
    assert third.dimension(0, "attention") == 8
    with pytest.raises(SessionError):
        third.admit(0, "attention", unit(16, 15))


def test_counts_are_on_disk_before_the_answer(tmp_path):
    """The server is killed while a session is open: what it had answered must be counted."""
    path, manifest = tmp_path / "leakage.json", committed()[1]
    raw = Raw(contributor(leakage=counting(0.5, path))).open()
    assert isinstance(raw.tell(frames.Query(0, "attention", unit(16, 0, 1))), frames.Answer)
    assert Leakage(manifest, 0.5, path).dimension(0, "attention") == 2


@pytest.mark.parametrize(
    "text",
    [None, "", "{}", "[]", "not JSON", '{"about": "ab", "counts": {}}', "[" * 1000, "\xff"],
)
def test_a_damaged_file_of_counts(tmp_path, text):
    """Missing, empty, of another adapter: what was answered is not known, so nothing more is."""
    path = tmp_path / "leakage.json"
    leakage = counting(0.5, path)
    leakage.admit(0, "attention", unit(16, 1))
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(SealError):
        Leakage(committed()[1], 0.5, path)
    with pytest.raises(SealError):
        leakage.admit(0, "attention", unit(16, 1))
    assert leakage.ledger["0/attention tokens"] == 1
    assert path.exists() is (text is not None)


@pytest.mark.parametrize("count", ["NaN", "-1", "null", "1.0", "true", '"1"', str(1 << 62)])
def test_a_count_that_is_no_number(tmp_path, count):
    """NaN is above no limit."""
    path = tmp_path / "leakage.json"
    leakage = counting(0.5, path)
    leakage.admit(0, "attention", unit(16, 1))
    text = path.read_text()
    changed = text.replace('tokens": 1', f'tokens": {count}')
    assert changed != text
    path.write_text(changed)
    with pytest.raises(SealError):
        Leakage(committed()[1], 0.5, path)


def exact_rank(x: np.ndarray) -> int:
    """The rank of an integer matrix modulo a large prime: never above the true one."""
    p, rank = 2**61 - 1, 0
    rows = [[int(v) % p for v in row] for row in x]
    for column in range(x.shape[1]):
        pivot = next((r for r in range(rank, len(rows)) if rows[r][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        inverse = pow(rows[rank][column], -1, p)
        rows[rank] = [v * inverse % p for v in rows[rank]]
        for r in range(rank + 1, len(rows)):
            factor = rows[r][column]
            if factor:
                rows[r] = [(a - factor * b) % p for a, b in zip(rows[r], rows[rank], strict=True)]
        rank += 1
    return rank


@pytest.mark.parametrize("memory", [0, 400, 256 << 20])
def test_the_count_is_never_below_the_rank(memory, rng):
    """Batches of all ranks and sizes, repeated, scaled, mixed; with and without memory."""
    for trial in range(20):
        leakage = Leakage(committed()[1], 1.0, memory_bytes=memory)
        seen = np.zeros((0, 24), np.int16)
        for _ in range(6):
            rank = rng.integers(0, 5)
            mixed = rng.integers(-3, 4, (rng.integers(1, 7), rank)) @ rng.integers(
                -1000, 1000, (rank, 24)
            )
            if trial % 2 and len(seen):
                mixed = mixed + rng.integers(-1, 2, (len(mixed), len(seen))) @ (seen // 50)
            x = np.clip(mixed, -32768, 32767).astype(np.int16)
            leakage.admit(0, "inner", x)
            seen = np.concatenate([seen, x])
            counted, true = leakage.dimension(0, "inner"), exact_rank(seen)
            assert counted >= true
            assert counted == true or memory < 1000


def wide_manifest(inputs: int) -> Manifest:
    """A manifest of one layer whose input is as wide as that of a real model."""
    return replace(committed()[1], layers=(0,), targets={"down_proj": (inputs, 64)}, r=1)


def test_many_directions_hidden_beside_a_large_one():
    """Every token is v + e_i with |v| as large as int16 allows: as many directions as tokens, all
    of them nearly parallel. The answers are exact integers, so they are told apart.
    """
    inputs, tokens = 1 << 18, 48
    x = np.full((tokens, inputs), 32766, dtype=np.int16)
    x[range(tokens), range(tokens)] += 1
    assert exact_rank(x[:, :tokens] - np.int16(32766)) == tokens
    leakage = Leakage(wide_manifest(inputs), 1.0)
    leakage.admit(0, "inner", x)
    assert leakage.dimension(0, "inner") >= tokens - 1


def test_two_nearly_parallel_activations():
    """Determinant -1, so two directions; the angle between them is 5e-10."""
    x = np.zeros((2, 16), np.int16)
    x[0, :2], x[1, :2] = (32767, 32766), (32766, 32765)
    assert exact_rank(x) == 2
    leakage = Leakage(committed()[1], 1.0)
    leakage.admit(0, "attention", x)
    assert leakage.dimension(0, "attention") == 2


def test_zeros_and_repetitions_have_no_rank():
    leakage = Leakage(committed()[1], 1.0)
    leakage.admit(0, "attention", np.zeros((50, 16), np.int16))
    for _ in range(5):
        leakage.admit(0, "attention", np.repeat(unit(16, 2), 30, 0))
    assert leakage.dimension(0, "attention") == 1
    assert leakage.summary()["0/attention"]["tokens"] == 200


def test_a_refusal_does_not_tell_what_others_asked():
    """Neither whether an activation was asked before, nor how much was."""
    details = []
    for others in ((0, 1, 2, 3, 4, 5, 6, 7), (8, 9, 10, 11, 12, 13, 14, 15)):
        owner = contributor(leakage=Leakage(committed()[1], 0.5))
        Peer(owner.connect(), "bob").deltas(0, "attention", unit(16, *others))
        raw = Raw(owner).open()
        probe = frames.Query(0, "attention", unit(16, 0, 1, 2, 8))
        details.append(raw.refused(raw.tell(probe), "leakage"))
    assert details[0] == details[1]


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.1, float("nan")])
def test_a_fraction_out_of_range(fraction):
    with pytest.raises(OptionError, match="max_fraction"):
        Leakage(committed()[1], fraction)


# Openings -------------------------------------------------------------------------------------


@pytest.fixture
def exhausted():
    owner = contributor()
    owner.sealed.counter.left = 0
    yield owner
    owner.sealed.counter.left = 40


def test_a_commitment_that_is_used_up(exhausted):
    """The user is told before it asks anything: answers without a proof only tell the adapter."""
    with ends("refused", "openings: "):
        Peer(exhausted.connect(), "alice")
    raw = Raw(exhausted)
    raw.refused(raw.tell(frames.Hello(NONCE, "s100")), "openings")


def test_a_commitment_that_is_used_up_by_others():
    """The last opening is taken by another session after the first query."""
    owner = contributor()
    peer = Peer(owner.connect(), "alice")
    drive(peer)
    owner.sealed.counter.left = 0
    with ends("refused", "openings: "):
        peer.finish()
    assert peer.channel.session.error.check == "openings"
    owner.sealed.counter.left = 40


def test_the_last_opening():
    owner = contributor()
    owner.sealed.counter.left = 1
    first, second = (Peer(owner.connect(), "alice") for _ in range(2))
    for peer in (first, second):
        drive(peer)
    first.finish()
    with ends("refused", "openings: "):
        second.finish()
    assert owner.sealed.remaining == 0
    owner.sealed.counter.left = 40


def test_a_used_up_commitment_costs_nothing():
    """Sessions of every length, none of which can end in a proof: nothing piles up."""
    owner = contributor()
    peers = [Peer(owner.connect(), "alice") for _ in range(3)]
    owner.sealed.counter.left = 0
    before = len(trace._CACHE)
    for tokens, peer in enumerate(peers, 21):
        drive(peer, tokens)
        with ends("refused", "openings: "):
            peer.finish()
    assert len(trace._CACHE) == before
    owner.sealed.counter.left = 40


def test_weights_that_cannot_be_proved_are_not_committed():
    """An int32 adapter with a weight of 10.0: every answer is given and no proof can be made."""
    raw = {"down_proj": {"a": np.zeros((1, 24, 2)), "b": np.zeros((1, 2, 16))}}
    raw["down_proj"]["a"][0, 0, 0] = 10.0
    stored = {t: {k: (w * 2**24).astype(np.int32) for k, w in p.items()} for t, p in raw.items()}
    with pytest.raises(ValueRangeError, match=r"a weight of 10\.00 does not fit"):
        commit_adapter(zkjax.seal(stored, openings=3), (0,), 0)


# Several contributors -------------------------------------------------------------------------


@cache
def base() -> Any:
    """Random stored weights of the tiny model."""
    _, state = nnx.split(Llama(CONFIG, rngs=nnx.Rngs(0)))
    return store_base(jax.tree.map(np.asarray, nnx.to_pure_dict(state)))


TOKENS = np.arange(10, dtype=np.int32).reshape(2, 5)


def local_logits(*seeds: int) -> np.ndarray:
    """The logits of a local run with the adapters added up."""
    with x64():
        model = bind(CONFIG, jax.tree.map(lambda w: np.asarray(w) * 2.0**-12, base()))

        def deltas_of(layer, _):
            def deltas(group, x):
                out = {}
                for seed in seeds:
                    for target in committed(seed)[1].groups().get(group, ()):
                        a, b = (weights(seed)[target][k][int(layer)] / 4096 for k in ("a", "b"))
                        delta = 2.0 * lora_delta(x, jnp.asarray(a), jnp.asarray(b), FixedPoint())
                        out[target] = out.get(target, 0.0) + delta
                return out

            return deltas

        layers = np.arange(CONFIG.num_hidden_layers)
        return np.asarray(
            model.run(jnp.asarray(TOKENS), FixedPoint(), deltas_of, layers, scan=False)[0]
        )


def test_two_contributors():
    owners = {"alice": contributor(0), "bob": contributor(1)}
    with Session(CONFIG, base(), {n: c.connect() for n, c in owners.items()}) as session:
        assert np.array_equal(session.score(TOKENS), local_logits(0, 1))
        records = session.finish()
    assert set(records) == {"alice", "bob"}
    assert all(r.tokens == TOKENS.size and r.proof for r in records.values())


@pytest.mark.parametrize("liar", ["alice", "bob", "carol"])
def test_one_of_several_contributors_cheats(liar):
    """The error names the one, whichever it is."""
    owners = {"alice": contributor(0), "bob": contributor(1), "carol": contributor(0)}
    honest = owners[liar].deltas

    def deltas(layer, group, x):
        out = honest(layer, group, x)
        out[0, 0] += layer == 1 and group == "inner"
        return out

    with Session(CONFIG, base(), {n: c.connect() for n, c in owners.items()}) as session:
        with (
            mock.patch.object(owners[liar], "deltas", deltas),
            mock.patch.object(
                owners[liar], "prove", lambda record, _: unchecked_prove(owners[liar], record)
            ),
        ):
            session.score(TOKENS)
            with rejected(liar, checks={"linear test"}):
                session.finish()
        verified = {p.name for p in session.peers if p.record.proof is not None}
    assert liar not in verified
    assert all(p.channel.session.closed for p in session.peers)


def test_one_of_several_contributors_is_another_than_expected():
    owners = {"alice": contributor(0), "bob": contributor(1)}
    expected = {n: committed(0)[1].digest.hex() for n in owners}
    channels = {n: c.connect() for n, c in owners.items()}
    with pytest.raises(VerificationError, match="manifest: bob"):
        Session(CONFIG, base(), channels, manifests=expected)
    assert all(c.session.closed for c in channels.values())


def test_one_of_several_contributors_stops_answering():
    owners = {"alice": contributor(0), "bob": contributor(1)}
    channels = {n: Tampered(c.connect()) for n, c in owners.items()}
    channels["bob"].incoming = lambda i, d: None if i == 3 else d
    with (
        ends("idle", party="bob"),
        Session(CONFIG, base(), channels) as session,
    ):
        session.score(TOKENS)
    assert all(c.session.closed for c in channels.values())


# What errors say ------------------------------------------------------------------------------

SECRET = "weight 0.12345 of layer 7"


@pytest.mark.parametrize("where", ["deltas", "prove", "leakage", "answer"])
@pytest.mark.parametrize("kind", [RuntimeError, KeyError, MemoryError, ValueError, SealError])
def test_internal_errors_tell_the_peer_nothing(where, kind):
    """Whatever goes wrong inside, its text stays inside, and the next session is served."""
    owner = contributor()
    peer = Peer(owner.connect(), "alice")
    failing = mock.Mock(side_effect=kind(SECRET))
    holder, name = {
        "deltas": (owner, "deltas"),
        "prove": (owner, "prove"),
        "leakage": (owner.leakage, "admit"),
        "answer": (peer.channel.session, "_query"),
    }[where]
    with mock.patch.object(holder, name, failing), pytest.raises(SessionError) as caught:
        drive(peer)
        peer.finish()
    assert failing.called and caught.value.check == "refused" and caught.value.party == "alice"
    assert "0.12345" not in str(caught.value) and kind.__name__ not in str(caught.value)
    assert peer.channel.session.closed
    serves_on(owner)


def test_a_proof_that_fails_half_way_takes_no_opening():
    """Nothing of it has left, so the opening is still there."""
    owner = contributor()
    peer = Peer(owner.connect(), "alice")
    drive(peer)
    failing = mock.patch("zkjax.prove.opening_prover.prove", side_effect=RuntimeError(SECRET))
    with failing, ends("refused", "internal: the contributor failed"):
        peer.finish()
    assert owner.sealed.remaining == 40
    serves_on(owner)


# Sealed activations ---------------------------------------------------------------------------


def sealed_peer(owner: Contributor, tokens: int = 2) -> tuple[Peer, list[zkjax.Sealed], bytes]:
    """A session ready to finish with commitments, the sealed values, and their secrets."""
    peer = Peer(owner.connect(), "alice")
    drive(peer, tokens)
    values = [zkjax.seal(tree, openings=1) for tree in (peer.record.xs, peer.record.deltas)]
    return peer, values, b"".join(v.share() for v in values)


def part_check(peer: Peer, values: list[zkjax.Sealed]) -> Callable[[bytes], None]:
    def check(body: bytes) -> None:
        xs, deltas = (v.commitment for v in values)
        part = Part(peer.manifest, xs, deltas, body, peer.record.session)
        _verify_part(part, peer.record.tokens, "s100")

    return check


def test_sealed_activations():
    peer, values, secrets = sealed_peer(contributor())
    peer.finish_sealed([v.commitment for v in values], secrets, part_check(peer, values))
    assert peer.channel.session.accepted


def test_wrong_delta_for_one_token_with_sealed_activations():
    def change(layer, group, deltas):
        deltas = deltas.copy()
        deltas[0, 0] += layer == 1
        return deltas

    with lying(change):
        peer, values, secrets = sealed_peer(contributor())
        with rejected(checks={"linear test"}):
            peer.finish_sealed([v.commitment for v in values], secrets, part_check(peer, values))
    assert not peer.channel.session.accepted


def test_a_proof_about_other_commitments_of_the_same_values():
    """The contributor answers a sealed session with the proof of another one."""
    owner = contributor()
    peer, values, secrets = sealed_peer(owner)
    bodies: list[bytes] = []
    check = part_check(peer, values)
    peer.finish_sealed(
        [v.commitment for v in values], secrets, lambda body: bodies.append(body) or check(body)
    )
    peer, values, secrets = sealed_peer(owner)
    with (
        mock.patch.object(owner, "prove_sealed", lambda *a: bodies[0]),
        rejected(checks={"merkle path"}),
    ):
        peer.finish_sealed([v.commitment for v in values], secrets, part_check(peer, values))


def identities(values: list[zkjax.Sealed]) -> list[dict]:
    return [v.commitment.identity() for v in values]


def coded(data) -> bytes:
    return json.dumps(data).encode()


BAD_FINISHES = {
    "not JSON": lambda c, s: (b"\xff", s),
    "no commitments": lambda c, s: (b"[]", s),
    "an object": lambda c, s: (b"{}", s),
    "null": lambda c, s: (b"null", s),
    "one": lambda c, s: (coded(c[:1]), s),
    "three": lambda c, s: (coded([*c, c[0]]), s),
    "in the wrong order": lambda c, s: (coded(c[::-1]), s),
    "deep": lambda c, s: (b"[" * 100_000, s),
    "numbers": lambda c, s: (b"[1, 2]", s),
    "another root": lambda c, s: (coded([c[0] | {"root": "00" * 32}, c[1]]), s),
    "a short root": lambda c, s: (coded([c[0] | {"root": "00"}, c[1]]), s),
    "other shapes": lambda c, s: (coded([c[0] | {"shapes": [[1, 1, 1]] * 2}, c[1]]), s),
    "huge shapes": lambda c, s: (coded([c[0] | {"shapes": [[2**40] * 3] * 2}, c[1]]), s),
    "negative shapes": lambda c, s: (coded([c[0] | {"shapes": [[-1, 2, 2]] * 2}, c[1]]), s),
    "other dtypes": lambda c, s: (coded([c[0] | {"dtypes": ["int8"] * 2}, c[1]]), s),
    "another profile": lambda c, s: (coded([c[0] | {"profile": "s128"}, c[1]]), s),
    "an unknown profile": lambda c, s: (coded([c[0] | {"profile": []}, c[1]]), s),
    "many openings": lambda c, s: (coded([c[0] | {"openings": 5}, c[1]]), s),
    "very many openings": lambda c, s: (coded([c[0] | {"openings": 65536}, c[1]]), s),
    "endless openings": lambda c, s: (coded([c[0] | {"openings": 10**18}, c[1]]), s),
    "no openings": lambda c, s: (coded([c[0] | {"openings": 0}, c[1]]), s),
    "one opening more": lambda c, s: (coded([c[0] | {"openings": 2}, c[1]]), s),
    "no secrets": lambda c, s: (coded(c), b""),
    "secrets cut": lambda c, s: (coded(c), s[:-1]),
    "secrets too long": lambda c, s: (coded(c), s + b"\0"),
    "blinding changed": lambda c, s: (coded(c), flipped(s, 0)),
    "blinding not canonical": lambda c, s: (coded(c), b"\xff" * 8 + s[8:]),
    "a nonce changed": lambda c, s: (coded(c), flipped(s, len(s) - 1)),
    "secrets swapped": lambda c, s: (coded(c), s[len(s) // 2 :] + s[: len(s) // 2]),
}


@cache
def sealed_values() -> tuple[list[dict], bytes]:
    """Honest commitments and secrets of the session that ``Raw.ask_all`` makes."""
    raw = Raw(contributor()).open().ask_all()
    values = [zkjax.seal(t, openings=1) for t in (raw.session.record.xs, raw.session.record.deltas)]
    return identities(values), b"".join(v.share() for v in values)


@pytest.mark.parametrize("name", BAD_FINISHES)
def test_malformed_commitments_and_secrets(name):
    commitments, secrets = BAD_FINISHES[name](*sealed_values())
    owner = contributor()
    raw = Raw(owner).open().ask_all()
    with mock.patch.object(owner, "prove_sealed", side_effect=AssertionError):
        reply = raw.tell(frames.FinishSealed(raw.digest.value, commitments, secrets))
        raw.refused(reply, "commitments")
    assert owner.sealed.remaining == 40


def test_commitments_with_many_openings():
    """True commitments and secrets, of a code that is larger than the contributor will compute."""
    owner = contributor()
    raw = Raw(owner).open().ask_all()
    record = raw.session.record
    values = [zkjax.seal(tree, openings=5) for tree in (record.xs, record.deltas)]
    secrets = b"".join(v.share() for v in values)
    finish = frames.FinishSealed(raw.digest.value, coded(identities(values)), secrets)
    raw.refused(raw.tell(finish), "commitments")


def test_commitments_to_other_activations():
    """A user seals one activation and asked about another: no proof for it."""
    owner = contributor()
    raw = Raw(owner).open().ask_all()
    xs = {g: x.copy() for g, x in raw.session.record.xs.items()}
    xs["inner"][1, 1, 3] += 1
    values = [zkjax.seal(tree, openings=1) for tree in (xs, raw.session.record.deltas)]
    secrets = b"".join(v.share() for v in values)
    finish = frames.FinishSealed(raw.digest.value, coded(identities(values)), secrets)
    raw.refused(raw.tell(finish), "commitments")


def test_commitments_to_other_deltas():
    owner = contributor()
    raw = Raw(owner).open().ask_all()
    deltas = {t: d.copy() for t, d in raw.session.record.deltas.items()}
    deltas["v_proj"][0, 0, 0] -= 1
    values = [zkjax.seal(tree, openings=1) for tree in (raw.session.record.xs, deltas)]
    secrets = b"".join(v.share() for v in values)
    finish = frames.FinishSealed(raw.digest.value, coded(identities(values)), secrets)
    raw.refused(raw.tell(finish), "commitments")


def test_json_of_commitments_does_not_grow_in_memory():
    """A frame within its limit, full of empty lists."""
    owner = contributor()
    raw = Raw(owner).open().ask_all()
    data = b"[" + b"[]," * 300_000 + b"[]]"
    frame = frames.FinishSealed(raw.digest.value, data, b"")
    encoded = frames.encode(frame, raw.sent)
    tracemalloc.start()
    try:
        assert raw.session.receive(encoded) is None
        assert frames.decode(raw.session.prove(), raw.received, ROOM).check == "commitments"
        assert tracemalloc.get_traced_memory()[1] < 6 * len(data)
    finally:
        tracemalloc.stop()


# What a user may get wrong ------------------------------------------------------------------------


def test_a_pin_of_a_name_that_is_not_there():
    """A misspelt name would pin nothing."""
    channels = {"alice": contributor().connect()}
    with pytest.raises(SessionError, match=r"Alice.*alice"):
        Session(CONFIG, base(), channels, manifests={"Alice": "00" * 32})


def test_a_contributor_in_place_of_a_channel():
    with pytest.raises(SessionError, match="connect"):
        Session(CONFIG, base(), {"alice": contributor()})


@pytest.mark.parametrize(
    "tokens",
    [[[-1, 2]], [[99, 2]], [1, 2], [[]], [[1.0, 2.0]], "text", [[[1]]]],
    ids=["negative", "too large", "one axis", "empty", "floats", "text", "three axes"],
)
def test_tokens_that_are_none(tokens):
    """Outside the vocabulary an embedding would be zero, without a word."""
    with Session(CONFIG, base(), {"alice": contributor().connect()}) as session:
        for call in (session.score, session.base_score, lambda t: session.generate(t, 1)):
            with pytest.raises(SessionError, match="tokens: they are integers"):
                call(tokens)


@pytest.mark.parametrize(
    "x",
    [
        np.full((3, 16), 70000, np.int32),
        np.ones((3, 16)),
        np.ones(16, np.int16),
        np.ones((3, 17), np.int16),
        np.int16(3),
    ],
    ids=["int32", "floats", "one axis", "too wide", "a number"],
)
def test_activations_that_are_none(x):
    """They are refused before anything is sent; the session goes on."""
    owner = contributor()
    peer = Peer(owner.connect(), "alice")
    with ends("query", "int16"):
        peer.deltas(0, "attention", x)
    for layer, group in ((0, "q_proj"), (99, "attention")):
        with ends("query", "no adapter at layer"):
            peer.deltas(layer, group, X)
    drive(peer)
    peer.finish()


def test_a_session_that_is_finished():
    with Session(CONFIG, base(), {"alice": contributor().connect()}) as session:
        session.score(np.array([[1, 2, 3]]))
        session.finish()
        for call in (session.finish, lambda: session.score(np.array([[1, 2]]))):
            with ends("closed", "open another"):
                call()


def test_a_proof_belongs_to_its_session():
    """The same adapter, activations and answers a second time: the first proof is about the first
    session, whose frames had other random bytes.
    """
    owner = contributor()
    first, second = (Peer(owner.connect(), "alice") for _ in range(2))
    for peer in (first, second):
        drive(peer)
    body = first.finish().proof.body
    assert all(np.array_equal(first.record.xs[g], second.record.xs[g]) for g in first.record.xs)
    with mock.patch.object(owner, "prove", lambda *_: body), rejected(checks={"merkle path"}):
        second.finish()
