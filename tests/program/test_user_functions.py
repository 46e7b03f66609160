"""Functions the library has never seen, written as a user would, proved and verified by the public
API.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import zkjax
from zkjax import fixed


def round_trip(fn, *args, sealed_outputs=False, profile="s100"):
    """Prove, verify from commitments, compare with the plain run; returns outputs and proof."""
    outputs, proof = zkjax.prove(fn, sealed_outputs=sealed_outputs, profile=profile)(*args)
    public = [a.commitment if isinstance(a, zkjax.Sealed) else a for a in args]
    verify = zkjax.verify(fn, sealed_outputs=sealed_outputs, profile=profile)
    claimed = verify(*public, proof=proof)
    plain = zkjax.provable(fn)(*args)
    opened = jax.tree.map(
        lambda x: x.tree if isinstance(x, zkjax.Sealed) else x,
        outputs,
        is_leaf=lambda x: isinstance(x, zkjax.Sealed),
    )
    jax.tree.map(np.testing.assert_array_equal, opened, plain)
    is_commitment = lambda x: isinstance(x, zkjax.Commitment)  # noqa: E731
    flat = jax.tree.leaves(claimed, is_leaf=is_commitment)
    assert len(flat) == len(jax.tree.leaves(plain))
    return outputs, proof


def test_an_mlp_and_its_sgd_step_by_grad(rng):
    """Two layers with relu, mean squared error, jax.grad, a step; weights and data private."""

    def step(weights, x, y):
        params = jax.tree.map(lambda w: fixed.decode(w, 12), weights)

        def loss(params):
            h = jax.nn.relu(fixed.round(fixed.decode(x, 8) @ params["in"], 12, 16))
            out = fixed.round(h @ params["out"], 12, 16)
            error = out - fixed.decode(y, 8)
            return jnp.sum(error * error) * (1 / 16)

        value, grads = jax.value_and_grad(loss)(params)
        new = jax.tree.map(lambda p, g: fixed.encode(p - 0.125 * g, 12, jnp.int16), params, grads)
        return new, fixed.encode(value, 12)

    weights = {
        "in": rng.integers(-2000, 2000, (5, 6)).astype(np.int16),
        "out": rng.integers(-2000, 2000, (6, 3)).astype(np.int16),
    }
    x = rng.integers(-200, 200, (4, 5)).astype(np.int16)
    y = rng.integers(-200, 200, (4, 3)).astype(np.int16)
    args = zkjax.seal(weights), zkjax.seal(x, openings=1), zkjax.seal(y, openings=1)
    (new, loss), _ = round_trip(step, *args, sealed_outputs=(True, False))
    assert set(new.tree) == {"in", "out"} and int(loss) > 0
    # The sealed output of one proof is an argument of the next.
    fresh = zkjax.seal(x, openings=1), zkjax.seal(y, openings=1)
    (_, later), _ = zkjax.prove(step, sealed_outputs=(True, False))(new, *fresh)
    assert int(later) < int(loss)


def test_a_linen_module(rng):
    """A Linen module with its own parameters, in float64, between decode and encode."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(7, dtype=jnp.float64, param_dtype=jnp.float64, name="first")(x)
            x = fixed.silu(fixed.round(x, 12, 16))
            return nn.Dense(2, dtype=jnp.float64, param_dtype=jnp.float64, name="second")(x)

    def forward(params, x):
        decoded = jax.tree.map(lambda p: fixed.decode(p, 10), params)
        return fixed.encode(Net().apply({"params": decoded}, fixed.decode(x, 10)), 12)

    params = {
        "first": {
            "kernel": rng.integers(-900, 900, (3, 7)).astype(np.int16),
            "bias": rng.integers(-900, 900, 7).astype(np.int16),
        },
        "second": {
            "kernel": rng.integers(-900, 900, (7, 2)).astype(np.int16),
            "bias": rng.integers(-900, 900, 2).astype(np.int16),
        },
    }
    x = rng.integers(-900, 900, (2, 3)).astype(np.int16)
    round_trip(forward, zkjax.seal(params), x)


def test_a_scan_that_is_no_transformer(rng):
    """A damped oscillator: two carries, one output a step, nested jit, checkpoint and vmap."""

    @jax.jit
    def kick(v, x, k):
        return fixed.round(v - 0.125 * k * x, 16, 24)

    def simulate(x0, v0, k):
        def body(state, _):
            x, v = state
            v = jax.checkpoint(kick)(v, x, fixed.decode(k, 8))
            x = fixed.round(x + 0.125 * v, 16, 24)
            return (x, v), fixed.encode(x, 12)

        one = lambda x, v: jax.lax.scan(body, (x, v), None, length=11)  # noqa: E731
        (x, _), path = jax.vmap(one)(fixed.decode(x0, 12), fixed.decode(v0, 12))
        return path, fixed.encode(x, 12)

    x0 = rng.integers(-4000, 4000, 3).astype(np.int16)
    v0 = rng.integers(-4000, 4000, 3).astype(np.int16)
    round_trip(simulate, zkjax.seal(x0), zkjax.seal(v0), np.int16(300))


def test_nested_scans_in_both_directions(rng):
    def table(x):
        def row(total, xs):
            def cell(acc, x):
                acc = fixed.round(acc * 0.5 + x, 10, 20)
                return acc, acc

            last, cells = jax.lax.scan(cell, total, xs, reverse=True)
            return fixed.round(total * 0.25 + last, 10, 20), cells

        total, cells = jax.lax.scan(row, jnp.float64(0), fixed.decode(x, 8))
        return fixed.encode(total, 10), fixed.encode(cells, 10)

    round_trip(table, zkjax.seal(rng.integers(-100, 100, (5, 3)).astype(np.int8)))


def test_an_nnx_module_with_softmax_and_embedding(rng):
    """Embedding, softmax with a mask, maximum, division and a custom derivative."""

    class Head(nnx.Module):
        def __init__(self, table):
            self.table = nnx.Param(table)

        def __call__(self, ids):
            x = fixed.embed(self.table[...], ids)
            scores = fixed.round(x @ x.T, 10, 16)
            mask = jnp.tril(jnp.ones(scores.shape, dtype=bool))
            p = fixed.softmax(jnp.where(mask, scores, -32.0), mask, 10)
            return fixed.round(p @ x, 12, 16)

    def forward(table, ids):
        def total(values):
            return jnp.sum(Head(values)(ids))

        values = fixed.decode(table, 12)
        with fixed.cotangent_format(20, 24):
            slope = jax.grad(total)(values)
        return fixed.encode(slope, 20), fixed.encode(total(values), 12)

    table = rng.integers(-3000, 3000, (11, 4)).astype(np.int16)
    ids = rng.integers(0, 11, 6).astype(np.uint8)
    round_trip(forward, zkjax.seal(table), zkjax.seal(ids, openings=1))


def test_shape_operations_and_comparisons(rng):
    """Slices, padding, concatenation, reversal, indexing with constants, where, abs, sort-free
    max.
    """

    def shuffle(x):
        v = fixed.decode(x, 4)
        a = jnp.concatenate([v[:, 1:4], v[:, ::2], jnp.flip(v, 1)[:, :1]], axis=1)
        b = jnp.pad(a, ((1, 0), (0, 2)))[:, jnp.array([3, 0, 5, 1])]
        c = jnp.where(b > 0, b, -2.0 * b) + jnp.abs(b) * (b == 0)
        d = jnp.clip(c.reshape(2, -1).T, -3.0, 3.0)
        biggest = fixed.max(d.T, 8) + fixed.max(d[:1, :1], 8) * fixed.onehot(x[0, :1] * 0, 1)[0]
        return fixed.encode(jnp.maximum(d, 0.5), 4), fixed.encode(biggest[:, None] - d.T, 4)

    round_trip(shuffle, zkjax.seal(rng.integers(-120, 120, (3, 5)).astype(np.int8)))


def test_division_roots_and_logarithm(rng):
    def functions(x):
        v = fixed.decode(x, 6) + 1.0
        ratio = fixed.divide(3.0 - v, v, 12, 24)
        slope = jax.grad(lambda u: jnp.sum(fixed.rsqrt(u, 10, 16)))(v)
        return (
            fixed.encode(ratio, 12),
            fixed.encode(fixed.log(v, 6, 14), 14),
            fixed.encode(fixed.sigmoid(v, 12), 14),
            fixed.encode(slope, 20),
        )

    round_trip(functions, zkjax.seal(rng.integers(0, 255, (2, 3)).astype(np.uint8)))


def test_scalars_constants_and_public_arguments():
    """Scalar shapes, an output that is an input, one that is constant, nothing sealed."""

    def trivial(x, y):
        return x, fixed.encode(fixed.decode(x, 4) * fixed.decode(y, 4), 8), jnp.int32(7)

    x, y = np.int16(-31), np.int16(77)
    (same, product, seven), proof = zkjax.prove(trivial)(x, y)
    assert (int(same), int(product), int(seven)) == (-31, -31 * 77, 7)
    zkjax.verify(trivial)(x, y, proof=proof)
    with pytest.raises(zkjax.VerificationError, match="public input"):
        zkjax.verify(trivial)(x, np.int16(76), proof=proof)


@pytest.mark.parametrize("profile", ["s100", "s128"])
def test_both_profiles(profile, rng):
    def square(x):
        return fixed.encode(jnp.sum(fixed.decode(x, 4) ** 2), 4)

    x = zkjax.seal(rng.integers(-100, 100, 20).astype(np.int8), profile=profile)
    _, proof = round_trip(square, x, profile=profile)
    assert proof.report["soundness_bits"] >= int(profile[1:])
