"""Proven bounds: what may wrap around p is refused, whatever a builder was told."""

from __future__ import annotations

import contextlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import zkjax
from zkjax import fixed
from zkjax.errors import (
    OverflowBoundError,
    StatementError,
    TraceError,
    VerificationError,
    ZkjaxError,
)
from zkjax.field.goldilocks import P
from zkjax.program.bounds import prove_bounds, undischarged
from zkjax.program.builder import Builder
from zkjax.program.derivation import Bounds
from zkjax.program.induction import LARGEST, repeated
from zkjax.program.intervals import GROWTH, Sums
from zkjax.program.intervals import LARGEST as LARGEST_BOUND
from zkjax.program.normal_form import normal_form
from zkjax.program.ops import Op
from zkjax.program.program import Lookup, Port, Program
from zkjax.program.statement import Statement
from zkjax.program.tables import Table, range_table
from zkjax.program.wellformed import require_well_formed
from zkjax.verify import verify_statement

WIDE = 1  # what a builder may be told of any variable: the pass does not listen


def built(b: Builder, inputs: list[tuple[int, str, int]], output: int) -> Program:
    """The program with ports (variable, dtype, group) and one public int64 output."""
    ports = [Port(v, dtype, group, str(i)) for i, (v, dtype, group) in enumerate(inputs)]
    return normal_form(b, ports, [Port(output, "int64", -1, "")])[0]


def confined(b: Builder, number: int = 0, dtype: str = "int8", shape=(4,)) -> int:
    var = b.input(number, shape, dtype, str(number))
    b.input_range_check(var, dtype, str(number))
    return var


def advice(b: Builder, kind: str, inputs, shape, *params) -> int:
    return b.add(kind, inputs, shape, WIDE, *params)


def wide(b: Builder, var: int, bits: int) -> int:
    """A value of about so many bits, made of products that are believed to be small."""
    value, size = var, 7
    while size < bits:
        step = min(size, bits - size)
        factor = b.affine([(var, 1 << step)], bound=WIDE)
        value = b.add("multiply", sorted([value, factor]), b.shape(var), WIDE)
        size += 7 + step
    return value


def refused(program: Program, match: str) -> None:
    with pytest.raises(OverflowBoundError, match=match):
        prove_bounds(program)
    with pytest.raises(OverflowBoundError, match=match):
        Statement(program).require_proven()


# What each relation needs -------------------------------------------------------------------------


def rounding(bits: int, dropped: int) -> Program:
    b = Builder()
    z = wide(b, confined(b), bits + dropped - 1)
    y = advice(b, "round", [z], (4,), dropped)
    b.signed_range_check(y, bits, y)
    rem = b.affine([(z, 1), (y, -(1 << dropped))], 1 << (dropped - 1), bound=WIDE)
    b.range_check(rem, dropped, y)
    return built(b, [(0, "int8", 0)], y)


def division(width: int, bits: int) -> Program:
    b = Builder()
    x = confined(b)
    d = wide(b, x, width)
    y = advice(b, "divide", [x, d], (4,))
    b.signed_range_check(y, bits, y)
    product = b.add("multiply", sorted([d, y]), (4,), WIDE)
    b.range_check(b.affine([(x, 1), (product, -1)], bound=WIDE), width, y)
    return built(b, [(x, "int8", 0)], y)


def comparison(bits: int, width: int) -> Program:
    b = Builder()
    x = wide(b, confined(b), bits)
    bit = advice(b, "nonnegative", [x], (4,))
    b.lookup(range_table(1), [bit], bit)
    b.range_check(b.affine([(x, 1), (bit, -(1 << width))], 1 << width, bound=WIDE), width, bit)
    return built(b, [(0, "int8", 0)], bit)


def column(bits: int) -> Program:
    b = Builder()
    x = wide(b, confined(b), bits)
    table = Table("t", (np.arange(3), np.array([5, 6, 7])))
    y = advice(b, "lookup", [x], (4,), table.digest.hex(), 1)
    b.lookup(table, [x, y], y)
    return built(b, [(0, "int8", 0)], y)


def zero(bits: int) -> Program:
    b = Builder()
    x = confined(b)
    name = b.alias(x)
    b.require_zero(b.affine([(wide(b, x, bits), 1)], bound=WIDE), name)
    return built(b, [(x, "int8", 0)], name)


def output(bits: int) -> Program:
    b = Builder()
    return built(b, [(0, "int8", 0)], wide(b, confined(b), bits))


def maximum(bits: int, width: int) -> Program:
    b = Builder()
    x = wide(b, confined(b, shape=(2, 4)), bits)
    m = advice(b, "max", [x], (2,))
    spread = b.broadcast(m, (2, 4), [0])
    b.range_check(b.affine([(spread, 1), (x, -1)], bound=WIDE), width, m)
    return built(b, [(0, "int8", 0)], m)


WRAPS = {  # name: (a program that is fine, one that may wrap)
    "rounding": (rounding(30, 20), rounding(48, 20)),
    "division": (division(20, 30), division(40, 40)),
    "comparison": (comparison(50, 50), comparison(64, 50)),
    "comparison to a width": (comparison(20, 40), comparison(20, 64)),
    "key of a table": (column(50), column(70)),
    "zero": (zero(50), zero(70)),
    "output": (output(50), output(70)),
    "maximum": (maximum(40, 40), maximum(63, 40)),
    "maximum to a width": (maximum(20, 40), maximum(20, 64)),
}


@pytest.mark.parametrize("name", WRAPS)
def test_relations_that_may_wrap_are_refused(name):
    fine, wraps = WRAPS[name]
    prove_bounds(fine)
    refused(wraps, "wrap around the field")


def test_the_last_bound_that_does_not_wrap():
    """X + 2^w < p, exactly: e - t can't be p, nor -p."""
    upper = ((P - 129, True), (P - 128, True), (P - 127, False))
    lower = ((130 - P, True), (129 - P, True), (128 - P, False))
    for offset, holds in (*upper, *lower):
        b = Builder()
        x = confined(b)
        y = b.add("affine", [b.alias(x)], (4,), WIDE, (1,), offset)  # up to offset + 127
        b.lookup(Table("zero", (np.zeros(1, np.int64),)), [y], b.alias(x))
        program = built(b, [(x, "int8", 0)], b.alias(x))
        if holds:
            prove_bounds(program)
        else:
            refused(program, "of up to 64 bits")


def test_the_last_output_that_does_not_wrap():
    """A public output is any integer of its type: max + 2^52 < p and max of the type - min < p."""
    room = P - 2**52
    for offset, holds in (
        (room - 128, True),
        (room - 127, False),
        (129 - room, True),
        (128 - room, False),
    ):
        b = Builder()
        x = confined(b)
        y = b.add("affine", [b.alias(x)], (4,), WIDE, (1,), offset)
        program = built(b, [(x, "int8", 0)], y)
        if holds:
            prove_bounds(program)
        else:
            refused(program, "output")


def test_an_input_without_relations_is_refused():
    b = Builder()
    x = b.input(0, (4,), "int8", "x")
    refused(built(b, [(x, "int8", 0)], b.constant(np.arange(4))), "not confined")


def test_a_sealed_output_fits_its_type():
    for factor, fine in ((1, True), (2, False)):
        b = Builder()
        x = confined(b)
        y = b.affine([(b.alias(x), factor)], bound=WIDE)
        program = built(b, [(x, "int8", 0)], y)
        program.outputs[0] = Port(program.outputs[0].var, "int8", 0, "")
        assert (undischarged(program, prove_bounds(program)) == []) == fine
        program.outputs[0] = Port(program.outputs[0].var, "int64", -1, "")
        assert undischarged(program, prove_bounds(program)) == []


# Where bounds come from ---------------------------------------------------------------------------


def test_a_relation_solves_for_coefficients_of_one_only():
    """2 y in [0, 2^16) mod p leaves y = j / 2 for every odd j too."""
    for coefficient, fine in ((1, True), (-1, True), (2, False), (-2, False)):
        b = Builder()
        x = confined(b)
        y = advice(b, "limb", [x], (4,), 0, 16)
        b.lookup(range_table(16), [b.affine([(y, coefficient)], 1 << 15, bound=WIDE)], y)
        program = built(b, [(x, "int8", 0)], y)
        if fine:
            values = prove_bounds(program)
            ends = sorted(coefficient * (end - 2**15) for end in (0, 2**16 - 1))
            assert values[program.outputs[0].var] == tuple(ends)
        else:
            refused(program, "without a bound")


def test_an_interval_that_holds_an_element_twice_bounds_nothing():
    b = Builder()
    x = confined(b)
    y = advice(b, "limb", [x], (4,), 0, 16)
    shift = b.add("affine", [y], (4,), WIDE, (1,), P // 2 + 2**15)  # y within p/2 and beyond
    b.lookup(range_table(16), [shift], y)
    refused(built(b, [(x, "int8", 0)], y), "without a bound")


@pytest.mark.parametrize("left_out", [None, 0, 1, 2, 3])
def test_slices_bound_a_tensor_if_they_cover_it(left_out):
    b = Builder()
    x = b.input(0, (6, 5), "uint8", "x")
    boxes = [((0, 0), (4, 3)), ((0, 3), (4, 2)), ((4, 0), (2, 3)), ((4, 3), (2, 2))]
    for i, (start, shape) in enumerate(boxes):
        if i != left_out:
            b.range_check(b.slice(x, start, shape), 8, x)
    program = built(b, [(x, "uint8", 0)], x)
    if left_out is None:
        assert prove_bounds(program)[0] == (0, 255)
    else:
        refused(program, "without a bound")


def test_slices_with_gaps_do_not_cover():
    b = Builder()
    x = b.input(0, (8,), "uint8", "x")
    b.range_check(b.slice(x, (0,), (4,), (2,)), 8, x)
    b.range_check(b.slice(x, (4,), (4,)), 8, x)
    refused(built(b, [(x, "uint8", 0)], x), "without a bound")
    b = Builder()
    x = b.input(0, (8, 2), "uint8", "x")
    for start in (0, 4):  # gaps along one axis alone
        b.range_check(b.slice(x, (start, 0), (4, 2), (2 - start // 4, 1)), 8, x)
    refused(built(b, [(x, "uint8", 0)], x), "without a bound")


def test_slices_bound_committed_values_only():
    """Of a product they say what it is mod p."""
    for bits, fine in ((50, True), (70, False)):
        b = Builder()
        x = confined(b)
        z = wide(b, x, bits)
        b.range_check(b.slice(z, (0,), (2,)), 8, x)
        b.range_check(b.slice(z, (2,), (2,)), 8, x)
        program = built(b, [(x, "int8", 0)], z)
        if fine:
            prove_bounds(program)
        else:
            refused(program, "of up to 78 bits")


def test_a_relation_of_known_values_that_may_wrap_confines_none():
    """x (p + 1) / 2 in {0, 1} says x = 0 over the integers, and x = 2 solves it mod p."""
    b = Builder()
    x = confined(b)
    b.lookup(range_table(1), [b.affine([(x, (P + 1) // 2)], bound=WIDE)], x)
    refused(built(b, [(x, "int8", 0)], x), "wrap")


@pytest.mark.parametrize("low, high", [(0, 1), (0, 2), (-1, 1), (-1, 0), (None, None)])
def test_a_choice_is_by_a_bit(low, high):
    """z + b (y - z) is between y and z for a bit b."""
    b = Builder()
    y, z = confined(b, 0), confined(b, 1, "uint8")
    bit = advice(b, "nonnegative", [y], (4,))
    if low is not None:
        key = b.affine([(bit, 1)], -low, bound=WIDE)
        b.lookup(Table("t", (np.arange(high - low + 1),)), [key], bit)
    difference = b.affine([(y, 1), (z, -1)], bound=WIDE)
    chosen = b.affine([(z, 1), (b.add("multiply", [bit, difference], (4,), WIDE), 1)], bound=WIDE)
    program = built(b, [(y, "int8", 0), (z, "uint8", 1)], b.alias(chosen))
    if low is None:
        refused(program, "output")
    else:
        values = prove_bounds(program)[program.outputs[0].var]
        assert (values == (-128, 255)) == ((low, high) == (0, 1))


def test_an_input_is_confined_to_its_own_type():
    b = Builder()
    x = b.input(0, (4,), "int8", "x")
    b.range_check(b.affine([(x, 1)], 1 << 15), 16, x)
    refused(built(b, [(x, "int8", 0)], x), "int8")


def test_public_values_stay_exact_in_float64():
    for power, fine in ((44, True), (46, False)):
        b = Builder()
        x = b.input(0, (4,), "int8", "x", known=True)
        y = b.affine([(b.alias(x), 1 << power), (x, 1)], bound=WIDE)
        z = b.affine([(b.alias(y), 1), (y, -1), (x, 1)], bound=WIDE)  # small in the end
        program = built(b, [(x, "int8", -1)], z)
        if fine:
            prove_bounds(program)
        else:
            refused(program, "public value is larger")


@pytest.mark.parametrize("constant", [1, -1])
def test_what_relations_say_of_public_values_does_not_make_them_smaller(constant):
    """(2^53 + 1) k + m in {0, 1}, for an integer k in {0, 1}, says that k = 0. But a constant k
    is 1 where m is 1 - 2^53: exactly that gives 2, and in float64 it gives 1.
    """
    large = 2**53 + 1
    ops = [
        Op("input", (), (2,), (0,)),
        *(Op("constant", (), (2,), (i,)) for i in range(3)),
        Op("affine", (3, 1, 2), (2,), ((constant * large, 1, 1), 0)),
    ]
    constants = [np.array([0, n]) for n in (-(2**52), 1 - 2**52, constant)]
    ports = [Port(0, "int8", -1, "x")], [Port(4, "int64", -1, "")]
    program = Program(ops, constants, [range_table(1)], [Lookup(0, (4,))], [], *ports)
    require_well_formed(program)
    refused(program, "a public value is larger")


def test_constants_stay_exact_in_float64():
    for factor, fine in ((1, True), (3, False)):
        b = Builder()
        x = confined(b)
        wide = b.affine([(b.constant((1 << 52) - np.arange(4)), factor)], bound=WIDE)
        z = b.affine([(b.alias(wide), 1), (wide, -1), (x, 1)], bound=WIDE)
        program = built(b, [(x, "int8", 0)], z)
        if fine:
            prove_bounds(program)
        else:
            refused(program, "public value")


def test_that_public_values_are_exact_does_not_rest_on_relations_about_them():
    """A sum that a relation says is zero is evaluated in float64 like any other."""
    b = Builder()
    x = b.input(0, (8,), "int32", "x", known=True)
    w = b.input(1, (8,), "int32", "w", known=True)
    total = b.add("sum", [b.affine([(x, 1 << 21), (w, 1)], bound=WIDE)], (), WIDE, (0,), (8,))
    b.require_zero(total, w)
    refused(built(b, [(x, "int32", -1), (w, "int32", -1)], w), "public value")


def test_obligations_are_shown_by_what_is_left():
    b = Builder()
    x = confined(b)
    b.rely(x, -128, 127, "")
    b.rely(x, -127, 127, "")
    b.rely(x, -128, 126, "")
    b.rely(b.multiply(x, x), 0, 1 << 14, "")
    program = built(b, [(x, "int8", 0)], x)
    assert undischarged(program, prove_bounds(program)) == [(0, -128, 126), (0, -127, 127)]
    with pytest.raises(OverflowBoundError, match="126"):
        Statement(program).require_proven()


# Scans --------------------------------------------------------------------------------------------


def loop(step, length: int = 4, start: int | None = None, width: int = 3) -> Program:
    """A scan whose carry c' = step(builder, what enters), tied to it by a zero relation."""
    b = Builder()
    x = confined(b, shape=(width,))
    carry = advice(b, "carry", (), (length, width), 0)
    enters = b.add("shift", (x, carry), (length, width), WIDE, False)
    leaves = step(b, enters, carry)
    b.require_zero(b.affine([(leaves, 1), (carry, -1)], bound=WIDE), carry)
    return built(b, [(x, "int8", 0)], carry)


def by_onehot(summed: int, bits_are_bits: bool = True):
    """Twice an entry of its own step that a onehot of constants names; or sums of such entries."""

    def step(b: Builder, c: int, _) -> int:
        index = np.array([[0, 1, 2], [2, 2, 2], [1, 0, 1], [0, 0, 2]])
        unit = 1 if bits_are_bits else 2
        bits = [b.constant(unit * ((index >> i) & 1)) for i in range(2)]
        hot = b.add("onehot", bits, (4, 3, 3), WIDE, 3)
        picked = b.add("contract", [hot, c], (4, 3), WIDE, ((0, 0),), ((summed, 1),))
        return b.affine([(picked, 2)], 1)

    return step


STEPS = {  # name: (what a step does, the bound of the carry after four of them)
    "kept": (lambda b, c, _: b.affine([(b.alias(c), 1)], 0), 128),
    "negated": (lambda b, c, _: b.affine([(c, -1)]), 128),
    "counted": (lambda b, c, _: b.affine([(c, 1)], 5), 128 + 20),
    "counted down": (lambda b, c, _: b.affine([(c, 1)], -5), 128 + 20),
    "doubled": (lambda b, c, _: b.affine([(c, 2)], 1), 128 * 16 + 15),
    "chosen and doubled": (by_onehot(summed=2), 128 * 16 + 15),
    "moved": (
        lambda b, c, _: b.reshape(b.transpose(b.reshape(c, (4, 3, 1)), (0, 2, 1)), (4, 3)),
        128,
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_carry_is_bounded_by_induction(name):
    step, bound = STEPS[name]
    program = loop(step)
    low, high = prove_bounds(program)[program.outputs[0].var]
    assert max(-low, high) == bound


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_carry_that_starts_in_two_ways(order):
    """c' = e + e', where e starts with zeros and e' with x: 128, 256, .."""
    ops = [
        Op("input", (), (3,), (0,)),
        Op("constant", (), (3,), (0,)),
        Op("carry", (), (4, 3), (0,)),
        *(Op("shift", (start, 2), (4, 3), (0,)) for start in order),
        Op("affine", (2, 3, 4), (4, 3), ((-1, 1, 1), 0)),
    ]
    ports = [Port(0, "int8", -1, "x")], [Port(2, "int64", -1, "")]
    program = Program(ops, [np.zeros(3, np.int64)], [], [], [5], *ports)
    require_well_formed(program)
    low, high = prove_bounds(program)[2]
    assert max(-low, high) >= 128 * 8


def test_a_carry_that_grows_by_another():
    """c' = c + d, d' = d, c starts with zeros and d with x."""
    b = Builder()
    x = confined(b)
    carries = [advice(b, "carry", (), (4, 4), i) for i in (0, 1)]
    starts = (b.constant(np.zeros(4, np.int64)), x)
    c, d = (b.add("shift", v, (4, 4), WIDE, False) for v in zip(starts, carries, strict=True))
    for carry, leaves in zip(carries, ([(c, 1), (d, 1)], [(d, 1), (c, 0)]), strict=True):
        b.require_zero(b.affine([*leaves, (carry, -1)], bound=WIDE), carry)
    program = built(b, [(x, "int8", 0)], carries[0])
    low, high = prove_bounds(program)[program.outputs[0].var]
    assert max(-low, high) == 128 * 4


@pytest.mark.parametrize("steps", [60, 64, 1 << 13])
def test_a_carry_that_starts_with_zero_and_may_wrap_is_refused(steps):
    """(w, c) -> (w', c + w) with w' in {0, 2^52}: c = 2^64 mod p after 2^12 steps. The rate counts
    as if w were as large as c, 2^steps.
    """
    shape, large = (steps, 2), 1 << 52
    table = Table("t", (np.arange(2), np.array([0, large])))

    def column(var: int, c: int) -> Op:
        return Op("slice", (var,), (steps, 1), ((0, c), (1, 1), shape))

    def into(var: int, c: int) -> Op:
        return Op("pad", (var,), shape, ((0, c), (1, 1), (steps, 1)))

    ops = [
        Op("input", (), (steps, 1), (0,)),
        Op("constant", (), (2,), (0,)),
        Op("carry", (), shape, (0,)),
        Op("shift", (1, 2), shape, (0,)),
        column(3, 0),
        column(3, 1),
        Op("affine", (0,), (steps, 1), ((large,), 0)),
        into(6, 0),
        into(4, 1),
        into(5, 1),
        Op("affine", (7, 8, 9, 2), shape, ((1, 1, 1, -1), 0)),
        Op("limb", (4,), (steps, 1), (0, 1)),
        Op("alias", (4,), (steps, 1)),
    ]
    program = Program(
        ops,
        [np.zeros(2, np.int64)],
        [table],
        [Lookup(0, (11, 12))],
        [10],
        [Port(0, "bool", -1, "x")],
        [Port(2, "int64", -1, "")],
    )
    require_well_formed(program)
    refused(program, "carry")


def test_a_rate_that_is_repeated():
    assert repeated((1, 3), 1 << 20) == (1, 3 << 20)
    assert repeated((0, 3), 5) == (1, 15)
    assert repeated((3, 2), 4) == (81, 80)
    factor, rest = repeated((2, 1), 1 << 13)  # not 2^8192
    assert LARGEST < rest <= factor < 1 << 80


def test_growth_that_no_bound_holds_is_refused():
    refused(loop(lambda b, c, _: b.multiply(c, c)), "carry")
    refused(loop(lambda b, c, _: b.affine([(c, 2)]), length=70), "carry")
    # Over the columns of a onehot matrix several entries may add up, and one of no bits is none.
    refused(loop(by_onehot(summed=1)), "carry")
    refused(loop(by_onehot(summed=2, bits_are_bits=False)), "carry")

    def over_two_axes(b: Builder, c: int, _) -> int:
        bits = [b.constant((np.arange(36).reshape(4, 3, 3) >> i) & 1) for i in range(2)]
        hot = b.add("onehot", bits, (4, 3, 3, 3), WIDE, 3)
        several = b.broadcast(c, (4, 3, 3), (0, 1))
        pairs = ((3, 1), (2, 2))
        return b.add("contract", [hot, several], (4, 3), WIDE, ((0, 0),), pairs)

    refused(loop(over_two_axes), "carry")


def scan_of(ops: list[Op], tables: list[Table], lookups: list[Lookup], zeros: list[int]) -> Program:
    """Raw operations behind an input x, zeros, a carry of four steps and what enters them."""
    first = [
        Op("input", (), (3,), (0,)),
        Op("constant", (), (3,), (0,)),
        Op("carry", (), (4, 3), (0,)),
        Op("shift", (1, 2), (4, 3), (0,)),
    ]
    ports = [Port(0, "int8", -1, "x")], [Port(2, "int64", -1, "")]
    program = Program([*first, *ops], [np.zeros(3, np.int64)], tables, lookups, zeros, *ports)
    require_well_formed(program)
    return program


def test_a_carry_is_defined_by_a_relation_that_says_something_of_it():
    """c' = c + 5; before that, 0 + 0 c' + 0 c = 0."""
    ops = [
        Op("affine", (3,), (4, 3), ((1,), 5)),
        Op("broadcast", (1,), (4, 3), ((1,), (3,))),
        Op("affine", (5, 4, 2), (4, 3), ((1, 0, 0), 0)),
        Op("affine", (4, 2), (4, 3), ((1, -1), 0)),
    ]
    assert max(map(abs, prove_bounds(scan_of(ops, [], [], [6, 7]))[2])) == 20


def test_a_value_that_stands_twice_in_a_relation_is_not_bounded_by_its_rest():
    """y - reversed y + 0 c = 0 is true of whatever grows: y - c in [0, 2^8), c' = y."""
    ops = [
        Op("limb", (3,), (4, 3), (0, 8)),
        Op("reverse", (4,), (4, 3), ((1,),)),
        Op("affine", (4, 5, 3), (4, 3), ((1, -1, 0), 0)),
        Op("affine", (4, 3), (4, 3), ((1, -1), 0)),
        Op("affine", (4, 2), (4, 3), ((1, -1), 0)),
    ]
    tables = [Table("zero", (np.zeros(1, np.int64),)), range_table(8)]
    program = scan_of(ops, tables, [Lookup(0, (6,)), Lookup(1, (7,))], [8])
    refused(program, "depends on itself")  # or a bound of 4 * 255 and more


def later_half(b: Builder, c: int) -> int:
    return b.slice(c, (2, 0), (2, 4))


def first(b: Builder, c: int) -> int:
    return b.slice(c, (0, 0), (1, 4))


def summed_over_steps(b: Builder, c: int, side: int) -> int:
    """A product with a matrix over the axis of the steps, from the left or the right."""
    matrix = b.constant(np.eye(4, dtype=np.int64)[::-1])
    operands, pair = ([c, matrix], (0, 0)) if side == 0 else ([matrix, c], (1, 0))
    return b.add("contract", operands, (4, 4), WIDE, (), (pair,))


def with_its_transpose(b: Builder, c: int, _) -> int:
    """A sum with a value of another step, behind a product."""
    both = b.affine([(c, 1), (b.transpose(c, (1, 0)), 1)], bound=WIDE)
    ones = b.constant(np.triu(np.ones((4, 4), np.int64)))
    return b.add("multiply", [ones, both], (4, 4), WIDE)


def test_steps_are_not_mixed():
    """A value of one step from a later one: no induction, and there need not be one solution."""
    for mixed in (
        lambda b, c, _: b.add("reverse", [c], b.shape(c), WIDE, (0,)),
        lambda b, c, _: b.add("take", [c], b.shape(c), WIDE, 0, (1, 2, 3, 3), b.shape(c)),
        lambda b, c, _: b.transpose(b.reshape(c, (4, 4)), (1, 0)),
        lambda b, c, _: b.affine([(c, 1), (b.transpose(c, (1, 0)), 1)]),
        lambda b, c, carry: b.affine([(carry, 3), (c, -1)]),
        lambda b, c, carry: b.affine([(b.alias(carry), 1), (c, 0)]),
        lambda b, c, _: b.add("pad", [later_half(b, c)], (4, 4), WIDE, (0, 0), (1, 1), (2, 4)),
        lambda b, c, _: b.broadcast(b.add("sum", [c], (4,), WIDE, (0,), (4, 4)), (4, 4), (0,)),
        lambda b, c, _: b.broadcast(b.reshape(first(b, c), (4,)), (4, 4), (1,)),
        lambda b, c, _: summed_over_steps(b, c, 0),
        lambda b, c, _: summed_over_steps(b, c, 1),
        with_its_transpose,
    ):
        refused(loop(mixed, width=4), "depends on itself|about a value without a bound")


def recurrence(b: Builder, length: int, of: int = -1) -> tuple[int, int, int]:
    """(carry, what enters, advice that is computed from it), nothing of which is bounded yet."""
    carry = advice(b, "carry", (), (length,), 0)
    enters = b.add("shift", (b.constant(np.zeros((), np.int64)), carry), (length,), WIDE, False)
    return carry, enters, advice(b, "limb", [enters if of < 0 else of], (length,), 0, 16)


@pytest.mark.parametrize("mixed", ["reverse", "another hint", "split", "transpose", "reshape"])
def test_a_relation_between_steps_bounds_nothing_inside_the_loop(mixed):
    """y + e in [0, 2^16), c = y, and reverse(y) = e: y = (5, 0) solves it, though from e = 0 in the
    first step the last relation would give y = 0 in all.
    """
    b = Builder()
    x = confined(b)
    if mixed in ("reverse", "another hint"):
        known = b.constant(np.arange(2)) if mixed == "another hint" else -1
        carry, enters, y = recurrence(b, 2, known)
        other = b.add("reverse", [y], (2,), WIDE, (0,))
        enters_there = enters
    elif mixed == "split":
        carry, enters, y = recurrence(b, 4)
        other = b.add("reverse", [b.reshape(y, (2, 2))], (2, 2), WIDE, (1,))
        enters_there = b.reshape(enters, (2, 2))
    else:
        carry = advice(b, "carry", (), (2, 2), 0)
        start = b.constant(np.zeros((2,), np.int64))
        enters = b.add("shift", (start, carry), (2, 2), WIDE, False)
        y = advice(b, "limb", [enters], (2, 2), 0, 16)
        other, enters_there = b.transpose(y, (1, 0)), enters
        if mixed == "reshape":
            other, enters_there = b.reshape(other, (4,)), b.reshape(enters, (4,))
    b.lookup(range_table(16), [b.affine([(y, 1), (enters, 1)], bound=WIDE)], y)
    b.require_zero(b.affine([(other, 1), (enters_there, -1)], bound=WIDE), y)
    b.require_zero(b.affine([(carry, 1), (y, -1)], bound=WIDE), carry)
    program = built(b, [(x, "int8", 0)], carry)
    low, high = prove_bounds(program)[program.outputs[0].var]
    assert low <= 0 and high >= 5


def test_nothing_is_left_from_an_attempt_at_a_loop():
    """A view that a relation looks at before it is visited again: y - 3 e in [0, 2^16), twice, so
    that y may be 13 times as large in the third step.
    """
    n, eight, sixteen = 3, range_table(8), range_table(16)
    ops = [
        Op("input", (), (4,), (0,)),
        Op("affine", (0,), (4,), ((1,), 128)),
        Op("constant", (), (), (0,)),
        Op("carry", (), (n,), (0,)),
        Op("shift", (2, 3), (n,), (0,)),
        Op("limb", (4,), (n,), (0, 16)),
        Op("affine", (5, 4), (n,), ((1, -3), 0)),
        Op("affine", (4,), (n,), ((1,), 0)),
        Op("affine", (5, 7), (n,), ((1, -3), 0)),
        Op("affine", (3, 5, 7), (n,), ((1, -1, 0), 0)),
    ]
    program = Program(
        ops,
        [np.zeros((), np.int64)],
        [sixteen, eight],
        [Lookup(0, (6,)), Lookup(0, (8,)), Lookup(1, (1,))],
        [9],
        [Port(0, "int8", 0, "x")],
        [Port(3, "int64", -1, "")],
    )
    require_well_formed(program)
    values = prove_bounds(program)
    assert values[3][1] >= 65535 * 13 and values[7][1] >= 65535 * 4


def test_coefficients_of_one_variable_add_up():
    b = Builder()
    x = confined(b)
    y = b.add("affine", [x, x], (4,), WIDE, (1 << 62, 1), 0)
    program = built(b, [(x, "int8", 0)], y)
    refused(program, "output")
    with pytest.raises(StatementError, match="stands twice"):
        require_well_formed(program)


def test_both_directions_at_once_are_no_scan():
    def step(b, c, carry):
        x = 0
        back = b.add("shift", (x, carry), b.shape(carry), WIDE, True)
        return b.affine([(c, 1), (back, 1)], bound=WIDE)

    refused(loop(step), "depends on itself")


def test_a_bound_that_stopped_early():
    """34 choices between c and -c, which have no product of factors; it ended as 0."""

    def body(c, y):
        for _ in range(34):
            c = jnp.where(y > 0, c, jnp.int8(0) - c)
        return c + jnp.where(y > 0, jnp.int8(60), jnp.int8(0)), None

    def fn(x):
        return lax.scan(body, jnp.int8(0), x)[0].astype(jnp.int32)

    x = np.ones(4, np.int8)
    with pytest.raises(OverflowBoundError, match="int8 may wrap"):
        zkjax.trace(fn)(zkjax.Private(x))

    def wide(x):  # the same in a type that holds it
        return lax.scan(lambda c, y: body32(c, y), jnp.int32(0), x)[0]

    def body32(c, y):
        for _ in range(8):
            c = jnp.where(y > 0, c, 0 - c)
        return c + jnp.where(y > 0, 60, 0), None

    program = zkjax.trace(wide)(zkjax.Private(x)).program
    assert prove_bounds(program)[program.outputs[0].var] == (-240, 240)
    assert zkjax.provable(wide)(x) == 240


def nested(step, ends: int, factor: int) -> Program:
    """c' of a scan in a scan, so many times what enters step ``ends`` of the inner one."""
    length = 7
    b = Builder()
    x = confined(b, shape=(1,))
    outer = advice(b, "carry", (), (2, 1), 0)
    c = b.add("shift", (x, outer), (2, 1), WIDE, False)
    inner = advice(b, "carry", (), (length, 2, 1), 1)
    d = b.add("shift", (c, inner), (length, 2, 1), WIDE, False)
    leaves = step(b, d)
    b.require_zero(b.affine([(leaves, 1), (inner, -1)], bound=WIDE), inner)
    last = b.reshape(b.slice(d, (ends, 0, 0), (1, 2, 1)), (2, 1))
    b.require_zero(b.affine([(last, factor), (outer, -1)], bound=WIDE), outer)
    return built(b, [(x, "int8", 0)], outer)


def test_what_enters_an_inner_scan_grows_with_it():
    program = nested(lambda b, d: b.affine([(d, 0)], 3), 0, 2)
    low, high = prove_bounds(program)[program.outputs[0].var]
    assert max(-low, high) >= 4 * 128
    program = nested(lambda b, d: b.affine([(d, 1)], 5), 6, 1)
    refused(program, "carry of a scan has no bound")  # no rate is found; 128 + 2 * 30 would do


def test_nested_scans_grow_together():
    def fn(x):
        def outer(c, y):
            def inner(d, z):
                return d + z, None

            return lax.scan(inner, c, y)[0], None

        return lax.scan(outer, jnp.int32(0), x)[0]

    program = zkjax.trace(fn)(zkjax.Private(np.ones((5, 7), np.int8))).program
    low, high = prove_bounds(program)[program.outputs[0].var]
    assert max(-low, high) == 35 * 128


# Tables, names, merged roundings ------------------------------------------------------------------


def table_of(column) -> Table:
    return Table("t", (np.arange(len(column)), column))


def test_tables_hold_the_integers_they_were_given():
    narrow = table_of(np.array([-128, 5], np.int8))
    assert narrow.columns[1].dtype == np.int64 and not narrow.columns[1].flags.writeable
    given = np.array([1, 2])
    table = table_of(given)
    given[0] = 9
    assert list(table.columns[1]) == [1, 2]
    for columns in (
        (np.array([126, 127, -128], np.int8),),
        (np.arange(4), np.array([0, 0.5, 1, 1.5])),
        (np.arange(2), np.array([1.0, np.nan])),
        (np.arange(2), np.array([0, 1 << 60])),
        (np.arange(2), np.array([-(1 << 60), 0])),
        (np.arange(2), np.array([0, 1 << 63], np.uint64)),
        (np.arange(2), np.array([1j, 2])),
        (np.arange(2), np.array(["a", "b"])),
        (np.arange(2), np.arange(3)),
        (np.arange(4).reshape(2, 2),),
        (np.array([], np.int64),),
        (),
    ):
        with pytest.raises(ZkjaxError):
            Table("t", columns)


def test_tables_are_told_apart_by_their_numbers():
    """Tables that count as equal become one, and so do values that are looked up in them."""
    same, others = table_of([1, 2]), [table_of([1, 3]), table_of([1, 2, 3]), range_table(1), "t"]
    assert table_of([1, 2]) == same and hash(table_of([1, 2])) == hash(same)
    assert all(same != other for other in others)
    assert len({t.digest for t in (same, *others[:-1])}) == len(others)
    assert list(table_of(np.array([1.0, 2.0])).columns[1]) == [1, 2]
    with pytest.raises(ZkjaxError, match="no integers"):
        table_of(np.array([0.5, 1.5]))


def test_a_table_of_a_narrow_type_means_what_it_says():
    table = table_of(np.array([-128, 5, 3, 2], np.int8))

    def fn(x):
        (y,) = fixed.lookup(x.astype(jnp.float64), table, 0, (0,))
        return (y * y).astype(jnp.int8).astype(jnp.int32)

    sealed = zkjax.seal(np.array([1, 2], np.int8))
    program = zkjax.trace(fn)(sealed).program
    low, high = prove_bounds(program)[program.outputs[0].var]
    assert low >= -128 and high <= 127  # a conversion of up to 16384 was checked


def test_a_rounding_to_fewer_bits_does_not_outlive_its_use():
    def only_wide(x):
        v = fixed.decode(x, 4)
        fixed.round(v, 0, 4)
        return fixed.encode(fixed.round(v, 0, 12), 0)

    x = np.array([100 * 16], np.int16)
    program = zkjax.trace(only_wide)(zkjax.Private(x)).program
    assert program.evaluate([x])[program.outputs[0].var] == 100
    for kind in (
        lambda v, bits: fixed.divide(v, v * v + 1.0, 8, bits),
        lambda v, bits: fixed.rsqrt(v * v + 1.0, 8, bits),
        lambda v, bits: fixed.max(v, bits),
    ):

        def two(x, kind=kind):
            v = fixed.decode(x, 0)
            kind(v, 9)
            return fixed.encode(kind(v, 16), 8)

        def one(x, kind=kind):
            return fixed.encode(kind(fixed.decode(x, 0), 16), 8)

        shape = zkjax.Private(np.ones((2, 3), np.int8))
        assert zkjax.trace(two)(shape).digest == zkjax.trace(one)(shape).digest


def test_names_are_of_256_bits():
    b = Builder()
    confined(b)
    assert {len(h) for h in b.hashes} == {32}
    with pytest.raises(TypeError, match="'float' object"):
        b.add("limb", [0], (4,), 1, 0.5, 1)  # not taken for the integer below it


def test_an_obligation_of_any_range_gets_a_check_from_both_sides():
    """[0, 2] is no power of two: a check of two bits alone would let 3 pass."""

    def fn(x):
        i = x.astype(jnp.int32)
        return lax.select_n(i, i, 2 * i, 3 * i)

    x = np.array([0, 2, 1], np.int8)
    statement = zkjax.trace(fn)(zkjax.Private(x))
    (index,) = {v for v, low, high in statement.program.obligations if (low, high) == (0, 2)}
    assert prove_bounds(statement.program)[index] == (0, 2)
    zkjax.prove(fn)(zkjax.seal(x, openings=1))
    with pytest.raises(ZkjaxError, match="out of range"):
        zkjax.prove(fn)(zkjax.seal(np.array([0, 3, 1], np.int8), openings=1))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 2), (0, 3), (-3, 4), (-128, 127), (0, 2**20 + 5), (-(2**31), 2**31 - 1)]
)
def test_the_check_of_an_obligation_is_its_range(low, high):
    """No wider, or something else would be proved, and no narrower."""
    b = Builder()
    x = b.input(0, (4,), "int8", "x", known=True)
    y = advice(b, "round", [x], (4,), 1)
    b.rely(y, low, high, "", check=True)
    b.discharge_by_check(*b.obligations)
    program = built(b, [(x, "int8", -1)], y)
    assert prove_bounds(program)[program.outputs[0].var] == (low, high)


@pytest.mark.parametrize("bits", [1, 2, 15, 16, 17, 24, 31, 32, 33, 40, 48, 52])
def test_a_range_check_is_of_so_many_bits(bits):
    """Its limbs hold exactly the numbers that it is for."""
    ranges = {False: (0, 2**bits - 1), True: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)}
    for signed, (low, high) in ranges.items():
        b = Builder()
        x = b.input(0, (4,), "int8", "x", known=True)
        y = b.add("round", [x], (4,), 1 << bits, 1)
        (b.signed_range_check if signed else b.range_check)(y, bits, y)
        program = built(b, [(x, "int8", -1)], y)
        assert prove_bounds(program)[program.outputs[0].var] == (low, high)
        assert sum(program.shape(r.vars[0]) == (4,) for r in program.lookups) == -(-bits // 16)


def test_a_verifier_refuses_a_statement_whose_relations_wrap():
    def fn(x):
        return fixed.encode(fixed.round(fixed.decode(x, 8), 0, 16), 0)

    sealed = zkjax.seal(np.array([300], np.int16))
    _, proof = zkjax.prove(fn)(sealed)
    statement = zkjax.trace(fn)(sealed)
    statement.program.obligations.append((statement.program.outputs[0].var, 0, 1))
    proof.claims.statement = statement.digest
    with pytest.raises(VerificationError, match="bounds"):
        zkjax.verify(Statement(statement.program))(sealed.commitment, proof=proof)


def test_a_statement_that_may_wrap_is_refused_before_its_proof_is_read():
    b = Builder()
    x = b.input(0, (4,), "int8", "x", known=True)
    statement = Statement(built(b, [(x, "int8", -1)], wide(b, x, 70)))
    public = {0: np.zeros(4, np.int8)}, {0: np.zeros(4, np.int64)}
    claims = zkjax.Claims(statement.digest, "s100", *public, [], [])
    with pytest.raises(VerificationError) as caught:
        verify_statement(statement, zkjax.Proof(claims, b""))
    assert caught.value.check == "bounds"


def test_what_jax_drops_is_not_proved():
    def fn(x):
        y = fixed.round(fixed.decode(x, 0), 0, 3)  # out of its range, and of no consequence
        del y
        return x

    with pytest.raises(TraceError, match="'add' in int8 may wrap"):
        zkjax.trace(lambda x: x + x)(zkjax.Private(np.ones(2, np.int8)))
    assert not zkjax.trace(fn)(zkjax.Private(np.ones(2, np.int8))).program.advice


def spent(program: Program) -> int:
    """The steps that are counted, of whatever comes of it."""
    bounds = Bounds(program)
    before = bounds._work
    with contextlib.suppress(OverflowBoundError):
        bounds.derive()
    return before - bounds._work


def ring(carries: int) -> Program:
    """c_i' = c_i + c_(i-1)."""
    b = Builder()
    x = confined(b)
    c = [advice(b, "carry", (), (4, 4), i) for i in range(carries)]
    enter = [b.add("shift", (x, v), (4, 4), WIDE, False) for v in c]
    for i, carry in enumerate(c):
        terms = [(enter[i], 1), (enter[i - 1], 1), (carry, -1)]
        b.require_zero(b.affine(terms, bound=WIDE), carry)
    return built(b, [(x, "int8", 0)], c[0])


def late_mix(carries: int, length: int) -> Program:
    """Carries that all go a long way before their steps are mixed."""
    b = Builder()
    x = confined(b)
    c = [advice(b, "carry", (), (4, 4), i) for i in range(carries)]
    enter = [b.add("shift", (x, v), (4, 4), WIDE, False) for v in c]
    var = b.affine([(v, 1) for v in enter], bound=WIDE)
    for _ in range(length):
        var = b.add("alias", [var], (4, 4), WIDE)
    var = b.add("reverse", [var], (4, 4), WIDE, (0,))
    for carry in c:
        b.require_zero(b.affine([(var, 1), (carry, -1)], bound=WIDE), carry)
    return built(b, [(x, "int8", 0)], c[0])


def many_views(count: int) -> Program:
    """A carry that is a sum of views, each of the one before."""
    b = Builder()
    x = confined(b)
    carry = advice(b, "carry", (), (2, 4), 0)
    view, terms = b.add("shift", (x, carry), (2, 4), WIDE, False), [(carry, -1)]
    for _ in range(count):
        view = b.add("alias", [view], (2, 4), WIDE)
        terms.append((view, 1))
    b.require_zero(b.affine(terms, bound=WIDE), carry)
    return built(b, [(x, "int8", 0)], carry)


def test_inductions_count_their_steps():
    b = Builder()
    x = confined(b)
    var = x
    for _ in range(500):
        var = b.add("alias", [var], (4,), WIDE)
    program = built(b, [(x, "int8", 0)], var)
    assert spent(program) >= 500
    assert spent(ring(30)) >= 2 * 30 * 90
    assert spent(late_mix(50, 80)) >= 50 * 80
    assert spent(many_views(80)) >= 80 * 80 // 2
    bounds = Bounds(program)
    bounds._work = 400
    with pytest.raises(OverflowBoundError, match="too many"):
        bounds.derive()


def test_numbers_too_large_to_be_of_use_are_not_carried_along():
    for ops in (
        [Op("affine", (i,), (2,), ((1 << 62,), 0)) for i in range(20)],
        [Op("affine", (i,), (2,), ((1 << 62 if i else 0,), 1)) for i in range(20)],
    ):
        port = Port(0, "int8", -1, "x")
        program = Program([Op("input", (), (2,), (0,)), *ops], [], [], [], [], [port], [])
        bounds = Bounds(program)
        seen = [n for var in range(21) for n in bounds.peeled(var)[1:]]
        assert max(map(abs, seen)) <= LARGEST_BOUND


def test_a_relation_that_is_no_sum_says_nothing_of_growth():
    b = Builder()
    y = advice(b, "limb", [confined(b)], (4,), 0, 16)
    b.lookup(range_table(16), [y], y)
    bounds = Bounds(built(b, [(0, "int8", 0)], y))
    (relation,) = (r for r in bounds.relations if bounds.ops[r.var].kind == "limb")
    sums = Sums(bounds.ops, GROWTH, lambda v: (0, 1), lambda n: (0, abs(n)), bounds.is_bit)
    assert bounds._rest(relation, relation.var, sums) is None
    assert bounds._rest(relation, relation.var, bounds.sums) == (0, 0)


@pytest.mark.parametrize(
    "kind",
    ["aliases", "doublings", "one long sum", "one long relation", "one long relation of bounded"],
)
def test_the_cost_of_the_pass_is_linear(kind):
    """Steps of Python for 4,000 operations are at most 6 times those for 1,000."""

    def program(n: int) -> Program:
        ops = [Op("input", (), (2,), (0,))]
        zeros: list[int] = []
        if kind == "aliases":
            ops += [Op("alias", (i,), (2,)) for i in range(n)]
            zeros = list(range(1, n + 1))
        elif kind == "doublings":
            ops += [Op("affine", (i,), (2,), ((2,), 1)) for i in range(n)]
            zeros = list(range(1, n + 1))
        else:
            advised = kind != "one long sum"
            each = [Op("limb" if advised else "alias", (0,), (2,), (0, 1) if advised else ())]
            ops += each * n
            ops.append(Op("affine", tuple(range(n + 1)), (2,), ((1,) * (n + 1), 0)))
            zeros = [n + 1]
        port, lookups, tables = Port(0, "int8", -1, "x"), [], []
        if kind == "one long relation of bounded":
            lookups, tables = [Lookup(0, (i,)) for i in range(1, n + 1)], [range_table(1)]
        return Program(ops, [], tables, lookups, zeros, [port], [Port(0, "int8", -1, "")])

    def steps(n: int) -> int:
        count, made = 0, program(n)

        def trace(frame, event, arg):
            nonlocal count
            count += event in ("line", "opcode")
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            with contextlib.suppress(OverflowBoundError):
                prove_bounds(made)
        finally:
            sys.settrace(before)
        return count

    assert steps(4000) <= 6 * steps(1000)
