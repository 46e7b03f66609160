"""Indexing by constants, and other maps that are known when a function is traced.

What a primitive does with its operand is found by giving it numbered elements, or a basis: the same
code then serves every form of indexing that JAX has.
"""

from __future__ import annotations

import numpy as np

from zkjax.errors import UnsupportedPrimitiveError
from zkjax.program.rules.arithmetic import HINTS
from zkjax.program.rules.comparison import choose
from zkjax.program.rules.contraction import contract
from zkjax.program.rules.shapes import joined, padded
from zkjax.program.tracer import Sym, Tracer, Value, primitive

MOST_SELECTED = 1 << 16  # elements that are selected one by one; the statement lists them
MOST_WEIGHTS = 1 << 22  # entries of the matrix of a linear map


def _applied(eqn, operands: list[np.ndarray], indices: np.ndarray) -> np.ndarray:
    """What a primitive gives for (operand, indices, other operands)."""
    import jax

    with jax.ensure_compile_time_eval():
        out = eqn.primitive.bind(operands[0], indices, *operands[1:], **eqn.params)
    return np.asarray(out[0] if eqn.primitive.multiple_results else out)


def _require_constant(t: Tracer, eqn, indices: Value) -> None:
    name = eqn.primitive.name
    if isinstance(indices, Sym):
        raise UnsupportedPrimitiveError(
            f"the primitive '{name}' with an index that depends on data cannot be proved; "
            f"{HINTS.get(name, HINTS['gather'])}",
            t.where,
        )


def _require_small(t: Tracer, eqn, count: int, most: int) -> None:
    if count > most:
        raise UnsupportedPrimitiveError(
            f"'{eqn.primitive.name}' here needs {count:,} numbers in the statement, and {most:,} "
            "are allowed; index along one axis, or multiply by a onehot matrix",
            t.where,
        )


def _flat(t: Tracer, value: Value, shape) -> Sym:
    s = t.sym(value, shape)
    return Sym(t.builder.reshape(s.var, (int(np.prod(shape, dtype=np.int64)),)), s.fraction)


def selection(t: Tracer, eqn, source: Sym, numbered: list[np.ndarray], indices: np.ndarray) -> Sym:
    """The elements of a flat ``source`` that a primitive gives when its operands are the numbers
    of their elements.
    """
    (count,), shape = t.builder.shape(source.var), eqn.outvars[0].aval.shape
    found = _applied(eqn, numbered, indices)
    moved = _applied(eqn, [n + n.dtype.type(1) for n in numbered], indices)
    # What is no element, as what stands for an index out of bounds, does not move with the numbers.
    if not np.array_equal(found + 1, moved):
        raise UnsupportedPrimitiveError(
            f"'{eqn.primitive.name}' gives more than elements here: an index is out of bounds, or "
            "the elements are changed",
            t.where,
        )
    chosen = found.reshape(-1)
    _require_small(t, eqn, chosen.size, MOST_SELECTED)
    if chosen.size and (chosen.min() < 0 or chosen.max() >= count or np.isnan(chosen).any()):
        raise UnsupportedPrimitiveError("a constant index is out of bounds", t.where)
    taken = t.builder.add(
        "take",
        [source.var],
        (chosen.size,),
        t.builder.bounds[source.var],
        0,
        tuple(int(i) for i in chosen),
        (count,),
    )
    return Sym(t.builder.reshape(taken, shape), source.fraction)


def gathered(t: Tracer, eqn, x: Sym, indices: np.ndarray) -> Sym:
    """Any form of ``x[...]`` with constant indices."""
    shape = t.builder.shape(x.var)
    numbers = np.arange(np.prod(shape, dtype=np.int64), dtype=np.float64).reshape(shape)
    return selection(t, eqn, _flat(t, x, shape), [numbers], indices)


@primitive("gather")
def _gather(t: Tracer, eqn, x, indices):
    """Constant indices: those along one axis (``x[:, [2, 0]]``, ``x[3]``) keep the other axes."""
    d = eqn.params["dimension_numbers"]
    sizes = eqn.params["slice_sizes"]
    _require_constant(t, eqn, indices)
    inside = t.builder.shape(x.var)
    axes = d.start_index_map
    batched = getattr(d, "operand_batching_dims", ())
    whole = all(sizes[a] == n for a, n in enumerate(inside) if a not in axes)
    if len(axes) != 1 or batched or not whole or tuple(d.collapsed_slice_dims) != tuple(axes):
        return [gathered(t, eqn, x, indices)]
    axis = axes[0]
    flat = np.asarray(indices).reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >= inside[axis]):
        raise UnsupportedPrimitiveError("a constant index is out of bounds", t.where)
    shape = (*inside[:axis], len(flat), *inside[axis + 1 :])
    var = t.builder.add(
        "take",
        [x.var],
        shape,
        t.builder.bounds[x.var],
        axis,
        tuple(int(i) for i in flat),
        inside,
    )
    index_shape = np.asarray(indices).shape[:-1]
    out_shape = eqn.outvars[0].aval.shape
    rest = [n for a, n in enumerate(inside) if a != axis]
    # Bring the index axes first, then where the output wants them.
    order = [axis] + [a for a in range(len(inside)) if a != axis]
    var = t.builder.transpose(var, order)
    var = t.builder.reshape(var, (*index_shape, *rest))
    places = [a for a in range(len(out_shape)) if a not in d.offset_dims] + list(d.offset_dims)
    permutation = [places.index(a) for a in range(len(out_shape))]
    return [Sym(t.builder.transpose(var, permutation), x.fraction)]


@primitive("scatter")
def _scatter(t: Tracer, eqn, x, indices, updates):
    """``x.at[...].set(u)`` with constant indices: elements of x and u, one after the other."""
    _require_constant(t, eqn, indices)
    shapes = [v.aval.shape for v in (eqn.invars[0], eqn.invars[2])]
    counts = [int(np.prod(s, dtype=np.int64)) for s in shapes]
    both = joined(t, [_flat(t, v, s) for v, s in zip((x, updates), shapes, strict=True)], 0)
    dtype, body = eqn.invars[0].aval.dtype, eqn.params.get("update_jaxpr")
    if body is not None and body.outvars[0] is not body.invars[1]:
        raise UnsupportedPrimitiveError(
            "an update that is computed from what was there cannot be proved; compute it first and "
            "use .at[...].set",
            t.where,
        )
    most = np.iinfo(dtype).max if dtype.kind in "iu" else 2**52 if dtype.kind == "f" else 0
    if sum(counts) > most:
        raise UnsupportedPrimitiveError(
            f"an update of {dtype} of so many elements; zkjax.fixed.decode the integers first",
            t.where,
        )
    first, second = np.split(np.arange(sum(counts)).astype(dtype), counts[:1])
    numbered = [first.reshape(shapes[0]), second.reshape(shapes[1])]
    return [selection(t, eqn, both, numbered, indices)]


@primitive("scatter-add", "scatter_add")
def _scatter_add(t: Tracer, eqn, x, indices, updates):
    """``x.at[...].add(u)`` with constant indices, also the derivative of indexing: x + M u."""
    import jax

    _require_constant(t, eqn, indices)
    outside, inside = eqn.outvars[0].aval.shape, eqn.invars[2].aval.shape
    rows, columns = (int(np.prod(s, dtype=np.int64)) for s in (inside, outside))
    _require_small(t, eqn, rows * columns, MOST_WEIGHTS)
    dtype = eqn.invars[0].aval.dtype
    zeros = np.zeros(outside, dtype)

    def placed(u):
        return eqn.primitive.bind(zeros, indices, u, **eqn.params)

    with jax.ensure_compile_time_eval():
        basis = np.eye(rows, dtype=dtype).reshape(rows, *inside)
        matrix = np.asarray(jax.vmap(placed)(basis)).reshape(rows, columns)
    added = contract(t, _flat(t, updates, inside), t.sym(matrix.astype(np.float64)), [], [(0, 0)])
    moved = Sym(t.builder.reshape(added.var, outside), added.fraction)
    return [t.add([(t.spread(x, outside), 1), (moved, 1)])]


@primitive("dynamic_update_slice")
def _dynamic_update_slice(t: Tracer, eqn, x, update, *starts):
    """At a constant place: the update there, x elsewhere."""
    for start in starts:
        _require_constant(t, eqn, start)
    shape, inside = eqn.invars[0].aval.shape, eqn.invars[1].aval.shape
    low = [min(max(int(s), 0), n - m) for s, n, m in zip(starts, shape, inside, strict=True)]
    mask = np.zeros(shape, np.int64)
    mask[tuple(slice(a, a + m) for a, m in zip(low, inside, strict=True))] = 1
    placed = padded(t, t.sym(update, inside), low, [1] * len(shape), shape)
    bit = Sym(t.builder.constant(mask), 0)
    return [choose(t, bit, placed, t.sym(x, shape), shape)]


@primitive("cumsum")
def _cumsum(t: Tracer, eqn, x):
    """Along an axis: a product with a triangle of ones."""
    axis, shape = eqn.params["axis"], t.builder.shape(x.var)
    n = shape[axis]
    _require_small(t, eqn, n * n, MOST_WEIGHTS)
    ones = np.tril(np.ones((n, n))) if eqn.params["reverse"] else np.triu(np.ones((n, n)))
    summed = contract(t, x, t.sym(ones), [], [(axis, 0)])
    order = [*range(axis), len(shape) - 1, *range(axis, len(shape) - 1)]
    return [Sym(t.builder.transpose(summed.var, order), summed.fraction)]
