"""Adapters in PEFT's file format: ``adapter_model.safetensors`` and ``adapter_config.json``."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from zkjax.errors import ZkjaxError
from zkjax.files import write_atomically
from zkjax.models.config import TARGETS, LoraConfig
from zkjax.models.llama import Adapter

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
WEIGHT_NAME = re.compile(
    r"base_model\.model\.model\.layers\.(?P<layer>\d{1,4})\.(?:self_attn|mlp)\."
    rf"(?P<target>{'|'.join(TARGETS)})\.lora_(?P<part>[AB])\.weight"
)
# Settings that change what an adapter computes, with the values that do not.
PLAIN: dict[str, tuple] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False,),
    "fan_in_fan_out": (False,),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "modules_to_save": ([],),
    "lora_bias": (False,),
    "use_qalora": (False,),
    "use_bdlora": (False,),
    "trainable_token_indices": (),
    "target_parameters": (),
    "layer_replication": (),
    "alora_invocation_tokens": (),
    "arrow_config": (),
    "kasa_config": (),
    "monteclora_config": (),
    "velora_config": (),
}


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
    write_atomically(folder / "adapter_model.safetensors", save(tensors))
    text = json.dumps(config, indent=2, sort_keys=True)
    write_atomically(folder / "adapter_config.json", text.encode())


def load_adapter(folder: str | Path) -> tuple[Any, tuple[int, ...], float]:
    """Read a LoRA adapter for LLaMA's linear layers.

    Returns:
      the weights {target: {"a": (layers, inputs, r), "b": (layers, r, outputs)}} in float64, the
      layers of the base model they belong to, and the scale of B A.
    Raises:
      AdapterError: the files are missing or malformed, or hold more than plain LoRA.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")
        r, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise AdapterError(f"{folder} is not a PEFT adapter: {error!r}") from error
    if r < 1 or not (math.isfinite(alpha) and alpha > 0):
        raise AdapterError(f"r = {r} and lora_alpha = {alpha} are not both positive numbers")
    for name, plain in PLAIN.items():
        if config.get(name) not in (None, *plain):
            raise AdapterError(f"{name} = {config[name]!r} is not plain LoRA; retrain without it")
    parts: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise AdapterError(f"{name} holds a value that is infinite or not a number")
        match = WEIGHT_NAME.fullmatch(name)
        if match is None:
            raise AdapterError(f"{name} is not a LoRA weight of a LLaMA linear layer")
        if value.ndim != 2 or value.shape[0 if match["part"] == "A" else 1] != r:
            raise AdapterError(f"{name} has shape {value.shape}, the rank is {r}")
        key = match["target"], match["part"].lower()
        parts.setdefault(key, {})[int(match["layer"])] = value.T.astype(np.float64)
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
    return adapter, layers, alpha / (math.sqrt(r) if config.get("use_rslora") else r)
