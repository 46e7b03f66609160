"""The JAX primitives behind ``zkjax.fixed``: exact float64 lowerings and batching rules.

They are named ``zk_*``; ``program/rules/fixed.py`` says how each is proved. Derivatives are
defined on the public functions (``rounding``, ``functions``), not here.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir


def define(name: str, compute: Callable, shapes: Callable, batch: Callable) -> Primitive:
    """A primitive with several results.

    Args:
      compute: the implementation, jittable.
      shapes: (input avals, params) -> list of output shapes (all float64).
      batch: the batching rule (primitive, args, dims, params) -> (outs, dims).
    """
    p = Primitive(name)
    p.multiple_results = True
    p.def_impl(compute)
    p.def_abstract_eval(
        lambda *avals, **params: [
            ShapedArray(shape, jnp.float64) for shape in shapes(avals, params)
        ]
    )
    mlir.register_lowering(p, mlir.lower_fun(compute, multiple_results=True))
    batching.primitive_batchers[p] = lambda args, dims, **params: batch(p, args, dims, params)
    return p


def _elementwise_batch(p, args, dims, params):
    """Bring all batch axes to the front and broadcast unbatched operands."""
    size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
    moved = [
        jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
        for a, d in zip(args, dims, strict=True)
    ]
    out = p.bind(*moved, **params)
    return out, [0] * len(out)


def _round(x, *, fraction, bits, site):
    del bits, site
    return [jnp.floor(x * 2.0**fraction + 0.5) * 2.0**-fraction]


round_p = define("zk_round", _round, lambda a, p: [a[0].shape], _elementwise_batch)


def _rows(columns, fractions, row):
    """Entries of columns of integers, as values with these fraction bits."""
    return [
        jnp.asarray(column * 2.0**-fraction)[row]
        for column, fraction in zip(columns, fractions, strict=True)
    ]


def _lookup(x, *, table, in_fraction, out_fractions):
    low = int(table.columns[0][0])
    index = jnp.clip(x * 2.0**in_fraction - low, 0, table.rows - 1).astype(jnp.int32)
    return _rows(table.columns[1:], out_fractions, index)


lookup_p = define(
    "zk_lookup",
    _lookup,
    lambda a, p: [a[0].shape] * len(p["out_fractions"]),
    _elementwise_batch,
)


def _locate(x, *, table, in_fraction, out_fractions):
    """Columns of the row whose interval holds x; see ``tables.step_table``."""
    firsts = jnp.asarray(table.columns[1], dtype=jnp.float64)
    row = jnp.searchsorted(firsts, x * 2.0**in_fraction, side="right") - 1
    row = jnp.clip(row, 0, table.rows - 1)
    return _rows(table.columns[3:], out_fractions, row)


locate_p = define(
    "zk_locate",
    _locate,
    lambda a, p: [a[0].shape] * len(p["out_fractions"]),
    _elementwise_batch,
)


def _divide(n, d, *, fraction, bits):
    """floor(n 2^f / d) exactly: the float64 quotient is corrected by its exact remainder."""
    del bits
    scaled = n * 2.0**fraction
    safe = jnp.where(d > 0, d, 1.0)
    q = jnp.floor(scaled / safe)
    q = jnp.where(q * safe > scaled, q - 1, q)
    q = jnp.where((q + 1) * safe <= scaled, q + 1, q)
    return [jnp.where(d > 0, q, 0.0) * 2.0**-fraction]


divide_p = define("zk_divide", _divide, lambda a, p: [a[1].shape], _elementwise_batch)


def _rsqrt(x, *, fraction, bits):
    """The largest y with x y^2 <= 1 at ``fraction`` bits."""
    del bits
    step = 2.0**-fraction
    safe = jnp.where(x > 0, x, 1.0)
    y = jnp.floor(2.0**fraction / jnp.sqrt(safe)) * step
    y = jnp.where(safe * y * y > 1.0, y - step, y)
    above = y + step
    y = jnp.where(safe * above * above <= 1.0, above, y)
    return [jnp.where(x > 0, y, 0.0)]


rsqrt_p = define("zk_rsqrt", _rsqrt, lambda a, p: [a[0].shape], _elementwise_batch)


def _onehot(index, *, n):
    # As float64: a narrow integer type does not hold n classes.
    index = index[..., None].astype(jnp.float64)
    return [(index == jnp.arange(n, dtype=jnp.float64)).astype(jnp.float64)]


onehot_p = define("zk_onehot", _onehot, lambda a, p: [(*a[0].shape, p["n"])], _elementwise_batch)


def _max(x, *, bits):
    del bits
    return [jnp.max(x.astype(jnp.float64), axis=-1)]


max_p = define("zk_max", _max, lambda a, p: [a[0].shape[:-1]], _elementwise_batch)


# Ranges -------------------------------------------------------------------------------------
# For each primitive what has to stay in a range for a proof to exist, as
# (operands, outputs, params) -> [(integers, low, high, size of their unit, what it is), ...].
# The range of ``max`` is in units that only tracing finds out.


def _round_limits(xs, ys, p):
    half, unit = 1 << (p["bits"] - 1), 2.0 ** -p["fraction"]
    what = f"fixed.round(fraction={p['fraction']}, bits={p['bits']})"
    if p["site"]:
        what = f"site {p['site']}, {what}"
    return [(ys[0] / unit, -half, half - 1, unit, what)]


def _lookup_limits(xs, ys, p):
    keys, unit = p["table"].columns[0], 2.0 ** -p["in_fraction"]
    return [(xs[0] / unit, int(keys[0]), int(keys[-1]), unit, f"table {p['table'].name!r}")]


def _locate_limits(xs, ys, p):
    table, unit = p["table"], 2.0 ** -p["in_fraction"]
    low, high = int(table.columns[1][0]), int(table.columns[2][-1])
    return [(xs[0] / unit, low, high, unit, f"table {table.name!r}")]


def _divide_limits(xs, ys, p):
    half, unit = 1 << (p["bits"] - 1), 2.0 ** -p["fraction"]
    what = f"fixed.divide(fraction={p['fraction']}, bits={p['bits']})"
    positive = (xs[1] > 0).astype(jnp.float64)
    return [
        (positive, 1, 1, 1.0, f"{what}, whether the denominator is positive,"),
        (ys[0] / unit, -half, half - 1, unit, what),
    ]


def _rsqrt_limits(xs, ys, p):
    unit = 2.0 ** -p["fraction"]
    what = f"fixed.rsqrt(fraction={p['fraction']}, bits={p['bits']})"
    positive = (xs[0] > 0).astype(jnp.float64)
    return [
        (positive, 1, 1, 1.0, f"{what}, whether the argument is positive,"),
        (ys[0] / unit, 0, (1 << p["bits"]) - 1, unit, what),
    ]


def _onehot_limits(xs, ys, p):
    return [
        (xs[0].astype(jnp.float64), 0, p["n"] - 1, 1.0, f"the index of fixed.onehot(n={p['n']})")
    ]


def _conversion_limits(xs, ys, p):
    new, old = np.dtype(p["new_dtype"]), np.dtype(xs[0].dtype)
    if new.kind not in "iu" or (old.kind in "iub" and np.can_cast(old, new)):
        return []
    info = np.iinfo(new)
    return [(xs[0].astype(jnp.float64), int(info.min), int(info.max), 1.0, f"conversion to {new}")]


LIMITS: dict[str, Callable] = {
    "zk_round": _round_limits,
    "zk_lookup": _lookup_limits,
    "zk_locate": _locate_limits,
    "zk_divide": _divide_limits,
    "zk_rsqrt": _rsqrt_limits,
    "zk_onehot": _onehot_limits,
    "convert_element_type": _conversion_limits,
}
