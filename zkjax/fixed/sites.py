"""Sites: named places of a function whose values and cotangents can be watched as it runs.

``observe`` marks a place and changes nothing. ``observations`` runs a function of floats and says
how large the values at each place were, and their cotangents, separately for the steps of a scan
(the layers of a model).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from zkjax.program.recording import record_sites

site_p = Primitive("zk_site")
site_p.def_impl(lambda x, *, name, way: x)
site_p.def_abstract_eval(lambda x, *, name, way: ShapedArray(x.shape, x.dtype))
mlir.register_lowering(site_p, mlir.lower_fun(lambda x, *, name, way: x, multiple_results=False))
batching.defvectorized(site_p)
ad.deflinear2(site_p, lambda ct, x, *, name, way: [ct])


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _observe(x, name, forward, backward):
    return site_p.bind(x, name=name, way="forward") if forward else x


def _seen(name, forward, backward, _, ct):
    return (site_p.bind(ct, name=name, way="backward") if backward else ct,)


_observe.defvjp(lambda x, *marks: (_observe(x, *marks), None), _seen)


def observe(x, name: str, *, forward: bool = True, backward: bool = True):
    """x, marked as a site: its values and its cotangents, or one of both."""
    return _observe(x, name, forward, backward)


@dataclass
class Seen:
    """What was seen at a site: (steps of the scan around it or 1,) each.

    Attributes:
      largest: of the magnitudes.
      mean_square: of the values.
    """

    largest: np.ndarray
    mean_square: np.ndarray

    def join(self, other: Seen, weight: float) -> Seen:
        """Of two runs, the second counting ``weight`` of the whole."""
        mean = (1 - weight) * self.mean_square + weight * other.mean_square
        return Seen(np.maximum(self.largest, other.largest), mean)


def observations(fn: Callable) -> Callable[..., tuple[Any, dict[tuple[str, str], Seen]]]:
    """``observations(fn)(*args)``: the result, and what was seen by (site, "forward" or
    "backward"). A site met several times counts as one.
    """
    compiled: dict[Any, tuple[Callable, Any, dict[int, tuple[str, str]]]] = {}

    def run(*args):
        leaves, tree = jax.tree_util.tree_flatten(args)
        key = tree, tuple((np.shape(x), np.result_type(x)) for x in leaves)
        if key not in compiled:
            closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
            names: dict[int, tuple[str, str]] = {}
            compiled[key] = (
                jax.jit(lambda *xs: record_sites(closed, xs, names)),
                jax.tree_util.tree_structure(shapes),
                names,
            )
        jitted, out_tree, names = compiled[key]
        outputs, records = jitted(*leaves)
        found: dict[tuple[str, str], Seen] = {}
        for number, values in records.items():
            values = np.asarray(values, dtype=np.float64)
            rows = values.reshape(-1, 2)
            seen = Seen(rows[:, 0], rows[:, 1])
            name = names[number]
            if name in found and found[name].largest.shape == seen.largest.shape:
                seen = found[name].join(seen, 0.5)
            found[name] = seen
        return out_tree.unflatten(outputs), found

    return run
