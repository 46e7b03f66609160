"""Search for other solutions of a program's relations mod p, as a cheating prover would.

Every advice element is moved: by steps, powers of two, fractions mod p, and to every place where
the relations that it occurs in are satisfied again, which for two linear relations are all
solutions of c1 d in I1, c2 d in I2 (mod p). Other hints and the carries of scans follow honestly,
or are solved for in turn. A finding is an assignment that satisfies every relation and says what
JAX does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from soundness.exact import Array, Exact, P, carry_links, centered, pinned
from soundness.exact import field as modular
from zkjax.program.dtypes import DTYPE_RANGES, PUBLIC_RANGES
from zkjax.program.program import Lookup, Program

MAX_HITS = 6  # solutions taken of a pair of intervals
MAX_FULL = 20  # candidates of one element that are evaluated through the whole program


@dataclass(frozen=True)
class Finding:
    """What is wrong: ``outputs`` (JAX says otherwise), ``input`` (a sealed value outside its dtype
    is accepted) or ``refused`` (an honest run does not satisfy the relations).
    """

    kind: str
    detail: str
    pins: dict = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Effort:
    """How much is tried: advice variables, elements and steps of each, chains of repairs."""

    variables: int = 24

    elements: int = 3
    steps: int = 16
    repairs: int = 8


# One unknown mod p ------------------------------------------------------------------------------


def first_hit(a: int, m: int, low: int, high: int) -> int | None:
    """The least x >= 0 with low <= a x mod m <= high, for 0 <= low <= high < m; as Euclid does."""
    if low == 0:
        return 0
    a %= m
    if a == 0:
        return None
    x = -(-low // a)
    if a * x <= high:
        return x
    y = first_hit(m % a, a, -high % a, -low % a)
    return None if y is None else -(-(low + m * y) // a)


def hits(a: int, b: int, count: int, size: int) -> Iterator[int]:
    """All x in [0, count) with (a x + b) mod p in [0, size), ascending."""
    x = 0
    while x < count:
        low = -(a * x + b) % P
        high = low + size - 1
        step: int | None = 0
        if low > 0 and high < P:
            step = first_hit(a, P, low, high)
        if step is None or x + step >= count:
            return
        yield x + step
        x += step + 1


def square_root(a: int) -> int | None:
    """A square root mod p (Tonelli, Shanks), or None."""
    a %= P
    if a == 0:
        return 0
    if pow(a, (P - 1) // 2, P) != 1:
        return None
    odd, twos = 2**32 - 1, 32
    c, t, root = pow(7, odd, P), pow(a, odd, P), pow(a, (odd + 1) // 2, P)
    while t != 1:
        i, power = 0, t
        while power != 1:
            power, i = power * power % P, i + 1
        factor = pow(c, 1 << (twos - i - 1), P)
        twos, c = i, factor * factor % P
        t, root = t * c % P, root * factor % P
    return root


@dataclass(frozen=True)
class Constraint:
    """(square d^2 + slope d + start) mod p must lie in [0, size) after subtracting ``low``."""

    square: int
    slope: int
    start: int
    low: int
    size: int

    def solve(self, target: int) -> list[int]:
        """The d that take the value to ``low + target``."""
        rest = (self.start - self.low - target) % P
        if not self.square:
            return [-rest * pow(self.slope, -1, P) % P] if self.slope else []
        root = square_root(self.slope**2 - 4 * self.square * rest)
        if root is None:
            return []
        inverse = pow(2 * self.square, -1, P)
        return [(sign * root - self.slope) * inverse % P for sign in (1, -1)]


def common_solutions(rng, constraints: Sequence[Constraint]) -> list[int]:
    """Moves d that satisfy the narrowest linear constraints, and some of every constraint."""
    found: list[int] = []
    linear = sorted((c for c in constraints if not c.square and c.slope), key=lambda c: c.size)
    if len(linear) > 1:
        first, second = linear[:2]
        inverse = pow(first.slope, -1, P)
        # d = (low + x - start) / slope of the first, put into the second.
        base = (first.low - first.start) * inverse % P
        rate = second.slope * inverse % P
        offset = (second.slope * base + second.start - second.low) % P
        for x in hits(rate, offset, first.size, second.size):
            found.append((base + x * inverse) % P)
            if len(found) > MAX_HITS:
                break
    for c in constraints:
        targets = {0, c.size - 1, c.size // 2, *(int(rng.integers(c.size)) for _ in range(2))}
        found += [d for target in targets if target < c.size for d in c.solve(target)]
    return found


def _fractions() -> Iterator[int]:
    for k in range(64):
        yield 1 << k
        for j in (1, 3, 5):
            yield j * pow(2, -k, P) % P
    for d in (3, 5, 6, 7, 255, 257, 2**16 - 1, 2**32 - 1):
        yield pow(d, -1, P)


STEPS = [sign * d for d in _fractions() for sign in (1, -1)]


def steps(rng, count: int) -> list[int]:
    """+-1, and some powers of two and fractions mod p."""
    return [1, -1, *(STEPS[i] for i in rng.integers(len(STEPS), size=count))]


# The search -------------------------------------------------------------------------------------


class Search:
    """One call of a traced function.

    Args:
      program: the statement.
      inputs: integer arrays, one a port.
      expected: what JAX computes, one integer array a port.
      links: see ``Exact``.
    """

    def __init__(self, program: Program, inputs, expected, rng, links=None):
        self.program, self.rng = program, rng
        self.exact = Exact(program, carry_links(program) if links is None else links)
        self.base = self.exact.evaluate(inputs)
        self.expected = [modular(x) for x in expected]
        self.broken = self.exact.failing(self.base)
        self.loose: list[str] = []  # kinds of hints with other solutions that change no output
        self._loops = set(self.exact.links.values())
        self._plans: dict[int, tuple] = {}

    def honest(self, clean: bool) -> list[Finding]:
        """The honest run. ``clean``: it leaves no declared range, so it must be provable."""
        if self.broken:
            where = sorted({self._note(r) for r in self.broken})
            return [Finding("refused", "; ".join(where[:3]))] if clean else []
        if self._says_otherwise(self.base)[0]:
            return [Finding("outputs", f"honest hints: {self._told(self.base)}")]
        return []

    def moves(self, effort: Effort) -> list[Finding]:
        """Every advice variable and every sealed input, moved."""
        found: list[Finding] = []
        inputs = {p.var: p for p in self.program.inputs if p.sealed and not p.ranged}
        hints = self.rng.permutation(self.program.advice)[: effort.variables].tolist()
        for var in [*inputs, *hints]:
            size = int(np.prod(self.program.shape(var), dtype=np.int64))
            chosen = self.rng.permutation(size)[: effort.elements]
            for position in map(int, chosen):
                found += self._move(var, position, inputs.get(var), effort)
                if found:
                    return found
        for _ in range(effort.repairs if self.program.advice else 0):
            found += self._chain()
            if found:
                return found
        return found

    def _move(self, var: int, position: int, port, effort: Effort) -> list[Finding]:
        deltas = self._candidates(var, position, effort)
        start = int(self.base[var].reshape(-1)[position])
        values = {(start + d) % P for d in deltas} - {start}
        if port is not None:
            low, high = DTYPE_RANGES[port.dtype]
            values |= {(low - d) % P for d in (1, 2, 9)} | {high + d for d in (1, 2, 9)}
            values = {v for v in values if not low <= (v - P if v > P // 2 else v) <= high}
        if not values:
            return []
        candidates = np.array(sorted(values), dtype=object)
        candidates = self._prefilter(var, position, candidates)
        if len(candidates) > MAX_FULL:
            candidates = self.rng.permutation(candidates)[:MAX_FULL]
        if not len(candidates):
            return []
        pins = {var: {position: candidates}}
        return self._judge(pins, port is not None)

    def _judge(self, pins, input_moved: bool = False) -> list[Finding]:
        """Evaluate the whole program with some elements pinned."""
        changing = self.exact.dependents(pins)
        values = self.exact.recompute(self.base, pins, changing - set(pins) | self._in_loops(pins))
        good = np.ones(max(len(values[v]) for v in changing), dtype=bool)
        for relation in self.exact.relations:
            if relation in self.broken or not changing.isdisjoint(_variables(relation)):
                held = self.exact.holds(relation, values)
                good &= held.reshape(len(held), -1).all(axis=1)
        if not good.any():
            return []
        otherwise = good & self._says_otherwise(values)
        if not input_moved and not otherwise.any():
            self.loose += [self.program.ops[v].kind for v in pins]
            return []
        i = int(np.flatnonzero(good if input_moved else otherwise)[0])
        one = {v: {e: int(x[min(i, len(x) - 1)]) for e, x in at.items()} for v, at in pins.items()}
        where = ", ".join(f"{self._name(v)} = {_signed(at)}" for v, at in one.items())
        kind = "input" if input_moved else "outputs"
        return [Finding(kind, f"{where}: {self._told(values, i)}", one)]

    def _in_loops(self, pins) -> set[int]:
        """Pinned variables whose other elements change too, when carries are run forward."""
        return {v for v in pins if v in self._behind(v)}

    def _behind(self, var: int) -> set[int]:
        users = set(self.exact.users[var])
        follower = self.exact._followers.get(var)
        return self.exact.dependents(users | ({follower} if follower is not None else set()))

    # What an element must satisfy -------------------------------------------------------------

    def _plan(self, var: int):
        """(virtual variables that move with ``var``, relations of them alone, (relation, interval)
        pairs also of those that another hint takes part in).
        """
        if var not in self._plans:
            moving = self.exact.dependents({var}, through_hints=False)
            hints = {u for m in moving for u in self.exact.users[m] if self.exact.is_hint(u)} - {
                var
            }
            tainted = self.exact.dependents(hints, through_hints=False)
            own, solvable = [], []
            for relation in self.exact.relations:
                touched = [v for v in _variables(relation) if v in moving]
                if not touched or relation in self._loops:
                    continue
                key = _variables(relation)[0]
                if tainted.isdisjoint(_variables(relation)):
                    own.append(relation)
                    if key in moving:
                        solvable.append((relation, key, self._interval(relation)))
                elif key in moving and (widened := self._widened(relation, key, tainted)):
                    solvable.append((relation, key, widened))
            wanted = {v for r in own for v in _variables(r)} | {k for _, k, _ in solvable}
            needed = self._behind_of(wanted) & moving
            self._plans[var] = needed, own, solvable
        return self._plans[var]

    def _behind_of(self, wanted: set[int]) -> set[int]:
        found, stack = set(wanted), list(wanted)
        while stack:
            for operand in self.program.ops[stack.pop()].inputs:
                if operand not in found:
                    found.add(operand)
                    stack.append(operand)
        return found

    def _interval(self, relation) -> tuple[int, int]:
        if not isinstance(relation, Lookup):
            return 0, 0
        keys = self.program.tables[relation.table].columns[0]
        return int(np.min(keys)), int(np.max(keys))

    def _widened(self, relation, key: int, tainted: set[int]):
        """The interval of a sum in which hints take part that may be any of their own range."""
        op = self.program.ops[key]
        if op.kind != "affine":
            return None
        low, high = self._interval(relation)
        for operand, c in zip(op.inputs, op.params[0], strict=True):
            if operand not in tainted:
                continue
            own = [r for r in self.program.lookups if r.vars == (operand,)]
            if not own or not self.exact.is_hint(operand):
                return None
            least, most = self._interval(own[0])
            now = int(self.base[operand].max())
            low -= max(abs(c) * (most - least), abs(c) * now)
            high += max(abs(c) * (most - least), abs(c) * now)
        return (low, high) if high - low < P // 4 else None

    def _candidates(self, var: int, position: int, effort: Effort) -> list[int]:
        needed, _, solvable = self._plan(var)
        deltas = steps(self.rng, effort.steps)
        op = self.program.ops[var]
        if op.kind == "lookup":
            column = self.program.tables[op.params[0]].columns[op.params[1]]
            at = self.base[var].reshape(-1)[position]
            deltas += [int(v) - at for v in {*column[:3].tolist(), *column[-3:].tolist()}]
        if not solvable:
            return deltas
        at = self.base[var].reshape(-1)[position]
        probe = {var: {position: np.array([at, at + 1, at + 2, at + 3], dtype=object) % P}}
        values = self.exact.recompute(self.base, probe, needed - {var})
        constraints = []
        for _, key, (low, high) in solvable:
            if len(values[key]) < 4:
                continue
            g = values[key].reshape(4, -1)
            first, second = g[1] - g[0], g[2] - 2 * g[1] + g[0]
            third = (g[3] - 3 * g[2] + 3 * g[1] - g[0]) % P
            touched = np.flatnonzero((first % P != 0) | (second % P != 0))
            half = pow(2, -1, P)
            for e in self.rng.permutation(touched)[:4]:
                if third[e] == 0:
                    square = second[e] * half % P
                    slope = (first[e] - square) % P
                    constraints.append(Constraint(square, slope, g[0][e], low, high - low + 1))
        return deltas + common_solutions(self.rng, constraints)

    def _prefilter(self, var: int, position: int, candidates: Array) -> Array:
        """Those that satisfy the relations in which no other hint takes part."""
        needed, own, _ = self._plan(var)
        pins = {var: {position: candidates}}
        values = self.exact.recompute(self.base, pins, needed - {var})
        good = np.ones(len(candidates), dtype=bool)
        for relation in own:
            held = self.exact.holds(relation, values)
            good &= held.reshape(len(held), -1).all(axis=1)
        return candidates[good]

    # Several hints at once ----------------------------------------------------------------------

    def _chain(self, depth: int = 3) -> list[Finding]:
        """Move one element, then solve a relation that fails for another hint in it, and so on."""
        var = int(self.rng.choice(self.program.advice))
        position = int(self.rng.integers(self.base[var].size))
        start = int(self.base[var].reshape(-1)[position])
        deltas = self._candidates(var, position, Effort(steps=2))
        delta = deltas[self.rng.integers(len(deltas))]
        if delta % P == 0:
            return []
        pins = {var: {position: np.array([(start + delta) % P], dtype=object)}}
        for _ in range(depth):
            changing = self.exact.dependents(pins)
            moved = changing - set(pins) | self._in_loops(pins)
            values = self.exact.recompute(self.base, pins, moved)
            failing = self.exact.failing(values)
            if not failing:
                if found := self._judge(pins):
                    return found
                pins = {**pins, **self._another(pins)}
                continue
            relation = failing[self.rng.integers(len(failing))]
            repaired = self._repaired(relation, values, pins)
            if repaired is None:
                return []
            pins = {**pins, **repaired}
        return self._judge(pins)

    def _another(self, pins):
        """One more hint moved by a step, where those moved so far change no output."""
        var = int(self.rng.choice(self.program.advice))
        position = int(self.rng.integers(self.base[var].size))
        start = int(self.base[var].reshape(-1)[position])
        delta = steps(self.rng, 2)[self.rng.integers(4)]
        moved = np.array([(start + delta) % P], dtype=object)
        return {var: {**pins.get(var, {}), position: moved}}

    def _repaired(self, relation, values, pins):
        """Another hint of a failing relation, solved for a right-hand side that is admissible."""
        key = _variables(relation)[0]
        ops = self.program.ops
        seen, stack = {key}, [key]
        while stack:
            var = stack.pop()
            if not self.exact.is_hint(var):
                stack += set(ops[var].inputs) - seen
                seen |= set(ops[var].inputs)
        options = sorted(v for v in seen - set(pins) if self.exact.is_hint(v))
        if not options:
            return None
        hint = int(self.rng.choice(options))
        bad = np.flatnonzero(~self.exact.holds(relation, values)[0].reshape(-1))
        low, high = self._interval(relation)
        size = values[hint].shape[1:]
        solved: dict[int, Array] = {}
        moving = self.exact.dependents({hint}, through_hints=False) & self._behind_of({key})
        for e in map(int, bad[:4]):
            same = size == values[key].shape[1:]
            position = e if same else int(self.rng.integers(values[hint][:1].size))
            now = int(values[hint][:1].reshape(-1)[position])
            probe = {hint: {position: np.array([now, now + 1], dtype=object) % P}}
            g = self.exact.recompute(values, probe, moving - {hint})[key]
            if len(g) < 2:
                return None
            g = g.reshape(2, -1)[:, e]
            if (slope := (g[1] - g[0]) % P) == 0:
                return None
            target = int(self.rng.choice([low, high, self.rng.integers(low, high + 1)]))
            moved = (now + (target - g[0]) * pow(int(slope), -1, P)) % P
            solved[position] = np.array([moved], dtype=object)
        return {hint: solved} if solved else None

    # What is claimed ----------------------------------------------------------------------------

    def _says_otherwise(self, values) -> Array:
        """For each candidate whether it claims outputs of the right types that are not JAX's."""
        count = max(len(values[p.var]) for p in self.program.outputs)
        different, possible = np.zeros(count, dtype=bool), np.ones(count, dtype=bool)
        for port, expected in zip(self.program.outputs, self.expected, strict=True):
            value = values[port.var]
            flat = (value != expected[None]).astype(bool).reshape(len(value), -1)
            different |= flat.any(axis=1)
            if not port.sealed:
                low, high = PUBLIC_RANGES[port.dtype]
                signed = centered(value).reshape(len(value), -1)
                possible &= ((signed >= low) & (signed <= high)).astype(bool).all(axis=1)
        return different & possible

    def _told(self, values, i: int = 0) -> str:
        parts = []
        for port, expected in zip(self.program.outputs, self.expected, strict=True):
            value = values[port.var][min(i, len(values[port.var]) - 1)]
            if not np.array_equal(value, expected):
                parts.append(
                    f"{centered(value).tolist()} where JAX says {centered(expected).tolist()}"
                )
        return "; ".join(parts) or "the outputs are JAX's"

    def _name(self, var: int) -> str:
        return f"{self.program.ops[var].kind} {var}"

    def _note(self, relation) -> str:
        var = _variables(relation)[0]
        return self.program.notes.get(var, f"variable {var}")


def _signed(at: dict[int, int]) -> dict[int, int]:
    return {e: v - P if v > P // 2 else v for e, v in at.items()}


def _variables(relation: Lookup | int) -> tuple[int, ...]:
    return relation.vars if isinstance(relation, Lookup) else (relation,)


__all__ = ["Effort", "Finding", "Search", "common_solutions", "first_hit", "hits", "pinned"]
