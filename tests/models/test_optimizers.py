"""Optimizers in fixed point against optax in float64, and optax's own transformations in proofs."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import zkjax
from zkjax import fixed
from zkjax._compat import x64
from zkjax.errors import OptionError, TraceError, ValueRangeError
from zkjax.fixed import Format
from zkjax.fixed.sites import Site
from zkjax.models import second_moment
from zkjax.models.hyperparameters import OptimizerConfig, dyadic, hyperparameters
from zkjax.models.numerics import FixedPoint
from zkjax.models.optimizers import (
    clip_by_global_norm,
    decode_hyperparameters,
    float_optimizer,
    make_optimizer,
)
from zkjax.models.second_moment import COARSE, FINE, ROOT_FRACTION, Wide

POINT = FixedPoint()
SCHEDULE = {"schedule": "cosine", "warmup_steps": 10, "total_steps": 150}
CONFIGS = {
    "sgd": OptimizerConfig("sgd", 0.1),
    "decayed": OptimizerConfig("sgd", 0.1, weight_decay=0.01, schedule="linear", total_steps=200),
    "momentum": OptimizerConfig("sgd", 0.03, momentum=0.9, **SCHEDULE),
    "nesterov": OptimizerConfig("sgd", 0.03, momentum=0.9, nesterov=True, max_grad_norm=0.5),
    "adamw": OptimizerConfig("adamw", 0.01, weight_decay=0.05, max_grad_norm=1.0, **SCHEDULE),
    "adam": OptimizerConfig("adamw", 0.003, b1=0.8, b2=0.95, eps=1e-6),
}


@cache
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = np.floor(rng.normal(size=(16, 5)) * 2**8) * 2.0**-8
    return x, np.floor((x @ rng.normal(size=(5, 3)) + rng.normal(size=(16, 3))) * 2**8) * 2.0**-8


def loss_of(w):
    x, y = data()
    error = x @ w["a"] + w["b"] - y
    return jnp.sum(error * error) * 2.0**-4


@pytest.mark.parametrize("name", CONFIGS)
def test_two_hundred_steps_are_those_of_optax(name):
    """Least squares. What differs: rates of 15 bits, factors of 12, masters with 24 fraction
    bits.
    """
    config = CONFIGS[name]
    optimizer, reference = make_optimizer(config, POINT), float_optimizer(config)

    @zkjax.provable
    def step(stored, state, hyper):
        w = jax.tree.map(lambda x: fixed.decode(x, 24), stored)
        small = jax.tree.map(lambda x: fixed.round(x, 20, 24), w)
        grads = jax.tree.map(lambda g: fixed.round(g, 24, 29), jax.grad(loss_of)(small))
        hyper = decode_hyperparameters(config, POINT, hyper)
        updates, state = optimizer.update(grads, state, w, **hyper)
        new = optax.apply_updates(w, updates)
        return jax.tree.map(lambda x: fixed.encode(x, 24), new), state

    with x64():
        w = {"a": np.full((5, 3), 0.25), "b": np.zeros(3)}
        stored = jax.tree.map(lambda x: fixed.quantize(x, 24), w)
        ours, theirs = optimizer.init(w), reference.init(w)
        update = jax.jit(lambda w, s: reference.update(jax.grad(loss_of)(w), s, w))
        first = float(loss_of(w))
        for count in range(200):
            stored, ours = step(stored, ours, hyperparameters(config, count))
            updates, theirs = update(w, theirs)
            w = optax.apply_updates(w, updates)
        apart = jax.tree.map(lambda a, b: np.abs(a * 2.0**-24 - b).max(), stored, w)
        assert max(jax.tree.leaves(apart)) < 2e-4, apart
        assert float(loss_of(w)) < 0.9 * first
    assert jax.tree.structure(ours, is_leaf=lambda x: isinstance(x, Wide)) == jax.tree.structure(
        optimizer.init(w), is_leaf=lambda x: isinstance(x, Wide)
    )


def test_states_are_of_optax_own_types():
    params = {"a": np.zeros((2, 3))}
    clip, adam, decay, rate = make_optimizer(CONFIGS["adamw"], POINT).init(params)
    assert isinstance(adam, optax.ScaleByAdamState)
    assert all(isinstance(s, optax.EmptyState) for s in (clip, decay, rate))
    assert isinstance(make_optimizer(CONFIGS["momentum"], POINT).init(params)[0], optax.TraceState)
    for name in CONFIGS:
        state = make_optimizer(CONFIGS[name], POINT).init(params)
        assert all(x.dtype == np.int32 for x in jax.tree.leaves(state))


# Adam ---------------------------------------------------------------------------------------------


def exact(nu: Wide) -> list[Fraction]:
    """Two stored parts as fractions."""
    parts = zip(np.ravel(nu.coarse).tolist(), np.ravel(nu.fine).tolist(), strict=True)
    return [Fraction(a, 1 << COARSE) + Fraction(b, 1 << FINE) for a, b in parts]


@pytest.mark.parametrize("b2", [0.5, 0.95, 0.999, 0.99999])
def test_the_second_moment_is_rounded_upwards_by_two_units_at_most(b2, rng):
    """Over all magnitudes of both, in exact fractions."""
    c = dyadic(1.0 - b2)

    @zkjax.provable
    def averaged(stored, h):
        nu = second_moment.load(Wide(*stored))
        nu = second_moment.decayed_square(nu, fixed.decode(h, 13), c)
        return tuple(second_moment.store(nu))

    n = 4000
    size = 2.0 ** rng.uniform(0, 28, n)
    low, high = -(1 << 28), (1 << 28) - (1 << 12) - 1
    h = np.clip(np.floor(rng.normal(size=n) * size), low, high).astype(np.int32)
    h[:4] = [0, 1, low, high]
    whole = np.floor(2.0 ** rng.uniform(0, 62.9, n)).astype(np.int64)
    whole[:8] = [0, 0, 1 << 62, 0, 1, 2, (1 << 31) - 1, 1 << 31]
    coarse = (whole + (1 << 31)) >> 32
    stored = coarse.astype(np.int32), (whole - (coarse << 32)).astype(np.int32)
    new = exact(Wide(*map(np.asarray, averaged(stored, h))))
    for old, g, got in zip(exact(Wide(*stored)), h.tolist(), new, strict=True):
        real = old + Fraction(c) * (Fraction(g, 1 << 13) ** 2 - old)
        assert 0 <= got - real < Fraction(2, 1 << FINE)


def test_the_root_of_the_second_moment_over_its_whole_domain():
    """From one unit, 2.8e-17 of a gradient's square, to 256: within 2^-11 and half a unit."""
    k = np.unique(np.concatenate([2 ** np.arange(62.0), 2.0 ** np.linspace(0, 62.99, 20000)]))
    whole = np.concatenate([[0], k.astype(np.int64)])
    coarse = (whole + (1 << 31)) >> 32
    stored = Wide(coarse.astype(np.int32), (whole - (coarse << 32)).astype(np.int32))

    with x64():
        nu = Wide(stored.coarse * 2.0**-COARSE, stored.fine * 2.0**-FINE)
        got = np.asarray(second_moment.root(nu))
    real = np.sqrt(whole * 2.0**-FINE)
    assert np.all(np.abs(got - real) <= real * 2.0**-11 + 2.0 ** -(ROOT_FRACTION + 1))
    assert got[0] == 0
    # In units of a gradient with 24 fraction bits.
    assert 2.0**-FINE * 4.0**-11 < 1e-16 < 1e2 < whole[-1] * 2.0**-FINE * 4.0**-11


def test_adam_on_gradients_of_all_sizes(rng):
    """Ratios of 300 steps: exact to 1 % from gradients of 2^-18 on, and no update too large below,
    down to the last bit of a gradient.
    """
    config, n = OptimizerConfig("adamw", 1.0), 512
    optimizer, factors = make_optimizer(config, POINT), config.factors
    reference = optax.scale_by_adam(factors["b1"], factors["b2"], config.eps)
    size = 2.0 ** np.linspace(-24, 2, n)

    @zkjax.provable
    def step(g, state, hyper):
        hyper = decode_hyperparameters(config, POINT, hyper)
        updates, state = optimizer.update(fixed.decode(g, 24), state, None, **hyper)
        return jax.tree.map(lambda u: fixed.encode(u, 20), updates), state

    with x64():
        ours, theirs = optimizer.init(size), reference.init(size)
        update = jax.jit(reference.update)
        for count in range(300):
            stored = fixed.quantize(np.clip(rng.normal(size=n), -3, 3) * size, 24)
            got, ours = step(stored, ours, hyperparameters(config, count))
            real, theirs = update(stored * 2.0**-24, theirs)
            got, real = -np.asarray(got) * 2.0**-20, np.asarray(real)
            assert np.all(np.abs(got) <= 1.25 * np.abs(real) + 0.25)
            if count >= 20:
                assert np.abs(got - real)[size > 2.0**-18].max() < 0.01
                assert np.abs(got - real)[size > 2.0**-10].max() < 2.0**-10


def test_a_parameter_without_gradient_does_not_move():
    config = OptimizerConfig("adamw", 1.0)
    optimizer = make_optimizer(config, POINT)
    hyper = decode_hyperparameters(config, POINT, hyperparameters(config, 0))
    with x64():
        updates, state = optimizer.update(np.zeros(3), optimizer.init(np.zeros(3)), None, **hyper)
    assert not np.any(updates) and not np.any(jax.tree.leaves(state[0].nu))
    assert state[0].count == 1


# Ranges -------------------------------------------------------------------------------------------


def updated(config, g, point=POINT):
    optimizer = make_optimizer(config, point)

    def step(g, state, hyper):
        hyper = decode_hyperparameters(config, point, hyper)
        return fixed.encode(optimizer.update(fixed.decode(g, 16), state, None, **hyper)[0], 24)

    fraction = point.site("optimizer.gradient").forward.fraction
    state = optimizer.init(np.zeros(len(g)))
    return zkjax.provable(step)(g, state, hyperparameters(config, 0, fraction))


def test_a_gradient_that_leaves_its_format_names_the_site_and_the_setting_helps():
    config, g = OptimizerConfig("adamw", 0.01, eps=1e-7), fixed.quantize([20.0, 1.0], 16)
    with pytest.raises(ValueRangeError, match=r"site optimizer\.gradient.*wider format"):
        updated(config, g)
    wider = FixedPoint(sites={"optimizer.gradient": Site(Format(22, 29))})
    expected = -0.01 * 2.0**24
    assert np.abs(np.asarray(updated(config, g, wider)) - expected).max() < 0.002 * 2.0**24
    with pytest.raises(OptionError, match=r"optimizer\.gradient has 29 bits, not 32"):
        updated(config, g, FixedPoint(sites={"optimizer.gradient": Site(Format(24, 32))}))


def test_an_update_that_leaves_its_format_names_the_site():
    with pytest.raises(ValueRangeError, match=r"site optimizer\.update"):
        updated(OptimizerConfig("sgd", 1.0), fixed.quantize([3.0], 16))


def test_other_fraction_bits_of_the_gradient_are_another_unit():
    """With 28 fraction bits, gradients a sixteenth as large give the same updates."""
    config = OptimizerConfig("adamw", 0.01, eps=1e-6)
    finer = FixedPoint(sites={"optimizer.gradient": Site(Format(28, 29))})
    g = fixed.quantize([0.5, -0.001, 0.02], 16)
    a, b = updated(config, g), updated(config, g, finer)
    assert np.abs(np.asarray(a) - np.asarray(b)).max() < 2e-4 * 2.0**24


# Clipping -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [0.01, 0.3, 1.0, 7.0])
def test_clipping_by_the_global_norm(max_norm, rng):
    """Factors within 2^-10 for norms from 2^-8 to 2^4 of the largest; gradients whose norm is below
    it are not touched.
    """
    clip = clip_by_global_norm(max_norm, Format(24, 29), Format(16, 21))
    theirs = optax.clip_by_global_norm(max_norm)
    with x64():
        for log in np.linspace(-4, 4, 33):
            direction = rng.normal(size=40)
            g = direction / np.linalg.norm(direction) * min(max_norm * 2.0**log, 15.0)
            g = np.floor(g * 2**24) * 2.0**-24
            tree = {"a": g[:30].reshape(5, 6), "b": g[30:]}
            got, _ = clip.update(tree, clip.init(tree))
            real, _ = theirs.update(tree, theirs.init(tree))
            allowed = (2.0**-11 + 40 * 2.0**-16 / max_norm) * max_norm
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(real), strict=True):
                assert np.abs(np.asarray(a) - b).max() <= allowed
            if log < -0.1:
                assert np.array_equal(got["b"], tree["b"])


# optax's own --------------------------------------------------------------------------------------

UNMODIFIED = {
    "identity": optax.identity(),
    "scale": optax.scale(-0.5),
    "scale_by_learning_rate": optax.scale_by_learning_rate(0.125),
    "sgd": optax.sgd(0.125, momentum=0.5, nesterov=True),
    "trace": optax.trace(0.75),
    "ema": optax.ema(0.5, debias=False),
    "add_decayed_weights": optax.add_decayed_weights(2.0**-7),
    "clip": optax.clip(1.0),
    "sign_sgd": optax.sign_sgd(0.125),
    "scale_by_lion": optax.scale_by_lion(0.5, 0.75),
    "scale_by_schedule": optax.scale_by_schedule(optax.constant_schedule(0.5)),
    "apply_every": optax.apply_every(2),
    "zero_nans": optax.zero_nans(),
    "centralize": optax.centralize(),
    "keep_params_nonnegative": optax.keep_params_nonnegative(),
    "masked": optax.masked(optax.scale(0.5), True),
    "partition": optax.partition({"w": optax.scale(0.5)}, "w"),
    "optimistic": optax.optimistic_gradient_descent(0.125, 0.5, 0.5),
    "chain": optax.chain(optax.clip(1.0), optax.trace(0.5), optax.scale(-0.125)),
}


@pytest.mark.parametrize("name", UNMODIFIED)
def test_transformations_of_optax_in_a_proof(name):
    """As they are, with binary factors: what the proof gives is bit for bit what optax computes.
    Counts are kept in 16 bits, all other states with 16 fraction bits.
    """
    transformation = UNMODIFIED[name]
    g = fixed.quantize([[0.5, -1.25], [2.0, 0.25]], 12)
    w = fixed.quantize([[1.0, -1.0], [0.25, 3.0]], 12)
    with x64():
        state = transformation.init(w * 2.0**-12)
        state = jax.tree.map(lambda s: s + (0.5 if s.dtype == np.float64 else 0), state)
    kinds = [np.asarray(s).dtype for s in jax.tree.leaves(state)]
    form = jax.tree.structure(state)

    def load(x, kind):
        if kind == np.float64:
            return fixed.decode(x, 16)
        return x != 0 if kind.kind == "b" else x.astype(kind)

    def store(x):
        return fixed.encode(x, 16) if x.dtype == np.float64 else x.astype(jnp.uint16)

    def step(g, w, leaves):
        old = form.unflatten([load(x, k) for x, k in zip(leaves, kinds, strict=True)])
        updates, new = transformation.update(fixed.decode(g, 12), old, fixed.decode(w, 12))
        moved = optax.apply_updates(fixed.decode(w, 12), updates)
        return fixed.encode(moved, 20), [
            store(x) for x in jax.tree.leaves(new) if x.dtype.kind != "b"
        ]

    stored = [
        fixed.quantize(s, 16) if k == np.float64 else np.asarray(s, np.uint16)
        for s, k in zip(jax.tree.leaves(state), kinds, strict=True)
    ]
    (moved, after), proof = zkjax.prove(step)(zkjax.seal(g, openings=1), w, stored)
    commitment = zkjax.Claims.from_json(proof.claims.to_json()).input_commitments[0]
    zkjax.verify(step)(commitment.like(g), w, stored, proof=proof)
    with x64():
        updates, new = transformation.update(g * 2.0**-12, state, w * 2.0**-12)
        assert np.array_equal(moved * 2.0**-20, optax.apply_updates(w * 2.0**-12, updates))
        real = [x for x in jax.tree.leaves(new) if x.dtype.kind != "b"]
        for ours, theirs in zip(after, real, strict=True):
            scale = 2.0**-16 if theirs.dtype == np.float64 else 1
            assert np.array_equal(ours * scale, theirs)


REFUSED = {
    "adam": (optax.adam(0.125), "zkjax.models.optimizers.scale_by_adam"),
    "adamw": (optax.adamw(0.125), "zkjax.models.optimizers.scale_by_adam"),
    "nadam": (optax.nadam(0.125), "zkjax.models.optimizers.scale_by_adam"),
    "rmsprop": (optax.rmsprop(0.125), "optax.scale_by_rms: use zkjax.models.optimizers"),
    "adagrad": (optax.adagrad(0.125), "optax.scale_by_rss: use zkjax.models.optimizers"),
    "adadelta": (optax.adadelta(0.125), "optax.scale_by_adadelta: use zkjax.models.optimizers"),
    "amsgrad": (optax.amsgrad(0.125), "optax.scale_by_amsgrad: use zkjax.models.optimizers"),
    "yogi": (optax.yogi(0.125), "optax.scale_by_yogi: use zkjax.models.optimizers"),
    "radam": (optax.radam(0.125), "optax.scale_by_radam: use zkjax.models.optimizers"),
    "adabelief": (optax.adabelief(0.125), "optax.scale_by_belief: use zkjax.models.optimizers"),
    "sm3": (optax.sm3(0.125), "optax.scale_by_sm3: use zkjax.models.optimizers"),
    "lars": (optax.lars(0.125), "optax.scale_by_trust_ratio: use zkjax.models.optimizers"),
    "global norm": (optax.clip_by_global_norm(1.0), "zkjax.models.optimizers.clip_by_global_norm"),
    "block rms": (optax.clip_by_block_rms(1.0), "zkjax.models.optimizers.clip_by_global_norm"),
    "decimal rate": (optax.sgd(0.1), "zkjax.fixed.constant"),
    "decimal decay": (optax.add_decayed_weights(0.01), "zkjax.fixed.constant"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_optax_approximates_is_refused_with_what_to_use(name):
    transformation, told = REFUSED[name]
    with x64():
        state = transformation.init(np.ones(3))

    def step(g, leaves):
        values = [fixed.decode(x, 12) if x.dtype == jnp.int32 else x for x in leaves]
        old = jax.tree.structure(state).unflatten(values)
        w = fixed.decode(g, 12)
        return fixed.encode(transformation.update(w, old, w)[0], 12)

    stored = [
        fixed.quantize(s, 12) if s.dtype == np.float64 else np.asarray(s, np.uint16)
        for s in jax.tree.leaves(state)
    ]
    with pytest.raises(TraceError) as caught:
        zkjax.trace(step)(zkjax.Private(np.ones(3, np.int32)), stored)
    assert told in str(caught.value)
