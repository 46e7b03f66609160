"""How the bounds of a program are derived from its relations; ``bounds`` says why that will do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from zkjax.errors import OverflowBoundError
from zkjax.program.dtypes import DTYPE_RANGES
from zkjax.program.induction import Growth, Loop, components, kept_axis
from zkjax.program.intervals import (
    INTERVALS,
    LARGEST,
    Interval,
    Sums,
    Value,
    collected,
    hull,
    intersection,
    limited,
    magnitude,
)
from zkjax.program.ops import RULES
from zkjax.program.program import Program
from zkjax.program.relations import Relation, centred, relations_of

FEW = 4  # terms of a relation that are looked at each by itself
VIEWS = {"alias", "broadcast", "reshape", "reverse", "transpose"}  # that show all of their operand


@dataclass
class Bounds:
    """The intervals of a program's variables, and the state of their derivation."""

    program: Program
    values: list[Value] = field(default_factory=list)

    def __post_init__(self):
        program = self.program
        self.ops = program.ops
        self.values = [None] * len(self.ops)
        self._peeled = self._peel()
        self.atoms = {
            v
            for v, op in enumerate(self.ops)
            if RULES[op.kind].cls == "advice" or op.kind == "input"
        }
        self.relations = [self._relation(*r) for r in relations_of(program)]
        self.of_var: dict[int, list[Relation]] = {}
        self.of_term: dict[int, list[Relation]] = {}
        for r in self.relations:
            self.of_var.setdefault(r.var, []).append(r)
            for v in {v for v, c in r.terms if c}:
                self.of_term.setdefault(v, []).append(r)
        self.sums = Sums(
            self.ops, INTERVALS, self.values.__getitem__, lambda n: (n, n), self.is_bit
        )
        # Committed values of which no field fact holds: what defines them. See ``_definitions``.
        self.definition: dict[int, Relation] = {}
        self.given = [False] * len(self.ops)
        # Of loops: what carries are assumed to enter with, and how they grow from their starts.
        self.assumed: dict[int, Interval] = {}
        self.growth: dict[int, list[tuple[int, Growth]]] = {}
        self.loops: list[Loop] = []  # those that are being solved, the outermost first
        self._visits: list[int] = [0] * len(self.ops)
        self._clock = 0
        self._work = 200_000 + 100 * len(self.ops)

    def spend(self, steps: int) -> None:
        """Count the steps of inductions, so that no program costs more than its size allows."""
        self._work -= steps
        if self._work < 0:
            raise OverflowBoundError("the scans of the program are too many to bound")

    def is_bit(self, var: int) -> bool:
        x = self.values[var]
        return x is not None and x[0] >= 0 and x[1] <= 1

    # Step 1 -----------------------------------------------------------------------------------

    def peeled(self, var: int) -> tuple[int, int, int]:
        """(base, c, offset): the variable is a view of c base + offset."""
        return self._peeled[var]

    def _peel(self) -> list[tuple[int, int, int]]:
        """The same of all variables; not through numbers too large to be of use."""
        peeled: list[tuple[int, int, int]] = []
        for var, op in enumerate(self.ops):
            shown = (var, 1, 0)
            if op.kind in VIEWS:
                shown = peeled[op.inputs[0]]
            elif op.kind == "affine" and len(op.inputs) == 1:
                base, c, offset = peeled[op.inputs[0]]
                (k,), added = op.params
                if max(abs(k * c), abs(k * offset + added)) <= LARGEST:
                    shown = base, k * c, k * offset + added
            peeled.append(shown)
        return peeled

    def _relation(self, var: int, low: int, high: int) -> Relation:
        op, terms, offset = self.ops[var], [], 0
        pairs: Iterable = [(var, 1)]
        if op.kind == "affine":
            pairs, offset = zip(op.inputs, op.params[0], strict=True), op.params[1]
        for v, c in pairs:
            base, k, added = self.peeled(v)
            terms.append((base, c * k))
            offset += c * added
        return Relation(var, low, high, terms, offset)

    def _field_facts(self) -> None:
        """Inputs that are checked elsewhere, and committed variables alone in a relation."""
        known = self.values
        for port in self.program.inputs:
            if port.ranged or not port.sealed:
                known[port.var] = DTYPE_RANGES[port.dtype]
        pieces: dict[int, list[tuple[int, Interval]]] = {}
        for r in self.relations:
            bases = {v for v, c in r.terms if c}
            r.waiting = sum(known[v] is None for v in bases)
        ready = [r for r in self.relations if r.waiting == 1]
        while ready:
            r = ready.pop()
            unknown = {v for v, c in r.terms if c and known[v] is None}
            if len(unknown) != 1:
                continue
            (var,) = unknown
            fact = centred(r.in_field(var, r.sum(known, without=var)))
            if fact is None:
                continue
            op = self.ops[var]
            if var in self.atoms:
                solved = [(var, fact)]
            elif op.kind == "slice" and op.inputs[0] in self.atoms and known[op.inputs[0]] is None:
                pieces.setdefault(op.inputs[0], []).append((var, fact))
                solved = self._joined(op.inputs[0], pieces[op.inputs[0]])
            else:
                continue
            for v, value in solved:
                known[v] = value
                for other in self.of_term.get(v, ()):
                    other.waiting -= 1
                    if other.waiting == 1:
                        ready.append(other)

    def _joined(self, var: int, pieces: list[tuple[int, Interval]]) -> list[tuple[int, Interval]]:
        """The hull of what slices of a variable are within, once they cover it like a grid."""
        shape = self.ops[var].shape
        boxes = set()
        for piece, _ in pieces:
            starts, steps, _ = self.ops[piece].params
            if any(s != 1 for s in steps):
                return []
            boxes.add(tuple(zip(starts, self.ops[piece].shape, strict=True)))
        spans = [sorted({box[axis] for box in boxes}) for axis in range(len(shape))]
        count = 1
        for axis, n in enumerate(shape):
            ends = [0, *(start + size for start, size in spans[axis])]
            if [start for start, _ in spans[axis]] != ends[:-1] or ends[-1] != n:
                return []
            count *= len(spans[axis])
        if len(boxes) != count:  # each is one of the grid's cells
            return []
        value = pieces[0][1]
        for _, other in pieces[1:]:
            value = hull(value, other)
        return [(var, value)]

    # Step 2 -----------------------------------------------------------------------------------

    def derive(self) -> None:
        """All intervals. Raises OverflowBoundError at a relation that might wrap."""
        self._field_facts()
        self.given = [x is not None for x in self.values]
        self.definition = self._definitions()
        for r in self.relations:
            unknown = {v for v, c in r.terms if c and not self.given[v]}
            r.waiting = len(unknown)
            if not unknown:
                r.settled = r.holds(r.sum(self.values))
                self._confine(r)
        self.order(range(len(self.ops)), self.dependencies)
        for r in self.relations:
            if not r.settled:
                self.refuse(r)

    def _confine(self, r: Relation) -> None:
        """What a settled relation says of committed variables that were confined before."""
        for v, _ in r.terms[:FEW] if r.settled else ():
            rest = r.sum(self.values, without=v)
            self.values[v] = intersection(self.values[v], r.over_integers(v, rest))

    def dependencies(self, var: int) -> Iterable[int]:
        """What has to be known before a variable."""
        if self.given[var]:
            return ()
        if var in self.atoms:
            return [v for v in self._operands(var) if self.peeled(v)[0] != var]
        return self.ops[var].inputs

    def _operands(self, atom: int) -> Sequence[int]:
        """The terms, not looked through, of the relation that defines a committed variable."""
        r = self.definition.get(atom)
        if r is None:
            return ()
        op = self.ops[r.var]
        return op.inputs if op.kind == "affine" else (r.var,)

    def axis_of_atom(self, atom: int, axis: int) -> int | None:
        """The axis of a committed variable that lies at ``axis`` of the relation defining it."""
        views = [v for v in self._operands(atom) if self.peeled(v)[0] == atom]
        if len(views) != 1:
            return None
        chain = self.views(views[0])
        for candidate in range(len(self.ops[atom].shape)):
            if self.axis_through(chain, candidate) == axis:
                return candidate
        return None

    def axis_through(self, views: Sequence[int], axis: int | None) -> int | None:
        """Where an axis of a base lies in the outermost of its views; None if it is lost."""
        for v in reversed(views):
            if axis is not None:
                shapes = [self.ops[i].shape for i in self.ops[v].inputs]
                axis = kept_axis(self.ops[v], 0, axis, shapes)
        return axis

    def growth_of_atom(self, atom: int, sums: Sums) -> Value:
        """The growth of a committed variable: that of the rest of its relation, plus what the
        relation leaves open.
        """
        r = self.definition[atom]
        rest = self._rest(r, atom, sums)
        return rest and (rest[0], rest[1] + max(abs(r.low), abs(r.high)))

    def _definitions(self) -> dict[int, Relation]:
        """For committed variables that no field fact confines the relation that does: the first
        with values known before them, or one that ties a carry to its step.
        """
        found: dict[int, Relation] = {}
        for r in self.relations:
            last = max((u for u, k in r.terms if k and not self.given[u]), default=-1)
            for v, c in r.terms:
                if v not in self.atoms or self.given[v] or abs(c) != 1:
                    continue
                before = v == last
                carried = self.ops[v].kind == "carry" and r.low == r.high == 0
                if (before or carried) and v not in found:
                    found[v] = r
        return found

    def order(self, variables: Iterable[int], dependencies) -> None:
        """Visit variables in the order of their dependencies; loops by induction."""
        for component in components(variables, dependencies):
            self.spend(len(component))
            if len(component) == 1:
                self.visit(component[0])
            else:
                Loop(self, component, dependencies).solve()

    def visit(self, var: int) -> None:
        """The interval of a variable whose dependencies are known, and relations it completes."""
        self._clock += 1
        self._visits[var] = self._clock
        if not self.given[var]:
            self.values[var] = self.forward(var)
        for r in () if self.given[var] else self.of_term.get(var, ()):
            r.waiting -= 1
            if r.waiting:
                continue
            # A committed value is what the relation makes it; with others nothing may wrap.
            rest = self._rest(r, var, self.sums)
            fact = centred(r.in_field(var, rest)) if var in self.atoms else None
            if fact is None and r.holds(r.sum(self.values)):
                fact, r.settled = r.over_integers(var, rest), True
            if fact is not None:
                r.settled = True
                # What holds of another step must not be used before that step is reached.
                if all(loop.keeps_steps(r) for loop in self.loops):
                    self.values[var] = intersection(fact, self.values[var])
        for r in self.of_var.get(var, ()):
            # The sum itself may be known better than its terms, as where bits choose.
            if not r.settled and r.holds(self.values[var]):
                r.settled = True
            if r.settled:
                self.values[var] = intersection(self.values[var], (r.low, r.high))

    def _rest(self, r: Relation, pivot: int, sums: Sums) -> Value:
        """A relation's sum without one term. In the sum as it stands, bits that choose are seen."""
        op = self.ops[r.var]
        if op.kind != "affine":
            return r.sum(self.values, without=pivot) if sums is self.sums else None
        terms, offset = [], op.params[1]
        for v, c in zip(op.inputs, op.params[0], strict=True):
            base, _, added = self.peeled(v)
            if base == pivot:
                offset += c * added
            else:
                terms.append((v, c))
        rest = sums.total(collected(terms), offset)
        # A view may not have been visited yet, though what it shows was.
        return r.sum(self.values, without=pivot) if rest is None and sums is self.sums else rest

    def forward(self, var: int) -> Value:
        """What an operation gives for operands in their intervals."""
        op = self.ops[var]
        if op.kind == "constant":
            values = self.program.constants[op.params[0]]
            return int(values.min()), int(values.max())
        if op.kind == "affine":
            return self.sums.affine(op)
        transfer = RULES[op.kind].interval
        operands = [self.values[i] for i in op.inputs]
        if op.kind == "shift" and op.inputs[1] in self.assumed:
            operands[1] = self.assumed[op.inputs[1]]
        if transfer is None or any(x is None for x in operands):
            return None
        shapes = [self.ops[i].shape for i in op.inputs]
        return limited(transfer(op, operands, shapes, [self.ops[i].kind for i in op.inputs]))

    # What loops need -----------------------------------------------------------------------------

    def visited(self, component: Iterable[int]) -> list[int]:
        """Variables in the order of their last visits."""
        return sorted(component, key=self._visits.__getitem__)

    def state_of(self, component: Iterable[int]) -> list[tuple[Relation, int, bool]]:
        """Where the relations about some variables stand, to go back there."""
        touched = {}
        for v in component:
            for r in (*self.of_term.get(v, ()), *self.of_var.get(v, ())):
                touched[id(r)] = r
        return [(r, r.waiting, r.settled) for r in touched.values()]

    def restore(self, component: Iterable[int], state: list[tuple[Relation, int, bool]]) -> None:
        """Back to where nothing is known of the variables of a loop."""
        for r, waiting, settled in state:
            r.waiting, r.settled = waiting, settled
        for v in component:
            if not self.given[v]:
                self.values[v] = None

    def views(self, var: int) -> list[int]:
        """The views through which a term shows its base, the outermost first."""
        chain = []
        base = self.peeled(var)[0]
        while var != base:
            chain.append(var)
            var = self.ops[var].inputs[0]
        self.spend(len(chain))
        return chain

    def refuse(self, r: Relation) -> None:
        value = self.values[r.var]
        size = "without a bound"
        if value is not None:
            size = f"of up to {magnitude(value).bit_length()} bits"
        raise OverflowBoundError(
            f"a relation of this line may wrap around the field: it is about a value {size}; round "
            "its operands to fewer bits with zkjax.fixed.round",
            self.program.where(r.var),
        )
