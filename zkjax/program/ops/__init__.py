"""The operations of a statement: shape, exact evaluation, and how a claim on the output reduces.

A variable is an integer tensor. Operations fall in three classes:

- ``linear``: an affine map, rank-one functionals go to rank-one functionals (``pull``);
- ``product``: multiply, contract, onehot; reduced by a sumcheck in ``program/products``;
- ``advice``: committed by the prover; ``evaluate`` is the honest hint. Its uniqueness comes from
  the relations the tracer adds beside it.

A functional on a variable is a tuple of vectors, one (kappa, length) array an axis, over *logical*
coordinates only: padding has no weight anywhere. ``pull`` returns (operand, weights, coefficient);
operand None is the constant 1.

Values are float64 arrays of exact integers below 2^53; the claims live in the field.
"""

from zkjax.program.ops import advice, linear
from zkjax.program.ops.product import ContractAxes
from zkjax.program.ops.rule import RULES, NotRankOne, Op, Rule, Shape

__all__ = ["RULES", "ContractAxes", "NotRankOne", "Op", "Rule", "Shape", "advice", "linear"]
