"""From what a builder collected to a program: dead code dropped, variables in their normal order.

Variables are ordered by (depth, structural hash), relations and tables by content, so the digest of
a program depends on the computation alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from zkjax.program.builder import Builder
from zkjax.program.ops import Op
from zkjax.program.program import OF_TABLES, Lookup, Port, Program
from zkjax.program.tables import Table


def _reach(builder: Builder, roots: Sequence[int], owned: bool) -> set[int]:
    """Everything the roots are computed from; with ``owned`` also through owners' relations."""
    relations: dict[int, list[int]] = {}
    if owned:
        for owner, _, variables in builder.lookups:
            if owner is not None:
                relations.setdefault(owner, []).extend(variables)
        for owner, var in builder.zeros:
            relations.setdefault(owner, []).append(var)
    live: set[int] = set()
    stack = list(roots)
    while stack:
        var = stack.pop()
        if var not in live:
            live.add(var)
            stack += builder.ops[var].inputs
            stack += relations.get(var, [])
    return live


def _without_implied(builder: Builder, relations: list[tuple[Table, tuple[int, ...]]]):
    """Drop range checks that a known range or another kept lookup of the value implies.

    A lookup bounds its key to an interval; keys x + c, and other names of x, are compared by x.
    Only plain ranges are dropped, and only for an interval inside theirs.
    """

    def interval(table: Table, key: int) -> tuple[int, int, int]:
        low, high = int(table.columns[0][0]), int(table.columns[0][-1])
        while True:
            op = builder.ops[key]
            if op.kind == "affine" and op.params[0] == (1,):
                low, high = low - op.params[1], high - op.params[1]
            elif op.kind != "alias":
                return key, low, high
            key = op.inputs[0]

    bounds = [interval(t, vs[0]) for t, vs in relations]
    by_value: dict[int, list[int]] = {}
    for i, (value, _, _) in enumerate(bounds):
        by_value.setdefault(value, []).append(i)
    dropped: set[int] = set()
    for i, (table, _) in enumerate(relations):
        value, low, high = bounds[i]
        if table.width > 1:
            continue
        known = builder.known_ranges.get(value)
        if known and low <= known[0] and known[1] <= high:
            dropped.add(i)
            continue
        for j in by_value[value]:
            inside = low <= bounds[j][1] and bounds[j][2] <= high
            if j != i and j not in dropped and inside:
                dropped.add(i)
                break
    return [r for i, r in enumerate(relations) if i not in dropped]


def normal_form(
    builder: Builder, inputs: list[Port], outputs: list[Port]
) -> tuple[Program, list[int]]:
    """Drop dead code and renumber: the program, and the builder's number of each variable.

    Ports come with this builder's variable numbers.
    """
    roots = [p.var for p in [*outputs, *inputs]] + [o.var for o in builder.obligations]
    always = [v for owner, _, vs in builder.lookups if owner is None for v in vs]
    live = _reach(builder, [*roots, *always], owned=True)
    kept = [(t, vs) for owner, t, vs in builder.lookups if owner is None or owner in live]
    kept = _without_implied(builder, list(dict.fromkeys(kept)))
    zeros = {var for owner, var in builder.zeros if owner in live}
    live = _reach(builder, [*roots, *zeros, *(v for _, vs in kept for v in vs)], owned=False)
    depth: dict[int, int] = {}
    for var in sorted(live):
        depth[var] = 1 + max((depth[i] for i in builder.ops[var].inputs), default=-1)
    input_vars = [p.var for p in inputs]
    order = input_vars + sorted(live - set(input_vars), key=lambda v: (depth[v], builder.hashes[v]))
    number = {v: i for i, v in enumerate(order)}
    ops: list[Op] = []
    constants: list[np.ndarray] = []
    carries = 0
    for var in order:
        op = builder.ops[var]
        operands = tuple(number[i] for i in op.inputs)
        params = op.params
        if op.kind == "constant":
            constants.append(builder.constants[params[0]])
            params = (len(constants) - 1,)
        elif op.kind == "carry":
            params, carries = (carries,), carries + 1
        ops.append(Op(op.kind, operands, op.shape, params))
    hint_tables = {t for _, t, _ in builder.lookups}
    names = sorted({t for t, _ in kept}, key=lambda t: (-t.rows, t.width, t.digest))
    index = {t: i for i, t in enumerate(names)}
    for i, op in enumerate(ops):
        if op.kind in OF_TABLES:
            table = next(t for t in hint_tables if t.digest.hex() == op.params[0])
            ops[i] = Op(op.kind, op.inputs, op.shape, (index[table], *op.params[1:]))
    lookups = sorted(
        {Lookup(index[t], tuple(number[v] for v in vs)) for t, vs in kept},
        key=lambda r: (r.table, r.vars),
    )
    program = Program(
        ops,
        constants,
        names,
        lookups,
        sorted(number[v] for v in zeros),
        [replace(p, var=number[p.var]) for p in inputs],
        [replace(p, var=number[p.var]) for p in outputs],
        sorted({(number[o.var], o.low, o.high) for o in builder.obligations}),
        {number[v]: n for v, n in builder.notes.items() if v in number},
    )
    return program, order
