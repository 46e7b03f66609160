"""The sumcheck protocol with naive provers: messages, final claim, batches, false claims."""

from __future__ import annotations

from itertools import product

import pytest
from foreseen import HOW, foreseen
from reference import (
    e_add,
    e_mul,
    e_sub,
    e_sum,
    elements,
    embed,
    inv,
    multilinear,
    random_field,
)

from argument.parties import run_protocol
from zkjax.argument.sumcheck import idle_factor, lagrange, point_array, sumcheck
from zkjax.field.scalar import Scalar

kappas = pytest.mark.parametrize("kappa", [2, 3])


class NaiveProduct:
    """sum_x prod_f T_f(x) by evaluating every multilinear extension from scratch."""

    def __init__(self, tables, kappa: int):
        self.tables, self.kappa, self.bound = tables, kappa, []
        self.vars = (len(tables[0]) - 1).bit_length()

    def at(self, point):
        return e_mul(*(multilinear(t, point, self.kappa) for t in self.tables))

    def total(self):
        return e_sum((e_mul(*column) for column in zip(*self.tables, strict=True)), self.kappa)

    def message(self, remaining: int, degree: int):
        assert remaining == self.vars - len(self.bound)
        out = []
        for x in (0, *range(2, degree + 1)):
            head = [*self.bound, embed(x, self.kappa)]
            rest = product([embed(0, self.kappa), embed(1, self.kappa)], repeat=remaining - 1)
            out.append(Scalar(e_sum((self.at([*head, *tail]) for tail in rest), self.kappa)))
        return out

    def bind(self, r: Scalar) -> None:
        self.bound.append(r.coefficients)


@kappas
@pytest.mark.parametrize("degree", [1, 2, 3, 5])
def test_lagrange(kappa, degree, rng):
    for r in elements(random_field(rng, (kappa, 3))):
        for j, got in enumerate(lagrange(Scalar(r), degree)):
            expected = embed(1, kappa)
            for k in range(degree + 1):
                if k != j:
                    factor = e_sub(r, embed(k, kappa))
                    expected = e_mul(
                        expected, factor, embed(inv((j - k) % (2**64 - 2**32 + 1)), kappa)
                    )
            assert got.coefficients == expected
    for node in range(degree + 1):
        assert lagrange(Scalar.of(node, kappa), degree) == [
            int(j == node) for j in range(degree + 1)
        ]


def prove(kappa: int, tables, claim, degree: int):
    def protocol(party, is_prover):
        provers = [NaiveProduct(tables, kappa)] if is_prover else []
        start = party.constant(Scalar(claim))
        variables = (len(tables[0]) - 1).bit_length()
        return sumcheck(party, start, variables, degree, provers, "round")

    return run_protocol(protocol, kappa)


@kappas
@pytest.mark.parametrize(("variables", "factors"), [(0, 2), (1, 1), (3, 2), (2, 3)])
def test_final_claim_is_the_value_at_the_point(kappa, variables, factors, rng):
    tables = [elements(random_field(rng, (kappa, 1 << variables))) for _ in range(factors)]
    naive = NaiveProduct(tables, kappa)
    run = prove(kappa, tables, naive.total(), factors)
    point, final = run.results["verifier"]
    assert len(point) == variables and point == run.results["prover"][0]
    assert run.meaning(final) == naive.at([r.coefficients for r in point])
    assert run.planner.singles == variables * factors


@kappas
def test_a_degree_above_the_true_one_changes_nothing(kappa, rng):
    tables = [elements(random_field(rng, (kappa, 4))) for _ in range(2)]
    naive = NaiveProduct(tables, kappa)
    run = prove(kappa, tables, naive.total(), 3)
    point, final = run.results["verifier"]
    assert run.meaning(final) == naive.at([r.coefficients for r in point])


@kappas
def test_a_false_claim_ends_in_a_false_final_claim(kappa, rng):
    tables = [elements(random_field(rng, (kappa, 8))) for _ in range(2)]
    naive = NaiveProduct(tables, kappa)
    for error in (embed(1, kappa), embed(-1, kappa), (0,) * (kappa - 1) + (1,)):
        run = prove(kappa, tables, e_add(naive.total(), error), 2)
        point, final = run.results["verifier"]
        assert run.meaning(final) != naive.at([r.coefficients for r in point])


@kappas
def test_a_false_round_ends_in_a_false_final_claim(kappa, rng):
    tables = [elements(random_field(rng, (kappa, 8))) for _ in range(2)]

    class Liar(NaiveProduct):
        def message(self, remaining, degree):
            honest = super().message(remaining, degree)
            return [honest[0] + 1, *honest[1:]] if remaining == 2 else honest

    def protocol(party, is_prover):
        start = party.constant(Scalar(NaiveProduct(tables, kappa).total()))
        return sumcheck(party, start, 3, 2, [Liar(tables, kappa)] if is_prover else [], "round")

    run = run_protocol(protocol, kappa)
    point, final = run.results["verifier"]
    honest = NaiveProduct(tables, kappa).at([r.coefficients for r in point])
    assert run.meaning(final) != honest


@kappas
def test_idle_factor_and_point_array(kappa, rng):
    point = elements(random_field(rng, (kappa, 4)))
    scalars = [Scalar(r) for r in point]
    assert elements(point_array(scalars, kappa)) == point
    assert point_array([], kappa).shape == (kappa, 0)
    one = embed(1, kappa)
    for used in range(5):
        expected = e_mul(one, *(e_sub(one, r) for r in point[: 4 - used]))
        assert idle_factor(scalars, used, kappa).coefficients == expected


class Foreseeing(NaiveProduct):
    """Repairs a claim that is wrong by ``error`` in the first round whose challenge it knows."""

    def __init__(self, tables, kappa: int, error: Scalar, how: str):
        super().__init__(tables, kappa)
        self.error, self.how = error, how

    def message(self, remaining, degree):
        honest = super().message(remaining, degree)
        self.basis = lambda r: lagrange(r, degree)
        if self.how == "equal" and not self.bound:
            return honest
        r = Scalar(self.bound[-1]) if self.bound else Scalar.of(1, self.kappa)
        # e(X) = c (X - r) with e(0) + e(1) = error and e(r) = 0
        c = self.error * (1 - r - r).inverse()
        self.error = Scalar.of(0, self.kappa)
        nodes = (0, *range(2, degree + 1))
        return [g + c * (x - r) for g, x in zip(honest, nodes, strict=True)]

    def bind(self, r):
        self.error = self.error * self.basis(r)[1]
        super().bind(r)


@kappas
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("degree", [2, 3])
def test_only_a_foreseen_challenge_lets_a_false_claim_pass(kappa, how, degree, rng):
    """A round polynomial that is wrong everywhere but at the challenge the prover expects."""
    tables = [elements(random_field(rng, (kappa, 8))) for _ in range(2)]
    naive, error = NaiveProduct(tables, kappa), Scalar(range(5, 5 + kappa))

    def protocol(party, is_prover):
        provers = [Foreseeing(tables, kappa, error, how)] if is_prover else []
        start = party.constant(Scalar(naive.total()) + error)
        return sumcheck(party, start, 3, degree, provers, "round")

    def true_at_the_end():
        run = run_protocol(protocol, kappa)
        point, final = run.results["verifier"]
        return run.meaning(final) == naive.at([r.coefficients for r in point])

    with foreseen("round", how):
        assert true_at_the_end()
    assert not true_at_the_end()
