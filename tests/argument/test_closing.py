"""From constraints to one linear statement, evaluated with the true tensors and pads."""

from __future__ import annotations

import numpy as np
import pytest
from reference import (
    array,
    cube,
    e_add,
    e_mul,
    e_sum,
    elements,
    embed,
    eq_weight,
    ints,
    random_field,
)

from argument.parties import rank_one, run_protocol
from zkjax.argument.closing import Committed, close, eq_vector_at
from zkjax.argument.code import Code
from zkjax.argument.layout import Layout
from zkjax.field.scalar import Scalar

kappas = pytest.mark.parametrize("kappa", [2, 3])

CODES = [Code(2, 3, 4), Code(3, 3, 5)]
SHAPES = [((3, 5), (2,), (4, 4), (3,), ()), ((7, 2), (1,), (5,))]


def make_tensors(rng):
    """Tensors numbered across both tableaux, with small entries of both signs."""
    flat = [s for shapes in SHAPES for s in shapes]
    return {
        10 + i: rng.integers(-99, 100, size=shape).astype(np.float64)
        for i, shape in enumerate(flat)
    }


def committed(tensors=None) -> list[Committed]:
    out, start = [], 10
    for code, shapes in zip(CODES, SHAPES, strict=True):
        numbers = tuple(range(start, start + len(shapes)))
        values = [tensors[i] for i in numbers] if tensors else None
        out.append(Committed(Layout(shapes, code), numbers, values))
        start += len(shapes)
    return out


class Closing:
    """Functionals of some tensors and padded messages, all constrained to their true values.

    ``errors`` are added to the right-hand sides of constraints by number.
    """

    def __init__(self, kappa: int, rng, claimed, errors=()):
        self.kappa, self.errors = kappa, dict(errors)
        self.tensors = make_tensors(rng)
        self.claims, last = [], {}
        for t in claimed:
            *weights, end = (random_field(rng, (kappa, n)) for n in (1, *self.tensors[t].shape))
            end = last.setdefault(t, end)  # claims on one tensor share the last axis
            self.claims.append((t, (*weights[1:], end) if self.tensors[t].ndim else ()))

    def value(self, tensor: int, weights) -> Scalar:
        return Scalar(rank_one(weights, self.tensors[tensor], self.kappa))

    def protocol(self, party, is_prover):
        kappa = self.kappa
        x, y = party.send("message", 2, lambda: [Scalar.of(5, kappa), Scalar.of(-7, kappa)])
        party.require_zero(x + y + 2, "messages")
        _, _, xy = party.send_product("product", lambda: (x.value, y.value))
        party.require_zero(xy + 35, "product")
        for number, (tensor, weights) in enumerate(self.claims):
            expression = party.functional(tensor, weights)
            right = self.value(tensor, weights) + self.errors.get(number, 0)
            party.require_zero(expression * 3 - right * 3, "claim")
        return close(party, committed(self.tensors if is_prover else None))

    def run(self):
        return run_protocol(self.protocol, self.kappa, self.tensors)

    def total(self, run):
        """sum <g (x) eq(point), V> + sum coefficient * pad + known, in the verifier's numbers."""
        kappa, linear = self.kappa, run.results["verifier"]
        total = linear.known.coefficients
        for leaf, c in linear.pads.items():
            total = e_add(total, e_mul(c.coefficients, run.leaf_value(leaf)))
        for tableau, weights, point in zip(
            committed(self.tensors), linear.row_weights, linear.points, strict=True
        ):
            matrix = tableau.layout.matrix(tableau.values)
            log_row = tableau.layout.code.log_row
            assert point.shape == (kappa, log_row)
            eq = [eq_weight(elements(point), v, kappa) for v in cube(log_row)]
            for g, row in zip(elements(weights), matrix, strict=True):
                inner = e_sum(
                    (e_mul(e, embed(v, kappa)) for e, v in zip(eq, ints(row), strict=True)), kappa
                )
                total = e_add(total, e_mul(g, inner))
        return total


CLAIMED = [[10], [11], [13, 14], [12, 12, 15], [16, 17], list(range(10, 18))]


@kappas
@pytest.mark.parametrize("claimed", CLAIMED, ids=str)
def test_true_constraints_give_a_true_statement(kappa, claimed, rng):
    case = Closing(kappa, rng, claimed)
    run = case.run()
    assert run.violated() == []
    mine, theirs = run.results["prover"], run.results["verifier"]
    assert mine.known == theirs.known and mine.pads == theirs.pads
    for name in ("row_weights", "points"):
        for a, b in zip(getattr(mine, name), getattr(theirs, name), strict=True):
            assert np.array_equal(a, b)
    assert case.total(run) == embed(0, kappa)


@kappas
@pytest.mark.parametrize("wrong", [0, 1, 5])
def test_one_false_constraint_gives_a_false_statement(kappa, wrong, rng):
    case = Closing(kappa, rng, list(range(10, 18)), errors={wrong: 1})
    run = case.run()
    assert run.violated() == ["claim"]
    assert case.total(run) != embed(0, kappa)


@kappas
def test_two_errors_that_cancel_are_still_seen(kappa, rng):
    """Constraints are combined with powers of a challenge, so opposite errors do not cancel."""
    case = Closing(kappa, rng, [10, 15], errors={0: 1, 1: -1})
    run = case.run()
    assert run.violated() == ["claim", "claim"]
    assert case.total(run) != embed(0, kappa)


@kappas
def test_tensors_without_claims_have_no_weight(kappa, rng):
    case = Closing(kappa, rng, [10])
    first, second = case.run().results["verifier"].row_weights
    layout = committed()[0].layout
    (slot,) = [s for s in layout.slots if (0, 0) in s.tensors]
    where = range(slot.row, slot.row + slot.rows)
    for row, weight in enumerate(elements(first)):
        assert any(weight) == (row in where)
    assert not second.any()


@kappas
def test_eq_vector_at(kappa, rng):
    point = elements(random_field(rng, (kappa, 3)))
    for index, vertex in enumerate(cube(3)):
        got = eq_vector_at(array(point, kappa), index)
        assert got.coefficients == eq_weight(point, vertex, kappa)
