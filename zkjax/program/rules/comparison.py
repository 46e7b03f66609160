"""Comparisons, select, max, min, abs, through one committed bit each: b = [x >= 0]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zkjax.errors import UnsupportedPrimitiveError
from zkjax.program.builder import distinct
from zkjax.program.tables import range_table
from zkjax.program.tracer import Sym, Tracer, Value, primitive


def nonnegative(t: Tracer, x: Sym) -> Sym:
    """The bit [x >= 0]. Unique: x + (1 - b) 2^w must lie in [0, 2^w) where |x| < 2^w."""
    b = t.builder
    width = t.bits_of(x.var)
    bit = b.add("nonnegative", [x.var], b.shape(x.var), 1)
    b.lookup(range_table(1), [bit], bit)
    shifted = b.affine([(x.var, 1), (bit, -(1 << width))], 1 << width)
    b.range_check(shifted, width, bit, b.notes[bit])
    return Sym(bit, 0)


def negated(t: Tracer, bit: Sym) -> Sym:
    """1 - bit."""
    return Sym(t.builder.affine([(bit.var, -1)], 1, bound=1), 0)


def positive(t: Tracer, x: Sym) -> Sym:
    """The bit [x > 0] = 1 - [-x >= 0]."""
    return negated(t, nonnegative(t, t.add([(x, -1)])))


def infinite(value: Value) -> bool:
    """Whether it is a constant that no number reaches."""
    return isinstance(value, np.ndarray) and value.size > 0 and bool(np.isinf(value).all())


def against_infinity(eqn, x: Value, y: Value) -> np.ndarray | None:
    """The comparison, if one side is infinite: any number will do for the other."""
    if not infinite(x) and not infinite(y):
        return None
    sides = [v if isinstance(v, np.ndarray) else np.zeros(()) for v in (x, y)]
    compared = COMPARE[eqn.primitive.name](*sides)
    return np.broadcast_to(compared, eqn.outvars[0].aval.shape)


COMPARE: dict[str, Callable[..., Any]] = {
    "ge": np.greater_equal,
    "le": np.less_equal,
    "gt": np.greater,
    "lt": np.less,
    "eq": np.equal,
    "ne": np.not_equal,
}


@primitive("ge", "le", "gt", "lt")
def _ordered(t: Tracer, eqn, x, y):
    known = against_infinity(eqn, x, y)
    if known is not None:
        return [known]
    name = eqn.primitive.name
    difference = t.add([(x, 1), (y, -1)] if name in ("ge", "gt") else [(y, 1), (x, -1)])
    return [nonnegative(t, difference) if name in ("ge", "le") else positive(t, difference)]


@primitive("eq")
def _eq(t: Tracer, eqn, x, y):
    """[x >= y] [y >= x]; a value equals itself, for none is other than a number."""
    known = against_infinity(eqn, x, y)
    if known is not None:
        return [known]
    if isinstance(x, Sym) and isinstance(y, Sym) and x == y:
        return [np.ones(eqn.outvars[0].aval.shape, bool)]
    difference = t.add([(x, 1), (y, -1)])
    up, down = nonnegative(t, difference), nonnegative(t, t.add([(difference, -1)]))
    return [Sym(t.builder.multiply(up.var, down.var), 0)]


@primitive("ne")
def _ne(t: Tracer, eqn, x, y):
    known = against_infinity(eqn, x, y)
    if known is not None:
        return [known]
    (equal,) = _eq(t, eqn, x, y)
    return [~equal if isinstance(equal, np.ndarray) else negated(t, equal)]


def _require_bool(t: Tracer, eqn) -> None:
    if any(v.aval.dtype != bool for v in eqn.invars):
        raise UnsupportedPrimitiveError(
            f"bitwise '{eqn.primitive.name}' of integers cannot be proved, only of booleans; "
            "x % 2**n is the low n bits of x, x // 2**n the others, -1 - x is ~x",
            t.where,
        )


@primitive("not")
def _not(t: Tracer, eqn, x):
    _require_bool(t, eqn)
    return [negated(t, x)]


@primitive("and")
def _and(t: Tracer, eqn, x, y):
    _require_bool(t, eqn)
    x, y = (t.spread(v, eqn.outvars[0].aval.shape) for v in (x, y))
    return [Sym(t.builder.multiply(x.var, y.var), 0)]


@primitive("or", "xor")
def _or(t: Tracer, eqn, x, y):
    """1 - (1 - x) (1 - y), and (x - y)^2 if it is exclusive: forms that are 0 or 1 by what bounds
    see of a product and of a square.
    """
    _require_bool(t, eqn)
    x, y = (t.spread(v, eqn.outvars[0].aval.shape) for v in (x, y))
    if eqn.primitive.name == "xor":
        difference = t.builder.affine([(x.var, 1), (y.var, -1)], bound=1)
        return [Sym(t.builder.multiply(difference, difference), 0)]
    neither = t.builder.multiply(negated(t, x).var, negated(t, y).var)
    return [negated(t, Sym(neither, 0))]


@primitive("reduce_or", "reduce_and")
def _reduce(t: Tracer, eqn, x):
    """Whether the bits add up to at least 1, or to as many as there are."""
    _require_bool(t, eqn)
    axes = eqn.params["axes"]
    total = t.builder.sum(x.var, axes)
    count = int(np.prod([eqn.invars[0].aval.shape[a] for a in axes], dtype=np.int64))
    least = 1 if eqn.primitive.name == "reduce_or" else count
    return [nonnegative(t, Sym(t.builder.affine([(total, 1)], -least), 0))]


def choose(t: Tracer, bit: Sym, if_one: Sym | np.ndarray, if_zero: Sym | np.ndarray, shape) -> Sym:
    """if_zero + bit (if_one - if_zero)."""
    b = t.builder
    one, zero = t.spread(if_one, shape), t.spread(if_zero, shape)
    (one_var, zero_var), fraction = t.aligned(one, zero)
    bound = max(b.bounds[one_var], b.bounds[zero_var])
    gap = b.affine([(one_var, 1), (zero_var, -1)])
    chosen = b.multiply(bit.var, gap)
    return Sym(b.affine([(zero_var, 1), (chosen, 1)], bound=bound), fraction)


def chosen(t: Tracer, index: Value, cases: Sequence[Value], shape, what: str) -> Value:
    """The case of an index below their number, which is shown or checked; element by element."""
    most = len(cases) - 1
    if isinstance(index, np.ndarray):
        numbers = distinct(index).astype(np.int64)
        if numbers.size and (numbers.min() < 0 or numbers.max() > most):
            raise UnsupportedPrimitiveError(what, t.where)
        if numbers.size and (numbers == numbers.flat[0]).all():
            return cases[int(numbers.flat[0])]
    elif most:
        t.builder.rely(index.var, 0, most, what, check=True)
    result = cases[0]
    for i, case in enumerate(cases[1:], 1):
        if isinstance(index, np.ndarray):
            bit = t.sym(np.broadcast_to(numbers >= i, index.shape))
        else:
            bit = index if most == 1 else nonnegative(t, t.add([(index, 1), (np.array(i), -1)]))
        result = choose(t, t.spread(bit, shape), case, result, shape)
        result = named(t, result) if i < most else result
    return result


def named(t: Tracer, x: Sym) -> Sym:
    """By a name: the next choice sees what this one is within, not of what it is made."""
    return Sym(t.builder.alias(x.var), x.fraction)


@primitive("select_n")
def _select(t: Tracer, eqn, predicate, *cases):
    what = f"a choice by an index that is not shown to be below {len(cases)}; use jnp.clip on it"
    return [chosen(t, predicate, cases, eqn.outvars[0].aval.shape, what)]


@primitive("max", "min")
def _max(t: Tracer, eqn, x, y):
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    for value, other in ((x, y), (y, x)):
        if infinite(value) and np.all(value < 0 if name == "max" else value > 0):
            return [t.spread(other, shape)]
    bit = nonnegative(t, t.add([(x, 1), (y, -1)]))
    return [choose(t, bit, *((x, y) if name == "max" else (y, x)), shape)]


@primitive("abs")
def _abs(t: Tracer, eqn, x):
    bit = nonnegative(t, x)
    return [choose(t, bit, x, t.add([(x, -1)]), eqn.outvars[0].aval.shape)]


@primitive("sign")
def _sign(t: Tracer, eqn, x):
    """[x > 0] - [-x > 0]."""
    return [t.add([(positive(t, x), 1), (positive(t, t.add([(x, -1)])), -1)])]


@primitive("clamp")
def _clamp(t: Tracer, eqn, low, x, high):
    upper = choose(t, nonnegative(t, t.add([(x, 1), (low, -1)])), x, low, eqn.outvars[0].aval.shape)
    bit = nonnegative(t, t.add([(high, 1), (upper, -1)]))
    return [choose(t, bit, upper, high, eqn.outvars[0].aval.shape)]
