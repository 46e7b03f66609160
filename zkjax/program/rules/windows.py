"""Convolutions and pooling: windows of an array are a selection, what follows is a contraction."""

from __future__ import annotations

import numpy as np

from zkjax.errors import UnsupportedPrimitiveError
from zkjax.program.hints import hint
from zkjax.program.rules.contraction import contract, require_exact
from zkjax.program.rules.indexing import require_small
from zkjax.program.rules.running import along, larger, smaller
from zkjax.program.rules.shapes import surrounded
from zkjax.program.tracer import Sym, Tracer, primitive

MOST_PLACES = 1 << 16  # places of a window along an axis, times its length


def windows(t: Tracer, eqn, x: Sym, axis: int, size: int, stride: int, dilation: int) -> Sym:
    """The axis replaced by two: places of a window, and its elements."""
    b = t.builder
    shape = b.shape(x.var)
    reach = (size - 1) * dilation + 1
    count = (shape[axis] - reach) // stride + 1
    require_small(t, eqn, count * size, MOST_PLACES)
    index = (stride * np.arange(count)[:, None] + dilation * np.arange(size)).reshape(-1)
    outside = (*shape[:axis], len(index), *shape[axis + 1 :])
    taken = b.add("take", [x.var], outside, b.bounds[x.var], axis, tuple(map(int, index)), shape)
    return Sym(b.reshape(taken, (*shape[:axis], count, size, *shape[axis + 1 :])), x.fraction)


def divided(t: Tracer, x: Sym, axis: int, groups: int) -> Sym:
    """An axis as groups in front and what is left of it in its place."""
    b = t.builder
    shape = b.shape(x.var)
    var = b.reshape(x.var, (*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :]))
    rank = len(shape) + 1
    return Sym(b.transpose(var, (axis, *(a for a in range(rank) if a != axis))), x.fraction)


@primitive("conv_general_dilated")
def _conv(t: Tracer, eqn, x, kernel):
    """sum over channels c and elements k of x[n, c, place + k] kernel[o, c, k]."""
    require_exact(t, eqn)
    p, b = eqn.params, t.builder
    numbers = p["dimension_numbers"]
    x, kernel = t.sym(x), t.sym(kernel)
    x = Sym(b.transpose(x.var, numbers.lhs_spec), x.fraction)  # batch, channels, space
    kernel = Sym(b.transpose(kernel.var, numbers.rhs_spec), kernel.fraction)
    space = len(numbers.lhs_spec) - 2
    x = surrounded(t, x, [(0, 0), (0, 0), *p["padding"]], [1, 1, *p["lhs_dilation"]])
    sizes = b.shape(kernel.var)[2:]
    for i in reversed(range(space)):
        x = windows(t, eqn, x, 2 + i, sizes[i], p["window_strides"][i], p["rhs_dilation"][i])
    # Axes of x: batch, channels, (place, element) for each axis of space.
    groups, of_batch = p["feature_group_count"], p["batch_group_count"]
    x = divided(t, x, 1, groups) if of_batch == 1 else divided(t, x, 0, of_batch)
    kernel = divided(t, kernel, 0, max(groups, of_batch))
    summed = [(2, 2), *((4 + 2 * i, 3 + i) for i in range(space))]
    out = contract(t, x, kernel, [(0, 0)], summed)
    # groups, batch, places, output channels of a group -> batch, all output channels, places
    order = (1, 0, 2 + space, *(2 + i for i in range(space)))
    var = b.transpose(out.var, order)
    n, g, o, *places = b.shape(var)
    var = b.reshape(var, (n, g * o, *places))
    back = [numbers.out_spec.index(a) for a in range(space + 2)]
    return [Sym(b.transpose(var, back), out.fraction)]


def _axes_of(t: Tracer, eqn, x: Sym) -> tuple[Sym, list[int]]:
    """All windows, and the axes of their elements."""
    p, elements = eqn.params, []
    for axis in reversed(range(len(p["window_dimensions"]))):
        size, stride = p["window_dimensions"][axis], p["window_strides"][axis]
        x = windows(t, eqn, x, axis, size, stride, p["window_dilation"][axis])
        elements = [axis + 1, *(a + 1 for a in elements)]
    return x, elements


@primitive("reduce_window_sum")
def _window_sum(t: Tracer, eqn, x):
    x = surrounded(t, x, eqn.params["padding"], eqn.params["base_dilation"])
    x, elements = _axes_of(t, eqn, x)
    return [Sym(t.builder.sum(x.var, elements), x.fraction)]


@primitive("reduce_window_max", "reduce_window_min")
def _window_max(t: Tracer, eqn, x):
    p = eqn.params
    if any(a or b for a, b in p["padding"]) or any(d != 1 for d in p["base_dilation"]):
        raise UnsupportedPrimitiveError(
            "the largest of a window that reaches over the edge cannot be proved; use padding "
            "'VALID', or pad before with jnp.pad(x, ..., constant_values=the least value)",
            t.where,
        )
    combine = larger if eqn.primitive.name == "reduce_window_max" else smaller
    x, elements = _axes_of(t, eqn, x)
    for axis in elements:
        first, *others = along(t, x, axis)
        for other in others:
            first = combine(t, first, other)
        x = first
    return [Sym(t.builder.reshape(x.var, eqn.outvars[0].aval.shape), x.fraction)]


hint(
    "maxima over windows are proved inside the edges (padding='VALID') and without a derivative; "
    "for one pool with nn.avg_pool, or take zkjax.fixed.max over windows that constants select",
    "select_and_scatter_add",
    "select_and_gather_add",
    "nn.max_pool",
)
