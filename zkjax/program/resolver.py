"""Claims on variables, pulled back to committed tensors.

A claim is the value of a functional w_1 (x) ... (x) w_k on a variable. ``resolve`` pulls
functionals through linear operations, from the results of a program to its inputs, evaluates them
on public values, and leaves them on committed tensors. At a product, and where too many come
together (``meetings``), the value is sent (padded) and becomes a claim that ``products`` justifies
later.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from zkjax.argument.layout import pad_values
from zkjax.argument.party import Expression, Party, Weights
from zkjax.field import goldilocks as gl
from zkjax.field.scalar import Scalar
from zkjax.program.functionals import functional_value
from zkjax.program.meetings import meeting_points, reduction_levels
from zkjax.program.ops import RULES, NotRankOne
from zkjax.program.ops.rule import Pulled
from zkjax.program.program import Program
from zkjax.program.public import PublicValues


@dataclass
class Witness:
    """What only the prover has: values of all variables and the multiplicities of the tables."""

    values: list[np.ndarray]
    multiplicities: list[np.ndarray]


def tensor_ids(program: Program) -> dict[str, dict[int, int]]:
    """Numbers of committed tensors: variables keep theirs, then multiplicities, then sealed
    outputs.
    """
    base = len(program.ops)
    after = base + len(program.tables)
    return {
        "multiplicity": {t: base + t for t in range(len(program.tables))},
        "output": {i: after + i for i, p in enumerate(program.outputs) if p.sealed},
    }


class Node(NamedTuple):
    """What claims are reduced at: a variable, before its claims have ``met`` or as the product that
    it is.
    """

    var: int
    met: bool


Claim = tuple[Weights, Expression]


@dataclass
class Resolver:
    """Claims of one run of the reduction; ``witness`` is None for the verifier and the planner.

    Attributes:
      public: values of the variables that the verifier knows.
      claims: by level, the functionals and values that were sent for each node.
      committed: variables that are tensors of a commitment.
      public_only: for each variable, whether it is a linear function of public values.
    """

    program: Program
    party: Party
    public: dict[int, np.ndarray]
    witness: Witness | None = None
    claims: dict[int, dict[Node, list[Claim]]] = field(default_factory=dict)
    _sent: dict = field(default_factory=dict)

    def __post_init__(self):
        self.kappa = self.party.kappa
        self.one = Scalar.of(1, self.kappa)
        self.ids = tensor_ids(self.program)
        ops = self.program.ops
        self.committed = {
            v
            for v, op in enumerate(ops)
            if RULES[op.kind].cls == "advice" or (op.kind == "input" and v not in self.public)
        }
        self.public_only = []
        for v, op in enumerate(ops):
            linear = RULES[op.kind].cls == "linear"
            known = v in self.public or (linear and all(self.public_only[i] for i in op.inputs))
            self.public_only.append(known)
        self.meetings = meeting_points(self.program)
        self.levels = reduction_levels(self.program, self.meetings)
        self.known = PublicValues(self.program, self.public, self.party.planning)

    def padded_values(self, var: int) -> np.ndarray:
        """The witness of a variable in the field, each axis padded to a power of two, flat."""
        return gl.from_signed(pad_values(self.witness.values[var]).reshape(-1))

    def resolve(self, terms, met: int | None = None) -> Expression:
        """sum of c <w, var> as an expression; claims on products are sent on the way.

        ``met`` is the variable whose claims have been brought together already.
        """
        pending: dict[int, dict] = defaultdict(dict)
        heap: list[int] = []

        def push(var: int, weights: Weights, c: Scalar):
            if var not in pending:
                heapq.heappush(heap, -var)
            key = self.party.vectors.names(weights)
            entry = pending[var].get(key)
            pending[var][key] = (weights, c if entry is None else entry[1] + c)

        for var, weights, c in terms:
            push(var, weights, c)
        known, parts = Scalar.of(0, self.kappa), []
        while heap:
            var = -heapq.heappop(heap)
            for weights, c in pending.pop(var).values():
                pulled = self._pulled(var, weights, met)
                if pulled is not None:
                    for operand, inner, k in pulled:
                        if operand is None:
                            known = known + c * k
                        else:
                            push(self.program.ops[var].inputs[operand], inner, c * k)
                elif self.public_only[var]:
                    known = known + c * self.known.functional(var, weights, self.kappa)
                elif var in self.committed:
                    parts.append((self.party.functional(var, weights), c))
                else:
                    parts.append((self._claim(var, weights, met), c))
        return self.party.tape.combine([*parts, (self.party.constant(known), 1)])

    def _pulled(self, var: int, weights: Weights, met: int | None) -> Pulled | None:
        """A functional as functionals of the operands; None where it has to be evaluated, or its
        value sent.
        """
        op = self.program.ops[var]
        rule = RULES[op.kind]
        if rule.cls != "linear":
            return None
        # A public variable is evaluated there, unless it is much smaller one operation before.
        meets = not self.public_only[var] or self.known.worth_evaluating(var)
        if var in self.meetings and var != met and meets:
            return None
        try:
            return rule.pull(op, weights, self.one)
        except NotRankOne:
            return None

    def public_functional(self, var: int, weights: Weights) -> Scalar:
        """<w, var> for a linear function of public values, evaluated here without any message."""
        return self.resolve([(var, weights, self.one)]).known

    def _claim(self, var: int, weights: Weights, met: int | None) -> Expression:
        """The (padded) value of a functional, which a later level must justify."""
        node = Node(var, var not in self.meetings or var == met)
        key = node, self.party.vectors.names(weights)
        if key not in self._sent:

            def value() -> list[Scalar]:
                return [functional_value(self.witness.values[var], weights, self.kappa)]

            sent = self.party.send("claim", 1, value)[0]
            level = self.levels[var] + (var in self.meetings and node.met)
            self.claims.setdefault(level, {}).setdefault(node, []).append((weights, sent))
            self._sent[key] = sent
        return self._sent[key]

    def claimed_value(self, weighted: Sequence[tuple[Scalar, Claim]]) -> Scalar | None:
        """The prover's value of a combination of claims."""
        if self.witness is None:
            return None
        zero = Scalar.of(0, self.kappa)
        return sum((e.value * c for c, (_, e) in weighted), zero)
