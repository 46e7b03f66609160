"""Hostile bytes: flipped bits, noise, truncation, huge numbers. Only typed errors."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import tracemalloc
import zlib
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest

import zkjax
from soundness.cheating import messages, prove, trace_call
from soundness.programs import SMALL
from zkjax.errors import StatementError, VerificationError
from zkjax.program.statement import decode_program
from zkjax.proof import Claims, Proof
from zkjax.verify import verify_statement

REFUSED = (VerificationError, StatementError)


@cache
def files() -> tuple[bytes, str, bytes]:
    """(statement, claims, proof) as written to files; public and sealed values on both sides."""
    fn, x = SMALL["maximum"]

    def both(a, scale):
        return fn(a), (scale.astype(np.float64) * 2.0).astype(np.int16)

    sealed = zkjax.seal(x, openings=1)
    args = (sealed, np.array([5, 6], dtype=np.int8))
    traced = trace_call(both, args, (True, False))
    _, proof = prove(traced, args)
    program = traced.statement.program
    data = program.encode()
    statement = b"ZKJXSTM1" + len(data).to_bytes(8, "little") + program.digest + zlib.compress(data)
    return statement, proof.claims.to_json(), proof.encode()


@cache
def regions() -> list[tuple[str, int, int]]:
    """(kind, start, size) of every message in the proof file, and its two header fields."""
    statement, claims, proof = files()
    decoded = Proof.decode(proof, Claims.from_json(claims))

    class Holder:
        pass

    holder = Holder()
    holder.statement = zkjax.Statement.decode(statement)
    inner = messages(holder, decoded)
    return [("magic", 0, 8), ("profile", 8, 8), *((k, s + 16, n) for k, s, n in inner)]


def check(statement: bytes, claims: str, proof: bytes) -> str:
    """ "accepted", or the name of the check or error that refused the three files."""
    try:
        loaded = zkjax.Statement.decode(statement)
        told = Claims.from_json(claims)
        verify_statement(loaded, Proof.decode(proof, told))
    except VerificationError as error:
        return error.check
    except StatementError:
        return "malformed"
    return "accepted"


def flipped(data: bytes, position: int, bit: int) -> bytes:
    out = bytearray(data)
    out[position] ^= 1 << bit
    return bytes(out)


def test_the_files_verify():
    assert check(*files()) == "accepted"


def test_flipped_bits_of_the_proof():
    """140 positions, spread over every region."""
    statement, claims, proof = files()
    rng = random.Random(1)
    spans = [(start, size) for _, start, size in regions() if size]
    chosen = [start + rng.randrange(size) for start, size in rng.sample(spans, min(70, len(spans)))]
    kinds = {kind: (start, size) for kind, start, size in regions() if size}
    chosen += [start + rng.randrange(size) for start, size in kinds.values()]
    while len(chosen) < 140:
        chosen.append(rng.randrange(len(proof)))
    for position in chosen:
        outcome = check(statement, claims, flipped(proof, position, rng.randrange(8)))
        assert outcome != "accepted", position


def test_flipped_bits_of_the_claims():
    """200 positions: claims have one form, so no bit is without meaning."""
    statement, claims, proof = files()
    rng = random.Random(2)
    for position in rng.sample(range(len(claims)), 200):
        wrong = flipped(claims.encode(), position, rng.randrange(7)).decode()
        assert check(statement, wrong, proof) != "accepted", position


def test_flipped_bits_of_the_statement():
    """30 positions, the header's first; compressed data may have unused bits."""
    statement, claims, proof = files()
    rng = random.Random(3)
    positions = [0, 8, 15, 16, 47, len(statement) - 1]
    positions += rng.sample(range(48, len(statement)), 24)
    digest = zkjax.Statement.decode(statement).digest
    for position in positions:
        wrong = flipped(statement, position, rng.randrange(8))
        if check(wrong, claims, proof) == "accepted":
            assert zkjax.Statement.decode(wrong).digest == digest


def test_noise():
    """Random bytes in place of each file, with and without the right beginning."""
    statement, claims, proof = files()
    rng = random.Random(4)
    for size in (0, 1, 7, 8, 15, 16, 47, 48, 100, 5000):
        noise = rng.randbytes(size)
        assert check(noise, claims, proof) == "malformed"
        assert check(statement[:48] + noise, claims, proof) == "malformed"
        assert check(statement, noise.decode("latin-1"), proof) == "malformed"
        assert check(statement, claims, noise) == "proof header"
        assert check(statement, claims, proof[:16] + noise) in {
            "proof length",
            "canonical encoding",
        }


CLAIMS = [
    "",
    "null",
    "[]",
    "{}",
    "[" * 100000,
    '{"statement": "00", "profile": "s100"}',
    "9" * 5000,
]


@pytest.mark.parametrize("text", CLAIMS, ids=range(len(CLAIMS)))
def test_claims_that_are_none(text):
    """JSON of another shape."""
    with pytest.raises(StatementError):
        Claims.from_json(text)


def edits():
    """Name -> a change of the claims' JSON."""
    big = 10**30
    array = {"dtype": "int8", "shape": [2], "data": "BQY="}
    return {
        "huge shape": {"inputs": {"1": {**array, "shape": [2**62, 4]}}},
        "empty huge shape": {"inputs": {"1": {**array, "shape": [0, big], "data": ""}}},
        "negative shape": {"inputs": {"1": {**array, "shape": [-1, -2]}}},
        "objects": {"inputs": {"1": {**array, "dtype": "object"}}},
        "structured": {"inputs": {"1": {**array, "dtype": "i4,i4"}}},
        "floats": {"inputs": {"1": {**array, "dtype": "float64"}}},
        "wide": {"inputs": {"1": {"dtype": "int64", "shape": [2], "data": "A" * 21 + "="}}},
        "not base64": {"inputs": {"1": {**array, "data": "????"}}},
        "another input": {"inputs": {"0": array}},
        "huge number": {"inputs": {str(big): array}},
        "no profile": {"profile": "s0"},
        "surrogate profile": {"profile": "\ud800"},
        "long profile": {"profile": "s100" * 1000},
        "number profile": {"profile": 100},
        "no root": {"input_commitments": [{"root": "00"}]},
        "no commitments": {"input_commitments": []},
        "another digest": {"statement": "00" * 32},
        "short digest": {"statement": "00"},
    }


@pytest.mark.parametrize("name", edits())
def test_edited_claims(name):
    """Fields of the wrong type, size or range."""
    statement, claims, proof = files()
    data = json.loads(claims) | edits()[name]
    text = json.dumps(data, indent=1)
    assert check(statement, text, proof) != "accepted"
    with contextlib.suppress(StatementError):
        assert Claims.from_json(text).to_json() == text


@pytest.mark.parametrize("openings", [0, -1, 65537, 10**30, "1", None, 1.5, 65536])
def test_edited_openings(openings):
    """Also the largest allowed number: the proof is too short for it, little memory is taken."""
    statement, claims, proof = files()
    data = json.loads(claims)
    data["input_commitments"][0]["openings"] = openings
    tracemalloc.start()
    try:
        outcome = check(statement, json.dumps(data, indent=1), proof)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert outcome == ("proof length" if openings == 65536 else "malformed")
    assert peak < 100 << 20


def test_a_statement_that_claims_to_be_huge():
    """The declared size is checked against what unpacks, within the file's own bound."""
    statement, _, _ = files()
    for size in (0, 1, 2**32 + 1, 2**63, 2**64 - 1):
        with pytest.raises(StatementError):
            zkjax.Statement.decode(statement[:8] + size.to_bytes(8, "little") + statement[16:])


def mutated(header: dict, rng: random.Random) -> dict:
    """One random place of a statement's header is replaced by something else."""
    header = copy.deepcopy(header)
    node, key = header, rng.choice(["ops", "lookups", "inputs", "outputs", "zeros", "constants"])
    while True:
        child = node[key]
        if not isinstance(child, list) or not child or rng.random() < 0.15:
            break
        node, key = child, rng.randrange(len(child))
    old = node[key]
    choices = [-1, 0, 1, 2, 3, 7, 1 << 20, "x", "affine", None, [], [1], [[1]], 1.5, True]
    if isinstance(old, int):
        choices += [old + 1, old - 1, -old]
    node[key] = rng.choice(choices)
    return header


def test_hostile_statements():
    """A statement that tracing cannot make, with its own digest: refused, never a crash."""
    statement, claims, proof = files()
    raw = zlib.decompress(statement[48:])
    size = int.from_bytes(raw[:8], "little")
    header, rest = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    told = Claims.from_json(claims)
    rng = random.Random(6)
    crashed = []
    for _ in range(250):
        wrong = mutated(header, rng)
        text = json.dumps(wrong, separators=(",", ":"), sort_keys=True).encode()
        data = len(text).to_bytes(8, "little") + text + rest
        try:
            program = decode_program(data)
            digest = program.digest
        except Exception:
            continue  # ``Statement.decode`` turns this into StatementError
        packed = b"ZKJXSTM1" + len(data).to_bytes(8, "little") + digest + zlib.compress(data)
        try:
            loaded = zkjax.Statement.decode(packed)
            body = Proof.decode(proof, told).body
            verify_statement(loaded, Proof(replace(told, statement=loaded.digest), body))
            if loaded.program.encode() != raw:
                crashed.append(("accepted", wrong))
        except REFUSED:
            pass
        except Exception as error:
            crashed.append((type(error).__name__, str(error)))
    assert not crashed


@pytest.mark.parametrize("value", [2**52 + 1, -(2**53), 2**62])
def test_constants_that_float64_would_round(value):
    """The digest is about integers; what the verifier computes with has to be the same ones."""
    x = np.zeros(2, np.int16)
    program = zkjax.trace(lambda x: x.astype(np.int32) + np.array([1, 5]))(x).program
    decode_program(program.encode())
    program.constants[0] = np.full_like(program.constants[0], value)
    with pytest.raises(StatementError, match="larger than fixed point holds"):
        decode_program(program.encode())


def double(x):
    return (x.astype(np.float64) * 2.0).astype(np.int16)


@pytest.fixture(scope="module")
def made():
    sealed = zkjax.seal(np.arange(4, dtype=np.int16), openings=1)
    _, proof = zkjax.prove(double)(sealed)
    return sealed.commitment, proof


JUNK = [None, 7, -1, 1.5, "junk", b"", [], {}, [None], {0: None}, {None: 0}, object(), np.zeros(3)]


@pytest.mark.parametrize("name", [f.name for f in fields(Claims)])
@pytest.mark.parametrize("junk", JUNK, ids=lambda v: type(v).__name__)
def test_claims_made_in_memory_may_hold_anything(made, name, junk):
    commitment, proof = made
    honest = getattr(proof.claims, name)
    if isinstance(junk, bytes | list | dict) and not junk and not honest:
        return  # nothing stands for nothing
    broken = Proof(replace(proof.claims, **{name: junk}), proof.body)
    with pytest.raises(VerificationError):
        zkjax.verify(double)(commitment, proof=broken)
    with pytest.raises(VerificationError):
        verify_statement(zkjax.trace(double)(commitment), broken)


@pytest.mark.parametrize("junk", JUNK, ids=lambda v: type(v).__name__)
def test_a_proof_made_in_memory_may_be_anything(made, junk):
    commitment, proof = made
    for broken in (junk, Proof(junk, proof.body), Proof(proof.claims, junk)):
        with pytest.raises(VerificationError):
            zkjax.verify(double)(commitment, proof=broken)
