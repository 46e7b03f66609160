"""What JAX computes, by NumPy: a jaxpr interpreted without compiling anything.

``run`` also says whether the run was *clean*: nothing wrapped around, was not a number, or left a
range that ``zkjax.fixed`` declares. A clean run must be provable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from zkjax._compat import scan_sizes, x64
from zkjax.program.jaxprs import inner_jaxpr

EXACT_FLOATS = 2.0**50

RULES: dict[str, Callable] = {}


class Run:
    """One interpretation; ``trouble`` lists why it is not clean."""

    def __init__(self):
        self.trouble: set[str] = set()

    def require(self, good, why: str) -> None:
        if not np.all(good):
            self.trouble.add(why)

    def jaxpr(self, closed, inputs) -> list[Any]:
        env: dict[Any, Any] = {}

        def read(atom):
            return np.asarray(atom.val) if hasattr(atom, "val") else env[atom]

        jaxpr = closed.jaxpr
        env.update(zip(jaxpr.constvars, map(np.asarray, closed.consts), strict=True))
        env.update(zip(jaxpr.invars, inputs, strict=True))
        for eqn in jaxpr.eqns:
            operands = [read(a) for a in eqn.invars]
            inner = inner_jaxpr(eqn)
            if inner is not None:
                used = operands[-len(inner.jaxpr.invars) :] if inner.jaxpr.invars else []
                outputs = self.jaxpr(inner, used)
            else:
                outputs = RULES[eqn.primitive.name](self, eqn, *operands)
                if not eqn.primitive.multiple_results:
                    outputs = [outputs]
            for var, value in zip(eqn.outvars, outputs, strict=True):
                value = np.asarray(value)
                assert value.shape == tuple(var.aval.shape), eqn
                assert value.dtype == var.aval.dtype, eqn
                if value.dtype.kind == "f" and value.size:
                    self.require(np.isfinite(value), "not a number")
                    self.require(np.abs(value) < EXACT_FLOATS, "too large")
                env[var] = value
        return [read(a) for a in jaxpr.outvars]


def run(closed, inputs) -> tuple[list[np.ndarray], set[str]]:
    """Outputs of a closed jaxpr, and what was not clean about the run."""
    state = Run()
    with np.errstate(all="ignore"):
        return state.jaxpr(closed, [np.asarray(x) for x in inputs]), state.trouble


def rule(*names: str):
    def register(fn):
        for name in names:
            RULES[name] = fn
        return fn

    return register


def _exactly(r: Run, value, *operands, of) -> np.ndarray:
    """An integer result, and trouble if it wrapped around."""
    if np.asarray(value).dtype.kind in "iu":
        true = of(*(np.asarray(x).astype(object) for x in operands))
        r.require(np.asarray(value).astype(object) == true, "wraps around")
    return value


for _names, _function in {
    ("add", "add_any"): lambda x, y: x + y,
    ("sub",): lambda x, y: x - y,
    ("mul",): lambda x, y: x * y,
    ("neg",): lambda x: -x,
    ("square",): lambda x: x * x,
    ("abs",): lambda x: abs(x),
}.items():

    @rule(*_names)
    def _arithmetic(r, eqn, *xs, function=_function):
        if np.asarray(xs[0]).dtype == bool:
            return {"add": np.logical_or, "mul": np.logical_and}[eqn.primitive.name](*xs)
        return _exactly(r, function(*xs), *xs, of=function)


for _name, _function in {
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.bitwise_not,
    "max": np.maximum,
    "min": np.minimum,
    "sign": np.sign,
}.items():
    RULES[_name] = lambda r, eqn, *xs, function=_function: function(*xs)


@rule("div")
def _div(r, eqn, x, y):
    return x / y if x.dtype.kind == "f" else (x / y).astype(x.dtype)


@rule("rem")
def _rem(r, eqn, x, y):
    return np.fmod(x, y)


@rule("floor", "ceil")
def _whole(r, eqn, x):
    return {"floor": np.floor, "ceil": np.ceil}[eqn.primitive.name](x)


@rule("argmax", "argmin")
def _argmax(r, eqn, x):
    (axis,) = eqn.params["axes"]
    function = {"argmax": np.argmax, "argmin": np.argmin}[eqn.primitive.name]
    return function(x, axis).astype(eqn.params["index_dtype"])


@rule("top_k")
def _top_k(r, eqn, x):
    """Of equal elements the first first."""
    k = eqn.params["k"]
    order = np.argsort(-x.astype(np.float64), axis=-1, kind="stable")[..., :k]
    return [np.take_along_axis(x, order, -1), order.astype(np.int32)]


@rule("sort")
def _sort(r, eqn, *xs):
    axis = eqn.params["dimension"]
    order = np.argsort(xs[0], axis=axis, kind="stable")
    return [np.take_along_axis(x, order, axis) for x in xs]


@rule("cumprod", "cummax", "cummin", "cumsum")
def _running(r, eqn, x):
    name, axis = eqn.primitive.name, eqn.params["axis"]
    function = {
        "cumprod": np.multiply,
        "cummax": np.maximum,
        "cummin": np.minimum,
        "cumsum": np.add,
    }[name].accumulate
    flip = (lambda v: np.flip(v, axis)) if eqn.params["reverse"] else lambda v: v
    value = flip(function(flip(x), axis, dtype=x.dtype))
    return _exactly(r, value, x, of=lambda v: flip(function(flip(v), axis)))


@rule("integer_pow")
def _integer_pow(r, eqn, x):
    power = eqn.params["y"]
    return _exactly(r, x**power, x, of=lambda v: v**power)


@rule("clamp")
def _clamp(r, eqn, low, x, high):
    return np.minimum(np.maximum(x, low), high)


@rule("select_n")
def _select(r, eqn, which, *cases):
    which = np.broadcast_to(which, eqn.outvars[0].aval.shape)
    return np.where(which, cases[1], cases[0]) if which.dtype == bool else np.choose(which, cases)


@rule("convert_element_type")
def _convert(r, eqn, x):
    """Integers wrap around, real numbers saturate."""
    new = np.dtype(eqn.params["new_dtype"])
    if new.kind == "b":
        return x != 0
    if new.kind in "iu" and x.dtype.kind != "b":
        info = np.iinfo(new)
        r.require((x.astype(object) >= info.min) & (x.astype(object) <= info.max), "does not fit")
        if x.dtype.kind == "f":
            whole = [min(max(int(v), info.min), info.max) for v in np.nan_to_num(x).reshape(-1)]
            return np.array(whole, dtype=object).reshape(x.shape).astype(new)
    return x.astype(new)


@rule("copy", "copy_p", "name", "optimization_barrier", "stop_gradient")
def _same(r, eqn, *xs):
    return list(xs) if eqn.primitive.multiple_results else xs[0]


@rule("broadcast_in_dim")
def _broadcast(r, eqn, x):
    shape = [1] * len(eqn.params["shape"])
    for i, d in enumerate(eqn.params["broadcast_dimensions"]):
        shape[d] = x.shape[i]
    return np.broadcast_to(x.reshape(shape), eqn.params["shape"])


@rule("reshape", "squeeze", "expand_dims")
def _reshape(r, eqn, x):
    return x.reshape(eqn.outvars[0].aval.shape)


@rule("transpose")
def _transpose(r, eqn, x):
    return np.transpose(x, eqn.params["permutation"])


@rule("slice")
def _slice(r, eqn, x):
    p = eqn.params
    steps = p["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, p["start_indices"], p["limit_indices"], steps))]


@rule("dynamic_slice")
def _dynamic_slice(r, eqn, x, *starts):
    sizes = eqn.params["slice_sizes"]
    at = [min(max(int(s), 0), n - m) for s, n, m in zip(starts, x.shape, sizes, strict=True)]
    return x[tuple(slice(s, s + m) for s, m in zip(at, sizes, strict=True))]


@rule("split")
def _split(r, eqn, x):
    at = np.cumsum(eqn.params["sizes"])[:-1]
    return np.split(x, at, eqn.params["axis"])


@rule("pad")
def _pad(r, eqn, x, value):
    config = eqn.params["padding_config"]
    interior = [(n - 1) * i + n for n, (_, _, i) in zip(x.shape, config, strict=True)]
    full = [n + max(0, a) + max(0, b) for n, (a, b, _) in zip(interior, config, strict=True)]
    out = np.full(full, value, dtype=x.dtype)
    spots = zip(config, interior, strict=True)
    out[tuple(slice(max(0, a), max(0, a) + n, i + 1) for (a, _, i), n in spots)] = x
    crop = zip(full, config, strict=True)
    return out[tuple(slice(max(0, -a), n - max(0, -b)) for n, (a, b, _) in crop)]


@rule("concatenate")
def _concatenate(r, eqn, *xs):
    return np.concatenate(xs, eqn.params["dimension"])


@rule("stack")
def _stack(r, eqn, *xs):
    return np.stack(xs, eqn.params["axis"])


@rule("tile")
def _tile(r, eqn, x):
    return np.tile(x, eqn.params["reps"])


@rule("rev")
def _rev(r, eqn, x):
    return np.flip(x, eqn.params["dimensions"])


@rule("iota")
def _iota(r, eqn):
    p = eqn.params
    shape = [1] * len(p["shape"])
    shape[p["dimension"]] = -1
    line = np.arange(p["shape"][p["dimension"]], dtype=p["dtype"])
    return np.broadcast_to(line.reshape(shape), p["shape"])


@rule("reduce_sum")
def _reduce_sum(r, eqn, x):
    axes = tuple(eqn.params["axes"])
    if x.dtype == bool:
        return np.any(x, axes)
    value = np.sum(x, axes, dtype=x.dtype)
    return _exactly(r, value, x, of=lambda v: np.sum(v, axes))


@rule("reduce_or")
def _reduce_or(r, eqn, x):
    return np.any(x, tuple(eqn.params["axes"]))


@rule("reduce_and")
def _reduce_and(r, eqn, x):
    return np.all(x, tuple(eqn.params["axes"]))


@rule("dot_general")
def _dot_general(r, eqn, x, y):
    (cx, cy), (bx, by) = eqn.params["dimension_numbers"]
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    left: list[Any] = [None] * x.ndim
    right: list[Any] = [None] * y.ndim
    for i, j in [*zip(bx, by, strict=True), *zip(cx, cy, strict=True)]:
        left[i] = right[j] = next(letters)
    left = [v or next(letters) for v in left]
    right = [v or next(letters) for v in right]
    free = [v for i, v in enumerate(left) if i not in (*bx, *cx)]
    free += [v for j, v in enumerate(right) if j not in (*by, *cy)]
    out = [left[i] for i in bx] + free
    text = f"{''.join(left)},{''.join(right)}->{''.join(out)}"
    new = eqn.outvars[0].aval.dtype
    value = np.einsum(text, x.astype(new), y.astype(new))
    return _exactly(r, value, x, y, of=lambda a, b: np.einsum(text, a, b))


@rule("gather")
def _gather(r, eqn, x, indices):
    """Constant indices along one axis; others, which tests give few of, as JAX does."""
    if len(eqn.params["dimension_numbers"].start_index_map) != 1:
        return _as_jax(eqn, x, indices)
    d, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    (axis,) = d.start_index_map
    at = np.clip(indices[..., 0], 0, x.shape[axis] - sizes[axis])
    rows = np.take(np.moveaxis(x, axis, 0), at, axis=0)
    batch = [a for a in range(len(eqn.outvars[0].aval.shape)) if a not in d.offset_dims]
    order = [*batch, *d.offset_dims]
    if axis not in d.collapsed_slice_dims:
        rows = np.expand_dims(rows, at.ndim + axis)
    return np.moveaxis(rows, list(range(rows.ndim)), order)


@rule("scatter", "scatter-add", "scatter_add")
def _scatter(r, eqn, x, indices, updates):
    return _as_jax(eqn, x, indices, updates)


def _as_jax(eqn, *operands):
    with x64():
        return np.asarray(eqn.primitive.bind(*operands, **eqn.params))


@rule("scan")
def _scan(r, eqn, *operands):
    p = eqn.params
    n_const, n_carry = scan_sizes(p)
    consts, carry = operands[:n_const], list(operands[n_const : n_const + n_carry])
    xs = operands[n_const + n_carry :]
    order = range(p["length"])
    rows: list[list] = [[] for _ in eqn.outvars[n_carry:]]
    for i in reversed(order) if p["reverse"] else order:
        outs = r.jaxpr(p["jaxpr"], [*consts, *carry, *(x[i] for x in xs)])
        carry = outs[:n_carry]
        for row, value in zip(rows, outs[n_carry:], strict=True):
            row.append(value)
    ordered = [row[::-1] if p["reverse"] else row for row in rows]
    return [*carry, *(np.stack(row) for row in ordered)]


@rule("zk_round")
def _zk_round(r, eqn, x):
    fraction, bits = eqn.params["fraction"], eqn.params["bits"]
    k = np.floor(x * 2.0**fraction + 0.5)
    r.require((k >= -(2.0 ** (bits - 1))) & (k < 2.0 ** (bits - 1)), "round")
    return [k * 2.0**-fraction]


@rule("zk_lookup")
def _zk_lookup(r, eqn, x):
    p = eqn.params
    table = p["table"]
    index = x * 2.0 ** p["in_fraction"] - int(table.columns[0][0])
    r.require((index >= 0) & (index < table.rows), "lookup")
    index = np.clip(np.nan_to_num(index), 0, table.rows - 1).astype(np.int32)
    columns = zip(table.columns[1:], p["out_fractions"], strict=True)
    return [np.asarray(column * 2.0**-fraction)[index] for column, fraction in columns]


@rule("zk_locate")
def _zk_locate(r, eqn, x):
    p = eqn.params
    table = p["table"]
    k = np.asarray(x * 2.0 ** p["in_fraction"])
    inside = (table.columns[1] <= k[..., None]) & (k[..., None] <= table.columns[2])
    r.require(inside.any(axis=-1), "locate")
    row = inside.argmax(axis=-1)
    columns = zip(table.columns[3:], p["out_fractions"], strict=True)
    return [np.asarray(column * 2.0**-fraction)[row] for column, fraction in columns]


@rule("zk_divide")
def _zk_divide(r, eqn, n, d):
    fraction, bits = eqn.params["fraction"], eqn.params["bits"]
    scaled = n * 2.0**fraction
    safe = np.where(d > 0, d, 1.0)
    q = np.floor(scaled / safe)
    q = np.where(q * safe > scaled, q - 1, q)
    q = np.where((q + 1) * safe <= scaled, q + 1, q)
    r.require((d > 0) & (q >= -(2.0 ** (bits - 1))) & (q < 2.0 ** (bits - 1)), "divide")
    return [np.where(d > 0, q, 0.0) * 2.0**-fraction]


@rule("zk_rsqrt")
def _zk_rsqrt(r, eqn, x):
    fraction, bits = eqn.params["fraction"], eqn.params["bits"]
    step = 2.0**-fraction
    safe = np.where(x > 0, x, 1.0)
    y = np.floor(2.0**fraction / np.sqrt(safe)) * step
    y = np.where(safe * y * y > 1.0, y - step, y)
    y = np.where(safe * (y + step) * (y + step) <= 1.0, y + step, y)
    r.require((x > 0) & (y * 2.0**fraction < 2.0**bits), "rsqrt")
    return [np.where(x > 0, y, 0.0)]


@rule("zk_onehot")
def _zk_onehot(r, eqn, index):
    n = eqn.params["n"]
    r.require((index >= 0) & (index < n), "onehot")
    return [(index[..., None].astype(np.float64) == np.arange(n)).astype(np.float64)]


@rule("zk_max")
def _zk_max(r, eqn, x):
    most = np.max(x.astype(np.float64), axis=-1)
    # In units of the last fraction bit, which is not known here: any that the values have.
    gap = most[..., None] - x
    r.require(gap * 2.0**30 < 2.0 ** eqn.params["bits"], "max")
    return [most]
