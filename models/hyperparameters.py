"""What is public about an optimizer: its settings, and the numbers that a step takes from them.

The numbers of step t follow from the settings and t alone, are correctly rounded from decimals, and
need neither JAX nor the machine's libm, so whoever verifies a step computes them again:
``hyperparameters(config, t)`` are the public arrays of its claims.

Schedules have the formulas of optax (``constant_schedule``, ``linear_schedule``,
``cosine_decay_schedule``, with a linear warm-up before them as ``warmup_cosine_decay_schedule``).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from math import frexp
from typing import Annotated, Literal

import numpy as np

from zkjax._arguments import checked
from zkjax._marks import Between
from zkjax.errors import OptionError
from zkjax.models.config import Checked
from zkjax.models.rotary import HALF_PI, decimal_cos

__all__ = ["OptimizerConfig", "hyperparameters"]

FACTOR_BITS = 12  # of b1, b2, momentum and weight decay: of 1 - b1 where a moment is averaged
CORRECTION_FRACTION = 14  # of Adam's bias correction
EPS_FRACTION = 9  # more of eps than of a gradient
RATE_FRACTION = 14  # of learning rates from 1/16 on
SMALLEST_RATE, LARGEST_RATE = 2.0**-20, 3.99
MOST_RATIO = 64.0  # of the first moment to the root of the second
MOST_ERROR = 0.01
DIGITS = 60

Steps = Annotated[int, Between(0, 1 << 31)]
Share = Annotated[float, Between(0, 1)]
MaxNorm = Annotated[float, Between(2.0**-10, 2.0**10)]


def dyadic(value: float, bits: int = FACTOR_BITS) -> float:
    """A number rounded to so many significant bits: a factor that is exact in fixed point."""
    mantissa, exponent = frexp(float(value))
    return float(int(mantissa * 2**bits + 0.5) * 2.0 ** (exponent - bits))


@dataclass(frozen=True)
class OptimizerConfig(Checked):
    """An optimizer and its schedule.

    Attributes:
      name: ``sgd``, or ``adamw`` with decoupled weight decay.
      learning_rate: the largest of the schedule, from 2^-20 to 3.99.
      schedule: ``constant``; ``linear`` to 0 or ``cosine`` to 0 at step ``total_steps``.
      warmup_steps: steps in which the rate rises linearly from 0.
      total_steps: of the whole run, warm-up included; of a constant schedule 0 will do.
      momentum, nesterov: of ``sgd``: trace = gradient + momentum trace.
      b1, b2, eps: of ``adamw``.
      weight_decay: times the parameters, added to the update before the rate multiplies it.
      max_grad_norm: gradients are scaled to this global norm where theirs is larger.
      gradient_accumulation_steps: micro-batches whose gradients one step averages.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Between(SMALLEST_RATE, LARGEST_RATE)] = 0.1
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: Steps = 0
    total_steps: Steps = 0
    momentum: Share = 0.0
    nesterov: bool = False
    b1: Share = 0.9
    b2: Share = 0.999
    eps: Annotated[float, Between(0, 0.0625)] = 1e-8
    weight_decay: Share = 0.0
    max_grad_norm: MaxNorm | None = None
    gradient_accumulation_steps: Annotated[int, Between(1, 1 << 16)] = 1

    def __post_init__(self):
        super().__post_init__()
        if self.schedule != "constant" and self.total_steps <= self.warmup_steps:
            raise OptionError(
                f"OptimizerConfig: total_steps = {self.total_steps} of a {self.schedule} schedule "
                f"is more than warmup_steps = {self.warmup_steps}"
            )
        if 0 < self.weight_decay < 2.0**-20:
            raise OptionError(
                f"OptimizerConfig: weight_decay = {self.weight_decay} is 0 or from 2^-20 to 1"
            )
        if self.name == "adamw":
            self._check_adam()
        elif self.momentum > 0.999:
            raise OptionError(f"OptimizerConfig: momentum = {self.momentum} is at most 0.999")
        elif self.nesterov and not self.momentum:
            raise OptionError("OptimizerConfig: nesterov needs a momentum above 0")

    def _check_adam(self) -> None:
        if self.momentum or self.nesterov:
            raise OptionError("OptimizerConfig: momentum is of sgd; adamw has b1")
        if not 0.5 <= self.b2 <= 0.99999:
            raise OptionError(f"OptimizerConfig: b2 = {self.b2} is from 0.5 to 0.99999")
        if self.b1 > 0.999:
            raise OptionError(f"OptimizerConfig: b1 = {self.b1} is at most 0.999")
        # By Cauchy and Schwarz, of all gradients there may have been.
        room = 1 - self.b1**2 / self.b2
        first = (1 - self.b2) ** 0.5 / (1 - self.b1)
        if room <= 0 or (room**0.5 * first) ** -1 > MOST_RATIO or first >= 4:
            raise OptionError(
                f"OptimizerConfig: b1 = {self.b1}, b2 = {self.b2}: the first moment may be too "
                "large for the root of the second, or its correction; b1 = 0.9 goes with b2 "
                "from 0.93 to 0.9999"
            )

    @property
    def rate_fraction(self) -> int:
        """Fraction bits of the stored rate, a uint16: 14, or of peaks below 1/16 so many that the
        peak has 15 bits.
        """
        exponent = frexp(self.learning_rate)[1]  # 2^(exponent - 1) <= peak < 2^exponent
        return RATE_FRACTION if exponent > -4 else 15 - exponent

    @property
    def factors(self) -> dict[str, float]:
        """b1, b2, momentum and weight_decay as they are proved: of ``FACTOR_BITS`` bits, b1 and b2
        by what is missing to 1.
        """
        return {
            "b1": 1 - dyadic(1 - self.b1),
            "b2": 1 - dyadic(1 - self.b2),
            "momentum": dyadic(self.momentum),
            "weight_decay": dyadic(self.weight_decay),
        }


def learning_rate(config: OptimizerConfig, step: int) -> Decimal:
    """The rate of a step, counted from 0, before it is stored."""
    peak = Decimal(config.learning_rate)
    after = step - config.warmup_steps
    with localcontext() as context:
        context.prec = DIGITS
        if after < 0:
            return peak * step / config.warmup_steps
        if config.schedule == "constant":
            return peak
        length = config.total_steps - config.warmup_steps
        done = Decimal(min(after, length)) / length
        if config.schedule == "linear":
            return peak * (1 - done)
        return peak * (1 + decimal_cos(2 * HALF_PI * done)) / 2


def bias_correction(config: OptimizerConfig, step: int) -> tuple[Decimal, Decimal]:
    """(sqrt(1 - b2^t) / (1 - b1^t), eps sqrt(1 - b2^t)) with t = step + 1.

    Adam's mu_hat / (sqrt(nu_hat) + eps) is the first times mu / (sqrt(nu) + the second).
    """
    factors = config.factors
    with localcontext() as context:
        context.prec = DIGITS
        first, second = (1 - Decimal(factors[b]) ** (step + 1) for b in ("b1", "b2"))
        root = second.sqrt()
        return root / first, Decimal(config.eps) * root


@checked
def hyperparameters(
    config: OptimizerConfig,
    step: Steps,
    gradient_fraction: Annotated[int, Between(-9, 60)] = 24,
) -> dict[str, np.ndarray]:
    """The public numbers of a step, counted from 0: nearest in their formats, ties up.

    Args:
      gradient_fraction: fraction bits of the site ``optimizer.gradient``, which eps follows.
    Returns:
      ``learning_rate``, a uint16 with ``config.rate_fraction`` bits; of ``adamw`` also
      ``bias_correction``, a uint16 with 14, and ``eps``, a uint32 with ``gradient_fraction`` + 9
      fraction bits and at least one unit.
    Raises:
      OptionError: no step, or an eps that is held with more than 1 % error.
    """
    rate = _rounded(Fraction(learning_rate(config, step)), config.rate_fraction)
    found = {"learning_rate": np.asarray(rate, np.uint16)}
    if config.name == "adamw":
        fraction = gradient_fraction + EPS_FRACTION
        require_eps(config.eps, fraction)
        correction, eps = (Fraction(x) for x in bias_correction(config, step))
        found["bias_correction"] = np.asarray(_rounded(correction, CORRECTION_FRACTION), np.uint16)
        found["eps"] = np.asarray(max(1, _rounded(eps, fraction)), np.uint32)
    return found


def require_eps(eps: float, fraction: int) -> None:
    """OptionError unless eps has these fraction bits, within 1 %."""
    units, exact = _rounded(Fraction(eps), fraction), Fraction(eps)
    if abs(units / Fraction(2) ** fraction - exact) > MOST_ERROR * exact:
        raise OptionError(
            f"OptimizerConfig: eps = {eps} is held by {fraction} fraction bits with more than 1 % "
            f"error; it is at least {50 * 2.0**-fraction:.2g}, or the site optimizer.gradient has "
            "more fraction bits"
        )
    if eps == 0 or units >= 1 << 32:
        raise OptionError(
            f"OptimizerConfig: eps = {eps} is above 0 and below {2.0 ** (32 - fraction):g}"
        )


def _rounded(value: Fraction, fraction: int) -> int:
    """floor(value 2^fraction + 1/2)."""
    return (value * Fraction(2) ** fraction + Fraction(1, 2)).__floor__()
