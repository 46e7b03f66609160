"""A base model in the fixed point in which a check of an adapter runs it.

Activations are sent as int16. Their unit, a power of two for each input group and layer, is the
user's own matter: an adapter is linear, so its owner computes with integers, and the user knows
what they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from zkjax.errors import CalibrationError
from zkjax.fixed import Format
from zkjax.fixed.sites import Site
from zkjax.models.config import INPUT_GROUPS, ModelConfig
from zkjax.models.numerics import FixedPoint
from zkjax.models.registry import MODELS, parameter_shapes
from zkjax.proofs.calibration import Calibration
from zkjax.proofs.finetune import FineTuning, decode_base, is_in_parts

ACTIVATION_BITS = 16


@dataclass(frozen=True)
class Arithmetic:
    """A model and its formats; without any they are those of ``models.numerics``."""

    config: ModelConfig
    formats: Calibration | None = None

    def __post_init__(self):
        for group in INPUT_GROUPS:
            if (bits := self._input(group).forward.bits) > ACTIVATION_BITS:
                raise CalibrationError(
                    f"these formats give what the linear layers of {group!r} read {bits} bits; "
                    f"{ACTIVATION_BITS} are sent. zkjax calibrate --between-parties makes such"
                )

    @cached_property
    def run(self) -> FineTuning:
        plain = FineTuning(model=self.config)
        return plain if self.formats is None else self.formats.apply(plain)

    @property
    def numerics(self) -> FixedPoint:
        assert isinstance(self.run.numerics, FixedPoint)
        return self.run.numerics

    def _input(self, group: str) -> Site:
        return self.numerics.site(MODELS[type(self.config)].input_sites[group])

    def fraction(self, group: str) -> int:
        """Fraction bits of what a group's linear layers read, in a layer without a shift."""
        return self._input(group).forward.fraction

    def shifts(self, group: str) -> np.ndarray:
        """Bits more of each layer."""
        shifts = self._input(group).forward_shifts or (0,) * self.config.num_hidden_layers
        return np.array(shifts)

    def with_adapter(self, targets: Sequence[str]) -> FixedPoint:
        """The arithmetic of the model with an adapter in it: x A is rounded to the unit of x."""
        sites = dict(self.numerics.sites)
        for group, members in INPUT_GROUPS.items():
            read = self._input(group)
            low = Site(
                Format(read.forward.fraction, ACTIVATION_BITS), forward_shifts=read.forward_shifts
            )
            sites |= {f"{target}.lora": low for target in members if target in targets}
        sites["lora.weight"] = Site(Format(30, 52))  # they are stored rounded
        return replace(self.numerics, sites=sites)

    def decode(self, stored: Any) -> Any:
        """Stored base weights as values."""
        return decode_base(self.run, stored)

    def is_stored(self, stored: Any) -> bool:
        """Whether arrays have the structure, shapes and types of a stored base model."""
        if not isinstance(stored, Mapping):
            return False
        try:
            leaves, form = jax.tree.flatten(stored, is_leaf=is_in_parts)
        except Exception:  # whatever was given
            return False
        wanted, wanted_form = jax.tree.flatten(parameter_shapes(self.config))
        return [form] == [wanted_form] and all(
            _is_int(x["coarse"], e.shape, "int16") and _is_int(x["fine"], e.shape, "int8")
            if is_in_parts(x)
            else _is_int(x, e.shape, "int16")
            for x, e in zip(leaves, wanted, strict=True)
        )


def _is_int(x: Any, shape: tuple[int, ...], dtype: str) -> bool:
    return np.shape(x) == shape and getattr(getattr(x, "dtype", None), "name", "") == dtype
