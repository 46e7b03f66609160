"""The LLaMA in fixed point against the same definition in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zkjax
from zkjax._compat import x64
from zkjax.models.adapter import init_adapter
from zkjax.models.config import LlamaConfig, LoraConfig, RopeScaling
from zkjax.models.data import batches, documentation
from zkjax.models.numerics import Float
from zkjax.models.pretrain import load_demo_base
from zkjax.models.rotary import inverse_frequencies, rotary_tables
from zkjax.proofs.finetune import (
    LOSS_FRACTION,
    WEIGHT_FRACTION,
    FineTuning,
    load_adapter,
    make_loss,
    make_step,
    store_adapter,
    store_rate,
)

RATE = 0.125


def start(lora: LoraConfig, key: int = 0):
    """The demo model with an adapter whose A and B are both random."""
    run = FineTuning(lora=lora)
    adapter = init_adapter(run.model, lora, jax.random.key(key))
    adapter = jax.tree.map(
        lambda x: x + 0.02 * jax.random.normal(jax.random.key(x.size), x.shape), adapter
    )
    return run, load_demo_base(), store_adapter(adapter)


def float_gradients(run, base, adapter, tokens):
    """Loss and gradients of the float64 model at the same stored weights."""
    weights = jax.tree.map(lambda x: x * 2.0**-WEIGHT_FRACTION, base)
    loss = make_loss(FineTuning(run.model, run.lora, Float()))
    with x64():
        return jax.value_and_grad(loss, argnums=1)(weights, load_adapter(adapter), tokens)


ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ALL])
def test_every_lora_gradient_matches_float64(targets, record_property):
    """Relative error of every adapter gradient, from one exact step of SGD.

    Activations carry 11 fraction bits and cotangents 20, each product rounded once, so errors of
    a fraction of a percent of a gradient's norm are what rounding predicts; a missing term of the
    backward pass would show as tens of percent.
    """
    run, base, adapter = start(LoraConfig(targets=targets))
    tokens = next(batches(documentation(), 4, 64, seed=3))
    new, loss = zkjax.provable(make_step(run))(base, adapter, tokens, store_rate(RATE))
    expected_loss, expected = float_gradients(run, base, adapter, tokens)
    assert abs(float(loss) * 2.0**-LOSS_FRACTION - float(expected_loss)) < 0.003
    got = jax.tree.map(lambda a, b: (a - b) / RATE, load_adapter(adapter), load_adapter(new))
    worst = {}
    for target in targets:
        for part in ("a", "b"):
            g, e = got[target][part], np.asarray(expected[target][part])
            worst[f"{target}.{part}"] = float(np.linalg.norm(g - e) / np.linalg.norm(e))
    record_property("relative_errors", worst)
    assert max(worst.values()) < 0.03, worst


def test_the_loss_curve_of_50_steps_follows_float64():
    run, base, adapter = start(LoraConfig())
    source = batches(documentation(), 4, 64, seed=1)
    step = zkjax.provable(make_step(run))
    weights = jax.tree.map(lambda x: x * 2.0**-WEIGHT_FRACTION, base)
    loss_of = make_loss(FineTuning(run.model, run.lora, Float()))
    current, exact = adapter, load_adapter(adapter)
    gaps = []
    with x64():
        grad = jax.jit(jax.value_and_grad(loss_of, argnums=1))
        for _ in range(50):
            tokens = next(source)
            current, loss = step(base, current, tokens, store_rate(RATE))
            value, g = grad(weights, exact, tokens)
            exact = jax.tree.map(lambda w, d: w - RATE * d, exact, g)
            gaps.append(abs(float(loss) * 2.0**-LOSS_FRACTION - float(value)))
    assert max(gaps) < 0.01, max(gaps)
    assert np.mean(gaps) < 0.003, np.mean(gaps)


def test_rotary_tables_are_correctly_rounded():
    config = LlamaConfig(hidden_size=32, num_attention_heads=2)
    cos, sin = rotary_tables(config, 40, 14)
    angles = np.outer(np.arange(40), inverse_frequencies(config))
    assert np.abs(cos - np.cos(angles)).max() <= 2.0**-15 + 1e-12
    assert np.abs(sin - np.sin(angles)).max() <= 2.0**-15 + 1e-12
    assert np.array_equal(cos * 2**14, np.round(cos * 2**14))


def test_rope_scaling_divides_slow_frequencies_only():
    plain = inverse_frequencies(LlamaConfig(rope_theta=500000.0, hidden_size=512))
    scaled = inverse_frequencies(
        LlamaConfig(rope_theta=500000.0, hidden_size=512, rope_scaling=RopeScaling())
    )
    assert scaled[0] == plain[0] and scaled[-1] == plain[-1] / 8
    assert all(s <= p for s, p in zip(scaled, plain, strict=True))


def test_a_separate_head_and_full_attention_heads_run_in_both_arithmetics():
    """An untied head and as many key heads as query heads."""
    from flax import nnx

    from zkjax.models.llama import Llama
    from zkjax.proofs.finetune import store_base

    model = LlamaConfig(num_key_value_heads=4, tie_word_embeddings=False, num_hidden_layers=1)
    run = FineTuning(model=model)
    base = store_base(nnx.to_pure_dict(nnx.state(Llama(model, rngs=nnx.Rngs(0)))))
    adapter = store_adapter(init_adapter(model, run.lora, jax.random.key(0)))
    tokens = np.arange(2 * 9, dtype=np.uint8).reshape(2, 9)
    _, loss = zkjax.provable(make_step(run))(base, adapter, tokens, store_rate(0.0))
    expected, _ = float_gradients(run, base, adapter, tokens)
    assert abs(float(loss) * 2.0**-LOSS_FRACTION - float(expected)) < 0.01
    assert jnp.isfinite(expected)
