"""``scan``: one body for all steps at once; the carry-in is the carry-out, shifted by a step.

The body is vmapped over the steps, so a loop over n layers costs n times the elements of one layer
and no more operations. The carry-out is a variable of its own (``carry``) that must equal what the
body computes; the bound and the fraction bits of a carry are found by running the body until they
follow from themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zkjax._compat import scan_sizes
from zkjax.errors import OverflowBoundError, ScaleError, UnsupportedPrimitiveError
from zkjax.program.builder import Builder
from zkjax.program.dtypes import MAX_BOUND
from zkjax.program.hints import hint, hint_for
from zkjax.program.induction import repeated
from zkjax.program.intervals import GROWTH, Sums, chosen_by_onehot
from zkjax.program.jaxprs import NOT_CONSTANT, primitives_of, scans_of
from zkjax.program.ops import RULES
from zkjax.program.rules.counting import known_carries
from zkjax.program.tracer import Sym, Tracer, Value, primitive

MAX_ATTEMPTS = 12


@dataclass
class _Loop:
    """A scan equation with its body batched, as a function of what stays the same in the loop
    (constants, and carries that the body hands through), what changes, and what is stacked (xs, and
    carries that are known).

    Attributes:
      places: the number of each changing carry among all carries.
      ends: the last values of the other carries, by number.
    """

    body: Any
    fixed: list[Value]
    start: list[Sym]
    stacked: list[Value]
    places: list[int]
    ends: dict[int, Value]
    number: int
    length: int
    reverse: bool

    @classmethod
    def of(cls, t: Tracer, eqn, inputs) -> _Loop:
        import jax
        from jax.extend.core import jaxpr_as_fun

        p = eqn.params
        length, closed, reverse = p["length"], p["jaxpr"], bool(p["reverse"])
        n_const, n_carry = scan_sizes(p)
        first_x = n_const + n_carry
        avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars]
        inside = primitives_of(eqn)
        if outside := sorted(inside & NOT_CONSTANT):
            raise UnsupportedPrimitiveError(
                f"'{outside[0]}' in a scan cannot be proved; {hint_for('', outside[0])}", t.where
            )
        if "custom_vmap_call" in inside:
            raise UnsupportedPrimitiveError(
                "'custom_vmap_call' in a scan cannot be proved: all steps are proved at once, by "
                "its rule for vmap, and that is another function; call the function without it",
                t.where,
            )
        body_in, body_out = closed.jaxpr.invars, closed.jaxpr.outvars
        kept = [i for i in range(n_carry) if body_out[i] is body_in[n_const + i]]
        known = known_carries(closed, n_const, n_carry, inputs, length, reverse)
        known = {i: found for i, found in known.items() if i not in kept}
        places = [i for i in range(n_carry) if i not in kept and i not in known]
        fixed = [*range(n_const), *(n_const + i for i in kept)]
        moving = [n_const + i for i in places]
        stacked = [*(n_const + i for i in known), *range(first_x, len(avals))]
        arguments = [*fixed, *moving, *stacked]

        def one_step(*args):
            outs = jaxpr_as_fun(closed)(
                *(args[arguments.index(position)] for position in range(len(avals)))
            )
            return [*(outs[i] for i in places), *outs[n_carry:]]

        axes = [None] * len(fixed) + [0] * (len(arguments) - len(fixed))
        shapes = [
            jax.ShapeDtypeStruct(((length,) if axis == 0 else ()) + avals[a].shape, avals[a].dtype)
            for a, axis in zip(arguments, axes, strict=True)
        ]
        body = jax.make_jaxpr(jax.vmap(one_step, in_axes=axes, axis_size=length))(*shapes)
        start = [t.sym(inputs[a], avals[a].shape) for a in moving]
        number, t.scans = t.scans, t.scans + 1
        ends: dict[int, Value] = {i: last for i, (_, last) in known.items()}
        ends |= {i: inputs[n_const + i] for i in kept}
        xs = [*(entered for entered, _ in known.values()), *inputs[first_x:]]
        constants = [inputs[a] for a in fixed]
        return cls(body, constants, start, xs, places, ends, number, length, reverse)

    def run(self, t: Tracer, entering: Sequence[Value]) -> list[Value]:
        t.loops += 1
        try:
            return t.run(self.body, [*self.fixed, *entering, *self.stacked])
        finally:
            t.loops -= 1

    def results(self, carries: Sequence[Value], outputs: Sequence[Value]) -> list[Value]:
        """The last values of all carries in order, and the stacked outputs."""
        last = {**dict(zip(self.places, carries, strict=True)), **self.ends}
        return [*(last[i] for i in sorted(last)), *outputs]


@dataclass
class _Steps:
    """One run of the body: carry variables, carries as they enter, outputs, and the carries among
    them.
    """

    carries: list[int]
    entering: list[Sym]
    outputs: list[Value]
    leaving: list[Sym]


@primitive("scan")
def _scan(t: Tracer, eqn, *inputs):
    if not eqn.params["length"]:
        n_const, n_carry = scan_sizes(eqn.params)
        t.scans += scans_of(eqn)
        empty = [np.zeros(v.aval.shape, v.aval.dtype) for v in eqn.outvars[n_carry:]]
        return [*inputs[n_const : n_const + n_carry], *empty]
    loop = _Loop.of(t, eqn, inputs)
    if not loop.start:
        return loop.results([], loop.run(t, []))
    return _results(t, loop, _settled(t, loop))


def _settled(t: Tracer, loop: _Loop) -> _Steps:
    """Run the body until its bounds imply that no carry leaves its bound.

    These are bounds of an honest run, found as ``induction`` finds the proven ones: a carry stays
    within its bound if what leaves the body does, or if it leaves with at most a |carry| + c and
    the bound has room for so many steps of that.
    """
    b, mark = t.builder, t.mark()
    bounds = [b.bounds[s.var] for s in loop.start]
    for attempt in range(MAX_ATTEMPTS):
        steps = _run(t, loop, bounds)
        pairs = list(zip(loop.start, steps.leaving, strict=True))
        fractions = [max(s.fraction, o.fraction) for s, o in pairs]
        if fractions != [s.fraction for s in loop.start]:
            if attempt:
                i = next(i for i, s in enumerate(loop.start) if fractions[i] != s.fraction)
                raise ScaleError(
                    f"carry {loop.places[i]} of a scan enters with {loop.start[i].fraction} "
                    f"fraction bits and leaves with {fractions[i]}; round it inside the body with "
                    "zkjax.fixed.round",
                    t.where,
                )
            t.rollback(mark)
            loop.start = [t.at_fraction(s, f) for s, f in zip(loop.start, fractions, strict=True)]
            mark = t.mark()
            bounds = [b.bounds[s.var] for s in loop.start]
            continue
        needed, growth = list(bounds), {}
        for i, (s, out) in enumerate(pairs):
            unit = 1 << (s.fraction - out.fraction)
            reached = unit * b.bounds[out.var]
            if reached > bounds[i] and attempt:
                factor, rest = _growth(b, steps.entering[i].var, out.var)
                factor, rest = repeated((unit * factor, unit * rest), loop.length)
                if factor and (grown := factor * b.bounds[s.var] + rest) <= MAX_BOUND:
                    growth[i], reached = (factor, rest), grown
            needed[i] = max(bounds[i], reached)
        if needed == bounds:
            for i, (factor, rest) in growth.items():
                b.growth[steps.carries[i]] = loop.start[i].var, factor, rest
            return steps
        bounds = needed
        t.rollback(mark)
    raise OverflowBoundError("the carry of a scan has no bound; round it inside the body", t.where)


def _growth(b: Builder, base: int, last: int) -> tuple[int, int]:
    """(a, c) with |last| <= a |base| + c, as long as every variable is within its bound.

    Norms are maxima over the elements. Variables that do not depend on ``base`` linearly count as
    constants: their bounds.
    """
    known = {base: (1, 0)}

    def of(var: int) -> tuple[int, int]:
        return known.get(var, (0, b.bounds[var]))

    sums = Sums(b.ops, GROWTH, of, lambda n: (0, abs(n)), lambda v: is_bit(b, v))
    for var in range(base + 1, last + 1):
        op = b.ops[var]
        start, factor, rest = b.growth.get(var, (None, 0, 0))
        if start in known:
            known[var] = factor * of(start)[0], factor * of(start)[1] + rest
        if not any(i in known for i in op.inputs):
            continue
        if op.kind == "affine":
            known[var] = sums.affine(op)
        elif RULES[op.kind].selects or op.kind in ("pad", "shift"):
            known[var] = max(of(i)[0] for i in op.inputs), max(of(i)[1] for i in op.inputs)
        elif op.kind == "multiply":
            bits = [i for i, operand in enumerate(op.inputs) if is_bit(b, operand)]
            if bits:
                known[var] = min(of(op.inputs[1 - i]) for i in bits)
        elif op.kind == "contract":
            shapes, kinds = [b.shape(i) for i in op.inputs], [b.ops[i].kind for i in op.inputs]
            chosen = chosen_by_onehot(op, shapes, kinds)
            if chosen is not None:
                known[var] = of(op.inputs[chosen])
    return of(last)


def is_bit(b: Builder, var: int) -> bool:
    """Whether a value is 0 or 1 by what it is."""
    op = b.ops[var]
    if RULES[op.kind].selects or op.kind == "multiply":
        return all(is_bit(b, i) for i in op.inputs)
    if op.kind == "constant":
        return b.bounds[var] <= 1 and bool((b.constants[op.params[0]] >= 0).all())
    if op.kind == "affine" and op.params == ((-1,), 1):
        return is_bit(b, op.inputs[0])
    return b.bounds[var] <= 1 and op.kind in ("argmax_bit", "limb", "nonnegative", "onehot")


def _run(t: Tracer, loop: _Loop, bounds: list[int]) -> _Steps:
    """The body on all steps, with carries of these bounds."""
    b = t.builder
    carries: list[int] = []
    entering: list[Sym] = []
    for place, s, bound in zip(loop.places, loop.start, bounds, strict=True):
        shape = (loop.length, *b.shape(s.var))
        t.carry_keys.append((loop.number, place))
        t.carry_fractions.append(s.fraction)
        carry = b.add("carry", (), shape, bound, len(t.carry_keys) - 1)
        carries.append(carry)
        moved_bound = max(bound, b.bounds[s.var])
        moved = b.add("shift", (s.var, carry), shape, moved_bound, loop.reverse)
        entering.append(Sym(moved, s.fraction))
    outputs = loop.run(t, entering)
    leaving = [
        t.sym(v, (loop.length, *b.shape(s.var))) for v, s in zip(outputs, loop.start, strict=False)
    ]
    return _Steps(carries, entering, outputs[len(leaving) :], leaving)


def _results(t: Tracer, loop: _Loop, steps: _Steps) -> list[Value]:
    """Tie every carry to what the body computed; the last carries and the stacked outputs."""
    b = t.builder
    results: list[Value] = []
    last = 0 if loop.reverse else loop.length - 1
    for s, carry, out in zip(loop.start, steps.carries, steps.leaving, strict=True):
        out = t.at_fraction(out, s.fraction)
        b.require_zero(b.affine([(out.var, 1), (carry, -1)], bound=1), carry)
        shape = b.shape(carry)
        row = b.slice(carry, (last,) + (0,) * (len(shape) - 1), (1, *shape[1:]))
        results.append(Sym(b.reshape(row, shape[1:]), s.fraction))
    return loop.results(results, steps.outputs)


hint(
    "use jax.lax.scan, or fori_loop with constant bounds; how often a loop runs is part of the "
    "statement. To stop early, keep the carry: jnp.where(done, carry, new)",
    "while",
    "lax.while_loop",
    "lax.fori_loop",
)
