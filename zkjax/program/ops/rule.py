"""What the system knows of one kind of operation, and the registry of all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from itertools import pairwise
from typing import Any

import numpy as np

from zkjax.errors import StatementError
from zkjax.field import extension as ext
from zkjax.field.scalar import Scalar
from zkjax.program.intervals import Value, selected
from zkjax.work import STEP, charge

Shape = tuple[int, ...]
Weights = tuple[np.ndarray, ...]
Pulled = list[tuple[int | None, Weights, Scalar]]


@dataclass(frozen=True)
class Op:
    """One instruction. ``inputs`` are variable numbers; ``params`` holds integers, strings,
    tuples.
    """

    kind: str
    inputs: tuple[int, ...]
    shape: Shape
    params: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Rule:
    """What the system knows of one kind of operation.

    Attributes:
      cls: "input", "linear", "product" or "advice".
      evaluate: (op, *operands) -> the value.
      pull: (op, weights, 1) -> the functional of the result as functionals of the operands.
      interval: (op, operand intervals, shapes, kinds) -> what the result is within.
      merges: whether a later operation of its kind looks through it, so that it may end as dead
        code; then it can't own relations.
    """

    cls: str
    evaluate: Callable[..., np.ndarray] | None = None
    pull: Callable[..., Pulled] | None = None
    interval: Callable[..., Value] | None = None
    merges: bool = False
    shape: Callable[..., Shape] | None = None  # (Op, shapes of its operands) -> result shape

    @property
    def selects(self) -> bool:
        """Whether the entries of the result are entries of the operand."""
        return self.interval is selected


RULES: dict[str, Rule] = {}


def rule(kind: str, cls: str, pull=None, interval=None, merges=False):
    """Register the evaluation that follows, and whatever else is known of an operation."""

    def register(evaluate):
        RULES[kind] = Rule(cls, _charged_evaluate(evaluate), _charged_pull(pull), interval, merges)
        return evaluate

    return register


def _charged_evaluate(evaluate):
    """``evaluate``, its result counted as work."""

    @wraps(evaluate)
    def charged(op: Op, *operands, **extra):
        charge(STEP + math.prod(op.shape))
        return evaluate(op, *operands, **extra)

    return charged


def _charged_pull(pull):
    """``pull``, counted as a step of work, and as the dense claim that takes its place where merged
    axes do not split. The vectors that it makes count themselves: ``total``, ``zeros``, ``ones``.
    """
    if pull is None:
        return None

    @wraps(pull)
    def charged(op: Op, w: Weights, one: Scalar) -> Pulled:
        charge(STEP)
        try:
            return pull(op, w, one)
        except NotRankOne:
            charge(2 * math.prod(op.shape))
            raise

    return charged


def shape_rule(*kinds: str, operands: int | None = 1):
    """Register how the operands' shapes and the parameters give the result's shape.

    What follows takes the ``Op`` and the shapes of its operands. It checks every parameter, for a
    statement may come from a stranger: afterwards ``evaluate`` and ``pull`` can rely on them.
    ``operands`` is their number; None stands for one or more.

    Raises (when called):
      StatementError: the operands or parameters are none for this kind.
    """

    def register(shape):
        def checked(op: Op, *shapes: Shape) -> Shape:
            right = len(shapes) == operands if operands is not None else len(shapes) >= 1
            require(right, "another number of operands")
            return shape(op, *shapes)

        for kind in kinds:
            RULES[kind] = replace(RULES[kind], shape=checked)
        return shape

    return register


def require(condition: bool, what: str) -> None:
    if not condition:
        raise StatementError(what)


def parameters(op: Op, count: int) -> tuple[Any, ...]:
    """The parameters, so many of them."""
    require(len(op.params) == count, "another number of parameters")
    return op.params


def is_integer(value: Any, low: int, high: int) -> bool:
    """Whether it is an integer in [low, high]."""
    return type(value) is int and low <= value <= high


def are_integers(values: Any, count: int, low: int, high: int) -> bool:
    """Whether these are so many integers in [low, high]."""
    if type(values) is not tuple or len(values) != count:
        return False
    return all(is_integer(v, low, high) for v in values)


def are_axes(values: Any, rank: int) -> bool:
    """Whether these are axes of a tensor, increasing."""
    if type(values) is not tuple or not are_integers(values, len(values), 0, rank - 1):
        return False
    return all(a < b for a, b in pairwise(values))


def total(w: np.ndarray) -> Scalar:
    """The sum of a weight vector."""
    charge(w.shape[1])
    return Scalar.from_array(ext.sum_mod(w))


def zeros(n: int, kappa: int) -> np.ndarray:
    """(kappa, n): a new weight vector."""
    charge(n)
    return np.zeros((kappa, n), dtype=np.uint64)


def ones(n: int, kappa: int) -> np.ndarray:
    """(kappa, n): the weight vector of a sum."""
    w = zeros(n, kappa)
    w[0] = 1
    return w


RULES["input"] = Rule("input")
RULES["constant"] = Rule("input")


@shape_rule("input", "constant", operands=0)
def _given_shape(op: Op) -> Shape:
    """Any; params (number of the input or constant,)."""
    (number,) = parameters(op, 1)
    require(is_integer(number, 0, 2**31), "the number of an input or constant")
    return op.shape


class NotRankOne(Exception):
    """A functional on merged axes does not split; ``products`` uses a sumcheck instead."""
