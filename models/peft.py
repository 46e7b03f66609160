"""Adapters in PEFT's file format: ``adapter_model.safetensors`` and ``adapter_config.json``.

An adapter is read as it acts: ranks and scales that differ between modules, and modules that some
layers lack, become one stack of matrices with one scale.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from zkjax._arguments import checked
from zkjax._marks import Between, NewPath
from zkjax.errors import OptionError, StatementError
from zkjax.files import read_capped, write_atomically
from zkjax.models.adapter import Adapter
from zkjax.models.config import LoraConfig, ModelConfig
from zkjax.models.peft_contents import Contents, read_contents
from zkjax.models.peft_names import FAMILIES, GPT2, MAX_LAYERS, Family, Module
from zkjax.models.peft_settings import (
    CONFIG,
    LEAST_ALPHA,
    PICKLED,
    WEIGHTS,
    AdapterError,
    read_settings,
)
from zkjax.tensors import read_tensors

__all__ = ["AdapterError", "LoadedAdapter", "load_adapter", "save_adapter", "weight_name"]

MAX_CONFIG, MAX_WEIGHTS = 1 << 20, 1 << 34  # bytes that are read

Layer = Annotated[int, Between(0, MAX_LAYERS - 1)]


class LoadedAdapter(NamedTuple):
    """An adapter as its files have it.

    Attributes:
      weights: {target: {"a": (layers, inputs, r), "b": (layers, r, outputs)}}, float64; zeros where
        a layer has no such module, and beyond the rank of a module.
      layers: the layers of the base model that they belong to.
      scale: the factor of every B A.
    """

    weights: Adapter
    layers: tuple[int, ...]
    scale: float

    @property
    def lora(self) -> LoraConfig:
        """The hyper-parameters under which ``save_adapter`` writes it."""
        r = next(iter(self.weights.values()))["a"].shape[2]
        return LoraConfig(r=r, alpha=alpha_of(self.scale, r), targets=tuple(self.weights))


@checked
def weight_name(layer: Layer, target: str, part: Literal["A", "B"]) -> str:
    """PEFT's name of one LoRA matrix; ``part`` is "A" or "B"."""
    return _family([target]).weight(layer, target, part)


@checked
def load_adapter(folder: str | Path, base: ModelConfig | None = None) -> LoadedAdapter:
    """Read a LoRA adapter for the linear layers of a LLaMA's or GPT-2's blocks.

    With ``base``, the file has to hold the modules that the settings name in that base model, all
    and no others, in its shapes. Without, the same is asked of all layers up to the last one that
    the file or its settings name. The scale is that of most modules; what others differ by is
    multiplied into their B.

    Raises:
      AdapterError: the files are missing or malformed, contradict each other or the base model, or
        hold more than plain LoRA.
    """
    folder = Path(folder)
    if base is not None and base.num_hidden_layers > MAX_LAYERS:
        raise OptionError(f"base has {base.num_hidden_layers:,} layers; {MAX_LAYERS:,} are read")
    contents: list[Contents] = []
    try:
        settings = read_settings(read_capped(folder / CONFIG, MAX_CONFIG))
        if (folder / PICKLED).is_file() and not (folder / WEIGHTS).exists():
            raise AdapterError(
                f"{folder / PICKLED} is a pickle, which can run code; load it with PEFT and write "
                "it again: save_pretrained(folder, safe_serialization=True)"
            )
        tensors = read_tensors(
            folder / WEIGHTS,
            MAX_WEIGHTS,
            lambda found: contents.append(read_contents(settings, base, found)),
        )
    except StatementError as error:
        raise AdapterError(f"{folder} is not a PEFT adapter: {error}") from error
    return _stacked(contents[0], tensors)


@checked
def save_adapter(
    folder: NewPath,
    adapter: Mapping[str, Any],
    lora: LoraConfig,
    base_name: str,
    *,
    layers: Sequence[Layer] | None = None,
    dtype: Literal["F32", "F64"] = "F32",
) -> None:
    """Write an adapter as files that PEFT loads.

    Args:
      adapter: real weights, {target: {"a": (layers, inputs, r), "b": (layers, r, outputs)}}. A
        module whose A and B are all zero is left out.
      base_name: of the base model, for whoever reads the settings.
      layers: the layers of the base model, ascending; 0, 1, ... if it is not given.
      dtype: what the weights are rounded to.
    Raises:
      OptionError: the arguments do not fit each other, or a weight has no value in ``dtype``.
    """
    from safetensors.numpy import save

    family, stacks = _family(lora.targets), _require_stacks(adapter, lora)
    depth = len(next(iter(stacks.values()))[0])
    layers = tuple(int(layer) for layer in (range(depth) if layers is None else layers))
    if len(layers) != depth or list(layers) != sorted(set(layers)) or layers[-1] >= MAX_LAYERS:
        raise OptionError(
            f"layers = {list(layers)[:20]} are {depth} layers below {MAX_LAYERS}, ascending"
        )
    modules = [
        (layer, target)
        for i, layer in enumerate(layers)
        for target in family.config.paths
        if target in stacks and any(np.any(part[i]) for part in stacks[target])
    ] or [(layer, target) for layer in layers for target in stacks]
    tensors = {}
    for layer, target in modules:
        for part, stack in zip("AB", stacks[target], strict=True):
            with np.errstate(over="ignore"):
                value = stack[layers.index(layer)].T.astype("<f4" if dtype == "F32" else "<f8")
            if not np.isfinite(value).all():
                raise OptionError(f"layer {layer} {target} has a weight that is too large, or none")
            tensors[family.weight(layer, target, part)] = np.ascontiguousarray(value)
    config = {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": family is GPT2,
        "inference_mode": True,
        "lora_alpha": _number(alpha_of(lora.scale, lora.r)),
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": int(lora.r),
        "task_type": "CAUSAL_LM",
    } | _naming(family, modules)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS, save(tensors))
    text = json.dumps(config, indent=2, sort_keys=True)
    write_atomically(folder / CONFIG, text.encode())


def _stacked(contents: Contents, tensors: dict[str, np.ndarray]) -> LoadedAdapter:
    """The arrays of a file as one adapter; AdapterError for a value that is not finite."""
    layers, r, sizes = contents.sizes()
    counts = Counter(contents.scales.values())
    scale = max(counts, key=lambda s: (counts[s], s))
    weights: Adapter = {
        target: {
            "a": np.zeros((len(layers), inputs, r)),
            "b": np.zeros((len(layers), r, outputs)),
        }
        for target, (inputs, outputs) in sizes.items()
    }
    row = {layer: i for i, layer in enumerate(layers)}
    for module, parts in contents.names.items():
        layer, target = module
        ratio = contents.scales[module] / scale
        for part, factor in (("a", 1.0), ("b", ratio)):
            with np.errstate(over="ignore", invalid="ignore"):
                value = tensors.pop(parts[part]).T.astype(np.float64) * factor
            if not np.isfinite(value).all():
                raise AdapterError(f"{parts[part]} holds a value that is infinite or not a number")
            weights[target][part][row[layer], : value.shape[0], : value.shape[1]] = value
    return LoadedAdapter(weights, layers, scale)


def _family(targets: Sequence[str]) -> Family:
    """The family that all of the targets belong to."""
    found = next((f for f in FAMILIES if targets and set(targets) <= f.config.paths.keys()), None)
    if found is None:
        raise OptionError(
            f"targets = {list(targets)} are linear layers of one kind of model, of "
            f"{' or of '.join(', '.join(f.config.paths) for f in FAMILIES)}"
        )
    return found


def _require_stacks(adapter: Mapping[str, Any], lora: LoraConfig) -> dict[str, list[np.ndarray]]:
    """A and B of each target, stacked over layers; OptionError if they do not fit."""
    if set(adapter) != set(lora.targets):
        raise OptionError(f"adapter has {sorted(adapter)}, lora.targets are {sorted(lora.targets)}")
    stacks: dict[str, list[np.ndarray]] = {}
    for target, parts in adapter.items():
        if not isinstance(parts, Mapping) or set(parts) != {"a", "b"}:
            raise OptionError(f'adapter[{target!r}] is {{"a": A, "b": B}}, stacked over layers')
        a, b = (np.asarray(parts[part]) for part in "ab")
        for name, value, axis in (("a", a, 2), ("b", b, 1)):
            fits = value.dtype.kind in "fiu" and value.ndim == 3 and 0 not in value.shape
            if not fits or value.shape[axis] != lora.r:
                raise OptionError(
                    f"adapter[{target!r}][{name!r}] is {value.dtype}{list(value.shape)}; it is an "
                    f"array of real numbers with three axes, and rank r = {lora.r} on axis {axis}"
                )
        stacks[target] = [a, b]
    if len({len(part) for pair in stacks.values() for part in pair}) != 1:
        raise OptionError("adapter has targets, or A and B, with different numbers of layers")
    return stacks


def _naming(family: Family, modules: list[Module]) -> dict[str, Any]:
    """Settings by which PEFT finds these modules and no others, in any base model. They name the
    layers, so that a file that has lost one is found out.
    """
    layers = sorted({layer for layer, _ in modules})
    targets = [t for t in family.config.paths if any(t == target for _, target in modules)]
    if len(modules) == len(layers) * len(targets):
        return {
            "layers_to_transform": layers,
            "target_modules": [family.suffix(target) for target in targets],
        }
    return {"target_modules": [family.path(*module) for module in modules]}


def alpha_of(scale: float, r: int) -> float:
    """An alpha with alpha / r = scale in float64, always the same one for a scale; if there is
    none, one that comes next to it.
    """
    near = scale * r
    for _ in range(2):
        around = [float(round(near)), near]
        for direction in (0.0, np.inf):
            once = float(np.nextafter(near, direction))
            around += [once, float(np.nextafter(once, direction))]
        for alpha in around:
            if alpha >= LEAST_ALPHA and alpha / r == scale:
                return alpha
        scale = near / r
    return near


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() else value
