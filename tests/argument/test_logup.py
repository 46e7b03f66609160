"""The lookup argument against sums of fractions in E, and its failures."""

from __future__ import annotations

from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
from foreseen import foreseen
from reference import (
    array,
    e_add,
    e_inv,
    e_mul,
    e_neg,
    e_sub,
    e_sum,
    element,
    elements,
    embed,
    eq_weight,
    multilinear,
    random_field,
    uints,
)

from argument.parties import run_protocol
from zkjax.argument import logup
from zkjax.argument.sumcheck import lagrange
from zkjax.argument.transcript import Transcript
from zkjax.field.scalar import Scalar

kappas = pytest.mark.parametrize("kappa", [2, 3])


def fraction_sum(numerators, denominators, kappa: int):
    terms = (e_mul(n, e_inv(d)) for n, d in zip(numerators, denominators, strict=True) if any(n))
    return e_sum(terms, kappa)


@pytest.mark.parametrize(
    "logs", [[0], [3], [1, 4, 2], [2, 2, 2], [0, 0, 0, 5], [3, 0, 3, 1, 1], [16, 4]]
)
def test_layout(logs):
    blocks, log_size = logup.place_blocks(logs)
    assert [s.log for s in blocks] == logs
    ranges = sorted((s.offset, s.offset + (1 << s.log)) for s in blocks)
    assert ranges[0][0] == 0
    assert all(a[1] == b[0] for a, b in pairwise(ranges))
    assert all(s.offset % (1 << s.log) == 0 for s in blocks)
    assert ranges[-1][1] <= 1 << log_size
    assert log_size == 1 or ranges[-1][1] > 1 << (log_size - 1)


@kappas
@pytest.mark.parametrize("log_size", [0, 1, 4])
def test_tree(kappa, log_size, rng):
    n, d = (random_field(rng, (kappa, 1 << log_size)) for _ in range(2))
    tree = logup.Tree(n, d)
    numerator, denominator = (v.coefficients for v in tree.root)
    expected = fraction_sum(elements(n), elements(d), kappa)
    assert e_mul(numerator, e_inv(denominator)) == expected
    assert denominator == e_mul(embed(1, kappa), *elements(d))
    layers = [tree.layer(k) for k in range(log_size + 1)]
    assert [layer[1].shape[1] for layer in layers] == [1 << k for k in range(log_size + 1)]
    for above, below in pairwise(layers):
        half = above[0].shape[1]
        ns, ds = elements(below[0]), elements(below[1])
        for i in range(half):
            a, b = i, half + i
            assert elements(above[1])[i] == e_mul(ds[a], ds[b])
            cross = e_add(e_mul(ns[a], ds[b]), e_mul(ns[b], ds[a]))
            assert elements(above[0])[i] == cross


def test_large_layers_on_the_device(rng):
    """Above 1,024 leaves the layers come from a compiled kernel."""
    n, d = (random_field(rng, (2, 2048)) for _ in range(2))
    tree = logup.Tree(n, d)
    assert len(tree.layers[-1]) == 2
    numerator, denominator = (v.coefficients for v in tree.root)
    assert denominator == e_mul(*elements(d))
    left, right = ([elements(x)[k] for k in (5, 1029)] for x in tree.layer(11))
    cross = e_add(e_mul(left[0], right[1]), e_mul(left[1], right[0]))
    assert elements(tree.layer(10)[0])[5] == cross
    parts = [logup.Tree(n[:, k::512].copy(), d[:, k::512].copy()).root for k in range(512)]
    total = e_sum((e_mul(a.coefficients, e_inv(b.coefficients)) for a, b in parts), 2)
    assert e_mul(numerator, e_inv(denominator)) == total


@kappas
def test_eq_at_and_block_weight(kappa, rng):
    a, b = (elements(random_field(rng, (kappa, 3))) for _ in range(2))
    one = embed(1, kappa)
    expected = e_mul(
        *(
            e_add(e_mul(x, y), e_mul(e_sub(one, x), e_sub(one, y)))
            for x, y in zip(a, b, strict=True)
        )
    )
    points = [[Scalar(x) for x in p] for p in (a, b)]
    assert logup.eq_at(*points, kappa).coefficients == expected
    for log in range(4):
        for index in range(1 << (3 - log)):
            bits = [(index >> (2 - log - i)) & 1 for i in range(3 - log)]
            weight = eq_weight(a[: 3 - log], bits, kappa)
            block = logup.Block(index << log, log)
            assert logup.block_weight(block, points[0], kappa).coefficients == weight


@kappas
@pytest.mark.parametrize("width", [1, 2, 3])
def test_fingerprints(kappa, width, rng):
    columns = [random_field(rng, 4) for _ in range(width)]
    beta, tag = element(random_field(rng, kappa)), 6
    powers = [embed(1, kappa)]
    for _ in range(width):
        powers.append(e_mul(powers[-1], beta))
    assert [p.coefficients for p in logup.fingerprint_powers(Scalar(beta), width)] == powers
    for i, got in enumerate(elements(logup.fingerprints(columns, tag, Scalar(beta)))):
        entries = [*(embed(int(c[i]), kappa) for c in columns), embed(tag, kappa)]
        assert got == e_sum((e_mul(p, v) for p, v in zip(powers, entries, strict=True)), kappa)


# The protocol ---------------------------------------------------------------------------------

TABLE = [(1, 10), (2, 20), (3, 30), (9, 90)]
LOOKERS = [[1, 1, 9, 3], [2, 3], [9, 1]]


class Instance:
    """Three lookers and one table of pairs, as leaves; ``multiplicities`` may be wrong."""

    def __init__(self, kappa: int, rng, lookers=LOOKERS, extra=0, alpha=None):
        self.kappa = kappa
        self.beta = element(random_field(rng, kappa))
        self.alpha = alpha or element(random_field(rng, kappa))
        pairs = dict(TABLE)
        counts = [sum(looker.count(a) for looker in lookers) for a, _ in TABLE]
        counts[1] += extra
        blocks = [
            ([embed(1, kappa)] * len(x), [self.fingerprint(a, pairs.get(a, 0)) for a in x])
            for x in lookers
        ]
        blocks.append(
            (
                [e_neg(embed(c, kappa)) for c in counts],
                [self.fingerprint(a, b) for a, b in TABLE],
            )
        )
        logs = [(len(n) - 1).bit_length() for n, _ in blocks]
        placed, self.log_size = logup.place_blocks(logs)
        size = 1 << self.log_size
        self.numerators = [embed(0, kappa)] * size
        self.denominators = [embed(1, kappa)] * size
        for block, (n, f) in zip(placed, blocks, strict=True):
            where = slice(block.offset, block.offset + len(n))
            self.numerators[where] = n
            self.denominators[where] = [e_sub(self.alpha, x) for x in f]

    def fingerprint(self, a: int, b: int):
        tag = e_mul(self.beta, self.beta, embed(1, self.kappa))
        return e_add(embed(a, self.kappa), e_mul(self.beta, embed(b, self.kappa)), tag)

    def sum(self):
        return fraction_sum(self.numerators, self.denominators, self.kappa)

    def run(self, tree_class=logup.Tree):
        def protocol(party, is_prover):
            arrays = (array(x, self.kappa) for x in (self.numerators, self.denominators))
            tree = tree_class(*arrays) if is_prover else None
            return logup.reduce_tree(party, self.log_size, tree)

        return run_protocol(protocol, self.kappa)

    def leaf_claims(self, point):
        local = [r.coefficients for r in point]
        return tuple(
            multilinear(x, local, self.kappa) for x in (self.numerators, self.denominators)
        )


@kappas
def test_true_lookups(kappa, rng):
    instance = Instance(kappa, rng)
    assert instance.sum() == embed(0, kappa)
    run = instance.run()
    assert run.violated() == []
    point, numerator, denominator = run.results["verifier"]
    assert len(point) == instance.log_size
    assert (run.meaning(numerator), run.meaning(denominator)) == instance.leaf_claims(point)


@kappas
@pytest.mark.parametrize("extra", [1, -1, 5])
def test_wrong_multiplicity(kappa, extra, rng):
    instance = Instance(kappa, rng, extra=extra)
    assert instance.sum() != embed(0, kappa)
    assert set(instance.run().violated()) == {"lookup layer"}


@kappas
def test_value_outside_the_table(kappa, rng):
    instance = Instance(kappa, rng, lookers=[[1, 1, 9, 3], [2, 4], [9, 1]])
    assert instance.sum() != embed(0, kappa)
    assert set(instance.run().violated()) == {"lookup layer"}


@kappas
def test_zero_denominator(kappa, rng):
    """With alpha equal to a fingerprint the root is 0 / 0, which would prove anything."""
    probe = Instance(kappa, rng)
    pole = probe.fingerprint(1, dict(TABLE)[1])
    state = np.random.default_rng(20260101)
    instance = Instance(kappa, state, lookers=[[1, 1, 9, 3], [2, 4], [9, 1]], alpha=pole)
    assert instance.beta == probe.beta
    assert embed(0, kappa) in instance.denominators
    assert instance.denominators.count(embed(0, kappa)) > 1
    assert set(instance.run().violated()) == {"lookup denominator is zero"}


@kappas
def test_a_liar_about_the_leaves_is_caught_by_the_last_claims(kappa):
    """A prover with other leaves of sum zero passes the tree, but not the claims at its end."""
    false = [[2, 2, 3, 3], [1, 1], [1, 1]]
    honest = Instance(kappa, np.random.default_rng(1))
    other = Instance(kappa, np.random.default_rng(1), lookers=false)
    assert (honest.alpha, honest.beta) == (other.alpha, other.beta)
    run = other.run()
    assert run.violated() == []
    point, numerator, denominator = run.results["verifier"]
    assert (run.meaning(numerator), run.meaning(denominator)) != honest.leaf_claims(point)


class ShiftedRoot(logup.Tree):
    """n + lambda d of the true root equals 0 + lambda (d + n) if lambda is one."""

    @property
    def root(self):
        n, d = super().root
        return n, d + n


class LyingTree(logup.Tree):
    """Changes the final values of the layers; ``root_claim`` is what the root was said to be."""

    def rounds(self, depth, point, lam):
        honest = super().rounds(depth, point, lam)
        finals = honest.finals
        honest.finals = lambda: self.lie(depth, point, lam, *finals())
        return honest

    def lie(self, depth, point, lam, n0, d1, d0, m):
        raise NotImplementedError


class OneCombiner(LyingTree):
    """Claims below the root that are false, but whose combination with the same lambda is true."""

    def lie(self, depth, point, lam, n0, d1, d0, m):
        if depth:
            return n0, d1, d0, m
        combined, false = n0 + lam * d0, d0 + 1
        n0 = combined - lam * false
        return n0, (lam * self.root[1] - false * m) * n0.inverse(), false, m


class FirstHalf(LyingTree):
    """A false numerator in the half that the branch 1 does not look at."""

    def lie(self, depth, point, lam, n0, d1, d0, m):
        if depth:
            return n0, d1, d0, m
        return (lam * self.root[1] - d0 * m) * d1.inverse(), d1, d0, m


class SameBranch(FirstHalf):
    """Goes on in layer 1: errors in both halves that cancel on the line at the branch before."""

    def lie(self, depth, point, lam, n0, d1, d0, m):
        if depth == 0:
            lied = super().lie(depth, point, lam, n0, d1, d0, m)
            self.error = lied[0] - n0
            return lied
        if depth == 1:
            (rho,) = point
            r = self.drawn()[-1]
            error = self.error * (1 - rho) * lagrange(r, 3)[1]  # of the claim after the round
            error = error * logup.eq_at(point, [r], r.kappa).inverse()
            ratio = -rho * (1 - rho).inverse()  # of the errors of n0 and n1
            b = error * (d0 + ratio * d1).inverse()
            return n0 + ratio * b, d1, d0, m + b
        return n0, d1, d0, m


LIES = {
    ("lookup combiner", "one"): ShiftedRoot,
    ("lookup combiner", "equal"): OneCombiner,
    ("lookup branch", "one"): FirstHalf,
    ("lookup branch", "equal"): SameBranch,
}


@kappas
@pytest.mark.parametrize(("kind", "how"), LIES)
def test_only_a_foreseen_challenge_lets_a_false_lookup_pass(kappa, kind, how):
    """Values outside the table pass through the whole tree if lambda or the branch is known."""

    def outcome():
        rng, rounds = np.random.default_rng(3), []
        instance = Instance(kappa, rng, lookers=[[1, 1, 9, 3], [2, 4], [9, 1]])
        bind = logup._LayerRounds.bind

        def bound(self, r):
            rounds.append(r)
            bind(self, r)

        tree_class = LIES[kind, how]
        with (
            mock.patch.object(logup._LayerRounds, "bind", bound),
            mock.patch.object(LyingTree, "drawn", lambda self: rounds, create=True),
        ):
            run = instance.run(tree_class)
        point, numerator, denominator = run.results["verifier"]
        right = (run.meaning(numerator), run.meaning(denominator)) == instance.leaf_claims(point)
        return right and not run.violated()

    with foreseen(kind, how):
        assert outcome()
    assert not outcome()


def test_every_layer_has_its_own_challenges():
    """What is drawn, in order: for each layer a combiner, its rounds, a branch."""
    instance, drawn = Instance(2, np.random.default_rng(1)), []
    challenge = Transcript.challenge

    def recorded(self, kind, degree=None):
        value = challenge(self, kind, degree)
        drawn.append((kind, degree, value))
        return value

    with mock.patch.object(Transcript, "challenge", recorded):
        point = instance.run().results["verifier"][0]
    layers = [
        [("lookup combiner", 1), *[("lookup layer", 3)] * depth, ("lookup branch", 1)]
        for depth in range(instance.log_size)
    ]
    expected = [k for layer in layers for k in layer]
    mine = [d for d in drawn if d[0] != "end"][-len(expected) :]  # the verifier's
    assert [d[:2] for d in mine] == expected
    values = [value for *_, value in mine]
    assert len({v.coefficients for v in values}) == len(values)
    last = values[-instance.log_size - 1 :]  # combiner, rounds, branch of the last layer
    assert point == [last[-1], *last[1:-1]]


@kappas
def test_single_layer(kappa, rng):
    """Two leaves 1/d and -1/d."""
    d = array([(5, 7, 9)[:kappa]] * 2, kappa)
    n = array([embed(1, kappa), embed(-1, kappa)], kappa)

    def protocol(party, is_prover):
        return logup.reduce_tree(party, 1, logup.Tree(n, d) if is_prover else None)

    run = run_protocol(protocol, kappa)
    assert run.violated() == []
    (rho,), numerator, denominator = run.results["verifier"]
    assert run.meaning(denominator) == (5, 7, 9)[:kappa]
    assert run.meaning(numerator) == multilinear(elements(n), [rho.coefficients], kappa)


def test_large_tree_uses_compiled_layers(rng):
    """4096 leaves in pairs 1/d - 1/d: layers above and below the small size."""
    half = random_field(rng, (2, 2048))
    d = np.concatenate([half, half], axis=1)
    n = np.zeros_like(d)
    n[0] = np.repeat(uints([1, 2**64 - 2**32]), 2048)

    def protocol(party, is_prover):
        return logup.reduce_tree(party, 12, logup.Tree(n, d) if is_prover else None)

    run = run_protocol(protocol, 2)
    assert run.violated() == []
    point, numerator, denominator = run.results["verifier"]
    tables = [elements(n), elements(d)]
    for r in point:
        one_minus = e_sub(embed(1, 2), r.coefficients)
        tables = [
            [
                e_add(e_mul(one_minus, a), e_mul(r.coefficients, b))
                for a, b in zip(t[: len(t) // 2], t[len(t) // 2 :], strict=True)
            ]
            for t in tables
        ]
    assert [run.meaning(numerator), run.meaning(denominator)] == [t[0] for t in tables]
