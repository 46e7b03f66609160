"""What depends on itself: the carries of scans, bounded by induction over the steps.

All steps of a scan are one tensor, the carry that leaves step l enters step l + 1 (``shift``). So a
carry depends on itself as a variable, and not as its entries: those of step l depend on those of
step l - 1 alone, if every operation between them acts on each step by itself. That is checked
first, by following the axis of the steps through the operations; a statement from a stranger may
tie its variables in any way.

Then, for intervals I of all carries of the loop: if what enters is in I and all of the body then
leaves in I, every step does. If not, it may still be that |leaves| <= a |enters| + c, so that after
n steps |carry| <= a^n |start| + c (1 + a + ... + a^(n-1)); ``growth`` finds such a and c.

An inner scan is a loop inside the component of the outer one, and solved at each attempt at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from zkjax.errors import OverflowBoundError
from zkjax.program.intervals import GROWTH, Sums, chosen_by_onehot, hull, magnitude
from zkjax.program.ops import RULES, ContractAxes, Op
from zkjax.program.ops.linear import reshape_groups

if TYPE_CHECKING:
    from zkjax.program.derivation import Bounds
    from zkjax.program.relations import Relation

ATTEMPTS = 12
LARGEST = 1 << 62  # carries that may exceed this are refused

Growth = tuple[int, int]


def components(
    variables: Iterable[int], dependencies: Callable[[int], Iterable[int]]
) -> Iterable[list[int]]:
    """Strongly connected components of a part of the graph, those depended on first (Tarjan)."""
    inside = set(variables)
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    waiting: list[int] = []
    on_stack: set[int] = set()
    for root in sorted(inside):
        if root in index:
            continue
        path = [(root, iter(sorted(set(dependencies(root)) & inside)))]
        index[root] = low[root] = len(index)
        waiting.append(root)
        on_stack.add(root)
        while path:
            var, rest = path[-1]
            for other in rest:
                if other not in index:
                    index[other] = low[other] = len(index)
                    waiting.append(other)
                    on_stack.add(other)
                    path.append((other, iter(sorted(set(dependencies(other)) & inside))))
                    break
                if other in on_stack:
                    low[var] = min(low[var], index[other])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[var])
                if low[var] == index[var]:
                    component = []
                    while not component or component[-1] != var:
                        component.append(waiting.pop())
                        on_stack.remove(component[-1])
                    yield component


def kept_axis(op: Op, operand: int, axis: int, shapes: Sequence[tuple[int, ...]]) -> int | None:
    """The axis of the result along which it acts on each position of an operand's axis by itself;
    None if there is none.
    """
    kind, inside = op.kind, shapes[operand]
    if kind == "broadcast":
        dims, in_shape = op.params
        return dims[axis] if in_shape[axis] == op.shape[dims[axis]] else None
    if kind == "transpose":
        return op.params[0].index(axis)
    if kind == "reshape":
        for ins, outs in reshape_groups(inside, op.shape):
            if ins == [axis] and len(outs) == 1:
                return outs[0]
        return None
    if kind in ("slice", "pad"):
        return axis if inside[axis] == op.shape[axis] else None
    if kind == "sum":
        summed = op.params[0]
        return None if axis in summed else axis - sum(a < axis for a in summed)
    if kind == "reverse":
        return None if axis in op.params[0] else axis
    if kind == "take":
        return None if axis == op.params[0] else axis
    if kind == "shift":
        return axis + 1 if operand == 0 else axis
    if kind == "contract":
        axes = ContractAxes.of(op, len(shapes[0]), len(shapes[1]))
        for position, pair in enumerate(axes.batch):
            if pair[operand] == axis:
                return position
        free = axes.y_free if operand else axes.x_free
        before = len(axes.batch) + (len(axes.x_free) if operand else 0)
        return before + free.index(axis) if axis in free else None
    if kind in ("max", "argmax_bit"):
        return axis if axis < len(inside) - 1 else None
    return axis  # elementwise


class Loop:
    """A component of variables that depend on each other, and the bounds of its carries."""

    def __init__(
        self,
        bounds: Bounds,
        component: list[int],
        dependencies: Callable[[int], Iterable[int]],
    ):
        self.bounds, self.component = bounds, component
        self._dependencies = dependencies
        self._uses: dict[int, list[int]] = {}
        for v in component:
            for i in set(dependencies(v)):
                self._uses.setdefault(i, []).append(v)
        self._steps_kept: dict[int, bool] = {}
        self.axes: dict[int, int] = {}  # of each variable the axis of the steps
        self.entering = self._entering()

    # Steps ------------------------------------------------------------------------------------

    def _entering(self) -> dict[int, list[int]]:
        """The carries along whose first axis every operation of the component acts step by step,
        each with the ``shift`` operations through which it enters the next step.
        """
        ops = self.bounds.ops
        for seed in sorted(v for v in self.component if ops[v].kind == "carry"):
            axes = self._step_axes(seed)
            if axes is None:
                continue
            entering: dict[int, list[int]] = {}
            for v in sorted(self.component):
                if ops[v].kind == "shift" and axes[v] == 0:
                    entering.setdefault(ops[v].inputs[1], []).append(v)
            if len({bool(ops[v].params[0]) for shifts in entering.values() for v in shifts}) == 1:
                self.axes = axes
                return entering
        raise OverflowBoundError(
            "a value depends on itself, other than from step to step of a scan",
            self.bounds.program.where(min(self.component)),
        )

    def _step_axes(self, seed: int) -> dict[int, int] | None:
        """The axis of the steps of every variable, if the scan is that of the carry ``seed``;
        None if some operation mixes steps.
        """
        ops, axes, queue = self.bounds.ops, {seed: 0}, [seed]
        while queue:
            var = queue.pop()
            for user in self._uses.get(var, ()):
                self.bounds.spend(1)
                for axis in self._through(user, var, axes[var]):
                    enters = ops[user].kind == "shift" and axis == 0
                    if axis is None or (enters and ops[var].kind != "carry"):
                        return None
                    if user not in axes:
                        axes[user] = axis
                        queue.append(user)
                    elif axes[user] != axis:
                        return None
        return axes

    def _through(self, user: int, var: int, axis: int) -> list[int | None]:
        """Where an axis of a variable goes in one that depends on it, for each time it does."""
        bounds, op = self.bounds, self.bounds.ops[user]
        if user in bounds.atoms:  # an entry of it is tied to the same entry of what defines it
            return [bounds.axis_of_atom(user, axis)]
        shapes = [bounds.ops[i].shape for i in op.inputs]
        return [kept_axis(op, k, axis, shapes) for k, i in enumerate(op.inputs) if i == var]

    def keeps_steps(self, relation: Relation) -> bool:
        """Whether an entry of a relation is about one step of the loop only."""
        bounds = self.bounds
        if id(relation) not in self._steps_kept:
            op = bounds.ops[relation.var]
            places = set()
            for v in op.inputs if op.kind == "affine" else (relation.var,):
                base = bounds.peeled(v)[0]
                if base in self.axes:
                    places.add(bounds.axis_through(bounds.views(v), self.axes[base]))
            self._steps_kept[id(relation)] = len(places) <= 1 and None not in places
        return self._steps_kept[id(relation)]

    # Induction --------------------------------------------------------------------------------

    def within_a_step(self, var: int) -> Iterable[int]:
        """Dependencies that are not on an earlier step."""
        op = self.bounds.ops[var]
        if op.kind == "shift" and var in self.entering.get(op.inputs[1], ()):
            return op.inputs[:1]
        return self._dependencies(var)

    def solve(self) -> None:
        """Find intervals of the carries that follow by induction; OverflowBoundError if none do."""
        bounds = self.bounds
        values, state = bounds.values, bounds.state_of(self.component)
        for carry in self.entering:
            bounds.growth.pop(carry, None)
        start = {}
        for carry, shifts in self.entering.items():
            inits = [values[bounds.ops[v].inputs[0]] for v in shifts]
            if None in inits:
                self._refuse(carry)
            start[carry] = inits[0]
            for x in inits[1:]:
                start[carry] = hull(start[carry], x)
        assumed = dict(start)
        for attempt in range(ATTEMPTS):
            bounds.restore(self.component, state)
            bounds.assumed.update(assumed)
            bounds.loops.append(self)
            bounds.order(self.component, self.within_a_step)
            bounds.loops.pop()
            grown, needed = {}, dict(assumed)
            for carry, inside in assumed.items():
                leaves = values[carry]
                if leaves is None:
                    self._refuse(carry)
                if inside[0] <= leaves[0] and leaves[1] <= inside[1]:
                    continue
                needed[carry] = hull(inside, leaves)
                rate = growth(bounds, self.component, self.entering, carry)
                if attempt and rate is not None:
                    grown[carry] = rate = repeated(rate, bounds.ops[carry].shape[0])
                    largest = rate[0] * magnitude(start[carry]) + rate[1]
                    needed[carry] = hull(inside, (-largest, largest))
            if needed == assumed:
                for carry, rate in grown.items():
                    values[carry] = assumed[carry]
                    for v in self.entering[carry]:
                        bounds.growth.setdefault(carry, []).append((bounds.ops[v].inputs[0], rate))
                for carry in assumed:
                    del bounds.assumed[carry]
                return
            assumed = needed
            for carry, x in assumed.items():
                if magnitude(x) > LARGEST:
                    self._refuse(carry)
        self._refuse(min(self.entering))

    def _refuse(self, carry: int) -> None:
        raise OverflowBoundError(
            "the carry of a scan has no bound; round it inside the body with zkjax.fixed.round",
            self.bounds.program.where(carry),
        )


def repeated(rate: Growth, steps: int) -> Growth:
    """(a, c) of x -> a x + c, applied so many times; a number above LARGEST stands for all."""
    factor, rest = max(1, rate[0]), rate[1]
    if factor == 1:
        return 1, rest * steps
    if steps > LARGEST.bit_length():
        return 2 * LARGEST, 2 * LARGEST
    power = factor**steps
    return power, rest * (power - 1) // (factor - 1)


def growth(
    bounds: Bounds, component: Sequence[int], entering: dict[int, list[int]], carry: int
) -> Growth | None:
    """(a, c) with |leaving| <= a |entering| + c of a carry, as long as all values, what enters of
    other carries too, are in their intervals.

    Norms are maxima over the elements. What does not depend on the entering values linearly counts
    as a constant: its bound.
    """
    bounds.spend(len(component))
    ops, values = bounds.ops, bounds.values
    known: dict[int, Growth | None] = {
        v: (1, 0) if c == carry else (0, magnitude(values[v]))
        for c, shifts in entering.items()
        for v in shifts
    }

    def of(var: int) -> Growth | None:
        if var in known:
            return known[var]
        return None if values[var] is None else (0, magnitude(values[var]))

    sums = Sums(ops, GROWTH, of, lambda n: (0, abs(n)), bounds.is_bit)

    def largest(pairs: list[Growth | None]) -> Growth | None:
        if None in pairs:
            return None
        return max(a for a, _ in pairs), max(c for _, c in pairs)

    for var in bounds.visited(component):
        if var in known:
            continue
        op = ops[var]
        rate = of(var)
        if var in bounds.growth:
            parts = []
            for start, (a, c) in bounds.growth[var]:
                inner = of(start)
                parts.append(inner and (a * inner[0], a * inner[1] + c))
            rate = largest(parts)
        elif var in bounds.definition and not bounds.given[var]:
            rate = bounds.growth_of_atom(var, sums)
        elif op.kind == "affine":
            rate = sums.affine(op)
        elif RULES[op.kind].selects or op.kind in ("pad", "shift"):
            rate = largest([of(i) for i in op.inputs])
        elif op.kind == "multiply":
            x, y = op.inputs
            factors = [of(b) for a, b in ((x, y), (y, x)) if bounds.is_bit(a)]
            rate = min((f for f in factors if f is not None), default=rate)
        elif op.kind == "contract" and all(values[i] is not None for i in op.inputs):
            shapes, kinds = [ops[i].shape for i in op.inputs], [ops[i].kind for i in op.inputs]
            chosen = chosen_by_onehot(op, shapes, kinds)
            rate = rate if chosen is None else of(op.inputs[chosen])
        known[var] = rate
    return of(carry)
