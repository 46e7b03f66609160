"""The shape rule of every kind of operation: against what evaluation gives, and on parameters that
are none.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
from soundness.programs import SMALL

import zkjax
from zkjax import work
from zkjax.errors import StatementError, VerificationError
from zkjax.field.scalar import Scalar
from zkjax.program.ops import RULES, NotRankOne, Op
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
    "affine": [((X, X), X, ((1, -2), 5)), ((X,), X, ((0,), 0))],
    "alias": [((X,), X, ()), ((X,), X, (-1, 7))],
    "transpose": [((X,), (4, 3), ((1, 0),))],
    "broadcast": [(((3, 1),), (5, 3, 2), ((1, 2), (3, 1))), (((),), (2,), ((), ()))],
    "reshape": [((X,), (2, 6), (X,))],
    "slice": [((X,), (2, 2), ((0, 1), (2, 1), X))],
    "pad": [((X,), (6, 4), ((1, 0), (2, 1), X))],
    "sum": [((X,), (3,), ((1,), X))],
    "reverse": [((X,), X, ((0, 1),))],
    "take": [((X,), (3, 2), (1, (3, 3), X))],
    "shift": [(((4,), X), X, (1,))],
    "multiply": [((X, X), X, ())],
    "contract": [(((2, 3, 4), (4, 2, 5)), (2, 3, 5), (((0, 1),), ((2, 0),)))],
    "onehot": [(((3,), (3,)), (3, 4), (4,)), (((3,), (3,)), (3, 3), (3,))],
    "round": [((X,), X, (3,))],
    "limb": [((X,), X, (16, 2))],
    "lookup": [((X,), X, (0, 1))],
    "locate": [((X,), X, (0,))],
    "divide": [((X, X), X, ())],
    "rsqrt": [((X,), X, (20,))],
    "max": [((X,), (3,), ())],
    "argmax_bit": [((X,), (3,), (1,))],
    "nonnegative": [((X,), X, ())],
    "carry": [((), X, (0,))],
}
BAD = {
    "affine": [((X, (4, 3)), X, ((1, 1), 0)), ((X,), X, ((1, 1), 0)), ((X,), X, ((2**63,), 0)),
               ((X,), X, ((1,), 2**63)), ((), X, ((), 0)), ((X,), X, (1, 0))],
    "alias": [((X,), (4, 3), ()), ((X,), X, (2, 1)), ((X,), X, (1,))],
    "transpose": [((X,), (4, 3), ((0, 0),)), ((X,), (4, 3), ((1,),)), ((X,), (4, 3), ((1, 2),))],
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
    "shift": [(((3,), X), X, (0,)), (((4,), X), X, (2,)), ((X, ()), (), (0,)), ((X,), X, (0,))],
    "multiply": [((X, (4, 3)), X, ()), ((X,), X, ()), ((X, X), X, (0,)), ((X, (1, 4)), X, ())],
    "contract": [((X, X), (3, 3), ((), ((1, 0),))), ((X, X), (3, 3), ((), ((1, 2),))),
                 ((X, X), (3,), (((1, 1),), ((1, 1),))), ((X, X), (4, 3), ((), ((1, 1),))),
                 (((4, 4), (4, 4)), (4,), ((), ((0, 0), (0, 1)))),
                 (((3, 4), (5, 4)), (4, 4), ((), ((0, 0),)))],
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
    "affine": [7, 0],
    "alias": [0, 0],
    "transpose": [0],
    "broadcast": [7, 2],
    "reshape": [12],
    "slice": [7],
    "pad": [0],
    "sum": [4],
    "reverse": [0],
    "take": [4 + 2 * work.STEP // 8],
    "shift": [3],
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
