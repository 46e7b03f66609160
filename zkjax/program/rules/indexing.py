"""Indexing by constants, and other maps that are known when a function is traced.

What a primitive does with its operand is found by giving it numbered elements, or a basis: the same
code then serves every form of indexing that JAX has.
"""

from __future__ import annotations

import math

import numpy as np

from zkjax.errors import UnsupportedPrimitiveError
from zkjax.program.hints import hint
from zkjax.program.rules.comparison import choose
from zkjax.program.rules.contraction import contract
from zkjax.program.rules.shapes import joined, padded
from zkjax.program.rules.steps import Steps, added, blocks, picked, put, size_of
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
    if isinstance(indices, Sym):
        raise t.unsupported(eqn, "with an index that depends on data")


def require_small(t: Tracer, eqn, count: int, most: int) -> None:
    if count > most:
        raise UnsupportedPrimitiveError(
            f"'{eqn.primitive.name}' here needs {count:,} numbers in the statement, and {most:,} "
            "are allowed; index along one axis, or multiply by a onehot matrix",
            t.where,
        )


def _flat(t: Tracer, value: Value, shape) -> Sym:
    s = t.sym(value, shape)
    return Sym(t.builder.reshape(s.var, (int(np.prod(shape, dtype=np.int64)),)), s.fraction)


def common_steps(t: Tracer, inside: tuple[int, ...], outside: tuple[int, ...]) -> list[Steps]:
    """What may be the axes of the steps in front of two arrays inside scans, the most first."""
    most = min(t.loops, len(inside), len(outside))
    return [inside[:r] for r in range(most, 0, -1) if inside[:r] == outside[:r]]


def _rows(t: Tracer, value: Value, lead: Steps, shape) -> Sym:
    """(*lead, all elements of a step)."""
    s = t.sym(value, shape)
    inside = math.prod(shape[len(lead) :])
    return Sym(t.builder.reshape(s.var, (*lead, inside)), s.fraction)


def selected(t: Tracer, eqn, numbered: list[np.ndarray], indices: np.ndarray) -> np.ndarray:
    """The numbers that a primitive gives when its operands are the numbers of their elements."""
    found = _applied(eqn, numbered, indices)
    moved = _applied(eqn, [n + n.dtype.type(1) for n in numbered], indices)
    # What is no element, as what stands for an index out of bounds, does not move with the numbers.
    if not np.array_equal(found + 1, moved):
        raise UnsupportedPrimitiveError(
            f"'{eqn.primitive.name}' gives more than elements here: an index is out of bounds, or "
            "the elements are changed",
            t.where,
        )
    return found.reshape(-1)


def taken(t: Tracer, eqn, source: Sym, chosen: np.ndarray) -> Sym:
    """Elements of a flat ``source`` by their numbers."""
    (count,), shape = t.builder.shape(source.var), eqn.outvars[0].aval.shape
    require_small(t, eqn, chosen.size, MOST_SELECTED)
    if chosen.size and (chosen.min() < 0 or chosen.max() >= count or np.isnan(chosen).any()):
        raise UnsupportedPrimitiveError("a constant index is out of bounds", t.where)
    var = t.builder.add(
        "take",
        [source.var],
        (chosen.size,),
        t.builder.bounds[source.var],
        0,
        tuple(int(i) for i in chosen),
        (count,),
    )
    return Sym(t.builder.reshape(var, shape), source.fraction)


def gathered(t: Tracer, eqn, x: Sym, indices: np.ndarray) -> Sym:
    """Any form of ``x[...]`` with constant indices."""
    shape = t.builder.shape(x.var)
    numbers = np.arange(np.prod(shape, dtype=np.int64), dtype=np.float64).reshape(shape)
    chosen = selected(t, eqn, [numbers], indices)
    for lead in common_steps(t, shape, eqn.outvars[0].aval.shape):
        inside = numbers.size // math.prod(lead)
        table = blocks(chosen, lead, inside)
        if table is not None:
            require_small(t, eqn, size_of(table, inside), MOST_WEIGHTS)
            found = picked(t, _rows(t, x, lead, shape), table)
            return Sym(t.builder.reshape(found.var, eqn.outvars[0].aval.shape), found.fraction)
    return taken(t, eqn, _flat(t, x, shape), chosen)


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
    chosen = selected(t, eqn, numbered, indices)
    for lead in common_steps(t, *shapes):
        inside = [n // math.prod(lead) for n in counts]
        mask = (chosen >= counts[0]).reshape(*lead, -1)
        kept = chosen == np.arange(counts[0])
        own = counts[0] + inside[1] * np.arange(math.prod(lead)).reshape(*lead, 1)
        table = np.where(mask, chosen.reshape(mask.shape) - own, 0).astype(np.int64)
        if table.min() >= 0 and table.max() < inside[1] and (mask.reshape(-1) | kept).all():
            require_small(t, eqn, size_of(table, inside[1]), MOST_WEIGHTS)
            before, new = _rows(t, x, lead, shapes[0]), _rows(t, updates, lead, shapes[1])
            result = put(t, before, new, table, mask)
            return [Sym(t.builder.reshape(result.var, shapes[0]), result.fraction)]
    both = joined(t, [_flat(t, v, s) for v, s in zip((x, updates), shapes, strict=True)], 0)
    return [taken(t, eqn, both, chosen)]


@primitive("scatter-add", "scatter_add")
def _scatter_add(t: Tracer, eqn, x, indices, updates):
    """``x.at[...].add(u)`` with constant indices, also the derivative of indexing: x + M u."""
    import jax

    _require_constant(t, eqn, indices)
    outside, inside = eqn.outvars[0].aval.shape, eqn.invars[2].aval.shape
    rows, columns = (int(np.prod(s, dtype=np.int64)) for s in (inside, outside))
    require_small(t, eqn, rows * columns, MOST_WEIGHTS)
    dtype = eqn.invars[0].aval.dtype
    zeros = np.zeros(outside, dtype)

    def placed(u):
        return eqn.primitive.bind(zeros, indices, u, **eqn.params)

    with jax.ensure_compile_time_eval():
        basis = np.eye(rows, dtype=dtype).reshape(rows, *inside)
        matrix = np.asarray(jax.vmap(placed)(basis)).reshape(rows, columns)
    for lead in common_steps(t, inside, outside):
        steps = math.prod(lead)
        whole = matrix.reshape(steps, rows // steps, steps, columns // steps)
        weights = whole[np.arange(steps), :, np.arange(steps)]
        if np.abs(weights).sum() == np.abs(matrix).sum():
            before, new = _rows(t, x, lead, outside), _rows(t, updates, lead, inside)
            result = added(t, before, new, weights.reshape(*lead, *weights.shape[1:]))
            return [Sym(t.builder.reshape(result.var, outside), result.fraction)]
    spread = contract(t, _flat(t, updates, inside), t.sym(matrix.astype(np.float64)), [], [(0, 0)])
    moved = Sym(t.builder.reshape(spread.var, outside), spread.fraction)
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
    require_small(t, eqn, n * n, MOST_WEIGHTS)
    ones = np.tril(np.ones((n, n))) if eqn.params["reverse"] else np.triu(np.ones((n, n)))
    summed = contract(t, x, t.sym(ones), [], [(axis, 0)])
    order = [*range(axis), len(shape) - 1, *range(axis, len(shape) - 1)]
    return [Sym(t.builder.transpose(summed.var, order), summed.fraction)]


hint(
    "select rows with zkjax.fixed.embed(table, index), or entries with jnp.sum(zkjax.fixed.onehot("
    "index, n) * x, axis=-1); constants and loop counters may index",
    "gather",
    "dynamic_slice",
    "lax.dynamic_slice",
    "lax.dynamic_slice_in_dim",
    "lax.dynamic_index_in_dim",
    "x[...]",
    "jnp.take",
    "jnp.take_along_axis",
    "jnp.choose",
    "nn.Embed",
    "nnx.Embed",
)
hint(
    "choose with jnp.where(zkjax.fixed.onehot(index, n) == 1, update, x)",
    "scatter",
    "dynamic_update_slice",
    "lax.dynamic_update_slice",
    "lax.dynamic_update_slice_in_dim",
    "lax.dynamic_update_index_in_dim",
    "x.at[...].set",
)
hint(
    "use zkjax.fixed.onehot(index, n).T @ updates",
    "scatter-add",
    "scatter_add",
    "x.at[...].add",
    "jax.ops.segment_sum",
)
hint(
    "take what is there with x[index], compute the new values, and use x.at[index].set",
    "scatter-mul",
    "scatter_mul",
    "scatter-min",
    "scatter_min",
    "scatter-max",
    "scatter_max",
    "scatter-sub",
    "scatter_sub",
    "x.at[...].apply",
    "x.at[...].divide",
    "x.at[...].max",
    "x.at[...].min",
    "x.at[...].multiply",
    "x.at[...].mul",
    "x.at[...].power",
    "x.at[...].subtract",
)
hint(
    "tabulate it: zkjax.fixed.table(lambda x: np.interp(x, xp, fp), fraction, out_fraction)",
    "jnp.interp",
)
