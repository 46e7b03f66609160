"""Comparisons, select, max, min, abs, through one committed bit each: b = [x >= 0]."""

from __future__ import annotations

import numpy as np

from zkjax.errors import UnsupportedPrimitiveError
from zkjax.program.builder import distinct
from zkjax.program.tables import range_table
from zkjax.program.tracer import Sym, Tracer, primitive


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


@primitive("ge")
def _ge(t: Tracer, eqn, x, y):
    return [nonnegative(t, t.add([(x, 1), (y, -1)]))]


@primitive("le")
def _le(t: Tracer, eqn, x, y):
    return [nonnegative(t, t.add([(y, 1), (x, -1)]))]


@primitive("gt")
def _gt(t: Tracer, eqn, x, y):
    return [positive(t, t.add([(x, 1), (y, -1)]))]


@primitive("lt")
def _lt(t: Tracer, eqn, x, y):
    return [positive(t, t.add([(y, 1), (x, -1)]))]


@primitive("eq")
def _eq(t: Tracer, eqn, x, y):
    """[x >= y] [y >= x]."""
    difference = t.add([(x, 1), (y, -1)])
    up, down = nonnegative(t, difference), nonnegative(t, t.add([(difference, -1)]))
    return [Sym(t.builder.multiply(up.var, down.var), 0)]


@primitive("ne")
def _ne(t: Tracer, eqn, x, y):
    return [negated(t, _eq(t, eqn, x, y)[0])]


def _require_bool(t: Tracer, eqn) -> None:
    if any(v.aval.dtype != bool for v in eqn.invars):
        raise UnsupportedPrimitiveError(
            f"bitwise '{eqn.primitive.name}' of integers cannot be proved; only of booleans",
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
    """x + y - x y, and x + y - 2 x y if it is exclusive."""
    _require_bool(t, eqn)
    x, y = (t.spread(v, eqn.outvars[0].aval.shape) for v in (x, y))
    both = t.builder.multiply(x.var, y.var)
    taken = 2 if eqn.primitive.name == "xor" else 1
    return [Sym(t.builder.affine([(x.var, 1), (y.var, 1), (both, -taken)], bound=1), 0)]


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


@primitive("select_n")
def _select(t: Tracer, eqn, predicate, *cases):
    shape = eqn.outvars[0].aval.shape
    by_integers = eqn.invars[0].aval.dtype != bool
    compare = "select_n by integers cannot be proved; compare them, as in jnp.where(i == 1, x, y)"
    if by_integers and len(cases) != 2:
        raise UnsupportedPrimitiveError(compare, t.where)
    if by_integers and isinstance(predicate, Sym):
        t.builder.rely(predicate.var, 0, 1, compare)
    if len(cases) == 1:
        return [cases[0]]
    if by_integers and isinstance(predicate, np.ndarray) and not np.isin(predicate, (0, 1)).all():
        raise UnsupportedPrimitiveError(compare, t.where)
    if isinstance(predicate, np.ndarray):
        mask = distinct(np.broadcast_to(predicate, shape)).astype(np.int64)
        if not mask.any():
            return [cases[0]]
        if mask.all():
            return [cases[1]]
        bit = Sym(t.builder.constant(np.broadcast_to(mask, shape)), 0)
    else:
        bit = predicate
        if t.builder.shape(bit.var) != tuple(shape):
            bit = Sym(t.builder.broadcast(bit.var, shape, []), 0)
    return [choose(t, bit, cases[1], cases[0], shape)]


@primitive("max")
def _max(t: Tracer, eqn, x, y):
    bit = nonnegative(t, t.add([(x, 1), (y, -1)]))
    return [choose(t, bit, x, y, eqn.outvars[0].aval.shape)]


@primitive("min")
def _min(t: Tracer, eqn, x, y):
    bit = nonnegative(t, t.add([(x, 1), (y, -1)]))
    return [choose(t, bit, y, x, eqn.outvars[0].aval.shape)]


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
