"""Batched tensor claims against sums over all entries."""

from __future__ import annotations

import numpy as np
import pytest
from reference import (
    e_add,
    e_mul,
    e_sum,
    element,
    elements,
    embed,
    multilinear,
    random_field,
)

from argument.parties import run_protocol
from zkjax.argument.sumcheck import idle_factor, sumcheck
from zkjax.argument.tensor_claims import DenseMatrix, Job, TensorRounds, split_axes
from zkjax.field.scalar import Scalar

kappas = pytest.mark.parametrize("kappa", [2, 3])


class Case:
    """A random tensor (2^high, 2^low) of integers with rank-one claims on it."""

    def __init__(self, key: int, high: int, low: int, claims: int, shared: bool, kappa: int, rng):
        self.key, self.high, self.low, self.kappa = key, high, low, kappa
        self.values = rng.integers(-1000, 1001, size=(1 << high, 1 << low))
        lows = [random_field(rng, (kappa, 1 << low)) for _ in range(claims)]
        self.claims = [
            (
                Scalar(element(random_field(rng, kappa))),
                random_field(rng, (kappa, 1 << high)),
                lows[0] if shared else lows[i],
            )
            for i in range(claims)
        ]

    def entries(self):
        return [embed(int(v), self.kappa) for v in self.values.reshape(-1)]

    def weights(self):
        """sum_j c_j high_j (x) low_j as one vector."""
        out = [embed(0, self.kappa)] * self.values.size
        for c, high, low in self.claims:
            outer = [e_mul(c.coefficients, h, v) for h in elements(high) for v in elements(low)]
            out = [e_add(a, b) for a, b in zip(out, outer, strict=True)]
        return out

    def total(self):
        products = (e_mul(w, v) for w, v in zip(self.weights(), self.entries(), strict=True))
        return e_sum(products, self.kappa)

    def job(self) -> Job:
        matrix = DenseMatrix(self.values.astype(np.float64), self.high, self.low, 1000)
        return Job(self.key, self.high, self.low, matrix, self.claims, Scalar(self.total()))

    def local(self, point):
        return [r.coefficients for r in point[len(point) - self.high - self.low :]]


SHAPES = [
    [(0, 0, 1)],
    [(0, 2, 1)],
    [(2, 0, 1)],
    [(1, 2, 3)],
    [(2, 2, 2), (0, 4, 1)],
    [(2, 1, 2), (1, 2, 1), (0, 1, 1), (3, 1, 1)],
    [(0, 1, 1), (1, 0, 2), (0, 0, 1), (2, 2, 1)],
]


def run_cases(cases, kappa: int, claim):
    variables = max(c.high + c.low for c in cases)

    def protocol(party, is_prover):
        prover = TensorRounds([c.job() for c in cases], kappa) if is_prover else None
        start = party.constant(Scalar(claim))
        provers = [prover] if is_prover else []
        point, final = sumcheck(party, start, variables, 2, provers, "round")
        return point, final, prover.finals() if is_prover else None

    return run_protocol(protocol, kappa)


def final_at(cases, point, kappa: int):
    terms = []
    for case in cases:
        local = case.local(point)
        idle = idle_factor(point, case.high + case.low, kappa).coefficients
        weight = multilinear(case.weights(), local, kappa)
        terms.append(e_mul(idle, weight, multilinear(case.entries(), local, kappa)))
    return e_sum(terms, kappa)


@kappas
@pytest.mark.parametrize("shared", [False, True], ids=["own columns", "shared columns"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_batches(kappa, shapes, shared, rng):
    cases = [
        Case(10 + i, high, low, claims, shared, kappa, rng)
        for i, (high, low, claims) in enumerate(shapes)
    ]
    run = run_cases(cases, kappa, e_sum((c.total() for c in cases), kappa))
    point, final, _ = run.results["verifier"]
    assert run.meaning(final) == final_at(cases, point, kappa)
    finals = run.results["prover"][2]
    assert {key: v.coefficients for key, v in finals.items()} == {
        c.key: multilinear(c.entries(), c.local(point), kappa) for c in cases
    }


@kappas
def test_a_false_claim_does_not_match(kappa, rng):
    cases = [Case(0, 2, 1, 2, False, kappa, rng), Case(1, 0, 2, 1, False, kappa, rng)]
    claim = e_add(embed(1, kappa), *(c.total() for c in cases))
    run = run_cases(cases, kappa, claim)
    point, final, _ = run.results["verifier"]
    assert run.meaning(final) != final_at(cases, point, kappa)


@kappas
def test_matrix_products(kappa, rng):
    values = rng.integers(-9, 10, size=(4, 2))
    matrix = DenseMatrix(values.astype(np.float64).reshape(-1), 2, 1, 9)
    low, high = random_field(rng, (kappa, 2)), random_field(rng, (kappa, 4))

    def times(m, vector):
        return [
            e_sum((e_mul(embed(int(v), kappa), w) for v, w in zip(r, vector, strict=True)), kappa)
            for r in m
        ]

    assert elements(matrix.right(low)) == times(values, elements(low))
    assert elements(matrix.left(high)) == times(values.T, elements(high))


@pytest.mark.parametrize("claims", [1, 4])
@pytest.mark.parametrize("logs", [(), (3,), (2, 5), (0, 7, 1), (10, 10), (1, 2, 3, 4)])
def test_split_has_the_least_cost(logs, claims):
    """Rows cost one element a claim, columns one element; no rows cost nothing."""

    def cost(i):
        high, low = sum(logs[:i]), sum(logs[i:])
        return (claims * 2**high if high else 0) + 2**low

    chosen = split_axes(logs, claims)
    assert cost(chosen) == min(map(cost, range(len(logs) + 1)))
    assert all(cost(i) > cost(chosen) for i in range(chosen))
