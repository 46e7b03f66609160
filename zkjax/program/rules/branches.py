"""``cond``: the branch that is known, or all of them and a choice."""

from __future__ import annotations

import numpy as np

from zkjax.errors import UnsupportedPrimitiveError
from zkjax.program.jaxprs import scans_in
from zkjax.program.rules.comparison import chosen
from zkjax.program.tracer import Tracer, primitive


@primitive("cond")
def _cond(t: Tracer, eqn, index, *operands):
    """All branches are proved if the predicate depends on data, so that each has to keep its
    ranges, as with ``jnp.where``.
    """
    branches = eqn.params["branches"]
    what = f"the index of a branch is not shown to be below {len(branches)}"
    if isinstance(index, np.ndarray):
        known = int(index)
        if not 0 <= known < len(branches):
            raise UnsupportedPrimitiveError(what, t.where)
        t.scans += sum(map(scans_in, branches[:known]))
        outputs = t.run(branches[known], operands)
        t.scans += sum(map(scans_in, branches[known + 1 :]))
        return outputs
    found = [t.run(branch, operands) for branch in branches]
    return [
        chosen(t, index, [outputs[i] for outputs in found], tuple(var.aval.shape), what)
        for i, var in enumerate(eqn.outvars)
    ]
