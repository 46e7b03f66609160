"""Where the largest elements are: argmax, argmin, top_k and sort, by the bits of an index.

An index is committed by its bits, as in ``fixed.onehot``. With h its onehot vector, x* = <h, x> the
element that it names and e_j = sum_{k > j} h_k = [j < index], the relations

    x* - x_j - e_j in [0, 2^w) for all j

hold for the first index of a maximum and for no other: x* is at least every x_j, and more than
those that come before it. Ties so give what JAX gives. The best k, and an order, are k such
indices; what was taken is moved below everything else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zkjax.errors import UnsupportedPrimitiveError
from zkjax.program.hints import hint
from zkjax.program.rules.contraction import contract
from zkjax.program.rules.fixed import onehot_of_bits, require_bits
from zkjax.program.rules.shapes import joined
from zkjax.program.tracer import Sym, Tracer, primitive

MOST_RANKS = 32  # indices that are found one after another


@dataclass
class Found:
    """The first index of the maximum over the last axis, its onehot vector and the element."""

    index: Sym
    onehot: Sym
    value: Sym


def along_last(t: Tracer, onehot: Sym, x: Sym) -> Sym:
    """sum_j onehot_j x_j over the last axis."""
    last = len(t.builder.shape(x.var)) - 1
    return contract(t, onehot, x, [(a, a) for a in range(last)], [(last, last)])


def first_largest(t: Tracer, x: Sym, width: int, note: str) -> Found:
    """Over the last axis, for differences from the maximum below 2^width."""
    b = t.builder
    require_bits(t, width, least=0)
    shape = b.shape(x.var)
    n, outer = shape[-1], shape[:-1]
    if n == 1:
        zeros, ones = t.sym(np.zeros(outer)), t.sym(np.ones(shape))
        return Found(zeros, ones, Sym(b.reshape(x.var, outer), x.fraction))
    key = ["first", width]  # of several equal elements ``max`` takes any, this the first
    count = (n - 1).bit_length()
    bits = [b.add("argmax_bit", [x.var], outer, 1, i, key=key) for i in range(count)]
    for bit in bits:  # each of them rests on all the relations
        hot = Sym(onehot_of_bits(t, bits, n, bit, note), 0)
        value = along_last(t, hot, x)
        before = contract(t, hot, t.sym(np.tril(np.ones((n, n)), -1)), [], [(len(outer), 0)])
        spread = b.broadcast(value.var, shape, list(range(len(outer))))
        gap = b.affine([(spread, 1), (x.var, -1), (before.var, -1)])
        b.range_check(gap, width, bit, note)
    index = b.affine([(bit, 1 << i) for i, bit in enumerate(bits)], bound=n - 1)
    return Found(Sym(index, 0), hot, value)


def moved_last(t: Tracer, x: Sym, axis: int) -> Sym:
    rank = len(t.builder.shape(x.var))
    order = [a for a in range(rank) if a != axis] + [axis]
    return Sym(t.builder.transpose(x.var, order), x.fraction)


def negated(t: Tracer, x: Sym) -> Sym:
    return Sym(t.builder.affine([(x.var, -1)]), x.fraction)


@primitive("argmax", "argmin")
def _argmax(t: Tracer, eqn, x):
    (axis,) = eqn.params["axes"]
    x = moved_last(t, x, axis)
    if eqn.primitive.name == "argmin":
        x = negated(t, x)
    note = f"'{eqn.primitive.name}' at {t.where}"
    return [first_largest(t, x, t.bits_of(x.var) + 1, note).index]


@primitive("zk_argmax")
def _fixed_argmax(t: Tracer, eqn, x):
    bits = eqn.params["bits"]
    return [first_largest(t, x, bits, f"fixed.argmax(bits={bits}) at {t.where}").index]


def ranked(t: Tracer, x: Sym, k: int, note: str) -> list[Found]:
    """The k largest over the last axis, of equal ones the first first."""
    b = t.builder
    # By which no two of the others differ, says the first maximum's relation; a declared bound does
    # not say so of all runs. So what was taken is below what was not.
    below = 2 << t.bits_of(x.var)
    found: list[Found] = []
    for _ in range(k):
        found.append(first_largest(t, x, t.bits_of(x.var) + 1, note))
        x = Sym(b.affine([(x.var, 1), (found[-1].onehot.var, -below)]), x.fraction)
    return found


def _require_few(t: Tracer, eqn, count: int, what: str) -> None:
    if count > MOST_RANKS:
        raise UnsupportedPrimitiveError(
            f"{what} {count:,} elements costs a comparison of all of them for each; at most "
            f"{MOST_RANKS} are taken: compute the order outside and pass it in, or use jnp.max",
            t.where,
        )


def _stacked(t: Tracer, parts: list[Sym], axis: int) -> Sym:
    """Values one after another on a new axis."""
    shape = list(t.builder.shape(parts[0].var))
    shape.insert(axis, 1)
    rows = [Sym(t.builder.reshape(p.var, tuple(shape)), p.fraction) for p in parts]
    return joined(t, rows, axis)


@primitive("top_k")
def _top_k(t: Tracer, eqn, x):
    rank = len(t.builder.shape(x.var))
    k, axis = eqn.params["k"], eqn.params.get("axis", rank - 1) % rank
    _require_few(t, eqn, k, "the largest")
    if eqn.outvars[1] in t.used and eqn.invars[0].aval.dtype.kind == "f":
        # For JAX 0.0 is here more than -0.0, which a product with a negative number gives.
        raise UnsupportedPrimitiveError(
            "where the largest of floating-point numbers are cannot be proved, for JAX tells -0.0 "
            "from 0.0 here; take those of integers, zkjax.fixed.encode(x, fraction=...), or use "
            "jnp.argsort",
            t.where,
        )
    x = moved_last(t, x, axis)
    found = ranked(t, x, k, f"'top_k' at {t.where}")
    values = [along_last(t, f.onehot, x) for f in found]
    return [_stacked(t, values, axis), _stacked(t, [f.index for f in found], axis)]


@primitive("sort")
def _sort(t: Tracer, eqn, *operands):
    """By the first operand; the others follow it."""
    p, shape = eqn.params, eqn.outvars[0].aval.shape
    axis, n = p["dimension"], shape[p["dimension"]]
    if p["num_keys"] != 1 or (len(operands) > 1 and not p["is_stable"]):
        raise UnsupportedPrimitiveError(
            "a sort by several keys, or one that leaves the order of equal elements open, cannot "
            "be proved; sort by one key with stable=True",
            t.where,
        )
    _require_few(t, eqn, n, "sorting")
    moved = [moved_last(t, t.sym(x, shape), axis) for x in operands]
    found = ranked(t, negated(t, moved[0]), n, f"'sort' at {t.where}")
    return [_stacked(t, [along_last(t, f.onehot, x) for f in found], axis) for x in moved]


hint(
    "compute it outside the function and pass it in; of at most 32 elements, jnp.sort and "
    "jnp.argsort are proved",
    "jnp.median",
    "jnp.quantile",
    "jnp.percentile",
    "jnp.lexsort",
    "jnp.searchsorted",
    "jnp.digitize",
    "jnp.histogram",
    "jnp.unique",
    "approx_top_k",
    "lax.approx_max_k",
    "lax.approx_min_k",
)
hint(
    "its derivative has no rule; zkjax.fixed.onehot(jnp.argsort(x), n) @ x is sorted and has one",
    "jnp.sort",
    "lax.sort",
    "lax.top_k",
)
hint(
    "use zkjax.fixed.max(x, bits), whose derivative gives every maximal entry the full cotangent",
    "jnp.max",
    "jnp.amax",
    "jnp.min",
    "jnp.amin",
)
