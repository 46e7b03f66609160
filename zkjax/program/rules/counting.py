"""What a scan carries that is known when it is traced: counters, and all that follows from them.

The counter of a ``fori_loop`` is a carry like any other. Where its values follow from constants
alone they are found here, and the body sees them as it sees constant xs: it may index with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zkjax.program.jaxprs import NOT_CONSTANT, ON_ONE_DEVICE, inner_jaxpr, known_array


def is_plain(eqn) -> bool:
    """Whether an equation can be evaluated ahead: no range is checked in it, nothing printed."""
    name, inner = eqn.primitive.name, inner_jaxpr(eqn)
    if inner is not None:
        return all(is_plain(e) for e in inner.jaxpr.eqns)
    bodies = {"cond", "scan", "while", *NOT_CONSTANT, *ON_ONE_DEVICE}
    return not (eqn.effects or name in bodies or name.startswith(("zk_", "random_")))


def following(jaxpr, known: set) -> set:
    """The variables that follow from ``known`` ones."""
    known = known | set(jaxpr.constvars)
    for eqn in jaxpr.eqns:
        if all(hasattr(v, "val") or v in known for v in eqn.invars) and is_plain(eqn):
            known.update(eqn.outvars)
    return known


def evaluated(closed, env: dict[Any, Any], known: set | None = None) -> dict[Any, Any]:
    """The values of all variables, or of the ``known`` ones, from those of the arguments."""
    jaxpr = closed.jaxpr
    env = {**dict(zip(jaxpr.constvars, closed.consts, strict=True)), **env}

    def read(atom):
        return atom.val if hasattr(atom, "val") else env[atom]

    for eqn in jaxpr.eqns:
        if known is not None and not known.issuperset(eqn.outvars):
            continue
        operands, inner = [read(v) for v in eqn.invars], inner_jaxpr(eqn)
        if inner is not None:
            used = operands[-len(inner.jaxpr.invars) :] if inner.jaxpr.invars else []
            inside = evaluated(inner, dict(zip(inner.jaxpr.invars, used, strict=True)))
            outputs = [v.val if hasattr(v, "val") else inside[v] for v in inner.jaxpr.outvars]
        else:
            outputs = eqn.primitive.bind(*operands, **eqn.params)
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
        env.update(zip(eqn.outvars, outputs, strict=True))
    return env


def known_carries(
    closed, n_const: int, n_carry: int, inputs: Sequence[Any], length: int, reverse: bool
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """The carries that are known: {number: (values with which steps begin, the last value)}.

    ``inputs``: those of the scan; arrays are known, anything else is not.
    """
    import jax

    jaxpr = closed.jaxpr
    given = {v: x for v, x in zip(jaxpr.invars, inputs, strict=True) if isinstance(x, np.ndarray)}
    first_x = n_const + n_carry
    carries = [i for i in range(n_carry) if jaxpr.invars[n_const + i] in given]
    while True:
        known = following(jaxpr, set(given))
        lost = [
            i
            for i in carries
            if not hasattr(jaxpr.outvars[i], "val") and jaxpr.outvars[i] not in known
        ]
        if not lost:
            break
        for i in lost:
            carries.remove(i)
            del given[jaxpr.invars[n_const + i]]
    if not carries or not length:
        return {}
    fixed = {v: given[v] for v in jaxpr.invars[:n_const] if v in given}
    stacked = {v: given[v] for v in jaxpr.invars[first_x:] if v in given}

    def body(entering, x):
        env = dict(zip((jaxpr.invars[n_const + i] for i in carries), entering, strict=True))
        env = evaluated(closed, {**fixed, **env, **dict(zip(stacked, x, strict=True))}, known)
        outs = (jaxpr.outvars[i] for i in carries)
        return [v.val if hasattr(v, "val") else env[v] for v in outs], entering

    start = [given[jaxpr.invars[n_const + i]] for i in carries]
    with jax.ensure_compile_time_eval():
        last, entered = jax.lax.scan(
            body, start, list(stacked.values()), length=length, reverse=reverse
        )
    return {
        i: (known_array(a), known_array(b)) for i, a, b in zip(carries, entered, last, strict=True)
    }
