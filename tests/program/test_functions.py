"""Every line of the table of functions: traced and compared with JAX, or refused with its cure."""

from __future__ import annotations

from functools import cache

import chex
import jax
import numpy as np
import pytest

import zkjax
from program.catalogue import FUNCTIONS, PAGE, K, Line, X, page
from zkjax._compat import x64
from zkjax.program.recording import without_repeats
from zkjax.program.trace import Traced, trace_call

LINES = {line.written: (section, line) for section, lines in FUNCTIONS.items() for line in lines}
SEALED = zkjax.Private(X), zkjax.Private(K)


@cache
def traced(written: str) -> Traced:
    return trace_call(LINES[written][1].function(), SEALED)


@cache
def by_jax(section: str) -> dict[str, tuple]:
    """{line: (its outputs, scans' carries, and what it is compared with)}, compiled together."""
    lines = [line for line in FUNCTIONS[section] if not line.cure]
    runs = {line.written: traced(line.written).recorded for line in lines}
    reals = {line.written: line.function(line.real) for line in lines if line.real}

    def all_of_them(x, k):
        return (
            {name: run(x, k) for name, run in runs.items()},
            {name: fn(x, k) for name, fn in reals.items()},
        )

    with x64():
        outputs, real = jax.tree.map(np.asarray, jax.jit(all_of_them)(X, K))
    return {name: (*outputs[name], real.get(name)) for name in runs}


def carries_of(run: Traced, recorded) -> list[np.ndarray]:
    shapes = [op.shape for op in run.statement.program.ops if op.kind == "carry"]
    return [
        without_repeats(value, shape).astype(np.float64) * 2.0**fraction
        for value, shape, (_, fraction) in zip(recorded, shapes, run.carries, strict=True)
    ]


@pytest.mark.parametrize("written", [w for w, (_, line) in LINES.items() if not line.cure])
def test_what_is_proved_is_what_jax_computes(written):
    section, line = LINES[written]
    run, (outputs, recorded, real) = traced(written), by_jax(section)[written]
    program = run.statement.program
    values = program.evaluate([X, K], carries_of(run, recorded))
    ours = [values[port.var] for port in program.outputs]
    chex.assert_trees_all_equal(ours, [np.asarray(y, np.float64) for y in outputs])
    if real is not None:
        scale = 2.0**16 if line.within else 1.0
        for got, expected in zip(ours, jax.tree.leaves(real), strict=True):
            assert np.abs(got - expected).max() <= scale * line.within + (line.within > 0)


@pytest.mark.parametrize("written", [w for w, (_, line) in LINES.items() if line.cure])
def test_what_is_refused_names_the_cure(written):
    line: Line = LINES[written][1]
    with pytest.raises(zkjax.ZkjaxError) as caught:
        trace_call(line.function(), SEALED)
    assert line.cure in str(caught.value)
    assert "internal" not in str(caught.value) and "rewrite" not in str(caught.value)


def test_the_page_is_that_of_the_list():
    assert PAGE.read_text() == page(), "run python tests/program/catalogue.py"
    assert len(LINES) >= 260


PROVED = [
    "jnp.argmax(v, axis=1)",
    "lax.top_k(x, 2)",
    "x.astype(jnp.int16) // 3",
    "jnp.select([v > 1.0, v > 0.0], [v, 2.0 * v], -v)",
    "lax.conv(v.reshape(1, 1, 3, 4), v[:2, :2].reshape(1, 1, 2, 2), (1, 1), 'SAME')",
    "lax.fori_loop(0, 3, lambda i, c: c.at[i].set(v[2 - i]), v)",
    "jax.grad(lambda u: jnp.sum(jnp.clip(u, -1.0, 1.0)))(v)",
    "fixed.tanh(v, 4)",
]


def test_some_are_proved():
    """All of them in one proof."""

    def together(x, k):
        return [LINES[written][1].function()(x, k) for written in PROVED]

    x, k = zkjax.seal(X, openings=1), zkjax.seal(K, openings=1)
    outputs, proof = zkjax.prove(together)(x, k)
    checked = zkjax.verify(together)(x.commitment, k.commitment, proof=proof)
    chex.assert_trees_all_equal(outputs, checked)
    for written, ours in zip(PROVED, outputs, strict=True):
        section, _ = LINES[written]
        chex.assert_trees_all_equal(jax.tree.leaves(ours), by_jax(section)[written][0])
