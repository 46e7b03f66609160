"""Optimizers in fixed point, with optax's ``init`` / ``update`` interface."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from zkjax import fixed
from zkjax.fixed import Format


class GradientTransformation(NamedTuple):
    """As in optax: ``init(params) -> state``, ``update(grads, state, params) -> (updates,
    state)``.
    """

    init: Any
    update: Any


MASTER = Format(24, 32)


def sgd(learning_rate: Any, format: Format = MASTER) -> GradientTransformation:
    """Plain gradient descent: updates -learning_rate * gradient, rounded to the master format."""

    def init(params):
        del params
        return ()

    def update(grads, state, params=None):
        del params
        step = jax.tree.map(lambda g: fixed.round(-(learning_rate * g), *format), grads)
        return step, state

    return GradientTransformation(init, update)


def apply_updates(params, updates):
    """params + updates, leaf by leaf."""
    return jax.tree.map(lambda p, u: p + u, params, updates)
