"""All mutants of a source file: what a check or a constant is changed into.

A unit is a function, a method or a statement at the top of a module or a class. A mutant is one
change in one unit:

- removed: a call whose result is not used, a refusal, an assignment to a part of an array;
- conditions: always true, always false, without one of its operands; any and all, min and max
  exchanged; a comparison that takes or loses the equal case, and, where it is no condition of its
  own, one that is turned round (what notices both true and false notices that);
- integers: one more; not those that only say where (subscripts, axes), and
  of a row of more than four only the first and the last;
- challenges: one, or equal to one another (``trivial``);
- masks, pads, nonces: zero, equal to one another, one row zero.

Of a module that only the prover runs, or that writes down what a function computes, only refusals
and their conditions are changed, and masks, pads and nonces. Other mistakes of a prover give proofs
that are refused; other mistakes of a rule give numbers that are not JAX's, which is what the tables
of functions are compared with.

A mutant is named by a hash of its unit, without comments and layout, and of the change; so it keeps
its name until that unit changes.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Iterator
from typing import NamedTuple

CHALLENGES = {"challenge", "challenges", "challenge_vector", "distinct_indices", "draw"}
ENTROPY = {"field", "scalars", "bytes", "urandom"}
TURNED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
EXCHANGED = {"any": "all", "all": "any", "min": "max", "max": "min"}
Place = tuple[tuple[str, int | None], ...]  # fields from the unit down to a node


class Mutant(NamedTuple):
    """One change: where, what, and how to make it."""

    path: str
    unit: str
    line: int
    change: str
    name: str
    where: Place
    node: ast.AST
    in_function: bool
    version: str  # a hash of the unit alone

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.unit}: {self.change}"


def units(tree: ast.Module) -> Iterator[tuple[str, Place, ast.stmt]]:
    """(name, place, statement) of all units of a module."""

    def visit(body: list[ast.stmt], prefix: str, place: Place):
        for i, statement in enumerate(body):
            here: Place = (*place, ("body", i))
            if isinstance(statement, ast.ClassDef):
                yield from visit(statement.body, f"{prefix}{statement.name}.", here)
            elif isinstance(statement, ast.FunctionDef):
                yield f"{prefix}{statement.name}", here, statement
            elif isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
                target = statement.targets[0] if isinstance(statement, ast.Assign) else None
                name = ast.unparse(target or statement.target)  # type: ignore[union-attr]
                yield f"{prefix}{name}", here, statement

    yield from visit(tree.body, "", ())


def _nodes(node: ast.AST, place: Place) -> Iterator[tuple[ast.AST, Place]]:
    """A node and all below it, but no annotations, docstrings, messages of errors and f-strings, no
    numbers that say where something is.
    """
    yield node, place
    if isinstance(node, ast.Raise | ast.JoinedStr) or _is_axis(node):
        return
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        if isinstance(node, ast.Subscript) and field == "slice" and _is_number(value):
            continue
        children = value if isinstance(value, list) else [value]
        row = len(children) > 4 and all(isinstance(c, ast.Constant) for c in children)
        for i, child in enumerate(children):
            if row and 0 < i < len(children) - 1:
                continue
            if isinstance(child, ast.AST):
                step = (field, i if isinstance(value, list) else None)
                yield from _nodes(child, (*place, step))


def _is_axis(node: ast.AST) -> bool:
    return isinstance(node, ast.keyword) and node.arg == "axis"


def _is_number(node: ast.AST) -> bool:
    """Numbers alone: 0, -1, :-1, (0, ..., 1)."""
    plain = (ast.Constant, ast.UnaryOp, ast.USub, ast.Slice, ast.Tuple, ast.Load)
    return all(isinstance(n, plain) for n in ast.walk(node))


def _trivial(function: str, *args: ast.expr) -> ast.expr:
    name = ast.Attribute(ast.Name("_trivial", ast.Load()), function, ast.Load())
    return ast.Call(name, list(args), [])


def _conditions(test: ast.expr, endless: bool) -> Iterator[tuple[str, ast.expr]]:
    text = ast.unparse(test)
    yield f"'{text}' is False", ast.Constant(False)
    if not endless:
        yield f"'{text}' is True", ast.Constant(True)


def _calls(node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    function = node.func
    called = getattr(function, "attr", getattr(function, "id", ""))
    text = ast.unparse(node)
    if called in EXCHANGED and isinstance(function, ast.Name):
        new = copy.deepcopy(node)
        new.func = ast.Name(EXCHANGED[called], ast.Load())
        yield f"'{text}' with {EXCHANGED[called]}", new
    owner = function.value if isinstance(function, ast.Attribute) else None
    if called in CHALLENGES:
        yield f"'{text}' is one", _trivial("one", node)
        yield f"'{text}' repeats", _trivial("equal", owner or ast.Constant(None), node)
    secret = owner is not None and ast.unparse(owner) in ("entropy", "self", "os")
    if called in ENTROPY and secret:
        yield f"'{text}' is zero", _trivial("zeros", node)
        yield f"'{text}' repeats", _trivial("same", node)
        if called == "field":
            for i in (0, 1, 2, -1, -2, -3, -4, -5):
                yield f"row {i} of '{text}' is zero", _trivial("row", node, ast.Constant(i))


def _alternatives(node: ast.AST, whole: bool) -> Iterator[tuple[str, ast.AST]]:
    """(description, node to put in its place); ``whole``: it is all of a condition."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield f"without '{ast.unparse(node)}'", ast.Pass()
    if isinstance(node, ast.Raise) and "NotImplementedError" not in ast.unparse(node):
        yield f"without '{ast.unparse(node)}'", ast.Pass()
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        yield f"without '{ast.unparse(node)}'", ast.Pass()
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        for change, test in _conditions(node.test, isinstance(node, ast.While)):
            new = copy.copy(node)
            new.test = test
            yield change, new
    if isinstance(node, ast.comprehension):
        for i, test in enumerate(node.ifs):
            for change, constant in _conditions(test, False):
                loop = copy.copy(node)
                loop.ifs = [*node.ifs[:i], constant, *node.ifs[i + 1 :]]
                yield change, loop
    if isinstance(node, ast.BoolOp):
        for i, operand in enumerate(node.values):
            rest = [*node.values[:i], *node.values[i + 1 :]]
            yield (
                f"'{ast.unparse(node)}' without '{ast.unparse(operand)}'",
                rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest),
            )
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) and not whole:
        yield f"'{ast.unparse(node)}' negated", node.operand
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            if whole and len(node.ops) == 1 and not isinstance(operator, ORDER):
                continue
            comparison = copy.copy(node)
            comparison.ops = [*node.ops[:i], TURNED[type(operator)](), *node.ops[i + 1 :]]
            yield f"'{ast.unparse(node)}' as '{ast.unparse(comparison)}'", comparison
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield f"{node.value} as {node.value + 1}", ast.Constant(node.value + 1)
    if isinstance(node, ast.Call):
        yield from _calls(node)


def _refuses(node: ast.AST) -> bool:
    """A refusal, or what one depends on."""
    if isinstance(node, ast.If):
        return isinstance(node.body[0], ast.Raise)
    called = getattr(getattr(node, "value", None), "func", None)
    return isinstance(node, ast.Raise) or getattr(called, "id", "") in ("require", "refuse")


def _draws(node: ast.AST) -> bool:
    return getattr(getattr(node, "func", None), "attr", "") in ENTROPY


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mutants(path: str, source: str, narrow: bool) -> Iterator[Mutant]:
    """All mutants of a file, in the order of its lines.

    Args:
      narrow: only of refusals and of randomness.
    """
    for unit, where, statement in units(ast.parse(source)):
        text = f"{path}\0{unit}\0{ast.dump(statement)}"
        seen: dict[str, int] = {}
        for node, place in _nodes(statement, ()):
            if narrow and not (_refuses(node) or _draws(node)):
                continue
            for change, new in _alternatives(node, bool(place) and place[-1][0] == "test"):
                seen[change] = seen.get(change, 0) + 1
                label = change if seen[change] == 1 else f"{change} ({seen[change]})"
                name = _digest(f"{text}\0{label}")
                line = getattr(node, "lineno", statement.lineno)
                whole, is_function = (*where, *place), isinstance(statement, ast.FunctionDef)
                yield Mutant(path, unit, line, label, name, whole, new, is_function, _digest(text))


def mutated(source: str, mutant: Mutant) -> ast.Module:
    """The module with the change made."""
    tree = ast.parse(source)
    node, (*above, (field, index)) = tree, mutant.where
    for step, number in above:
        node = getattr(node, step) if number is None else getattr(node, step)[number]
    old = getattr(node, field) if index is None else getattr(node, field)[index]
    new = ast.copy_location(copy.deepcopy(mutant.node), old)
    if index is None:
        setattr(node, field, new)
    else:
        getattr(node, field)[index] = new
    return ast.fix_missing_locations(tree)
