"""LLaMA directories of Hugging Face: ``config.json`` and safetensors, read tensor by tensor.

One table says which tensor is which parameter. Linear layers are (outputs, inputs) in these files
and (inputs, outputs) here; the parameters of all layers are stacked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from zkjax.errors import CheckpointError
from zkjax.files import read_capped
from zkjax.models.config import TARGETS, LlamaConfig, RopeScaling

MOST_CONFIG = 1 << 20
FLOATS = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
# Keys of a config that change what a model computes, with the only value that is supported.
FIXED = {
    "model_type": ("llama",),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "pretraining_tp": (1,),
}

# (parameter, tensor of the file, whether it is transposed); those of a layer have its number.
OUTER = (
    ("embed_tokens", "model.embed_tokens.weight", False),
    ("norm.weight", "model.norm.weight", False),
    ("lm_head", "lm_head.weight", True),
)
LAYER = (
    ("input_layernorm.weight", "input_layernorm.weight", False),
    ("post_attention_layernorm.weight", "post_attention_layernorm.weight", False),
    *(
        (
            t,
            f"{'self_attn' if t in ('q_proj', 'k_proj', 'v_proj', 'o_proj') else 'mlp'}.{t}.weight",
            True,
        )
        for t in TARGETS
    ),
)


def read_config(folder: str | Path) -> LlamaConfig:
    """The configuration of a LLaMA directory. CheckpointError names a key that is not supported."""
    path = Path(folder) / "config.json"
    try:
        raw = json.loads(read_capped(path, MOST_CONFIG))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: not a configuration")
    for key, values in FIXED.items():
        if raw.get(key, values[0]) not in values:
            raise CheckpointError(
                f"{path}: {key} = {raw[key]!r} is not supported; {values[0]!r} is"
            )

    def number(key: str, default=None):
        value = raw.get(key, default)
        if type(value) is not int or not 1 <= value <= 1 << 24:
            raise CheckpointError(f"{path}: {key} = {value!r} is no size")
        return value

    heads = number("num_attention_heads")
    hidden = number("hidden_size")
    kv = number("num_key_value_heads", heads)
    if hidden % heads or heads % kv:
        raise CheckpointError(f"{path}: {heads} heads of {hidden} with {kv} for keys do not divide")
    if raw.get("head_dim") not in (None, hidden // heads):
        raise CheckpointError(f"{path}: head_dim = {raw['head_dim']!r} is not hidden_size / heads")
    theta, scaling = _rope(raw, path)
    return LlamaConfig(
        vocab_size=number("vocab_size"),
        hidden_size=hidden,
        intermediate_size=number("intermediate_size"),
        num_hidden_layers=number("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv,
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
    )


def _rope(raw: dict, path: Path) -> tuple[float, RopeScaling | None]:
    """theta and the scaling, from the keys of transformers v4 or v5."""
    parameters = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = float(parameters.get("rope_theta", raw.get("rope_theta", 10000.0)))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise CheckpointError(f"{path}: rope_type = {kind!r} is not supported; llama3 is")
    return theta, RopeScaling(
        float(parameters["factor"]),
        float(parameters["low_freq_factor"]),
        float(parameters["high_freq_factor"]),
        int(parameters["original_max_position_embeddings"]),
    )


class _Tensors:
    """The tensors of a directory's safetensors files, opened when they are asked for."""

    def __init__(self, folder: Path):
        from safetensors import safe_open

        index = folder / "model.safetensors.index.json"
        if index.exists():
            names = json.loads(read_capped(index, 64 << 20))["weight_map"]
            files = sorted(set(names.values()))
        else:
            files = ["model.safetensors"]
        for name in files:
            if Path(name).name != name or not (folder / name).is_file():
                raise CheckpointError(f"{folder}: there is no file {name!r} of weights")
        self._folder = folder
        self._open = [safe_open(folder / name, framework="numpy") for name in files]
        self._of = {name: handle for handle in self._open for name in handle.keys()}  # noqa: SIM118
        self.unread = set(self._of)

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor as float32. CheckpointError if it is missing or of another shape."""
        if name not in self._of:
            raise CheckpointError(f"{self._folder}: tensor {name!r} is missing")
        part = self._of[name].get_slice(name)
        kind, found = part.get_dtype(), tuple(part.get_shape())
        if found != shape:
            raise CheckpointError(f"{self._folder}: tensor {name!r} has shape {found}, not {shape}")
        if kind not in FLOATS:
            raise CheckpointError(
                f"{self._folder}: tensor {name!r} is {kind}; F32, F16, BF16 are read"
            )
        self.unread.discard(name)
        values = self._of[name].get_tensor(name)
        if kind == "BF16" and values.dtype != np.float32:
            bits = np.ascontiguousarray(values).view(np.uint16).astype(np.uint32) << 16
            return bits.view(np.float32)
        return values.astype(np.float32)


def load_llama(folder: str | Path) -> tuple[LlamaConfig, dict[str, Any]]:
    """Configuration and parameters (nested dict of float32, layers stacked) of a directory."""
    folder = Path(folder)
    config = read_config(folder)
    tensors = _Tensors(folder)
    c = config
    parameters: dict[str, Any] = {}

    def put(name: str, value: np.ndarray) -> None:
        *path, last = name.split(".")
        node = parameters
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value

    outer = {
        "embed_tokens": (c.vocab_size, c.hidden_size),
        "norm.weight": (c.hidden_size,),
        "lm_head": (c.vocab_size, c.hidden_size),
    }
    for name, tensor, transposed in OUTER:
        if name == "lm_head" and c.tie_word_embeddings:
            tensors.unread.discard(tensor)
            continue
        value = tensors.read(tensor, outer[name])
        put(name, value.T if transposed else value)
    for name, tensor, transposed in LAYER:
        shape = (c.hidden_size,) if name not in TARGETS else c.projection_shape(name)[::-1]
        layers = [
            tensors.read(f"model.layers.{i}.{tensor}", shape) for i in range(c.num_hidden_layers)
        ]
        put(f"layers.{name}", np.stack([x.T if transposed else x for x in layers]))
    left = {name for name in tensors.unread if not name.endswith("rotary_emb.inv_freq")}
    if left:
        raise CheckpointError(f"{folder}: tensor {min(left)!r} is none of a LLaMA's")
    return config, parameters
