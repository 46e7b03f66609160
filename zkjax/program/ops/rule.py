"""What the system knows of one kind of operation, and the registry of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from zkjax.field import extension as ext
from zkjax.field.scalar import Scalar
from zkjax.program.intervals import Value, selected

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

    @property
    def selects(self) -> bool:
        """Whether the entries of the result are entries of the operand."""
        return self.interval is selected


RULES: dict[str, Rule] = {}


def rule(kind: str, cls: str, pull=None, interval=None, merges=False):
    """Register the evaluation that follows, and whatever else is known of an operation."""

    def register(evaluate):
        RULES[kind] = Rule(cls, evaluate, pull, interval, merges)
        return evaluate

    return register


def total(w: np.ndarray) -> Scalar:
    """The sum of a weight vector."""
    return Scalar.from_array(ext.sum_mod(w))


def ones(n: int, kappa: int) -> np.ndarray:
    w = np.zeros((kappa, n), dtype=np.uint64)
    w[0] = 1
    return w


RULES["input"] = Rule("input")
RULES["constant"] = Rule("input")


class NotRankOne(Exception):
    """A functional on merged axes does not split; ``products`` uses a sumcheck instead."""
