"""Indexing by constants, branches, sums along an axis, maxima: the program is what JAX computes."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import zkjax
from zkjax import fixed
from zkjax.errors import UnsupportedPrimitiveError
from zkjax.program.trace import trace_call
from zkjax.program.tracer import PRIMITIVES, Sym, Tracer

X = np.array([[3, -7, 11, 2], [-5, 13, -128, 127], [1, 0, 6, -9]], np.int8)
ROWS, COLUMNS = np.array([2, 0, 2]), np.array([1, 3, 3])


def running(v, factor: float):
    return lax.scan(lambda c, r: (fixed.round(c * 0.5 + r * factor, 4, 16), c), v[0] * 0.0, v)[1]


def real(fn: Callable) -> Callable:
    """A function of numbers as one of stored integers."""
    return lambda x: fixed.encode(fn(fixed.decode(x, 2)), 4)


def gradient(fn: Callable) -> Callable:
    return real(jax.grad(lambda v: jnp.sum(fn(v) ** 2)))


FUNCTIONS: dict[str, Callable] = {
    "two indices": lambda x: x[ROWS, COLUMNS],
    "indices of a slice": lambda x: x[1:, COLUMNS],
    "a window for each index": lambda x: jnp.stack(
        [x[i, j : j + 1] for i, j in zip(ROWS, COLUMNS, strict=True)]
    ),
    "take along an axis": lambda x: jnp.take_along_axis(x, np.array([[0], [3], [1]]), axis=1),
    "set one": lambda x: x.at[1].set(x[0]),
    "set many": lambda x: x.at[ROWS[:2], COLUMNS[:2]].set(np.array([1, 2], np.int8)),
    "set a constant's entry": lambda x: jnp.zeros((3, 4), jnp.int8).at[1].set(x[0]),
    "add": real(lambda v: v.at[ROWS, COLUMNS].add(1.5)),
    "add twice to one": real(lambda v: v.at[np.array([0, 0]), 1].add(v[:2, 0])),
    "segment sum": real(lambda v: jax.ops.segment_sum(v, np.array([0, 1, 0]), num_segments=2)),
    "update a slice": lambda x: lax.dynamic_update_slice(x, x[:2, :2], (1, 1)),
    "update at the edge": lambda x: lax.dynamic_update_slice(x, x[:2, :2], (9, 9)),
    "derivative of rows": gradient(lambda v: v[ROWS]),
    "derivative of entries": gradient(lambda v: v[ROWS, COLUMNS]),
    "derivative of a slice": gradient(lambda v: v[1:, ::2]),
    "cumsum": real(lambda v: jnp.cumsum(v, axis=0)),
    "cumsum of the last axis, backwards": real(lambda v: lax.cumsum(v, 1, reverse=True)),
    "derivative of cumsum": gradient(lambda v: jnp.cumsum(v, axis=1)),
    "largest of all": lambda x: jnp.max(x),
    "largest of rows": real(lambda v: jnp.max(v, axis=1)),
    "least of columns": lambda x: jnp.min(x, axis=0),
    "least of two axes": lambda x: jnp.min(x.reshape(3, 2, 2), axis=(0, 2)),
    "padding with a constant": real(lambda v: jnp.pad(v, ((1, 0), (0, 2)), constant_values=3.25)),
    "padding with a value": real(lambda v: lax.pad(v, v[0, 0], [(0, 1, 1), (1, 0, 0)])),
    "a branch that is known": lambda x: lax.cond(True, lambda v: v[0], lambda v: v[1], x),
    "a branch by data": lambda x: lax.cond(x[0, 0] > 2, lambda v: v[0], lambda v: v[1], x),
    "the other branch": lambda x: lax.cond(x[0, 0] > 5, lambda v: v[0], lambda v: v[1], x),
    "one of several branches by data": lambda x: lax.switch(
        x[2, 0].astype(jnp.int32), [lambda v: v, lambda v: v[::-1], lambda v: v.at[0].set(1)], x
    ),
    "branches under vmap": jax.vmap(
        lambda row: lax.cond(row[0] > 0, lambda v: v[::-1], lambda v: v, row)
    ),
    "branches in a scan": real(
        lambda v: lax.scan(
            lambda c, r: (
                lax.cond(r[0] > 0.0, lambda a: a + r, lambda a: fixed.round(a * 0.5, 2, 16), c),
                c,
            ),
            v[0] * 0.0,
            v,
        )[1]
    ),
    "set by a counter": real(
        lambda v: lax.fori_loop(0, 3, lambda i, y: y.at[i].set(v[2 - i] * 2.0), v)
    ),
    "set by a counter, from what was set": real(
        lambda v: lax.fori_loop(
            1, 3, lambda i, y: y.at[i].set(fixed.round(y[i - 1] * 0.5 + v[i], 4, 20)), v
        )
    ),
    "added by a counter": real(
        lambda v: lax.fori_loop(0, 3, lambda i, y: y.at[i].add(v[2 - i]).at[0].add(v[i]), v)
    ),
    "a counter that leaves the array": real(
        lambda v: lax.fori_loop(
            0, 6, lambda i, y: y.at[2 * i - 4].set(v[i] * 2.0).at[i].add(v[0]), v
        )
    ),
    "twice to one place at a step": real(
        lambda v: lax.fori_loop(
            0,
            3,
            lambda i, y: y.at[jnp.stack([i, i])].add(v[:2]).at[jnp.array([1, 1]), i].add(1.0),
            v,
        )
    ),
    "an entry chosen anew at each step": lambda x: lax.scan(
        lambda c, i: (c[i], c[2 - i]), x[:, 0], np.array([[0, 2, 1], [1, 1, 0], [2, 0, 2]])
    )[1],
    "a slice updated by a counter": real(
        lambda v: lax.fori_loop(
            0, 2, lambda i, y: lax.dynamic_update_slice(y, v[:2, 1:3], (i, 1 + i)), v
        )
    ),
    "a counter in a scan, backwards": real(
        lambda v: lax.scan(
            lambda y, i: (y.at[i, 3 - i].set(v[i, 0]), y[i]), v, np.arange(3), reverse=True
        )[1]
    ),
    "a counter with steps of its own": real(
        lambda v: lax.fori_loop(
            0, 2, lambda i, s: (s[0] + 2, s[1].at[s[0]].set(v[i])), (jnp.int32(0), v)
        )[1]
    ),
    "counters of two loops": real(
        lambda v: lax.fori_loop(
            0,
            3,
            lambda i, y: lax.fori_loop(0, 2, lambda j, z: z.at[i, j].set(v[2 - i, 1 - j]), y),
            v,
        )
    ),
    "the sum of the two before": lambda x: lax.fori_loop(
        2,
        9,
        lambda i, y: y.at[i].set(
            (fixed.decode(y[i - 1], 0) + fixed.decode(y[i - 2], 0)).astype(jnp.int32)
        ),
        jnp.zeros(9, jnp.int32).at[0].set(x[0, 0].astype(jnp.int32)).at[1].set(1),
    ),
    "derivative of a loop that sets": real(
        jax.grad(
            lambda v: jnp.sum(
                lax.fori_loop(
                    0, 3, lambda i, y: y.at[i].set(fixed.round(v[i] * v[2 - i], 4, 24)), v
                )
            )
        )
    ),
    "a counter under vmap": real(
        jax.vmap(lambda v: lax.fori_loop(0, 2, lambda i, y: y.at[i].set(v[1 - i]), v))
    ),
    "a scan that is left unused": real(
        lambda v: (running(v, 1.0), running(v, 3.0))[1],
    ),
    "a scan in a branch that is not taken": real(
        lambda v: (
            lax.switch(np.int32(1), [lambda a: running(a, 3.0), lambda a: a], v) + running(v, 0.5)
        )
    ),
    "a scan of no steps": real(lambda v: lax.scan(lambda c, r: (c + r, c), v[0], v[:0])[0]),
    "empty slices": real(
        lambda v: jnp.concatenate([v[:0], v, jnp.split(v, [0, 3])[0]]) + v[:0].sum()
    ),
    "scans in branches": real(
        lambda v: lax.cond(
            v[0, 0] > 100.0,
            lambda a: lax.scan(lambda c, r: (c + r, c), a[0], a)[1],
            lambda a: lax.scan(lambda c, r: (c - r, c), a[0], a)[1],
            v,
        )
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_programs_compute_what_jax_does(name):
    fn = FUNCTIONS[name]
    traced = trace_call(fn, (zkjax.Private(X),))
    expected, carries = traced.run([X])
    program = traced.statement.program
    values = program.evaluate([X], carries)
    assert np.array_equal(values[program.outputs[0].var], expected[0])
    assert np.array_equal(zkjax.provable(fn)(X), expected[0])


def test_some_are_proved():
    def fn(x):
        v = FUNCTIONS["branches in a scan"](x)
        return v.at[ROWS, COLUMNS].set(jnp.max(v)), FUNCTIONS["derivative of entries"](x)

    sealed = zkjax.seal(X, openings=1)
    outputs, proof = zkjax.prove(fn)(sealed)
    checked = zkjax.verify(fn)(sealed.commitment, proof=proof)
    for ours, theirs in zip(outputs, checked, strict=True):
        assert np.array_equal(ours, theirs)


REFUSED = {
    "a start that depends on data": lambda x: x[x[0, 0]],
    "'scatter') with an index that depends on data": (
        lambda x: x.at[x[0, 0].astype(jnp.int32)].set(1)
    ),
    "it uses 'while'": (
        lambda x: lax.fori_loop(0, x[0, 0].astype(jnp.int32), lambda i, y: y * 1, x)
    ),
    "'dynamic_update_slice') with an index that depends on data": (
        lambda x: lax.dynamic_update_slice_in_dim(x, x[:1], x[0, 0].astype(jnp.int32), 0)
    ),
    "an index is out of bounds": (
        lambda x: x.at[np.array([[0, 9]]), 0].get(mode="fill", fill_value=2)
    ),
    "an index is out of bounds, or": lambda x: x.at[np.array([[0, 9]]), 0].get(mode="fill"),
    "an update that is computed from what was there": (
        lambda x: x.astype(jnp.int32).at[np.array([0, 0])].apply(lambda v: v + 1)
    ),
    "is computed from what was there": lambda x: x.astype(jnp.int32).at[0].apply(lambda v: -v),
    "an update of bool of so many elements": lambda x: (x > 0).at[1].set(x[0] > 0),
    "an index that is not shown to be below 2": (
        lambda x: lax.select_n(np.full((3, 4), -1, np.int32), x, x)
    ),
    "is not shown to be below 2": (
        lambda x: lax.select_n(np.arange(12, dtype=np.int32).reshape(3, 4) % 3, x, x)
    ),
    "4,410,000 numbers in the statement": (
        lambda x: jnp.cumsum(jnp.zeros((2100, 2)) + fixed.decode(x, 0)[0, 0], axis=0)
    ),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_depends_on_data_or_is_too_large_is_refused(said):
    with pytest.raises(UnsupportedPrimitiveError, match=re.escape(said)) as caught:
        trace_call(REFUSED[said], (zkjax.Private(X),))
    assert "test_indexing.py" in str(caught.value)


def test_the_index_of_a_branch_has_to_be_shown_to_be_a_bit():
    """JAX clamps it; the rule relies on that and says so."""
    t = Tracer()
    index, x = (Sym(t.builder.input(i, (), "int8", str(i)), 0) for i in range(2))
    same = jax.make_jaxpr(lambda v: v)(np.int8(0))
    negative = jax.make_jaxpr(lambda v: -v.astype(jnp.int32))(np.int8(0))
    eqn = SimpleNamespace(params={"branches": (same, negative)}, outvars=same.jaxpr.outvars)
    PRIMITIVES["cond"](t, eqn, index, x)
    assert (index.var, 0, 1) in {(o.var, o.low, o.high) for o in t.builder.obligations}
