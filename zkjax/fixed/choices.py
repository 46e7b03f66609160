"""Functions by comparison: relu, and the index of a maximum."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from zkjax._arguments import checked
from zkjax.fixed.primitives import _elementwise_batch, define
from zkjax.fixed.types import Array, Bits


@checked
def relu(x: Array) -> jax.Array:
    """max(x, 0) for any x, exact; the derivative at 0 is 0.

    One committed bit and one range check an element, and none more for the derivative.

    >>> from zkjax import fixed
    >>> import numpy as np
    >>> print(fixed.relu(np.array([-1.5, 0.0, 2.25])))
    [0.   0.   2.25]
    """
    return _relu(jnp.asarray(x))


@jax.custom_jvp
def _relu(x):
    return jnp.where(x > 0.0, x, 0.0)


@_relu.defjvp
def _relu_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    positive = x > 0.0
    return jnp.where(positive, x, 0.0), jnp.where(positive, dx, 0.0)


def _argmax(x, *, bits):
    del bits
    return [jnp.argmax(x, axis=-1).astype(jnp.float64)]


argmax_p = define("zk_argmax", _argmax, lambda a, p: [a[0].shape[:-1]], _elementwise_batch)


@checked
def argmax(x: Array, bits: Bits = 16) -> jax.Array:
    """The index of the first maximum over the last axis, int32; max - x must stay below 2^bits
    last-fraction units. Exact, and not differentiable.

    Cheaper than ``jnp.argmax`` where the spread of x is known: ``bits`` sets the range check of
    each element.

    >>> from zkjax import fixed
    >>> import numpy as np
    >>> print(fixed.argmax(np.array([[0.5, 2.0, 2.0], [1.0, -1.0, 0.0]])))
    [1 0]
    """
    x = jax.lax.stop_gradient(jnp.asarray(x))
    return argmax_p.bind(x, bits=bits)[0].astype(jnp.int32)
