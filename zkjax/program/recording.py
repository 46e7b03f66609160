"""Running a jaxpr while keeping what a compiled function does not give back.

Three things are kept: the carries of every scan, which a batched program cannot recompute; the
least and largest of all values that have to stay in a range (``Limit``), so that a run without a
proof refuses what a proof would; and how large the values at named sites are, for calibration.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zkjax._compat import scan_sizes
from zkjax.errors import ValueRangeError
from zkjax.fixed.primitives import LIMITS
from zkjax.program.jaxprs import (
    ON_ONE_DEVICE,
    inner_jaxpr,
    known_array,
    on_one_device,
    source_line,
    used_equations,
)

Records = dict[
    Hashable, tuple[Any, int]
]  # values with the axes of the scans around them, outermost last


@dataclass(frozen=True)
class Limit:
    """Values at a line of the program have to be in [low, high], in units of ``unit``."""

    low: int
    high: int
    unit: float
    what: str
    where: str

    def require(self, extremes: np.ndarray) -> None:
        """ValueRangeError unless (..., 2) least and largest values are inside; the leading axes are
        those of the scans around the line, innermost first.
        """
        flat = np.asarray(extremes, dtype=np.float64).reshape(-1, 2)
        bad = np.flatnonzero(~((flat[:, 0] >= self.low) & (flat[:, 1] <= self.high)))
        if not bad.size:
            return
        steps = np.unravel_index(int(bad[0]), np.shape(extremes)[:-1])
        step = "".join(f", step {int(s)} of a scan" for s in steps[::-1])
        cure = "raise `bits` or lower `fraction` there"
        if self.what.startswith("site "):
            step = step.replace("of a scan", "of a scan (layer)")
            cure = "give the site a wider format, or calibrate on more text or with more --room"
        low, high = flat[bad[0]]
        raise ValueRangeError(
            f"{self.what} at {self.where}{step}: value out of range: "
            f"[{self.low * self.unit:.6g}, {self.high * self.unit:.6g}] is allowed and "
            f"[{low * self.unit:.6g}, {high * self.unit:.6g}] was seen; {cure}"
        )


def record_carries(closed, inputs: Sequence[Any]) -> tuple[list, dict[tuple[int, int], Any]]:
    """Run a closed jaxpr and collect every scan's carry-outs, innermost loop axis first.

    Returns:
      the outputs, and {(scan number in visiting order, carry number): stacked values}.
    """
    outputs, records = _Recorder(lambda *_: []).run(closed, list(inputs))
    return outputs, {key: value for key, (value, _) in records.items()}


def record_extremes(closed, inputs: Sequence[Any], limits: dict[int, Limit]) -> tuple[list, dict]:
    """Run a closed jaxpr and collect the extremes of all limited values.

    Returns:
      the outputs, and {number of the limit: (..., 2) extremes}; ``limits`` is filled.
    """

    def extremes(eqn, operands, results, number: int, where: str) -> list:
        from jax import numpy as jnp

        if eqn.primitive.name not in LIMITS:
            return []
        found = []
        for values, low, high, unit, what in LIMITS[eqn.primitive.name](
            operands, results, eqn.params
        ):
            if not values.size:
                continue
            limits[number + len(found)] = Limit(low, high, unit, what, where)
            found.append(jnp.stack([jnp.min(values), jnp.max(values)]))
        return found

    return _observed(closed, inputs, extremes)


def record_sites(closed, inputs: Sequence[Any], names: dict[int, tuple[str, str]]):
    """Run a closed jaxpr and collect how large the values at its sites (``fixed.sites``) are.

    Returns:
      the outputs, and {number of the site: (..., 3) largest magnitude, mean(sqrt |x|)^2 and
      sqrt(mean(x^2)), the means of entries that are not 0}; ``names`` is filled with (name,
      "forward" or "backward").
    """

    def sizes(eqn, operands, results, number: int, where: str) -> list:
        from jax import numpy as jnp

        if eqn.primitive.name != "zk_site":
            return []
        names[number] = eqn.params["name"], eqn.params["way"]
        (x,) = operands
        size = jnp.abs(x)
        count = jnp.maximum(jnp.sum(size > 0), 1)  # masked entries say nothing of the rest
        typical = jnp.square(jnp.sum(jnp.sqrt(size)) / count)
        return [jnp.stack([jnp.max(size), typical, jnp.sqrt(jnp.sum(x * x) / count)])]

    return _observed(closed, inputs, sizes)


def _observed(closed, inputs: Sequence[Any], observe) -> tuple[list, dict[int, Any]]:
    outputs, records = _Recorder(observe).run(closed, list(inputs))
    return outputs, {key: value for key, (value, _) in records.items() if isinstance(key, int)}


def without_repeats(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Recorded values in the shape of their carry, which has no axis for an outer loop that does
    not change it.
    """
    for axes in itertools.combinations(range(1, values.ndim), values.ndim - len(shape)):
        first = values[tuple(slice(0, 1) if a in axes else slice(None) for a in range(values.ndim))]
        fits = tuple(n for a, n in enumerate(first.shape) if a not in axes) == tuple(shape)
        if fits and np.array_equal(np.broadcast_to(first, values.shape), values):
            return first.reshape(shape)
    raise RuntimeError("internal: a scan's carry was recorded in another shape")


class _Recorder:
    """Evaluates jaxprs. Scans and what is observed are numbered in visiting order; the body of a
    scan may be traced more than once and gets the same numbers each time.

    ``observe(eqn, operands, results, number, where)`` gives arrays to keep, numbered from there.
    """

    def __init__(self, observe: Callable):
        self._observe = observe
        self._scans = self._values = 0
        self._where = ""

    def run(self, closed, inputs: Sequence[Any]) -> tuple[list, Records]:
        from jax import numpy as jnp

        env: dict[Any, Any] = {}
        records: Records = {}

        def read(atom):
            return known_array(atom.val) if hasattr(atom, "val") else env[atom]

        jaxpr = closed.jaxpr
        env.update(zip(jaxpr.constvars, closed.consts, strict=True))
        env.update(zip(jaxpr.invars, inputs, strict=True))
        outer = self._where
        for eqn in used_equations(jaxpr):
            self._where = source_line(eqn) or outer
            operands = [read(a) for a in eqn.invars]
            inner = inner_jaxpr(eqn)
            if eqn.primitive.name == "scan":
                outputs, more = self._scan(eqn, operands)
                records.update(more)
            elif eqn.primitive.name == "cond":
                outputs, more = self._cond(eqn, operands)
                records.update(more)
            elif inner is not None:
                used = operands[-len(inner.jaxpr.invars) :] if inner.jaxpr.invars else []
                outputs, more = self.run(inner, used)
                records.update(more)
            elif eqn.primitive.name in ON_ONE_DEVICE:
                outputs = on_one_device(eqn, operands, jnp.reshape)
            else:
                outputs = eqn.primitive.bind(*operands, **eqn.params)
                if not eqn.primitive.multiple_results:
                    outputs = [outputs]
                records.update(self._seen(eqn, operands, outputs))
            env.update(zip(eqn.outvars, outputs, strict=True))
        self._where = outer
        return [read(a) for a in jaxpr.outvars], records

    def _cond(self, eqn, operands) -> tuple[list, Records]:
        """All branches are run, as all are proved, and keep the ranges of all."""
        from jax import numpy as jnp

        index, records = operands[0], {}
        chosen: list = []
        for number, branch in enumerate(eqn.params["branches"]):
            outputs, more = self.run(branch, operands[1:])
            records.update(more)
            if not number:
                chosen = outputs
            chosen = [
                jnp.where(index >= number, o, c) for o, c in zip(outputs, chosen, strict=True)
            ]
        return chosen, records

    def _seen(self, eqn, operands, outputs) -> Records:
        found = self._observe(eqn, operands, outputs, self._values, self._where)
        records: Records = {self._values + i: (value, 0) for i, value in enumerate(found)}
        self._values += len(found)
        return records

    def _scan(self, eqn, operands) -> tuple[list, Records]:
        from jax import lax
        from jax import numpy as jnp

        p = eqn.params
        n_const, n_carry = scan_sizes(p)
        consts, init, xs = (
            operands[:n_const],
            operands[n_const : n_const + n_carry],
            operands[n_const + n_carry :],
        )
        number, self._scans = self._scans, self._scans + 1
        first = self._scans, self._values
        depths: dict[Hashable, int] = {}

        def body(carry, x):
            self._scans, self._values = first
            outs, inner = self.run(p["jaxpr"], [*consts, *carry, *x])
            depths.update({key: depth for key, (_, depth) in inner.items()})
            carry_out = outs[:n_carry]
            recorded = {key: value for key, (value, _) in inner.items()}
            recorded.update({(number, i): v for i, v in enumerate(carry_out)})
            names = [str(k) for k in recorded]
            keys.update(dict(zip(names, recorded, strict=True)))
            return carry_out, (outs[n_carry:], dict(zip(names, recorded.values(), strict=True)))

        keys: dict[str, Hashable] = {}
        carry, (ys, stacked) = lax.scan(
            body, list(init), list(xs), length=p["length"], reverse=p["reverse"]
        )
        records: Records = {}
        for name, value in stacked.items():
            depth = depths.get(keys[name], 0)
            records[keys[name]] = (jnp.moveaxis(value, 0, depth), depth + 1)
        return [*carry, *ys], records
