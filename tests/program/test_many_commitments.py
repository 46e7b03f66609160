"""Many sealed arguments of different sizes, each with a code of its own, in one proof."""

from __future__ import annotations

import numpy as np

import zkjax
from zkjax import fixed


def test_twelve_differently_coded_commitments():
    rng = np.random.default_rng(2)
    arrays = [rng.integers(-9, 9, 1 << i, dtype=np.int8) for i in range(1, 13)]
    sealed = [zkjax.seal(x, openings=1 + i) for i, x in enumerate(arrays)]
    assert len({s.commitment.code for s in sealed}) > 10

    def total(*args):
        return sum(fixed.encode(fixed.decode(x, 0).sum(), 0) for x in args)

    result, proof = zkjax.prove(total)(*sealed)
    assert result == sum(int(x.sum()) for x in arrays)
    commitments = [s.commitment for s in sealed]
    assert zkjax.verify(total)(*commitments, proof=proof) == result
    assert proof.report["soundness_bits"] >= 100
