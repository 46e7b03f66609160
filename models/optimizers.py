"""Optimizers in fixed point: optax's gradient transformations where optax's own are not exact.

They are combined by ``optax.chain``, with unmodified transformations of optax where those are
exact, have optax's states, with integers in them, and take what depends on the step as keywords of
``update`` (``hyperparameters``). ``adamw`` is in fixed point what ``optax.adamw`` is in floating
point: mu / (sqrt(nu) + eps), nu a number of 64 bits in two parts (``second_moment``).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from functools import cache
from math import floor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zkjax import fixed
from zkjax._arguments import checked
from zkjax.errors import OptionError
from zkjax.fixed import Format
from zkjax.fixed.roots import MOST_BITS, geometric_steps
from zkjax.models import second_moment
from zkjax.models.hyperparameters import (
    CORRECTION_FRACTION,
    EPS_FRACTION,
    MaxNorm,
    OptimizerConfig,
    Share,
    require_eps,
)
from zkjax.models.numerics import FixedPoint
from zkjax.program.tables import Table, round_exactly, step_table

__all__ = [
    "clip_by_global_norm",
    "decode_hyperparameters",
    "float_optimizer",
    "make_optimizer",
    "scale_by_adam",
    "scale_by_learning_rate",
    "trace",
]

MASTER = Format(24, 32)
FIRST_MOMENT = 3  # bits more of the first moment than of a gradient
CLIP_FRACTION, CLIP_STEP = 24, 10
SITES = ("gradient", "norm", "trace", "ratio", "direction", "update")


def _rounded(tree, form: Format, site: str):
    return jax.tree.map(lambda x: fixed.round_value(x, *form, site=site), tree)


@checked
def scale_by_learning_rate(
    update: Format = MASTER, argument: Format | None = None
) -> optax.GradientTransformationExtraArgs:
    """Updates -learning_rate x, rounded to ``update``, with the rate of the step as a keyword; x is
    rounded to ``argument`` first, if given.
    """

    def of(updates, state, params=None, *, learning_rate, **_):
        del params
        if argument is not None:
            updates = _rounded(updates, argument, "optimizer.direction")
        updates = jax.tree.map(lambda x: -(learning_rate * x), updates)
        return _rounded(updates, update, "optimizer.update"), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, of)


@checked
def trace(
    decay: Share, form: Format, nesterov: bool = False
) -> optax.GradientTransformationExtraArgs:
    """``optax.trace`` with the trace g + decay t rounded to a format of 32 bits."""

    def init(params):
        return optax.TraceState(jax.tree.map(lambda p: np.zeros(np.shape(p), np.int32), params))

    def of(updates, state, params=None, **_):
        del params

        def step(g, t):
            return fixed.round_value(g + decay * t, *form, site="optimizer.trace")

        old = jax.tree.map(lambda t: fixed.decode(t, form.fraction), state.trace)
        new = jax.tree.map(step, updates, old)
        stored = jax.tree.map(lambda t: fixed.encode(t, form.fraction), new)
        return jax.tree.map(step, updates, new) if nesterov else new, optax.TraceState(stored)

    return optax.GradientTransformationExtraArgs(init, of)


@checked
def scale_by_adam(
    b1: Share, b2: Share, gradient: Format, ratio: Format
) -> optax.GradientTransformationExtraArgs:
    """``optax.scale_by_adam``: bias_correction mu / (sqrt(nu) + eps), exact after the quotient.

    mu = b1 mu + (1 - b1) g and nu = b2 nu + (1 - b2) g^2, with 1 - b1 and 1 - b2 of at most 12
    bits. The step's ``bias_correction`` and ``eps`` are keywords (``hyperparameters``).

    Args:
      gradient: (F, 29), what g is rounded to. mu has F + 3 fraction bits of 32, nu 2 F + 7 of 64.
      ratio: the format of the quotient, less than a unit below the real one of mu and nu, and
        within 2^-11 of it.
    """
    unit = 2.0 ** (gradient.fraction - second_moment.GRADIENT.fraction)
    form = Format(gradient.fraction + FIRST_MOMENT, gradient.bits + FIRST_MOMENT)

    def init(params):
        mu = jax.tree.map(lambda p: np.zeros(np.shape(p), np.int32), params)
        nu = jax.tree.map(lambda p: second_moment.zeros(np.shape(p)), params)
        return optax.ScaleByAdamState(np.zeros((), np.int32), mu, nu)

    def first(g, stored):
        mu = fixed.decode(stored, form.fraction)
        return fixed.round_value(mu + (1.0 - b1) * (g - mu), *form, site="optimizer.mu")

    def second(g, stored):
        return second_moment.decayed_square(second_moment.load(stored), g * unit, 1.0 - b2)

    def of(updates, state, params=None, *, bias_correction, eps, **_):
        del params

        def scaled(m, v):
            below = second_moment.root(v) * (1.0 / unit) + eps
            return bias_correction * fixed.divide(m, below, *ratio)

        g = _rounded(updates, gradient, "optimizer.gradient")
        mu, nu = jax.tree.map(first, g, state.mu), jax.tree.map(second, g, state.nu)
        new = optax.ScaleByAdamState(
            fixed.encode(fixed.decode(state.count, 0) + 1.0, 0),
            jax.tree.map(lambda m: fixed.encode(m, form.fraction), mu),
            jax.tree.map(lambda _, v: second_moment.store(v), mu, nu),
        )
        return jax.tree.map(scaled, mu, nu), new

    return optax.GradientTransformationExtraArgs(init, of)


@cache
def clip_table(max_norm: float, in_fraction: int) -> Table:
    """min(1, max_norm / sqrt(k 2^-in_fraction)) for k < 2^52, at the middle of a row's interval;
    1 in the first row, which ends at max_norm^2.
    """
    inside = floor(Fraction(max_norm) ** 2 * 2**in_fraction)
    firsts = geometric_steps(CLIP_STEP, MOST_BITS)
    firsts = np.concatenate([[0, inside + 1], firsts[firsts > inside + 1]])
    lasts = np.append(firsts[1:] - 1, (1 << MOST_BITS) - 1)

    def exact(i: int) -> Decimal:
        middle = Decimal(int(firsts[i]) + int(lasts[i])) / 2
        norm = (middle / 2**in_fraction).sqrt()
        return Decimal(2**CLIP_FRACTION) * min(Decimal(1), Decimal(max_norm) / norm)

    near = np.minimum(1.0, max_norm / np.sqrt((firsts + lasts) * 0.5 * 2.0**-in_fraction))
    near[0] = 1.0
    name = f"clip by global norm {max_norm:g}"
    factors = round_exactly(near[1:] * 2.0**CLIP_FRACTION, lambda i: exact(i + 1), name)
    return step_table(name, firsts, int(lasts[-1]), np.append(1 << CLIP_FRACTION, factors))


@checked
def clip_by_global_norm(
    max_norm: MaxNorm, gradient: Format, norm: Format
) -> optax.GradientTransformation:
    """``optax.clip_by_global_norm``: g min(1, max_norm / |g|), rounded to ``gradient``.

    |g|^2 is the exact sum of squares of g rounded to ``norm``, below 2^(52 - 2 fraction); the
    factor is within 2^-12 of the real one for it, and 2^-25.
    """

    def of(updates, state, params=None):
        del params
        coarse = _rounded(updates, norm, "optimizer.norm")
        total = sum(jnp.sum(x * x) for x in jax.tree.leaves(coarse))
        table = clip_table(max_norm, 2 * norm.fraction)
        (factor,) = fixed.locate(total, table, 2 * norm.fraction, (CLIP_FRACTION,))
        updates = _rounded(updates, gradient, "optimizer.gradient")
        scaled = jax.tree.map(lambda g: factor * g, updates)
        return _rounded(scaled, gradient, "optimizer.gradient"), state

    return optax.GradientTransformation(optax.init_empty_state, of)


@checked
def make_optimizer(
    config: OptimizerConfig, numerics: FixedPoint
) -> optax.GradientTransformationExtraArgs:
    """The chain of transformations that a configuration names, in the formats of the sites
    ``optimizer.*``.

    Raises:
      OptionError: eps, or the formats, do not fit each other.
    """
    form = {name: numerics.site(f"optimizer.{name}").forward for name in SITES}
    factors, chain = config.factors, []
    bits = second_moment.GRADIENT.bits
    if form["gradient"].bits != bits:
        raise OptionError(
            f"the site optimizer.gradient has {bits} bits, not {form['gradient'].bits}; its "
            "fraction bits are free"
        )
    if config.max_grad_norm is not None:
        chain.append(clip_by_global_norm(config.max_grad_norm, form["gradient"], form["norm"]))
    if config.name == "adamw":
        require_eps(config.eps, form["gradient"].fraction + EPS_FRACTION)
        chain.append(scale_by_adam(factors["b1"], factors["b2"], form["gradient"], form["ratio"]))
    elif config.momentum:
        chain.append(trace(factors["momentum"], form["trace"], config.nesterov))
    if config.weight_decay:
        chain.append(optax.add_decayed_weights(factors["weight_decay"]))
    # Ratios and decayed weights have more fraction bits than the rate leaves room for.
    wide = config.name == "adamw" or config.weight_decay
    chain.append(scale_by_learning_rate(form["update"], form["direction"] if wide else None))
    return optax.chain(*chain)


@checked
def float_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The same in floating point: optax's own transformations and schedules."""
    rate: Any = config.learning_rate
    steps, warm = config.total_steps, config.warmup_steps
    if config.schedule == "cosine":
        rate = optax.warmup_cosine_decay_schedule(0.0, rate, warm, steps)
    elif config.schedule == "linear" or warm:
        after = (
            optax.linear_schedule(rate, 0.0, steps - warm)
            if config.schedule == "linear"
            else optax.constant_schedule(rate)
        )
        rate = optax.join_schedules([optax.linear_schedule(0.0, rate, max(warm, 1)), after], [warm])
    clip = config.max_grad_norm
    chain = [] if clip is None else [optax.clip_by_global_norm(clip)]
    if config.name == "adamw":
        chain.append(optax.scale_by_adam(config.b1, config.b2, config.eps))
    elif config.momentum:
        chain.append(optax.trace(config.momentum, config.nesterov))
    if config.weight_decay:
        chain.append(optax.add_decayed_weights(config.weight_decay))
    return optax.chain(*chain, optax.scale_by_learning_rate(rate))


@checked
def decode_hyperparameters(
    config: OptimizerConfig, numerics: FixedPoint, stored: Mapping[str, Any]
) -> dict[str, Any]:
    """The numbers of a step as values, from ``hyperparameters``.

    Raises:
      OptionError: they are of another optimizer, or none.
    """
    fractions = {
        "learning_rate": config.rate_fraction,
        "bias_correction": CORRECTION_FRACTION,
        "eps": numerics.site("optimizer.gradient").forward.fraction + EPS_FRACTION,
    }
    wanted = list(fractions) if config.name == "adamw" else ["learning_rate"]
    if set(stored) != set(wanted):
        raise OptionError(
            f"decode_hyperparameters: stored has {sorted(map(str, stored))}; it has "
            f"{', '.join(wanted)}, as hyperparameters(config, step) gives them"
        )
    return {name: fixed.decode(stored[name], fractions[name]) for name in wanted}
