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
from zkjax.models.config import TARGETS, LlamaConfig
from zkjax.models.llama import lora_deltas
from zkjax.models.numerics import Float
from zkjax.models.peft import AdapterError, load_adapter
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
        logits = model().run(TOKENS, Float(), lambda a: lora_deltas(a, scale, Float()), full)[0]
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
