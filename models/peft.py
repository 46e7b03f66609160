"""Adapters in PEFT's file format: ``adapter_model.safetensors`` and ``adapter_config.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from zkjax.models.config import LoraConfig

from zkjax.files import write_atomically

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


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
