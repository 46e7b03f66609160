"""Adapters in PEFT's file format: ``adapter_model.safetensors`` and ``adapter_config.json``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zkjax.errors import StatementError, ZkjaxError
from zkjax.files import read_capped, write_atomically
from zkjax.models.adapter import Adapter
from zkjax.models.config import TARGETS, LoraConfig
from zkjax.tensors import Described, read_tensors

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
WEIGHT_NAME = re.compile(
    r"base_model\.model\.model\.layers\.(?P<layer>0|[1-9][0-9]{0,3})\.(?:self_attn|mlp)\."
    rf"(?P<target>{'|'.join(TARGETS)})\.lora_(?P<part>[AB])\.weight"
)
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_CONFIG, MAX_WEIGHTS = 1 << 20, 1 << 34  # bytes that are read
MAX_RANK = 1 << 12
FLOATS = ("F64", "F32", "F16", "BF16")
# Settings that change what an adapter computes, with the values that do not. None never does, and
# no more do settings that are not known here if they are false or empty.
PLAIN: dict[str, tuple] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION"),
    "bias": ("none",),
    # The others start from, and belong to, another base model than the one they name.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
# Settings about training, or about how PEFT finds and loads what is in the files.
HARMLESS = frozenset(
    (
        "auto_mapping",
        "base_model_name_or_path",
        "ensure_weight_tying",
        "eva_config",
        "inference_mode",
        "layers_pattern",
        "lora_dropout",
        "megatron_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "use_rslora",
    )
)
# Settings that the tensors have to agree with.
DESCRIBING = frozenset(("r", "lora_alpha", "target_modules", "layers_to_transform"))


class AdapterError(ZkjaxError):
    """An adapter's files cannot be used."""


def weight_name(layer: int, target: str, part: str) -> str:
    """PEFT's name of one LoRA matrix; ``part`` is "A" or "B"."""
    parent = "self_attn" if target in ATTENTION else "mlp"
    return f"base_model.model.model.layers.{layer}.{parent}.{target}.lora_{part}.weight"


def save_adapter(folder: str | Path, adapter: Any, lora: LoraConfig, base_name: str) -> None:
    """Write real-valued adapter weights (stacked over layers) as float32 PEFT files."""
    from safetensors.numpy import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for target, parts in adapter.items():
        for layer in range(parts["a"].shape[0]):
            for part in ("a", "b"):
                value = np.asarray(parts[part][layer], dtype=np.float32).T
                tensors[weight_name(layer, target, part.upper())] = np.ascontiguousarray(value)
    config = {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": lora.r,
        "target_modules": list(lora.targets),
        "task_type": "CAUSAL_LM",
    }
    write_atomically(folder / WEIGHTS, save(tensors))
    text = json.dumps(config, indent=2, sort_keys=True)
    write_atomically(folder / CONFIG, text.encode())


def load_adapter(folder: str | Path) -> tuple[Any, tuple[int, ...], float]:
    """Read a LoRA adapter for LLaMA's linear layers.

    Returns:
      the weights {target: {"a": (layers, inputs, r), "b": (layers, r, outputs)}} in float64, the
      layers of the base model they belong to, and the scale of B A.
    Raises:
      AdapterError: the files are missing or malformed, contradict each other, or hold more than
        plain LoRA.
    """
    folder = Path(folder)
    try:
        config = _config(read_capped(folder / CONFIG, MAX_CONFIG))
        r, alpha = _rank(config), _alpha(config)
        tensors = read_tensors(folder / WEIGHTS, MAX_WEIGHTS, partial(_require_lora, r))
    except StatementError as error:
        raise AdapterError(f"{folder} is not a PEFT adapter: {error}") from error
    parts: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for name in list(tensors):
        value, (layer, target, part) = tensors.pop(name), _place(name)
        if not np.isfinite(value).all():
            raise AdapterError(f"{name} holds a value that is infinite or not a number")
        parts.setdefault((target, part), {})[layer] = value.T.astype(np.float64)
    layers = tuple(sorted({layer for by_layer in parts.values() for layer in by_layer}))
    adapter: Adapter = {}
    for target in TARGETS:
        if (target, "a") not in parts and (target, "b") not in parts:
            continue
        adapter[target] = {}
        for part in ("a", "b"):
            by_layer = parts.get((target, part), {})
            if set(by_layer) != set(layers):
                raise AdapterError(f"{target}.lora_{part.upper()} is missing in some layers")
            if len({x.shape for x in by_layer.values()}) != 1:
                raise AdapterError(f"{target}.lora_{part.upper()} differs in shape between layers")
            adapter[target][part] = np.stack([by_layer[layer] for layer in layers])
    if not adapter:
        raise AdapterError(f"{folder} holds no LoRA weights")
    _require_described(config, tuple(adapter), layers)
    return adapter, layers, alpha / (math.sqrt(r) if config.get("use_rslora") else r)


def _config(data: bytes) -> dict[str, Any]:
    """The settings; AdapterError for one that is not plain LoRA."""
    try:
        config = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{CONFIG} is not JSON: {error}") from error
    if type(config) is not dict:
        raise AdapterError(f"{CONFIG} is not an object")
    for name, value in config.items():
        if name in HARMLESS or name in DESCRIBING or value is None:
            continue
        if name in PLAIN:
            plain = any(type(value) is type(v) and value == v for v in PLAIN[name])
        else:
            plain = value is False or value in ([], {}, "")
        if not plain:
            raise AdapterError(
                f"{_short(name)} = {_short(value)} is not plain LoRA; retrain without it"
            )
    if type(config.get("use_rslora", False)) not in (bool, type(None)):
        raise AdapterError("use_rslora is neither true nor false")
    return config


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(value := dict(pairs)) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _rank(config: dict[str, Any]) -> int:
    r = config.get("r")
    if type(r) is not int or not 1 <= r <= MAX_RANK:
        raise AdapterError(f"r = {_short(r)} is no rank: an integer from 1 to {MAX_RANK:,}")
    return r


def _alpha(config: dict[str, Any]) -> float:
    alpha = config.get("lora_alpha")
    if type(alpha) not in (int, float) or not 0 < alpha < 2**31:  # NaN is in no range
        raise AdapterError(f"lora_alpha = {_short(alpha)} is not a positive number")
    return float(alpha)


def _place(name: str) -> tuple[int, str, str]:
    """Layer, target and "a" or "b" of a weight, by the one name that it has."""
    match = WEIGHT_NAME.fullmatch(name)
    if match is None or name != weight_name(int(match["layer"]), match["target"], match["part"]):
        raise AdapterError(f"{_short(name)} is not the name of a LoRA weight of a LLaMA layer")
    return int(match["layer"]), match["target"], match["part"].lower()


def _require_lora(r: int, found: Mapping[str, Described]) -> None:
    """AdapterError unless these are LoRA matrices of rank r, in floating point."""
    for name, told in found.items():
        _, _, part = _place(name)
        if told.dtype not in FLOATS:
            raise AdapterError(f"{name} is {told.dtype}; weights are one of {', '.join(FLOATS)}")
        if len(told.shape) != 2 or told.shape[0 if part == "a" else 1] != r or 0 in told.shape:
            raise AdapterError(f"{name} has shape {told.shape}, the rank is {r}")


def _require_described(
    config: dict[str, Any], targets: tuple[str, ...], layers: tuple[int, ...]
) -> None:
    """AdapterError unless the settings name these targets and layers."""
    named = config.get("target_modules")
    if named == "all-linear":
        named = list(TARGETS)
    if type(named) is not list or not all(type(n) is str for n in named):
        raise AdapterError("target_modules is no list of names (nor all-linear)")
    told = {n.rsplit(".", 1)[-1] for n in named}
    if told != set(targets):
        raise AdapterError(
            f"target_modules names {_short(sorted(told))}, the weights are of {sorted(targets)}"
        )
    kept = config.get("layers_to_transform")
    kept = [kept] if type(kept) is int else kept
    if kept is not None and not (
        type(kept) is list
        and all(type(k) is int for k in kept)
        and sorted(set(kept)) == list(layers)
    ):
        raise AdapterError(
            f"layers_to_transform = {_short(kept)}, the weights are of layers {list(layers)}"
        )
