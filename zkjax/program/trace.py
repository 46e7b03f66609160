"""``trace``: from a Python function and its arguments to a statement and a way to run it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from zkjax._arguments import checked
from zkjax._callable import positional
from zkjax._compat import x64
from zkjax.errors import OverflowBoundError, StatementError, TraceError, VerificationError
from zkjax.fixed.rounding import current_cotangent_format
from zkjax.program import rules as _rules  # noqa: F401  (registers the proving rules)
from zkjax.program.bounds import prove_bounds, undischarged
from zkjax.program.builder import Builder
from zkjax.program.dtypes import DTYPE_RANGES, PUBLIC_RANGES
from zkjax.program.hints import FORWARD
from zkjax.program.jaxprs import line_of
from zkjax.program.normal_form import normal_form
from zkjax.program.program import Port, Program
from zkjax.program.recording import record_carries, without_repeats
from zkjax.program.statement import Statement
from zkjax.program.tracer import Sym, Tracer
from zkjax.proof import Claims, Commitment
from zkjax.sealed import Sealed


@dataclass
class Traced:
    """A statement with what the prover needs to run it: the jaxpr and the output structure."""

    statement: Statement
    closed: Any
    carries: list[tuple[tuple[int, int], int]]  # (key of ``record_carries``, fraction bits)
    out_tree: Any
    sealed_prefix: Any  # ``sealed_outputs`` as given
    _compiled: Callable | None = field(default=None, repr=False)

    def recorded(self, *inputs) -> tuple[list, list]:
        """The outputs of the function and its scans' carries, as JAX arrays."""
        outputs, carries = record_carries(self.closed, inputs)
        return outputs, [carries[key] for key, _ in self.carries]

    def run(self, inputs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Run the function itself, as compiled JAX.

        Returns:
          its outputs, and the scan carries as integers, one a ``carry`` operation in order.
        """
        with x64():
            if self._compiled is None:
                self._compiled = jax.jit(self.recorded)
            outputs, values = self._compiled(*inputs)
            carries = []
            shapes = [op.shape for op in self.statement.program.ops if op.kind == "carry"]
            for value, (_, fraction), shape in zip(values, self.carries, shapes, strict=True):
                value = without_repeats(np.asarray(value), shape)
                carries.append(value.astype(np.float64) * 2.0**fraction)
        return [np.asarray(x) for x in outputs], carries

    def unflatten_outputs(self, leaves: Sequence[Any]) -> Any:
        return self.out_tree.unflatten(list(leaves))

    def public_inputs(self, args) -> tuple[dict[int, np.ndarray], list[Commitment]]:
        """Public arrays by input number, and the commitments, from call arguments."""
        arrays: dict[int, np.ndarray] = {}
        commitments: list[Commitment] = []
        index = 0
        for arg in args:
            if isinstance(arg, Sealed | Commitment):
                commitments.append(arg.commitment if isinstance(arg, Sealed) else arg)
                index += len(commitments[-1].shapes)
                continue
            for leaf in jax.tree_util.tree_leaves(arg):
                arrays[index] = np.asarray(leaf)
                index += 1
        return arrays, commitments

    def claims(
        self,
        args,
        profile: str,
        outputs: Sequence[np.ndarray],
        output_commitments: Sequence[Commitment] = (),
        context: bytes = b"",
    ) -> Claims:
        """The claims of a call whose public outputs (in order) and commitments the caller knows.

        With them a proof is its messages alone; nothing that it says about itself is believed.
        """
        program = self.statement.program
        inputs, commitments = self.public_inputs(args)
        public = [i for i, p in enumerate(program.outputs) if not p.sealed]
        typed = {}
        for i, value in zip(public, outputs, strict=True):
            dtype = program.outputs[i].dtype
            low, high = PUBLIC_RANGES[dtype]
            if np.any(value < low) or np.any(value > high):
                raise VerificationError("claims", f"an output does not fit {dtype}")
            typed[i] = np.asarray(value).astype(dtype)
        return Claims(
            self.statement.digest,
            profile,
            inputs,
            typed,
            commitments,
            list(output_commitments),
            context,
        )


@dataclass(frozen=True)
class Private:
    """Stands for a sealed argument in ``trace``: only shapes and types are used. ``ranged`` says
    that its commitment has a range proof.
    """

    tree: Any
    ranged: bool = False


_CACHE: OrderedDict = OrderedDict()
_CACHE_SIZE = 64
_CACHE_LOCK = threading.RLock()


def argument_leaves(args):
    """Shapes, commitment numbers, names, range-proof flags and per-argument trees of call
    arguments.
    """
    shapes, groups, names, trees, ranged = [], [], [], [], []
    group = 0
    for position, arg in enumerate(args):
        sealed = isinstance(arg, Sealed | Commitment | Private)
        if isinstance(arg, Private):
            has_range_proof = arg.ranged
        else:
            commitment = arg.commitment if isinstance(arg, Sealed) else arg
            has_range_proof = sealed and commitment.range_proof is not None
        if isinstance(arg, Commitment):
            leaves = [
                jax.ShapeDtypeStruct(s, np.dtype(d))
                for s, d in zip(arg.shapes, arg.dtypes, strict=True)
            ]
            if arg.treedef is not None:
                tree = arg.treedef.unflatten(leaves)
            else:
                tree = leaves[0] if len(leaves) == 1 else leaves
        else:
            tree = arg.tree if sealed else arg
        flat, treedef = jax.tree_util.tree_flatten_with_path(tree)
        for path, leaf in flat:
            if not hasattr(leaf, "dtype"):
                leaf = np.asarray(leaf)
            if leaf.dtype.name not in DTYPE_RANGES:
                raise StatementError(
                    f"argument {position}{jax.tree_util.keystr(path)} is {leaf.dtype.name}; inputs "
                    "of a proved function are integers of at most 32 bits: store real numbers with "
                    "zkjax.fixed.quantize and read them inside with zkjax.fixed.decode"
                )
            if not leaf.dtype.isnative:
                raise StatementError(
                    f"argument {position}{jax.tree_util.keystr(path)} is of another byte order; "
                    "x.astype(x.dtype.newbyteorder('=')) gives this machine's"
                )
            shapes.append(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
            groups.append(group if sealed else -1)
            names.append(f"{position}{jax.tree_util.keystr(path)}")
            ranged.append(has_range_proof)
        trees.append(treedef)
        group += sealed
    return shapes, groups, names, ranged, trees


def trace_call(fn: Callable, args, sealed_outputs: Any = False) -> Traced:
    """Trace ``fn`` for these arguments; the latest traces are remembered, per function and
    shapes.
    """
    shapes, groups, names, ranged, trees = argument_leaves(args)
    key = (
        fn,
        tuple((s.shape, s.dtype.name) for s in shapes),
        tuple(groups),
        tuple(ranged),
        tuple(trees),
        str(sealed_outputs),
        current_cotangent_format(),
    )
    with _CACHE_LOCK:
        if key not in _CACHE:
            _CACHE[key] = _trace(fn, shapes, groups, names, ranged, trees, sealed_outputs)
        _CACHE.move_to_end(key)
        while len(_CACHE) > _CACHE_SIZE:
            _CACHE.popitem(last=False)
        return _CACHE[key]


_BEING_TRACED: ContextVar[bool] = ContextVar("being traced", default=False)


def being_traced() -> bool:
    """Whether the code that asks is run to find out what it computes, in 64 bits."""
    return _BEING_TRACED.get()


def jaxpr_of(fn: Callable, shapes, trees) -> tuple[Any, Any, list[str]]:
    """The jaxpr of a function of flattened arguments, its output structure and output names."""
    structure = []

    def flat_fn(*leaves):
        rest, args = list(leaves), []
        for tree in trees:
            args.append(tree.unflatten(rest[: tree.num_leaves]))
            del rest[: tree.num_leaves]
        out = fn(*args)
        flat, tree = jax.tree_util.tree_flatten_with_path(out)
        structure.append((tree, [jax.tree_util.keystr(p) for p, _ in flat]))
        return [v for _, v in flat]

    token = _BEING_TRACED.set(True)
    try:
        with x64():
            closed = jax.make_jaxpr(flat_fn)(*shapes)
    except (TypeError, IndexError) as error:  # those of JAX that users meet are such
        needed = _needs(error)
        if not needed:
            raise
        raise TraceError(needed, line_of(error)) from error
    finally:
        _BEING_TRACED.reset(token)
    return closed, *structure[0]


def _needs(error: Exception) -> str:
    """What to write instead of what JAX can't trace, or ''."""
    if "forward-mode" in str(error) and "custom_vjp" in str(error):
        return FORWARD
    if isinstance(error, jax.errors.TracerBoolConversionError):
        return (
            "a branch of Python (if, while, and, or) depends on data; choose with jnp.where, "
            "jax.lax.cond, & and |"
        )
    if isinstance(error, jax.errors.NonConcreteBooleanIndexError):
        return "a mask that depends on data selects no fixed number of entries; use jnp.where"
    if "can be converted to Python scalars" in str(error) or isinstance(
        error,
        jax.errors.ConcretizationTypeError
        | jax.errors.TracerArrayConversionError
        | jax.errors.TracerIntegerConversionError,
    ):
        return (
            "a shape, a Python number or a NumPy function needs a value that depends on data; use "
            "jax.numpy, and sizes that are constant (arguments of the function are traced)"
        )
    return ""


def _trace(fn, shapes, groups, names, ranged, trees, sealed_outputs) -> Traced:
    closed, out_tree, out_names = jaxpr_of(fn, shapes, trees)
    with x64():
        out_groups = _output_groups(sealed_outputs, out_tree)
        tracer = Tracer()
        b = tracer.builder
        inputs, ports = [], []
        for i, (shape, group, name) in enumerate(zip(shapes, groups, names, strict=True)):
            dtype = shape.dtype.name
            known = group < 0 or ranged[i]
            var = b.input(i, shape.shape, dtype, name, known)
            if not known:
                b.input_range_check(var, dtype, name)
            inputs.append(Sym(var, 0))
            ports.append(Port(var, dtype, group, name, ranged[i]))
        outputs = tracer.run(closed, inputs)
    out_ports = []
    for value, aval, group, name in zip(
        outputs, closed.out_avals, out_groups, out_names, strict=True
    ):
        dtype = aval.dtype.name
        if dtype not in (DTYPE_RANGES if group >= 0 else PUBLIC_RANGES):
            raise TraceError(f"output {name or '0'} is {dtype}; {_outputs_are(dtype, group >= 0)}")
        sym = tracer.sym(value, aval.shape)
        if sym.fraction:
            raise TraceError(f"output {name or '0'} is an integer with fraction bits")
        if group >= 0:
            b.rely(sym.var, *DTYPE_RANGES[dtype], f"output {name} does not fit {dtype}", check=True)
        out_ports.append(Port(sym.var, dtype, group, name))
    program, order = _discharged(b, ports, out_ports)
    kept = [b.ops[v].params[0] for v in order if b.ops[v].kind == "carry"]
    carries = [(tracer.carry_keys[k], tracer.carry_fractions[k]) for k in kept]
    return Traced(Statement(program), closed, carries, out_tree, sealed_outputs)


def _outputs_are(dtype: str, sealed: bool) -> str:
    if dtype == "int64" and sealed:
        return "sealed outputs have at most 32 bits: return x.astype(jnp.int32)"
    if np.dtype(dtype).kind in "iu":
        return "outputs of a proved function have at most 32 bits: return x.astype(jnp.uint32)"
    return "outputs of a proved function are integers: return zkjax.fixed.encode(x, fraction=...)"


def _discharged(b: Builder, inputs: list[Port], outputs: list[Port]) -> tuple[Program, list[int]]:
    """The normal form, with range checks where nothing else shows what the trace rests on."""
    while True:
        program, order = normal_form(b, inputs, outputs)
        missing = set(undischarged(program, prove_bounds(program)))
        if not missing:
            return program, order
        number = {v: i for i, v in enumerate(order)}
        for o in b.obligations:
            place = number[o.var], o.low, o.high
            if place not in missing:
                continue
            if not o.check or (o.var, o.low, o.high) in b.checked:
                raise OverflowBoundError(o.what, o.where)
            missing.remove(place)
            b.discharge_by_check(o)


def _output_groups(prefix: Any, out_tree) -> list[int]:
    """Commitment number of each output leaf from a pytree prefix of booleans."""
    count = 0
    groups: list[int] = []

    def visit(flag, subtree):
        nonlocal count
        leaves = jax.tree_util.tree_leaves(subtree)
        if flag and leaves:
            groups.extend([count] * len(leaves))
            count += 1
        else:
            groups.extend([-1] * len(leaves))

    full = out_tree.unflatten(range(out_tree.num_leaves))
    try:
        jax.tree_util.tree_map(visit, prefix, full)
    except ValueError as error:
        raise StatementError(
            f"sealed_outputs={prefix!r} is not a pytree prefix of the outputs {full!r}"
        ) from error
    return groups


@checked
def trace(fn: Callable, *, sealed_outputs: Any = False) -> Callable[..., Statement]:
    """``trace(fn)(*args)``: the statement that ``prove(fn)(*args)`` proves.

    Arguments are as for ``prove``; a ``Commitment`` or ``Private(tree)`` may stand for a sealed
    one.

    >>> import numpy as np
    >>> import zkjax
    >>> statement = zkjax.trace(lambda x: x)(zkjax.Private(np.zeros(3, np.int8)))
    >>> len(statement.digest)
    32
    """

    def run(*args, **keywords) -> Statement:
        return trace_call(fn, positional(fn, args, keywords), sealed_outputs).statement

    return run
