"""dot_general and its relatives."""

from __future__ import annotations

import numpy as np

from zkjax.errors import ScaleError
from zkjax.program.tracer import Sym, Tracer, primitive

# Other algorithms convert their operands first, as to float32 or bfloat16.
EXACT_PRODUCTS = {"DEFAULT", "HIGH", "HIGHEST", "F64_F64_F64"}


def contract(t: Tracer, x: Sym, y: Sym, batch, summed) -> Sym:
    """sum over the summed axis pairs, elementwise over the batch pairs.

    Output axes: batch, free axes of x, free axes of y. Operands are ordered by their hashes, so a
    product and its mirror image are one operation followed by a transpose.
    """
    b = t.builder
    shape_x, shape_y = b.shape(x.var), b.shape(y.var)
    free_x = [a for a in range(len(shape_x)) if a not in {p for p, _ in batch + summed}]
    free_y = [a for a in range(len(shape_y)) if a not in {q for _, q in batch + summed}]
    fraction = x.fraction + y.fraction
    count = int(np.prod([shape_x[p] for p, _ in summed], dtype=np.int64))
    for side, axes in ((x, [p for p, _ in summed]), (y, [q for _, q in summed])):
        op = b.ops[side.var]
        if op.kind == "onehot" and len(op.shape) - 1 in axes:
            count //= op.shape[-1]  # one entry of the row is 1, the others 0
            break
    bound = b.bounds[x.var] * b.bounds[y.var] * count
    nb, nx, ny = len(batch), len(free_x), len(free_y)
    if b.hashes[x.var] > b.hashes[y.var]:
        swapped = contract(t, y, x, [(q, p) for p, q in batch], [(q, p) for p, q in summed])
        order = [*range(nb), *range(nb + ny, nb + ny + nx), *range(nb, nb + ny)]
        return Sym(b.transpose(swapped.var, order), fraction)
    batch_shape = tuple(shape_x[p] for p, _ in batch)
    shape = (*batch_shape, *(shape_x[a] for a in free_x), *(shape_y[a] for a in free_y))
    pairs = tuple(sorted((int(p), int(q)) for p, q in summed))
    batch_pairs = tuple((int(p), int(q)) for p, q in batch)
    return Sym(b.add("contract", [x.var, y.var], shape, bound, batch_pairs, pairs), fraction)


def require_exact(t: Tracer, eqn) -> None:
    """ScaleError for a product by an algorithm that rounds the operands first."""
    precision = eqn.params.get("precision")
    levels = precision is None or isinstance(precision, tuple)  # of float32, not of float64
    if not levels and getattr(precision, "name", "") not in EXACT_PRODUCTS:
        raise ScaleError(
            f"a product of precision {precision} is not exact; leave the precision out", t.where
        )


@primitive("dot_general")
def _dot_general(t: Tracer, eqn, x, y):
    (cx, cy), (bx, by) = eqn.params["dimension_numbers"]
    kinds = {v.aval.dtype.kind for v in eqn.invars}
    out = eqn.outvars[0].aval.dtype
    require_exact(t, eqn)
    same = {v.aval.dtype for v in eqn.invars} == {out}
    wider = kinds <= set("iub") and (out.kind in "if" or (out.kind == "u" and "i" not in kinds))
    if not same and not wider:
        names = " and ".join(str(v.aval.dtype) for v in eqn.invars)
        raise ScaleError(f"a product of {names} into {out} cannot be proved", t.where)
    x, y = t.sym(x), t.sym(y)
    batch = list(zip(map(int, bx), map(int, by), strict=True))
    summed = list(zip(map(int, cx), map(int, cy), strict=True))
    if summed or batch:
        return [contract(t, x, y, batch, summed)]
    # An outer product: give both operands all axes and multiply.
    b = t.builder
    shape = (*b.shape(x.var), *b.shape(y.var))
    rank = len(b.shape(x.var))
    left = b.broadcast(x.var, shape, list(range(rank)))
    right = b.broadcast(y.var, shape, list(range(rank, len(shape))))
    return [Sym(b.multiply(left, right), x.fraction + y.fraction)]
