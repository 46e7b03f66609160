"""The fine-tuning statement: base model, adapter, tokens, hyper-parameters -> new adapter, loss.

``make_step`` gives a pure function of stored integers. Which of its arguments are private is the
caller's choice: seal them for ``zkjax.prove``, or pass them as plain arrays to make them public.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import zkjax
from zkjax import fixed
from zkjax.errors import OptionError
from zkjax.models.config import LlamaConfig, LoraConfig, ModelConfig
from zkjax.models.numerics import FixedPoint, Numerics
from zkjax.models.optimizers import MASTER, apply_updates, sgd
from zkjax.models.registry import bind

WEIGHT_FRACTION = 12
RATE_FRACTION = 14
LOSS_FRACTION = 16


@dataclass(frozen=True)
class FineTuning:
    """Everything about a run that is public and fixed.

    Attributes:
      numerics: fixed point to prove, ``Float`` for the same computation in floating point.
      loss_scale: a power of two that multiplies the sum of all losses before differentiation and is
        divided out of the gradient, so that cotangents have the size that their formats expect. Of
        the sum and not the mean: then it does not depend on the size of a batch.
      weight_fractions: fraction bits of stored base weights by dotted name, where they differ from
        12.
    """

    model: ModelConfig = field(default_factory=LlamaConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    numerics: Numerics = field(default_factory=FixedPoint)
    loss_scale: float = 2.0**-4
    weight_fractions: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self):
        if not self.loss_scale > 0 or np.frexp(self.loss_scale)[0] != 0.5:
            raise OptionError(f"loss_scale is a power of two, not {self.loss_scale}")

    def fraction_of(self, path) -> int:
        """Fraction bits of a stored base weight, by its path in the pytree."""
        return self.weight_fractions.get(dotted(path), WEIGHT_FRACTION)


def dotted(path) -> str:
    """A path of nested dicts as a dotted name."""
    return ".".join(str(key.key) for key in path)


def decode_base(run: FineTuning, base: Any) -> Any:
    """Stored base weights as values."""

    def decode(path, x):
        fraction = run.fraction_of(path)
        if not is_in_parts(x):
            return fixed.decode(x, fraction)
        return fixed.decode(x["coarse"], fraction - FINE_BITS) + fixed.decode(x["fine"], fraction)

    return jax.tree_util.tree_map_with_path(decode, base, is_leaf=is_in_parts)


FINE_BITS = 4  # of a weight in two parts, below those of its int16


def is_in_parts(x: Any) -> bool:
    """Whether a leaf of a stored base is a weight in two parts."""
    return isinstance(x, dict) and set(x) == {"coarse", "fine"}


def store_weight(values: Any, fraction: int) -> Any:
    """A base weight as int16 where that holds it; else coarse 2^4 + fine, an int16 and an int8."""
    whole = fixed.quantize(values, fraction, "int64")
    if not whole.size or max(-int(whole.min()), int(whole.max()) + 1) <= 1 << 15:
        return whole.astype(np.int16)
    half = 1 << (FINE_BITS - 1)
    fine = ((whole + half) & (2 * half - 1)) - half
    coarse = fixed.quantize((whole - fine) >> FINE_BITS, 0, "int16")
    return {"coarse": coarse, "fine": fine.astype(np.int8)}


def store_base(parameters: Any, weight_fractions: Mapping[str, int] | None = None) -> Any:
    """Base weights (nested dict of floats), with 12 fraction bits where no others are given; see
    ``store_weight``.
    """
    fractions = weight_fractions or {}
    return jax.tree_util.tree_map_with_path(
        lambda path, x: store_weight(x, fractions.get(dotted(path), WEIGHT_FRACTION)), parameters
    )


def store_adapter(adapter: Any) -> Any:
    """Adapter master weights as int32 with 24 fraction bits."""
    return jax.tree.map(lambda x: fixed.quantize(x, MASTER.fraction, "int32"), adapter)


def load_adapter(stored: Any) -> Any:
    """The inverse of ``store_adapter``, exact in float64."""
    return jax.tree.map(lambda x: np.asarray(x) * 2.0**-MASTER.fraction, stored)


def store_rate(learning_rate: float) -> np.ndarray:
    """A learning rate below 4 as a uint16 with 14 fraction bits."""
    return fixed.quantize(learning_rate, RATE_FRACTION, "uint16")


def make_logits(run: FineTuning) -> Callable:
    """(decoded base, decoded adapter, tokens (batch, length)) -> logits."""

    def logits(base, adapter, tokens):
        return bind(run.model, base)(tokens, adapter, run.lora.scale, run.numerics)

    return logits


def make_checked_logits(run: FineTuning) -> Callable:
    """(stored base, stored adapter, tokens (batch, length)) -> fixed-point logits as float64, with
    the range checks of a proof.
    """
    if not isinstance(run.numerics, FixedPoint):
        raise OptionError("only fixed-point logits have range checks; this run is in float")
    logits, fraction = make_logits(run), run.numerics.site("logits").forward.fraction

    @zkjax.provable
    def stored(base, adapter, tokens):
        masters = jax.tree.map(lambda x: fixed.decode(x, MASTER.fraction), adapter)
        return fixed.encode(logits(decode_base(run, base), masters, tokens), fraction)

    return lambda *args: np.asarray(stored(*args)) * 2.0**-fraction


def make_losses(run: FineTuning) -> Callable:
    """(decoded base, decoded adapter, tokens (batch, length + 1)) -> cross-entropy of every
    prediction, (batch, length).
    """

    logits = make_logits(run)

    def losses(base, adapter, tokens):
        return run.numerics.cross_entropy(logits(base, adapter, tokens[:, :-1]), tokens[:, 1:])

    return losses


def make_loss(run: FineTuning) -> Callable:
    """(decoded base, decoded adapter, tokens (batch, length + 1)) -> mean cross-entropy."""
    losses = make_losses(run)

    def loss(base, adapter, tokens):
        each = losses(base, adapter, tokens)
        return jnp.sum(each) * run.numerics.constant(1.0 / each.size)

    return loss


def make_gradient(run: FineTuning) -> Callable:
    """(decoded base, decoded adapter, tokens) -> (gradient of the mean loss, mean loss), in the
    run's arithmetic.
    """
    losses, numerics = make_losses(run), run.numerics

    def gradient(base, adapter, tokens):
        count = tokens.shape[0] * (tokens.shape[1] - 1)

        def scaled(adapter):
            total = jnp.sum(losses(base, adapter, tokens))
            return total * run.loss_scale, total

        grads, total = jax.grad(scaled, has_aux=True)(adapter)
        factor = 1.0 / (count * run.loss_scale)
        grads = jax.tree.map(lambda g: numerics.scale(g, factor, "gradient"), grads)
        return grads, total * numerics.constant(1.0 / count)

    return gradient


def make_step(run: FineTuning) -> Callable:
    """One step of SGD on the adapter, as a provable function of stored integers.

    The function takes (base, adapter, tokens, learning_rate) as ``store_*`` make them and returns
    (new adapter, loss with 16 fraction bits as int32).

    What is differentiated is the sum of all losses times ``loss_scale``; the rest of the mean's
    factor meets the gradient when that is rounded.
    """
    gradient = make_gradient(run)

    def step(base, adapter, tokens, learning_rate):
        weights = decode_base(run, base)
        masters = jax.tree.map(lambda x: fixed.decode(x, MASTER.fraction), adapter)
        rate = fixed.decode(learning_rate, RATE_FRACTION)
        grads, loss = gradient(weights, masters, tokens)
        optimizer = sgd(rate)
        updates, _ = optimizer.update(grads, optimizer.init(masters), masters)
        new = apply_updates(masters, updates)
        stored = jax.tree.map(lambda x: fixed.encode(x, MASTER.fraction), new)
        return stored, fixed.encode(loss, LOSS_FRACTION)

    return step
