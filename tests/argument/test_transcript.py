"""The transcript against a second implementation that keeps every absorbed byte."""

from __future__ import annotations

import hashlib
import itertools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import P, elements, ints, laws, uints

from zkjax.argument.transcript import ProverTranscript, Transcript, VerifierTranscript
from zkjax.errors import VerificationError


def blake(data: bytes, person: bytes) -> bytes:
    return hashlib.blake2s(data, person=person).digest()


class Reference:
    """The transcript from its definition: one byte string, hashed whenever it is needed."""

    def __init__(self, label: str, kappa: int):
        self.kappa, self.log = kappa, b""
        self.absorb("protocol", label.encode())

    def absorb(self, kind: str, data: bytes) -> None:
        name = kind.encode()
        self.log += len(name).to_bytes(4, "little") + len(data).to_bytes(8, "little") + name + data

    def state(self) -> bytes:
        return blake(self.log, b"zkj.tran")

    def squeeze(self, kind: str, n: int) -> bytes:
        self.absorb("squeeze " + kind, n.to_bytes(8, "little"))
        out = b""
        for i in itertools.count():
            if len(out) >= n:
                return out[:n]
            out += blake(self.state() + i.to_bytes(8, "little"), b"zkj.sqez")

    def numbers(self, kind: str, n: int) -> list[int]:
        data = self.squeeze(kind, 16 * n)
        return [int.from_bytes(data[16 * i : 16 * i + 16], "little") % P for i in range(n)]

    def challenge(self, kind: str) -> tuple[int, ...]:
        return tuple(self.numbers(kind, self.kappa))

    def challenge_vector(self, kind: str, n: int) -> list[tuple[int, ...]]:
        flat = self.numbers(kind, self.kappa * n)
        return list(zip(*(flat[c * n : c * n + n] for c in range(self.kappa)), strict=True))

    def distinct_indices(self, kind: str, count: int, bound: int) -> list[int]:
        chosen: list[int] = []
        for block in itertools.count():
            if len(chosen) == count:
                return sorted(chosen)
            data = self.squeeze(f"{kind} {block}", 4 * count)
            for i in range(count):
                index = int.from_bytes(data[4 * i : 4 * i + 4], "little") % bound
                if index not in chosen and len(chosen) < count:
                    chosen.append(index)

    def slow_down(self) -> None:
        digest = self.state()
        for _ in range(65536):
            digest = blake(digest, b"zkj.slow")
        self.absorb("slow", digest)


STEPS = st.one_of(
    st.tuples(st.just("absorb"), st.text(max_size=8), st.binary(max_size=90)),
    st.tuples(st.just("squeeze"), st.text(max_size=8), st.integers(0, 100)),
    st.tuples(st.just("challenge"), st.text(max_size=8)),
    st.tuples(st.just("challenge_vector"), st.text(max_size=8), st.integers(0, 5)),
    st.tuples(
        st.just("distinct_indices"),
        st.text(max_size=8),
        st.integers(0, 8),
        st.sampled_from([8, 64, 4096]),
    ),
)


def plain(result):
    """A result of either implementation as Python values."""
    if isinstance(result, np.ndarray):
        return ints(result) if result.ndim == 1 else elements(result)
    return getattr(result, "coefficients", result)


@laws(60)
@given(st.text(max_size=10), st.sampled_from([2, 3]), st.lists(STEPS, max_size=6))
def test_same_as_the_reference(label, kappa, steps):
    mine, theirs = Transcript(label, kappa), Reference(label, kappa)
    for name, *arguments in steps:
        expected = getattr(theirs, name)(*arguments)
        assert plain(getattr(mine, name)(*arguments)) == expected
    assert mine.squeeze("end", 40) == theirs.squeeze("end", 40)


def test_slow_down_is_the_iterated_hash():
    mine, theirs = Transcript("slow", 2), Reference("slow", 2)
    for transcript in (mine, theirs):
        transcript.absorb("root", b"abc")
        transcript.slow_down()
    assert mine.squeeze("x", 32) == theirs.squeeze("x", 32)


def test_challenges_are_recorded_with_their_degrees():
    """For each kind one entry a challenge; raw bytes and blocks of indices are none."""
    t = Transcript("degrees", 2)
    t.challenge("a", 3)
    t.challenge("b")
    t.challenge("a", 1)
    t.challenge_vector("v", 4, 9)
    t.challenge_vector("w", 4)
    t.distinct_indices("columns", 60, 64)
    assert t.squeezed == {"a": [3, 1], "b": [None], "v": [9], "w": [None], "columns": [None]}


VECTORS = {
    "bytes": "4488697f48c95343180192ec417d1bb501861afe90ab4919248159934838fd03967133e5c02d72bf",
    "one": (9746419680948082453, 17885164588117766848),
    "three": [
        (14031437042114269614, 6327879166473002953),
        (7095655997451322787, 17506845812501166053),
        (15669308224282660613, 15269030968938025529),
    ],
    "columns": [40, 49, 51, 52, 57, 63],
    "after": (12352194612340228900, 4593864099576001988),
    "cubic": (5351664507436207565, 12467871229066158479, 8459186830017970029),
}


def test_fixed_vectors():
    """Outputs that must never change while the protocol version stays the same."""
    t = Transcript("fixed vectors", 2)
    t.absorb("message", b"hello")
    t.absorb("empty", b"")
    assert t.squeeze("bytes", 40).hex() == VECTORS["bytes"]
    assert t.challenge("one").coefficients == VECTORS["one"]
    assert elements(t.challenge_vector("three", 3)) == VECTORS["three"]
    assert ints(t.distinct_indices("columns", 6, 64)) == VECTORS["columns"]
    t.slow_down()
    assert t.challenge("after").coefficients == VECTORS["after"]
    assert Transcript("fixed vectors", 3).challenge("one").coefficients == VECTORS["cubic"]


def absorbing(*messages: tuple[str, bytes]) -> bytes:
    t = Transcript("separation", 2)
    for kind, data in messages:
        t.absorb(kind, data)
    return t.squeeze("x", 32)


def test_types_and_lengths_separate_messages():
    variants = [
        [("a", b"bc")],
        [("ab", b"c")],
        [("abc", b"")],
        [("", b"abc")],
        [("a", b"b"), ("a", b"c")],
        [("a", b"bc"), ("", b"")],
        [("a", b"b\x00c")],
        [("a", b"bc\x00")],
        [("c", b"bc")],
        [],
    ]
    assert len({absorbing(*v) for v in variants}) == len(variants)


@laws(60)
@given(*[st.lists(st.tuples(st.text(max_size=3), st.binary(max_size=3)), max_size=3)] * 2)
def test_different_message_lists_give_different_challenges(first, second):
    assert (absorbing(*first) == absorbing(*second)) == (first == second)


def test_challenges_depend_on_label_type_count_and_order():
    outputs = {Transcript(label, 2).squeeze("x", 32) for label in ("a", "b", "")}
    outputs |= {Transcript("a", 2).squeeze("y", 32), Transcript("a", 2).squeeze("x", 33)[:32]}
    twice = Transcript("a", 2)
    outputs |= {twice.squeeze("x", 32), twice.squeeze("x", 32)}
    assert len(outputs) == 6


class Extreme(Transcript):
    """A transcript whose hash output is all ones: every limb is above p."""

    def squeeze(self, kind, n):
        return b"\xff" * n


@pytest.mark.parametrize("kappa", [2, 3])
def test_extreme_hash_output_is_reduced(kappa):
    t = Extreme("x", kappa)
    expected = ((2**128 - 1) % P,) * kappa
    assert t.challenge("c").coefficients == expected
    assert elements(t.challenge_vector("c", 2)) == [expected] * 2


def test_challenge_vectors_are_canonical():
    for kappa in (2, 3):
        vector = Transcript("canonical", kappa).challenge_vector("v", 500)
        assert vector.shape == (kappa, 500) and vector.dtype == np.uint64
        assert max(ints(vector)) < P and len(set(ints(vector))) == 500 * kappa


@pytest.mark.parametrize(("count", "bound"), [(0, 4), (1, 1), (16, 16), (63, 64), (150, 4096)])
def test_indices_are_distinct_sorted_and_in_range(count, bound):
    indices = ints(Transcript("indices", 2).distinct_indices("columns", count, bound))
    assert len(indices) == len(set(indices)) == count and indices == sorted(indices)
    assert all(0 <= i < bound for i in indices)


# Proofs ---------------------------------------------------------------------------------------


def written(kappa: int = 2) -> ProverTranscript:
    t = ProverTranscript("proof", kappa)
    t.write("root", b"r" * 32)
    t.write_field("values", uints([[1, 2, P - 1], [0, 5, 6]]))
    return t


def read(proof: bytes, kappa: int = 2) -> VerifierTranscript:
    t = VerifierTranscript("proof", kappa, proof)
    assert t.read("root", 32) == b"r" * 32
    assert t.read_field("values", (2, 3)).tolist() == [[1, 2, P - 1], [0, 5, 6]]
    t.finish()
    return t


def rejected(check: str, action) -> None:
    with pytest.raises(VerificationError) as caught:
        action()
    assert caught.value.check == check


def test_reader_and_writer_agree():
    writer = written()
    assert writer.proof == b"r" * 32 + struct.pack("<6Q", 1, 2, P - 1, 0, 5, 6)
    assert writer.inventory == {"root": (1, 32), "values": (1, 48)}
    assert read(writer.proof).squeeze("x", 32) == writer.squeeze("x", 32)


def test_writing_and_absorbing_are_the_same():
    t = Transcript("proof", 2)
    t.absorb("root", b"r" * 32)
    t.absorb("values", struct.pack("<6Q", 1, 2, P - 1, 0, 5, 6))
    assert t.squeeze("x", 32) == written().squeeze("x", 32)


@pytest.mark.parametrize("missing", [1, 8, 47, 48, 49, 80])
def test_truncated_proof(missing):
    rejected("proof length", lambda: read(written().proof[:-missing]))


def test_extended_proof():
    rejected("proof length", lambda: read(written().proof + b"\0"))
    rejected("proof length", lambda: read(written().proof + b"\0" * 8))


@pytest.mark.parametrize("value", [P, P + 1, 2**64 - 1])
@pytest.mark.parametrize("place", range(6))
def test_non_canonical_number(value, place):
    proof = bytearray(written().proof)
    proof[32 + 8 * place : 40 + 8 * place] = struct.pack("<Q", value)
    rejected("canonical encoding", lambda: read(bytes(proof)))


def test_every_read_byte_is_absorbed():
    proof = b"\0" * 40
    seen = set()
    for i in [None, *range(40)]:
        changed = bytearray(proof)
        if i is not None:
            changed[i] ^= 1
        t = VerifierTranscript("proof", 2, bytes(changed))
        t.read("a", 32)
        t.read_field("b", (1,))
        seen.add(t.squeeze("x", 16))
    assert len(seen) == 41


# Grinding -------------------------------------------------------------------------------------


def work(state: bytes, nonce: int) -> int:
    """Leading zero bits of the digest of a nonce."""
    first = int.from_bytes(blake(state + struct.pack("<Q", nonce), b"zkj.work")[:8], "big")
    return 64 - first.bit_length()


@pytest.mark.parametrize("bits", [1, 4, 9])
def test_grinding(bits):
    writer = ProverTranscript("work", 2)
    state = Reference("work", 2).state()
    writer.grind(bits)
    (nonce,) = struct.unpack("<Q", writer.proof)
    assert work(state, nonce) >= bits and all(work(state, i) < bits for i in range(nonce))
    reader = VerifierTranscript("work", 2, writer.proof)
    reader.grind(bits)
    reader.finish()
    assert reader.squeeze("x", 32) == writer.squeeze("x", 32)
    wrong = next(i for i in range(10**6) if work(state, i) < bits)
    bad = VerifierTranscript("work", 2, struct.pack("<Q", wrong))
    rejected("grinding", lambda: bad.grind(bits))


def test_grinding_binds_what_came_before():
    state = Reference("work", 2).state()
    writer = ProverTranscript("work", 2)
    writer.absorb("statement", b"other")
    writer.grind(9)
    (nonce,) = struct.unpack("<Q", writer.proof)
    assert work(state, nonce) < 9
    rejected("grinding", lambda: VerifierTranscript("work", 2, writer.proof).grind(9))


def test_no_grinding_writes_nothing():
    writer = ProverTranscript("work", 2)
    writer.grind(0)
    assert writer.proof == b""
    reader = VerifierTranscript("work", 2, b"")
    reader.grind(0)
    reader.finish()


def test_missing_nonce():
    rejected("proof length", lambda: VerifierTranscript("work", 2, b"1234567").grind(3))
