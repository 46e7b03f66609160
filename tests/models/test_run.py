"""``Llama.run``: caches, unrolled layers and foreign deltas change nothing, bit for bit."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from zkjax._compat import x64
from zkjax.models.adapter import init_adapter, lora_deltas
from zkjax.models.config import INPUT_GROUPS, TARGETS, LlamaConfig, LoraConfig
from zkjax.models.llama import Llama
from zkjax.models.numerics import FixedPoint, Float
from zkjax.proofs.finetune import bind

CONFIG = LlamaConfig(
    vocab_size=40, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
    num_attention_heads=6, num_key_value_heads=2,
)  # fmt: skip
LORA = LoraConfig(r=3, alpha=6.0, targets=TARGETS)
SCALE = LORA.scale
TOKENS = np.random.default_rng(3).integers(0, CONFIG.vocab_size, (2, 9), dtype=np.int32)


@pytest.fixture(scope="module", params=[Float(), FixedPoint()], ids=["float", "fixed"])
def case(request):
    with x64():
        model = Llama(CONFIG, rngs=nnx.Rngs(1))
        on_grid = jax.tree.map(
            lambda x: np.round(np.asarray(x, np.float64) * 4096) / 4096,
            nnx.to_pure_dict(nnx.state(model, nnx.Param)),
        )
        adapter = init_adapter(CONFIG, LORA, jax.random.key(0))
        key = iter(jax.random.split(jax.random.key(1), 20))
        adapter = jax.tree.map(
            lambda x: (
                np.round(
                    np.asarray(x + 0.1 * jax.random.normal(next(key), x.shape), np.float64) * 4096
                )
                / 4096
            ),
            adapter,
        )
        return bind(CONFIG, on_grid), adapter, request.param


def equal(a, b, numerics):
    tolerance = 0 if isinstance(numerics, FixedPoint) else 1e-5  # sums in another order
    return np.allclose(a, b, rtol=0, atol=tolerance)


def test_generation_with_a_cache_is_scoring(case):
    model, adapter, numerics = case
    with x64():
        whole = model(TOKENS, adapter, SCALE, numerics)
        cache, parts, start = model.empty_cache(2, 12), [], 0
        for n in (4, 1, 1, 3):
            logits, _, cache = model.run(
                TOKENS[:, start : start + n],
                numerics,
                lambda a, n: lora_deltas(a, SCALE, n),
                adapter,
                cache=cache,
            )
            parts.append(logits)
            start += n
        assert cache.filled == 9
        assert equal(whole, np.concatenate(parts, axis=1), numerics)
        assert not equal(whole, model(TOKENS, None, 1.0, numerics), numerics)


def test_unrolled_layers_and_given_deltas(case):
    """Deltas computed outside from the activations that an earlier run recorded."""
    model, adapter, numerics = case
    with x64():
        whole, seen, _ = model.run(
            TOKENS, numerics, lambda a, n: lora_deltas(a, SCALE, n), adapter, record=True
        )
        assert set(seen) == set(INPUT_GROUPS)
        given = jax.vmap(
            lambda a, xs: {
                t: d
                for g, x in xs.items()
                for t, d in lora_deltas(a, SCALE, numerics)(g, x).items()
            }
        )(adapter, seen)
        calls = []

        def handed_in(layer, _):
            def deltas(group, x):
                calls.append((group, isinstance(x, jax.core.Tracer)))
                return {t: layer[t] for t in INPUT_GROUPS[group] if t in layer}

            return deltas

        again, recorded, _ = model.run(TOKENS, numerics, handed_in, given, scan=False, record=True)
        assert equal(whole, again, numerics)
        assert calls == [(g, False) for g in INPUT_GROUPS] * CONFIG.num_hidden_layers
        assert all(equal(seen[g], recorded[g], numerics) for g in seen)
