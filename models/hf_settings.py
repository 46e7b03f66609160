"""The settings of a ``config.json``, and a row of the table of a family's tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from zkjax.errors import CheckpointError


class TensorOf(NamedTuple):
    """Which tensor a parameter is.

    Attributes:
      parameter: its dotted name.
      tensor: its name behind the family's prefix, with ``{}`` for the layer.
      shape: of the parameter.
      transposed: linear layers are (outputs, inputs) in the files of torch, (inputs, outputs) here.
    """

    parameter: str
    tensor: str
    shape: tuple[int, ...]
    transposed: bool = False


class Settings:
    """Keys of a ``config.json``; CheckpointError names one that is not what it has to be."""

    def __init__(self, raw: dict[str, Any], path: Path):
        self.raw, self.path = raw, path

    def wrong(self, key: str, wanted: str) -> CheckpointError:
        shown = repr(self.raw.get(key))
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return CheckpointError(f"{self.path}: {key} = {shown} is not supported; {wanted}")

    def given(self, key: str) -> bool:
        return self.raw.get(key) is not None

    def choice(self, key: str, values: tuple, default: Any = None) -> Any:
        """One of these values; the default where the key is missing or null."""
        value = self.raw.get(key)
        value = default if value is None else value
        if not any(type(value) is type(v) and value == v for v in values):
            raise self.wrong(key, f"{' or '.join(map(repr, values))} is")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        value = self.raw.get(key)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value <= 1 << 24:
            raise self.wrong(key, "it is a size")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.raw.get(key)
        value = default if value is None else value
        if type(value) not in (int, float) or not 0 <= value < float("inf"):
            raise self.wrong(key, "it is a number that is not negative")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        return self.choice(key, (True, False), default)

    def fixed(self, **values: Any) -> None:
        """Keys that may be missing, but have no other value than this."""
        for key, value in values.items():
            self.choice(key, (value,), value)
