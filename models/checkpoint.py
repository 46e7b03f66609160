"""Model directories of Hugging Face: ``config.json`` and safetensors, read tensor by tensor.

A family of models says what its settings mean and, in one table, which tensor is which parameter
(``hf_llama``, ``hf_gpt2``). The parameters of all layers are stacked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from zkjax._arguments import checked, typed
from zkjax._marks import Tree
from zkjax.errors import CheckpointError, StatementError
from zkjax.files import read_capped
from zkjax.models import hf_gpt2, hf_llama
from zkjax.models.config import ModelConfig
from zkjax.models.hf_settings import Settings, TensorOf

__all__ = ["directory_digest", "load_model", "model_digest", "read_config"]

MOST_CONFIG, MOST_INDEX = 1 << 20, 64 << 20  # bytes
FAMILIES: dict[str, Any] = {"llama": hf_llama, "gpt2": hf_gpt2}
FLOATS = ("F32", "F16", "BF16")


class Parameter(NamedTuple):
    """One array of a model: its dotted name, its layer (None outside the blocks) and its values,
    float32.
    """

    name: str
    layer: int | None
    values: np.ndarray


@typed
def read_config(folder: str | Path) -> ModelConfig:
    """The configuration of a model directory. CheckpointError names a key that is not supported."""
    return _read(Path(folder))[0]


def _read(folder: Path) -> tuple[ModelConfig, Any]:
    """The configuration and its family."""
    path = folder / "config.json"
    try:
        raw = json.loads(read_capped(path, MOST_CONFIG))
    except (OSError, ValueError, RecursionError, StatementError) as error:
        if not path.exists():
            raise CheckpointError(f"{folder} is no model directory: no {path.name}") from None
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: not a configuration")
    settings = Settings(raw, path)
    family = FAMILIES[settings.choice("model_type", tuple(FAMILIES))]
    if raw.get("quantization_config"):
        raise CheckpointError(f"{path}: quantization_config: quantized weights are not read")
    return family.read_config(settings), family


class _Tensors:
    """The tensors of a directory's safetensors files, opened when they are asked for."""

    def __init__(self, folder: Path):
        from safetensors import SafetensorError, safe_open

        index = folder / "model.safetensors.index.json"
        files = ["model.safetensors"]
        self._folder = folder
        try:
            if index.exists():
                told = json.loads(read_capped(index, MOST_INDEX))
                files = sorted(set(told["weight_map"].values()))
            for name in files:
                if Path(name).name != name or not (folder / name).is_file():
                    raise CheckpointError(
                        f"{folder}: there is no file {name!r} of weights; only safetensors are "
                        "read (save_pretrained writes them)"
                    )
            self._open = [safe_open(folder / name, framework="numpy") for name in files]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
                StatementError, SafetensorError) as error:  # fmt: skip
            raise CheckpointError(f"{folder}: the files of weights cannot be read: {error}") from (
                error
            )
        self._of: dict[str, Any] = {}
        for handle, file in zip(self._open, files, strict=True):
            for name in handle.keys():  # noqa: SIM118
                if name in self._of:
                    raise CheckpointError(f"{folder}: tensor {name!r} is in {file} and another")
                self._of[name] = handle
        self.unread = set(self._of)

    def __contains__(self, name: str) -> bool:
        return name in self._of

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
                f"{self._folder}: tensor {name!r} is {kind}; {', '.join(FLOATS)} are read"
            )
        self.unread.discard(name)
        values = self._of[name].get_tensor(name)
        if kind == "BF16" and values.dtype != np.float32:
            bits = np.ascontiguousarray(values).view(np.uint16).astype(np.uint32) << 16
            values = bits.view(np.float32)
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise CheckpointError(f"{self._folder}: tensor {name!r} has values that are no numbers")
        return values


def parameters_of(folder: str | Path) -> tuple[ModelConfig, Iterator[Parameter]]:
    """The configuration of a directory, and its parameters one after the other."""
    folder = Path(folder)
    config, family = _read(folder)
    return config, _parameters(folder, config, family)


def _parameters(folder: Path, config: ModelConfig, family: Any) -> Iterator[Parameter]:
    tensors = _Tensors(folder)
    prefix = "" if family.BARE in tensors else family.PREFIX

    def read(of: TensorOf, layer: int | None) -> Parameter:
        name = prefix + of.tensor if layer is None else f"{prefix}{of.tensor.format(layer)}"
        shape = of.shape[::-1] if of.transposed else of.shape
        values = tensors.read("lm_head.weight" if of.tensor == "lm_head.weight" else name, shape)
        return Parameter(of.parameter, layer, values.T if of.transposed else values)

    for of in family.outer(config):
        yield read(of, None)
    for of in family.of_layer(config):
        for layer in range(config.num_hidden_layers):
            yield read(of, layer)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    left = {name for name in tensors.unread - tied if not re.fullmatch(family.NO_EFFECT, name)}
    if left:
        raise CheckpointError(f"{folder}: tensor {min(left)!r} is none of this model's")


@typed
def load_model(folder: str | Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Configuration and parameters (nested dict of float32, layers stacked) of a directory."""
    config, found = parameters_of(folder)
    parameters: dict[str, Any] = {}

    for name, layer, values in found:
        *path, last = name.split(".")
        node = parameters
        for key in path:
            node = node.setdefault(key, {})
        if layer is None:
            node[last] = np.ascontiguousarray(values)
            continue
        if last not in node:
            node[last] = np.empty((config.num_hidden_layers, *values.shape), np.float32)
        node[last][layer] = values
    return config, parameters


def _tensor_digest(name: str, layer: int | None, values: np.ndarray) -> bytes:
    h = hashlib.blake2s(person=b"zkj.tnsr")
    h.update(json.dumps([name, layer, values.shape]).encode())
    h.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
    return h.digest()


def _digest(config: ModelConfig, tensors: list[bytes]) -> str:
    h = hashlib.blake2s(person=b"zkj.modl")
    told = [type(config).__name__, dataclasses.asdict(config)]  # type: ignore[call-overload]
    h.update(json.dumps(told, sort_keys=True).encode())
    h.update(b"".join(sorted(tensors)))
    return h.hexdigest()


@checked
def model_digest(config: ModelConfig, parameters: Annotated[Any, Tree()]) -> str:
    """Names a model, in hexadecimal: its settings and its weights as float32. It does not depend on
    how files are cut, on the order of what is in them, or on settings without effect.
    """
    tensors = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(parameters)[0]:
        name = ".".join(str(key.key) for key in path)
        parts = enumerate(leaf) if name.startswith("layers.") else [(None, leaf)]
        tensors += [_tensor_digest(name, layer, np.asarray(part)) for layer, part in parts]
    return _digest(config, tensors)


@typed
def directory_digest(folder: str | Path) -> tuple[ModelConfig, str]:
    """The configuration of a directory and its ``model_digest``, with one tensor at a time in
    memory.
    """
    config, found = parameters_of(folder)
    return config, _digest(config, [_tensor_digest(*parameter) for parameter in found])
