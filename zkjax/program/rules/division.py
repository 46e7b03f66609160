"""Division that is exact: by powers of two, by a constant to a whole number, and its remainder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zkjax.errors import ScaleError, UnsupportedPrimitiveError
from zkjax.program.rules.arithmetic import scale, uniform
from zkjax.program.rules.comparison import choose, nonnegative
from zkjax.program.tracer import Sym, Tracer, Value, dyadic, primitive


@dataclass
class Whole:
    """k = c quotient + rest, as values with the fraction bits of k 2^-f."""

    quotient: Sym
    rest: Sym

    def turned(self, t: Tracer) -> Whole:
        """Of the opposite of both numbers."""
        return Whole(t.add([(self.quotient, -1)]), t.add([(self.rest, -1)]))


def floored(t: Tracer, x: Sym, c: int, signed: bool, note: str) -> Whole:
    """Of the integers k of x and c > 0: rest in [0, c). Without ``signed`` k is not negative.

    Two solutions would differ by abs(c (y - y')) < c, so y is unique while c y does not wrap.
    """
    b, shape = t.builder, t.builder.shape(x.var)
    if c == 1:
        return Whole(x, Sym(t.sym(np.zeros(shape)).var, x.fraction))
    largest = b.bounds[x.var] // c + 1
    bits = largest.bit_length() + signed
    s = c.bit_length() - 1
    if c == 1 << s:  # a rounding of k - c / 2
        z = b.affine([(x.var, 1)], -(c >> 1))
        y = b.add("round", [z], shape, largest, s, key=["whole", signed, bits])
    else:
        divisor = t.sym(np.full(shape, c)).var
        y = b.add("divide", [x.var, divisor], shape, largest, key=["whole", signed, bits])
    check = b.signed_range_check if signed else b.range_check
    check(y, bits, y, note)
    rest = b.affine([(x.var, 1), (y, -c)], bound=c - 1)
    width = (c - 1).bit_length()
    b.range_check(rest, width, y, note)
    if c != 1 << s:
        b.range_check(b.affine([(rest, -1)], c - 1, bound=c - 1), width, y, note)
    # By a name, for a sum that looks through it would lose what the range check says.
    return Whole(Sym(y, x.fraction), Sym(b.alias(rest), x.fraction))


def truncated(t: Tracer, x: Sym, c: int, unsigned: bool, note: str) -> Whole:
    """The quotient rounded towards zero, as JAX divides: the sign is split off."""
    if abs(c) == 1 or unsigned:
        found = floored(t, x, abs(c), not unsigned, note)
    else:
        shape, bit = t.builder.shape(x.var), nonnegative(t, x)
        found = floored(t, choose(t, bit, x, t.add([(x, -1)]), shape), abs(c), False, note)
        other = found.turned(t)
        found = Whole(
            choose(t, bit, found.quotient, other.quotient, shape),
            choose(t, bit, found.rest, other.rest, shape),
        )
    return found if c > 0 else Whole(t.add([(found.quotient, -1)]), found.rest)


@primitive("is_finite")
def _is_finite(t: Tracer, eqn, x):
    return [np.ones(eqn.outvars[0].aval.shape, bool)]


@primitive("floor")
def _floor(t: Tracer, eqn, x):
    if x.fraction <= 0:
        return [x]
    return [Sym(floored(t, x, 1 << x.fraction, True, f"'floor' at {t.where}").quotient.var, 0)]


@primitive("ceil")
def _ceil(t: Tracer, eqn, x):
    if x.fraction <= 0:
        return [x]
    below = floored(t, t.add([(x, -1)]), 1 << x.fraction, True, f"'ceil' at {t.where}").quotient
    return [Sym(t.builder.affine([(below.var, -1)]), 0)]


def divisor_of(t: Tracer, y: Value, what: str) -> float | int:
    """The one constant that is divided by."""
    divisor = uniform(y)
    if divisor is None:
        raise UnsupportedPrimitiveError(
            f"{what} by numbers that depend on data, or by several, cannot be proved; by one "
            "constant it can, and zkjax.fixed.divide(x, y, fraction=...) divides by data",
            t.where,
        )
    if not divisor:
        raise ScaleError("a division by zero", t.where)
    return divisor


@primitive("div")
def _div(t: Tracer, eqn, x, y):
    out = eqn.outvars[0].aval
    if out.dtype != np.float64:
        c = int(dyadic(np.asarray(divisor_of(t, y, "a division of integers")), t.where)[0])
        unsigned, note = out.dtype.kind == "u", f"a division by {c} at {t.where}"
        return [truncated(t, t.spread(x, out.shape), c, unsigned, note).quotient]
    x = t.spread(x, out.shape)
    if isinstance(y, np.ndarray) and np.all(np.frexp(np.abs(y))[0] == 0.5):
        if (divisor := uniform(y)) is not None:
            return [scale(t, x, 1.0 / divisor)]
        factor = t.spread(1.0 / y, out.shape)
        return [Sym(t.builder.multiply(x.var, factor.var), x.fraction + factor.fraction)]
    if isinstance(y, np.ndarray):
        divisor = float(y.flat[0])
        raise ScaleError(
            f"division by {divisor} is not exact; multiply by "
            f"zkjax.fixed.constant(1 / {divisor}, fraction=...) and round",
            t.where,
        )
    inexact = "division is not exact; use zkjax.fixed.divide(x, y, fraction=...)"
    if y.fraction or t.builder.bounds[y.var] > 2:
        raise ScaleError(inexact, t.where)
    return [by_one_or_two(t, x, t.spread(y, out.shape), inexact)]


def by_one_or_two(t: Tracer, x: Sym, y: Sym, otherwise: str) -> Sym:
    """x / y = x (3 - y) / 2 for y in {1, 2}: what the derivatives of jnp.maximum, minimum and clip
    divide by, for equal operands share the cotangent.
    """
    t.builder.rely(y.var, 1, 2, otherwise)
    factor = t.builder.affine([(y.var, -1)], 3, bound=2)
    return Sym(t.builder.multiply(x.var, factor), x.fraction + 1)


@primitive("rem")
def _rem(t: Tracer, eqn, x, y):
    """x - c trunc(x / c), exact for integers and for numbers of any fraction bits."""
    divisor = divisor_of(t, y, "a remainder")
    out = eqn.outvars[0].aval
    k, fraction = dyadic(np.asarray(divisor), t.where)
    common = max(fraction, t.sym(x).fraction)
    x = t.at_fraction(t.spread(x, out.shape), common)
    c = abs(int(k)) << (common - fraction)
    note = f"a remainder of {divisor} at {t.where}"
    return [truncated(t, x, c, out.dtype.kind == "u", note).rest]
