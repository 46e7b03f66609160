"""Every challenge of a whole proof: its term in the budget, and the lie that only it stops."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from foreseen import foreseen

import zkjax
from soundness.cheating import (
    bump,
    messages,
    multiplicities,
    prove,
    rejected,
    trace_call,
    variables,
)
from soundness.programs import SMALL, every_hint, every_hint_input
from zkjax.argument.budget import PROFILES, query_error_bits
from zkjax.argument.party import Party, Planner, Verifier
from zkjax.argument.transcript import Transcript, VerifierTranscript
from zkjax.field.goldilocks import P
from zkjax.program import products
from zkjax.proof import Proof
from zkjax.protocol import Setup
from zkjax.verify import verify_statement

# The budget ----------------------------------------------------------------------------------


def two_codes(x):
    """Two commitments of different codes, a reshape that is no rank-one operation, a product."""
    small, large = x[0].astype(jnp.float64), x[1].astype(jnp.float64)
    bent = (small * small).reshape(3, 4).astype(jnp.int16)
    return bent, jnp.sum(large * large, axis=0).astype(jnp.int32)


def arguments(name: str) -> tuple:
    if name == "every_hint":
        return every_hint, every_hint_input(), "s100"
    if name == "two_codes":
        return (
            two_codes,
            (np.arange(12, dtype=np.int8).reshape(4, 3), np.ones((300, 7), np.int8)),
            "",
        )
    fn, x = SMALL[name]
    return fn, x, "s128" if name == "embedded" else "s100"


@cache
def proved(name: str):
    """A traced program and a proof of it."""
    fn, x, profile = arguments(name)
    if name == "two_codes":
        sealed = tuple(zkjax.seal(v, openings=n) for v, n in zip(x, (1, 3), strict=True))
        traced = trace_call(lambda a, b: fn((a, b)), sealed)
        return traced, prove(traced, sealed)[1]
    sealed = (zkjax.seal(x, openings=1, profile=profile),)
    traced = trace_call(fn, sealed)
    return traced, prove(traced, sealed, profile=profile)[1]


def verified(name: str):
    """The budget, all squeezes, all messages and the number of constraints of a verification."""
    traced, proof = proved(name)
    squeezes, messages, constraints = Counter(), Counter(), []
    squeeze, read, require = Transcript.squeeze, VerifierTranscript.read, Party.require_zero

    def squeezed(self, kind, n):
        if isinstance(self, VerifierTranscript):
            squeezes[kind if not kind.startswith("columns ") else "columns"] += 1
        return squeeze(self, kind, n)

    def received(self, kind, n):
        messages[kind] += 1
        return read(self, kind, n)

    def required(self, expression, label):
        if isinstance(self.transcript, VerifierTranscript):
            constraints.append(label)
        require(self, expression, label)

    with (
        mock.patch.object(Transcript, "squeeze", squeezed),
        mock.patch.object(VerifierTranscript, "read", received),
        mock.patch.object(Party, "require_zero", required),
    ):
        budget = verify_statement(traced.statement, proof)
    return budget, squeezes, messages, len(constraints)


def padded(shape) -> int:
    return sum(math.ceil(math.log2(n)) for n in shape)


@pytest.mark.parametrize("name", [*SMALL, "two_codes", "every_hint"])
def test_every_challenge_has_its_term(name):
    """The budget against numerators counted from the program, the squeezes and the messages."""
    budget, squeezes, messages, constraints = verified(name)
    traced, proof = proved(name)
    program, profile = traced.statement.program, PROFILES[proof.claims.profile]
    assert set(budget.terms) == set(squeezes)
    leaves = sum(1 << padded(program.shape(r.vars[0])) for r in program.lookups)
    leaves += sum(1 << padded((t.rows,)) for t in program.tables)
    shapes = {program.shape(v) for v in [*program.zeros, *(p.var for p in program.outputs)]}
    depth = math.ceil(math.log2(leaves)) if leaves else 0
    bits = [program.ops[v].inputs for v in variables(traced, "onehot")]
    rounds = [padded(program.shape(inputs[0])) for inputs in bits]
    assert sum(rounds) == squeezes["onehot round"]
    setup = Setup(traced.statement, proof.claims)
    codes = {t.layout.code for t in setup.tableaux}
    planner = Planner(profile.kappa)
    setup.reduce(planner)
    pad_code = setup.pad_code((planner.singles, planner.triples))
    if name == "two_codes":
        assert len(codes) == 2 and variables(traced, "reshape")
    if leaves:
        assert squeezes["lookup combiner"] == squeezes["lookup branch"] == depth
        assert squeezes["lookup layer"] == depth * (depth - 1) // 2
    numerators = {
        "lookup challenge": leaves * (1 + max([0, *(t.width for t in program.tables)])),
        "lookup combiner": depth,
        "lookup layer": 3 * squeezes["lookup layer"],
        "lookup branch": depth,
        "zero combiner": len(program.zeros) + len(program.outputs),
        "zero point": sum(padded(s) for s in shapes),
        "claim combiner": messages["claim"],
        "product round": 3 * squeezes["product round"],
        "onehot round": sum((len(b) + 1) * n for b, n in zip(bits, rounds, strict=True)),
        "constraint combiner": constraints,
        "opening round": 2 * squeezes["opening round"],
        "row combiner": sum(c.length for c in codes),
        "pad row combiner": pad_code.length,
        "product combiner": 1,
        "linear combiner": 1,
    }
    assert setup.grinding == 0
    expected = {k: n / P**profile.kappa for k, n in numerators.items() if k in budget.terms}
    opened = messages["opened columns"]
    assert opened == len(setup.tableaux) + len(codes) + 1
    queries = {}
    for code in {*codes, pad_code}:
        t = next(
            t
            for t in range(1, code.length)
            if query_error_bits(code.length, code.dimension, t) >= profile.bits + 3
        )
        queries[code] = query_error_bits(code.length, code.dimension, t)
    expected["columns"] = 2.0 ** -min(queries.values())
    assert set(expected) == set(budget.terms)
    for kind, error in expected.items():
        assert 2.0 ** -budget.terms[kind] == pytest.approx(error, rel=1e-6, abs=0), kind
    assert 2.0**-budget.bits == pytest.approx(sum(expected.values()), rel=1e-6, abs=0)


def test_the_prover_s_budget_is_the_verifier_s():
    traced, proof = proved("every_hint")
    assert proof.report["soundness_bits"] == verify_statement(traced.statement, proof).bits


def test_proof_of_work_counts_for_the_lookup_challenge_alone():
    """With more leaves than the field allows for, the missing bits are ground."""
    traced, proof = proved("rounded")
    setup = Setup(traced.statement, proof.claims)
    planner = Planner(2)
    setup.reduce(planner)
    pads = setup.pads((planner.singles, planner.triples), None)
    plain = setup.budget(planner, pads).terms
    with mock.patch.object(Setup, "grinding", 5):
        ground = setup.budget(planner, pads).terms
    changed = {k: ground[k] - plain[k] for k in plain if ground[k] != plain[k]}
    assert changed == {"lookup challenge": pytest.approx(5.0)}


def test_proof_of_work_is_demanded():
    """Where it counts, a proof holds it right before the lookup challenge; another is refused."""
    fn, x = SMALL["rounded"]
    sealed = (zkjax.seal(x, openings=1),)
    traced = trace_call(fn, sealed)
    with mock.patch.object(Setup, "grinding", 8):
        _, proof = prove(traced, sealed)
        sent = messages(traced, proof)
        place = [kind for kind, _, _ in sent].index("grinding nonce")
        assert sent[place - 1][0] == "pad commitment" and sent[place + 1][0] == "lookup root"
        _, start, size = sent[place]
        nonce = int.from_bytes(proof.body[start : start + size], "little") ^ 1
        changed = nonce.to_bytes(size, "little")
        body = proof.body[:start] + changed + proof.body[start + size :]
        rejected(traced, Proof(proof.claims, body), "grinding")


def test_all_nonces_of_a_proof_differ():
    """Columns of all trees: nonces that are equal would tell which columns are."""
    from zkjax.argument.tableau import Tableau

    nonces, build = [], Tableau.__init__

    def recorded(self, rows, log_length, given):
        nonces.extend(n.tobytes() for n in given)
        build(self, rows, log_length, given)

    fn, x = SMALL["rounded"]
    with mock.patch.object(Tableau, "__init__", recorded):
        sealed = zkjax.seal(x, openings=1)
        zkjax.prove(fn)(sealed)
    assert len(nonces) > 1000 and len(set(nonces)) == len(nonces)


# Lies that a challenge stops -----------------------------------------------------------------


def stopped_by(kind: str, how: str, traced, args, changes, only=None) -> None:
    """Proved and accepted if the challenges are foreseen, refused otherwise."""
    with foreseen(kind, how, only):
        verify_statement(traced.statement, prove(traced, args, changes)[1])
    rejected(traced, prove(traced, args, changes)[1])


X = np.array([3, -5, 7, 11], dtype=np.int8)


def test_outputs_whose_errors_cancel():
    """Two outputs at the same point, wrong by +1 and -1."""

    def two(x):
        v = x.astype(jnp.float64)
        return (v * 2.0).astype(jnp.int16), (v * 3.0).astype(jnp.int16)

    sealed = (zkjax.seal(X, openings=9),)
    traced = trace_call(two, sealed)
    first, second = (p.var for p in traced.statement.program.outputs)
    stopped_by("zero combiner", "one", traced, sealed, {first: bump(1), second: bump(1, -1.0)})


@pytest.mark.parametrize("sealed_outputs", [False, (False, True)], ids=["public", "sealed"])
def test_an_output_that_cancels_a_zero_relation(sealed_outputs):
    """The maximum is one more than any entry, so a zero relation is 1; an output takes it back."""

    def two(x):
        v = x.astype(jnp.float64)
        return zkjax.fixed.max(v, 10).astype(jnp.int16), jnp.sum(v).astype(jnp.int16)

    sealed = (zkjax.seal(X, openings=9),)
    traced = trace_call(two, sealed, sealed_outputs)
    (maximum,), total = variables(traced, "max"), traced.statement.program.outputs[1].var
    stopped_by("zero combiner", "one", traced, sealed, {maximum: bump(), total: bump()})


@pytest.mark.parametrize(("how", "errors"), [("one", {0: 1.0}), ("equal", {1: 1.0, 2: -1.0})])
def test_an_output_that_is_right_at_the_foreseen_point(how, errors):
    """Wrong in entries that the point does not weigh, or weighs alike."""

    def double(x):
        return (x.astype(jnp.float64) * 2.0).astype(jnp.int16)

    sealed = (zkjax.seal(X, openings=9),)
    traced = trace_call(double, sealed)
    (output,) = traced.statement.program.outputs

    def change(value):
        for place, by in errors.items():
            value = bump(place, by)(value)
        return value

    stopped_by("zero point", how, traced, sealed, {output.var: change})


@pytest.mark.parametrize(("only", "name"), [(0, "alpha"), (1, "beta")])
def test_a_value_that_another_table_holds(only, name):
    """A remainder out of its table counts as a row of another table with the same fraction.

    With beta = 1 the fingerprint is v + t + 1, so v of table t is v - 1 of table t + 1. With alpha
    = 1 a fraction is 1 / (1 - v - beta (t + 1)), and (s + 1) fractions of v in table s are (t + 1)
    fractions of w in table t if (1 - v) / (s + 1) = (1 - w) / (t + 1).
    """

    def eighth(x):
        return zkjax.fixed.round(x.astype(jnp.float64) * 0.125, 0, 7).astype(jnp.int16)

    sealed = (zkjax.seal(np.full(4, 6, dtype=np.int8), openings=9),)
    traced = trace_call(eighth, sealed)
    tables, (rounding,) = traced.statement.program.tables, variables(traced, "round")
    mine = next(t for t, table in enumerate(tables) if table.rows == 8)
    value = (6 + 4) % 8 + 8  # the remainder, if the result is one too small
    if name == "beta":
        wrong, rows = 1, [(t, value + mine - t, 1) for t in range(len(tables))]
    else:
        assert (value - 1) % (mine + 1) == 0
        scale = (value - 1) // (mine + 1)
        wrong, rows = mine + 1, [(t, 1 + scale * (t + 1), t + 1) for t in range(len(tables))]
    other, key, count = next(r for r in rows if r[0] != mine and 0 <= r[1] < tables[r[0]].rows)
    honest = multiplicities

    def counts(program, values):
        out = honest(program, values)
        out[other][key] += count
        return out

    def lower(result):
        result[:wrong] -= 1.0
        return result

    with mock.patch("soundness.cheating.multiplicities", counts):
        stopped_by("lookup challenge", "one", traced, sealed, {rounding: lower}, only)


def test_claims_on_products_whose_errors_cancel():
    """Two products of one level are wrong by +1 and -1 at the same place."""

    def two(x, y):
        v, w = x.astype(jnp.float64), y.astype(jnp.float64)
        return (v * w).astype(jnp.int16), (v * v).astype(jnp.int16)

    sealed = tuple(zkjax.seal(v, openings=9) for v in (X, X[::-1].copy()))
    traced = trace_call(two, sealed)
    first, second = variables(traced, "multiply")
    stopped_by("claim combiner", "one", traced, sealed, {first: bump(2), second: bump(2, -1.0)})


def test_every_level_has_a_combiner_of_its_own():
    """Claims are combined with the powers of a challenge that is drawn after they are sent."""
    traced, proof = proved("every_hint")
    combined, drawn = [], []
    challenge, sumcheck = Transcript.challenge, products.sumcheck

    def recorded(self, kind, degree=None):
        value = challenge(self, kind, degree)
        if kind == "claim combiner" and isinstance(self, VerifierTranscript):
            drawn.append(value)
        return value

    def observed(party, claim, *rest):
        if isinstance(party, Verifier):
            combined.append([c for _, c in party.tape._parents[claim.index]])
        return sumcheck(party, claim, *rest)

    with (
        mock.patch.object(Transcript, "challenge", recorded),
        mock.patch.object(products, "sumcheck", observed),
    ):
        verify_statement(traced.statement, proof)
    assert len(drawn) == len(combined) == len(set(drawn)) > 3
    for c, coefficients in zip(drawn, combined, strict=True):
        assert coefficients == [c ** (i + 1) for i in range(len(coefficients))]
    assert max(map(len, combined)) > 1


def test_all_pads_and_all_blinding_of_a_proof_differ():
    """Two messages under one pad tell the difference of two private values, though each of them is
    uniform; so do two columns under one blinding.
    """
    from zkjax.argument.party import Prover
    from zkjax.argument.tableau import Tableau

    pads, rows, build, start = {}, [], Tableau.__init__, Prover.__init__

    def recorded(self, given, *rest):
        rows.append(given)
        build(self, given, *rest)

    def started(self, transcript, given, *rest):
        pads.update(given)
        start(self, transcript, given, *rest)

    fn, x = SMALL["rounded"]
    recording = mock.patch.object(Tableau, "__init__", recorded)
    with recording, mock.patch.object(Prover, "__init__", started):
        sealed = zkjax.seal(x, openings=1)
        zkjax.prove(fn)(sealed)
    assert all(pads.values())
    random = [c for kind in ("single", "x", "y") for pad in pads[kind] for c in pad.coefficients]
    random += rows[0][:, sealed.commitment.code.row :].reshape(-1).tolist()
    assert 0 not in random and len(set(random)) == len(random)
