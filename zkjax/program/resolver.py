"""Claims on variables, pulled back to committed tensors.

A claim is the value of a functional w_1 (x) ... (x) w_k on a variable. ``resolve`` pulls
functionals through linear operations, from the results of a program to its inputs, evaluates them
on public values, and leaves them on committed tensors. Where one meets a product, the value is sent
(padded) and becomes a claim that ``products`` justifies later.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from zkjax.argument.layout import pad_values
from zkjax.argument.party import Expression, Party, Weights
from zkjax.field import goldilocks as gl
from zkjax.field.scalar import Scalar
from zkjax.program.functionals import functional_value
from zkjax.program.ops import RULES, NotRankOne
from zkjax.program.program import Program


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


@dataclass
class Resolver:
    """Claims of one run of the reduction; ``witness`` is None for the verifier and the planner.

    Attributes:
      public: values of the variables that the verifier knows.
      claims: for each product the functionals and values that were sent for it.
      committed: variables that are tensors of a commitment.
      public_only: for each variable, whether it is a linear function of public values.
    """

    program: Program
    party: Party
    public: dict[int, np.ndarray]
    witness: Witness | None = None
    claims: dict[int, list[tuple[Weights, Expression]]] = field(default_factory=dict)
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

    def padded_values(self, var: int) -> np.ndarray:
        """The witness of a variable in the field, each axis padded to a power of two, flat."""
        return gl.from_signed(pad_values(self.witness.values[var]).reshape(-1))

    def resolve(self, terms) -> Expression:
        """sum of c <w, var> as an expression; claims on products are sent on the way."""
        pending: dict[int, dict] = defaultdict(dict)
        heap: list[int] = []

        def push(var: int, weights: Weights, c: Scalar):
            if var not in pending:
                heapq.heappush(heap, -var)
            key = tuple(map(id, weights))
            entry = pending[var].get(key)
            pending[var][key] = (weights, c if entry is None else entry[1] + c)

        for var, weights, c in terms:
            push(var, weights, c)
        known, parts = Scalar.of(0, self.kappa), []
        while heap:
            var = -heapq.heappop(heap)
            op = self.program.ops[var]
            for weights, c in pending.pop(var).values():
                if self.public_only[var]:
                    known = known + c * self.public_functional(var, weights)
                elif var in self.committed:
                    parts.append((self.party.functional(var, weights), c))
                elif RULES[op.kind].cls == "linear":
                    try:
                        pulled = RULES[op.kind].pull(op, weights, self.one)
                    except NotRankOne:
                        parts.append((self._claim(var, weights), c))
                        continue
                    for operand, inner, k in pulled:
                        if operand is None:
                            known = known + c * k
                        else:
                            push(op.inputs[operand], inner, c * k)
                else:
                    parts.append((self._claim(var, weights), c))
        return self.party.tape.combine([*parts, (self.party.constant(known), 1)])

    def public_functional(self, var: int, weights: Weights) -> Scalar:
        """<w, var> for a linear function of public values, evaluated here without any message."""
        if var in self.public:
            return functional_value(self.public[var], weights, self.kappa)
        op = self.program.ops[var]
        try:
            pulled = RULES[op.kind].pull(op, weights, self.one)
        except NotRankOne:
            operands = [self._public_value(i) for i in op.inputs]
            return functional_value(RULES[op.kind].evaluate(op, *operands), weights, self.kappa)
        total = Scalar.of(0, self.kappa)
        for operand, inner, c in pulled:
            part = self.one
            if operand is not None:
                part = self.public_functional(op.inputs[operand], inner)
            total = total + c * part
        return total

    def _public_value(self, var: int) -> np.ndarray:
        """The value of a linear function of public values."""
        if var in self.public:
            return self.public[var]
        op = self.program.ops[var]
        return RULES[op.kind].evaluate(op, *(self._public_value(i) for i in op.inputs))

    def _claim(self, var: int, weights: Weights) -> Expression:
        """The (padded) value of a functional of a product, which a later level must justify."""
        key = (var, *map(id, weights))
        if key not in self._sent:

            def value() -> list[Scalar]:
                return [functional_value(self.witness.values[var], weights, self.kappa)]

            sent = self.party.send("claim", 1, value)[0]
            self.claims.setdefault(var, []).append((weights, sent))
            self._sent[key] = sent
        return self._sent[key]

    def claimed_value(self, var: int, weighted) -> Scalar | None:
        """The prover's value of a combination of the claims on a product."""
        if self.witness is None:
            return None
        zero = Scalar.of(0, self.kappa)
        return sum(
            (e.value * c for (_, c), (_, e) in zip(weighted, self.claims[var], strict=True)), zero
        )
