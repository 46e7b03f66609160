"""The frame parser against every kind of malformed frame, and against noise."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from adapter.common import ROOM, Raw, committed, contributor
from zkjax.errors import SessionError
from zkjax.proofs.adapter import frames
from zkjax.proofs.adapter.frames import HEADER, MAGIC, VERSION, decode, encode
from zkjax.proofs.adapter.manifest import MAX_BYTES, Manifest

X = np.array([[1, -2, 3], [-32768, 32767, 0]], dtype=np.int16)
DELTAS = np.array([[-(2**31), 2**31 - 1]], dtype=np.int32)
EXAMPLES = {
    "Hello": frames.Hello(bytes(range(32)), "s100"),
    "Offer": frames.Offer(bytes(32), b'{"r":4}', b"\x00\xff" * 20),
    "Accept": frames.Accept(b"\x07" * 32),
    "Query": frames.Query(3, "inner", X),
    "Answer": frames.Answer(3, "mlp", DELTAS),
    "Finish": frames.Finish(b"\x09" * 32),
    "Waiting": frames.Waiting(7),
    "FinishSealed": frames.FinishSealed(b"\x01" * 32, b"[1, 2]", b"abc"),
    "ProofFrame": frames.ProofFrame(b"\x55" * 77),
    "Done": frames.Done(),
    "Refusal": frames.Refusal("leakage", "5 of 8 directions"),
}
TEXTS = ("Hello", "Refusal")


def same(left: frames.Frame, right: frames.Frame) -> bool:
    """Equality that looks into arrays."""
    if type(left) is not type(right):
        return False
    for f in fields(left):
        a, b = getattr(left, f.name), getattr(right, f.name)
        if isinstance(a, np.ndarray):
            if a.dtype != b.dtype or not np.array_equal(a, b):
                return False
        elif a != b:
            return False
    return True


def framed(kind: int, body: bytes, sequence: int = 0, **changed) -> bytes:
    """A frame with any header."""
    values = {"magic": MAGIC, "version": VERSION, "kind": kind, "zero": 0, "sequence": sequence}
    values |= {"length": len(body)} | changed
    return HEADER.pack(*values.values()) + body


def number(name: str) -> int:
    return [t.__name__ for t in frames.TYPES].index(name)


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


# Round trips ----------------------------------------------------------------------------------

DIGESTS = st.binary(min_size=32, max_size=32)
BLOBS = st.binary(max_size=300)
PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=frames.MAX_TEXT)
NUMBERS = st.integers(0, 2**32 - 1)
SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=9)
VALUES = {
    "nonce": DIGESTS,
    "digest": DIGESTS,
    "least": PLAIN,
    "check": PLAIN,
    "detail": PLAIN,
    "manifest": BLOBS,
    "range_proof": BLOBS,
    "commitments": BLOBS,
    "secrets": BLOBS,
    "body": BLOBS,
    "layer": NUMBERS,
    "ahead": NUMBERS,
    "group": st.sampled_from(frames.GROUPS),
    "x": arrays(np.int16, SHAPES),
    "deltas": arrays(np.int32, SHAPES),
}


@st.composite
def any_frame(draw):
    kind = draw(st.sampled_from(frames.TYPES))
    values = {f.name: draw(VALUES[f.name]) for f in fields(kind)}
    if kind is frames.Accept:
        values["manifest"] = draw(DIGESTS)
    return kind(**values)


@given(any_frame(), NUMBERS)
@settings(deadline=None, max_examples=300)
def test_round_trip(frame, sequence):
    data = encode(frame, sequence)
    assert same(decode(data, sequence, len(data)), frame)
    assert encode(decode(data, sequence, len(data)), sequence) == data


@given(st.text(max_size=700), st.text(max_size=700))
@settings(deadline=None, max_examples=200)
def test_whatever_an_error_says_becomes_a_readable_refusal(check, detail):
    """Control characters, surrogates and long texts of an error do not break the last frame."""
    frame = decode(encode(frames.Refusal(check, detail), 5), 5, ROOM)
    assert frame.detail.isprintable() and len(frame.detail) <= frames.MAX_TEXT


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_type_is_an_example(name):
    assert type(EXAMPLES[name]).__name__ == name
    assert len(EXAMPLES) == len(frames.TYPES)
    assert same(decode(encode(EXAMPLES[name], 0), 0, ROOM), EXAMPLES[name])


def test_arrays_of_a_frame_cannot_be_written():
    """What was received is evidence: nobody may change it afterwards."""
    x = decode(encode(EXAMPLES["Query"], 0), 0, ROOM).x
    with pytest.raises(ValueError):
        x[0, 0] = 1


# Malformations --------------------------------------------------------------------------------

QUERY = encode(EXAMPLES["Query"], 0)
SITE = (3).to_bytes(4, "little")


def matrix(rows: int, columns: int, data: bytes = b"") -> bytes:
    return rows.to_bytes(4, "little") + columns.to_bytes(4, "little") + data


MALFORMED = {
    "empty": (b"", "frame"),
    "half a header": (QUERY[:15], "frame"),
    "text": (QUERY.decode("latin-1"), "frame"),
    "none": (None, "frame"),
    "another magic": (b"ZKJB" + QUERY[4:], "frame"),
    "reserved bytes used": (framed(0, bytes(32) + sized(b"s100"), zero=1), "frame"),
    "version 0": (framed(number("Done"), b"", version=0), "frame"),
    "version 1": (framed(number("Done"), b"", version=1), "frame"),
    "version 3": (framed(number("Done"), b"", version=3), "frame"),
    "unknown type": (framed(len(frames.TYPES), b""), "frame"),
    "type 255": (framed(255, b""), "frame"),
    "length too small": (framed(number("Finish"), bytes(32), length=31), "frame"),
    "length too large": (framed(number("Finish"), bytes(32), length=33), "frame"),
    "length of 4 GiB": (framed(number("Finish"), bytes(32), length=2**32 - 1), "frame"),
    "an earlier number": (encode(EXAMPLES["Query"], 2**32 - 1), "sequence"),
    "a later number": (encode(EXAMPLES["Query"], 1), "sequence"),
    "a body where none is": (framed(number("Done"), b"\0"), "frame"),
    "no body": (framed(number("Query"), b""), "frame"),
    "short digest": (framed(number("Finish"), bytes(31)), "frame"),
    "long digest": (framed(number("Finish"), bytes(33)), "frame"),
    "unknown group": (framed(number("Query"), SITE + b"\x04" + matrix(1, 1, b"\0\0")), "frame"),
    "no rows": (framed(number("Query"), SITE + b"\0" + matrix(0, 3)), "frame"),
    "no columns": (framed(number("Query"), SITE + b"\0" + matrix(3, 0)), "frame"),
    "rows beyond the data": (
        framed(number("Query"), SITE + b"\0" + matrix(2, 1, b"\0\0")),
        "frame",
    ),
    "data beyond the rows": (
        framed(number("Query"), SITE + b"\0" + matrix(1, 1, bytes(4))),
        "frame",
    ),
    "a product that wraps to 4 bytes": (
        framed(number("Query"), SITE + b"\0" + matrix(2**31, 2**31, bytes(4))),
        "frame",
    ),
    "a product of 2^64": (
        framed(number("Answer"), SITE + b"\0" + matrix(2**32 - 1, 2**32 - 1, bytes(4))),
        "frame",
    ),
    "a blob beyond the body": (
        framed(number("ProofFrame"), (5).to_bytes(4, "little") + b"abcd"),
        "frame",
    ),
    "a blob of 4 GiB": (framed(number("ProofFrame"), b"\xff" * 4 + b"abcd"), "frame"),
    "bytes after a blob": (framed(number("ProofFrame"), sized(b"abc") + b"d"), "frame"),
    "a text that is too long": (
        framed(number("Refusal"), sized(b"a" * (frames.MAX_TEXT + 1)) + sized(b"")),
        "frame",
    ),
    "not UTF-8": (framed(number("Refusal"), sized(b"\xff") + sized(b"")), "frame"),
    "a surrogate": (framed(number("Refusal"), sized(b"\xed\xa0\x80") + sized(b"")), "frame"),
    "a line break": (framed(number("Refusal"), sized(b"a") + sized(b"b\nc")), "frame"),
    "a terminal escape": (framed(number("Refusal"), sized(b"a") + sized(b"\x1b[2J")), "frame"),
    "text turned round": (
        framed(number("Refusal"), sized(b"a") + sized("‮evil".encode())),
        "frame",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name):
    data, check = MALFORMED[name]
    with pytest.raises(SessionError) as caught:
        decode(data, 0, ROOM)
    assert caught.value.check == check


def test_a_frame_at_the_limit_and_one_byte_beyond():
    decode(QUERY, 0, len(QUERY))
    with pytest.raises(SessionError) as caught:
        decode(QUERY, 0, len(QUERY) - 1)
    assert caught.value.check == "limit"


def test_every_truncation_and_extension_of_every_type():
    for name, frame in EXAMPLES.items():
        data = encode(frame, 0)
        for cut in range(len(data)):
            with pytest.raises(SessionError):
                decode(data[:cut], 0, ROOM)
            # the same with a header that admits it
            if cut >= HEADER.size:
                with pytest.raises(SessionError):
                    decode(framed(number(name), data[HEADER.size : cut]), 0, ROOM)
        for extra in (b"\0", data):
            with pytest.raises(SessionError):
                decode(data + extra, 0, ROOM)
            with pytest.raises(SessionError):
                decode(framed(number(name), data[HEADER.size :] + extra), 0, ROOM)


def test_no_body_passes_for_another_type():
    """A frame with its type changed is refused, or is a frame of the new type with all its bytes
    used; a query never becomes an answer of the same shape.
    """
    for frame, kind in itertools.product(EXAMPLES.values(), range(len(frames.TYPES))):
        data = framed(kind, encode(frame, 0)[HEADER.size :])
        try:
            other = decode(data, 0, ROOM)
        except SessionError:
            continue
        assert encode(other, 0) == data


# Noise ----------------------------------------------------------------------------------------

COUNTS = {"noise": 50_000, "bodies": 80_000, "mutations": 150_000, "sizes": 30_000}


def survives(data: bytes, sequence: int = 0, limit: int = ROOM) -> None:
    """A frame comes out, and it is the only one with these bytes; or a SessionError."""
    try:
        frame = decode(data, sequence, limit)
    except SessionError as error:
        assert error.check in ("frame", "sequence", "limit")
        return
    assert type(frame) in frames.TYPES
    if type(frame).__name__ not in TEXTS:
        assert encode(frame, sequence) == data


def test_fuzz_noise():
    """Random bytes of many lengths, with and without the magic in front."""
    rng = random.Random(1)
    for i in range(COUNTS["noise"]):
        data = rng.randbytes(rng.randrange(120))
        survives(MAGIC + data if i % 2 else data, rng.randrange(3))


def test_fuzz_bodies():
    """A header without fault, then random bytes."""
    rng = random.Random(2)
    for i in range(COUNTS["bodies"]):
        survives(framed(i % len(frames.TYPES), rng.randbytes(rng.randrange(90))))


def test_fuzz_mutations():
    """Valid frames of every type with bytes flipped, moved, doubled, dropped."""
    rng = random.Random(3)
    valid = [encode(f, 0) for f in EXAMPLES.values()]
    for i in range(COUNTS["mutations"]):
        data = bytearray(valid[i % len(valid)])
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            match rng.randrange(6):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    data[at] = rng.choice((0, 1, 127, 128, 255))
                case 2:
                    del data[at : at + rng.randrange(1, 9)]
                case 3:
                    data[at:at] = rng.randbytes(rng.randrange(1, 9))
                case 4:
                    data[at:at] = data[max(0, at - 8) : at]
                case 5:
                    data = bytearray(rng.choice(valid)[: rng.randrange(1, 60)]) + data[at:]
            if not data:
                break
        if i % 2 and len(data) >= HEADER.size:
            data[12:16] = (len(data) - HEADER.size).to_bytes(4, "little")
        survives(bytes(data))


def test_fuzz_lying_sizes():
    """Every length, row and column count replaced by a lie; nothing is allocated for it."""
    rng = random.Random(4)
    lies = (0, 1, 2, 3, 2**15, 2**16, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1)
    valid = [encode(f, 0) for f in EXAMPLES.values()]
    tracemalloc.start()
    try:
        for i in range(COUNTS["sizes"]):
            data = bytearray(valid[i % len(valid)])
            for _ in range(rng.randrange(1, 3)):
                at = rng.randrange(8, max(9, len(data) - 3))
                data[at : at + 4] = rng.choice(lies).to_bytes(4, "little")
            if i % 3 and len(data) >= HEADER.size:
                data[12:16] = (len(data) - HEADER.size).to_bytes(4, "little")
            survives(bytes(data))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_fuzzed_inputs_are_at_least_100000():
    assert sum(COUNTS.values()) >= 100_000


def test_fuzz_the_session():
    """The contributor's state machine in each of its states: a refusal or silence, never more."""
    owner, rng = contributor(), random.Random(5)
    valid = [encode(f, n) for f in EXAMPLES.values() for n in range(4)]
    for i in range(1500):
        raw = Raw(owner)
        if i % 3:
            raw.open()
        data = bytearray(rng.choice(valid))
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        reply = raw.bytes(bytes(data))
        assert reply is None or isinstance(reply, frames.Refusal | frames.Offer | frames.Answer)
        assert not raw.session.accepted
        assert raw.session.error is None or raw.session.error.check != "internal"


def test_fuzz_the_manifest():
    """Mutated manifests: the one that was made, or SessionError("manifest")."""
    data, rng = committed()[1].encode(), random.Random(6)
    pieces = (b'"', b"{}", b"[]", b"null", b"-1", b"1e999", b"NaN", b"9" * 40, b"\\ud800", b"2.0")
    for i in range(5000):
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 3)):
            at = rng.randrange(len(changed))
            if i % 2:
                changed[at] = rng.randrange(256)
            else:
                changed[at : at + rng.randrange(3)] = rng.choice(pieces)
        try:
            manifest = Manifest.decode(bytes(changed))
        except SessionError as error:
            assert error.check == "manifest"
        else:
            assert manifest.encode() == bytes(changed)


HOSTILE_JSON = {
    "too long": lambda good: b" " * (MAX_BYTES + 1),
    "many lists": lambda good: b"[" + b"[]," * 300_000 + b"[]]",
    "deep": lambda good: b"[" * 60000,
    "a deep object": lambda good: b'{"a":' * 12000,
    "an integer of 60000 digits": lambda good: b"9" * 60000,
    "another encoding": lambda good: good.decode().encode("utf-16"),
    "spaces": lambda good: good.replace(b":", b": "),
    "a key twice": lambda good: good.replace(b'{"base"', b'{"r":9,"base"', 1),
    "one key more": lambda good: good.replace(b'{"base"', b'{"a":1,"base"', 1),
    "a number as true": lambda good: good.replace(b'"log2_scale":1', b'"log2_scale":true'),
}


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_hostile_json_in_a_manifest(name):
    good = committed()[1].encode()
    hostile = HOSTILE_JSON[name](good)
    assert hostile != good
    tracemalloc.start()
    try:
        with pytest.raises(SessionError) as caught:
            Manifest.decode(hostile)
        assert tracemalloc.get_traced_memory()[1] < 64 * MAX_BYTES
    finally:
        tracemalloc.stop()
    assert caught.value.check == "manifest"
