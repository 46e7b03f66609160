"""Operations that move elements: all linear, none costs a sumcheck."""

from __future__ import annotations

import numpy as np

from zkjax.program.tracer import Sym, Tracer, primitive


@primitive("broadcast_in_dim")
def _broadcast(t: Tracer, eqn, x):
    shape, dims = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    return [Sym(t.builder.broadcast(x.var, shape, dims), x.fraction)]


@primitive("reshape", "squeeze", "expand_dims")
def _reshape(t: Tracer, eqn, x):
    var = x.var
    order = eqn.params.get("dimensions") if eqn.primitive.name == "reshape" else None
    if order is not None:
        var = t.builder.transpose(var, order)
    return [Sym(t.builder.reshape(var, eqn.outvars[0].aval.shape), x.fraction)]


@primitive("transpose")
def _transpose(t: Tracer, eqn, x):
    return [Sym(t.builder.transpose(x.var, eqn.params["permutation"]), x.fraction)]


def slice_of(t: Tracer, x: Sym, starts, shape, steps=None) -> Sym:
    """x[starts : ... : steps] with the given result shape."""
    return Sym(t.builder.slice(x.var, starts, shape, steps), x.fraction)


@primitive("slice")
def _slice(t: Tracer, eqn, x):
    p = eqn.params
    return [slice_of(t, x, p["start_indices"], eqn.outvars[0].aval.shape, p["strides"])]


@primitive("dynamic_slice")
def _dynamic_slice(t: Tracer, eqn, x, *starts):
    if any(isinstance(s, Sym) for s in starts):
        raise t.unsupported(eqn, "with a start that depends on data")
    shape = eqn.params["slice_sizes"]
    inside = t.builder.shape(x.var)
    clipped = [min(max(int(s), 0), n - m) for s, n, m in zip(starts, inside, shape, strict=True)]
    return [slice_of(t, x, clipped, shape)]


@primitive("split")
def _split(t: Tracer, eqn, x):
    axis, out, start = eqn.params["axis"], [], 0
    inside = t.builder.shape(x.var)
    for size, var in zip(eqn.params["sizes"], eqn.outvars, strict=True):
        starts, shape = [0] * len(inside), list(inside)
        starts[axis], shape[axis] = start, size
        out.append(slice_of(t, x, starts, shape) if size else np.zeros(shape, var.aval.dtype))
        start += size
    return out


def padded(t: Tracer, x: Sym, low, step, shape) -> Sym:
    """Operand index i at low + step * i of a zero tensor."""
    inside = t.builder.shape(x.var)
    if tuple(shape) == inside:
        return x
    var = t.builder.add(
        "pad",
        [x.var],
        tuple(shape),
        t.builder.bounds[x.var],
        tuple(int(n) for n in low),
        tuple(int(n) for n in step),
        inside,
    )
    return Sym(var, x.fraction)


def surrounded(t: Tracer, x: Sym, padding, dilation) -> Sym:
    """x with zeros between and around its elements; negative padding crops."""
    shape = t.builder.shape(x.var)
    spread = [(n - 1) * d + 1 for n, d in zip(shape, dilation, strict=True)]
    low = [max(0, a) for a, _ in padding]
    outside = [n + a + max(0, b) for n, a, (_, b) in zip(spread, low, padding, strict=True)]
    x = padded(t, x, low, dilation, outside)
    kept = [n + a + b for n, (a, b) in zip(spread, padding, strict=True)]
    return slice_of(t, x, [max(0, -a) for a, _ in padding], tuple(kept))


@primitive("pad")
def _pad(t: Tracer, eqn, x, value):
    config, shape = eqn.params["padding_config"], eqn.outvars[0].aval.shape
    padding, dilation = [c[:2] for c in config], [c[2] + 1 for c in config]
    x = t.sym(x)
    out = surrounded(t, x, padding, dilation)
    if not isinstance(value, Sym) and not np.any(np.asarray(value)):
        return [out]
    # Elsewhere the padding value: 1 - pad(1) times it.
    ones = surrounded(t, t.sym(np.ones(t.builder.shape(x.var))), padding, dilation)
    outside = t.add([(np.ones(shape), 1), (ones, -1)])
    filled = t.builder.multiply(outside.var, t.spread(value, shape).var)
    return [t.add([(out, 1), (Sym(filled, t.sym(value).fraction), 1)])]


def joined(t: Tracer, xs, axis: int) -> Sym:
    """Values one after another along an axis: the sum of zero tensors that hold one each."""
    syms = [t.sym(x) for x in xs if 0 not in t.shape_of(x)]
    fraction = max(s.fraction for s in syms)
    parts = [t.at_fraction(s, fraction) for s in syms]
    shapes = [t.builder.shape(s.var) for s in parts]
    shape = list(shapes[0])
    shape[axis] = sum(s[axis] for s in shapes)
    start, terms = 0, []
    for part, inside in zip(parts, shapes, strict=True):
        low = [0] * len(shape)
        low[axis] = start
        start += inside[axis]
        terms.append((padded(t, part, low, [1] * len(shape), shape).var, 1))
    largest = max(t.builder.bounds[var] for var, _ in terms)
    return Sym(t.builder.affine(terms, bound=largest), fraction)


@primitive("concatenate")
def _concatenate(t: Tracer, eqn, *xs):
    return [joined(t, xs, eqn.params["dimension"])]


@primitive("stack")
def _stack(t: Tracer, eqn, *xs):
    axis, shape = eqn.params["axis"], list(eqn.outvars[0].aval.shape)
    shape[axis] = 1
    syms = [t.sym(x) for x in xs]
    return [
        joined(t, [Sym(t.builder.reshape(s.var, tuple(shape)), s.fraction) for s in syms], axis)
    ]


@primitive("tile")
def _tile(t: Tracer, eqn, x):
    for axis, count in enumerate(eqn.params["reps"]):
        if count > 1:
            x = joined(t, [x] * count, axis)
    return [x]


@primitive("rev")
def _rev(t: Tracer, eqn, x):
    dims = tuple(sorted(eqn.params["dimensions"]))
    shape = t.builder.shape(x.var)
    var = t.builder.add("reverse", [x.var], shape, t.builder.bounds[x.var], dims)
    return [Sym(var, x.fraction)]


@primitive("reduce_sum")
def _reduce_sum(t: Tracer, eqn, x):
    return [Sym(t.builder.sum(x.var, eqn.params["axes"]), x.fraction)]
