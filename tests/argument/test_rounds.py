"""The prover's kernels and batches against sums over the cube."""

from __future__ import annotations

import numpy as np
import pytest
from reference import (
    array,
    e_add,
    e_mul,
    e_sub,
    e_sum,
    elements,
    embed,
    multilinear,
    random_field,
)

from argument.parties import run_protocol
from zkjax.argument import pieces
from zkjax.argument.rounds import ProductRounds, Table
from zkjax.argument.sumcheck import idle_factor, sumcheck
from zkjax.field.scalar import Scalar

kappas = pytest.mark.parametrize("kappa", [2, 3])


def at(low, high, x: int):
    """The line through low (at 0) and high (at 1), at x."""
    kappa = len(low)
    return e_add(low, e_mul(embed(x, kappa), e_sub(high, low)))


def product_rule(values):
    return e_mul(*values)


def fraction_rule(values):
    eq, n0, d1, d0, m = values
    return e_mul(eq, e_add(e_mul(n0, d1), e_mul(d0, m)))


def naive_message(tables, degree: int, rule):
    """tables: per factor a list of elements. g(0), g(2), ..., g(degree)."""
    half, kappa = len(tables[0]) // 2, len(tables[0][0])
    return [
        e_sum((rule([at(t[i], t[half + i], x) for t in tables]) for i in range(half)), kappa)
        for x in (0, *range(2, degree + 1))
    ]


def naive_fold(table, r):
    half, kappa = len(table) // 2, len(r)
    weight = e_sub(embed(1, kappa), r)
    return [e_add(e_mul(weight, table[i]), e_mul(r, table[half + i])) for i in range(half)]


def check_table(values: np.ndarray, degree: int, rule: str, rng, folds: int) -> None:
    naive_rule = {"product": product_rule, "fraction": fraction_rule}[rule]
    table, naive = Table.of(values.copy(), rule), [elements(v) for v in values]
    kappa = values.shape[1]
    for _ in range(folds):
        got = table.message(degree)
        assert [g.coefficients for g in got] == naive_message(naive, degree, naive_rule)
        (r,) = elements(random_field(rng, (kappa, 1)))
        table.bind(Scalar(r))
        naive = [naive_fold(t, r) for t in naive]
        assert table.size == len(naive[0])
        assert [elements(v) for v in table.values()] == naive


@pytest.fixture
def pieces_of_16_and_128(monkeypatch):
    monkeypatch.setattr(pieces, "SMALL", 16)
    monkeypatch.setattr(pieces, "sizes", lambda: (128, 16))


@pytest.mark.parametrize("size", [2, 16, 32, 128, 256, 1024])
def test_tables_in_one_piece_and_several(size, rng, pieces_of_16_and_128):
    """Large pieces while there are two, then small ones, then one with a moving end."""
    check_table(random_field(rng, (2, 2, size)), 2, "product", rng, size.bit_length() - 1)


@pytest.mark.parametrize(
    ("size", "count"), [(8, 1), (16, 1), (32, 2), (128, 8), (256, 2), (1024, 8)]
)
def test_pieces(size, count, rng, pieces_of_16_and_128):
    values = random_field(rng, (2, size))
    cut = pieces.cut(values)
    assert len(cut) == count and {p.shape[-1] for p in cut} <= {16, 128}
    assert np.array_equal(pieces.joined(cut)[..., :size], values)
    if count > 1:
        pairs = pieces.halves(cut)
        assert np.array_equal(pieces.joined([low for low, _ in pairs]), values[:, : size // 2])
        assert np.array_equal(pieces.joined([high for _, high in pairs]), values[:, size // 2 :])
    one = pieces.recut([values[:, :128]]) if size >= 128 else cut
    assert {p.shape[-1] for p in one} == {16}
    assert pieces.widths(size) == ([16, 128] if size >= 256 else [16])


@pytest.mark.parametrize(("factors", "degree"), [(1, 1), (2, 2), (2, 3), (3, 3), (4, 4)])
@kappas
def test_factors_and_degrees(kappa, factors, degree, rng):
    check_table(random_field(rng, (factors, kappa, 8)), degree, "product", rng, 3)


@kappas
def test_fraction_rule(kappa, rng):
    check_table(random_field(rng, (5, kappa, 16)), 3, "fraction", rng, 4)


def test_extreme_sums():
    """Sums of 2048 products of the largest elements do not overflow the halves."""
    values = np.full((2, 2, 4096), 2**64 - 2**32, dtype=np.uint64)
    table, naive = Table.of(values), [elements(v) for v in values]
    got = [g.coefficients for g in table.message(2)]
    assert got == naive_message(naive, 2, product_rule)


# Batches --------------------------------------------------------------------------------------


def total(tables, kappa: int):
    return e_sum((e_mul(*column) for column in zip(*tables, strict=True)), kappa)


class Batch:
    """Random instances of products of ``factors`` tables with given numbers of variables."""

    def __init__(self, sizes, factors: int, kappa: int, rng):
        self.kappa, self.sizes, self.factors = kappa, sizes, factors
        self.tables = [
            [elements(random_field(rng, (kappa, 1 << n))) for _ in range(factors)] for n in sizes
        ]
        self.claims = [total(t, kappa) for t in self.tables]

    def rounds(self) -> ProductRounds:
        batch = ProductRounds(self.factors, self.kappa)
        for key, (n, tables, claim) in enumerate(
            zip(self.sizes, self.tables, self.claims, strict=True)
        ):
            stacked = np.stack([array(t, self.kappa) for t in tables])
            batch.add(key, n, Scalar(claim), lambda s=stacked: s.copy())
        return batch

    def values_at(self, key: int, point):
        local = [r.coefficients for r in point[len(point) - self.sizes[key] :]]
        return [multilinear(t, local, self.kappa) for t in self.tables[key]]

    def run(self, claim, variables: int, degree: int):
        def protocol(party, is_prover):
            batch = self.rounds() if is_prover else None
            provers = [batch] if is_prover else []
            start = party.constant(Scalar(claim))
            point, final = sumcheck(party, start, variables, degree, provers, "round")
            return point, final, batch.finals() if is_prover else None

        return run_protocol(protocol, self.kappa)

    def final_at(self, point):
        """sum over instances of (product at the end of the point) * (idle factor)."""
        terms = []
        for key, n in enumerate(self.sizes):
            idle = idle_factor(point, n, self.kappa).coefficients
            terms.append(e_mul(idle, *self.values_at(key, point)))
        return e_sum(terms, self.kappa)


BATCHES = [[3], [3, 3], [1, 3, 2], [0, 2], [2, 2, 2, 1, 1], [4, 0, 0, 4, 2]]


@kappas
@pytest.mark.parametrize("sizes", BATCHES)
@pytest.mark.parametrize("factors", [2, 3])
def test_batches(kappa, sizes, factors, rng):
    batch = Batch(sizes, factors, kappa, rng)
    run = batch.run(e_sum(batch.claims, kappa), max(sizes), factors)
    point, final, _ = run.results["verifier"]
    assert run.meaning(final) == batch.final_at(point)
    finals = run.results["prover"][2]
    for key, n in enumerate(sizes):
        first, *others = batch.values_at(key, point)
        idle = idle_factor(point, n, kappa).coefficients
        expected = [e_mul(idle, first), *others]
        assert [v.coefficients for v in finals[key]] == expected


@kappas
def test_more_variables_than_any_instance(kappa, rng):
    batch = Batch([1, 2], 2, kappa, rng)
    run = batch.run(e_sum(batch.claims, kappa), 4, 2)
    point, final, _ = run.results["verifier"]
    assert run.meaning(final) == batch.final_at(point)


@kappas
def test_a_false_claim_does_not_match(kappa, rng):
    batch = Batch([3, 1], 2, kappa, rng)
    run = batch.run(e_add(embed(1, kappa), *batch.claims), 3, 2)
    point, final, _ = run.results["verifier"]
    assert run.meaning(final) != batch.final_at(point)


@kappas
def test_rounds_that_stop_early(kappa, rng):
    """With ``end`` variables left the batch is silent and keeps its factors."""
    tables = [elements(random_field(rng, (kappa, 4))) for _ in range(2)]
    stacked = np.stack([array(t, kappa) for t in tables])
    batch = ProductRounds(2, kappa, end=3)
    batch.add("only", 5, Scalar(total(tables, kappa)), lambda: stacked.copy())
    challenges = elements(random_field(rng, (kappa, 5)))
    for remaining, r in zip((5, 4, 3, 2, 1), challenges, strict=True):
        got = [g.coefficients for g in batch.message(remaining, 2)]
        if remaining > 3:
            assert got == naive_message(tables, 2, product_rule)
            tables = [naive_fold(t, r) for t in tables]
        else:
            assert got == [embed(0, kappa)] * 2
        batch.bind(Scalar(r))
    assert [v.coefficients for v in batch.finals()["only"]] == [t[0] for t in tables]


def test_an_empty_batch():
    batch = ProductRounds(2, 2)
    assert batch.message(3, 2) == [0, 0] and batch.finals() == {}
