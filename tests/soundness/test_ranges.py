"""Range proofs that stay with a commitment, and what happens to those who cheat with them."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zkjax
from soundness.cheating import evaluate, liar
from zkjax import fixed
from zkjax.argument.entropy import Entropy
from zkjax.errors import ValueRangeError, VerificationError
from zkjax.program.builder import Builder, power_of_two_spans
from zkjax.program.dtypes import DTYPE_RANGES, MAX_BOUND, PUBLIC_RANGES
from zkjax.program.normal_form import normal_form
from zkjax.program.program import Port
from zkjax.proof import Commitment
from zkjax.prove import prove_ranges
from zkjax.ranges import range_statement
from zkjax.sealed import seal_arrays
from zkjax.verify import verify_ranges, verify_statement

RNG = np.random.default_rng(5)
W = RNG.integers(-(2**15), 2**15, size=(5, 12), dtype=np.int16)
X = RNG.integers(-(2**10), 2**10, size=(3, 5), dtype=np.int16)


def product(w, x):
    return fixed.encode(fixed.round(fixed.decode(x, 8) @ fixed.decode(w, 8), 8), 8)


@pytest.fixture(scope="module")
def sealed():
    return zkjax.seal(W, openings=20, ranges=True)


@pytest.fixture(scope="module")
def proved(sealed):
    return zkjax.prove(product)(sealed, X)


def refused(check, call, *args, **kwargs):
    with pytest.raises(VerificationError) as caught:
        call(*args, **kwargs)
    assert caught.value.check == check, caught.value


def test_a_ranged_input_is_not_looked_up_again(sealed, proved):
    outputs, proof = proved
    expected = (X.astype(np.int64) @ W + 128) >> 8
    assert np.array_equal(outputs, expected)
    verified = zkjax.verify(product)(sealed.commitment, X, proof=proof)
    assert np.array_equal(verified, outputs)
    plain = zkjax.trace(product)(zkjax.Private(W), X).program
    ranged = zkjax.trace(product)(sealed, X).program
    assert len(ranged.lookups) == len(plain.lookups) - 1
    assert [p.ranged for p in ranged.inputs] == [True, False]
    assert ranged.digest != plain.digest


@pytest.mark.parametrize(
    "again",
    [
        lambda w: fixed.round(w, 0, 16),
        lambda w: w.astype(jnp.int16).astype(jnp.float64),
        lambda w: fixed.decode(fixed.encode(w.T, 0, jnp.int16), 0).T,
        lambda w: fixed.round(w, 0, 16) + fixed.round(w[:1], 0, 24),
    ],
)
def test_what_is_in_range_is_not_looked_up_for_a_type_that_holds_it(sealed, again):
    """To round or convert the weights to the type that they have costs nothing."""

    def fn(w, x):
        return fixed.encode(x.astype(jnp.float64) @ again(w.astype(jnp.float64)), 0)

    def plain(w, x):
        return fixed.encode(x.astype(jnp.float64) @ w.astype(jnp.float64), 0)

    told, least = (zkjax.trace(f)(sealed, X).program.lookups for f in (fn, plain))
    assert len(told) == len(least)


def test_the_range_proof_takes_one_opening():
    value = zkjax.seal(W, openings=3, ranges=True)
    assert value.remaining == 3 and value.commitment.openings == 4


def test_files_keep_the_range_proof(sealed, proved, tmp_path):
    copy = Commitment.from_json(json.loads(json.dumps(sealed.commitment.to_json())))
    assert copy == sealed.commitment and copy.range_proof == sealed.commitment.range_proof
    claims = zkjax.Claims.from_json(proved[1].claims.to_json())
    statement = zkjax.trace(product)(sealed, X)
    zkjax.verify(statement)(copy, X, proof=zkjax.Proof(claims, proved[1].body))
    statement.save(tmp_path / "s")
    assert zkjax.Statement.load(tmp_path / "s").program.inputs[0].ranged
    once = zkjax.seal(W, ranges=True)
    once.save(tmp_path / "w")
    again = zkjax.Sealed.load(tmp_path / "w")
    assert again.commitment.range_proof == once.commitment.range_proof


def test_a_missing_range_proof(sealed, proved):
    _, proof = proved
    bare = replace(sealed.commitment, range_proof=None)
    statement = zkjax.trace(product)(sealed, X)
    stripped = zkjax.Proof(replace(proof.claims, input_commitments=[bare]), proof.body)
    refused("claims", zkjax.verify(statement), bare, X, proof=stripped)
    refused("claims", zkjax.verify(product), bare, X, proof=proof)  # another statement
    with pytest.raises(VerificationError, match="has none"):
        verify_ranges(bare)


def test_one_ranged_value_of_a_commitment_is_enough_to_ask_for_its_proof():
    """A statement that no trace makes: the other value of the commitment is checked by itself."""
    b = Builder()
    x, y = (b.input(i, (4,), "int8", name) for i, name in enumerate("xy"))
    b.input_range_check(y, "int8", "y")
    ports = [Port(x, "int8", 0, "x", True), Port(y, "int8", 0, "y")]
    statement = zkjax.Statement(normal_form(b, ports, [])[0])
    sealed = zkjax.seal([np.arange(4, dtype=np.int8)] * 2)
    commitment = replace(sealed.commitment, range_proof=b"")
    claims = zkjax.Claims(statement.digest, "s100", {}, {}, [commitment], [])
    refused("range proof", verify_statement, statement, zkjax.Proof(claims, bytes(1 << 20)))


def test_the_range_proof_of_another_commitment(sealed):
    """Values outside their type, with the range proof of honest ones."""
    wide = zkjax.seal(W, openings=2)
    borrowed = replace(wide.commitment, range_proof=sealed.commitment.range_proof)
    wide.commitment = replace(borrowed, openings=sealed.commitment.openings)
    refused("range proof", verify_ranges, wide.commitment)
    wide.commitment = borrowed
    _, proof = zkjax.prove(product)(wide, X)
    refused("range proof", zkjax.verify(product), borrowed, X, proof=proof)


def test_a_flipped_range_proof(sealed, proved):
    body = bytearray(sealed.commitment.range_proof)
    for position in np.linspace(0, len(body) - 1, 25).astype(int):
        flipped = bytes(body[:position]) + bytes([body[position] ^ 1]) + bytes(body[position + 1 :])
        broken = replace(sealed.commitment, range_proof=flipped)
        refused("range proof", verify_ranges, broken)
        claims = replace(proved[1].claims, input_commitments=[broken])
        proof = zkjax.Proof(claims, proved[1].body)
        refused("range proof", zkjax.verify(product), broken, X, proof=proof)
    for bad in (b"", bytes(body[:-1]), bytes(body) + b"\0"):
        refused("range proof", verify_ranges, replace(sealed.commitment, range_proof=bad))


@pytest.mark.parametrize("position", [(0, 0), (4, 11)])
@pytest.mark.parametrize("value", [2**15, -(2**15) - 1, 2**40])
def test_a_value_outside_its_type(position, value):
    """The honest prover refuses; a lying one fails the verifier."""
    wide = W.astype(np.int64)
    wide[position] = value

    sealed = seal_arrays([wide], jax.tree_util.tree_structure(0), 3, "s100", Entropy())
    sealed.commitment = replace(sealed.commitment, dtypes=("int16",))
    with pytest.raises(ValueRangeError, match="outside its dtype"):
        prove_ranges(sealed)
    with liar():
        prove_ranges(sealed)
    refused("range proof", verify_ranges, sealed.commitment)


def test_large_tensors_are_looked_up_in_slices():
    """Slices cover every element once and need less padding."""
    shape = (80, 33, 40)
    builder = Builder()
    var = builder.input(0, shape, "int16", "x")
    pieces = builder._pieces(var)
    assert len(pieces) > 1
    values = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    statement = range_statement(Commitment(b"", (shape,), ("int32",), 1, "s100"))
    assert len(statement.program.lookups) == 2 * len(pieces)
    every = evaluate(statement.program, [values])
    lows = [v for r in statement.program.lookups for v in r.vars]
    assert sum(np.size(every[v]) for v in lows) == 2 * values.size
    padded = sum(np.prod([1 << (n - 1).bit_length() for n in every[v].shape]) for v in lows)
    assert padded < 2 * 128 * 64 * 64


@pytest.mark.parametrize("position", [0, 64 * 40 * 33 - 1, 64 * 40 * 33, 80 * 40 * 33 - 1])
def test_every_slice_is_checked(position):
    shape = (80, 33, 40)
    statement = range_statement(Commitment(b"", (shape,), ("int8",), 1, "s100"))
    values = np.zeros(shape, dtype=np.int64)
    statement.program.evaluate([values])
    values.reshape(-1)[position] = 128
    with pytest.raises(ValueRangeError):
        statement.program.evaluate([values])


def test_spans():
    for n in [1, 2, 3, 5, 7, 80, 5632, 8192, 11008, 4095, *RNG.integers(1, 10**6, 50).tolist()]:
        spans = power_of_two_spans(n)
        assert spans[0][0] == 0 and spans[-1][1] == n and len(spans) <= 4
        assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
        padded = sum(1 << (b - a - 1).bit_length() for a, b in spans)
        assert padded <= 1.15 * n or n < 16


def test_the_ranges_of_types_are_numpys():
    ranges = {
        name: (np.iinfo(name).min, np.iinfo(name).max) for name in DTYPE_RANGES.keys() - {"bool"}
    }
    assert {"bool": (0, 1), **ranges} == DTYPE_RANGES
    assert {"int64": (-(2**52), 2**52), **DTYPE_RANGES} == PUBLIC_RANGES
    assert MAX_BOUND == 2**52


def test_every_dtype_can_be_ranged():
    for name, (low, high) in DTYPE_RANGES.items():
        values = np.array([low, high, 0, 1]).astype(name)
        commitment = zkjax.seal(values, ranges=True).commitment
        verify_ranges(commitment)


def test_range_proofs_verify_without_jax(sealed, tmp_path):
    path = tmp_path / "commitment.json"
    path.write_text(json.dumps(sealed.commitment.to_json()))
    code = (
        "import sys, json; sys.modules['jax'] = None\n"
        "from zkjax.proof import Commitment\n"
        "from zkjax.verify import verify_ranges\n"
        f"verify_ranges(Commitment.from_json(json.loads(open({str(path)!r}).read())))\n"
        "print('verified')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "verified\n"


def test_a_wide_public_output():
    """Public outputs may be int64 up to 2^52; sealed ones may not."""

    def scaled(x):
        return (fixed.decode(x, 0) * 2.0**15).astype(jnp.int64)

    x = np.array([-(2**31), 2**31 - 1, 3], dtype=np.int32)
    value = zkjax.seal(x, openings=2)
    outputs, proof = zkjax.prove(scaled)(value)
    assert outputs.dtype == np.int64 and np.array_equal(outputs, x.astype(np.int64) << 15)
    for by in (1 << 53, -(1 << 53)):
        outside = replace(proof.claims, outputs={0: outputs + by})
        with pytest.raises(VerificationError, match="out of range"):
            zkjax.verify(zkjax.trace(scaled)(value))(value, proof=zkjax.Proof(outside, proof.body))
    with pytest.raises(zkjax.ZkjaxError, match="int64"):
        zkjax.prove(scaled, sealed_outputs=True)(value)
