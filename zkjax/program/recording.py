"""Running a jaxpr while keeping every scan's carries, which a batched program cannot recompute."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from zkjax._compat import scan_sizes
from zkjax.program.jaxprs import inner_jaxpr


def record_carries(closed, inputs: Sequence[Any]) -> tuple[list, dict[tuple[int, int], Any]]:
    """Run a closed jaxpr and collect every scan's carry-outs, innermost loop axis first.

    Returns:
      the outputs, and {(scan number in visiting order, carry number): stacked values}.
    """
    counter = [0]
    outputs, records = _record(closed, list(inputs), counter)
    return outputs, {key: value for key, (value, _) in records.items()}


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


def _record(closed, inputs, counter):
    env: dict[Any, Any] = {}
    records: dict[tuple[int, int], tuple[Any, int]] = {}

    def read(atom):
        return atom.val if hasattr(atom, "val") else env[atom]

    jaxpr = closed.jaxpr
    env.update(zip(jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(jaxpr.invars, inputs, strict=True))
    for eqn in jaxpr.eqns:
        operands = [read(a) for a in eqn.invars]
        inner = inner_jaxpr(eqn)
        if eqn.primitive.name == "scan":
            outputs, more = _record_scan(eqn, operands, counter)
            records.update(more)
        elif inner is not None:
            used = operands[-len(inner.jaxpr.invars) :] if inner.jaxpr.invars else []
            outputs, more = _record(inner, used, counter)
            records.update(more)
        else:
            outputs = eqn.primitive.bind(*operands, **eqn.params)
            if not eqn.primitive.multiple_results:
                outputs = [outputs]
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [read(a) for a in jaxpr.outvars], records


def _record_scan(eqn, operands, counter):
    from jax import lax
    from jax import numpy as jnp

    p = eqn.params
    n_const, n_carry = scan_sizes(p)
    consts, init, xs = (
        operands[:n_const],
        operands[n_const : n_const + n_carry],
        operands[n_const + n_carry :],
    )
    number = counter[0]
    counter[0] += 1
    first_inner = counter[0]
    depths: dict[tuple[int, int], int] = {}

    def body(carry, x):
        counter[0] = first_inner
        outs, inner = _record(p["jaxpr"], [*consts, *carry, *x], counter)
        depths.update({key: depth for key, (_, depth) in inner.items()})
        carry_out = outs[:n_carry]
        recorded = {key: value for key, (value, _) in inner.items()}
        recorded.update({(number, i): v for i, v in enumerate(carry_out)})
        names = [str(k) for k in recorded]
        keys.update(dict(zip(names, recorded, strict=True)))
        return carry_out, (outs[n_carry:], dict(zip(names, recorded.values(), strict=True)))

    keys: dict[str, tuple[int, int]] = {}
    carry, (ys, stacked) = lax.scan(
        body, list(init), list(xs), length=p["length"], reverse=p["reverse"]
    )
    records = {}
    for name, value in stacked.items():
        key = keys[name]
        depth = depths.get(key, 0)
        records[key] = (jnp.moveaxis(value, 0, depth), depth + 1)
    return [*carry, *ys], records
