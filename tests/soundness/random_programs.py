"""Random provable functions as source text, with inputs at the ends of their types.

A function is a tree of blocks (its body, bodies of scans and of vmaps) of statements; ``source``
prints it, ``smaller`` gives the functions with one statement less. A generator keeps rough bounds
and fraction bits of its values, so that most functions are accepted; now and then it ignores them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import zkjax

INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32"]
ARGUMENTS = [*INTEGERS, "int8", "int8", "bool"]
SHAPES = [(3,), (2,), (1,), (4,), (2, 3), (2, 2), (3, 1), (1, 2), (), (2, 1, 2)]
MAX_SIZE = 16
REAL_BITS = 50

HEADER = """\
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zkjax import fixed
from zkjax.program.tables import Table


def real(x):
    return x.astype(jnp.float64)


def table(low, *columns):
    keys = low if isinstance(low, np.ndarray) else np.arange(low, low + len(columns[0]))
    return Table("t", (keys, *columns))


"""


@dataclass(frozen=True)
class Val:
    """A name with its type ('real', 'bool' or an integer type), shape, |k| and fraction bits of
    k 2^-fraction as the generator thinks them to be.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    bound: int
    fraction: int = 0

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def like(self, other: Val) -> bool:
        return (self.type, self.shape) == (other.type, other.shape)


@dataclass
class Statement:
    """``names = text`` with {0}, {1}, ... the operands, after the definition of ``block``."""

    made: list[Val]
    text: str
    operands: list[Val]
    target: str = ""
    block: Block | None = None


@dataclass
class Block:
    """A function: parameters, statements, and the values it returns by a template."""

    name: str
    parameters: list[Val]
    signature: str
    opening: str = ""
    statements: list[Statement] = field(default_factory=list)
    returns: str = ""
    returned: list[Val] = field(default_factory=list)

    def lines(self) -> list[str]:
        out = [f"def {self.name}({self.signature}):"]
        out += [f"    {self.opening}"] if self.opening else []
        for s in self.statements:
            if s.block is not None:
                out += ["    " + line for line in s.block.lines()]
            out.append(f"    {s.target or s.made[0].name} = {_filled(s.text, s.operands)}")
        out.append(f"    return {_filled(self.returns, self.returned)}")
        return out

    def uses(self) -> set[str]:
        """Names that the block reads."""
        names = {v.name for v in self.returned}
        for s in self.statements:
            names |= {v.name for v in s.operands} | (s.block.uses() if s.block else set())
        return names

    def pruned(self) -> Block:
        """Without statements that nothing reads."""
        kept: list[Statement] = []
        needed = {v.name for v in self.returned}
        for s in reversed(self.statements):
            if needed & {v.name for v in s.made}:
                block = s.block.pruned() if s.block else None
                kept.append(replace(s, block=block))
                needed |= {v.name for v in s.operands} | (block.uses() if block else set())
        return replace(self, statements=kept[::-1])

    def renamed(self, old: str, new: Val) -> Block:
        def swap(values):
            return [new if v.name == old else v for v in values]

        statements = [
            replace(
                s, operands=swap(s.operands), block=s.block.renamed(old, new) if s.block else None
            )
            for s in self.statements
        ]
        return replace(self, statements=statements, returned=swap(self.returned))

    def smaller(self, around: tuple[Val, ...] = ()) -> Iterator[Block]:
        """Blocks in which a value is replaced by an earlier one of its type, or simplified."""
        known = [*around, *self.parameters]
        for i, s in enumerate(self.statements):
            for made in s.made:
                for other in [*s.operands, *known]:
                    if other.like(made) and other.name != made.name:
                        yield self.renamed(made.name, other).pruned()
            if s.block is not None:
                for block in s.block.smaller((*around, *known)):
                    statements = list(self.statements)
                    statements[i] = replace(s, block=block)
                    yield replace(self, statements=statements).pruned()
            known += s.made


def _filled(text: str, operands: list[Val]) -> str:
    return text.format(*(v.name for v in operands))


@dataclass
class Function:
    """A random function: its tree, argument types, and which arguments and outputs are sealed."""

    block: Block
    sealed: list[str]  # "public", "sealed" or "ranged", one an argument
    sealed_outputs: list[bool]

    @property
    def source(self) -> str:
        return HEADER + "\n".join(self.block.lines()) + "\n"

    def callable(self) -> Callable:
        scope: dict[str, Any] = {}
        exec(compile(self.source, "<random program>", "exec"), scope)
        return scope["program"]

    def arguments(self, inputs) -> list[Any]:
        """What ``trace_call`` takes for inputs: arrays if public."""
        return [
            x if how == "public" else zkjax.Private(x, ranged=how == "ranged")
            for x, how in zip(inputs, self.sealed, strict=True)
        ]

    def inputs(self, rng) -> list[list[np.ndarray]]:
        """Values to try: all at one end of their type, near it, zeros, ones, and mixtures."""
        kinds = ["low", "high", "zero", "one", "ends", "ends", "small", "any"]
        return [[_values(rng, v, kind) for v in self.block.parameters] for kind in kinds]

    def smaller(self) -> Iterator[Function]:
        for block in self.block.smaller():
            yield replace(self, block=block)
        if len(self.sealed_outputs) > 1:
            for i in range(len(self.sealed_outputs)):
                block = replace(
                    self.block,
                    returns=_tuple(len(self.block.returned) - 1),
                    returned=[v for j, v in enumerate(self.block.returned) if j != i],
                )
                flags = [f for j, f in enumerate(self.sealed_outputs) if j != i]
                yield replace(self, block=block.pruned(), sealed_outputs=flags)
        for i, how in enumerate(self.sealed):
            if how != "public":
                yield replace(self, sealed=[*self.sealed[:i], "public", *self.sealed[i + 1 :]])
        for i, flag in enumerate(self.sealed_outputs):
            if flag:
                flags = list(self.sealed_outputs)
                flags[i] = False
                yield replace(self, sealed_outputs=flags)


def _limits(type_: str) -> tuple[int, int]:
    if type_ == "bool":
        return 0, 1
    return int(np.iinfo(type_).min), int(np.iinfo(type_).max)


def _values(rng, v: Val, kind: str) -> np.ndarray:
    low, high = _limits(v.type)
    near = [low, low + 1, high, high - 1, 0, 1, max(-1, low), high // 2, low // 2]
    match kind:
        case "low":
            drawn = np.full(v.shape, low)
        case "high":
            drawn = np.full(v.shape, high)
        case "zero":
            drawn = np.zeros(v.shape)
        case "one":
            drawn = np.ones(v.shape)
        case "ends":
            drawn = rng.choice(np.clip(near, low, high), v.shape)
        case "small":
            drawn = np.clip(rng.integers(-4, 5, v.shape), low, high)
        case _:
            drawn = rng.integers(low, high + 1, v.shape)
    return np.asarray(drawn).astype(v.type)


def _tuple(n: int) -> str:
    return "(" + ", ".join(f"{{{i}}}" for i in range(n)) + ",)"


# Making one -------------------------------------------------------------------------------------


class Maker:
    """Makes the statements of a block, and of the blocks inside it."""

    def __init__(self, rng):
        self.rng, self.count, self.depth = rng, 0, 0
        self.values: list[Val] = []
        self.block: Block = Block("", [], "")

    # Choices ------------------------------------------------------------------------------------

    def name(self, letter: str = "v") -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def chance(self, n: int) -> bool:
        return self.rng.integers(n) == 0

    def one(self, options):
        return options[int(self.rng.integers(len(options)))]

    def unread(self) -> list[Val]:
        """Values that no statement reads."""
        read = {v.name for s in self.block.statements for v in s.operands}
        read |= {n for s in self.block.statements if s.block for n in s.block.uses()}
        return [v for v in self.values if v.name not in read]

    def pick(self, wanted: Callable[[Val], bool] = lambda v: True) -> Val:
        """One of the values, the latest first. LookupError if there is none."""
        options = [v for v in self.values if wanted(v)]
        if not options:
            raise LookupError
        return options[-min(int(self.rng.geometric(0.35)), len(options))]

    def real(self, most: int = REAL_BITS, wanted: Callable[[Val], bool] = lambda v: True) -> Val:
        """A real value, converted from an integer if that is what there is."""
        v = self.pick(lambda v: wanted(v) and (v.bound < 1 << most or self.chance(40)))
        if v.type == "real":
            return v
        if v.type != "bool" and self.chance(3):
            f = self.one([1, 2, 4, 8])
            return self.add(f"fixed.decode({{0}}, {f})", [v], "real", v.shape, v.bound, f)
        return self.add("real({0})", [v], "real", v.shape, v.bound, 0)

    def partner(self, a: Val, most: int = REAL_BITS) -> Val:
        """A value of the type of ``a`` that can be combined with it elementwise."""

        def fits(v: Val) -> bool:
            if v.type != a.type or len(v.shape) > len(a.shape):
                return False
            tail = a.shape[len(a.shape) - len(v.shape) :]
            same = all(n in (1, m) for n, m in zip(v.shape, tail, strict=True))
            return same and v.bound < 1 << most

        return self.pick(fits)

    def add(self, text, operands, type_, shape, bound, fraction=0, block=None) -> Val:
        """One statement with one result; LookupError if it would be too large."""
        limit = 1 << REAL_BITS if type_ == "real" else _limits(type_)[1] + (type_[0] == "i")
        v = Val(self.name(), type_, tuple(shape), int(bound), fraction)
        if v.size > MAX_SIZE or v.size == 0 or (bound > limit and not self.chance(25)):
            raise LookupError
        self.block.statements.append(Statement([v], text, list(operands), "", block))
        self.values.append(v)
        return v

    # Statements ---------------------------------------------------------------------------------

    def step(self) -> None:
        """One statement of a random kind."""
        for _ in range(30):
            before = len(self.block.statements), len(self.values)
            try:
                make = self.one(MAKERS)
                make(self)
                return
            except LookupError:
                del self.block.statements[before[0] :], self.values[before[1] :]

    def steps(self, n: int) -> None:
        for _ in range(n):
            self.step()

    def inside(self, parameters: list[Val], signature: str, n: int) -> tuple[Block, list[Val]]:
        """A block of n statements, and the values that it may return."""
        block = Block(self.name("f"), parameters, signature)
        outer, kept = self.block, list(self.values)
        self.block, self.values = block, [*self.values, *parameters]
        self.depth += 1
        try:
            self.steps(n)
            made = self.values[len(kept) :]
        finally:
            self.block, self.values = outer, kept
            self.depth -= 1
        return block, made

    def within(self, block: Block, values: list[Val], make: Callable[[], Val]) -> Val:
        """A statement at the end of a block that is closed already."""
        outer, kept = self.block, self.values
        self.block, self.values = block, [*kept, *values]
        try:
            return make()
        finally:
            self.block, self.values = outer, kept


MAKERS: list[Callable[[Maker], Any]] = []


def maker(weight: int):
    def register(fn):
        MAKERS.extend([fn] * weight)
        return fn

    return register


def _aligned(a: Val, b: Val) -> tuple[int, int, int]:
    f = max(a.fraction, b.fraction)
    return a.bound << (f - a.fraction), b.bound << (f - b.fraction), f


def _dyadic(g: Maker, a: Val) -> tuple[float, int, int]:
    """A dyadic constant c with the bound and fraction of c a."""
    c = g.one([0.5, 0.25, 2.0, 3.0, -1.0, -2.0, 0.0, 1.5, 0.125, -0.75, 1.0, 2.0**-8, 1000.0])
    k, f = c, 0
    while k != int(k):
        k, f = 2 * k, f + 1
    return c, a.bound * abs(int(k)), a.fraction + f


@maker(4)
def _scaled(g: Maker):
    a = g.real()
    c, bound, f = _dyadic(g, a)
    g.add(f"{c} * {{0}}", [a], "real", a.shape, bound, f)


@maker(3)
def _offset(g: Maker):
    a = g.real()
    c = g.one([1.0, 0.5, -3.0, 128.0, -128.0, 32767.0, 0.25])
    f = max(a.fraction, 2)
    bound = (a.bound << (f - a.fraction)) + int(abs(c) * 4) * (1 << (f - 2))
    g.add(f"{{0}} + {c}", [a], "real", a.shape, bound, f)


@maker(6)
def _sum_of_two(g: Maker):
    a = g.real()
    b = g.partner(a)
    x, y, f = _aligned(a, b)
    g.add(f"{{0}} {g.one('+-')} {{1}}", [a, b], "real", a.shape, x + y, f)


@maker(4)
def _product(g: Maker):
    a = g.real(30)
    b = g.one([g.partner(a, 30), a])
    g.add("{0} * {1}", [a, b], "real", a.shape, a.bound * b.bound, a.fraction + b.fraction)


@maker(4)
def _cancelling(g: Maker):
    """Values that appear and go, so that only their relations are left."""
    a = g.real(40)
    b = g.partner(a, 40)
    x, y, f = _aligned(a, b)
    texts = [
        ("{1} - {1} + {0}", 2 * y + x),
        ("({0} + {1}) - {0}", 2 * x + y),
        ("0.0 * {1} + {0}", x),
        ("2.0 * ({0} + {1}) - {0} - {1} * 2.0", 3 * x + 4 * y),
        ("({0} - {1}) + ({1} - {0})", 2 * x + 2 * y),
    ]
    text, bound = g.one(texts)
    g.add(text, [a, b], "real", a.shape, bound, f)


@maker(4)
def _kept_remainder(g: Maker):
    """A hint times its divisor, cancelled and added again."""
    a = g.real(30, lambda v: v.fraction == 0)
    s = g.one([2.0, 4.0, 8.0, 256.0])
    bits = g.one([4, 5, 8, 16, max(1, a.bound.bit_length())])
    m = g.one([1.0, 2.0, 3.0])
    text = g.one(
        [
            f"{{0}} - {s} * fixed.round({{0}} / {s}, 0, {bits})",
            f"{m} * ({{0}} - {s} * fixed.round({{0}} / {s}, 0, {bits})) + "
            f"{m * s} * fixed.round({{0}} / {s}, 0, {bits})",
            f"({{0}} - {s} * fixed.round({{0}} / {s}, 0, {bits}) + {s} * real({{0}} > 0.0) + "
            f"{s} * real({{0}} <= 0.0)) + {s} * fixed.round({{0}} / {s}, 0, {bits})",
        ]
    )
    g.add(text, [a], "real", a.shape, 8 * a.bound + 4 * int(s), 0)


@maker(5)
def _larger(g: Maker):
    a = g.pick(lambda v: v.type != "bool")
    b = g.partner(a)
    x, y, f = _aligned(a, b)
    g.add(
        f"jnp.{g.one(['maximum', 'minimum'])}({{0}}, {{1}})", [a, b], a.type, a.shape, max(x, y), f
    )


@maker(3)
def _absolute(g: Maker):
    a = g.pick(lambda v: v.type != "bool" and (v.bound < _top(v) or g.chance(30)))
    g.add("jnp.abs({0})", [a], a.type, a.shape, a.bound, a.fraction)


def _top(v: Val) -> int:
    return 1 << REAL_BITS if v.type == "real" else _limits(v.type)[1] + (v.type[0] == "u")


@maker(4)
def _clipped(g: Maker):
    a = g.pick(lambda v: v.type != "bool")
    top = max(1, min(_top(a) - 1, 2**20))
    high = int(g.rng.choice([1, 7, 100, 127, 1000, top]))
    high = min(high, top)
    low = int(g.rng.choice([0, -1, -high, -high - 1])) if a.type in ("real", "int32") else 0
    kind = ".0" if a.type == "real" else ""
    bound = max(-low, high) << a.fraction
    text = f"jnp.clip({{0}}, {low}{kind}, {high}{kind})"
    g.add(text, [a], a.type, a.shape, min(bound, max(a.bound, bound)), a.fraction)


@maker(3)
def _signs(g: Maker):
    a = g.pick(lambda v: v.type[0] in "ri")
    g.add("jnp.sign({0})", [a], a.type, a.shape, 1)


@maker(6)
def _compared(g: Maker):
    a = g.pick(lambda v: v.type != "bool")
    sign = g.one([">", ">=", "<", "<=", "==", "!="])
    if g.chance(2):
        b = g.partner(a)
        g.add(f"{{0}} {sign} {{1}}", [a, b], "bool", a.shape, 1)
    else:
        g.add(f"{{0}} {sign} {g.one([0, 1, 3, 100])}", [a], "bool", a.shape, 1)


@maker(3)
def _logic(g: Maker):
    a = g.pick(lambda v: v.type == "bool")
    b = g.partner(a)
    text = g.one(["{0} & {1}", "{0} | {1}", "{0} ^ {1}", "~{0}"])
    g.add(text, [a, b], "bool", a.shape, 1)


@maker(7)
def _chosen(g: Maker):
    a = g.pick()
    b = g.partner(a)
    bit = g.partner(replace(a, type="bool"))
    x, y, f = _aligned(a, b)
    text = "jnp.where({0}, {1}, {2})"
    g.add(text, [bit, *g.one([(a, b), (b, a)])], a.type, a.shape, max(x, y), f)


@maker(2)
def _chosen_constant(g: Maker):
    a = g.pick(lambda v: v.type != "bool")
    bit = g.partner(replace(a, type="bool"))
    low, high = (-1000, 1000) if a.type == "real" else _limits(a.type)
    c = g.one([0, 1, min(60, high), high, low])
    text = f"jnp.where({{0}}, {{1}}, {_literal(c, a.type)})"
    bound = max(a.bound, abs(c) << a.fraction)
    g.add(text, [bit, a], a.type, a.shape, bound, a.fraction)


def _literal(c: int, type_: str) -> str:
    return f"{c}.0" if type_ == "real" else f"jnp.{type_}({c})"


@maker(2)
def _flipped(g: Maker):
    """The same choice many times over: bounds may grow where values do not."""
    a = g.pick(lambda v: v.type[0] in "ri" and (v.bound < _top(v) or g.chance(10)))
    bit = g.partner(replace(a, type="bool"))
    n = g.one([2, 5, 20, 34])
    inner = g.one(["-c", f"{_literal(0, a.type)} - c", "jnp.abs(c)", "c"])
    text = f"reduce(lambda c, _: jnp.where({{1}}, c, {inner}), range({n}), {{0}})"
    g.add(text, [a, bit], a.type, a.shape, a.bound, a.fraction)


@maker(3)
def _reduced_bool(g: Maker):
    a = g.pick(lambda v: v.type == "bool" and v.shape)
    axis = int(g.rng.integers(len(a.shape)))
    shape = a.shape[:axis] + a.shape[axis + 1 :]
    g.add(f"jnp.{g.one(['any', 'all'])}({{0}}, {axis})", [a], "bool", shape, 1)


# Integers ---------------------------------------------------------------------------------------


@maker(5)
def _integer_arithmetic(g: Maker):
    a = g.pick(lambda v: v.type in INTEGERS)
    b = g.partner(a)
    text, bound = g.one(
        [
            ("{0} + {1}", a.bound + b.bound),
            ("{0} - {1}", a.bound + b.bound + (1 << 40) * (a.type[0] == "u")),
            ("{0} * {1}", a.bound * b.bound),
            ("-{0}", a.bound + (1 << 40) * (a.type[0] == "u" or a.bound > _limits(a.type)[1])),
            ("2 * {0}", 2 * a.bound),
        ]
    )
    g.add(text, [a, b], a.type, a.shape, bound)


@maker(5)
def _converted(g: Maker):
    a = g.pick(lambda v: v.type in INTEGERS or (v.type == "real" and v.fraction == 0))
    type_ = g.one([*INTEGERS, "int32", "int32"])
    low, high = _limits(type_)
    if a.bound > high and not g.chance(4):
        raise LookupError
    g.add(f"{{0}}.astype(jnp.{type_})", [a], type_, a.shape, min(a.bound, max(-low, high)))


@maker(2)
def _bits(g: Maker):
    a = g.pick(lambda v: v.type == "bool")
    type_ = g.one([*INTEGERS, "float64"])
    made = "real" if type_ == "float64" else type_
    g.add(f"{{0}}.astype(jnp.{type_})", [a], made, a.shape, 1)


@maker(4)
def _encoded(g: Maker):
    a = g.real()
    f = g.one([0, a.fraction, max(0, a.fraction - g.one([1, 3, 8]))])
    type_ = g.one([*INTEGERS, "int32", "int32", "int32"])
    bound = (a.bound >> max(0, a.fraction - f)) << max(0, f - a.fraction)
    if bound > _limits(type_)[1] and not g.chance(4):
        raise LookupError
    text = f"fixed.encode({{0}}, {f}, jnp.{type_})"
    g.add(text, [a], type_, a.shape, min(bound + 1, _limits(type_)[1]))


# zkjax.fixed ------------------------------------------------------------------------------------


def _bits_for(g: Maker, bound: int) -> int:
    need = bound.bit_length() + 1
    return int(
        g.one([need, need, need + 1, need + 3, max(16, need), max(32, need), max(1, need - 2)])
    )


@maker(8)
def _rounded(g: Maker):
    a = g.real()
    f = max(0, a.fraction + int(g.one([-1, -2, -4, -8, -16, 0, 1])))
    drop = a.fraction - f
    bound = (a.bound >> drop) + 1 if drop > 0 else a.bound << -drop
    bits = min(_bits_for(g, bound), 62 - max(drop, 0))
    text = f"fixed.round({{0}}, {f}, {bits})"
    g.add(text, [a], "real", a.shape, min(bound, 1 << (bits - 1)), f)


@maker(3)
def _halved(g: Maker):
    a = g.real(40)
    s = g.one([1, 2, 3, 8])
    bound = (a.bound >> (s + a.fraction)) + 1
    bits = min(_bits_for(g, bound), 60 - s - a.fraction)
    if bits < 1:
        raise LookupError
    text = f"fixed.round({{0}} * {2.0**-s}, 0, {bits})"
    g.add(text, [a], "real", a.shape, min(bound, 1 << (bits - 1)), 0)


@maker(4)
def _divided(g: Maker):
    a = g.real(30)
    b = g.partner(a, 20)
    texts = [
        ("jnp.abs({1}) + 1.0", b.bound + (1 << b.fraction), b.fraction),
        ("real({1} > 0.0) + 1.0", 2, 0),
        ("real({1} > -999.0)", 1, 0),
        ("jnp.maximum({1}, 0.5)", (2 * b.bound) + (1 << b.fraction), b.fraction + 1),
        ("jnp.maximum({1}, 1.0)", b.bound + (1 << b.fraction), b.fraction),
        ("3.0 + 0.0 * {1}", 3 << b.fraction, b.fraction),
    ]
    text, most, df = g.one(texts)
    f = max(0, a.fraction - df) + g.one([0, 1, 4])
    bound = (a.bound << max(0, f + df - a.fraction)) + 1
    bits = min(_bits_for(g, bound), 61 - most.bit_length())
    full = f"fixed.divide({{0}}, {text}, {f}, {bits})"
    g.add(full, [a, b], "real", a.shape, min(bound, 1 << (bits - 1)), f)


@maker(2)
def _inverse_root(g: Maker):
    a = g.real(24)
    text, bound = g.one(
        [
            ("jnp.abs({0}) + 1.0", a.bound + (1 << a.fraction)),
            ("jnp.maximum({0}, 0.5)", 2 * a.bound + (1 << a.fraction)),
            ("{0} * {0} + 1.0", a.bound**2 + (1 << 2 * a.fraction)),
        ]
    )
    f = g.one([0, 2, 6, 10])
    if 2 * f + 2 * a.fraction > 50 or bound > 1 << 30:
        raise LookupError
    bits = min(f + g.one([0, 1, 1, 4]), (60 - bound.bit_length()) // 2)
    if bits < 1:
        raise LookupError
    g.add(f"fixed.rsqrt({text}, {f}, {bits})", [a], "real", a.shape, 1 << bits, f)


@maker(3)
def _maximum(g: Maker):
    a = g.real(40, lambda v: len(v.shape) > 0)
    bits = min(_bits_for(g, 2 * a.bound), 50)
    g.add(f"fixed.max({{0}}, {bits})", [a], "real", a.shape[:-1], a.bound, a.fraction)


@maker(3)
def _placed(g: Maker):
    """Where the largest or least is, and the best two."""
    a = g.pick(lambda v: len(v.shape) > 0 and v.type != "bool" and v.bound < 1 << 40)
    axis = g.one(range(len(a.shape)))
    rest = tuple(n for i, n in enumerate(a.shape) if i != axis)
    name = g.one(["argmax", "argmin", "argsort", "cummax"])
    if name == "argsort":
        return g.add(f"jnp.argsort({{0}}, {axis})", [a], "int64", a.shape, a.shape[axis])
    if name == "cummax":
        text = f"lax.cummax({{0}}, {axis}, reverse={bool(g.chance(2))})"
        return g.add(text, [a], a.type, a.shape, a.bound, a.fraction)
    if g.chance(3) and a.shape[-1] > 1:
        text, shape = "lax.top_k({0}, 2)[0]", (*a.shape[:-1], 2)
        return g.add(text, [a], a.type, shape, a.bound, a.fraction)
    text = f"jnp.{name}({{0}}, {axis}).astype(jnp.int32)"
    return g.add(text, [a], "int32", rest, a.shape[axis])


@maker(3)
def _whole(g: Maker):
    """Quotients, remainders and whole parts."""
    a = g.pick(lambda v: v.type not in ("bool", "uint32") and v.bound < 1 << 40)
    c = g.one([2, 3, 4, 7, 100, -3])
    if a.type == "real":
        text, f = g.one([("jnp.floor({0})", 0), ("jnp.ceil({0})", 0), ("{0} % 0.75", a.fraction)])
        f = max(f, 2) if "%" in text else f
        return g.add(text, [a], "real", a.shape, (a.bound >> a.fraction << f) + 8, f)
    if a.type[0] == "u":
        c = abs(c)
    text = g.one(["{0} //", "{0} %"]) + f" {c}"
    return g.add(text, [a], a.type, a.shape, a.bound)


@maker(3)
def _onehot(g: Maker):
    a = g.pick(lambda v: v.type != "bool" and v.fraction == 0 and v.size < 8)
    n = g.one([1, 2, 3, 4, 5])
    top = f"{n - 1}.0" if a.type == "real" else n - 1
    text = f"jnp.clip({{0}}, 0, {top})" if not g.chance(5) else "{0}"
    if g.chance(2):
        g.add(f"fixed.onehot({text}, {n})", [a], "real", (*a.shape, n), 1)
    else:
        rows = [[int(v) for v in g.rng.integers(-9, 10, 2)] for _ in range(n)]
        rows = f"np.array({rows}, float)"
        g.add(f"fixed.embed({rows}, {text})", [a], "real", (*a.shape, 2), 9)


# Consecutive in their type, which may be narrow.
KEYS = [
    ([254, 255, 0, 1], "uint8"),
    ([255, 0, 1], "uint8"),
    ([127, -128], "int8"),
    ([126, 127, -128], "int8"),
    ([0, 1, 0], "bool"),
    ([-128, -127, -126], "int8"),
    ([1, 2, 3], "uint64"),
    ([0, 1], "float64"),
]


@maker(1)
def _looked_up_oddly(g: Maker):
    """Keys of a narrow type, or of none of the usual ones."""
    a = g.real(40, lambda v: v.fraction == 0)
    keys, type_ = g.one(KEYS)
    at = g.one(["{0}", f"jnp.clip({{0}}, {min(keys)}.0, {max(keys)}.0)"])
    rows = f"np.array({keys}, np.{type_}), np.array({[10 + i for i in range(len(keys))]})"
    g.add(f"fixed.lookup({at}, table({rows}), 0, (0,))[0]", [a], "real", a.shape, 14)


COLUMN_TYPES = [*INTEGERS, "int64", "uint64", "int8", "int8"]


@maker(5)
def _looked_up(g: Maker):
    """A small table of one or two odd columns."""
    a = g.real(40, lambda v: v.fraction == 0)
    n, low = int(g.one([1, 2, 3, 5])), int(g.one([0, 0, -1, -2, 1]))
    columns, bounds = [], []
    for _ in range(g.one([1, 1, 2])):
        type_ = g.one(COLUMN_TYPES)
        least, most = _limits(type_)
        least, most = max(least, -(2**46)), min(most, 2**46)
        options = [least, most, 0, 1, 5, -3, min(100, most), int(g.rng.integers(least, most + 1))]
        options = [v for v in options if least <= v <= most]
        column = [g.one(options) for _ in range(n)]
        columns.append(f"np.array({column}, np.{type_})")
        bounds.append(max(map(abs, column)))
    f = g.one([0, 0, 3])
    text = (
        f"fixed.lookup(jnp.clip({{0}}, {low}.0, {low + n - 1}.0), "
        f"table({low}, {', '.join(columns)}), 0, {(f,) * len(columns)})"
    )
    made = [Val(g.name(), "real", a.shape, b, f) for b in bounds]
    if max(bounds) >= 1 << REAL_BITS:
        raise LookupError
    target = ", ".join(v.name for v in made) + ("," if len(made) == 1 else "")
    g.block.statements.append(Statement(made, text, [a], target))
    g.values += made


@maker(2)
def _function(g: Maker):
    """Tables of functions, on arguments that they hold."""
    a = g.real(30, lambda v: 0 < v.size <= 6 and v.fraction <= 8)
    text, bound, f = g.one(
        [
            ("fixed.exp(jnp.clip({0}, -15.0, 0.0), 12)", 1 << 13, 13),
            ("fixed.silu(jnp.clip({0}, -100.0, 100.0), 8, 8)", 101 << 8, 8),
            ("fixed.sigmoid(jnp.clip({0}, -100.0, 100.0), 8, 10)", 1 << 10, 10),
            ("fixed.log(jnp.clip({0}, 1.0, 100.0), 8, 16)", 6 << 16, 16),
        ]
    )
    g.add(text, [a], "real", a.shape, bound, f)


@maker(1)
def _softmax(g: Maker):
    a = g.real(30, lambda v: len(v.shape) > 0 and v.size <= 6 and v.fraction <= 8)
    g.add("fixed.softmax(jnp.clip({0}, -7.0, 7.0), None, 12, 8)", [a], "real", a.shape, 1 << 8, 8)


@maker(2)
def _derivative(g: Maker):
    a = g.real(16, lambda v: v.fraction <= 4)
    text = g.one(
        [
            "jax.grad(lambda v: jnp.sum(fixed.round(v * v, 2, 36)))({0})",
            "jax.grad(lambda v: jnp.sum(jnp.where(v > 0.0, 3.0 * v, v)))({0})",
            "jax.grad(lambda v: jnp.sum(fixed.divide(v, v * v + 1.0, 8, 30)))({0})",
            "jax.grad(lambda v: jnp.sum(fixed.round(0.5 * jnp.abs(v), 0, 30)))({0})",
        ]
    )
    g.add(f"fixed.round({text}, 2, 40)", [a], "real", a.shape, 1 << 30, 2)


# Moving elements --------------------------------------------------------------------------------


def _moved(g: Maker, text: str, a: Val, shape, bound=None):
    g.add(text, [a], a.type, shape, a.bound if bound is None else bound, a.fraction)


@maker(8)
def _rearranged(g: Maker):
    a = g.pick(lambda v: len(v.shape) > 0)
    n, rank = a.shape[0], len(a.shape)
    options: list[tuple[str, tuple[int, ...]]] = [
        ("{0}.T", a.shape[::-1]),
        ("{0}[::-1]", a.shape),
        ("{0}[..., ::-1]", a.shape),
        ("{0}.reshape(-1)", (a.size,)),
        ("{0}[None]", (1, *a.shape)),
        ("{0}[..., None]", (*a.shape, 1)),
        ("{0}[-1]", a.shape[1:]),
        ("{0}[::2]", (-(-n // 2), *a.shape[1:])),
        ("{0}[np.array([-1, 0, 0])]", (3, *a.shape[1:])),
        ("jnp.roll({0}, 1, 0)", a.shape),
        ("jnp.tile({0}, 2)", (*a.shape[:-1], 2 * a.shape[-1])),
        ("jnp.repeat({0}[:1], 3, 0)", (3, *a.shape[1:])),
        ("jnp.stop_gradient({0})".replace("jnp", "lax"), a.shape),
        (f"jnp.broadcast_to({{0}}, (2, *{a.shape}))", (2, *a.shape)),
        (f"lax.slice_in_dim({{0}}, {n - 1}, {n}, axis=0)", (1, *a.shape[1:])),
    ]
    if n > 1:
        options += [("{0}[1:]", (n - 1, *a.shape[1:])), ("{0}[:-1]", (n - 1, *a.shape[1:]))]
    if rank < 3:
        shape = tuple(m + 1 for m in a.shape)
        options.append((f"jnp.pad({{0}}, [(1, 0)] * {rank})", shape))
    if a.type != "bool":
        zero = "0.0" if a.type == "real" else f"np.{a.type}(0)"
        config = [(0, 1, 1)] + [(0, 0, 0)] * (rank - 1)
        options.append((f"lax.pad({{0}}, {zero}, {config})", (2 * n, *a.shape[1:])))
    text, shape = g.one(options)
    if len(shape) > 3:
        raise LookupError
    _moved(g, text, a, shape)


@maker(4)
def _joined(g: Maker):
    a = g.pick(lambda v: len(v.shape) > 0)
    b = g.pick(lambda v: v.type == a.type and v.shape[1:] == a.shape[1:] and len(v.shape) > 0)
    x, y, f = _aligned(a, b)
    if b.shape == a.shape and len(a.shape) < 3 and g.chance(2):
        shape, text = (*a.shape, 2), "jnp.stack([{0}, {1}], -1)"
    else:
        shape, text = (a.shape[0] + b.shape[0], *a.shape[1:]), "jnp.concatenate([{0}, {1}])"
    g.add(text, [a, b], a.type, shape, max(x, y), f)


@maker(4)
def _summed(g: Maker):
    a = g.real(48, lambda v: len(v.shape) > 0)
    axis = int(g.rng.integers(len(a.shape)))
    shape = a.shape[:axis] + a.shape[axis + 1 :]
    text, bound = g.one([("sum", a.bound * a.shape[axis]), ("cumsum", a.bound * a.shape[axis])])
    if text == "cumsum":
        raise LookupError
    g.add(f"jnp.sum({{0}}, {axis})", [a], "real", shape, bound, a.fraction)


@maker(2)
def _integer_sum(g: Maker):
    a = g.pick(lambda v: v.type in INTEGERS and len(v.shape) > 0)
    bound = a.bound * a.shape[0]
    if bound > 2**31 - 1:
        raise LookupError
    text = "jnp.sum({0}, 0).astype(jnp.int32)"
    g.add(text, [a], "int32", a.shape[1:], bound)


@maker(4)
def _dot(g: Maker):
    a = g.real(24, lambda v: 0 < len(v.shape) < 3)
    b = g.pick(lambda v: v.type == "real" and 0 < len(v.shape) < 3 and v.bound < 1 << 24)
    f = a.fraction + b.fraction
    if a.shape[-1] == b.shape[0]:
        shape, n = a.shape[:-1] + b.shape[1:], a.shape[-1]
        g.add("jnp.tensordot({0}, {1}, 1)", [a, b], "real", shape, n * a.bound * b.bound, f)
    else:
        shape = a.shape + b.shape
        if len(shape) > 3:
            raise LookupError
        g.add("jnp.tensordot({0}, {1}, 0)", [a, b], "real", shape, a.bound * b.bound, f)


# Blocks -----------------------------------------------------------------------------------------


@maker(2)
def _mapped(g: Maker):
    if g.depth > 1:
        raise LookupError
    a = g.pick(lambda v: len(v.shape) > 0)
    row = Val(g.name("r"), a.type, a.shape[1:], a.bound, a.fraction)
    block, made = g.inside([row], row.name, int(g.rng.integers(1, 5)))
    options = [v for v in made if v.size * a.shape[0] <= MAX_SIZE]
    if not options:
        raise LookupError
    out = options[-1]
    block.returns, block.returned = "{0}", [out]
    shape = (a.shape[0], *out.shape)
    g.add(f"jax.vmap({block.name})({{0}})", [a], out.type, shape, out.bound, out.fraction, block)


def _start(g: Maker, xs: Val | None) -> tuple[str, list[Val], Val]:
    """(text of a carry's start, its operands, the carry in the body)."""
    name = g.name("c")
    shapes = [(), (2,)] + ([xs.shape[1:]] * 3 if xs is not None else [])
    if g.chance(3):
        v = g.pick(lambda v: v.size <= 6)
        return "{0}", [v], replace(v, name=name)
    type_ = g.one(["real", "real", "int32", "int8", "int16", "uint8", "uint32"])
    c, shape = g.one([0, 0, 0, 1, 3]), g.one(shapes)
    dtype = "float64" if type_ == "real" else type_
    return f"jnp.full({shape}, {c}, jnp.{dtype})", [], Val(name, type_, shape, c)


GROWTH = [
    "{0} + {1}",
    "{1} - {0}",
    "jnp.where({0} > 0, {0}, {1})",
    "jnp.maximum({0}, {1})",
    "jnp.where({1} > 0, {0}, -{0})",
    "jnp.where({1} > 0, {0} + 1, {0})",
    "2 * {0}",
    "jnp.where({1} > 0, {0} + {1}, {1})",
    "3 * {0} - 2 * {0} + {1}",
    "reduce(lambda c, _: jnp.where({1} > 0, c, 0 - c), range(20), {0}) + {1}",
    "reduce(lambda c, _: jnp.where({1} > 0, c, 0 - c), range(34), {0}) + {1}",
    "jnp.where({1} > 0, {0}, {1}) - {1} + jnp.maximum({0}, {1})",
]


def _leaving(g: Maker, block: Block, made: list[Val], carry: Val, length: int) -> Val:
    """A value of the body that may leave as this carry, of its type and shape."""
    alike = [v for v in made if v.like(carry)]
    others = [v for v in alike if v.name != carry.name]
    new = carry
    if others and g.chance(2):
        new = g.one(others)
    elif alike:
        text = g.one(["{0} + 1", *GROWTH]) if carry.type != "bool" else "{0} ^ {1}"
        pair = [carry, g.one(others or alike)]
        new = g.within(
            block, made, lambda: _unchecked(g, text, pair, carry, pair[0].bound + pair[1].bound)
        )
    if new.type == "real" and g.chance(3):
        f, bits = carry.fraction, g.one([8, 16, 20, 32])
        text = g.one([f"fixed.round({{0}}, {f}, {bits})", "jnp.clip({0}, -100.0, 100.0)"])
        new = g.within(block, made, lambda: _unchecked(g, text, [new], carry, carry.bound))
    elif new.type in INTEGERS and g.chance(3):
        text = g.one([f"jnp.minimum({{0}}, jnp.{new.type}(100))", f"{{0}}.astype(jnp.{new.type})"])
        new = g.within(block, made, lambda: _unchecked(g, text, [new], carry, carry.bound))
    return new


def _unchecked(g: Maker, text: str, operands: list[Val], like: Val, bound: int) -> Val:
    v = replace(like, name=g.name(), bound=bound, fraction=max(o.fraction for o in operands))
    g.block.statements.append(Statement([v], text, operands))
    return v


@maker(7)
def _scanned(g: Maker):
    """One to three carries, over rows of a value or a number of steps, forwards or backwards."""
    if g.depth > 1:
        raise LookupError
    xs = g.pick(lambda v: len(v.shape) > 0) if not g.chance(4) else None
    length = xs.shape[0] if xs is not None else int(g.one([1, 2, 3, 4]))
    starts = [_start(g, xs) for _ in range(g.one([1, 1, 2, 3]))]
    carries = [c for _, _, c in starts]
    # Inside, carries have grown.
    grown = [replace(c, bound=min((c.bound + 1) << 6, _top(c) - 1)) for c in carries]
    row = Val(g.name("y"), xs.type, xs.shape[1:], xs.bound, xs.fraction) if xs is not None else None
    signature = f"carry, {row.name if row else '_'}"
    parameters = [*grown, *([row] if row else [])]
    block, made = g.inside(parameters, signature, int(g.rng.integers(1, 5)))
    block.opening = f"{', '.join(c.name for c in carries)}, = carry"
    leaving = [_leaving(g, block, made, c, length) for c in grown]
    if any(v.shape != c.shape or v.type != c.type for v, c in zip(leaving, carries, strict=True)):
        raise LookupError
    stacked = [v for v in made if v.size * length <= MAX_SIZE]
    out = g.one(stacked) if stacked and g.chance(2) else None
    block.returned = [*leaving, *([out] if out else [])]
    n = len(leaving)
    block.returns = f"{_tuple(n)}, " + (f"{{{n}}}" if out else "None")
    operands: list[Val] = []
    texts = []
    for text, used, _ in starts:
        texts.append(text.format(f"{{{len(operands)}}}") if used else text)
        operands += used
    over = f"{{{len(operands)}}}" if xs is not None else "None"
    operands += [xs] if xs is not None else []
    reverse = ", reverse=True" if g.chance(4) else ""
    text = f"lax.scan({block.name}, ({', '.join(texts)},), {over}, length={length}{reverse})"
    results = [
        replace(c, name=g.name(), bound=min(max(c.bound, v.bound) * (length + 1), _top(c) - 1))
        for c, v in zip(carries, leaving, strict=True)
    ]
    target = f"({', '.join(v.name for v in results)},), "
    if out is not None:
        rows = replace(out, name=g.name(), shape=(length, *out.shape))
        results, target = [*results, rows], target + rows.name
    else:
        target += "_"
    g.block.statements.append(Statement(results, text, operands, target, block))
    g.values += results


@maker(1)
def _counted(g: Maker):
    """A loop with a counter."""
    a = g.pick(lambda v: v.type in ("int32", "real") and v.bound < 1 << 20)
    text = g.one(
        [
            "lax.fori_loop(0, 3, lambda i, c: c + i, {0})",
            "lax.fori_loop(1, 4, lambda i, c: jnp.where(c > i, c - i, c), {0})",
            "lax.fori_loop(0, 2, lambda i, c: lax.fori_loop(0, 2, lambda j, d: d + i * j, c), {0})",
        ]
    )
    g.add(text, [a], a.type, a.shape, a.bound + 8 * (1 << a.fraction), a.fraction)


def _output(g: Maker) -> Val:
    """A value that a proved function may return."""
    last = g.unread()[-3:]
    a = g.one(last) if last and not g.chance(4) else g.pick()
    if a.type != "real":
        return a
    f = a.fraction
    type_ = "int32" if a.bound < 2**31 - 1 else "int64"
    if f == 0 and g.chance(2):
        v = Val(g.name(), type_, a.shape, a.bound)
        text = f"{{0}}.astype(jnp.{type_})"
    elif type_ == "int64":
        v = Val(g.name(), type_, a.shape, a.bound)
        text = f"({{0}} * {2.0**f}).astype(jnp.int64)"
    else:
        v = Val(g.name(), type_, a.shape, a.bound)
        f = max(0, f - g.one([0, 0, 2]))
        text = f"fixed.encode({{0}}, {f})"
    g.block.statements.append(Statement([v], text, [a]))
    return v


def random_function(rng) -> Function:
    """A function of one to three arguments with one to three outputs."""
    g = Maker(rng)
    parameters = []
    for name in "abc"[: g.one([1, 1, 2, 3])]:
        type_ = g.one(ARGUMENTS)
        low, high = _limits(type_)
        parameters.append(Val(name, type_, g.one(SHAPES), max(-low, high)))
    g.block = Block("program", parameters, ", ".join(v.name for v in parameters))
    g.values = list(parameters)
    g.steps(int(rng.integers(2, 14)))
    outs = [_output(g) for _ in range(g.one([1, 1, 2, 3]))]
    g.block.returns, g.block.returned = _tuple(len(outs)), outs
    sealed = [g.one(["public", "sealed", "sealed", "ranged"]) for _ in parameters]
    flags = [v.type != "int64" and bool(g.chance(3)) for v in outs]
    return Function(g.block.pruned(), sealed, flags)


def smallest(function: Function, still: Callable[[Function], bool], limit: int = 400) -> Function:
    """The function without what ``still`` does not need."""
    tried = 0
    while True:
        for other in function.smaller():
            tried += 1
            if tried > limit:
                return function
            if still(other):
                function = other
                break
        else:
            return function
