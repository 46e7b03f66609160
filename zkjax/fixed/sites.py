"""Sites: named places of a function whose values and cotangents can be watched as it runs.

``observe`` marks a place and changes nothing. ``observations`` runs a function of floats and says
how large the values at each place were, and their cotangents, separately for the steps of a scan
(the layers of a model).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from zkjax._arguments import checked
from zkjax._marks import Between
from zkjax.fixed.rounding import Format
from zkjax.fixed.types import Real
from zkjax.program.recording import record_sites

__all__ = ["Seen", "Site", "choose", "observations", "observe"]


class Site(NamedTuple):
    """How a named place rounds.

    Attributes:
      forward, backward: the formats of the value and of its cotangent.
      forward_shifts, backward_shifts: for each layer the number of further fraction bits; the range
        of the format shrinks by as much. Empty where all layers are alike.
    """

    forward: Format = Format(11, 16)
    backward: Format = Format(20, 24)
    forward_shifts: tuple[int, ...] = ()
    backward_shifts: tuple[int, ...] = ()


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


@checked
def observe(x: Real, name: str, *, forward: bool = True, backward: bool = True):
    """x, marked as a site: its values and its cotangents, or one of both."""
    return _observe(x, name, forward, backward)


@dataclass
class Seen:
    """What was seen at a site: (steps of the scan around it or 1,) each.

    Attributes:
      largest: of the magnitudes.
      typical: their size where nothing stands out, mean(sqrt |x|)^2: one massive entry hardly
        moves it.
      root_mean_square: their size on average.
    """

    largest: np.ndarray
    typical: np.ndarray
    root_mean_square: np.ndarray

    @checked
    def join(self, other: Seen) -> Seen:
        """Of two runs or places: the larger range, the smaller sizes."""
        return Seen(
            np.maximum(self.largest, other.largest),
            np.minimum(self.typical, other.typical),
            np.minimum(self.root_mean_square, other.root_mean_square),
        )

    def over_steps(self) -> Seen:
        """The same for all steps together."""
        return Seen(
            self.largest.max(keepdims=True),
            self.typical.min(keepdims=True),
            self.root_mean_square.min(keepdims=True),
        )


@checked
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
            seen = Seen(*values.reshape(-1, 3).T)
            name = names[number]
            if name in found and found[name].largest.shape == seen.largest.shape:
                seen = found[name].join(seen)
            found[name] = seen
        return out_tree.unflatten(outputs), found

    return run


ROOM = {"forward": 0.5, "backward": 1.25}  # bits by which a value may exceed what was seen
# Bits of a value that rounding leaves: of a typical one forward, since what is small counts where
# it is multiplied by what is large; of the root mean square backward, since gradients are sums.
PRECISION = {"forward": 11, "backward": 7}
STEP_ROOM = 0.75  # more, of a single step: fewer values were seen there
WIDE_ROOM = 1  # more of formats beyond 16 bits, where it costs nothing
SLACK = 1  # bits less that are as good, if they save a lookup


@checked
def choose(
    seen: Mapping[tuple[str, str], Seen],
    known: Mapping[str, Site],
    *,
    narrow: Collection[str] = (),
    by_step: Collection[str] = (),
    uniform: Callable[[str], bool] = lambda name: False,
    room: Annotated[float, Between(0, 8)] = 0.0,
    precision: Mapping[str, Annotated[int, Between(1, 40)]] = PRECISION,
) -> dict[str, Site]:
    """Formats for the sites of a function from what was seen there.

    A format holds more than the largest value seen, by ``ROOM``. It has 16 bits, which cost one
    lookup, if rounding then leaves ``precision`` bits; else so many that it does. Where the steps
    of a scan differ so much that shifts by step save a lookup, it has shifts.

    Args:
      known: formats of sites at which only zeros were seen, and of ways that were not seen.
      narrow: sites that must have 16 bits, because tables are looked up by their values.
      by_step: sites that must have 16 bits too, but can have shifts.
      uniform: whether a site can have no shifts.
      room: bits of range to add to ``ROOM``.
    """
    found = {}
    for name in dict.fromkeys(name for name, _ in seen):
        site = known.get(name, Site())
        for way in ("forward", "backward"):
            if (name, way) not in seen or not seen[name, way].largest.any():
                continue
            sizes = seen[name, way]
            if uniform(name):
                sizes = sizes.over_steps()
            size = sizes.typical if way == "forward" else sizes.root_mean_square
            if name in by_step and way == "forward":
                form, shifts = _narrow(sizes.largest, ROOM[way] + room)
            else:
                only = name in narrow and way == "forward"
                form, shifts = _format(sizes.largest, size, ROOM[way] + room, precision[way], only)
            site = site._replace(**{way: form, f"{way}_shifts": shifts})
        found[name] = site
    return found


def _narrow(largest, room: float):
    """16 bits, and the shifts that give every step its own range."""
    largest = np.maximum(largest, largest.max() * 2.0**-20)
    fractions = 15 - np.ceil(np.log2(largest) + room + STEP_ROOM).astype(int)
    least = int(fractions.min())
    shifts = tuple(int(f) - least for f in fractions)
    return Format(least, 16), shifts if any(shifts) else ()


def _format(largest, typical, room: float, precision: int, narrow: bool):
    """The format, and the shifts by step, of one way through a site."""
    largest = np.maximum(largest, largest.max() * 2.0**-20)
    typical = np.maximum(typical, largest * 2.0**-16)
    whole = np.ceil(np.log2(largest) + room).astype(int)
    # Rounding to f bits adds an error of standard deviation 2^-f / sqrt(12).
    needed = np.ceil(precision - np.log2(typical) - np.log2(12) / 2).astype(int)
    together = int(whole.max() + needed.max()) + 1
    if narrow or together - SLACK <= 16:
        return Format(15 - int(whole.max()), 16), ()
    whole = np.ceil(np.log2(largest) + room + STEP_ROOM).astype(int)
    by_step = int((whole + needed).max()) + 1
    if _lookups(by_step - SLACK) < _lookups(together):
        fractions = 15 - whole if by_step - SLACK <= 16 else needed
        least = int(fractions.min())
        bits = int((whole + fractions).max()) + 1
        return Format(least, bits), tuple(int(f) - least for f in fractions)
    return Format(int(needed.max()), together + WIDE_ROOM), ()


def _lookups(bits: int) -> int:
    return -(-bits // 16)
