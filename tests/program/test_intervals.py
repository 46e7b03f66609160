"""Intervals of operations hold what the operations give, and are reached where they should be."""

from __future__ import annotations

import numpy as np
import pytest

from zkjax.program.induction import kept_axis
from zkjax.program.intervals import (
    GROWTH,
    INTERVALS,
    LARGEST,
    Sums,
    intersection,
    limited,
)
from zkjax.program.ops import RULES, Op

X, Y = (3, 4), (4, 2)

CASES: dict[str, tuple[Op, tuple]] = {
    "alias": (Op("alias", (0,), X), (X,)),
    "transpose": (Op("transpose", (0,), (4, 3), ((1, 0),)), (X,)),
    "broadcast": (Op("broadcast", (0,), (2, 3, 4), ((1, 2), X)), (X,)),
    "reshape": (Op("reshape", (0,), (2, 6), (X,)), (X,)),
    "slice": (Op("slice", (0,), (2, 2), ((0, 1), (2, 1), X)), (X,)),
    "reverse": (Op("reverse", (0,), X, ((1,),)), (X,)),
    "take": (Op("take", (0,), (3, 5), (1, (0, 3, 3, 1, 2), X)), (X,)),
    "pad": (Op("pad", (0,), (6, 4), ((1, 0), (2, 1), X)), (X,)),
    "sum": (Op("sum", (0,), (3,), ((1,), X)), (X,)),
    "sum of all": (Op("sum", (0,), (), ((0, 1), X)), (X,)),
    "shift": (Op("shift", (0, 1), X, (False,)), ((4,), X)),
    "multiply": (Op("multiply", (0, 1), X), (X, X)),
    "square": (Op("multiply", (0, 0), X), (X, X)),
    "contract": (Op("contract", (0, 1), (3, 2), ((), ((1, 0),))), (X, Y)),
    "contract in batches": (Op("contract", (0, 1), (4, 3, 2), (((1, 0),), ())), (X, Y)),
}


def interval(values: np.ndarray) -> tuple[int, int]:
    return int(values.min()), int(values.max())


@pytest.mark.parametrize("name", CASES)
def test_results_are_within(name, rng):
    """For operands of both signs, one sign, and at the ends of their intervals only."""
    op, shapes = CASES[name]
    rule, reached = RULES[op.kind], []
    for low, high in ((-9, 7), (3, 8), (-8, -2), (0, 0)):
        for ends in (False, True):
            for _ in range(30):
                values = [rng.integers(low, high + 1, s) for s in shapes]
                if ends:
                    values = [np.where(rng.random(s) < rng.random(), low, high) for s in shapes]
                if name == "square":
                    values[1] = values[0]
                operands = [interval(v) for v in values]
                kinds = ["input"] * len(shapes)
                least, most = rule.interval(op, operands, shapes, kinds)
                result = rule.evaluate(op, *(v.astype(np.float64) for v in values))
                assert least <= result.min() and result.max() <= most
                reached.append(result.max() == most)
    assert any(reached)


def test_a_contraction_with_a_onehot_matrix_counts_one_entry_a_row():
    op = Op("contract", (0, 1), (3, 2), ((), ((1, 0),)))
    rule = RULES["contract"].interval
    assert rule(op, [(0, 1), (5, 9)], (X, Y), ["onehot", "input"]) == (0, 9)
    assert rule(op, [(0, 1), (-9, -5)], (X, Y), ["onehot", "input"]) == (-9, 0)
    assert rule(op, [(0, 1), (5, 9)], (X, Y), ["input", "input"]) == (0, 36)
    batch = Op("contract", (0, 1), (4, 3, 2), (((1, 0),), ()))
    assert rule(batch, [(0, 1), (5, 9)], (X, Y), ["onehot", "input"]) == (0, 9)
    first = Op("contract", (0, 1), (4, 2), ((), ((0, 0),)))  # over the rows of the matrix
    assert rule(first, [(0, 1), (5, 9)], (X, (3, 2)), ["onehot", "input"]) == (0, 27)


def test_a_onehot_matrix_is_one_only_of_bits():
    op = Op("onehot", (0, 1), (3, 4), (4,))
    rule = RULES["onehot"].interval
    assert rule(op, [(0, 1), (0, 1)], ((3,), (3,)), ["limb"] * 2) == (0, 1)
    for other in ((0, 2), (-1, 1)):
        assert rule(op, [(0, 1), other], ((3,), (3,)), ["limb"] * 2) is None


def sums(ops: list[Op], values: dict[int, tuple[int, int]], domain=INTERVALS) -> Sums:
    constant = (lambda n: (n, n)) if domain is INTERVALS else (lambda n: (0, abs(n)))
    return Sums(ops, domain, values.get, constant, lambda v: values.get(v) == (0, 1))


def affine(*terms: tuple[int, int], offset: int = 0) -> Op:
    return Op("affine", tuple(v for v, _ in terms), X, (tuple(c for _, c in terms), offset))


def test_sums_scale_and_add():
    values = {0: (-3, 5), 1: (2, 4)}
    ops = [Op("input", (), X)] * 2
    assert sums(ops, values).affine(affine((0, -2), (1, 3), offset=1)) == (-10 + 6 + 1, 6 + 12 + 1)
    assert sums(ops, values).affine(affine((0, 2), (0, -1))) == (-3, 5)
    assert sums(ops, {0: (-3, 5)}).affine(affine((0, 1), (1, 1))) is None
    assert sums(ops, {0: (-3, 5)}).affine(affine((0, 1), (1, 0))) == (-3, 5)
    growth = {0: (1, 2), 1: (0, 7)}
    assert sums(ops, growth, GROWTH).affine(affine((0, -2), (1, 1), offset=-4)) == (2, 15)


def test_a_bit_chooses():
    """y + b (x - y) is within the hull of x and y; b x, with b beside it, where b is known."""
    ops = [
        Op("input", (), X),
        Op("input", (), X),
        Op("nonnegative", (0,), X),
        affine((0, 1), (1, -1)),
        Op("multiply", (2, 3), X),
        Op("multiply", (2, 0), X),
    ]
    values = {0: (10, 20), 1: (-5, 3), 2: (0, 1), 3: (7, 25), 4: (0, 25), 5: (0, 20)}
    assert sums(ops, values).affine(affine((1, 1), (4, 1))) == (-5, 20)
    assert sums(ops, values).affine(affine((5, 1), (2, -10))) == (0, 10)
    growth = {0: (3, 1), 1: (1, 7), 2: (0, 1), 3: (9, 9), 4: (9, 9), 5: (9, 9)}
    assert sums(ops, growth, GROWTH).affine(affine((1, 1), (4, 1))) == (3, 7)
    # What else a bit is an operand of, as of a product of matrices, it does not choose.
    ops += [Op("contract", (2, 0), (4, 4), ((), ((0, 0),))), Op("alias", (2,), X)]
    values |= {6: (0, 60), 7: (0, 1)}
    assert sums(ops, values).affine(affine((5, 1), (6, 1), (7, 1))) == (0, 81)
    known = values | {2: (0, 2)}  # no bit
    assert sums(ops, known).affine(affine((1, 1), (4, 1))) == (-5, 28)


def test_what_a_bit_says_of_others():
    """Of x, if the bit is x + c or c - x; not if it is a multiple of x or a sum."""
    for coefficients, offset, expected in (
        ((1,), 5, (-5, 16)),
        ((-1,), 5, (5, 24)),
        ((2,), 6, (-40, 60)),
        ((1, 1), 5, (-40, 60)),
    ):
        bit = affine(*((v, c) for v, c in enumerate(coefficients)), offset=offset)
        ops = [Op("input", (), X)] * 3 + [bit, Op("multiply", (3, 2), X)]
        values = {0: (-40, 40), 1: (-40, 40), 2: (10, 20), 3: (0, 1), 4: (0, 20)}
        assert sums(ops, values).affine(affine((0, 1), (4, 1))) == expected


def test_few_bits_are_told_apart_and_in_short_sums():
    """Each doubles the cost."""
    count = 30
    ops = [Op("input", (), X)] * 2 + [Op("nonnegative", (0,), X)] * count
    ops += [Op("multiply", (2 + i, 1), X) for i in range(count)]
    asked = 0

    def value(var: int) -> tuple[int, int]:
        nonlocal asked
        asked += 1
        if asked > 10_000:
            raise RuntimeError("too many")
        return (0, 1) if 2 <= var < 2 + count else (-5, 5)

    def is_bit(var: int) -> bool:
        return 2 <= var < 2 + count

    apart = Sums(ops, INTERVALS, value, lambda n: (n, n), is_bit)
    terms = {2 + count + i: 1 for i in range(count)}
    assert apart.total(terms, 0) == (-5 * count, 5 * count)
    # b x - x is 0 or -x; but in a long sum b x and x are apart.
    long = {1: -1, 2 + count: 1} | {len(ops) + i: 1 for i in range(254)}
    ops += [Op("input", (), X)] * 255
    assert apart.total(long, 0) == (-5 * 255, 5 * 255)
    assert apart.total(long | {len(ops) - 1: 1}, 0) == (-5 * 257, 5 * 257)


def test_parts_that_are_apart_do_not_add_up():
    def padded(low: tuple, step: tuple = (1, 1), inside: tuple = (2, 4), shape=(4, 4)) -> Op:
        return Op("pad", (0,), shape, (low, step, inside))

    ops = [Op("input", (), (2, 4)), padded((0, 0)), padded((2, 0)), padded((1, 0))]
    values = {0: (3, 5), 1: (0, 5), 2: (0, 5), 3: (0, 5)}
    assert sums(ops, values).affine(affine((1, 1), (2, 1))) == (3, 5)
    assert sums(ops, values).affine(affine((1, 1), (3, 1))) == (0, 10)
    # With gaps, or with zeros along another axis too, there are zeros between.
    gaps = [*ops[:1], padded((0, 0), (2, 1), (2, 4), (3, 4)), *ops[2:]]
    assert sums(gaps, values).affine(affine((1, 1)))[0] == 0
    late = [*ops[:1], padded((1, 0), shape=(3, 4))]  # zero before it alone
    assert sums(late, values).affine(affine((1, 1))) == (0, 5)
    corner = [
        *ops[:1],
        padded((0, 0), (1, 1), (2, 4), (4, 6)),
        padded((2, 0), (1, 1), (2, 4), (4, 6)),
    ]
    assert sums(corner, values).affine(affine((1, 1), (2, 1))) == (0, 5)


def test_limits_and_intersections():
    assert limited((0, LARGEST)) == (0, LARGEST) and limited((0, LARGEST + 1)) is None
    assert limited((-LARGEST - 1, 0)) is None
    assert intersection((0, 5), (3, 9)) == (3, 5) and intersection(None, (3, 9)) == (3, 9)
    assert intersection((0, 5), None) == (0, 5)
    assert intersection((0, 2), (3, 9)) == (0, 2)  # nothing satisfies both


STEPPED = {
    "broadcast a row": (Op("broadcast", (0,), (3, 4), ((0, 1), (1, 4))), ((1, 4),)),
    "broadcast to rows": (Op("broadcast", (0,), (4, 4), ((1,), (4,))), ((4,),)),
    "transpose a square": (Op("transpose", (0,), (3, 3), ((1, 0),)), ((3, 3),)),
    "split": (Op("reshape", (0,), (2, 2, 3), ((4, 3),)), ((4, 3),)),
    "moved past ones": (Op("reshape", (0,), (1, 3, 1, 4), (X,)), (X,)),
    "slice of steps": (Op("slice", (0,), (2, 4), ((1, 0), (1, 1), X)), (X,)),
    "sum of three": (Op("sum", (0,), (3, 3), ((1,), (3, 3, 3))), ((3, 3, 3),)),
    "reverse backwards": (Op("shift", (0, 1), X, (True,)), ((4,), X)),
    "contract from the left": (Op("contract", (0, 1), (3, 3), ((), ((0, 1),))), ((3, 3), (3, 3))),
    "contract a square": (Op("contract", (0, 1), (3, 3), ((), ((1, 0),))), ((3, 3), (3, 3))),
    "contract in crossed batches": (
        Op("contract", (0, 1), (3, 3, 3), (((1, 0), (0, 2)), ((2, 1),))),
        ((3, 3, 3, 3), (3, 3, 3)),
    ),
    "two batches, both free": (
        Op("contract", (0, 1), (3, 3, 3, 3), (((2, 1),), ((0, 0),))),
        ((3, 3, 3), (3, 3, 3, 3)),
    ),
    "affine": (Op("affine", (0, 1), X, ((1, -2), 3)), (X, X)),
    "onehot": (Op("onehot", (0, 1), (3, 3, 3), (3,)), ((3, 3), (3, 3))),
}


def acts_alone(op: Op, shapes, operand: int, axis: int, kept: int, rng) -> bool:
    """Whether positions of an axis of an operand reach the same ones of the result's axis only."""
    largest = 1 if op.kind == "onehot" else 10**6
    values = [rng.integers(0, largest + 1, s).astype(np.float64) for s in shapes]
    if op.shape[kept] != shapes[operand][axis]:
        return False
    before = RULES[op.kind].evaluate(op, *values)
    for position in range(op.shape[kept]):
        changed = [v.copy() for v in values]
        place = (slice(None),) * axis + (position,)
        changed[operand][place] = largest - changed[operand][place]
        differs = before != RULES[op.kind].evaluate(op, *changed)
        if np.delete(differs, position, kept).any():
            return False
    return True


@pytest.mark.parametrize("name", [*CASES, *STEPPED])
def test_steps_are_followed_through_what_acts_on_each_by_itself(name, rng):
    """The axis that is said to be kept is one, and where there is one it is found, if an operation
    takes all of it: what only moves a part, or single entries, is not followed.
    """
    op, shapes = (CASES | STEPPED)[name]
    for operand, shape in enumerate(shapes):
        for axis in range(len(shape)):
            kept = kept_axis(op, operand, axis, shapes)
            every = range(len(op.shape))
            alone = [k for k in every if acts_alone(op, shapes, operand, axis, k, rng)]
            if op.kind == "shift" and operand == 1 and axis == 0:
                assert kept == 0  # to the next step
            elif shape[axis] > 1:
                assert kept in alone or (kept is None and not alone)
            else:
                assert kept is None or op.shape[kept] == 1
