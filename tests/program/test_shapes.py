"""The shape rule of every kind of operation: against what evaluation gives, and on parameters that
are none.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import numpy as np
import pytest
from soundness.programs import SMALL

import zkjax
from zkjax import work
from zkjax.errors import StatementError, VerificationError
from zkjax.field import dense
from zkjax.field.scalar import Scalar
from zkjax.program.functionals import functional_value
from zkjax.program.ops import RULES, NotRankOne, Op
from zkjax.program.ops.linear import reshape_groups
from zkjax.program.ops.rule import Weights
from zkjax.program.program import OF_TABLES
from zkjax.program.statement import Statement
from zkjax.program.tables import Table
from zkjax.program.trace import Private
from zkjax.program.wellformed import require_well_formed

X = (3, 4)
FREE = {"broadcast", "carry", "constant", "input"}  # they declare their shape
GOOD = {
    "input": [((), (2, 3), (0,))],
    "constant": [((), (2, 3), (0,))],
    "affine": [((X, X), X, ((1, -2), 5)), ((X,), X, ((0,), 0)),
               ((X, X, X, X), X, ((2, -1, 1, 2), -7))],
    "alias": [((X,), X, ()), ((X,), X, (-1, 7)), ((X,), X, (5, 5))],
    "transpose": [((X,), (4, 3), ((1, 0),)), (((2, 3, 4),), (4, 2, 3), ((2, 0, 1),))],
    "broadcast": [(((3, 1),), (5, 3, 2), ((1, 2), (3, 1))), (((),), (2,), ((), ()))],
    "reshape": [((X,), (2, 6), (X,)), (((1, 3, 4, 1, 5),), (12, 1, 5), ((1, 3, 4, 1, 5),)),
                (((4, 9, 2),), (1, 6, 6, 2), ((4, 9, 2),)), (((8, 3),), (2, 2, 6), ((8, 3),)),
                (((2, 2, 6),), (8, 3, 1), ((2, 2, 6),)), (((),), (1, 1), ((),)),
                (((5, 1),), (5,), ((5, 1),))],
    "slice": [((X,), (2, 2), ((0, 1), (2, 1), X)), (((2, 9),), (2, 2), ((0, 4), (1, 3), (2, 9)))],
    "pad": [((X,), (6, 4), ((1, 0), (2, 1), X)), (((1, 2),), (3, 9), ((2, 5), (1, 3), (1, 2)))],
    "sum": [((X,), (3,), ((1,), X)), (((2, 3, 4),), (3,), ((0, 2), (2, 3, 4)))],
    "reverse": [((X,), X, ((0, 1),)), ((X,), X, ((1,),))],
    "take": [((X,), (3, 2), (1, (3, 3), X)), ((X,), (4, 4), (0, (2, 0, 2, 1), X))],
    "shift": [(((4,), X), X, (1,)), (((4,), X), X, (0,))],
    "multiply": [((X, X), X, ())],
    "contract": [(((2, 3, 4), (4, 2, 5)), (2, 3, 5), (((0, 1),), ((2, 0),))),
                 (((2, 3, 4), (4,)), (2, 3), ((), ((2, 0),))),
                 (((4,), (3, 4)), (3,), ((), ((0, 1),))), (((2,), (3,)), (2, 3), ((), ()))],
    "onehot": [(((3,), (3,)), (3, 4), (4,)), (((3,), (3,)), (3, 3), (3,)), (((),), (2,), (2,))],
    "round": [((X,), X, (3,))],
    "limb": [((X,), X, (16, 2))],
    "lookup": [((X,), X, (0, 1))],
    "locate": [((X,), X, (0,))],
    "divide": [((X, X), X, ())],
    "rsqrt": [((X,), X, (20,)), ((X,), X, (0,))],
    "max": [((X,), (3,), ()), (((3,),), (), ())],
    "argmax_bit": [((X,), (3,), (1,)), (((3,),), (), (0,))],
    "nonnegative": [((X,), X, ())],
    "carry": [((), X, (0,))],
}  # fmt: skip
BAD = {
    "affine": [((X, (4, 3)), X, ((1, 1), 0)), ((X,), X, ((1, 1), 0)), ((X,), X, ((2**63,), 0)),
               ((X,), X, ((1,), 2**63)), ((), X, ((), 0)), ((X,), X, (1, 0))],
    "alias": [((X,), (4, 3), ()), ((X,), X, (2, 1)), ((X,), X, (1,))],
    "transpose": [((X,), (4, 3), ((0, 0),)), ((X,), (4, 3), ((1,),)), ((X,), (4, 3), ((1, 2),)),
                  ((X,), (3, 3), ((0, 0),)), ((X,), (3,), ((0,),))],
    "broadcast": [((X,), (3, 5), ((0, 1), X)), ((X,), (4, 3), ((1, 0), X)), ((X,), X, ((0,), X)),
                  ((X,), X, ((0, 1), (4, 3))), ((X,), X, ((0, 2), X))],
    "reshape": [((X,), (5, 2), (X,)), ((X,), (2, 6), ((4, 3),))],
    "slice": [((X,), (2, 2), ((0, 3), (1, 1), X)), ((X,), (2, 2), ((0, 0), (1, 4), X)),
              ((X,), (2, 2), ((0, 0), (0, 1), X)), ((X,), (2, 2), ((-1, 0), (1, 1), X)),
              ((X,), (2,), ((0,), (1,), X)), ((X,), (2, 2), ((0, 0), (1, 1), (9, 9)))],
    "pad": [((X,), (6, 4), ((2, 0), (2, 1), X)), ((X,), (6, 4), ((0, 0), (0, 1), X)),
            ((X,), (2, 4), ((0, 0), (1, 1), X)), ((X,), (6, 4), ((0, 0), (1, 1), (6, 4)))],
    "sum": [((X,), (3,), ((2,), X)), ((X,), (3,), ((1, 1), X)), ((X,), (4,), ((1,), X)),
            ((X,), (3,), ((1,), (3, 5)))],
    "reverse": [((X,), X, ((2,),)), ((X,), X, ((1, 0),)), ((X,), X, (0,))],
    "take": [((X,), (3, 2), (2, (0, 0), X)), ((X,), (3, 2), (1, (0, 4), X)),
             ((X,), (3, 2), (1, (0, -1), X)), ((X,), (3, 1), (1, (0, 1), X))],
    "shift": [(((3,), X), X, (0,)), (((4,), X), X, (2,)), ((X, ()), (), (0,)), ((X,), X, (0,)),
              (((), ()), (), (0,))],
    "multiply": [((X, (4, 3)), X, ()), ((X,), X, ()), ((X, X), X, (0,)), ((X, (1, 4)), X, ())],
    "contract": [((X, X), (3, 3), ((), ((1, 0),))), ((X, X), (3, 3), ((), ((1, 2),))),
                 ((X, X), (3,), (((1, 1),), ((1, 1),))), ((X, X), (4, 3), ((), ((1, 1),))),
                 (((4, 4), (4, 4)), (4,), ((), ((0, 0), (0, 1)))),
                 (((3, 4), (5, 4)), (4, 4), ((), ((0, 0),))),
                 (((4,), (3, 4)), (3,), ((), ((1, 1),))), (((3, 4), (4,)), (3,), ((), ((1, 1),))),
                 (((4,), (3, 4, 4)), (3,), ((), ((2, 1),))),
                 (((3, 4, 4), (4,)), (3,), ((), ((1, 2),)))],
    "onehot": [(((3,), (3,)), (3, 2), (2,)), (((3,), (3,)), (3, 5), (5,)),
               (((3,), (4,)), (3, 4), (4,)), (((3,),), (3, 1), (1,)), ((), (4,), (4,))],
    "round": [((X,), X, (0,)), ((X,), X, (63,)), ((X,), (3,), (3,))],
    "limb": [((X,), X, (-1, 1)), ((X,), X, (0, 0)), ((X,), X, (0, 63))],
    "lookup": [((X,), X, (0, 0)), ((X,), X, (-1, 1)), ((X,), (3,), (0, 1))],
    "locate": [((X,), X, (-1,)), ((X,), (3,), (0,))],
    "divide": [((X, (3,)), X, ()), ((X,), X, ())],
    "rsqrt": [((X,), X, (-1,)), ((X,), X, (63,))],
    "max": [(((),), (), ()), ((X,), X, ())],
    "argmax_bit": [((X,), (3,), (-1,)), (((),), (), (0,)), ((X,), (3,), (63,))],
    "nonnegative": [((X,), (3,), ()), ((X,), X, (0,))],
    "carry": [((), (), (0,)), ((), X, (-1,)), ((X,), X, (0,))],
    "input": [((X,), X, (0,)), ((), X, (-1,)), ((), X, ())],
    "constant": [((X,), X, (0,)), ((), X, ("0",))],
}  # fmt: skip


def fits(kind: str, shapes, shape, params) -> bool:
    op = Op(kind, tuple(range(len(shapes))), shape, params)
    try:
        return RULES[kind].shape(op, *shapes) == shape
    except StatementError:
        return False


def test_every_kind_has_a_shape_rule():
    assert {k for k, rule in RULES.items() if rule.shape} == set(RULES) == set(GOOD) == set(BAD)


@pytest.mark.parametrize("kind", GOOD)
def test_shape_rules(kind):
    """Against what evaluation gives; and parameters that are none."""
    for shapes, shape, params in GOOD[kind]:
        assert fits(kind, shapes, shape, params)
        evaluate = RULES[kind].evaluate
        if evaluate is not None and kind not in OF_TABLES:
            op = Op(kind, (), shape, params)
            assert evaluate(op, *(np.ones(s) for s in shapes)).shape == shape
        assert kind in FREE or not fits(kind, shapes, (*shape, 2), params)
        assert not fits(kind, (*shapes, X, X), shape, params) or kind == "affine"
        for i in range(len(params)):
            for junk in ("x", None, True, 1.0, (1.0,), ("x",), (True,), ((1,),), -(2**70)):
                assert not fits(kind, shapes, shape, (*params[:i], junk, *params[i + 1 :])), junk
        assert not fits(kind, shapes, shape, (*params, 0))
    for shapes, shape, params in BAD[kind]:
        assert not fits(kind, shapes, shape, params), (shapes, shape, params)


# Elements that a pull-back makes or adds up, for each case of GOOD.
PULLED = {
    "affine": [7, 0, 7],
    "alias": [0, 0, 0],
    "transpose": [0, 0],
    "broadcast": [7, 2],
    "reshape": [12, 15, 37, 24, 25, 2, 1],
    "slice": [7, 9],
    "pad": [0, 0],
    "sum": [4, 6],
    "reverse": [0, 0],
    "take": [4 + 2 * work.STEP // 8, 3 + 4 * work.STEP // 8],
    "shift": [3, 3],
}


@pytest.mark.parametrize("kind", [k for k, r in RULES.items() if r.pull])
def test_pulling_back_counts_what_it_makes(kind):
    for (shapes, shape, params), elements in zip(GOOD[kind], PULLED[kind], strict=True):
        op, one = Op(kind, tuple(range(len(shapes))), shape, params), Scalar.of(1, 2)
        weights = tuple(np.ones((2, n), dtype=np.uint64) for n in shape)
        with work.bounded(work.STEP + elements):
            RULES[kind].pull(op, weights, one)
        short = work.bounded(work.STEP + elements - 1)
        with pytest.raises(VerificationError, match="work"), short:
            RULES[kind].pull(op, weights, one)


def functionals(shape, rng) -> Iterator[Weights]:
    """Rank-one functionals that split whatever axes are merged: powers of one element along all
    entries, a single entry, the last one, nothing.
    """
    base = Scalar([int(c) for c in rng.integers(1, 1 << 60, 2)])
    size = math.prod(shape)
    strides = [math.prod(shape[a + 1 :]) for a in range(len(shape))]
    yield tuple(
        np.array([(base ** (s * i)).coefficients for i in range(n)], dtype=np.uint64).T
        for n, s in zip(shape, strides, strict=True)
    )
    for place in {size // 2 + 1, size - 1}:
        where = np.unravel_index(place % size, shape)
        single = [np.zeros((2, n), dtype=np.uint64) for n in shape]
        for w, i in zip(single, where, strict=True):
            w[:, i] = rng.integers(1, 1 << 60, 2)
        yield tuple(single)
    yield tuple(np.zeros((2, n), dtype=np.uint64) for n in shape)


@pytest.mark.parametrize("kind", [k for k, r in RULES.items() if r.pull])
def test_pulling_back_is_what_evaluation_does(kind):
    """<w, f(x)> is the sum of the functionals that w is pulled back to, on the operands."""
    rng, one = np.random.default_rng(1), Scalar.of(1, 2)
    for shapes, shape, params in GOOD[kind]:
        op = Op(kind, tuple(range(len(shapes))), shape, params)
        operands = [rng.integers(-99, 99, s).astype(np.float64) for s in shapes]
        value = RULES[kind].evaluate(op, *operands)
        anything = tuple(rng.integers(0, 1 << 60, (2, n)).astype(np.uint64) for n in shape)
        for weights in [*functionals(shape, rng), anything][: 4 if kind == "reshape" else 5]:
            pulled = Scalar.of(0, 2)
            for operand, inner, c in RULES[kind].pull(op, weights, one):
                x = np.array(1.0) if operand is None else operands[operand]
                assert [w.shape for w in inner] == [(2, n) for n in x.shape]
                pulled = pulled + c * functional_value(x, inner, 2)
            assert pulled == functional_value(value, weights, 2), (shapes, shape, params)


def test_claims_that_do_not_split_are_not_pulled_back():
    """Merged axes of more than two parts: each split may be the one that is not possible."""
    one = Scalar.of(1, 2)
    halves = [np.array([[1, 2], [3, 4]], dtype=np.uint64) for _ in range(3)]
    whole = dense.kron(halves, 2)
    op = Op("reshape", (0,), (8,), ((2, 2, 2),))
    ((_, inner, _),) = RULES["reshape"].pull(op, (whole,), one)
    assert np.array_equal(dense.kron(list(inner), 2), whole)
    for place in range(8):
        wrong = whole.copy()
        wrong[1, place] += np.uint64(1)
        later = dense.kron([halves[0], wrong[:, :4]], 2)
        for vector in (wrong, later) if place < 4 else (wrong,):
            with pytest.raises(NotRankOne):
                RULES["reshape"].pull(op, (vector,), one)


def test_axes_that_a_reshape_keeps_together():
    for inside, outside, expected in (
        ((2, 3), (2, 3), [([0], [0]), ([1], [1])]),
        ((2, 3, 4), (6, 4), [([0, 1], [0]), ([2], [1])]),
        ((6, 4), (2, 3, 2, 2), [([0], [0, 1]), ([1], [2, 3])]),
        ((4, 6), (3, 8), [([0, 1], [0, 1])]),
        ((1, 5, 1), (5, 1), [([0], []), ([1], [0]), ([2], []), ([], [1])]),
        ((5, 1), (5,), [([0], [0]), ([1], [])]),
        ((2, 1, 3), (6,), [([0, 1, 2], [0])]),
        ((), (1,), [([], [0])]),
        ((), (), []),
    ):
        assert reshape_groups(inside, outside) == expected


def test_claims_and_values_that_do_not_split_count_whole():
    op = Op("reshape", (0,), (4097 * 3,), ((4097, 3),))
    weights = (np.arange(4097 * 3, dtype=np.uint64)[None].repeat(2, 0) ** 2,)
    dense = work.STEP + 3 * 4097 * 3
    for room, raised in ((dense, NotRankOne), (dense - 1, VerificationError)):
        with pytest.raises(raised), work.bounded(room):
            RULES["reshape"].pull(op, weights, Scalar.of(1, 2))
    values = np.zeros((4097, 3))
    with work.bounded(work.STEP + values.size):
        RULES["reshape"].evaluate(op, values)
    with pytest.raises(VerificationError, match="work"), work.bounded(work.STEP + values.size - 1):
        RULES["reshape"].evaluate(op, values)


@pytest.mark.parametrize("name", SMALL)
def test_traced_programs_are_well_formed(name):
    fn, x = SMALL[name]
    for arg in (x, Private(x), Private(x, ranged=True)):
        statement = zkjax.trace(fn)(arg)
        require_well_formed(statement.program)
        again = Statement.decode(statement.encode())
        assert again.program.encode() == statement.program.encode()


def test_a_statement_locates_in_step_tables_only():
    """Where intervals overlap, a number has two rows, and a proof could take either."""
    fn, x = SMALL["located"]
    program = copy.deepcopy(zkjax.trace(fn)(Private(x)).program)  # traces are remembered
    require_well_formed(program)
    (number,) = (op.params[0] for op in program.ops if op.kind == "locate")
    rows, firsts, lasts, *values = program.tables[number].columns
    for last in (lasts + (rows == 0), lasts - (rows == 0)):
        program.tables[number] = Table("steps", (rows, firsts, last, *values))
        with pytest.raises(StatementError, match="do not follow each other"):
            require_well_formed(program)
