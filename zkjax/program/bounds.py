"""Proven bounds: every relation of a program, which holds mod p, holds over the integers.

Each variable stands for integers: a committed one for its field elements, read in (-p/2, p/2); a
virtual one for what its operation gives over the integers. ``prove_bounds`` derives an interval of
every variable from nothing but the dtypes of public and ranged inputs, the columns of tables, the
relations of the program and induction over the steps of scans. It shows at each relation e in
[low, high] mod p that e - t, t in [low, high], can't be a multiple of p other than 0:

    max(e) - low < p,   high - min(e) < p.

So no relation holds because something wrapped around p, and the advice that the relations make
unique over the integers is unique. What can't be shown is refused. Prover and verifier both run it;
it knows of no bound that a builder was told. Three steps:

1. Committed variables that relations confine by themselves, as facts in the field.
2. Everything else in the order of its dependencies. A relation is settled when the last of the
   values in it is known, and then confines that value further.
3. What depends on itself, the carries of scans: ``induction``. There a relation confines only if
   each of its entries is about one step, for what holds of a later step is not known yet.

``derivation`` does this; the rules for single operations stand in ``intervals`` and beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul

from zkjax.errors import OverflowBoundError
from zkjax.field.goldilocks import P
from zkjax.program.derivation import Bounds
from zkjax.program.dtypes import DTYPE_RANGES, PUBLIC_RANGES
from zkjax.program.intervals import Value, magnitude
from zkjax.program.ops import RULES
from zkjax.program.program import Program

EXACT = 1 << 53  # up to here float64 adds exactly, as both sides do with public values


def undischarged(program: Program, values: Sequence[Value]) -> list[tuple[int, int, int]]:
    """The obligations, also to sealed outputs to fit their types, that intervals don't imply."""
    sealed = [(p.var, *DTYPE_RANGES[p.dtype]) for p in program.outputs if p.sealed]
    return [
        (var, low, high)
        for var, low, high in [*program.obligations, *sealed]
        if values[var] is None or values[var][0] < low or values[var][1] > high
    ]


def prove_bounds(program: Program) -> list[Value]:
    """The intervals of all variables.

    Raises:
      OverflowBoundError: something that relations, outputs or public values rest on can't be shown.
    """
    bounds = Bounds(program)
    bounds.derive()
    values = bounds.values

    def require(condition: bool, what: str, var: int) -> None:
        if not condition:
            raise OverflowBoundError(what, program.where(var))

    for port in program.inputs:
        low, high = DTYPE_RANGES[port.dtype]
        x = values[port.var]
        inside = x is not None and low <= x[0] <= x[1] <= high
        require(inside, f"input {port.name} is not confined to {port.dtype}", port.var)
    for port in program.outputs:
        low, high = PUBLIC_RANGES[port.dtype]
        x = values[port.var]
        fits = x is not None and x[1] - low < P and high - x[0] < P
        require(fits, f"output {port.name or '0'} may wrap around the field", port.var)
    _require_exact(program, require)
    return values


def _require_exact(program: Program, require) -> None:
    """Linear functions of public values are evaluated in float64 by both sides. How large they are
    follows from types and constants alone, not from proven bounds: a relation that confines them is
    among what is evaluated, and might hold in float64 only.
    """
    largest = {p.var: magnitude(DTYPE_RANGES[p.dtype]) for p in program.inputs if not p.sealed}
    for var, op in enumerate(program.ops):
        if op.kind == "constant":
            x = program.constants[op.params[0]]
            largest[var] = magnitude((int(x.min(initial=0)), int(x.max(initial=0))))
        if RULES[op.kind].cls != "linear" or any(i not in largest for i in op.inputs):
            continue
        operands = [largest[i] for i in op.inputs]
        total = max(operands)
        if op.kind == "affine":
            weights = [abs(c) for c in op.params[0]]
            total = abs(op.params[1]) + sum(map(mul, weights, operands))
        elif op.kind == "sum":
            total *= math.prod(program.shape(op.inputs[0])[a] for a in op.params[0])
        largest[var] = total
        require(total < EXACT, "a public value is larger than fixed point holds", var)
