"""What the system knows of one kind of operation, and the registry of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from zkjax.field import extension as ext
from zkjax.field.scalar import Scalar

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
    """What the system knows of one kind of operation."""

    cls: str  # "input", "linear", "product" or "advice"
    evaluate: Callable[..., np.ndarray] | None = None
    pull: Callable[..., Pulled] | None = None


RULES: dict[str, Rule] = {}


def rule(kind: str, cls: str, pull=None):
    """Register the evaluation that follows (and the pull-back) of an operation."""

    def register(evaluate):
        RULES[kind] = Rule(cls, evaluate, pull)
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
