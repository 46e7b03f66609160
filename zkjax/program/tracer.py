"""Tracing: a jaxpr becomes a program, one rule a primitive.

A traced value is either a constant (a NumPy array known at trace time) or a ``Sym``: a variable of
the program that holds integers k, read as k * 2^-fraction. Rules live in ``program/rules``, are
looked up by primitive *name* and never see JAX internals; calls are inlined here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zkjax.errors import OverflowBoundError, ScaleError, TraceError, UnsupportedPrimitiveError
from zkjax.program.builder import Builder, distinct
from zkjax.program.dtypes import MAX_BOUND
from zkjax.program.hints import HINTS, hint_for
from zkjax.program.jaxprs import (
    NOT_CONSTANT,
    ON_ONE_DEVICE,
    fold_constants,
    inner_jaxpr,
    known_array,
    primitives_of,
    scans_of,
    source_line,
    used_equations,
)
from zkjax.program.origin import called, in_backward_pass

MAX_FRACTION = 50
MAX_EXPONENT = 900  # of the last bit of a value: float64 holds nothing much smaller
EXACT = {"bool", "float64", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64))}

Const = np.ndarray
PrimitiveRule = Callable[..., list]
PRIMITIVES: dict[str, PrimitiveRule] = {}
MOVES = {  # their results are some of their operands' elements
    "broadcast_in_dim",
    "clamp",
    "concatenate",
    "cond",
    "copy",
    "copy_p",
    "cummax",
    "cummin",
    "dynamic_slice",
    "dynamic_update_slice",
    "expand_dims",
    "gather",
    "max",
    "min",
    "name",
    "optimization_barrier",
    "pad",
    "reduce_max",
    "reduce_min",
    "reduce_window_max",
    "reduce_window_min",
    "reshape",
    "rev",
    "scan",
    "scatter",
    "select_n",
    "slice",
    "sort",
    "split",
    "squeeze",
    "stack",
    "stop_gradient",
    "tile",
    "top_k",
    "transpose",
    *ON_ONE_DEVICE,
}
LOGIC = {"and", "eq", "ge", "gt", "le", "lt", "ne", "not", "or", "reduce_and", "reduce_or", "xor"}
KEEP_SYMBOLIC = {  # not evaluated at trace time even if all operands are known
    "scan",
    "zk_locate",
    "zk_lookup",
    *ON_ONE_DEVICE,
}


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
        if values.size and max(-int(values.min()), int(values.max())) > MAX_BOUND:
            raise ScaleError("a constant integer exceeds 2^52", where)
        return values.astype(np.int64), 0
    if not np.issubdtype(values.dtype, np.floating):
        raise ScaleError(f"a constant is {values.dtype}; constants are real numbers", where)
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ScaleError("a constant is infinite or not a number", where)
    mantissa, exponent = np.frexp(values)
    k = np.abs(mantissa * 2.0**53).astype(np.int64)
    trailing = np.log2(np.maximum(k & -k, 1).astype(np.float64))
    needed = np.where(k == 0, 0, 53 - trailing - exponent)
    fraction = int(np.max(needed, initial=0))
    scaled = values * 2.0 ** min(fraction, MAX_EXPONENT)
    whole = np.array_equal(scaled, np.floor(scaled))  # whatever a machine's log2 gives
    if fraction > MAX_FRACTION or not whole or np.abs(scaled).max(initial=0) >= 2.0**52:
        sample = values.reshape(-1)[int(np.argmax(needed))]
        raise ScaleError(
            f"the constant {sample!r} has no short binary form (it would need {fraction} fraction "
            "bits); write zkjax.fixed.constant(value, fraction=...) to round it on purpose",
            where,
        )
    return scaled.astype(np.int64), fraction


@dataclass
class Tracer:
    """Walks jaxprs and emits operations into a ``Builder``.

    Attributes:
      where: the source line of the equation at hand.
      scans: number of scans met so far.
      used: the variables that are read somewhere in the jaxpr at hand.
      path: the equation at hand and those around it, the outermost first.
      loops: how many scans the equation at hand is inside of.
      carry_keys, carry_fractions: (scan, carry) and fraction bits of each "carry" variable.
    """

    builder: Builder = field(default_factory=Builder)
    where: str = ""
    scans: int = 0
    loops: int = 0
    carry_keys: list[tuple[int, int]] = field(default_factory=list)
    carry_fractions: list[int] = field(default_factory=list)
    used: set[Any] = field(default_factory=set)
    path: list[Any] = field(default_factory=list)

    # What rules use ---------------------------------------------------------------------------

    def sym(self, value: Value, shape: Sequence[int] | None = None) -> Sym:
        """A value as a variable; constants are written exactly."""
        if isinstance(value, Sym):
            return value
        integers, fraction = dyadic(distinct(np.asarray(value)), self.where)
        integers = np.broadcast_to(integers, np.shape(value) if shape is None else shape)
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

    def mark(self) -> tuple:
        """A point to roll back to."""
        return self.builder.mark(), self.scans, len(self.carry_keys)

    def rollback(self, mark: tuple) -> None:
        """Forget everything traced since ``mark``."""
        operations, self.scans, carries = mark
        self.builder.rollback(operations)
        del self.carry_keys[carries:], self.carry_fractions[carries:]

    # Walking ----------------------------------------------------------------------------------

    def run(self, closed, inputs: Sequence[Value]) -> list[Value]:
        """The outputs of a closed jaxpr on traced inputs."""
        jaxpr = closed.jaxpr
        env: dict[Any, Value] = {}

        def read(atom) -> Value:
            if hasattr(atom, "val"):
                return known_array(atom.val)
            return env[atom]

        for var, const in zip(jaxpr.constvars, closed.consts, strict=True):
            env[var] = known_array(const)
        for var, value in zip(jaxpr.invars, inputs, strict=True):
            env[var] = value
        outer, equations = self.where, used_equations(jaxpr)
        read_here = [*jaxpr.outvars, *(v for eqn in equations for v in eqn.invars)]
        used = {v for v in read_here if not hasattr(v, "val")}
        for eqn in equations:
            self.where = self.builder.where = source_line(eqn) or outer
            self.used = used
            outputs = self.equation(eqn, [read(a) for a in eqn.invars])
            for var, value in zip(eqn.outvars, outputs, strict=True):
                env[var] = value
        self.where = self.builder.where = outer
        return [read(a) for a in jaxpr.outvars]

    def equation(self, eqn, inputs: list[Value]) -> list[Value]:
        self.path.append(eqn)
        try:
            return self._equation(eqn, inputs)
        except TraceError as error:
            if not error.context:
                error.where = error.where or self.where
                error.context = self._context(eqn, inputs, error.message)
            raise
        finally:
            self.path.pop()

    def _equation(self, eqn, inputs: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        inner = inner_jaxpr(eqn)
        if inner is not None:
            return self.run(inner, inputs[-len(inner.jaxpr.invars) :] if inner.jaxpr.invars else [])
        if all(0 in v.aval.shape for v in eqn.outvars):  # no elements: nothing to prove
            self.scans += scans_of(eqn)
            return [np.zeros(v.aval.shape, v.aval.dtype) for v in eqn.outvars]
        if all(isinstance(x, np.ndarray) for x in inputs) and name not in KEEP_SYMBOLIC:
            if not NOT_CONSTANT.isdisjoint(primitives_of(eqn)):
                raise self.unsupported(eqn)
            self.scans += scans_of(eqn)
            return fold_constants(eqn, inputs)  # type: ignore[arg-type]
        if name not in PRIMITIVES:
            raise self.unsupported(eqn)
        outputs = PRIMITIVES[name](self, eqn, *inputs)
        outputs = [v if isinstance(v, Sym) else np.asarray(v) for v in outputs]
        self._check_meaning(eqn, outputs)
        return outputs

    def unsupported(self, eqn, how: str = "") -> UnsupportedPrimitiveError:
        """The error for an equation that has no rule, or none for how it is used."""
        name, function = eqn.primitive.name, called(self.path)
        same = function.rpartition(".")[2] == name
        uses = f" (it uses '{name}')" if function and not same else ""
        told = f"{function or repr(name)}{uses} {how}".rstrip()
        return UnsupportedPrimitiveError(
            f"{told} cannot be proved; {hint_for(function, name)}", self.where
        )

    def _context(self, eqn, inputs: Sequence[Value], message: str) -> str:
        """The function a user called, its operands, and what helps with that function."""
        function = called(self.path)
        told = function or f"'{eqn.primitive.name}'"
        pairs = list(zip(eqn.invars, inputs, strict=False))
        operands = ", ".join(self.format_of(v.aval, x) for v, x in pairs[:4])
        more = ", ..." if len(pairs) > 4 else ""
        backward = ", in the backward pass" if in_backward_pass(self.path) else ""
        advice = HINTS.get(function, "")
        advice = "" if not advice or advice in message else f"\n  {function}: {advice}"
        return f"{told} of {operands}{more}{backward}{advice}" if operands else told + backward

    def format_of(self, aval, value: Value) -> str:
        """A value's type and shape, and its format where it is traced."""
        shape = ",".join(map(str, getattr(aval, "shape", ())))
        kind = f"{getattr(aval, 'dtype', 'value')}[{shape}]"
        if not isinstance(value, Sym):
            return f"constant {kind}"
        bits = self.bits_of(value.var) + 1
        return f"{kind} (fraction {value.fraction}, bits {bits})"

    def _check_meaning(self, eqn, outputs: list[Value]) -> None:
        """Integer arithmetic wraps in JAX and not in a program, sums of booleans saturate: refuse
        both where they might.
        """
        name = eqn.primitive.name
        for var, value in zip(eqn.outvars, outputs, strict=True):
            dtype = var.aval.dtype
            if not isinstance(value, Sym):
                continue
            if self.builder.shape(value.var) != tuple(var.aval.shape):
                raise RuntimeError(f"internal: the rule of '{name}' gives another shape")
            if dtype.kind == "c":
                raise ScaleError(HINTS["complex"], self.where)
            if dtype.name not in EXACT:
                raise ScaleError(
                    f"{dtype} does not hold fixed-point values exactly; keep float64", self.where
                )
            if abs(value.fraction) > MAX_EXPONENT:
                raise ScaleError(f"a value has {value.fraction} fraction bits", self.where)
            if dtype.kind in "iu" and value.fraction:
                raise ScaleError(
                    f"'{name}' gives {dtype} from a value with fraction bits; use "
                    "zkjax.fixed.encode(x, fraction=...)",
                    self.where,
                )
            if dtype.kind == "b":
                self.builder.rely(value.var, 0, 1, f"'{name}' gives other numbers than 0 and 1")
            if dtype.kind == "b" and name not in LOGIC | MOVES:
                raise UnsupportedPrimitiveError(
                    f"'{name}' of booleans cannot be proved; convert them first: "
                    "x.astype(jnp.float64)",
                    self.where,
                )
            if dtype.kind not in "iu":
                continue
            if name == "convert_element_type":  # has a range check of its own
                continue
            negative = dtype.kind == "u" and name in {"sub", "neg"}
            # A bound is one on |k|: only a value that was merely moved may be the least of its
            # type, whose negative does not exist in JAX.
            moved = dtype.kind == "i" and name in MOVES
            wide = self.builder.bounds[value.var] > np.iinfo(dtype).max + moved
            wraps = (
                f"'{name}' in {dtype} may wrap around; zkjax.fixed.decode the integers first and "
                "encode the result"
            )
            if negative or wide:
                raise OverflowBoundError(wraps, self.where)
            info = np.iinfo(dtype)
            self.builder.rely(value.var, int(info.min), int(info.max), wraps)
