"""Building programs: hash-consing, constant folding, bounds, range checks.

Every variable has a structural hash (what it computes, not when it was traced). Operands of
commutative operations are sorted by it, and equal variables merge.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from operator import index
from typing import NamedTuple

import numpy as np

from zkjax.errors import OverflowBoundError, TraceError
from zkjax.program.dtypes import DTYPE_RANGES, MAX_BOUND, MAX_WIDE_BOUND
from zkjax.program.ops import RULES, Op, Shape
from zkjax.program.tables import Table, range_table

SPLIT_LOOKUPS = 2**16
MOST_TERMS = 16  # of nested sums that become one


def _hash(*parts) -> bytes:
    """256 bits: variables of equal names merge, and whoever chooses constants must not find two."""
    data = json.dumps(parts, default=lambda b: b.hex() if isinstance(b, bytes) else index(b))
    return hashlib.blake2s(data.encode(), person=b"zkj.name").digest()


def _plain(value):
    """Parameters as Python integers, strings and tuples, whatever JAX and NumPy hand over."""
    if isinstance(value, tuple | list):
        return tuple(_plain(v) for v in value)
    return value if isinstance(value, str) else index(value)


def distinct(values: np.ndarray) -> np.ndarray:
    """An array without the repetitions of ``np.broadcast_to``: those axes have length 1."""
    repeated = zip(values.strides, values.shape, strict=True)
    return values[tuple(slice(0, 1) if not s and n > 1 else slice(None) for s, n in repeated)]


def power_of_two_spans(n: int) -> list[tuple[int, int]]:
    """[0, n) as consecutive spans of decreasing power-of-two sizes, at most four; only the last
    may be of another size.
    """
    spans, start = [], 0
    while start < n:
        rest = n - start
        size = 1 << (rest.bit_length() - 1)
        if len(spans) == 3 or 8 * rest > 7 * 2 * size:
            size = rest
        spans.append((start, start + size))
        start += size
    return spans


class Obligation(NamedTuple):
    """What tracing rests on: a variable is in [low, high]. ``bounds`` has to show it of the final
    program; where it can't, the value gets a range check if it may, else the trace is refused.
    """

    var: int
    low: int
    high: int
    check: bool
    where: str
    what: str


class Builder:
    """Collects operations and relations while a function is traced."""

    def __init__(self):
        self.ops: list[Op] = []
        self.bounds: list[int] = []
        self.advised: list[bool] = []  # whether it is computed from advice, or owns relations
        self.hashes: list[bytes] = []
        self.notes: dict[int, str] = {}
        self.constants: list[np.ndarray] = []
        # Relations count while their owner is used; those without one always do.
        self.lookups: list[tuple[int | None, Table, tuple[int, ...]]] = []  # (owner, table, vars)
        self.zeros: list[tuple[int, int]] = []  # (owner, var)
        self.obligations: list[Obligation] = []
        self.checked: set[tuple[int, int, int]] = set()  # obligations that got a range check
        self.known_ranges: dict[int, tuple[int, int]] = {}
        self.intervals: dict[int, tuple[int, int]] = {}  # that a variable's own relations require
        # Of the carry v of a scan: (start, a, c) with |v| <= a |start| + c, if that is known.
        self.growth: dict[int, tuple[int, int, int]] = {}
        self.where = ""
        self._known: dict[bytes, int] = {}
        self._relations: set = set()

    def mark(self) -> tuple:
        """A point to roll back to."""
        lists = self.ops, self.constants, self.lookups, self.zeros, self.obligations
        return *(len(x) for x in lists), list(self.bounds), dict(self.intervals)

    def rollback(self, mark: tuple) -> None:
        """Forget everything added since ``mark``, and what it said about earlier variables."""
        ops, constants, lookups, zeros, obligations, bounds, intervals = mark
        for digest in self.hashes[ops:]:
            self._known.pop(digest, None)
        for var in range(ops, len(self.ops)):
            self.notes.pop(var, None)
            self.growth.pop(var, None)
        self.bounds, self.intervals = list(bounds), dict(intervals)
        del self.ops[ops:], self.advised[ops:], self.hashes[ops:]
        del self.constants[constants:], self.lookups[lookups:], self.zeros[zeros:]
        del self.obligations[obligations:]
        self._relations = {(o, t, v) for o, t, v in self.lookups}
        self._relations |= set(self.zeros)

    # Variables ------------------------------------------------------------------------------

    def add(
        self, kind: str, inputs: Sequence[int], shape: Shape, bound: int, *params, key=None
    ) -> int:
        """The variable ``kind(inputs)``; an existing one if it was already computed."""
        most = MAX_BOUND if RULES[kind].cls == "advice" else MAX_WIDE_BOUND
        if bound > most:
            raise OverflowBoundError(
                f"a value of '{kind}' may reach {bound.bit_length()} bits; fixed point holds "
                f"{most.bit_length() - 1}; round an operand to fewer fraction bits with "
                "zkjax.fixed.round before this line",
                self.where,
            )
        shape = tuple(int(n) for n in shape)
        self._require_elements(shape)
        params = _plain(params)
        hashed = () if kind == "constant" else params
        digest = _hash(kind, [self.hashes[i] for i in inputs], shape, hashed, key)
        if digest in self._known:
            var = self._known[digest]
            self.bounds[var] = min(self.bounds[var], bound)
            return var
        var = len(self.ops)
        self.ops.append(Op(kind, tuple(inputs), shape, tuple(params)))
        self.bounds.append(int(bound))
        owns = kind == "alias" or RULES[kind].cls == "advice"
        self.advised.append(owns or any(self.advised[i] for i in inputs))
        self.hashes.append(digest)
        self.notes[var] = f"{kind} at {self.where}" if self.where else kind
        self._known[digest] = var
        return var

    def _require_elements(self, shape: Shape) -> None:
        if 0 in shape:
            raise TraceError(
                f"an array of shape {shape} is empty; there is nothing to prove", self.where
            )

    def shape(self, var: int) -> Shape:
        return self.ops[var].shape

    def constant(self, values: np.ndarray) -> int:
        """A public constant of int64; axes along which it does not vary become a broadcast."""
        shape = np.shape(values)
        self._require_elements(shape)
        values = distinct(np.asarray(values)).astype(np.int64)
        keep = [
            a
            for a in range(values.ndim)
            if values.shape[a] > 1 and np.any(values != values.take([0], axis=a))
        ]
        core = values[tuple(slice(None) if a in keep else 0 for a in range(values.ndim))]
        bound = int(np.abs(core).max(initial=0))
        key = hashlib.blake2s(np.ascontiguousarray(core, dtype="<i8").tobytes()).digest()
        before = len(self.ops)
        var = self.add("constant", (), core.shape, bound, len(self.constants), key=key)
        if len(self.ops) > before:
            self.constants.append(core)
        if core.shape == shape:
            return var
        return self.broadcast(var, shape, keep)

    def affine(
        self, terms: Sequence[tuple[int, int]], offset: int = 0, bound: int | None = None
    ) -> int:
        """sum c_i x_i + offset, nested affine operations flattened, terms merged and sorted.

        A variable that cancels stays, with coefficient 0, if relations of advice stand behind it:
        bounds, and steps that rested on them, hold only while these relations count.

        ``bound`` replaces the computed bound where relations of the inputs imply a better one.
        """
        merged: dict[int, int] = {}

        def collect(var: int, c: int) -> int:
            op = self.ops[var]
            if op.kind == "affine":
                inner = sum(collect(i, c * k) for i, k in zip(op.inputs, op.params[0], strict=True))
                return inner + c * op.params[1]
            merged[var] = merged.get(var, 0) + c
            return 0

        shape = self.shape(terms[0][0])
        nested_bound = abs(offset) + sum(abs(c) * self.bounds[var] for var, c in terms)
        flat = offset + sum(collect(var, c) for var, c in terms)
        reached = abs(flat) + sum(abs(c) * self.bounds[v] for v, c in merged.items())
        if len(merged) > max(MOST_TERMS, len(terms)) or reached > MAX_BOUND:
            # A chain of sums stays one, or its terms would be as many as the square of its length;
            # and so does one whose parts may be more than float64 holds, where the sum may not.
            merged.clear()
            for var, c in terms:
                merged[var] = merged.get(var, 0) + c
        else:
            offset = flat
        kept = [(v, c) for v, c in merged.items() if c or self.advised[v]]
        kept.sort(key=lambda t: self.hashes[t[0]])
        if not kept:
            return self.constant(np.full(shape, offset))
        if len(kept) == 1 and kept[0][1] == 1 and offset == 0:
            return kept[0][0]
        if bound is None:
            flat_bound = abs(offset) + sum(abs(c) * self.bounds[v] for v, c in kept)
            bound = min(flat_bound, nested_bound)
        variables, coefficients = [v for v, _ in kept], tuple(c for _, c in kept)
        return self.add("affine", variables, shape, bound, coefficients, offset)

    def broadcast(self, var: int, shape: Shape, dims: Sequence[int]) -> int:
        """Operand axis i becomes output axis dims[i]."""
        inside = self.shape(var)
        if tuple(shape) == inside and list(dims) == list(range(len(inside))):
            return var
        op = self.ops[var]
        if op.kind == "broadcast":  # one that adds axes, then one that widens them, are one
            var, inside = op.inputs[0], op.params[1]
            dims = [dims[d] for d in op.params[0]]
        return self.add("broadcast", [var], shape, self.bounds[var], tuple(dims), inside)

    def reshape(self, var: int, shape: Shape) -> int:
        if tuple(shape) == self.shape(var):
            return var
        op = self.ops[var]
        if op.kind == "reshape":
            var = op.inputs[0]
            if tuple(shape) == self.shape(var):
                return var
        return self.add("reshape", [var], shape, self.bounds[var], self.shape(var))

    def transpose(self, var: int, permutation: Sequence[int]) -> int:
        op = self.ops[var]
        if op.kind == "transpose":
            permutation = [op.params[0][p] for p in permutation]
            var = op.inputs[0]
        if list(permutation) == list(range(len(permutation))):
            return var
        inside = self.shape(var)
        shape = tuple(inside[p] for p in permutation)
        return self.add("transpose", [var], shape, self.bounds[var], tuple(permutation))

    def slice(self, var: int, starts, shape, steps=None) -> int:
        """x[starts : ... : steps] with the given result shape."""
        inside = self.shape(var)
        if tuple(shape) == inside:
            return var
        steps = steps or (1,) * len(inside)
        return self.add(
            "slice", [var], shape, self.bounds[var], tuple(starts), tuple(steps), inside
        )

    def alias(self, var: int, *bounds: int) -> int:
        """A name of its own for a value, to own relations: they hold where the name is used.

        ``bounds``: the interval that these relations will require.
        """
        bound = min([self.bounds[var], *([max(map(abs, bounds))] if bounds else [])])
        name = self.add("alias", [var], self.shape(var), bound, *bounds)
        if bounds:
            self.intervals[name] = bounds[0], bounds[1]
        return name

    def rely(self, var: int, low: int, high: int, what: str, check: bool = False) -> None:
        """Write down that the trace rests on all entries being in [low, high]."""
        self.obligations.append(Obligation(var, low, high, check, self.where, what))

    def discharge_by_check(self, obligation: Obligation) -> None:
        """Add the range check that makes an obligation hold."""
        low, high = obligation.low, obligation.high
        self.checked.add((obligation.var, low, high))
        name = self.alias(obligation.var)
        shifted = self.affine([(name, 1)], -low, bound=min(MAX_BOUND, high - low))
        what = f"{obligation.what} at {obligation.where}" if obligation.where else obligation.what
        width = (high - low).bit_length()
        self.range_check(shifted, width, None, what)
        if high - low + 1 != 1 << width:  # no power of two: from above too
            below = self.affine([(name, -1)], high, bound=min(MAX_BOUND, high - low))
            self.range_check(below, width, None, what)

    def within(self, var: int, low: int, high: int) -> bool:
        """Whether an honest run keeps all entries in [low, high], as far as is known so far."""
        if -low >= self.bounds[var] <= high:
            return True
        while RULES[self.ops[var].kind].selects and var not in self.intervals:
            var = self.ops[var].inputs[0]
        least, most = self.intervals.get(var, (low - 1, high + 1))
        return low <= least and most <= high

    def sum(self, var: int, axes: Sequence[int]) -> int:
        inside = self.shape(var)
        axes = tuple(sorted(axes))
        if not axes:
            return var
        shape = tuple(n for a, n in enumerate(inside) if a not in axes)
        count = int(np.prod([inside[a] for a in axes], dtype=np.int64))
        return self.add("sum", [var], shape, self.bounds[var] * count, axes, inside)

    def multiply(self, x: int, y: int) -> int:
        x, y = sorted((x, y), key=lambda v: self.hashes[v])
        return self.add("multiply", [x, y], self.shape(x), self.bounds[x] * self.bounds[y])

    # Relations ------------------------------------------------------------------------------

    def _require_owner(self, owner: int | None) -> None:
        if owner is not None and RULES[self.ops[owner].kind].merges:
            raise RuntimeError("internal: the owner of a relation may be merged away; alias it")

    def lookup(self, table: Table, variables: Sequence[int], owner: int | None) -> None:
        """Require that the variables are elementwise a row of the table."""
        self._require_owner(owner)
        relation = (owner, table, tuple(variables))
        if relation not in self._relations:
            self._relations.add(relation)
            self.lookups.append((owner, table, tuple(variables)))

    def require_zero(self, var: int, owner: int) -> None:
        """Require that a variable is zero everywhere."""
        self._require_owner(owner)
        if (owner, var) not in self._relations:
            self._relations.add((owner, var))
            self.zeros.append((owner, var))

    def range_check(self, var: int, bits: int, owner: int | None, what: str = "") -> None:
        """Require 0 <= var < 2^bits by 16-bit limbs; the lowest limb is virtual."""
        note = what or self.notes.get(var if owner is None else owner, "value")
        self.notes[var] = note
        if bits <= 16:
            self.lookup(range_table(bits), [var], owner)
            return
        terms = [(var, 1)]
        for i in range(1, -(-bits // 16)):
            width = min(16, bits - 16 * i)
            shift = 16 * i
            limb = self.add("limb", [var], self.shape(var), (1 << width) - 1, shift, width)
            self.notes[limb] = note
            self.lookup(range_table(width), [limb], owner)
            terms.append((limb, -(1 << shift)))
        low = self.affine(terms, bound=(1 << 16) - 1)
        self.notes[low] = note
        self.lookup(range_table(16), [low], owner)

    def signed_range_check(self, var: int, bits: int, owner: int, what: str = "") -> None:
        """Require -2^(bits-1) <= var < 2^(bits-1)."""
        half = 1 << (bits - 1)
        shifted = self.affine([(var, 1)], half, bound=min(MAX_BOUND, 1 << bits))
        self.range_check(shifted, bits, owner, what)
        if owner == var:
            self.intervals[var] = -half, half - 1

    def input(self, number: int, shape: Shape, dtype: str, name: str, known: bool = False) -> int:
        """The variable of an input. ``known``: that it fits its dtype is checked outside the
        program (a public value, or one with a range proof).
        """
        low, high = DTYPE_RANGES[dtype]
        var = self.add("input", (), shape, max(-low, high), number)
        self.intervals[var] = low, high
        if known:
            self.known_ranges[var] = low, high
        self.notes[var] = f"input {name}"
        return var

    def input_range_check(self, var: int, dtype: str, name: str) -> None:
        """Require that a sealed input fits its dtype.

        A lookup costs as much for padding as for data, so large tensors are looked up in slices
        that need little padding.
        """
        low, high = DTYPE_RANGES[dtype]
        what = f"input {name} is outside its dtype"
        for piece in self._pieces(var):
            shifted = self.affine([(piece, 1)], -low, bound=high - low)
            self.range_check(shifted, (high - low).bit_length(), var, what)

    def _pieces(self, var: int) -> list[int]:
        """Slices that cover a tensor, nearly all of power-of-two sizes if it is large."""
        shape = self.shape(var)
        if int(np.prod(shape)) < SPLIT_LOOKUPS:
            return [var]
        pieces = []
        for box in itertools.product(*(power_of_two_spans(n) for n in shape)):
            if [(0, n) for n in shape] == list(box):
                return [var]
            starts = [start for start, _ in box]
            pieces.append(self.slice(var, starts, [stop - start for start, stop in box]))
        return pieces
