"""Adapters in safetensors files, with PEFT's names and layouts: A as (r, inputs), B as (outputs,
r), behind the axes of stacked layers.

A dtype is kept as it is, so a file that was read and saved again has the same bytes. Files are read
strictly, for the layers that the reader names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from zkjax._arguments import checked, typed
from zkjax._marks import NewPath
from zkjax.errors import OptionError, StatementError
from zkjax.files import write_atomically
from zkjax.models.lora.rules import Adapter, Given, Target, require_adapter
from zkjax.models.peft import AdapterError
from zkjax.tensors import MAX_HEADER, Described, read_tensors

MOST_BYTES = 1 << 34
STORED = {"F32": "float32", "F64": "float64", "I32": "int32"}  # int32: in fixed point


def weight_name(path: str, part: str) -> str:
    """PEFT's name of one LoRA matrix; ``part`` is "a" or "b"."""
    return f"base_model.model.{path.replace('/', '.')}.lora_{part.upper()}.weight"


@checked
def save(path: NewPath, adapter: Given, targets: Mapping[str, Target]) -> None:
    """Write an adapter of float32, float64 or stored int32, whole or not at all.

    Raises:
      OptionError: it does not fit the targets, has another dtype or values that are not finite, or
        a name that is not ASCII.
    """
    from safetensors.numpy import save as encode

    require_adapter(adapter, targets)
    tensors = {}
    for layer, parts in sorted(adapter.items()):
        if not layer.isascii():
            raise OptionError(f"{layer!r} is not ASCII; rename the layer to save its adapter")
        for part in ("a", "b"):
            value = np.asarray(parts[part])
            if value.dtype.name not in STORED.values():
                raise OptionError(
                    f"the adapter's {part} of {layer!r} is {value.dtype}; an adapter is saved as "
                    f"{', '.join(STORED.values())}"
                )
            if not np.isfinite(value).all():
                raise OptionError(f"the adapter's {part} of {layer!r} holds a value not finite")
            tensors[weight_name(layer, part)] = np.ascontiguousarray(value.swapaxes(-1, -2))
    data = encode(tensors)
    if int.from_bytes(data[:8], "little") > MAX_HEADER:
        raise OptionError(f"{len(targets):,} layers are too many for one file; save some of them")
    write_atomically(path, data)


@typed
def load(path: str | Path, targets: Mapping[str, Target]) -> Adapter:
    """Read an adapter for these targets, NumPy arrays.

    Raises:
      AdapterError: the file is missing or malformed, has weights for other layers or none for one
        of these, or of another shape or dtype, or values that are not finite.
    """
    shapes = {
        weight_name(layer, part): (*shape[:-2], shape[-1], shape[-2])
        for layer, target in targets.items()
        for part, shape in target.shapes.items()
    }

    def require(found: Mapping[str, Described]) -> None:
        for name in sorted({*found, *shapes}):
            if name not in found:
                raise AdapterError(f"{path}: {name} is missing; it is of an adapter by other rules")
            if name not in shapes:
                raise AdapterError(f"{path}: {name[:80]!r} is a weight that no rule is about")
            told = found[name]
            if told.dtype not in STORED or told.shape != shapes[name]:
                raise AdapterError(
                    f"{path}: {name} is {told.dtype} of shape {told.shape}; the rule makes it "
                    f"{shapes[name]}, and it is one of {', '.join(STORED)}"
                )

    try:
        tensors = read_tensors(path, MOST_BYTES, require)
    except StatementError as error:
        raise AdapterError(f"{path} is no adapter: {error}") from error
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise AdapterError(f"{path}: {name} holds a value that is infinite or not a number")
    return {
        layer: {
            part: np.ascontiguousarray(tensors[weight_name(layer, part)].swapaxes(-1, -2))
            for part in ("a", "b")
        }
        for layer in targets
    }
