"""``cond``: the branch that is known, or both of them and a choice."""

from __future__ import annotations

import numpy as np

from zkjax.errors import UnsupportedPrimitiveError
from zkjax.program.jaxprs import scans_in
from zkjax.program.rules.comparison import choose
from zkjax.program.tracer import Sym, Tracer, primitive


@primitive("cond")
def _cond(t: Tracer, eqn, index, *operands):
    """Both branches are proved if the predicate depends on data, so that each has to keep its
    ranges, as with ``jnp.where``.
    """
    branches = eqn.params["branches"]
    if isinstance(index, np.ndarray):
        known = min(max(int(index), 0), len(branches) - 1)
        t.scans += sum(map(scans_in, branches[:known]))
        outputs = t.run(branches[known], operands)
        t.scans += sum(map(scans_in, branches[known + 1 :]))
        return outputs
    if len(branches) != 2:
        raise UnsupportedPrimitiveError(
            f"a choice between {len(branches)} branches by data cannot be proved; nest "
            "jax.lax.cond, or compare as in jnp.where(i == 1, x, y)",
            t.where,
        )
    zero, one = (t.run(branch, operands) for branch in branches)
    t.builder.rely(index.var, 0, 1, "the index of a branch is not 0 or 1")
    out = []
    for var, if_zero, if_one in zip(eqn.outvars, zero, one, strict=True):
        shape = tuple(var.aval.shape)
        bit = Sym(t.builder.broadcast(index.var, shape, []), 0)
        out.append(choose(t, bit, if_one, if_zero, shape))
    return out
