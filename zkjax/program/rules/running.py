"""Products over axes, and products and maxima of all elements up to each one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zkjax.errors import UnsupportedPrimitiveError
from zkjax.program.rules.comparison import choose, named, nonnegative
from zkjax.program.rules.shapes import joined, slice_of
from zkjax.program.tracer import Sym, Tracer, primitive

MOST_STEPS = 64  # elements along the axis: each costs operations of its own

Combine = Callable[[Tracer, Sym, Sym], Sym]


def product(t: Tracer, x: Sym, y: Sym) -> Sym:
    return Sym(t.builder.multiply(x.var, y.var), x.fraction + y.fraction)


def larger(t: Tracer, x: Sym, y: Sym) -> Sym:
    bit = nonnegative(t, t.add([(x, 1), (y, -1)]))
    return named(t, choose(t, bit, x, y, t.builder.shape(x.var)))


def smaller(t: Tracer, x: Sym, y: Sym) -> Sym:
    bit = nonnegative(t, t.add([(x, 1), (y, -1)]))
    return named(t, choose(t, bit, y, x, t.builder.shape(x.var)))


COMBINE: dict[str, Combine] = {"cumprod": product, "cummax": larger, "cummin": smaller}


def along(t: Tracer, x: Sym, axis: int) -> list[Sym]:
    """The slices of length 1."""
    shape = list(t.builder.shape(x.var))
    starts = [[i if a == axis else 0 for a in range(len(shape))] for i in range(shape[axis])]
    shape[axis] = 1
    return [slice_of(t, x, start, tuple(shape)) for start in starts]


@primitive(*COMBINE)
def _running(t: Tracer, eqn, x):
    name, axis = eqn.primitive.name, eqn.params["axis"]
    n = t.builder.shape(x.var)[axis]
    if n > MOST_STEPS:
        raise UnsupportedPrimitiveError(
            f"{n:,} elements are too many here, at most {MOST_STEPS} are not; use jax.lax.scan, "
            "and round its carry inside the body with zkjax.fixed.round",
            t.where,
        )
    parts = along(t, x, axis)
    if eqn.params["reverse"]:
        parts.reverse()
    out = parts[:1]
    for part in parts[1:]:
        out.append(COMBINE[name](t, out[-1], part))
    return [joined(t, out[::-1] if eqn.params["reverse"] else out, axis)]


@primitive("reduce_prod")
def _reduce_prod(t: Tracer, eqn, x):
    """By halves, the odd one apart."""
    b, axes = t.builder, tuple(eqn.params["axes"])
    shape = b.shape(x.var)
    kept = [a for a in range(len(shape)) if a not in axes]
    outer = tuple(shape[a] for a in kept)
    n = int(np.prod([shape[a] for a in axes], dtype=np.int64))
    flat = Sym(b.reshape(b.transpose(x.var, (*kept, *axes)), (*outer, n)), x.fraction)
    low = [0] * len(outer)
    while n > 1:
        half = n // 2
        parts = [slice_of(t, flat, (*low, i * half), (*outer, half)) for i in (0, 1)]
        paired = product(t, *parts)
        if n % 2:
            last = slice_of(t, flat, (*low, n - 1), (*outer, 1))
            paired = joined(t, [paired, last], len(outer))
        flat, n = paired, half + n % 2
    return [Sym(b.reshape(flat.var, outer), flat.fraction)]
