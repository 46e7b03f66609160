"""What a claim costs to follow does not depend on how many paths there are."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

import zkjax
from zkjax import fixed, work
from zkjax.argument.party import Planner
from zkjax.errors import OverflowBoundError
from zkjax.program.builder import Builder
from zkjax.program.meetings import MOST, meeting_points
from zkjax.program.normal_form import normal_form
from zkjax.program.program import Port, Program
from zkjax.program.public import PublicValues
from zkjax.program.reduction import reduce_program
from zkjax.program.resolver import Resolver

CHAINS: dict[str, Callable] = {
    "reverse": lambda y: y - y[::-1, ::-1],
    "roll": lambda y: jnp.roll(y, 1, axis=0) - y,
    "transpose": lambda y: y - y.T,
    "concatenate": lambda y: jnp.concatenate([y[1:], y[:1]]) - y,
    "reshape": lambda y: y - y[::-1].reshape(2, -1)[:, ::-1].reshape(4, 4),
    "contract": lambda y: y - y[::-1] @ jnp.array(np.eye(4)[::-1]),
}


def chain(step: Callable, length: int) -> Callable:
    def fn(x):
        y = fixed.decode(x, 0)
        for i in range(length):
            y = step(y)
            if i % 4 == 3:
                y = fixed.round(y * 0.03125, 0, 10)
        return fixed.encode(y, 0)

    return fn


def cost(program: Program, public: dict[int, np.ndarray] | None = None) -> tuple[int, int]:
    """Elements and messages that a verifier's reduction takes."""
    known = {
        v: program.constants[op.params[0]].astype(np.float64)
        for v, op in enumerate(program.ops)
        if op.kind == "constant"
    }
    party, outputs = Planner(2), {}
    for i, port in enumerate(program.outputs):
        outputs[i] = np.zeros(program.shape(port.var))
    with work.bounded(1 << 50):
        reduce_program(Resolver(program, party, known | (public or {})), outputs, 0, lambda _: None)
        return (1 << 50) - work._left.get()[0], party.messages


def program_of(step: Callable, length: int) -> Program:
    x = np.zeros((4, 4), np.int8)
    return zkjax.trace(chain(step, length))(zkjax.Private(x)).program


@pytest.mark.parametrize("name", CHAINS)
def test_the_cost_of_an_operation_is_flat(name):
    """At 1,000 steps at most 1.5 times what it is at 100, the fixed cost taken off."""
    rows = []
    for length in (10, 100, 1000):
        program = program_of(CHAINS[name], length)
        rows.append((len(program.ops), *cost(program)))
    (n0, c0, m0), (n1, c1, m1), (n2, c2, m2) = rows
    assert (c2 - c0) / (n2 - n0) <= 1.5 * (c1 - c0) / (n1 - n0)
    assert (m2 - m0) / (n2 - n0) <= 1.5 * (m1 - m0) / (n1 - n0) + 1


def doubling(length: int, known: bool) -> Program:
    """y = y - reverse(y), none rounded: 2^length paths. Bounds are another matter."""
    b = Builder()
    x = b.input(0, (8,), "int8", "x", known)
    y = x
    for _ in range(length):
        back = b.add("reverse", [y], (8,), 1, (0,))
        y = b.add("affine", [y, back], (8,), 1, (1, -1), 0)
    ports = [Port(x, "int8", -1 if known else 0, "x", ranged=not known)]
    return normal_form(b, ports, [Port(y, "int64", -1, "")])[0]


def test_doubling_is_brought_together():
    few, many = doubling(30, False), doubling(300, False)
    assert meeting_points(few) and len(meeting_points(many)) < 300
    assert cost(many)[0] < 20 * cost(few)[0]


def test_few_paths_do_not_meet():
    assert not meeting_points(doubling(int(np.log2(MOST)), False))


def test_public_chains_need_no_message_and_no_recursion():
    program = doubling(2000, True)
    elements, messages = cost(program, {0: np.zeros(8)})
    assert messages == 0
    assert elements < 2000 * 10 * work.STEP


def test_what_is_evaluated_in_public_is_bounded():
    b = Builder()
    x = b.input(0, (1 << 12,), "int8", "x", known=True)
    wide = b.broadcast(x, (1 << 12, 1 << 12), [0])
    y = b.affine([(wide, 1), (b.transpose(wide, (1, 0)), 1)])
    program, _ = normal_form(b, [Port(x, "int8", -1, "x")], [Port(y, "int64", -1, "")])
    values = PublicValues(program, {0: np.zeros(1 << 12)})
    with pytest.raises(OverflowBoundError, match="too large a tensor"):
        values.value(program.outputs[0].var)


def test_a_plan_counts_what_is_evaluated_in_public():
    """As much as the evaluation itself: a prover learns before it starts what would be refused."""
    program, spent = doubling(3, True), []
    output = program.outputs[0].var
    weights = (np.ones((2, 8), dtype=np.uint64),)
    for planned in (False, True):
        values = PublicValues(program, {0: np.zeros(8)}, planned)
        with work.bounded(1 << 20):
            values.functional(output, weights, 2)
            once = work._left.get()[0]
            values.functional(output, weights, 2)
            spent.append(((1 << 20) - once, once - work._left.get()[0]))
    assert spent == [(6 * (work.STEP + 8) + 8, 8)] * 2
