"""Every hint is unique: off by one, with all that follows recomputed honestly, it is rejected."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import zkjax
from soundness.cheating import bump, prove, rejected, trace_call, variables
from soundness.programs import SMALL, every_hint, every_hint_input
from zkjax.verify import verify_statement

KINDS = {
    "rounded": ("round", "limb"),
    "tabulated": ("lookup",),
    "located": ("locate", "lookup"),
    "divided": ("divide",),
    "inverse_root": ("rsqrt", "limb"),
    "maximum": ("max", "argmax_bit"),
    "compared": ("nonnegative",),
    "first": ("argmax_bit",),
    "largest_two": ("argmax_bit",),
    "quotient": ("divide",),
    "whole_part": ("round",),
    "embedded": ("limb", "nonnegative"),
    "scanned": ("carry", "round"),
}
CASES = [(name, kind) for name, kinds in KINDS.items() for kind in kinds]


@cache
def sealed_call(name: str):
    fn, x = SMALL[name]
    sealed = zkjax.seal(x, openings=1)
    return trace_call(fn, (sealed,)), (sealed,)


@pytest.mark.parametrize("name", SMALL)
def test_the_honest_proof_verifies(name):
    """The helper without a change is the honest prover."""
    traced, args = sealed_call(name)
    _, proof = prove(traced, args)
    verify_statement(traced.statement, proof)


@pytest.mark.parametrize("by", [1.0, -1.0])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_hint_off_by_one(name, kind, by):
    """Each variable of a kind in turn; outputs and multiplicities follow from the changed value."""
    traced, args = sealed_call(name)
    targets = variables(traced, kind)
    assert targets
    for var in targets:
        size = int(np.prod(traced.statement.program.shape(var)))
        _, proof = prove(traced, args, {var: bump(size - 1, by)})
        rejected(traced, proof, "linear test")


@pytest.mark.parametrize("name", SMALL)
def test_every_hint_is_confined_by_a_lookup(name):
    """A committed field element that no lookup sees could be anything: as a fraction mod p it can
    satisfy equations that have one solution in small integers.
    """
    program = sealed_call(name)[0].statement.program
    confined = set()
    for var in (v for relation in program.lookups for v in relation.vars):
        op = program.ops[var]
        confined.add(var)
        if op.kind == "affine":  # an offset, or the lowest limb
            for operand, c in zip(op.inputs, op.params[0], strict=True):
                others = [o for o in op.inputs if o != operand]
                if c == 1 and all(program.ops[o].kind == "limb" for o in others):
                    confined.add(operand)
    # These equal a checked value: the carried one, or the operand that is the maximum.
    tied = {v for v, op in enumerate(program.ops) if op.kind in ("carry", "max")}
    assert set(program.advice) - tied <= confined


def test_every_kind_of_hint_is_attacked():
    """No advice operation is missing from the cases above."""
    from zkjax.program.ops import RULES

    advice = {kind for kind, rule in RULES.items() if rule.cls == "advice"}
    assert advice == {kind for _, kind in CASES}


@cache
def large_call():
    x = every_hint_input()
    sealed = zkjax.seal(x, openings=1)
    return trace_call(every_hint, (sealed,)), (sealed,)


@pytest.mark.parametrize(
    "kind", ["round", "lookup", "divide", "rsqrt", "max", "argmax_bit", "nonnegative", "carry"]
)
def test_a_hint_off_by_one_in_a_larger_program(kind):
    """silu, softmax, embedding and a scan together; the last variable of each kind."""
    traced, args = large_call()
    _, proof = prove(traced, args, {variables(traced, kind)[-1]: bump()})
    rejected(traced, proof, "linear test")


def test_the_second_best_maximum():
    """A maximum that is another entry of the row, with the index bits of that entry."""
    traced, args = sealed_call("maximum")
    (m,) = variables(traced, "max")
    low, high = sorted(
        variables(traced, "argmax_bit"), key=lambda v: traced.statement.program.ops[v].params
    )
    lie = {
        m: lambda v: np.array([5.0, 7.0]),
        low: lambda v: np.array([0.0, 0.0]),
        high: lambda v: np.array([0.0, 0.0]),
    }
    _, proof = prove(traced, args, lie)
    rejected(traced, proof, "linear test")


def test_a_later_one_of_equal_maxima():
    """The index of the second of two equal largest entries: JAX gives the first."""
    traced, args = sealed_call("first")
    ops = traced.statement.program.ops
    lie = {
        v: lambda x, v=v: x * 0 + (2 >> ops[v].params[0]) % 2
        for v in variables(traced, "argmax_bit")
    }
    assert len(lie) == 2
    _, proof = prove(traced, args, lie)
    rejected(traced, proof, "linear test")


def test_an_index_out_of_the_onehot():
    """Bits that name no row of the table select zeros: refused although every bit is a bit."""
    traced, args = sealed_call("embedded")
    lie = {bit: lambda v: np.ones_like(v) for bit in variables(traced, "limb")}
    _, proof = prove(traced, args, lie)
    rejected(traced, proof, "linear test")


def test_fractional_bits():
    """A bit of 1/2 mod p: products of it cancel, the lookup does not allow it."""
    traced, args = sealed_call("compared")
    half = float(2**31)  # any element that is no bit
    _, proof = prove(traced, args, {variables(traced, "nonnegative")[0]: bump(0, half)})
    rejected(traced, proof, "linear test")


@pytest.mark.parametrize("name", ["rounded", "divided", "inverse_root"])
def test_a_quotient_that_wraps_around(name):
    """Hints moved by large multiples, where a remainder could come back into range modulo p."""
    traced, args = sealed_call(name)
    kind = KINDS[name][0]
    for by in (2.0**20,) if name == "inverse_root" else (2.0**32, -(2.0**32), 2.0**40):
        _, proof = prove(traced, args, {variables(traced, kind)[0]: bump(0, by)})
        rejected(traced, proof, "linear test")
