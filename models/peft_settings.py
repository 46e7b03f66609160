"""The settings of a LoRA adapter in PEFT's ``adapter_config.json``, or a refusal that names cause
and what to do.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple, NoReturn

from zkjax.errors import ZkjaxError

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
MAX_RANK = 1 << 12
LEAST_ALPHA, MOST_ALPHA = 1e-12, 2.0**27

CONVERT = (
    "it belongs to a base model that its training changed; convert it with PEFT: "
    "save_pretrained(folder, path_initial_model_for_weight_conversion=...)"
)
RETRAIN = "it may change what an adapter computes; retrain without it"
# Settings that change what an adapter computes, with the values that do not. None never does, and
# no more do settings that are not known here if they are false or empty.
PLAIN: dict[str, tuple] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION"),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica"),
}
CURES = {
    "peft_type": "LORA is read; PEFT's save_as_lora converts what adds to weights",
    "task_type": "its model has an encoder or another head; CAUSAL_LM is read",
    "bias": "it replaces biases of the base model; retrain with bias='none'",
    "lora_bias": "it adds biases; retrain with lora_bias=False",
    "use_dora": "DoRA divides by norms of the weights; retrain with use_dora=False",
    "modules_to_save": "it replaces whole modules of the base model; retrain without it",
    "trainable_token_indices": "it replaces embeddings of tokens; retrain without it",
    "target_parameters": "it adapts parameters that are no linear layer; use target_modules",
    "layer_replication": "it is of a model with other layers; make that a base model of its own",
    "megatron_config": "it is of Megatron's layers; retrain without it",
    "alora_invocation_tokens": "it acts on some tokens only; retrain without it",
}
# How PEFT converts an adapter whose initialization took something out of the base model.
CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")
# Settings about training or about files, and those that nothing reads if the others are plain.
HARMLESS = frozenset(
    (
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",  # stays when such an adapter is converted
        "ensure_weight_tying",
        "eva_config",
        "inference_mode",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
    )
)
READ = frozenset(
    (
        "alpha_pattern",
        "exclude_modules",
        "fan_in_fan_out",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "r",
        "rank_pattern",
        "target_modules",
        "use_rslora",
    )
)


class AdapterError(ZkjaxError):
    """An adapter's files cannot be used."""


class Settings(NamedTuple):
    """What the files of a plain LoRA adapter have to agree with; names as in PEFT's LoraConfig.

    ``target_modules`` and ``exclude_modules`` are an expression or names. ``layers_to_transform``
    is None if all layers are adapted, ``layers_pattern`` () if any list of layers will do.
    """

    r: int
    lora_alpha: float
    use_rslora: bool
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    target_modules: str | tuple[str, ...]
    exclude_modules: str | tuple[str, ...]
    layers_to_transform: frozenset[int] | None
    layers_pattern: tuple[str, ...]
    fan_in_fan_out: bool

    def scale(self, r: int, alpha: float) -> float:
        """The factor of B A in one module."""
        return alpha / (math.sqrt(r) if self.use_rslora else r)


def read_settings(data: bytes) -> Settings:
    """The settings of a file. AdapterError if they are malformed, or not those of plain LoRA."""
    try:
        config = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{CONFIG} is not JSON: {error}") from error
    if type(config) is not dict:
        raise AdapterError(f"{CONFIG} is not an object")
    _require_plain(config)
    ranks, alphas = (_pattern(config, f"{name}_pattern") for name in ("rank", "alpha"))
    targets, layers = config.get("target_modules"), config.get("layers_to_transform")
    settings = Settings(
        _rank(config.get("r"), "r"),
        _alpha(config.get("lora_alpha"), "lora_alpha"),
        _truth(config, "use_rslora"),
        {k: _rank(v, f"rank_pattern, {short(k)}") for k, v in ranks.items()},
        {k: _alpha(v, f"alpha_pattern, {short(k)}") for k, v in alphas.items()},
        _names(targets, "target_modules"),
        _names(config.get("exclude_modules") or [], "exclude_modules"),
        _layers(layers),
        _some_names(config.get("layers_pattern")),
        _truth(config, "fan_in_fan_out"),
    )
    if not settings.target_modules:
        raise AdapterError("target_modules names nothing; list the modules that are adapted")
    if layers is not None and isinstance(settings.target_modules, str):
        raise AdapterError(
            "PEFT takes no layers_to_transform when target_modules is a text; list the modules"
        )
    if settings.layers_pattern and layers is None:
        raise AdapterError("layers_pattern needs layers_to_transform, or has to be left out")
    return settings


def short(value: Any, most: int = 60) -> str:
    """A value of a file in at most so many characters."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(value := dict(pairs)) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _require_plain(config: dict[str, Any]) -> None:
    # PEFT's other types have other settings: the type is the cause that helps.
    for name in sorted(config, key=lambda n: (n != "peft_type", n != "task_type")):
        value = config[name]
        if name in HARMLESS or name in READ or value is None:
            continue
        if name in PLAIN:
            plain = any(type(value) is type(v) and value == v for v in PLAIN[name])
        else:
            plain = value is False or value in ([], {}, "")
        if not plain:
            _refuse(name, value)
    if config.get("peft_type") is None:
        _refuse("peft_type", None)


def _refuse(name: str, value: Any) -> NoReturn:
    cure = CURES.get(name, RETRAIN)
    if name == "init_lora_weights" and type(value) is str:
        if value.lower().startswith("loftq"):
            cure = "it belongs to a quantized base model; retrain with init_lora_weights=True"
        elif value.lower().startswith(CHANGES_BASE):
            cure = CONVERT
        else:
            cure = "PEFT 0.21 knows no such initialization"
    told = name if name.isidentifier() and len(name) < 60 else short(name)
    raise AdapterError(f"{told} = {short(value)} is not plain LoRA: {cure}")


def _truth(config: dict[str, Any], name: str) -> bool:
    value = config.get(name)
    if type(value) not in (bool, type(None)):
        raise AdapterError(f"{name} = {short(value)} is neither true nor false")
    return bool(value)


def _rank(r: Any, what: str) -> int:
    if type(r) is not int or not 1 <= r <= MAX_RANK:
        raise AdapterError(f"{what} = {short(r)} is no rank: an integer from 1 to {MAX_RANK:,}")
    return r


def _alpha(alpha: Any, what: str) -> float:
    fits = type(alpha) in (int, float) and LEAST_ALPHA <= alpha < MOST_ALPHA
    if not fits:  # NaN is in no range
        raise AdapterError(f"{what} = {short(alpha)} is not a positive number below 2^27")
    return float(alpha)


def _pattern(config: dict[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name) or {}
    if type(value) is not dict:
        raise AdapterError(f"{name} = {short(value)} is no object of names and numbers")
    return value


def _names(value: Any, what: str) -> str | tuple[str, ...]:
    if type(value) is str:
        return value
    if type(value) is not list or not all(type(n) is str for n in value):
        raise AdapterError(f"{what} = {short(value)} is no list of names, nor an expression")
    return tuple(value)


def _some_names(value: Any) -> tuple[str, ...]:
    found = _names(value or [], "layers_pattern")
    return (found,) if isinstance(found, str) else found


def _layers(value: Any) -> frozenset[int] | None:
    layers = [value] if type(value) is int else value
    if layers is not None and not (
        type(layers) is list and all(type(layer) is int for layer in layers)
    ):
        raise AdapterError(f"layers_to_transform = {short(value)} is no list of layers")
    return frozenset(layers) if layers else None
