"""LLaMA directories: what is read is exact, what is not supported is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from zkjax.errors import CheckpointError
from zkjax.models.checkpoint import load_llama, read_config
from zkjax.models.config import TARGETS

CONFIG = {
    "model_type": "llama",
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"},
}
SHAPES = {
    "q_proj": (8, 8),
    "k_proj": (4, 8),
    "v_proj": (4, 8),
    "o_proj": (8, 8),
    "gate_proj": (12, 8),
    "up_proj": (12, 8),
    "down_proj": (8, 12),
}


def tensors(rng) -> dict[str, np.ndarray]:
    def of(*shape):
        return rng.normal(size=shape).astype(np.float32)

    found = {
        "model.embed_tokens.weight": of(11, 8),
        "lm_head.weight": of(11, 8),
        "model.norm.weight": of(8),
    }
    for i in range(2):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"model.layers.{i}.{norm}.weight"] = of(8)
        for target, shape in SHAPES.items():
            part = "self_attn" if target[0] in "qkvo" else "mlp"
            found[f"model.layers.{i}.{part}.{target}.weight"] = of(*shape)
    return found


def directory(folder, values, **changes):
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    save_file(values, folder / "model.safetensors")
    return folder


@pytest.fixture
def values(rng):
    return tensors(rng)


def test_a_directory_is_read(tmp_path, values):
    config, parameters = load_llama(directory(tmp_path, values))
    assert (config.rope_theta, config.num_key_value_heads) == (5e5, 2)
    assert np.array_equal(parameters["embed_tokens"], values["model.embed_tokens.weight"])
    assert np.array_equal(parameters["lm_head"], values["lm_head.weight"].T)
    for target in TARGETS:
        part = "self_attn" if target[0] in "qkvo" else "mlp"
        for i in range(2):
            theirs = values[f"model.layers.{i}.{part}.{target}.weight"]
            assert np.array_equal(parameters["layers"][target][i], theirs.T)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_floats_are_read_exactly(tmp_path, values, dtype):
    import ml_dtypes

    short = {k: v.astype(getattr(ml_dtypes, dtype, dtype)) for k, v in values.items()}
    _, parameters = load_llama(directory(tmp_path, short))
    assert np.array_equal(
        parameters["norm"]["weight"], short["model.norm.weight"].astype(np.float32)
    )


def test_a_checkpoint_in_several_files(tmp_path, values):
    names = sorted(values)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    directory(tmp_path, {})
    (tmp_path / "model.safetensors").unlink()
    for file, inside in parts.items():
        save_file({n: values[n] for n in inside}, tmp_path / file)
    index = {n: file for file, inside in parts.items() for n in inside}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    _, parameters = load_llama(tmp_path)
    assert np.array_equal(parameters["norm"]["weight"], values["model.norm.weight"])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_type": "mistral"}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"head_dim": 16}, "head_dim"),
        ({"num_attention_heads": 3}, "do not divide"),
        ({"vocab_size": "11"}, "vocab_size"),
        ({"hidden_size": -8}, "hidden_size"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type"),
        ({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": None}, "linear"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, changes, what):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(CheckpointError, match=what):
        read_config(tmp_path)


def test_llama3_scaling_is_read(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    changes = {"rope_parameters": None, "rope_scaling": scaling, "rope_theta": 1e4}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
    config = read_config(tmp_path)
    assert config.rope_theta == 1e4 and config.rope_scaling.factor == 32.0


def test_tensors_that_are_missing_strange_or_of_another_shape(tmp_path, values):
    name = "model.layers.1.mlp.up_proj.weight"
    without = {k: v for k, v in values.items() if k != name}
    for wrong, what in (
        (without, "missing"),
        (without | {name: values[name].T.copy()}, "has shape"),
        (values | {"model.layers.1.mlp.up_proj.bias": np.zeros(12, np.float32)}, "bias"),
        (without | {name: values[name].astype(np.int32)}, "I32"),
    ):
        with pytest.raises(CheckpointError, match=what):
            load_llama(directory(tmp_path, wrong))
