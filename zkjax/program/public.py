"""Linear functions of public values, which both sides evaluate themselves.

They are never taken from a message, for a message is masked by a pad of the prover's choice.
"""

from __future__ import annotations

import math

import numpy as np

from zkjax.argument.party import Weights
from zkjax.errors import OverflowBoundError
from zkjax.field.scalar import Scalar
from zkjax.program.functionals import functional_value
from zkjax.program.ops import RULES
from zkjax.program.program import Program
from zkjax.work import STEP, charge

NOTHING = np.zeros(0)
FREE = 1 << 22  # elements that any program may have evaluated
GROWTH = 4  # times as many as it has public elements is what a larger one may


class PublicValues:
    """Values of public variables, each evaluated once, operands first, when it is needed.

    ``planned``: nothing is evaluated, but counted as if it were; every functional is 1 then.
    """

    def __init__(self, program: Program, given: dict[int, np.ndarray], planned: bool = False):
        self._program, self._given, self._planned = program, given, planned
        self._values: dict[int, np.ndarray] = {}
        self._room = max(FREE, GROWTH * sum(x.size for x in given.values()))

    def worth_evaluating(self, var: int) -> bool:
        """Whether a functional is better evaluated here than one operation before: not where a
        small tensor is spread over a large one.
        """
        op = self._program.ops[var]
        inside = sum(math.prod(self._program.shape(i)) for i in op.inputs)
        return math.prod(op.shape) <= GROWTH * inside

    def functional(self, var: int, weights: Weights, kappa: int) -> Scalar:
        if self._planned:
            self.value(var)
            charge(math.prod(self._program.shape(var)))
            return Scalar.of(1, kappa)
        return functional_value(self.value(var), weights, kappa)

    def value(self, var: int) -> np.ndarray:
        """Float64 integers; OverflowBoundError if a program evaluates too many of them."""
        stack = [var]
        while stack:
            v = stack[-1]
            if v in self._given and not self._planned:
                self._values.setdefault(v, self._given[v].astype(np.float64))
            if v in self._given or v in self._values:
                stack.pop()
                continue
            op = self._program.ops[v]
            known = self._given if self._planned else {}
            missing = [i for i in op.inputs if i not in known and i not in self._values]
            if missing:
                stack += missing
                continue
            self._room -= math.prod(op.shape)
            if self._room < 0:
                raise OverflowBoundError(
                    "constants and public inputs become too large a tensor here; make it of fewer "
                    "elements, or seal an input",
                    self._program.where(v),
                )
            if self._planned:
                charge(STEP + math.prod(op.shape))
                self._values[v] = NOTHING
            else:
                operands = [self._values[i] for i in op.inputs]
                self._values[v] = RULES[op.kind].evaluate(op, *operands)
        return self._values.get(var, NOTHING)
