"""Random programs have no other solutions mod p; and the search for them finds what is there."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

import zkjax
from soundness import interpreter
from soundness.checking import THOROUGH, check_seed, check_traced, jax_outputs, understated
from soundness.exact import P, carry_links
from soundness.programs import SMALL
from soundness.random_programs import random_function
from soundness.solutions import (
    Constraint,
    Search,
    common_solutions,
    first_hit,
    hits,
    square_root,
)
from zkjax import fixed
from zkjax.program.ops import RULES
from zkjax.program.program import Lookup
from zkjax.program.rules import indices
from zkjax.program.rules.indices import first_largest, ranked
from zkjax.program.tables import range_table
from zkjax.program.trace import trace_call
from zkjax.program.tracer import Sym

PROGRAMS, GROUPS = 320, 8


@pytest.mark.parametrize("group", range(GROUPS))
def test_random_programs_have_no_other_solutions(group):
    """On extreme inputs, with honest hints and with each of them moved; most are accepted."""
    seen: Counter = Counter()
    for seed in range(group, PROGRAMS, GROUPS):
        function, outcome = check_seed(seed)
        seen[outcome.status] += 1
        seen["provable"] += outcome.provable
        assert not outcome.findings, (
            f"seed {seed}: {outcome.findings[0]}\n{function.source}\n{outcome.inputs}"
        )
        # Only the index of a maximum has a choice, where there are ties.
        assert set(outcome.loose) <= {"argmax_bit"}, (seed, outcome.loose, function.source)
    assert seen["accepted"] > 0.5 * PROGRAMS / GROUPS
    assert seen["provable"] > 3 * seen["accepted"]


@pytest.mark.parametrize("group", range(2))
def test_nothing_rests_on_declared_bounds(group):
    """Programs whose rules declare bounds 40 % too small have no other solutions either."""
    seen: Counter = Counter()
    for seed in range(PROGRAMS + group, PROGRAMS + 60, 2):
        function, outcome = check_seed(seed, understate=0.4)
        seen[outcome.status] += 1
        seen["provable"] += outcome.provable
        assert not outcome.findings, (
            f"seed {seed}: {outcome.findings[0]}\n{function.source}\n{outcome.inputs}"
        )
    assert seen["accepted"] > 15
    assert seen["provable"] > 2 * seen["accepted"]


def test_what_rests_on_a_declared_bound_is_noticed(rng):
    """Sorting by a rule that takes what it found below all that an honest run may have."""

    def trusting(t, x, k, note):
        below, found = 2 * t.builder.bounds[x.var] + 1, []
        for _ in range(k):
            found.append(first_largest(t, x, t.bits_of(x.var) + 1, note))
            terms = [(x.var, 1), (found[-1].onehot.var, -below)]
            x = Sym(t.builder.affine(terms), x.fraction)
        return found

    inputs = [np.array([-128, 63, -64], np.int8)]
    for rule, kinds in ((trusting, ["outputs"]), (ranked, [])):

        def order(x):
            return jnp.argsort(x).astype(jnp.int32)

        with mock.patch.object(indices, "ranked", rule), understated(0.4):
            traced = trace_call(order, (zkjax.seal(inputs[0]),))
        outcome = check_traced(traced, order, [inputs], rng, THOROUGH, complete=False)
        assert [f.kind for f in outcome.findings] == kinds


def test_the_interpreter_computes_what_jax_does():
    """Some accepted programs compiled."""
    compared, seed = 0, 10**6
    while compared < 10:
        seed += 1
        rng = np.random.default_rng(seed)
        function = random_function(rng)
        if len(function.block.statements) > 12:
            continue
        runs, fn = function.inputs(rng), function.callable()
        try:
            traced = trace_call(fn, function.arguments(runs[0]), tuple(function.sealed_outputs))
        except zkjax.ZkjaxError:
            continue
        compared += 1
        for inputs in runs[:2]:
            ours, _ = interpreter.run(traced.closed, inputs)
            theirs = jax_outputs(fn, inputs)
            assert all(a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))
            assert all(map(np.array_equal, ours, theirs)), function.source


# The search has teeth ---------------------------------------------------------------------------


def narrow(x):
    return fixed.encode(fixed.round(fixed.decode(x, 4), 0, 6), 0)


def wide(x):
    v = fixed.decode(x, 4)
    return fixed.encode(fixed.round(v * v * v, 6, 20), 6)


def chosen(x):
    return fixed.embed(np.arange(8.0).reshape(4, 2) ** 2, x).astype(jnp.int32)


ROW = np.array([37, -11, 120], dtype=np.int8)
TEETH = {
    "round": (narrow, ROW),
    "limb": (wide, ROW),
    "lookup": SMALL["tabulated"],
    "locate": SMALL["located"],
    "divide": SMALL["divided"],
    "rsqrt": SMALL["inverse_root"],
    "max": (SMALL["maximum"][0], np.array([[7, 3, -3]], dtype=np.int8)),
    "argmax_bit": (SMALL["maximum"][0], np.array([[7, 3, -3]], dtype=np.int8)),
    "nonnegative": SMALL["compared"],
    "onehot": (chosen, np.array([0, 3, 1], dtype=np.uint8)),
    "carry": SMALL["scanned"],
    "first": SMALL["first"],
    "quotient": SMALL["quotient"],
    "whole_part": SMALL["whole_part"],
    "counted": SMALL["counted"],
}
HINT = {
    "onehot": "limb",
    "first": "argmax_bit",
    "quotient": "divide",
    "whole_part": "round",
    "counted": "carry",
}


def sealed_call(name):
    """A traced call with everything sealed, its inputs and outputs."""
    fn, x = TEETH[name]
    traced = trace_call(fn, (zkjax.Private(x),), True)
    expected, trouble = interpreter.run(traced.closed, [x])
    assert not trouble - {"max"}
    return traced.statement.program, [x], expected


def found(program, inputs, expected, links) -> bool:
    search = Search(program, inputs, expected, np.random.default_rng(1), links)
    return bool(search.honest(True) or search.moves(THOROUGH))


def virtually_behind(program, var) -> set[int]:
    """Hints that a variable is computed from without another hint between."""
    seen, stack = {var}, [var]
    while stack:
        var = stack.pop()
        if RULES[program.ops[var].kind].cls != "advice":
            stack += set(program.ops[var].inputs) - seen
            seen |= set(program.ops[var].inputs)
    return {v for v in seen if RULES[program.ops[v].kind].cls == "advice"}


def relations_of(program, kind):
    """Relations in which a hint of this kind takes part."""
    for relation in [*program.lookups, *program.zeros]:
        variables = relation.vars if isinstance(relation, Lookup) else (relation,)
        hints = set().union(*(virtually_behind(program, v) for v in variables))
        if kind in {program.ops[v].kind for v in hints}:
            yield relation


@pytest.mark.parametrize("name", TEETH)
def test_a_relation_that_is_missing_is_noticed(name):
    """Each relation of a hint in turn; with all of them nothing is found."""
    program, inputs, expected = sealed_call(name)
    links = carry_links(program)
    assert not found(program, inputs, expected, links)
    dropped = 0
    for relation in relations_of(program, HINT.get(name, name)):
        kinds = [program.ops[v].kind for v in getattr(relation, "vars", ())]
        if kinds == ["rsqrt"]:
            continue  # keeps products from wrapping around; no second root is known
        without = replace(
            program,
            lookups=[r for r in program.lookups if r != relation],
            zeros=[z for z in program.zeros if z != relation],
        )
        assert found(without, inputs, expected, links), f"{relation}: {kinds}"
        dropped += 1
    assert dropped > 0


@pytest.mark.parametrize("name", ["round", "divide", "rsqrt", "nonnegative", "limb"])
def test_a_range_that_is_too_wide_is_noticed(name):
    """A range check of one bit more, or two: for one of the relations there is another hint."""
    program, inputs, expected = sealed_call(name)
    noticed = 0
    for i, relation in enumerate(program.lookups):
        table = program.tables[relation.table]
        if table.width > 1 or table.rows > 2**14:
            continue
        wider = [*program.tables, range_table(table.rows.bit_length() + 1)]
        lookups = list(program.lookups)
        lookups[i] = Lookup(len(wider) - 1, relation.vars)
        weaker = replace(program, tables=wider, lookups=lookups)
        noticed += found(weaker, inputs, expected, carry_links(program))
    assert noticed


def test_an_input_outside_its_type_is_noticed():
    program, inputs, expected = sealed_call("carry")
    port = program.inputs[0]
    lookups = [r for r in program.lookups if virtually_behind(program, r.vars[0])]
    assert len(lookups) < len(program.lookups)
    without = replace(program, lookups=lookups)
    search = Search(without, inputs, expected, np.random.default_rng(1))
    assert [f.kind for f in search.moves(THOROUGH)] == ["input"]
    ranged = replace(without, inputs=[replace(port, ranged=True)])
    assert not Search(ranged, inputs, expected, np.random.default_rng(1)).moves(THOROUGH)


def test_honest_hints_that_say_otherwise_are_noticed():
    """A program of another function: what JAX computes is asked of the function itself."""
    program, inputs, expected = sealed_call("round")
    other = [expected[0] + 1]
    (finding,) = Search(program, inputs, other, np.random.default_rng(1)).honest(True)
    assert finding.kind == "outputs"
    above = [np.array([1000], np.int16).astype(np.int64) + x for x in inputs]
    (finding,) = Search(program, above, expected, np.random.default_rng(1)).honest(True)
    assert finding.kind == "refused"


# One unknown mod p --------------------------------------------------------------------------------


def test_first_hit_is_the_least():
    rng = np.random.default_rng(3)
    for _ in range(2000):
        m = int(rng.integers(2, 200))
        a, low = int(rng.integers(m)), int(rng.integers(m))
        high = int(rng.integers(low, m))
        least = next((x for x in range(m) if low <= a * x % m <= high), None)
        assert first_hit(a, m, low, high) == least


def test_hits_are_all_solutions():
    a, b = pow(3, -1, P) * 5 % P, 12345
    size = P // 50
    expected = [x for x in range(1000) if (a * x + b) % P < size]
    assert list(hits(a, b, 1000, size)) == expected


def test_two_intervals_have_the_solutions_found():
    """A remainder of 4 bits with a quotient of 8: the quotient of 7 more is the only other."""
    remainder = Constraint(0, P - 16, 5, 0, 128)
    quotient = Constraint(0, 1, 20, 0, 256)
    solutions = set(common_solutions(np.random.default_rng(1), [remainder, quotient]))
    assert {P - d for d in range(1, 6)} <= solutions


def test_square_roots():
    for a in (0, 1, 4, 7, 2**32, P - 1):
        root = square_root(a)
        assert root is None or root * root % P == a
    assert square_root(7) is None
    assert square_root(P - 1) is not None
