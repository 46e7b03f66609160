"""Everything a prover writes, by type, is one of the few things that reveal nothing."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from soundness.cheating import messages, trace_call

import zkjax
from zkjax import fixed
from zkjax.argument.budget import PROFILES, queries_for
from zkjax.argument.entropy import SeededEntropy
from zkjax.protocol import Setup

MASKED = {  # value - fresh pad
    "lookup root",
    "lookup layer",
    "claim",
    "product round",
    "factors",
    "onehot claim",
    "onehot round",
    "onehot factor",
    "opening round",
}
ROOTS = {"advice commitment", "mask commitment", "pad commitment"}  # hashes with secret nonces
RESPONSES = {  # random combinations plus a fresh mask
    "proximity response",
    "linear response",
    "pad proximity response",
    "pad linear response",
    "product response",
}
COLUMNS = {"opened columns"}  # as many as a row has random coefficients
NONCES = {"nonces"}  # of opened columns only
PATHS = {"merkle path"}
WORK = {"grinding nonce"}
DOCUMENTED = MASKED | ROOTS | RESPONSES | COLUMNS | NONCES | PATHS | WORK


def everything(x):
    v = fixed.decode(x, 4)
    rounded = fixed.round(v * v, 4, 20)
    rows = fixed.embed(np.arange(8.0).reshape(4, 2), jnp.abs(fixed.decode(x, 0)) * 0)
    return (fixed.max(rounded, 16) * 16.0).astype(jnp.int32), rows.astype(jnp.int32)


@cache
def run(profile: str):
    x = zkjax.seal(np.array([[3, -7, 11], [2, 90, 1]], dtype=np.int8), openings=1, profile=profile)
    return zkjax.prove(everything, profile=profile, _entropy=SeededEntropy(1))(x)[1]


@pytest.mark.parametrize("profile", ["s100", "s128"])
def test_every_message_is_documented(profile):
    """No kind of message beyond the list, and all bytes of the proof are accounted for."""
    proof = run(profile)
    inventory = proof.report["inventory"]
    assert set(inventory) <= DOCUMENTED
    assert set(inventory) >= DOCUMENTED - WORK
    assert sum(size for _, size in inventory.values()) == len(proof.body)
    assert proof.report["proof_bytes"] == len(proof.encode())


def test_claims_hold_nothing_but_what_is_public():
    """Public values, commitments, digest, profile, context; no data of a sealed argument."""
    claims = run("s100").claims
    assert not claims.inputs and len(claims.outputs) == 2
    text = claims.to_json()
    fields = {"statement", "profile", "context", "inputs", "outputs", "input_commitments"}
    import json

    assert set(json.loads(text)) == fields | {"output_commitments"}
    described = json.loads(text)["input_commitments"][0]
    assert set(described) == {"root", "shapes", "dtypes", "openings", "profile"}


def test_a_commitment_hides():
    """The same data sealed twice has different roots; so have all commitments of two proofs."""
    x = np.array([1, 2], dtype=np.int8)
    assert zkjax.seal(x).commitment.root != zkjax.seal(x).commitment.root
    sealed = zkjax.seal(np.array([[3, -7, 11], [2, 90, 1]], dtype=np.int8), openings=2)
    traced, roots = trace_call(everything, (sealed,)), []
    for _ in range(2):
        _, proof = zkjax.prove(everything)(sealed)
        told = [m for m in messages(traced, proof) if m[0] in ROOTS]
        assert {kind for kind, _, _ in told} == ROOTS
        roots += [proof.body[start : start + size] for _, start, size in told]
    assert len(set(roots)) == len(roots)


@pytest.mark.parametrize("counts", [(1, 0), (0, 1), (40, 40), (10**5, 10**5)])
@pytest.mark.parametrize("profile", PROFILES)
def test_the_summands_of_a_product_mask_overlap_where_columns_are_opened(profile, counts):
    """In W coefficients, no fewer than there are opened columns."""
    setup = SimpleNamespace(profile=PROFILES[profile])
    code = Setup.pad_code(setup, counts)
    assert code.row >= queries_for(code, PROFILES[profile])
