"""Tracing: a jaxpr becomes a program, one rule a primitive.

A traced value is either a constant (a NumPy array known at trace time) or a ``Sym``: a variable of
the program that holds integers k, read as k * 2^-fraction. Rules live in ``program/rules``, are
looked up by primitive *name* and never see JAX internals; calls are inlined here, and ``scan`` is
batched: its body is vmapped over the steps, the carry-in is the shifted carry-out.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zkjax._compat import scan_sizes
from zkjax.errors import OverflowBoundError, ScaleError, UnsupportedPrimitiveError
from zkjax.program.builder import Builder

MAX_FRACTION = 50
MAX_SCAN_ATTEMPTS = 12

Const = np.ndarray
PrimitiveRule = Callable[..., list]
PRIMITIVES: dict[str, PrimitiveRule] = {}
HINTS: dict[str, str] = {}


@dataclass(frozen=True)
class Sym:
    """A program variable with its number of fraction bits."""

    var: int
    fraction: int


Value = Sym | np.ndarray


def primitive(*names: str):
    """Register the rule that follows for some primitive names.

    A rule takes ``(tracer, eqn, *inputs)`` and returns the list of outputs.
    """

    def register(fn: PrimitiveRule) -> PrimitiveRule:
        for name in names:
            PRIMITIVES[name] = fn
        return fn

    return register


def dyadic(values: np.ndarray, where: str) -> tuple[np.ndarray, int]:
    """Write constants exactly as k * 2^-f with the least f >= 0: (int64 k, f)."""
    values = np.asarray(values)
    if values.dtype == bool or np.issubdtype(values.dtype, np.integer):
        return values.astype(np.int64), 0
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ScaleError("a constant is infinite or not a number", where)
    mantissa, exponent = np.frexp(values)
    k = np.abs(mantissa * 2.0**53).astype(np.int64)
    trailing = np.log2(np.maximum(k & -k, 1).astype(np.float64))
    needed = np.where(k == 0, 0, 53 - trailing - exponent)
    fraction = int(np.max(needed, initial=0))
    scaled = values * 2.0**fraction
    if fraction > MAX_FRACTION or np.abs(scaled).max(initial=0) >= 2.0**52:
        sample = values.reshape(-1)[int(np.argmax(needed))]
        raise ScaleError(
            f"the constant {sample!r} has no short binary form (it would need {fraction} fraction "
            "bits); write zkjax.fixed.constant(value, fraction=...) to round it on purpose",
            where,
        )
    return scaled.astype(np.int64), fraction


@dataclass
class Tracer:
    """Walks jaxprs and emits operations into a ``Builder``."""

    builder: Builder = field(default_factory=Builder)
    where: str = ""
    scans: int = 0
    carry_keys: list[tuple[int, int]] = field(default_factory=list)
    carry_fractions: list[int] = field(default_factory=list)

    # What rules use ---------------------------------------------------------------------------

    def sym(self, value: Value, shape: Sequence[int] | None = None) -> Sym:
        """A value as a variable; constants are written exactly."""
        if isinstance(value, Sym):
            return value
        integers, fraction = dyadic(value, self.where)
        if shape is not None:
            integers = np.broadcast_to(integers, shape)
        return Sym(self.builder.constant(integers), fraction)

    def shape_of(self, value: Value) -> tuple[int, ...]:
        return self.builder.shape(value.var) if isinstance(value, Sym) else np.shape(value)

    def spread(self, value: Value, shape: Sequence[int]) -> Sym:
        """A value broadcast to a shape, as NumPy does."""
        inside = self.shape_of(value)
        if isinstance(value, Sym) and inside != tuple(shape):
            dims = list(range(len(shape) - len(inside), len(shape)))
            return Sym(self.builder.broadcast(value.var, tuple(shape), dims), value.fraction)
        return self.sym(value, shape)

    def at_fraction(self, value: Value, fraction: int) -> Sym:
        """The same value with more fraction bits (exact)."""
        s = self.sym(value)
        if fraction < s.fraction:
            raise ScaleError(
                f"a value has {s.fraction} fraction bits where at most {fraction} are expected; "
                f"round it first: zkjax.fixed.round(x, fraction={fraction})",
                self.where,
            )
        if fraction == s.fraction:
            return s
        return Sym(self.builder.affine([(s.var, 1 << (fraction - s.fraction))]), fraction)

    def aligned(self, *values: Value) -> tuple[list[int], int]:
        """Variables of all values at their largest fraction; scalars are broadcast."""
        shape = np.broadcast_shapes(*(self.shape_of(v) for v in values))
        syms = [self.spread(v, shape) for v in values]
        fraction = max(s.fraction for s in syms)
        return [self.at_fraction(s, fraction).var for s in syms], fraction

    def add(self, terms: Sequence[tuple[Value, int]]) -> Sym:
        """sum c_i x_i for small integers c_i."""
        variables, fraction = self.aligned(*(v for v, _ in terms))
        pairs = [(v, c) for v, (_, c) in zip(variables, terms, strict=True)]
        return Sym(self.builder.affine(pairs), fraction)

    def bits_of(self, var: int) -> int:
        """The least w with |var| < 2^w."""
        return max(1, self.builder.bounds[var].bit_length())

    # Walking ----------------------------------------------------------------------------------

    def run(self, closed, inputs: Sequence[Value]) -> list[Value]:
        """The outputs of a closed jaxpr on traced inputs."""
        jaxpr = closed.jaxpr
        env: dict[Any, Value] = {}

        def read(atom) -> Value:
            if hasattr(atom, "val"):
                return np.asarray(atom.val)
            return env[atom]

        for var, const in zip(jaxpr.constvars, closed.consts, strict=True):
            env[var] = np.asarray(const)
        for var, value in zip(jaxpr.invars, inputs, strict=True):
            env[var] = value
        outer = self.where
        for eqn in jaxpr.eqns:
            self.where = self.builder.where = source_line(eqn) or outer
            outputs = self.equation(eqn, [read(a) for a in eqn.invars])
            for var, value in zip(eqn.outvars, outputs, strict=True):
                env[var] = value
        self.where = self.builder.where = outer
        return [read(a) for a in jaxpr.outvars]

    def equation(self, eqn, inputs: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        inner = inner_jaxpr(eqn)
        if name == "scan":
            return self.scan(eqn, inputs)
        if inner is not None:
            return self.run(inner, inputs[-len(inner.jaxpr.invars) :] if inner.jaxpr.invars else [])
        if all(isinstance(x, np.ndarray) for x in inputs) and name not in KEEP_SYMBOLIC:
            return fold_constants(eqn, inputs)  # type: ignore[arg-type]
        if name not in PRIMITIVES:
            hint = HINTS.get(name, "rewrite the step with operations of zkjax.fixed and jax.numpy")
            raise UnsupportedPrimitiveError(
                f"the primitive '{name}' cannot be proved; {hint}", self.where
            )
        outputs = PRIMITIVES[name](self, eqn, *inputs)
        self._check_integers(eqn, outputs)
        return outputs

    def _check_integers(self, eqn, outputs: list[Value]) -> None:
        """Integer arithmetic wraps in JAX and not in a program: refuse it where it might."""
        for var, value in zip(eqn.outvars, outputs, strict=True):
            dtype = var.aval.dtype
            if not isinstance(value, Sym) or dtype.kind not in "iu":
                continue
            if eqn.primitive.name == "convert_element_type":  # has a range check of its own
                continue
            negative = dtype.kind == "u" and eqn.primitive.name in {"sub", "neg"}
            wide = self.builder.bounds[value.var] > np.iinfo(dtype).max + (dtype.kind == "i")
            if negative or wide:
                raise OverflowBoundError(
                    f"'{eqn.primitive.name}' in {dtype} may wrap around; zkjax.fixed.decode the "
                    "integers first and encode the result",
                    self.where,
                )

    # Scan ------------------------------------------------------------------------------------

    def scan(self, eqn, inputs: list[Value]) -> list[Value]:
        """Batch a scan: one vmapped body, carry-in = shift(init, carry-out)."""
        import jax
        from jax.extend.core import jaxpr_as_fun

        p = eqn.params
        length, reverse = p["length"], p["reverse"]
        n_const, n_carry = scan_sizes(p)
        closed = p["jaxpr"]
        consts, init, xs = (
            inputs[:n_const],
            inputs[n_const : n_const + n_carry],
            inputs[n_const + n_carry :],
        )
        avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars]
        body_in, body_out = closed.jaxpr.invars, closed.jaxpr.outvars
        # Carries that the body hands through unchanged are constants of the loop.
        kept = [body_out[i] is body_in[n_const + i] for i in range(n_carry)]
        axes = [None] * n_const + [None if k else 0 for k in kept]
        axes += [0] * (len(avals) - len(axes))
        stacked = [
            a if axis is None else jax.ShapeDtypeStruct((length, *a.shape), a.dtype)
            for a, axis in zip(avals, axes, strict=True)
        ]
        body = jax.make_jaxpr(jax.vmap(jaxpr_as_fun(closed), in_axes=axes, axis_size=length))(
            *stacked
        )
        number = self.scans
        self.scans += 1
        start = [self.sym(v, a.shape) for v, a in zip(init, avals[n_const:], strict=False)]
        if not n_carry:
            return self.run(body, [*consts, *xs])
        b = self.builder
        mark, scans, keys = b.mark(), self.scans, len(self.carry_keys)
        bounds = [b.bounds[s.var] for s in start]
        allowance: list[int] | None = None
        for attempt in range(MAX_SCAN_ATTEMPTS):
            start = [self.at_fraction(s, max(s.fraction, 0)) for s in start]
            carries: list[int | None] = []
            shifted: list[Sym] = []
            for i, s in enumerate(start):
                if kept[i]:
                    carries.append(None)
                    shifted.append(s)
                    continue
                shape = (length, *b.shape(s.var))
                self.carry_keys.append((number, i))
                self.carry_fractions.append(s.fraction)
                carry = b.add("carry", (), shape, bounds[i], len(self.carry_keys) - 1)
                b.bounds[carry] = bounds[i]
                carries.append(carry)
                moved_bound = max(bounds[i], b.bounds[s.var])
                moved = b.add("shift", (s.var, carry), shape, moved_bound, bool(reverse))
                shifted.append(Sym(moved, s.fraction))
            outputs = self.run(body, [*consts, *shifted, *xs])
            out_syms = [
                s if k else self.sym(v, (length, *b.shape(s.var)))
                for v, s, k in zip(outputs[:n_carry], start, kept, strict=True)
            ]
            wider = [max(s.fraction, o.fraction) for s, o in zip(start, out_syms, strict=True)]
            grown = [
                max(old, b.bounds[o.var] << (w - o.fraction))
                for old, o, w in zip(bounds, out_syms, wider, strict=True)
            ]
            if wider != [s.fraction for s in start]:
                if attempt:
                    i = next(i for i, s in enumerate(start) if wider[i] != s.fraction)
                    raise ScaleError(
                        f"carry {i} of a scan enters with {start[i].fraction} fraction bits and "
                        f"leaves with {wider[i]}; round it inside the body with zkjax.fixed.round",
                        self.where,
                    )
                b.rollback(mark)
                start = [self.at_fraction(s, w) for s, w in zip(start, wider, strict=True)]
                mark = b.mark()
                bounds = [b.bounds[s.var] for s in start]
            else:
                steps = [g - old for g, old in zip(grown, bounds, strict=True)]
                if not any(steps):
                    break
                if allowance and all(s <= a for s, a in zip(steps, allowance, strict=True)):
                    break
                # A carry that grows by a constant a step: extrapolate, then confirm.
                allowance = steps if attempt else None
                reach = length if attempt else 1
                bounds = [old + s * reach for old, s in zip(bounds, steps, strict=True)]
                if attempt == MAX_SCAN_ATTEMPTS - 1:
                    raise OverflowBoundError(
                        "the carry of a scan has no bound; round it inside the body", self.where
                    )
            b.rollback(mark)
            self.scans = scans
            del self.carry_keys[keys:], self.carry_fractions[keys:]
        results: list[Value] = []
        last = 0 if reverse else length - 1
        for s, carry, out in zip(start, carries, out_syms, strict=True):
            if carry is None:
                results.append(s)
                continue
            out = self.at_fraction(out, s.fraction)
            relation = b.affine([(out.var, 1), (carry, -1)], bound=1)
            b.require_zero(relation, carry)
            shape = b.shape(carry)
            row = b.slice(carry, (last,) + (0,) * (len(shape) - 1), (1, *shape[1:]))
            results.append(Sym(b.reshape(row, shape[1:]), s.fraction))
        return [*results, *outputs[n_carry:]]


KEEP_SYMBOLIC = {"zk_lookup"}


CALLS = {
    "checkpoint",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "jit",
    "pjit",
    "remat",
    "remat2",
}


def inner_jaxpr(eqn):
    """The body of a call-like equation (jit, custom_jvp_call, remat, ...), or None."""
    from jax.extend.core import ClosedJaxpr

    if eqn.primitive.name not in CALLS:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if inner is not None:
            if hasattr(inner, "jaxpr"):
                return inner
            return ClosedJaxpr(inner, ())
    return None


def fold_constants(eqn, inputs: list[np.ndarray]) -> list[Value]:
    """Evaluate an equation whose operands are all known at trace time."""
    if eqn.primitive.name == "broadcast_in_dim":
        shape, dims = eqn.params["shape"], eqn.params["broadcast_dimensions"]
        spread = [1] * len(shape)
        for i, d in enumerate(dims):
            spread[d] = inputs[0].shape[i]
        return [np.broadcast_to(inputs[0].reshape(spread), shape)]
    import jax

    with jax.ensure_compile_time_eval():
        out = eqn.primitive.bind(*inputs, **eqn.params)
    out = out if eqn.primitive.multiple_results else [out]
    return [np.asarray(v) for v in out]


_PACKAGES: list[str] = []


def _library_folders() -> list[str]:
    if not _PACKAGES:
        for name in ("jax", "jaxlib", "flax", "optax", "zkjax"):
            try:
                module = importlib.import_module(name)
            except ImportError:
                continue
            _PACKAGES.extend(os.path.abspath(folder) + os.sep for folder in module.__path__)
        # The arithmetic of our own models is not where a user looks either.
        home = importlib.util.find_spec("zkjax.models")
        if home is not None and home.submodule_search_locations:
            folder = os.path.abspath(home.submodule_search_locations[0])
            _PACKAGES.append(os.path.join(folder, "numerics.py"))
    return _PACKAGES


def source_line(eqn) -> str:
    """file:line (function) of the innermost user frame of an equation, or ''."""
    traceback = getattr(eqn.source_info, "traceback", None)
    if traceback is None:
        return ""
    folders = _library_folders()
    for frame in traceback.frames:
        name = frame.file_name
        if name.startswith("<") or os.path.abspath(name).startswith(tuple(folders)):
            continue
        return f"{name}:{frame.line_num} ({frame.function_name})"
    return ""
