"""The fine-tuning statement: base model, adapter, tokens, hyper-parameters -> new adapter, loss.

``make_step`` gives a pure function of stored integers. Which of its arguments are private is the
caller's choice: seal them for ``zkjax.prove``, or pass them as plain arrays to make them public.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import zkjax
from zkjax import fixed
from zkjax._arguments import checked
from zkjax._marks import Between, Tree
from zkjax.errors import OptionError, VerificationError
from zkjax.fixed.types import Array
from zkjax.models.config import Checked, LlamaConfig, LoraConfig, ModelConfig
from zkjax.models.hyperparameters import (
    LARGEST_RATE,
    MOST_ERROR,
    RATE_FRACTION,
    OptimizerConfig,
    hyperparameters,
)
from zkjax.models.numerics import FixedPoint, Numerics
from zkjax.models.optimizers import (
    MASTER,
    decode_hyperparameters,
    make_optimizer,
    scale_by_learning_rate,
)
from zkjax.models.registry import bind, parameter_shapes
from zkjax.proof import Commitment

__all__ = [
    "FineTuning",
    "init_state",
    "load_adapter",
    "make_hyperparameters",
    "make_step",
    "store_adapter",
    "store_base",
    "store_rate",
]

Weights = Annotated[Any, Tree()]
Batch = Array | Weights
WEIGHT_FRACTION = 12
LOSS_FRACTION = 16
LARGEST_ERROR = 2.0**-7  # of stored base weights, in the root mean square, of that of a weight
SHARE_BITS = 18  # of the number of predictions over that of the learned ones


LossScale = Annotated[float, Between(2.0**-40, 2.0**40)]
Fractions = Mapping[str, Annotated[int, Between(-40, 40)]]


def require_power(loss_scale: float) -> None:
    """OptionError unless a loss scale is a power of two."""
    if np.frexp(float(loss_scale))[0] != 0.5:
        raise OptionError(f"loss_scale = {loss_scale} is a power of two")


@dataclass(frozen=True)
class FineTuning(Checked):
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
    loss_scale: LossScale = 2.0**-4
    weight_fractions: Fractions = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        require_power(self.loss_scale)

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


def require_close(run: FineTuning, parameters: Any, stored: Any) -> None:
    """VerificationError unless stored weights are a model's, but for ``LARGEST_ERROR``: their
    fraction bits may be a prover's choice.
    """
    exact = jax.tree_util.tree_flatten_with_path(parameters)[0]
    decoded = jax.tree.leaves(decode_base(run, stored))
    for (path, values), found in zip(exact, decoded, strict=True):
        error = float(np.sqrt(np.mean((np.asarray(found) - values) ** 2)))
        if error > LARGEST_ERROR * float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))):
            raise VerificationError(
                "formats", f"{dotted(path)} of the base model is rounded too coarsely"
            )


def stored_like(config: ModelConfig, commitment: Commitment) -> Any | None:
    """The pytree of shapes that a commitment to a stored base model has; None if it has not the
    shapes of this model. A weight in two parts is an int8 behind an int16.
    """
    wanted, form = jax.tree.flatten(parameter_shapes(config))
    found = list(zip(commitment.shapes, commitment.dtypes, strict=True))[::-1]
    leaves: list[Any] = []
    for e in wanted:
        if not found or found.pop() != (e.shape, "int16"):
            return None
        leaf: Any = jax.ShapeDtypeStruct(e.shape, np.int16)
        if found and found[-1] == (e.shape, "int8"):
            found.pop()
            leaf = {"coarse": leaf, "fine": jax.ShapeDtypeStruct(e.shape, np.int8)}
        leaves.append(leaf)
    return None if found else jax.tree.unflatten(form, leaves)


@checked
def store_base(parameters: Weights, weight_fractions: Fractions | None = None) -> Any:
    """Base weights (nested dict of floats), with 12 fraction bits where no others are given; see
    ``store_weight``.
    """
    fractions = weight_fractions or {}
    return jax.tree_util.tree_map_with_path(
        lambda path, x: store_weight(x, fractions.get(dotted(path), WEIGHT_FRACTION)), parameters
    )


@checked
def store_adapter(adapter: Weights) -> Any:
    """Adapter master weights as int32 with 24 fraction bits."""
    return jax.tree.map(lambda x: fixed.quantize(x, MASTER.fraction, "int32"), adapter)


@checked
def load_adapter(stored: Weights) -> Any:
    """The inverse of ``store_adapter``, exact in float64."""
    return jax.tree.map(lambda x: np.asarray(x) * 2.0**-MASTER.fraction, stored)


@checked
def store_rate(learning_rate: Annotated[float, Between(0, LARGEST_RATE)]) -> np.ndarray:
    """A learning rate of plain SGD, 0 or from 1/327 to 3.99, as a uint16 with 14 fraction bits.

    Raises:
      OptionError: it is held with more than 1 % error, or not at all.
    """
    stored = fixed.quantize(learning_rate, RATE_FRACTION, "uint16")
    if abs(stored * 2.0**-RATE_FRACTION - learning_rate) > MOST_ERROR * learning_rate:
        raise OptionError(
            f"store_rate: learning_rate = {learning_rate} is held by {RATE_FRACTION} fraction bits "
            "with more than 1 % error; those of an OptimizerConfig go down to 9.5e-07"
        )
    return stored


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


def split_batch(batch: Any) -> tuple[Any, Any]:
    """Tokens (batch, length + 1), and which predictions are learned, (batch, length) bool, or None
    if all are. A batch is an array of tokens, or a mapping of ``tokens`` and ``learned``.
    """
    if not isinstance(batch, Mapping):
        return batch, None
    if set(batch) != {"tokens", "learned"}:
        raise OptionError(f'a batch has {sorted(batch)}; it has "tokens" and "learned"')
    return batch["tokens"], batch["learned"]


def _total(each, learned):
    return jnp.sum(each if learned is None else jnp.where(learned, each, 0.0))


def _mean(total, learned, size: int, numerics: Numerics):
    """A sum over the learned predictions of ``size`` divided by their number."""
    if learned is None:
        return total * numerics.constant(1.0 / size)
    return numerics.quotient(total, jnp.sum(learned.astype(total.dtype)), LOSS_FRACTION, 32)


def make_loss(run: FineTuning) -> Callable:
    """(decoded base, decoded adapter, batch) -> mean cross-entropy of what is learned (see
    ``split_batch``).
    """
    losses = make_losses(run)

    def loss(base, adapter, batch):
        tokens, learned = split_batch(batch)
        each = losses(base, adapter, tokens)
        return _mean(_total(each, learned), learned, each.size, run.numerics)

    return loss


def make_gradient(run: FineTuning) -> Callable:
    """(decoded base, decoded adapter, batch) -> (gradient of the mean loss, mean loss), in the
    run's arithmetic; a batch is as ``split_batch`` says.

    Where not all predictions are learned, the gradient is divided by the number of all and then
    multiplied by all / learned, which has 18 bits; that number stays private.
    """
    losses, numerics = make_losses(run), run.numerics

    def gradient(base, adapter, batch):
        tokens, learned = split_batch(batch)
        if tokens.ndim != 2 or tokens.shape[1] < 2:
            raise OptionError(f"tokens of shape {tokens.shape}; they are (batch, length + 1)")
        size = tokens.shape[0] * (tokens.shape[1] - 1)

        def scaled(adapter):
            total = _total(losses(base, adapter, tokens), learned)
            return total * run.loss_scale, total

        grads, total = jax.grad(scaled, has_aux=True)(adapter)
        factor = 1.0 / (size * run.loss_scale)
        grads = jax.tree.map(lambda g: numerics.scale(g, factor, "gradient"), grads)
        if learned is not None:
            count, whole = jnp.sum(learned.astype(total.dtype)), size.bit_length()
            share = numerics.quotient(float(size), count, SHARE_BITS - whole, SHARE_BITS + 1)
            grads = jax.tree.map(lambda g: numerics.round_value(g * share, "gradient"), grads)
        return grads, _mean(total, learned, size, numerics)

    return gradient


def make_accumulated(run: FineTuning, micro_batches: int) -> Callable:
    """``make_gradient`` of tokens (micro_batches, batch, length + 1): the means over all."""
    gradient, numerics, share = make_gradient(run), run.numerics, 1.0 / micro_batches

    def accumulated(base, adapter, batch):
        tokens, _ = split_batch(batch)
        if tokens.shape[0] != micro_batches or tokens.ndim != 3:
            raise OptionError(
                f"tokens of shape {tokens.shape}; with gradient_accumulation_steps = "
                f"{micro_batches} they are ({micro_batches}, batch, length + 1)"
            )
        grads, losses = jax.lax.map(lambda part: gradient(base, adapter, part), batch)
        grads = jax.tree.map(lambda g: jnp.sum(g, axis=0), grads)
        grads = jax.tree.map(lambda g: numerics.scale(g, share, "gradient"), grads)
        return grads, jnp.sum(losses) * numerics.constant(share)

    return accumulated


def require_fixed(run: FineTuning) -> FixedPoint:
    """The fixed-point arithmetic of a run, or OptionError."""
    if not isinstance(run.numerics, FixedPoint):
        raise OptionError("a step is proved in fixed point; this run is in float")
    return run.numerics


@checked
def init_state(run: FineTuning, config: OptimizerConfig, adapter: Weights) -> Any:
    """The state of a run's optimizer before its first step, as it is stored: zeros."""
    return make_optimizer(config, require_fixed(run)).init(adapter)


@checked
def make_hyperparameters(run: FineTuning, config: OptimizerConfig) -> Callable[[int], dict]:
    """step, counted from 0 -> its public numbers, as the step function takes them."""
    fraction = require_fixed(run).site("optimizer.gradient").forward.fraction
    return lambda step: hyperparameters(config, step, fraction)


@checked
def make_step(run: FineTuning, optimizer: OptimizerConfig | None = None) -> Callable:
    """One step of an optimizer on the adapter, as a provable function of stored integers.

    The function takes (base, adapter, state, tokens, hyperparameters) as ``store_*``,
    ``init_state`` and ``make_hyperparameters`` make them and returns (new adapter, new state, loss
    with 16 fraction bits as int32). Without an optimizer it is plain SGD, which has no state:
    (base, adapter, tokens, learning_rate as of ``store_rate``) -> (new adapter, loss).

    What is differentiated is the sum of all losses times ``loss_scale``; the rest of the mean's
    factor meets the gradient when that is rounded.
    """
    gradient = _stored_gradient(run, optimizer)

    @checked
    def sgd_step(base: Weights, adapter: Weights, tokens: Batch, learning_rate: Array):
        rate = fixed.decode(learning_rate, RATE_FRACTION)
        sgd, hyper = scale_by_learning_rate(), {"learning_rate": rate}
        masters, grads, loss = gradient(base, adapter, tokens)
        new, _ = _updated(sgd, masters, sgd.init(adapter), grads, hyper)
        return new, fixed.encode(loss, LOSS_FRACTION)

    if optimizer is None:
        return sgd_step
    numerics = require_fixed(run)
    transformation = make_optimizer(optimizer, numerics)

    @checked
    def step(
        base: Weights,
        adapter: Weights,
        state: Any,
        tokens: Batch,
        hyper: Mapping[str, Array],
    ):
        hyper = decode_hyperparameters(optimizer, numerics, hyper)
        masters, grads, loss = gradient(base, adapter, tokens)
        new, state = _updated(transformation, masters, state, grads, hyper)
        return new, state, fixed.encode(loss, LOSS_FRACTION)

    return step


def _stored_gradient(run: FineTuning, optimizer: OptimizerConfig | None) -> Callable:
    """(stored base, stored adapter, batch) -> (adapter, gradient, loss) as values."""
    micro_batches = 1 if optimizer is None else optimizer.gradient_accumulation_steps
    gradient = make_gradient(run) if micro_batches == 1 else make_accumulated(run, micro_batches)

    def stored(base, adapter, batch):
        masters = jax.tree.map(lambda x: fixed.decode(x, MASTER.fraction), adapter)
        return masters, *gradient(decode_base(run, base), masters, batch)

    return stored


def _updated(transformation, masters, state, grads, hyper) -> tuple[Any, Any]:
    """The stored adapter and state after a step, of values."""
    wanted = jax.tree.structure(transformation.init(masters))
    if [jax.tree.structure(state)] != [wanted]:
        raise OptionError("the state is not of this optimizer; init_state makes the first one")
    updates, state = transformation.update(grads, state, masters, **hyper)
    new = optax.apply_updates(masters, updates)
    return jax.tree.map(lambda x: fixed.encode(x, MASTER.fraction), new), state


def make_gradient_step(run: FineTuning, optimizer: OptimizerConfig) -> Callable:
    """The first part of ``make_step``, for a proof of its own that needs less memory: (base,
    adapter, batch) -> (gradient as int32 with 24 fraction bits, loss).
    """
    gradient = _stored_gradient(run, optimizer)

    def first(base, adapter, batch):
        _, grads, loss = gradient(base, adapter, batch)
        stored = jax.tree.map(lambda g: fixed.encode(g, MASTER.fraction), grads)
        return stored, fixed.encode(loss, LOSS_FRACTION)

    return first


def make_update_step(run: FineTuning, optimizer: OptimizerConfig) -> Callable:
    """The second part: (adapter, state, gradient, hyperparameters) -> (new adapter, new state)."""
    numerics = require_fixed(run)
    transformation = make_optimizer(optimizer, numerics)

    def second(adapter, state, gradient, hyper):
        hyper = decode_hyperparameters(optimizer, numerics, hyper)
        masters, grads = (
            jax.tree.map(lambda x: fixed.decode(x, MASTER.fraction), tree)
            for tree in (adapter, gradient)
        )
        return _updated(transformation, masters, state, grads, hyper)

    return second
