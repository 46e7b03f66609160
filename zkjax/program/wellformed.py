"""What every program is, whoever wrote it: operations, relations and ports that fit each other.

A program that was traced is well-formed. One that was read from a file is checked here before
anything is computed with it, so that the code behind can rely on shapes, indices and parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from zkjax.errors import OptionError, StatementError
from zkjax.program.dtypes import DTYPE_RANGES, PUBLIC_RANGES
from zkjax.program.ops import RULES
from zkjax.program.ops.rule import require
from zkjax.program.program import Port, Program
from zkjax.program.tables import require_steps


def require_well_formed(program: Program) -> None:
    """Raise unless every operation has the shape that its rule gives, and all else fits.

    Raises:
      StatementError: naming the operation, relation or port that does not fit.
    """
    _require_operations(program)
    for kind in ("input", "constant", "carry"):
        numbers = [op.params[0] for op in program.ops if op.kind == kind]
        require(numbers == list(range(len(numbers))), f"{kind} operations are not numbered in turn")
    variables = range(len(program.ops))
    for lookup in program.lookups:
        require(lookup.table in range(len(program.tables)), "a lookup in no table")
        require(all(v in variables for v in lookup.vars), "a lookup of no variable")
        width = program.tables[lookup.table].width
        require(len(lookup.vars) == width, "a lookup does not fit its table")
        require(len({program.shape(v) for v in lookup.vars}) == 1, "a lookup mixes shapes")
    relations = [(r.table, r.vars) for r in program.lookups]
    require(all(a < b for a, b in pairwise(relations)), "the lookups are not in order")
    require(all(v in variables for v in program.zeros), "a zero relation of no variable")
    require(all(a < b for a, b in pairwise(program.zeros)), "the zero relations are not in order")
    obliged = [v for v, _, _ in program.obligations]
    require(all(v in variables for v in obliged), "an obligation of no variable")
    require(all(a < b for a, b in pairwise(program.obligations)), "obligations are not in order")
    first = [op.kind for op in program.ops].count("input")
    require([p.var for p in program.inputs] == list(range(first)), "inputs are not variables 0, 1")
    require(all(op.kind == "input" for op in program.ops[:first]), "inputs do not come first")
    require(all(p.var in variables for p in program.outputs), "an output of no variable")
    _require_ports(program.inputs, public=DTYPE_RANGES)
    _require_ports(program.outputs, public=PUBLIC_RANGES)
    require(not any(p.ranged for p in program.outputs), "an output that is marked as ranged")


def _require_operations(program: Program) -> None:
    for var, op in enumerate(program.ops):
        rule = RULES.get(op.kind)
        try:
            require(rule is not None and rule.shape is not None, "of no known kind")
            require(all(0 <= i < var for i in op.inputs), "an operand does not come before its use")
            shape = rule.shape(op, *(program.shape(i) for i in op.inputs))
            require(shape == op.shape, f"has shape {shape}, not {op.shape}")
            if op.kind == "constant":
                require(op.params[0] < len(program.constants), "there is no such constant")
                constant = program.constants[op.params[0]]
                require(constant.shape == op.shape, "the constant has another shape")
            if op.kind == "lookup":
                table, column = op.params
                require(table < len(program.tables), "there is no such table")
                require(column < program.tables[table].width, "there is no such column")
            if op.kind == "locate":
                require(op.params[0] < len(program.tables), "there is no such table")
                try:
                    require_steps(program.tables[op.params[0]])
                except OptionError as error:
                    raise StatementError(str(error)) from error
        except StatementError as error:
            raise StatementError(f"operation {var} ({op.kind}): {error}") from error
    count = sum(op.kind == "constant" for op in program.ops)
    require(count == len(program.constants), "a constant without its operation")


def _require_ports(ports: Sequence[Port], public) -> None:
    """Dtypes, and commitments numbered in turn, each of neighbouring ports and the public ones
    among them.
    """
    last = -1
    for port in ports:
        known = public if not port.sealed else DTYPE_RANGES
        require(port.dtype in known, f"the port {port.name!r} has dtype {port.dtype}")
        require(port.group in (-1, last, last + 1), "commitments are not numbered in turn")
        require(port.sealed or not port.ranged, "a public port that is marked as ranged")
        last = max(last, port.group)
