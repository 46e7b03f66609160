"""How close a fine-tuning run in fixed point comes to floating point."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from zkjax._compat import x64
from zkjax.models.numerics import Float
from zkjax.proofs.finetune import (
    FineTuning,
    decode_base,
    load_adapter,
    make_checked_logits,
    make_gradient,
    make_logits,
    store_adapter,
    store_base,
)


@dataclass
class Comparison:
    """Fixed point against float32 on the same batches.

    Attributes:
      losses: mean cross-entropy of each batch, (float32, fixed).
      agreement: share of positions with the same most likely token.
      relative_error: of the logits, in the root mean square.
      cosines: of the gradients, by LoRA target; {} if they were not compared.
    """

    losses: list[tuple[float, float]] = field(default_factory=list)
    agreement: float = 0.0
    positions: int = 0
    relative_error: float = 0.0
    cosines: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        floats, fixeds = (float(np.mean([pair[i] for pair in self.losses])) for i in (0, 1))
        return {
            "loss_float": floats,
            "loss_fixed": fixeds,
            "perplexity_float": float(np.exp(floats)),
            "perplexity_fixed": float(np.exp(fixeds)),
            "top1_agreement": self.agreement,
            "positions": self.positions,
            "logit_error": self.relative_error,
            "gradient_cosine": self.cosines,
        }


def mean_losses(logits, tokens) -> float:
    """Mean cross-entropy of logits (float64, on the host)."""
    logits = np.asarray(logits, dtype=np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=-1))
    chosen = np.take_along_axis(shifted, np.asarray(tokens)[:, 1:, None].astype(np.int64), -1)[
        ..., 0
    ]
    return float(np.mean(log_sum - chosen))


def compare(
    run: FineTuning,
    parameters: Any,
    adapter: Any,
    batches: Iterable[np.ndarray],
    *,
    gradients: int = 1,
    progress=lambda done: None,
) -> Comparison:
    """Run the float32 model and the fixed-point run side by side; gradients of the first batches.

    The fixed-point logits are those that a proof would be about, range checks included.
    """
    result, same, errors = Comparison(), 0, []
    stored = store_base(parameters, run.weight_fractions)
    masters = store_adapter(adapter)
    checked = make_checked_logits(run)
    plain = jax.jit(make_logits(replace(run, numerics=Float())))
    single = jax.tree.map(lambda x: np.asarray(x, np.float32), (parameters, adapter))
    for i, batch in enumerate(batches):
        theirs = np.asarray(plain(*single, batch[:, :-1]))
        ours = checked(stored, masters, batch[:, :-1])
        result.losses.append((mean_losses(theirs, batch), mean_losses(ours, batch)))
        errors.append((np.mean((ours - theirs) ** 2), np.mean(np.square(theirs, dtype=np.float64))))
        same += int(np.sum(theirs.argmax(-1) == ours.argmax(-1)))
        result.positions += theirs.argmax(-1).size
        if i < gradients:
            result.cosines = _cosines(run, stored, masters, batch)
        progress(i + 1)
    error, size = np.mean(errors, axis=0)
    result.relative_error = float(np.sqrt(error / size))
    result.agreement = same / max(result.positions, 1)
    return result


def _cosines(run: FineTuning, stored, masters, batch) -> dict[str, float]:
    """Cosine of the fixed-point gradient and the float64 one of the same stored weights."""
    adapter = load_adapter(masters)
    with x64():
        weights = decode_base(run, jax.tree.map(np.asarray, stored))
        fixed_gradient, _ = jax.jit(make_gradient(run))(weights, adapter, batch)
        exact, _ = jax.jit(make_gradient(replace(run, numerics=Float())))(weights, adapter, batch)
    found = {}
    for target in exact:
        x, y = (
            np.concatenate([np.ravel(np.asarray(g[target][part])) for part in ("a", "b")])
            for g in (fixed_gradient, exact)
        )
        norm = float(np.linalg.norm(x) * np.linalg.norm(y))
        found[target] = float(x @ y) / norm if norm else 1.0
    return found
