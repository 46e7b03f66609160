"""Where the claims on a variable are brought together before they are followed further.

Claims travel from results to inputs along every path, so their number can double with each
operation, as in y + reverse(y). Where more than ``MOST`` may arrive at a variable they *meet*:
their values are sent, and one sumcheck reduces them to a single claim at a random point. So an
operation costs at most ``MOST`` pull-backs, whatever the program looks like. Where claims meet
follows from the program alone, and so does the level of every reduction.
"""

from __future__ import annotations

from zkjax.program.ops import RULES
from zkjax.program.program import Program

MOST = 16


def meeting_points(program: Program) -> set[int]:
    """Variables at which more than ``MOST`` claims may arrive, counted by paths."""
    paths = [0] * len(program.ops)
    # Lookups of a variable claim the same functional of it, relations and outputs another.
    for var in {v for r in program.lookups for v in r.vars}:
        paths[var] += 1
    for var in {*program.zeros, *(p.var for p in program.outputs)}:
        paths[var] += 1
    meetings = set()
    for var in reversed(range(len(program.ops))):
        op = program.ops[var]
        rule = RULES[op.kind]
        if paths[var] > MOST and (rule.cls == "linear" or op.kind == "contract"):
            meetings.add(var)
            paths[var] = 1
        if rule.cls not in ("linear", "product"):
            continue
        # All claims on a product are one sumcheck, but those on a contraction, one each.
        through = paths[var] if rule.cls == "linear" or op.kind == "contract" else 1
        for i in op.inputs:
            paths[i] += through
    return meetings


def reduction_levels(program: Program, meetings: set[int]) -> list[int]:
    """For every variable how many reductions a claim on it may have to wait for."""
    level = [0] * len(program.ops)
    for var in reversed(range(len(program.ops))):
        op = program.ops[var]
        step = int(RULES[op.kind].cls == "product" or op.kind == "reshape") + (var in meetings)
        for i in op.inputs:
            level[i] = max(level[i], level[var] + step)
    return level
