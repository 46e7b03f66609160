"""Padded messages, linear forms on the tape, and product triples."""

from __future__ import annotations

import numpy as np
import pytest
from reference import e_add, e_mul, e_sub, elements, embed, ints, random_field

from argument.parties import LABEL, make_pads, run_protocol
from zkjax.argument.party import Planner, Prover, pad_array, pad_rows
from zkjax.argument.transcript import ProverTranscript
from zkjax.field.scalar import Scalar

kappas = pytest.mark.parametrize("kappa", [2, 3])


def values(rng, kappa: int, n: int) -> list[Scalar]:
    return [Scalar(v) for v in elements(random_field(rng, (kappa, n)))]


@kappas
def test_messages_are_sent_minus_pads(kappa, rng):
    secret = values(rng, kappa, 3)
    run = run_protocol(lambda party, _: party.send("m", 3, lambda: secret), kappa)
    proof = np.frombuffer(run.prover.transcript.proof, dtype="<u8").reshape(kappa, 3)
    for i, (value, sent) in enumerate(zip(secret, elements(proof), strict=True)):
        assert sent == e_sub(value.coefficients, run.pads["single"][i].coefficients)
        for name in ("prover", "verifier"):
            expression = run.results[name][i]
            assert expression.known.coefficients == sent
            assert run.meaning(expression, getattr(run, name)) == value.coefficients
        assert run.results["prover"][i].value == value
        assert run.results["verifier"][i].value is None


@kappas
def test_arithmetic_of_expressions(kappa, rng):
    a, b = values(rng, kappa, 2)
    c = values(rng, kappa, 1)[0]

    def protocol(party, _):
        x, y = party.send("m", 2, lambda: [a, b])
        return [
            x + y,
            x - y,
            x * c,
            x * -3,
            x + c,
            x - c,
            5 + y,
            party.tape.combine([(x, c), (y, -1), (x, 2)]),
            party.tape.combine([]),
            party.constant(7) + x - x,
        ]

    run = run_protocol(protocol, kappa)
    x, y, z = a.coefficients, b.coefficients, c.coefficients
    expected = [
        e_add(x, y),
        e_sub(x, y),
        e_mul(x, z),
        e_mul(x, embed(-3, kappa)),
        e_add(x, z),
        e_sub(x, z),
        e_add(y, embed(5, kappa)),
        e_add(e_mul(x, z), e_sub(e_mul(x, embed(2, kappa)), y)),
        embed(0, kappa),
        embed(7, kappa),
    ]
    assert [run.meaning(e) for e in run.results["verifier"]] == expected
    assert [e.value.coefficients for e in run.results["prover"]] == expected


@kappas
def test_products(kappa, rng):
    a, b = values(rng, kappa, 2)

    def protocol(party, _):
        x, y, xy = party.send_product("p", lambda: (a, b))
        party.require_zero(xy - party.constant(a * b), "right product")
        party.require_zero(xy - party.constant(a * b + 1), "wrong product")
        return x, y, xy

    run = run_protocol(protocol, kappa)
    meanings = [run.meaning(e) for e in run.results["verifier"]]
    a, b = a.coefficients, b.coefficients
    assert meanings == [a, b, e_mul(a, b)]
    assert run.violated() == ["wrong product"]
    assert (run.planner.singles, run.planner.triples, run.planner.messages) == (0, 1, 1)


@kappas
def test_multiply_ties_the_new_factors_to_the_old(kappa, rng):
    a, b = values(rng, kappa, 2)

    def protocol(party, _):
        x, y = party.send("m", 2, lambda: [a, b])
        return party.multiply("again", x, y)

    run = run_protocol(protocol, kappa)
    assert run.meaning(run.results["verifier"]) == e_mul(a.coefficients, b.coefficients)
    assert run.violated() == []
    names = [name for _, name in run.verifier.tape.constraints]
    assert names == ["again", "again"]

    def cheating(party, is_prover):
        x, y = party.send("m", 2, lambda: [a, b])
        if is_prover:
            x.value = x.value + 1
        return party.multiply("again", x, y)

    assert run_protocol_unchecked(cheating, kappa).violated() == ["again"]


def run_protocol_unchecked(protocol, kappa):
    """``run_protocol`` for a prover whose recorded values are false, as a liar's are."""

    def without_values(party, is_prover):
        result = protocol(party, is_prover)
        for expression, _ in party.tape.constraints:
            expression.value = None
        return result

    return run_protocol(without_values, kappa)


@kappas
def test_functionals(kappa, rng):
    tensor = np.array([[3, -4, 5], [0, 7, 2**40]])
    weights = (random_field(rng, (kappa, 2)), random_field(rng, (kappa, 3)))

    def protocol(party, _):
        one, two = party.functional(4, weights), party.functional(4, weights)
        assert one is two
        other = party.functional(4, tuple(w.copy() for w in weights))
        party.require_zero(one - other, "same values")
        return one

    run = run_protocol(protocol, kappa, {4: tensor})
    rows, columns = (elements(w) for w in weights)
    expected = embed(0, kappa)
    for i in range(2):
        for j in range(3):
            term = e_mul(rows[i], columns[j], embed(int(tensor[i, j]), kappa))
            expected = e_add(expected, term)
    assert run.meaning(run.results["verifier"]) == expected
    assert run.results["prover"].value.coefficients == expected
    assert run.violated() == []


def test_gradient_follows_shared_nodes():
    """Every path from a root to a leaf counts: 2^10 of them in a chain of doublings."""
    planner = Planner(2)
    (x,) = planner.send("m", 1, None)
    e = x
    for _ in range(10):
        e = e + e
    roots = [(e, Scalar.of(1, 2)), (x, Scalar((5, 9)))]
    assert planner.tape.gradient(roots) == {("single", 0): Scalar((2**10 + 5, 9))}


def test_challenges_are_those_of_the_transcript():
    prover = Prover(ProverTranscript(LABEL, 2), make_pads(2, 0, 0), None)
    plain = ProverTranscript(LABEL, 2)
    assert prover.challenges("c", 3) == [plain.challenge("c") for _ in range(3)]
    prover.grind(4)
    plain.grind(4)
    assert prover.transcript.proof == plain.proof


def test_pad_rows():
    assert pad_rows((9, 5), 4) == {"x": (0, 2), "y": (2, 2), "xy": (4, 2), "single": (6, 3)}
    assert pad_rows((0, 0), 4) == {"x": (0, 0), "y": (0, 0), "xy": (0, 0), "single": (0, 0)}
    assert pad_rows((8, 4), 4) == {"x": (0, 1), "y": (1, 1), "xy": (2, 1), "single": (3, 2)}


@kappas
def test_pad_array(kappa, rng):
    pads = values(rng, kappa, 5)
    out = pad_array(pads, 2, 4, kappa)
    assert out.shape == (kappa, 2, 4)
    flat = elements(out.reshape(kappa, 8))
    assert flat == [p.coefficients for p in pads] + [embed(0, kappa)] * 3
    assert ints(pad_array([], 1, 4, kappa)) == [0] * 4 * kappa
