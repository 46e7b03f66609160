"""``zkjax.provable``: a provable function as ordinary compiled JAX, without a proof."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from zkjax._arguments import checked
from zkjax._callable import make_callable, positional
from zkjax._compat import x64
from zkjax.errors import OptionError
from zkjax.fixed.rounding import current_cotangent_format
from zkjax.program.recording import Limit, record_extremes
from zkjax.program.trace import argument_leaves, being_traced, jaxpr_of
from zkjax.sealed import Sealed

REMEMBERED = 16  # compiled functions a provable one keeps, for different shapes


@checked
def provable(fn: Callable) -> Callable:
    """Run a provable function as compiled JAX, with 64 bits and with the range checks of a proof.

    ``Sealed`` arguments are opened locally. Usable as a decorator; ``prove(provable(fn))`` works,
    and so does a provable function inside another one.

    Raises (when called):
      StatementError: an argument is no array of integers of at most 32 bits.
      ValueRangeError: a value left the range that a proof would check; names line and step.
      OptionError: called inside ``jax.jit``, ``vmap``, ``grad`` or ``scan``, which run without
        64 bits. Transform the function itself: ``provable(jax.vmap(fn))``.

    >>> import numpy as np
    >>> import zkjax
    >>> from zkjax import fixed
    >>> half = zkjax.provable(lambda x: fixed.encode(fixed.decode(x, 4) * 0.5, 4))
    >>> print(half(np.array([6, -4], np.int16)))
    [ 3 -2]
    """
    compiled: OrderedDict = OrderedDict()
    lock = threading.Lock()

    @functools.wraps(fn)
    def run(*args, **keywords):
        args = positional(fn, args, keywords)
        if being_traced():
            return fn(*args)
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree_util.tree_leaves(args)):
            raise OptionError(
                "a provable function was called inside a JAX transformation; transform the "
                "function itself instead, as in zkjax.provable(jax.vmap(fn))"
            )
        shapes, _, _, _, trees = argument_leaves(args)
        key = (
            tuple((s.shape, s.dtype.name) for s in shapes),
            tuple(trees),
            current_cotangent_format(),
        )
        with lock:
            if key not in compiled:
                compiled[key] = _compile(fn, shapes, trees)
            compiled.move_to_end(key)
            while len(compiled) > REMEMBERED:
                compiled.popitem(last=False)
            jitted, tree, limits = compiled[key]
        leaves = jax.tree_util.tree_leaves([a.tree if isinstance(a, Sealed) else a for a in args])
        with x64():
            outputs, extremes = jitted(*(np.asarray(x) for x in leaves))
            for number, values in sorted(extremes.items()):
                limits[number].require(np.asarray(values))
        return tree.unflatten(outputs)

    return run


def _compile(fn: Callable, shapes, trees) -> tuple[Callable, Any, dict[int, Limit]]:
    closed, tree, _ = jaxpr_of(fn, shapes, trees)
    limits: dict[int, Limit] = {}
    return jax.jit(lambda *xs: record_extremes(closed, xs, limits)), tree, limits


make_callable(__name__)
