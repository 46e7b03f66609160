"""Which relations of what was traced are part of the program."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from zkjax.program.builder import Builder
from zkjax.program.normal_form import normal_form
from zkjax.program.program import Port, Program
from zkjax.program.tables import Table


def built(b: Builder, inputs: list[tuple[int, int]], output: int) -> Program:
    """The program with int8 inputs (variable, commitment) and one public output."""
    ports = [Port(v, "int8", group, str(i)) for i, (v, group) in enumerate(inputs)]
    return normal_form(b, ports, [Port(output, "int64", -1, "")])[0]


def checked(b: Builder, var: int, offset: int, bits: int, c: int = 1) -> None:
    """A check of c x + offset that counts whatever becomes of x."""
    b.range_check(b.affine([(var, c)], offset), bits, None)


def within(b: Builder, x: int, y: int) -> None:
    checked(b, x, 128, 8)


def below(b: Builder, x: int, y: int) -> None:
    checked(b, x, 100, 8)


def above(b: Builder, x: int, y: int) -> None:
    checked(b, x, 130, 8)


def twice(b: Builder, x: int, y: int) -> None:
    checked(b, x, 128, 8, 2)


def negated(b: Builder, x: int, y: int) -> None:
    checked(b, x, 127, 8, -1)


def difference(b: Builder, x: int, y: int) -> None:
    b.range_check(b.affine([(x, 1), (y, -1)], 128), 8, None)


def tabulated(b: Builder, x: int, y: int) -> None:
    keys = np.arange(-128, 128)
    b.lookup(Table("squares", (keys, keys**2)), (x, y), None)


def names(b: Builder, x: int, y: int) -> None:
    """Of one value by two names, and by the same name twice."""
    for var in (x, b.alias(x), b.alias(x)):
        checked(b, var, 128, 8)


def narrower(b: Builder, x: int, y: int) -> None:
    checked(b, b.alias(x), 8, 4)
    checked(b, x, 128, 8)
    checked(b, x, 16, 5)


def overlapping(b: Builder, x: int, y: int) -> None:
    checked(b, x, 0, 4)
    checked(b, x, 8, 4)


# (rows, columns) of the tables of the relations that are kept.
KNOWN: dict[Callable, list] = {
    within: [],
    below: [(256, 1)],
    above: [(256, 1)],
    twice: [(256, 1)],
    negated: [(256, 1)],
    difference: [(256, 1)],
    tabulated: [(256, 2)],
}
UNKNOWN: dict[Callable, list] = {
    within: [(256, 1)],
    names: [(256, 1)],
    narrower: [(16, 1)],
    overlapping: [(16, 1), (16, 1)],
    tabulated: [(256, 2)],
}
CASES = [(step, kept, known) for known in (True, False)
         for step, kept in (KNOWN if known else UNKNOWN).items()]  # fmt: skip


@pytest.mark.parametrize(
    ("step", "kept", "known"), CASES, ids=[f"{s.__name__}-{known}" for s, _, known in CASES]
)
def test_a_range_check_goes_only_where_another_implies_it(step, kept, known):
    """``known``: the input is public, so both sides know that it is an int8."""
    b = Builder()
    x, y = (b.input(i, (4,), "int8", str(i), known) for i in range(2))
    step(b, x, y)
    program = built(b, [(x, -1 if known else 0), (y, -1 if known else 1)], x)
    tables = [program.tables[r.table] for r in program.lookups]
    assert [(t.rows, t.width) for t in tables] == kept


@pytest.mark.parametrize("owned", [True, False], ids=["of a value", "of the program"])
def test_what_a_relation_mentions_has_its_own_relations(owned):
    """The remainder of a rounding mentions another hint, whose checks then count as well."""
    b = Builder()
    x = b.input(0, (4,), "int8", "0", True)
    y, hint = (b.add("round", [x], (4,), 1 << 4, s) for s in (4, 5))
    b.signed_range_check(hint, 3, hint)
    b.require_zero(b.affine([(x, 1), (hint, -32)]), hint)
    b.range_check(b.affine([(x, 1), (y, -16), (hint, 32)], 8), 4, y if owned else None)
    program = built(b, [(x, -1)], y if owned else x)
    assert sorted(program.tables[r.table].rows for r in program.lookups) == [8, 16]
    assert len(program.zeros) == 1


def test_what_is_dead_has_no_relations():
    b = Builder()
    x = b.input(0, (4,), "int8", "0", True)
    y = b.add("round", [x], (4,), 1 << 4, 4)
    b.range_check(b.affine([(x, 1), (y, -16)], 8), 4, y)
    b.require_zero(b.affine([(x, 1), (y, -16)]), y)
    program = built(b, [(x, -1)], x)
    assert (len(program.ops), program.lookups, program.zeros) == (1, [], [])


def test_moves_that_follow_each_other_are_one():
    b = Builder()
    x = b.input(0, (2, 3), "int8", "0", True)
    flat = b.reshape(x, (6,))
    tall = b.reshape(flat, (3, 2))
    assert b.shape(tall) == (3, 2) and b.ops[tall].inputs == (x,)
    assert b.reshape(tall, (2, 3)) == b.transpose(b.transpose(x, (1, 0)), (1, 0)) == x
    row = b.broadcast(b.broadcast(b.sum(x, (0,)), (1, 3), (1,)), (4, 3), (0, 1))
    assert (b.shape(row), b.ops[row].params) == ((4, 3), ((1,), (3,)))
