"""Adapters that ``peft`` wrote for a model of ``transformers``: read, run, refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zkjax._compat import x64
from zkjax.errors import OptionError
from zkjax.models.adapter import lora_deltas
from zkjax.models.config import TARGETS, LlamaConfig, LoraConfig
from zkjax.models.numerics import Float
from zkjax.models.peft import AdapterError, alpha_of, load_adapter, save_adapter, weight_name
from zkjax.proofs.finetune import bind

FIXTURES = Path(__file__).parent / "fixtures"
CONFIG = LlamaConfig(
    vocab_size=40,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
)
TOKENS = np.arange(18, dtype=np.int32).reshape(2, 9) % 37


def model():
    """The base model of the fixtures."""
    raw = {k: v.astype(np.float64) for k, v in load_file(FIXTURES / "base.safetensors").items()}

    def stacked(name: str) -> np.ndarray:
        return np.stack([raw[f"layers.{i}.{name}.weight"].T for i in range(3)])

    layers = {t: stacked(CONFIG.paths[t]) for t in TARGETS} | {
        n: {"weight": stacked(n)} for n in ("input_layernorm", "post_attention_layernorm")
    }
    return bind(
        CONFIG,
        {
            "embed_tokens": raw["embed_tokens.weight"],
            "layers": layers,
            "norm": {"weight": raw["norm.weight"]},
        },
    )


@pytest.mark.parametrize("name", ["all", "rslora"])
def test_logits_are_those_of_transformers(name):
    """Every name, transpose, layer and scale is right."""
    adapter, layers, scale = load_adapter(FIXTURES / name)
    assert layers == ((0, 1, 2) if name == "all" else (0, 2))
    assert scale == (2.0 if name == "all" else 5 / math.sqrt(3))
    assert list(adapter) == (list(TARGETS) if name == "all" else ["q_proj", "v_proj"])
    full = {
        t: {k: np.zeros((3, *w.shape[1:])) for k, w in parts.items()}
        for t, parts in adapter.items()
    }
    for t, parts in adapter.items():
        for k, w in parts.items():
            full[t][k][list(layers)] = w
    with x64():
        logits = model().run(TOKENS, Float(), lambda a, n: lora_deltas(a, scale, n), full)[0]
    expected = np.load(FIXTURES / name / "logits.npy")
    assert np.abs(np.asarray(logits) - expected).max() < 1e-5


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(FIXTURES / "rslora", tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("peft_type", "LOHA"),
        ("use_dora", True),
        ("bias", "all"),
        ("fan_in_fan_out", True),
        ("rank_pattern", {"q_proj": 8}),
        ("modules_to_save", ["lm_head"]),
        ("layer_replication", [[0, 2]]),
        ("r", 4),
        ("r", None),
        ("lora_alpha", "much"),
    ],
)
def test_settings_that_are_not_plain_lora_are_refused(folder, name, value):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(AdapterError, match=r"plain LoRA|is no rank|the rank is|positive number"):
        load_adapter(folder)


def test_files_that_are_not_an_adapter_are_refused(folder, tmp_path):
    tensors = load_file(folder / "adapter_model.safetensors")
    first = next(iter(tensors))

    def refused(changed, match):
        save_file(changed, folder / "adapter_model.safetensors")
        with pytest.raises(AdapterError, match=match):
            load_adapter(folder)

    refused({k: v for k, v in tensors.items() if k != first}, "missing")
    refused(tensors | {first: tensors[first][:-1]}, "shape")
    refused(
        tensors | {"lm_head.weight": np.zeros((2, 2), np.float32)}, "not the name of a LoRA weight"
    )
    refused({}, "no LoRA weights")
    (folder / "adapter_model.safetensors").write_bytes(b"{}")
    for path in (folder, tmp_path):
        with pytest.raises(AdapterError, match="not a PEFT adapter"):
            load_adapter(path)


R2 = LoraConfig(r=2, alpha=8.0, targets=("q_proj",))


def stack(layers: int = 2, r: int = 2, inputs: int = 4, outputs: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"a": rng.normal(size=(layers, inputs, r)), "b": rng.normal(size=(layers, r, outputs))}


def test_names_of_weights():
    prefix = "base_model.model."
    assert weight_name(3, "o_proj", "A") == prefix + "model.layers.3.self_attn.o_proj.lora_A.weight"
    assert weight_name(0, "up_proj", "B") == prefix + "model.layers.0.mlp.up_proj.lora_B.weight"
    found = weight_name(1, "attn_c_proj", "B")
    assert found == prefix + "transformer.h.1.attn.c_proj.lora_B.weight"
    assert weight_name(1, "mlp_c_proj", "A") == prefix + "transformer.h.1.mlp.c_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda to: weight_name(-1, "q_proj", "A"), "layer = -1"),
        (lambda to: weight_name(10_000, "q_proj", "A"), "layer = 10000"),
        (lambda to: weight_name(0.0, "q_proj", "A"), "layer = 0.0"),
        (lambda to: weight_name(0, "lm_head", "A"), "lm_head"),
        (lambda to: weight_name(0, None, "A"), "target = None"),
        (lambda to: weight_name(0, "q_proj", "a"), "part = 'a'"),
        (lambda to: load_adapter(None), "folder = None"),
        (lambda to: load_adapter(to, {"hidden_size": 3}), "base = a dict"),
        (lambda to: load_adapter(to, LlamaConfig(num_hidden_layers=1 << 20)), "1,048,576 layers"),
        (lambda to: save_adapter(3, {"q_proj": stack()}, R2, "b"), "folder = 3"),
        (lambda to: save_adapter(to, [stack()], R2, "b"), "adapter = "),
        (lambda to: save_adapter(to, {"q_proj": stack()}, {"r": 2}, "b"), "lora = "),
        (lambda to: save_adapter(to, {"q_proj": stack()}, R2, None), "base_name = None"),
        (lambda to: save_adapter(to, {}, R2, "b"), "lora.targets are"),
        (lambda to: save_adapter(to, {"k_proj": stack()}, R2, "b"), "lora.targets are"),
        (lambda to: save_adapter(to, {"q_proj": stack(r=3)}, R2, "b"), "rank r = 2"),
        (lambda to: save_adapter(to, {"q_proj": {"a": 1}}, R2, "b"), "stacked over layers"),
        (lambda to: save_adapter(to, {"q_proj": [1, 2]}, R2, "b"), "stacked over layers"),
        (lambda to: save_adapter(to, {"q_proj": {"a": "x", "b": "y"}}, R2, "b"), "real numbers"),
        (lambda to: save_adapter(to, {"q_proj": stack(layers=0)}, R2, "b"), "three axes"),
        (
            lambda to: save_adapter(to, {"q_proj": stack() | {"b": stack(3)["b"]}}, R2, "b"),
            "different numbers of layers",
        ),
        (lambda to: save_adapter(to, {"q_proj": stack()}, R2, "b", layers=[0]), "2 layers"),
        (lambda to: save_adapter(to, {"q_proj": stack()}, R2, "b", layers=[1, 0]), "ascending"),
        (lambda to: save_adapter(to, {"q_proj": stack()}, R2, "b", layers=[0, -1]), "layers = "),
        (lambda to: save_adapter(to, {"q_proj": stack(10_001)}, R2, "b"), "below 10000"),
        (lambda to: save_adapter(to, {"q_proj": stack()}, R2, "b", dtype="F16"), "dtype = 'F16'"),
        (
            lambda to: save_adapter(to, {"q_proj": stack() | {"a": stack()["a"] * 1e300}}, R2, "b"),
            "too large",
        ),
        (
            lambda to: save_adapter(
                to, {"q_proj": stack() | {"a": stack()["a"] * np.nan}}, R2, "b"
            ),
            "too large, or none",
        ),
        (
            lambda to: save_adapter(
                to,
                {"q_proj": stack(), "c_attn": stack()},
                LoraConfig(r=2, targets=("q_proj", "c_attn")),
                "b",
            ),
            "one kind of model",
        ),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, call, word):
    """Before anything is written."""
    with pytest.raises(OptionError, match=word):
        call(tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_what_is_written_is_read_back(tmp_path):
    """Arrays of any kind; layers and rank as given; the scale to the last bit."""
    weights = {"q_proj": stack(), "down_proj": stack(inputs=5)}
    lora = LoraConfig(r=2, alpha=0.7, targets=("q_proj", "down_proj"))
    save_adapter(tmp_path, weights, lora, "a base", layers=(np.int64(1), 4), dtype="F64")
    kept = load_adapter(tmp_path)
    assert kept.layers == (1, 4) and kept.scale == lora.scale and kept.lora == lora
    for target, parts in weights.items():
        assert all(np.array_equal(parts[p], kept.weights[target][p]) for p in "ab")
    told = json.loads((tmp_path / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == "a base" and told["layers_to_transform"] == [1, 4]
    save_adapter(tmp_path, weights, lora, "a base", layers=(1, 4))
    narrow = load_adapter(tmp_path).weights["q_proj"]["a"]
    assert np.array_equal(narrow, weights["q_proj"]["a"].astype(np.float32))


def test_an_adapter_of_nothing_is_written_whole(tmp_path):
    zeros = {"q_proj": {k: np.zeros_like(v) for k, v in stack().items()}}
    save_adapter(tmp_path, zeros, R2, "b")
    kept = load_adapter(tmp_path)
    assert kept.layers == (0, 1) and not np.any(kept.weights["q_proj"]["a"])


def test_a_layer_that_is_cut_off_is_missed(tmp_path):
    """What is written here names its layers, so no base model is needed to miss one."""
    save_adapter(tmp_path, {"q_proj": stack(3)}, R2, "b")
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    kept = {k: v for k, v in tensors.items() if "layers.2." not in k}
    save_file(kept, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"model\.layers\.2\.self_attn\.q_proj is missing"):
        load_adapter(tmp_path)


def test_every_scale_has_one_alpha():
    """alpha / r is the scale again where float64 has such an alpha, and settles at once if not."""
    rng, exact = np.random.default_rng(2), 0
    for _ in range(3000):
        r = int(rng.integers(1, 300))
        scale = float(rng.uniform(0.01, 40))
        if rng.random() < 0.5:
            scale = float(rng.integers(1, 100)) / rng.choice([r, math.sqrt(r)])
        alpha = alpha_of(scale, r)
        assert abs(alpha / r - scale) <= np.spacing(scale)
        assert alpha_of(alpha / r, r) == alpha
        exact += alpha / r == scale
    assert exact > 2000
    assert alpha_of(16 / 3, 3) == 16 and alpha_of(2.0, 4) == 8
