"""What every challenge depends on: an inventory of all squeezes, and changes of single messages."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from unittest import mock

import numpy as np
import pytest

from soundness.cheating import messages, prove, rejected
from soundness.test_attacks import call, honest
from zkjax.argument.transcript import ProverTranscript, Transcript, VerifierTranscript
from zkjax.errors import VerificationError
from zkjax.proof import Proof
from zkjax.verify import verify_statement

HEADER = {
    "protocol",
    "profile",
    "statement",
    "public input type",
    "public input",
    "public output type",
    "public output",
    "input commitment",
    "output commitment",
    "advice commitment",
    "mask commitment",
    "pad commitment",
    "slow",
}
INTERACTION = {"lookup root", "lookup layer", "claim", "product round", "factors", "opening round"}
RESPONSES = {
    "proximity response",
    "linear response",
    "pad proximity response",
    "pad linear response",
    "product response",
}
# Every squeeze, and all kinds of messages that must have been absorbed before it.
INVENTORY = {
    "lookup challenge": HEADER,
    "lookup combiner": HEADER | {"lookup root"},
    "lookup layer": HEADER | {"lookup root", "lookup layer"},
    "lookup branch": HEADER | {"lookup root", "lookup layer"},
    "zero combiner": HEADER | {"lookup root", "lookup layer"},
    "zero point": HEADER | {"lookup root", "lookup layer"},
    "claim combiner": HEADER | {"lookup root", "lookup layer", "claim"},
    "product round": HEADER | {"lookup root", "lookup layer", "claim", "product round"},
    "constraint combiner": HEADER | INTERACTION - {"opening round"},
    "opening round": HEADER | INTERACTION,
    "row combiner": HEADER | INTERACTION,
    "pad row combiner": HEADER | INTERACTION,
    "product combiner": HEADER | INTERACTION,
    "linear combiner": HEADER | INTERACTION,
    "columns": HEADER | INTERACTION | RESPONSES,
}


def recorded(proof: Proof, side: type[Transcript] = VerifierTranscript):
    """The events of a run, ("absorb" | "squeeze", kind, data), until it ends or fails."""
    events: list[tuple[str, str, bytes]] = []
    absorb, squeeze = Transcript.absorb, Transcript.squeeze

    def absorbed(self, kind, data):
        if not kind.startswith("squeeze ") and isinstance(self, side):
            events.append(("absorb", kind, bytes(data)))
        absorb(self, kind, data)

    def squeezed(self, kind, n):
        out = squeeze(self, kind, n)
        if isinstance(self, side):
            events.append(("squeeze", kind, out))
        return out

    traced, args = call()
    with (
        mock.patch.object(Transcript, "absorb", absorbed),
        mock.patch.object(Transcript, "squeeze", squeezed),
    ):
        try:
            if side is ProverTranscript:
                prove(traced, args)
            else:
                verify_statement(traced.statement, proof)
        except VerificationError:
            pass
    return events


@cache
def honest_events():
    return recorded(honest()[1])


def squeeze_name(kind: str) -> str:
    """Column indices are squeezed in numbered blocks."""
    return "columns" if kind.startswith("columns ") else kind


def challenges(events) -> list[tuple[str, bytes]]:
    """All squeezes; of the column indices only the first block.

    How many blocks follow depends on the indices that come twice, so it differs between two runs.
    """
    squeezes = [(kind, data) for event, kind, data in events if event == "squeeze"]
    return [s for s in squeezes if squeeze_name(s[0]) != "columns" or s[0] == "columns 0"]


def test_prover_and_verifier_absorb_and_squeeze_the_same():
    """Same kinds, same bytes, same order."""
    _, proof = honest()
    assert recorded(proof, ProverTranscript) == honest_events()


def test_inventory_of_all_squeezes():
    """Every challenge is listed, and what it needs has been absorbed when it is drawn."""
    seen: set[str] = set()
    drawn: set[str] = set()
    for event, kind, _ in honest_events():
        if event == "absorb":
            seen.add(kind)
            continue
        name = squeeze_name(kind)
        drawn.add(name)
        missing = INVENTORY[name] - seen
        # The first layer of the lookup tree has no messages before its first challenge.
        assert missing <= ({"lookup layer"} if name == "lookup layer" else set()), (name, missing)
    assert drawn == set(INVENTORY)


def test_every_round_message_comes_before_its_challenge():
    """A sumcheck challenge is preceded directly by the round's message, by nothing drawn since."""
    last: tuple[str, str] | None = None
    rounds = {"product round", "opening round"}
    for event, kind, _ in honest_events():
        if event == "squeeze" and kind in rounds:
            assert last == ("absorb", kind)
        last = (event, kind)


def test_no_message_of_the_interaction_follows_the_queries():
    """After the column indices only columns, nonces and paths are read."""
    events = honest_events()
    start = next(i for i, e in enumerate(events) if squeeze_name(e[1]) == "columns")
    after = {kind for event, kind, _ in events[start:] if event == "absorb"}
    assert after == {"opened columns", "nonces", "merkle path"}


def assert_all_later_differ(proof: Proof, before: int) -> None:
    """The first ``before`` challenges agree with the honest run, all later ones differ."""
    mine, theirs = challenges(recorded(proof)), challenges(honest_events())
    assert mine[:before] == theirs[:before]
    assert len(theirs) >= len(mine) > before
    assert all(kind == "columns 0" for kind, _ in theirs[len(mine) :])  # the first are refused
    for (kind, a), (other, b) in zip(mine[before:], theirs[before : len(mine)], strict=True):
        assert kind == other and a != b, kind


def header_changes():
    _, proof = honest()
    claims = proof.claims
    ((i, scale),), ((o, total),) = claims.inputs.items(), claims.outputs.items()
    x, y = claims.input_commitments
    (z,) = claims.output_commitments
    other = bytes([x.root[0] ^ 1]) + x.root[1:]
    return {
        "public input": replace(claims, inputs={i: scale + np.uint8(1)}),
        "public output": replace(claims, outputs={o: total + np.int32(1)}),
        "first root": replace(claims, input_commitments=[replace(x, root=other), y]),
        "second root": replace(claims, input_commitments=[x, replace(y, root=other)]),
        "output root": replace(claims, output_commitments=[replace(z, root=other)]),
        "order of roots": replace(claims, input_commitments=[y, x]),
    }


@pytest.mark.parametrize(
    "name",
    ["public input", "public output", "first root", "second root", "output root", "order of roots"],
)
def test_a_changed_claim_changes_every_challenge(name):
    """From the very first challenge on."""
    _, proof = honest()
    assert_all_later_differ(Proof(header_changes()[name], proof.body), 0)


def test_another_profile_or_statement_changes_every_challenge():
    """Also where the verifier would refuse before: the state after the header is another one."""
    from zkjax.protocol import Setup

    traced, _ = call()
    _, proof = honest()
    setup = Setup(traced.statement, proof.claims)

    def seed() -> bytes:
        transcript = Transcript("test", 2)
        setup.absorb_header(transcript)
        return transcript.squeeze("test", 32)

    first = seed()
    setup.claims = replace(proof.claims, profile="s128")
    second = seed()
    setup.claims = proof.claims
    with mock.patch.object(type(traced.statement), "digest", bytes(32)):
        third = seed()
    assert len({first, second, third}) == 3


def test_a_changed_message_changes_every_later_challenge():
    """The first and the last message of every kind, one bit each."""
    traced, _ = call()
    _, proof = honest()
    reads = messages(traced, proof)
    chosen = {kind: i for i, (kind, _, _) in reversed(list(enumerate(reads)))}
    last = {kind: i for i, (kind, _, _) in enumerate(reads)}
    squeezed_before, count, position = {}, 0, 0
    body_kinds = [kind for kind, _, _ in reads]
    for event, kind, data in honest_events():
        if event == "squeeze":
            count += len(challenges([(event, kind, data)]))
        elif position < len(body_kinds) and kind == body_kinds[position]:
            squeezed_before[position] = count
            position += 1
    assert position == len(reads)
    total = len(challenges(honest_events()))
    for i in sorted({*chosen.values(), *last.values()}):
        _, start, size = reads[i]
        body = bytearray(proof.body)
        body[start + size - 8] ^= 1
        wrong = Proof(proof.claims, bytes(body))
        if reads[i][0] not in {"opened columns", "nonces", "merkle path"}:
            assert squeezed_before[i] < total
            assert_all_later_differ(wrong, squeezed_before[i])
        rejected(traced, wrong, {"merkle path", "linear test"})


def test_kinds_and_lengths_are_absorbed():
    """The same bytes under another kind, or split otherwise, give other challenges."""

    def seed(*parts: tuple[str, bytes]) -> bytes:
        transcript = Transcript("test", 2)
        for kind, data in parts:
            transcript.absorb(kind, data)
        return transcript.squeeze("c", 32)

    seeds = {
        seed(("a", b"xy")),
        seed(("b", b"xy")),
        seed(("a", b"x"), ("a", b"y")),
        seed(("a", b"x"), ("ay", b"")),
        seed(("ax", b"y")),
        seed(("a", b"xy"), ("", b"")),
        seed(("a", b"")),
    }
    assert len(seeds) == 7
