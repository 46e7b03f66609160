"""A session computes what one machine with the same adapters computes, bit for bit."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import pytest
from flax import nnx

import zkjax
from zkjax._compat import x64
from zkjax.errors import SealError, SessionError, ValueRangeError
from zkjax.models.adapter import lora_delta
from zkjax.models.config import TARGETS, LlamaConfig, LoraConfig
from zkjax.models.llama import Llama
from zkjax.models.numerics import FixedPoint
from zkjax.models.peft import save_adapter
from zkjax.proofs.adapter import Contributor, Leakage, Session, commit_adapter, loss_of
from zkjax.proofs.adapter.arithmetic import Arithmetic
from zkjax.proofs.adapter.store import commit_folder, load_contributor
from zkjax.proofs.finetune import bind, store_adapter

CONFIG = LlamaConfig(
    vocab_size=48,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    tie_word_embeddings=False,
)
TOKENS = np.random.default_rng(1).integers(0, 48, (2, 7)).astype(np.int32)


@cache
def base():
    with x64():
        model = Llama(CONFIG, rngs=nnx.Rngs(5))
        parameters = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        return jax.tree.map(
            lambda x: np.round(np.asarray(x, np.float64) * 4096).astype(np.int16), parameters
        )


def adapter(seed: int, targets, layers, r: int, dtype: str = "int16"):
    rng, unit = np.random.default_rng(seed), 4096 if dtype == "int16" else 1 << 24
    return {
        t: {
            "a": np.round(rng.normal(0, i**-0.5, (len(layers), i, r)) * unit).astype(dtype),
            "b": np.round(rng.normal(0, 0.2, (len(layers), r, o)) * unit).astype(dtype),
        }
        for t in targets
        for i, o in [CONFIG.projection_shape(t)]
    }


def local(tokens, *parts) -> np.ndarray:
    """Logits on one machine; parts are (stored adapter, layers, log2_scale)."""

    def deltas_of(layer, _):
        def deltas(group, x):
            total: dict = {}
            for stored, layers, log2_scale in parts:
                if int(layer) not in layers:
                    continue
                i = layers.index(int(layer))
                for t, w in stored.items():
                    if w["a"].shape[1] == x.shape[-1] and t in GROUPS[group]:
                        unit = 2.0**-12 if w["a"].dtype == np.int16 else 2.0**-24
                        y = lora_delta(x, w["a"][i] * unit, w["b"][i] * unit, FixedPoint())
                        total[t] = total.get(t, 0) + 2.0**log2_scale * y
            return total

        return deltas

    with x64():
        model = bind(CONFIG, jax.tree.map(lambda w: w * 2.0**-12, base()))
        return np.asarray(model.run(tokens, FixedPoint(), deltas_of, np.arange(3), scan=False)[0])


GROUPS = {
    "attention": ("q_proj", "k_proj", "v_proj"),
    "heads": ("o_proj",),
    "mlp": ("gate_proj", "up_proj"),
    "inner": ("down_proj",),
}
CASES = {
    "all seven targets": (TARGETS, (0, 1, 2), 3, 1, "int16"),
    "two targets of two layers": (("k_proj", "down_proj"), (0, 2), 2, -1, "int16"),
    "weights of a fine-tuning proof": (("q_proj", "v_proj"), (1,), 4, 0, "int32"),
}


@cache
def contributor(name: str) -> Contributor:
    targets, layers, r, log2_scale, dtype = CASES[name]
    weights = adapter(7, targets, layers, r, dtype)
    value = zkjax.seal(weights, openings=9) if dtype == "int32" else weights
    sealed, manifest = commit_adapter(value, layers, log2_scale, sessions=8)
    return Contributor(sealed, manifest, leakage=Leakage(manifest, 1.0))


def part(name: str):
    targets, layers, r, log2_scale, dtype = CASES[name]
    return adapter(7, targets, layers, r, dtype), layers, log2_scale


@pytest.mark.parametrize("name", CASES)
def test_scoring(name):
    with Session(CONFIG, base(), {"alice": contributor(name).connect()}) as session:
        logits = session.score(TOKENS)
        assert np.array_equal(session.base_score(TOKENS), local(TOKENS))
        record = session.finish()["alice"]
    assert np.array_equal(logits, local(TOKENS, part(name)))
    assert not np.array_equal(logits, local(TOKENS))
    assert record.tokens == TOKENS.size


def test_contributors_are_added():
    """All three at once; each proves its own share."""
    channels = {name: contributor(name).connect() for name in CASES}
    with Session(CONFIG, base(), channels) as session:
        logits = session.score(TOKENS)
        assert set(session.finish()) == set(CASES)
    assert np.array_equal(logits, local(TOKENS, *(part(name) for name in CASES)))


def test_generation_and_several_prompts():
    """Token by token, each sent once, and two more prompts, under one proof."""
    name = "all seven targets"
    with Session(CONFIG, base(), {"alice": contributor(name).connect()}) as session:
        out = session.generate(TOKENS[:, :3], 5)
        first, second = session.score(TOKENS[:1, :2]), session.score(TOKENS[1:, :5])
        record = session.finish()["alice"]
    expected = TOKENS[:, :3]
    for _ in range(5):
        new = np.argmax(local(expected, part(name))[:, -1:], axis=-1).astype(np.int32)
        expected = np.concatenate([expected, new], axis=1)
    assert np.array_equal(out, expected)
    assert np.array_equal(first, local(TOKENS[:1, :2], part(name)))
    assert np.array_equal(second, local(TOKENS[1:, :5], part(name)))
    assert record.tokens == 2 * 7 + 2 + 5  # the last generated token is never sent


def test_one_round_trip_a_group():
    """q, k and v share one, gate and up another."""
    channel = contributor("all seven targets").connect()
    sent = []
    send = channel.send
    channel.send = lambda data: (sent.append(data[5]), send(data))[1]
    with Session(CONFIG, base(), {"alice": channel}) as session:
        session.score(TOKENS)
    assert sent.count(3) == 4 * CONFIG.num_hidden_layers


def test_a_ratio_that_is_no_power_of_two_is_folded_into_b(tmp_path):
    lora = LoraConfig(r=3, alpha=4.0, targets=("q_proj", "v_proj"))
    weights = jax.tree.map(lambda w: w * 2.0**-12, adapter(3, lora.targets, (0, 1, 2), 3))
    save_adapter(tmp_path / "peft", weights, lora, "none")
    done = commit_folder(tmp_path / "peft", tmp_path / "mine", sessions=2)
    assert done.manifest.log2_scale == 0 and done.sessions == 2 and 0 < done.rounding < 0.01
    alice = load_contributor(tmp_path / "mine", max_fraction=1.0)
    with Session(CONFIG, base(), {"alice": alice.connect()}) as session:
        logits = session.score(TOKENS)
        session.finish()
    scaled = {
        t: {"a": w["a"], "b": w["b"].astype(np.float32).astype(np.float64) * lora.scale}
        for t, w in weights.items()
    }
    of = dict(zip("ab", done.manifest.fractions, strict=True))
    rounded = {
        t: {k: np.floor(w * 2.0 ** of[k] + 0.5) * 2.0 ** -of[k] for k, w in parts.items()}
        for t, parts in scaled.items()
    }
    arithmetic = Arithmetic(CONFIG)
    with x64():
        model = bind(CONFIG, arithmetic.decode(base()))
        alone = model(TOKENS, rounded, 1.0, arithmetic.with_adapter(lora.targets))
    assert np.array_equal(logits, np.asarray(alone))


def test_losses_are_those_of_the_fine_tuning_statement():
    logits = local(TOKENS[:, :-1])
    loss = loss_of(logits, TOKENS[:, 1:])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    exact = -np.take_along_axis(log_p, TOKENS[:, 1:, None], -1).mean()
    assert abs(loss - exact) < 0.01 and loss * 2**16 == int(loss * 2**16)


def test_an_activation_that_does_not_fit_is_named():
    wide = dict(base())
    wide["layers"] = dict(wide["layers"])
    wide["layers"]["input_layernorm"] = {"weight": np.full((3, 24), 32767, np.int16)}
    with (
        Session(CONFIG, wide, {"alice": contributor("all seven targets").connect()}) as session,
        pytest.raises(ValueRangeError, match="layer 0, attention"),
    ):
        session.score(TOKENS)


def test_one_sealed_adapter_in_two_folders_has_one_count(tmp_path):
    """Half may be known, wherever it is served from."""
    lora = LoraConfig(r=3, alpha=6.0, targets=("q_proj",))
    real = jax.tree.map(lambda w: w * 2.0**-12, adapter(2, lora.targets, (0, 1, 2), 3))
    stored = store_adapter(real)
    save_adapter(tmp_path / "peft", real, lora, "none")
    zkjax.seal(stored, openings=6).save(tmp_path / "adapter.sealed")
    for name in ("one", "two"):
        commit_folder(tmp_path / "peft", tmp_path / name, sealed=tmp_path / "adapter.sealed")
    owner = load_contributor(tmp_path / "one")
    assert owner.received == tmp_path / "adapter.sealed.received" and owner.received.is_dir()
    with pytest.raises(SealError, match="already being served"):
        load_contributor(tmp_path / "two")
    owner.leakage.readings = {}  # each answer counts as one entry
    owner.leakage.admit(0, "attention", np.eye(24, dtype=np.int16)[:12])
    del owner
    owner = load_contributor(tmp_path / "two")
    owner.leakage.readings = {}
    with pytest.raises(SessionError, match="leakage"):
        owner.leakage.admit(0, "attention", np.eye(24, dtype=np.int16)[:1])
