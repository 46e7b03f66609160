"""A program's values in exact integers mod p: what a prover with any hints could commit to.

Nothing here knows bounds, float64 or the library's evaluation. A value is an object array of Python
integers in [0, p) with an axis for candidates in front: (count, *shape), or (1, *shape) where all
candidates agree. Hints are computed from the representative in (-p/2, p/2).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import isqrt

import numpy as np

from zkjax.program.ops import RULES, Op
from zkjax.program.program import Lookup, Program
from zkjax.program.tables import Table

P = 2**64 - 2**32 + 1
MAX_SWEEPS = 200

Array = np.ndarray
Pins = Mapping[int, Mapping[int, Array]]  # variable -> flat position -> (count,) values


def field(values) -> Array:
    """Integers as an object array mod p."""
    return np.asarray(np.asarray(values).astype(object) % P, dtype=object)


def _elementwise(function, *arrays):
    return np.asarray(np.frompyfunc(function, len(arrays), 1)(*arrays), dtype=object)


def centered(values: Array) -> Array:
    """The representatives in (-p/2, p/2)."""
    return _elementwise(lambda v: v - P if v > P // 2 else v, values)


def _round(z: int, s: int) -> int:
    return (z + (1 << (s - 1))) >> s


def _divide(n: int, d: int) -> int:
    return n // d if d > 0 else 0


def _rsqrt(x: int, k: int) -> int:
    return isqrt((1 << k) // x) if x > 0 else 0


def _argmax(x: Array) -> Array:
    """The first largest of the last axis."""
    flat = x.reshape(-1, x.shape[-1])
    best = [max(range(len(row)), key=lambda j: (row[j], -j)) for row in flat.tolist()]
    return np.array(best, dtype=object).reshape(x.shape[:-1])


def hint(op: Op, tables, xs: Sequence[Array]) -> Array:
    """The honest hint of an advice operation, from centered operands."""
    x = centered(xs[0])
    match op.kind:
        case "round":
            return _elementwise(lambda z: _round(z, op.params[0]), x)
        case "limb":
            shift, width = op.params
            return _elementwise(lambda v: (v >> shift) & ((1 << width) - 1), x)
        case "lookup":
            table = tables[op.params[0]]
            low, last = int(table.columns[0][0]), table.rows - 1
            column = table.columns[op.params[1]]
            return _elementwise(lambda v: int(column[min(max(v - low, 0), last)]), x)
        case "locate":
            firsts = tables[op.params[0]].columns[1]
            return _elementwise(lambda v: max(bisect_right(firsts.tolist(), v) - 1, 0), x)
        case "divide":
            return _elementwise(_divide, x, centered(xs[1]))
        case "rsqrt":
            return _elementwise(lambda v: _rsqrt(v, op.params[0]), x)
        case "max":
            return np.max(x, axis=-1)
        case "argmax_bit":
            return (_argmax(x) >> op.params[0]) & 1
        case "nonnegative":
            return _elementwise(lambda v: int(v >= 0), x)
    raise NotImplementedError(op.kind)


def _contract(op: Op, x: Array, y: Array) -> Array:
    batch, summed = op.params
    used_x, used_y = ({pair[side] for pair in (*batch, *summed)} for side in (0, 1))
    free_x = [a for a in range(x.ndim - 1) if a not in used_x]
    free_y = [a for a in range(y.ndim - 1) if a not in used_y]
    order_x = [0, *(a + 1 for a in (*(p for p, _ in batch), *free_x, *(p for p, _ in summed)))]
    order_y = [0, *(a + 1 for a in (*(q for _, q in batch), *(q for _, q in summed), *free_y))]
    lead = [x.shape[p + 1] for p, _ in batch]
    inner = int(np.prod([x.shape[p + 1] for p, _ in summed], dtype=np.int64))
    left = np.transpose(x, order_x).reshape(len(x), *lead, -1, inner)
    right = np.transpose(y, order_y).reshape(len(y), *lead, inner, -1)
    product = np.matmul(left, right)
    return product.reshape(len(product), *op.shape)


def _onehot(op: Op, bits: Sequence[Array]) -> Array:
    """prod_b (bit_b if bit b of j is set, else 1 - bit_b), for any field elements as bits."""
    columns = []
    for j in range(op.params[0]):
        product = 1
        for b, bit in enumerate(bits):
            product = product * (bit if j >> b & 1 else 1 - bit) % P
        columns.append(product)
    return np.stack(np.broadcast_arrays(*columns), axis=-1)


def virtual(op: Op, xs: Sequence[Array]) -> Array:
    """Linear operations and products."""
    x = xs[0]
    match op.kind:
        case "affine":
            coefficients, offset = op.params
            terms = (c * v for c, v in zip(coefficients, xs, strict=True) if c)
            total = sum(terms, np.zeros((1, *op.shape), dtype=object))
            return total + offset
        case "alias":
            return x
        case "transpose":
            return np.transpose(x, (0, *(a + 1 for a in op.params[0])))
        case "broadcast":
            dims, inside = op.params
            shape = [1] * len(op.shape)
            for i, axis in enumerate(dims):
                shape[axis] = inside[i]
            return np.broadcast_to(x.reshape(len(x), *shape), (len(x), *op.shape))
        case "reshape":
            return x.reshape(len(x), *op.shape)
        case "slice":
            starts, steps, _ = op.params
            spans = zip(starts, steps, op.shape, strict=True)
            return x[(slice(None), *(slice(s, s + t * (n - 1) + 1, t) for s, t, n in spans))]
        case "pad":
            low, step, inside = op.params
            out = np.zeros((len(x), *op.shape), dtype=object)
            spans = zip(low, step, inside, strict=True)
            out[(slice(None), *(slice(a, a + s * (n - 1) + 1, s) for a, s, n in spans))] = x
            return out
        case "sum":
            return np.sum(x, axis=tuple(a + 1 for a in op.params[0]))
        case "reverse":
            return np.flip(x, tuple(a + 1 for a in op.params[0]))
        case "take":
            axis, indices, _ = op.params
            return np.take(x, indices, axis=axis + 1)
        case "shift":
            count = max(map(len, xs))
            init, carry = (np.broadcast_to(v, (count, *v.shape[1:])) for v in xs)
            if op.params[0]:
                return np.concatenate([carry[:, 1:], init[:, None]], axis=1)
            return np.concatenate([init[:, None], carry[:, :-1]], axis=1)
        case "multiply":
            return x * xs[1]
        case "contract":
            return _contract(op, x, xs[1])
        case "onehot":
            return _onehot(op, xs)
    raise NotImplementedError(op.kind)


def carry_links(program: Program) -> dict[int, int]:
    """For each carry the zero relation (what leaves the body) - carry that ties it."""
    options: dict[int, set[int]] = {}
    for zero in program.zeros:
        op = program.ops[zero]
        if op.kind == "affine":
            pairs = zip(op.inputs, op.params[0], strict=True)
            carries = {v for v, c in pairs if c == -1 and program.ops[v].kind == "carry"}
            options |= {zero: carries} if carries else {}
    links: dict[int, int] = {}
    while options:
        # A relation that names two carries reads one of them, which has a relation of its own.
        zero = min(options, key=lambda z: len(options[z]))
        carries = options.pop(zero)
        if carries:
            carry = max(carries)
            links[carry] = zero
            options = {z: cs - {carry} for z, cs in options.items()}
    return links


def odd_rows(table: Table) -> set[tuple[int, ...]] | None:
    """The rows of a table mod p if its keys are not consecutive for a verifier, else None.

    A verifier takes keys for consecutive where their number is a power of two, and reads them as
    64-bit integers otherwise.
    """
    keys = np.asarray(table.columns[0]).astype(np.int64)
    if table.rows & (table.rows - 1) == 0 or np.all(np.diff(keys) == 1):
        return None
    columns = [np.asarray(c).astype(np.int64).tolist() for c in table.columns]
    return {tuple(v % P for v in row) for row in zip(*columns, strict=True)}


class Exact:
    """Evaluates a program, and says which relations hold.

    ``links`` may be those of a program with more relations: its carries follow them still.
    """

    def __init__(self, program: Program, links: dict[int, int] | None = None):
        self.program = program
        self.links = carry_links(program) if links is None else links
        self.users: list[set[int]] = [set() for _ in program.ops]
        for var, op in enumerate(program.ops):
            for operand in op.inputs:
                self.users[operand].add(var)
        self.relations: list[Lookup | int] = [*program.lookups, *program.zeros]
        self._odd = [odd_rows(t) for t in program.tables]
        self._followers = {zero: carry for carry, zero in self.links.items()}

    def is_hint(self, var: int) -> bool:
        """Whether the prover commits to it."""
        return RULES[self.program.ops[var].kind].cls == "advice"

    def dependents(self, roots, through_hints: bool = True) -> set[int]:
        """Variables that change with ``roots``; with hints, also those that follow from hints and
        carries that are recomputed.
        """
        found, stack = set(roots), list(roots)
        while stack:
            var = stack.pop()
            following = set(self.users[var])
            if not through_hints:
                following = {u for u in following if not self.is_hint(u)}
            elif var in self._followers:
                following.add(self._followers[var])
            stack += following - found
            found |= following
        return found

    def evaluate(self, inputs: Sequence[Array]) -> list[Array]:
        """All variables, hints honest, carries such that their relations hold."""
        values: list[Array] = [None] * len(self.program.ops)
        ports = {p.var: x for p, x in zip(self.program.inputs, inputs, strict=True)}
        for var, op in enumerate(self.program.ops):
            if op.kind == "input":
                values[var] = field(ports[var])[None]
            elif op.kind == "constant":
                values[var] = field(self.program.constants[op.params[0]])[None]
            elif op.kind == "carry":
                values[var] = np.zeros((1, *op.shape), dtype=object)
        rest = {v for v, x in enumerate(values) if x is None}
        return self.recompute(values, {}, rest | set(self.links))

    def recompute(self, values: Sequence[Array], pins: Pins, changing: set[int]) -> list[Array]:
        """The variables in ``changing`` again, with pinned elements; carries are run forward."""
        values = list(values)
        order = sorted(changing | set(pins))
        loops = [c for c in self.links if c in changing]
        for _ in range(MAX_SWEEPS):
            for var in order:
                if var in changing and self.program.ops[var].kind not in ("carry", "input"):
                    values[var] = self.value(var, values)
                values[var] = pinned(values[var], pins.get(var))
            before = [values[c] for c in loops]
            for carry in loops:
                out = (values[self.links[carry]] + values[carry]) % P
                values[carry] = pinned(out, pins.get(carry))
            if all(np.array_equal(a, values[c]) for a, c in zip(before, loops, strict=True)):
                return values
        raise RecursionError("the carries of a scan do not settle")

    def value(self, var: int, values: Sequence[Array]) -> Array:
        """One variable from its operands."""
        op = self.program.ops[var]
        operands = [values[i] for i in op.inputs]
        if RULES[op.kind].cls == "advice":
            return hint(op, self.program.tables, operands) % P
        return virtual(op, operands) % P

    def holds(self, relation: Lookup | int, values: Sequence[Array]) -> Array:
        """Elementwise, (count, *shape)."""
        if not isinstance(relation, Lookup):
            return (values[relation] == 0).astype(bool)
        table, odd = self.program.tables[relation.table], self._odd[relation.table]
        if odd is not None:
            columns = np.broadcast_arrays(*(values[v] for v in relation.vars))
            return _elementwise(lambda *row: row in odd, *columns).astype(bool)
        row = (values[relation.vars[0]] - int(table.columns[0][0])) % P
        good = (row < table.rows).astype(bool)
        for column, var in zip(table.columns[1:], relation.vars[1:], strict=True):
            expected = field(column[np.where(good, row, 0).astype(np.int64)])
            good = good & (expected == values[var]).astype(bool)
        return good

    def failing(self, values: Sequence[Array]) -> list[Lookup | int]:
        """The relations that do not hold for the first candidate."""
        return [r for r in self.relations if not self.holds(r, values)[0].all()]


def pinned(value: Array, pins: Mapping[int, Array] | None) -> Array:
    """A value with some elements replaced, for all candidates."""
    if not pins:
        return value
    count = max([len(value), *(len(v) for v in pins.values())])
    out = np.broadcast_to(value, (count, *value.shape[1:])).copy()
    flat = out.reshape(count, -1)
    for position, replacement in pins.items():
        flat[:, position] = replacement
    return out
