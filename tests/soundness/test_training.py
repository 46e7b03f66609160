"""Lies about one SGD step of a small LLaMA: weight, token, gradient, update, loss, rate."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

import zkjax
from soundness.cheating import bump, prove, rejected, trace_call, variables
from soundness.programs import training
from zkjax.proof import Claims, Proof
from zkjax.verify import verify_statement


@cache
def honest():
    """(traced, arguments, outputs, proof) of the true step; everything but the rate is sealed."""
    step, (base, adapter, tokens, rate) = training()
    args = (*(zkjax.seal(x, openings=1) for x in (base, adapter, tokens)), rate)
    traced = trace_call(step, args, (True, False))
    outputs, proof = prove(traced, args)
    return traced, args, outputs, proof


def input_variable(traced, name: str) -> int:
    """The variable of the first input whose name contains ``name``."""
    return next(p.var for p in traced.statement.program.inputs if name in p.name)


def output_variable(traced, name: str) -> int:
    return next(p.var for p in traced.statement.program.outputs if name in p.name)


def changed(proof: Proof, **changes) -> Proof:
    return Proof(replace(proof.claims, **changes), proof.body)


def test_the_honest_step():
    """The step proves and verifies, and it changes the adapter."""
    traced, args, (new, _), proof = honest()
    verify_statement(traced.statement, proof)
    before, after = jax.tree.leaves(args[1].tree), jax.tree.leaves(new.tree)
    assert all(np.any(a != b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", ["0['layers']['q_proj']", "0['embed_tokens']", "1['v_proj']['b']"])
def test_a_changed_weight(name):
    """The step is computed from a weight that is not the committed one."""
    traced, args, _, _ = honest()
    _, proof = prove(traced, args, {input_variable(traced, name): bump()})
    rejected(traced, proof, "linear test")


def test_a_changed_token():
    """The step is computed from a token that is not the committed one."""
    traced, args, _, _ = honest()
    _, proof = prove(traced, args, {input_variable(traced, "2"): bump(2)})
    rejected(traced, proof, "linear test")


def test_a_changed_gradient():
    """Rounded cotangents in the middle of the backward pass are moved by one unit."""
    traced, args, _, _ = honest()
    rounds = variables(traced, "round")
    for var in (rounds[len(rounds) // 2], rounds[-1]):
        _, proof = prove(traced, args, {var: bump()})
        rejected(traced, proof, "linear test")


def test_a_changed_product_inside():
    """A matrix product of the step is wrong in one entry."""
    traced, args, _, _ = honest()
    contractions = variables(traced, "contract")
    _, proof = prove(traced, args, {contractions[len(contractions) // 2]: bump()})
    rejected(traced, proof, "linear test")


def test_a_changed_updated_parameter():
    """The adapter that is sealed at the end is off by one in one entry."""
    traced, args, _, _ = honest()
    _, proof = prove(traced, args, {output_variable(traced, "[0]"): bump()})
    rejected(traced, proof, "linear test")


def test_a_changed_loss():
    """The claimed loss is one unit lower than the computed one."""
    traced, args, (_, loss), _ = honest()
    outputs, proof = prove(traced, args, {output_variable(traced, "[1]"): bump(0, -1.0)})
    assert outputs[1] == loss - 1
    rejected(traced, proof, "linear test")


def test_a_witness_of_another_learning_rate():
    """The claimed rate is public and true, the step is computed with another one."""
    traced, args, _, _ = honest()
    _, proof = prove(traced, args, {input_variable(traced, "3"): bump()})
    rejected(traced, proof, "linear test")


def test_a_learning_rate_changed_after_proving():
    """Every challenge depends on the public inputs, so no opened column is under its root."""
    traced, _, _, proof = honest()
    ((index, rate),) = proof.claims.inputs.items()
    rejected(traced, changed(proof, inputs={index: rate + np.uint16(1)}), "merkle path")


def test_a_loss_changed_after_proving():
    """The same for a public output."""
    traced, _, _, proof = honest()
    ((index, loss),) = proof.claims.outputs.items()
    rejected(traced, changed(proof, outputs={index: loss - np.int32(1)}), "merkle path")


def test_another_adapter_commitment_in_the_claims():
    """The commitment of the old adapter is presented as the one of the new adapter."""
    traced, _, _, proof = honest()
    old = next(c for c in proof.claims.input_commitments if c.dtypes[0] == "int32")
    (new,) = proof.claims.output_commitments
    assert old.shapes == new.shapes
    wrong = changed(proof, output_commitments=[replace(new, root=old.root)])
    rejected(traced, wrong, "merkle path")


def test_claims_survive_their_file():
    """The claims read back from JSON verify; they are what was proved."""
    traced, _, _, proof = honest()
    claims = Claims.from_json(proof.claims.to_json())
    verify_statement(traced.statement, Proof.decode(proof.encode(), claims))


HINTS = ("round", "lookup", "locate", "max", "argmax_bit", "carry", "limb")


def test_the_hints_of_the_step_are_all_attacked():
    program = honest()[0].statement.program
    assert {program.ops[v].kind for v in program.advice} == set(HINTS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", HINTS)
def test_every_hint_of_the_step(kind):
    """Each hint of the step off by one."""
    traced, args, _, _ = honest()
    for var in variables(traced, kind):
        _, proof = prove(traced, args, {var: bump()})
        rejected(traced, proof, "linear test")
