"""Interval arithmetic for operations: from what the operands are within to what the result is.

An interval (low, high) holds exact Python integers; None stands for "anything". The same sums are
needed for growth, (a, c) with |value| <= a |base| + c, so they are written over a ``Domain``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zkjax.program.ops import Op, Shape

Interval = tuple[int, int]
Value = tuple[int, int] | None

LARGEST = 1 << 256  # whatever may exceed this is as good as unbounded
SPLITS = 3  # bits of one sum that are told apart
EXPANSIONS = 256  # terms looked at when a bit is known


@dataclass(frozen=True)
class Domain:
    """How values of a kind are scaled and joined; all are pairs of integers that add up.

    Attributes:
      scale: (c, value) -> c times the value.
      hull: the least value that stands for either of two.
    """

    scale: Callable[[int, tuple[int, int]], tuple[int, int]]
    hull: Callable[[tuple[int, int], tuple[int, int]], tuple[int, int]]


def _scaled(c: int, x: Interval) -> Interval:
    return (c * x[0], c * x[1]) if c >= 0 else (c * x[1], c * x[0])


def hull(x: Interval, y: Interval) -> Interval:
    return min(x[0], y[0]), max(x[1], y[1])


INTERVALS = Domain(_scaled, hull)
GROWTH = Domain(
    lambda c, x: (abs(c) * x[0], abs(c) * x[1]), lambda x, y: (max(x[0], y[0]), max(x[1], y[1]))
)


def intersection(x: Value, y: Value) -> Value:
    """What is within both; an empty one (no value satisfies both) is as good as x."""
    if x is None or y is None:
        return x if y is None else y
    both = max(x[0], y[0]), min(x[1], y[1])
    return both if both[0] <= both[1] else x


def product(x: Interval, y: Interval) -> Interval:
    corners = [a * b for a in x for b in y]
    return min(corners), max(corners)


def magnitude(x: Interval) -> int:
    return max(abs(x[0]), abs(x[1]))


def limited(x: Value) -> Value:
    return None if x is None or magnitude(x) > LARGEST else x


def collected(terms: Iterable[tuple[int, int]]) -> dict[int, int]:
    """{x: sum of its coefficients} of (x, coefficient)."""
    total: dict[int, int] = {}
    for var, c in terms:
        total[var] = total.get(var, 0) + c
    return total


class Sums:
    """Values of ``affine`` operations, over any domain.

    Attributes:
      ops: the operations, by variable.
      value: var -> its value in the domain, or None.
      constant: the value of a known integer.
      is_bit: whether a variable is known to be 0 or 1.
    """

    def __init__(
        self,
        ops: Sequence[Op],
        domain: Domain,
        value: Callable[[int], Value],
        constant: Callable[[int], tuple[int, int]],
        is_bit: Callable[[int], bool],
    ):
        self._ops, self._domain = ops, domain
        self.value, self._constant, self._is_bit = value, constant, is_bit

    def affine(self, op: Op) -> Value:
        """Of sum c_i x_i + offset: the plain sum, or the better of it and the hull over the values
        of bits that multiply something (a choice z + b (y - z) is within the hull of y and z).
        """
        return self.total(collected(zip(op.inputs, op.params[0], strict=True)), op.params[1])

    def total(self, terms: dict[int, int], offset: int) -> Value:
        """The same of a sum given by its terms {x_i: c_i}."""
        plain = self._plain(terms, offset)
        if len(terms) > EXPANSIONS:
            return plain
        cases = self._cases(terms, offset, SPLITS)
        if plain is None or cases is None:
            return plain if cases is None else cases
        if self._domain is INTERVALS:
            return intersection(plain, cases)
        return min(plain, cases)

    def _cases(self, terms: dict[int, int], offset: int, depth: int) -> Value:
        found = self._factor_bit(terms) if depth else None
        if found is None:
            return self._plain(terms, offset)
        result: Value = None
        for choice in (0, 1):
            case = self._with(terms, offset, dict(self._implied(found, choice)))
            value = self._cases(*case, depth - 1)
            if value is None:
                return None
            result = value if result is None else self._domain.hull(result, value)
        return result

    def _with(
        self, terms: dict[int, int], offset: int, known: dict[int, int]
    ) -> tuple[dict[int, int], int]:
        """A sum with some bits known: their products are gone, or are the other factor."""
        rest: dict[int, int] = {}
        pending = dict(terms)
        for _ in range(EXPANSIONS):
            if not pending:
                break
            var = max(pending)  # what a factor is made of comes before it, so each is met once
            c, op = pending.pop(var), self._ops[var]
            if var in known:
                offset += c * known[var]
            elif op.kind == "multiply" and not known.keys().isdisjoint(op.inputs):
                bit, other = op.inputs if op.inputs[0] in known else op.inputs[::-1]
                factor, inner = c * known[bit], self._ops[other]
                added = {other: 1}
                if inner.kind == "affine":
                    added = collected(zip(inner.inputs, inner.params[0], strict=True))
                    offset += factor * inner.params[1]
                for v, k in added.items() if factor else ():
                    pending[v] = pending.get(v, 0) + factor * k
            else:
                rest[var] = c
        return rest | pending, offset

    def _implied(self, bit: int, choice: int) -> list[tuple[int, int]]:
        """Variables that a bit's value fixes: itself, and x where the bit is c x + offset."""
        op = self._ops[bit]
        if op.kind == "affine" and len(op.inputs) == 1 and abs(op.params[0][0]) == 1:
            return [(bit, choice), (op.inputs[0], op.params[0][0] * (choice - op.params[1]))]
        return [(bit, choice)]

    def _factor_bit(self, terms: dict[int, int]) -> int | None:
        """A bit that multiplies something in a sum; best one that occurs beside the product too."""
        for var, c in terms.items():
            if c and self._ops[var].kind == "multiply":
                bits = [v for v in self._ops[var].inputs if self._is_bit(v)]
                bits.sort(key=lambda v: terms.keys().isdisjoint(dict(self._implied(v, 0))))
                if bits:
                    return bits[0]
        return None

    def _plain(self, terms: dict[int, int], offset: int) -> Value:
        low, high = self._constant(offset)
        pads = []
        for var, c in terms.items():
            if not c:
                continue
            value = self.value(var)
            if value is None:
                return None
            if self._ops[var].kind == "pad":
                pads.append((var, c))
                continue
            x = self._domain.scale(c, value)
            low, high = low + x[0], high + x[1]
        if not pads:
            return limited((low, high))
        rank = len(self._ops[pads[0][0]].shape)
        best: Value = None
        for axis in range(rank):
            x = self._along(axis, pads)
            total = low + x[0], high + x[1]
            if best is None:
                best = total
            elif self._domain is INTERVALS:
                best = intersection(best, total)
            else:
                best = min(best, total)
        return limited(best)

    def _along(self, axis: int, pads: list[tuple[int, int]]) -> tuple[int, int]:
        """Of a sum of padded tensors: the hull over the stretches of an axis, on each of which
        only some of them are other than zero.
        """
        events: dict[int, tuple[int, int]] = {0: (0, 0)}
        rank = len(self._ops[pads[0][0]].shape)
        length = self._ops[pads[0][0]].shape[axis]
        for var, c in pads:
            op = self._ops[var]
            low, step, inside = op.params
            # Zero elsewhere along this axis, but along others, or in gaps, also in its stretch.
            others = [a for a in range(rank) if a != axis and op.shape[a] != inside[a]]
            whole = step[axis] == 1 and not others
            x = self._domain.scale(c, self.value(op.inputs[0] if whole else var))
            start, stop = low[axis], low[axis] + step[axis] * (inside[axis] - 1) + 1
            for place, sign in ((start, 1), (stop, -1)):
                if place < length:
                    before = events.get(place, (0, 0))
                    events[place] = before[0] + sign * x[0], before[1] + sign * x[1]
        running, result = (0, 0), None
        for place in sorted(events):
            change = events[place]
            running = running[0] + change[0], running[1] + change[1]
            result = running if result is None else self._domain.hull(result, running)
        return result


def selected(op: Op, operands: Sequence[Interval], shapes, kinds) -> Interval:
    """Entries of the result are entries of the operand."""
    return operands[0]


def padded(op: Op, operands: Sequence[Interval], shapes, kinds) -> Interval:
    return hull(operands[0], (0, 0))


def shifted(op: Op, operands: Sequence[Interval], shapes, kinds) -> Interval:
    return hull(*operands)


def summed(op: Op, operands: Sequence[Interval], shapes: Sequence[Shape], kinds) -> Interval:
    count = 1
    for axis in op.params[0]:
        count *= shapes[0][axis]
    return count * operands[0][0], count * operands[0][1]


def multiplied(op: Op, operands: Sequence[Interval], shapes, kinds) -> Interval:
    low, high = product(*operands)
    return (max(0, low) if op.inputs[0] == op.inputs[1] else low), high


def matched(op: Op, operands: Sequence[Interval], shapes, kinds) -> Value:
    """A onehot matrix, if what gives the index are bits."""
    return (0, 1) if all(x[0] >= 0 and x[1] <= 1 for x in operands) else None


def chosen_by_onehot(op: Op, shapes: Sequence[Shape], kinds: Sequence[str]) -> int | None:
    """Which operand a contraction takes entries of, if the other one is a onehot matrix and it sums
    over its rows alone: every result is then an entry, or zero.
    """
    if len(op.params[1]) != 1:
        return None
    for side in (0, 1):
        if kinds[side] == "onehot" and op.params[1][0][side] == len(shapes[side]) - 1:
            return 1 - side
    return None


def contracted(
    op: Op, operands: Sequence[Interval], shapes: Sequence[Shape], kinds: Sequence[str]
) -> Interval:
    """A sum of products; of a row of a onehot matrix at most one entry is 1."""
    count = 1
    for axis, _ in op.params[1]:
        count *= shapes[0][axis]
    for side in (0, 1):
        last = len(shapes[side]) - 1
        if kinds[side] == "onehot" and any(pair[side] == last for pair in op.params[1]):
            count //= shapes[side][last]
            break
    low, high = hull(product(*operands), (0, 0)) if "onehot" in kinds else product(*operands)
    return count * low, count * high
