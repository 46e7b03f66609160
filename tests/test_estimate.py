"""The dry run against the proof that it foresees."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import zkjax
from zkjax import fixed
from zkjax.errors import OptionError, ValueRangeError


def fn(x, y):
    v, w = fixed.decode(x, 8), fixed.decode(y, 8)
    p = fixed.softmax(fixed.round(v @ w, 8, 16), None, 8)
    return fixed.encode(p, 12), fixed.encode(jnp.sum(p), 12)


X = np.arange(-32, 32, dtype=np.int16).reshape(8, 8) * 9
Y = X.T.copy()


def test_sizes_are_those_of_the_proof():
    found = zkjax.check(fn, sealed_outputs=(True, False))(zkjax.Private(X), Y)
    (rows, total), proof = zkjax.prove(fn, sealed_outputs=(True, False))(zkjax.seal(X), Y)
    assert np.array_equal(found.outputs[0], rows.tree) and found.outputs[1] == total
    report = proof.report
    assert found.committed_elements == report["committed_elements"]
    assert report["lookups"] <= found.leaves < 2 * report["lookups"]
    assert found.operations == report["operations"]
    assert abs(found.proof_bytes / report["proof_bytes"] - 1) < 0.1
    assert found.memory_bytes > 0 < found.prove_seconds


def test_a_dry_run_refuses_what_a_proof_refuses():
    x = X.copy()
    x[0, 0] = 2**15 - 1
    with pytest.raises(ValueRangeError, match=r"fixed\.round"):
        zkjax.check(fn)(x, np.full((8, 8), 2**15 - 1, np.int16))
    with pytest.raises(OptionError, match="s99"):
        zkjax.check(fn, profile="s99")
