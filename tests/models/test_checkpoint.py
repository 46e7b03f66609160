"""Model directories: what is read is exact, what is not supported is named."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from zkjax._compat import x64
from zkjax.errors import CheckpointError, OptionError
from zkjax.models.checkpoint import directory_digest, load_model, model_digest, read_config
from zkjax.models.config import TARGETS
from zkjax.models.registry import bind
from zkjax.proofs.calibration import Calibration, calibrate
from zkjax.proofs.finetune import FineTuning, decode_base, make_logits, store_base

BUNDLE = Path(__file__).parent / "fixtures" / "checkpoints.zip"
NAMES = sorted({name.partition("/")[0] for name in zipfile.ZipFile(BUNDLE).namelist()})

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
    config, parameters = load_model(directory(tmp_path, values))
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
    _, parameters = load_model(directory(tmp_path, short))
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
    _, parameters = load_model(tmp_path)
    assert np.array_equal(parameters["norm"]["weight"], values["model.norm.weight"])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_type": "mistral"}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": 1}, "attention_bias"),
        ({"mlp_bias": "yes"}, "mlp_bias"),
        ({"head_dim": 3}, "head_dim"),
        ({"head_dim": 0}, "head_dim"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_type"),
        ({"rope_parameters": {"rope_type": "default", "factor": 2.0}}, "factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "factor"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2, "extrapolate": 1}}, "extrapolate"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial"),
        ({"model_type": "gpt2", "n_head": 7}, "n_embd"),
        ({"model_type": "gpt2", "activation_function": "relu"}, "activation_function"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx"),
        ({"num_attention_heads": 3}, "do not divide"),
        ({"vocab_size": "11"}, "vocab_size"),
        ({"hidden_size": -8}, "hidden_size"),
        ({"rope_scaling": {"type": "su", "factor": 2}, "rope_parameters": None}, "su"),
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
        (without | {name: values[name] * np.float32(np.nan)}, "no numbers"),
    ):
        with pytest.raises(CheckpointError, match=what):
            load_model(directory(tmp_path, wrong))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Directories made by transformers, with their logits."""
    folder = tmp_path_factory.mktemp("checkpoints")
    zipfile.ZipFile(BUNDLE).extractall(folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(made, name):
    config, parameters = load_model(made / name)
    with np.load(made / name / "logits.npz") as kept:
        logits = np.asarray(bind(config, parameters)(kept["tokens"]))
        assert np.abs(logits - kept["logits"]).max() < 1e-5 * np.abs(kept["logits"]).max()


def mean_loss(logits, tokens) -> float:
    log_p = np.asarray(jax.nn.log_softmax(logits[:, :-1], axis=-1))
    return -float(np.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).mean())


@pytest.mark.parametrize("name", ["large heads", "mlp bias", "yarn, attention factor", "gpt2"])
def test_drift_of_fixed_point(made, name):
    """In formats for the check between two parties; the largest of all 22 is 0.0011."""
    config, parameters = load_model(made / name)
    texts = np.random.default_rng(0).integers(0, 40, (6, 1, 25)).astype(np.int32)
    run = FineTuning(model=config)
    formats = calibrate(run, parameters, None, texts, between_parties=True)
    formats = Calibration.decode(formats.encode())
    run = formats.apply(run)
    with np.load(made / name / "logits.npz") as kept, x64():
        base = decode_base(run, store_base(parameters, run.weight_fractions))
        logits = np.asarray(jax.jit(make_logits(run))(base, None, kept["tokens"]))
        theirs = kept["logits"]
        assert np.abs(logits - theirs).max() < 0.02 * np.abs(theirs).max()
        assert (logits.argmax(-1) == theirs.argmax(-1)).mean() > 0.95
        drift = mean_loss(logits, kept["tokens"]) - mean_loss(theirs, kept["tokens"])
    assert abs(drift) < 0.005


def test_dynamic_rope_and_learned_positions_have_an_end(made):
    for name in ("dynamic rope", "gpt2"):
        model = bind(*load_model(made / name))
        model(np.zeros((1, 32), np.int32))
        with pytest.raises(OptionError, match="reads at most 32"):
            model(np.zeros((1, 33), np.int32))


def test_a_digest_names_settings_and_weights_not_files(made, tmp_path):
    def digest(folder) -> str:
        config, told = directory_digest(folder)
        assert told == model_digest(*load_model(folder)) and config == read_config(folder)
        return told

    assert len({digest(made / name) for name in NAMES}) == len(NAMES)
    source = made / "several files"
    config = json.loads((source / "config.json").read_text())
    whole = {}
    for file in source.glob("*.safetensors"):
        from safetensors.numpy import load_file

        whole |= load_file(file)
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["Mine"]}))
    save_file(whole, tmp_path / "model.safetensors")
    assert digest(tmp_path) == digest(source)
    name = "model.layers.1.mlp.up_proj.weight"
    one = {**whole, name: whole[name] + (np.arange(whole[name].size) == 5).reshape(24, 16)}
    save_file({k: v.astype(np.float32) for k, v in one.items()}, tmp_path / "model.safetensors")
    assert digest(tmp_path) != digest(source)
    loaded, parameters = load_model(source)
    assert model_digest(replace(loaded, rope_theta=1e5), parameters) != digest(source)


def test_what_is_no_model_directory(tmp_path, values):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_model(tmp_path)
    directory(tmp_path, values)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="only safetensors"):
        load_model(tmp_path)
    for index in (b"{", b"[]", b'{"weight_map": 3}', b'{"weight_map": {"x": "../secret"}}'):
        (tmp_path / "model.safetensors.index.json").write_bytes(index)
        with pytest.raises(CheckpointError):
            load_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    whole = (tmp_path / "pytorch_model.bin").read_bytes()
    for wrong in (b"", whole[:100], whole[:-1], b"\xff" * 64):
        (tmp_path / "model.safetensors").write_bytes(wrong)
        with pytest.raises(CheckpointError):
            load_model(tmp_path)
