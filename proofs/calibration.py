"""Formats for a model from what it computes on some text.

``calibrate`` runs a fine-tuning run's loss and gradient in floating point, watches every site, and
chooses formats. The result is a small file of formats that a run uses: ``Calibration.save``,
``Calibration.load``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np

from zkjax._arguments import checked, typed
from zkjax._compat import x64
from zkjax._marks import Between, NewPath
from zkjax.errors import CalibrationError
from zkjax.files import read_capped, write_atomically
from zkjax.fixed import Format
from zkjax.fixed.sites import ROOM, WIDE_ROOM, Seen, Site, choose, observations
from zkjax.models.checkpoint import model_digest
from zkjax.models.config import Checked
from zkjax.models.numerics import DEFAULT_SITES, FixedPoint, Observed
from zkjax.models.registry import MODELS
from zkjax.proofs.finetune import (
    FINE_BITS,
    WEIGHT_FRACTION,
    FineTuning,
    Fractions,
    LossScale,
    Weights,
    dotted,
    make_gradient,
    make_losses,
    require_power,
)

__all__ = ["Calibration", "calibrate"]

VERSION = 1
MOST_BYTES = 1 << 20
LONGER = 8  # times the positions that were looked at are what attention may see
# Tables are looked up by the values of these, or give them.
NARROW = ("gate_proj", "logits", "scores", "c_fc", "gelu")
# Trained weights and gradients change in a run: their formats are not chosen from one look.
KEPT = ("lora.weight", "gradient")
WEIGHT_PRECISION = 12
MOST_WEIGHT_FRACTION = 16


@dataclass(frozen=True)
class Calibration(Checked):
    """Formats for one model.

    Attributes:
      model: digest of the configuration and the weights that were calibrated.
      data: digest of the tokens they were calibrated on.
      sites: formats by name.
      weight_fractions: fraction bits of stored base weights by dotted name.
      loss_scale: what cotangents were seen with.
    """

    model: str
    data: str
    sites: Mapping[str, Site]
    weight_fractions: Fractions = field(default_factory=dict)
    loss_scale: LossScale = FineTuning.loss_scale

    def __post_init__(self):
        super().__post_init__()
        require_power(self.loss_scale)

    def __hash__(self) -> int:
        return hash(self.encode())

    def numerics(self) -> FixedPoint:
        """The fixed point of these formats."""
        return FixedPoint(sites=self.sites)

    @checked
    def apply(self, run: FineTuning) -> FineTuning:
        """A run in these formats. Raises CalibrationError if they were made for other layers."""
        for name, site in self.sites.items():
            for shifts in (site.forward_shifts, site.backward_shifts):
                if shifts and len(shifts) != run.model.num_hidden_layers:
                    raise CalibrationError(
                        f"the calibration has formats for {len(shifts)} layers at site {name!r} "
                        f"and the model has {run.model.num_hidden_layers}; calibrate this model"
                    )
        return replace(
            run,
            numerics=self.numerics(),
            loss_scale=self.loss_scale,
            weight_fractions=self.weight_fractions,
        )

    @checked
    def require_model(self, digest: str) -> None:
        """CalibrationError unless it was made for this model."""
        if self.model != digest:
            raise CalibrationError(
                f"the calibration was made for another model ({self.model[:16]}, this one is "
                f"{digest[:16]}); run zkjax calibrate on this one"
            )

    @checked
    def save(self, path: NewPath) -> None:
        """Write the file, whole or not at all."""
        write_atomically(Path(path), self.encode())

    def encode(self) -> bytes:
        sites = {name: list(site) for name, site in sorted(self.sites.items())}
        raw = {
            "version": VERSION,
            "model": self.model,
            "data": self.data,
            "log2_loss_scale": int(np.log2(self.loss_scale)),
            "weight_fractions": dict(sorted(self.weight_fractions.items())),
            "sites": sites,
        }
        return (json.dumps(raw, indent=1) + "\n").encode()

    @classmethod
    @typed
    def load(cls, path: str | Path) -> Calibration:
        """Read a file. Raises CalibrationError if it is no calibration of this version."""
        return cls.decode(read_capped(Path(path), MOST_BYTES), str(path))

    @classmethod
    @typed
    def decode(cls, data: bytes, name: str = "calibration") -> Calibration:
        try:
            raw = json.loads(data)
            if type(raw) is not dict or raw.get("version") != VERSION:
                version = raw.get("version") if type(raw) is dict else None
                raise CalibrationError(
                    f"{name}: a calibration of version {version}; this zkjax reads version "
                    f"{VERSION}. Make it again with zkjax calibrate"
                )
            sites = {
                str(site): Site(_format(f), _format(b), _shifts(fs), _shifts(bs))
                for site, (f, b, fs, bs) in raw["sites"].items()
            }
            fractions = {str(k): _integer(v, 0, 40) for k, v in raw["weight_fractions"].items()}
            scale = 2.0 ** _integer(raw["log2_loss_scale"], -40, 40)
            return cls(str(raw["model"]), str(raw["data"]), sites, fractions, scale)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CalibrationError(f"{name}: not a calibration file ({error})") from error


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{value!r} is no integer from {low} to {high}")
    return value


def _format(pair: Any) -> Format:
    fraction, bits = pair
    return Format(_integer(fraction, -20, 60), _integer(bits, 1, 52))


def _shifts(values: Any) -> tuple[int, ...]:
    return tuple(_integer(v, 0, 40) for v in values)


def weight_fractions(parameters: Any) -> dict[str, int]:
    """Fraction bits for each base weight: as many as int16 holds, if rounding then leaves
    ``WEIGHT_PRECISION`` bits of its root mean square; else four more, in two parts.
    """
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(parameters)[0]:
        values = np.asarray(leaf, dtype=np.float64)
        largest = max(float(np.abs(values).max()) * (1 + 2.0**-14), 2.0**-30)
        most = min(15 - int(np.ceil(np.log2(largest))), MOST_WEIGHT_FRACTION)
        mean = max(float(np.sqrt(np.mean(values * values))), 2.0**-30)
        enough = most + np.log2(mean) + np.log2(12) / 2 >= WEIGHT_PRECISION
        found[dotted(path)] = most if enough or values.ndim < 2 else most + FINE_BITS
    return found


@typed
def calibrate(
    run: FineTuning,
    parameters: Weights,
    adapter: Weights | None,
    batches: Iterable[np.ndarray],
    *,
    room: Annotated[float, Between(0, 8)] = 0.0,
    stored: Fractions | None = None,
    between_parties: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Calibration:
    """Choose formats for a run from its loss and gradient on some batches.

    Args:
      run: the model, the LoRA configuration and the loss scale; its arithmetic is not used.
      parameters: base weights (nested dict of floats).
      adapter: master weights (floats) at which to look; None is right between parties only.
      batches: (batch, length + 1) tokens each.
      room: bits of range to add to what is usual.
      stored: fraction bits of the stored base weights; chosen if not given.
      between_parties: formats for the check of an adapter between two parties: no gradient is
        looked at, and what linear layers read has 16 bits.
    """
    if adapter is None and not between_parties:
        raise CalibrationError("there is no adapter to look at; warm_adapter makes one")
    watched = replace(run, numerics=Observed())
    look = observations((make_losses if between_parties else make_gradient)(watched))
    fractions = weight_fractions(parameters) if stored is None else stored
    seen: dict[tuple[str, str], Seen] = {}
    data = hashlib.blake2s(person=b"zkj.cdat")
    count = longest = 0
    with x64():
        weights = jax.tree.map(lambda x: np.asarray(x, np.float64), parameters)
        masters = jax.tree.map(lambda x: np.asarray(x, np.float64), adapter)
        for batch in batches:
            if np.ndim(batch) != 2:
                raise CalibrationError("batches are arrays of tokens, (batch, length + 1) each")
            data.update(np.ascontiguousarray(batch, dtype="<i4").tobytes())
            _, found = look(weights, masters, batch)
            for name, sizes in found.items():
                seen[name] = seen[name].join(sizes) if name in seen else sizes
            count, longest = count + 1, max(longest, batch.shape[1])
            progress(count)
    if not count:
        raise CalibrationError("there is no text to calibrate on")
    seen = {name: sizes for name, sizes in seen.items() if name[0] not in KEPT}
    # Softmax adds ln n to the span of its argument.
    for name, entries in (("scores", LONGER * longest), ("logits", run.model.vocab_size)):
        sizes = seen[name, "forward"]
        seen[name, "forward"] = replace(sizes, largest=sizes.largest + np.log(entries) / 2)
    inputs = set(MODELS[type(run.model)].input_sites.values())
    sites = choose(
        seen,
        DEFAULT_SITES,
        narrow=NARROW,
        by_step=inputs - set(NARROW) if between_parties else (),
        uniform=lambda s: s.endswith(".lora"),
        room=room,
    )
    sites |= _norms(run, seen, sites, fractions)
    digest = model_digest(run.model, parameters)
    return Calibration(digest, data.hexdigest(), sites, fractions, run.loss_scale)


def _norms(run: FineTuning, seen, sites: dict[str, Site], fractions) -> dict[str, Site]:
    """Formats inside RMSNorm and LayerNorm, which follow from others.

    What is squared is the residual stream as it is (its fraction bits are those of its parts) where
    sums of squares then stay below 2^52, else with fewer bits. The inverse root needs as many bits
    as its product with the largest value leaves.
    """
    model = MODELS[type(run.model)]
    parts = [fractions.get(name, WEIGHT_FRACTION) for name in model.embeddings]
    parts += [
        sites[name].forward.fraction + max(sites[name].forward_shifts, default=0)
        for name in (*model.outputs, *(s for s in sites if s.endswith("_norm.mean")))
    ]
    stream = max(parts)
    size = int(np.ceil(np.log2(run.model.hidden_size)))
    found = {}
    for name in ("attention_norm", "mlp_norm", "final_norm"):
        largest = seen[f"{name}.statistic", "forward"].largest.max()
        whole = int(np.ceil(np.log2(largest) + ROOM["forward"])) + WIDE_ROOM
        # Two factors, and half of 2^52 for what a sum of squares of one large entry leaves.
        fraction = min(stream, (60 - size) // 2 - whole)
        found[f"{name}.statistic"] = Site(Format(fraction, whole + fraction + 1))
        inverse = seen[f"{name}.inverse", "forward"]
        fraction = int(np.ceil(12 + max(-float(np.log2(inverse.typical.min())), 0)))
        whole = int(np.ceil(np.log2(inverse.largest.max()) + 2 * ROOM["forward"]))
        found[f"{name}.inverse"] = Site(Format(fraction, fraction + max(whole, 1)))
    return found
