"""The two arithmetics a model definition runs in: plain floating point, or ``zkjax.fixed``.

A model calls these methods where a real number has to be rounded or a nonlinear function taken;
everything else is ordinary JAX. ``Float`` rounds nothing, so it is the reference in float32 or
float64; ``FixedPoint`` is what can be proved.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zkjax import fixed
from zkjax.errors import OptionError
from zkjax.fixed import Format
from zkjax.models.config import LlamaConfig
from zkjax.program.tables import round_exactly


@dataclass(frozen=True)
class Float:
    """Floating point of whatever dtype the parameters have."""

    def activation(self, x):
        """The output of a linear layer or a product."""
        return x

    def residual(self, x):
        """The residual stream between blocks."""
        return x

    def score(self, x):
        """Attention scores and logits."""
        return x

    def weight(self, x):
        """A trainable master weight as it enters a product."""
        return x

    def inverse_rms(self, mean_square, eps: float):
        return jax.lax.rsqrt(mean_square + eps)

    def silu(self, x):
        return jax.nn.silu(x)

    def softmax(self, x, mask):
        return jax.nn.softmax(jnp.where(mask, x, -1e30), axis=-1)

    def cross_entropy(self, logits, target):
        log_p = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_p, target[..., None].astype(jnp.int32), axis=-1)[..., 0]

    def embed(self, table, tokens):
        return table[tokens.astype(jnp.int32)]

    def constant(self, values):
        return values


@dataclass(frozen=True)
class FixedPoint:
    """Fixed point. The defaults suit models of LLaMA's activation scale.

    Attributes:
      activations: 11 fraction bits, |x| < 16, one lookup.
      residuals: a sum of embeddings and activations, exact at 12 fraction bits; only its cotangent
        is rounded, which keeps it bounded through any number of blocks.
      scores: 10 fraction bits, |x| < 32: attention scores and logits.
      weights: how master weights are rounded for a product.
      mean_square: the argument of rsqrt.
      inverse_rms_format: fraction bits and bits of rsqrt's result. 17 bits hold less than 32, so
        the mean square plus eps has to exceed 2^-10; its rounding then changes the result by at
        most 1.6 %. A smaller one leaves the range, and the run is refused.
      cotangents: what backward passes round to; pair it with a loss scale.
      statistic_cotangents: the same for the scalars of RMSNorm, which are few and larger.
      constants: fraction bits of cos and sin.
    """

    activations: Format = Format(11, 16)
    residuals: Format = Format(12, 24)
    scores: Format = Format(10, 16)
    weights: Format = Format(12, 16)
    mean_square: Format = Format(14, 22)
    inverse_rms_format: Format = Format(12, 17)
    cotangents: Format = Format(20, 24)
    statistic_cotangents: Format = Format(16, 28)
    constants: int = 14

    def _round(self, x, form: Format):
        return fixed.round(x, *form, cotangent=self.cotangents)

    def activation(self, x):
        return self._round(x, self.activations)

    def residual(self, x):
        return self._round(x, self.residuals)

    def score(self, x):
        return self._round(x, self.scores)

    def weight(self, x):
        return self._round(x, self.weights)

    def inverse_rms(self, mean_square, eps: float):
        wide, fraction = self.statistic_cotangents, self.mean_square.fraction
        if eps < 2.0**-fraction:
            raise OptionError(
                f"rms_norm_eps = {eps:g} is smaller than 2^-{fraction}, the last bit of the mean "
                "square; take a larger one, or FixedPoint(mean_square=Format(...)) with more "
                "fraction bits"
            )
        rounded = fixed.round(mean_square, *self.mean_square, cotangent=wide)
        least = fixed.constant(eps, fraction)
        with fixed.cotangent_format(*wide):
            return fixed.rsqrt(rounded + least, *self.inverse_rms_format)

    def silu(self, x):
        return fixed.silu(x, self.activations.fraction, self.activations.fraction)

    def softmax(self, x, mask):
        lowest = -(2.0 ** (self.scores.bits - 1 - self.scores.fraction))
        with fixed.cotangent_format(*self.cotangents):
            return fixed.softmax(jnp.where(mask, x, lowest), mask, self.scores.fraction)

    def cross_entropy(self, logits, target):
        with fixed.cotangent_format(*self.cotangents):
            return fixed.cross_entropy(logits, target, self.scores.fraction)

    def embed(self, table, tokens):
        return fixed.embed(table, tokens)

    def constant(self, values):
        return fixed.constant(values, self.constants)


Numerics = Float | FixedPoint


def inverse_frequencies(config: LlamaConfig) -> list[float]:
    """RoPE's angular frequencies theta^(-2 i / d), with Llama-3 scaling if configured."""
    d = config.head_dim
    base = [config.rope_theta ** (-2.0 * i / d) for i in range(d // 2)]
    s = config.rope_scaling
    if s is None:
        return base
    out = []
    for f in base:
        wavelength = 2.0 * np.pi / f
        low = s.original_max_position_embeddings / s.low_freq_factor
        high = s.original_max_position_embeddings / s.high_freq_factor
        if wavelength > low:
            out.append(f / s.factor)
        elif wavelength < high:
            out.append(f)
        else:
            ratio = s.original_max_position_embeddings / wavelength
            smooth = (ratio - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
            out.append((1 - smooth) * f / s.factor + smooth * f)
    return out


def _decimal_cos(x: Decimal) -> Decimal:
    """cos by halving the angle below 2^-10 and a Taylor series, in the current precision."""
    halvings = max(0, int(abs(x)).bit_length() + 10)
    y = x / (1 << halvings)
    term, total, n = Decimal(1), Decimal(1), 0
    while abs(term) > Decimal(10) ** -60:
        n += 2
        term *= -y * y / (n * (n - 1))
        total += term
    for _ in range(halvings):
        total = 2 * total * total - 1
    return total


HALF_PI = Decimal("1.57079632679489661923132169163975144209858469968755291048747229615")


def rotary_tables(config: LlamaConfig, length: int, fraction: int | None) -> tuple[Any, Any]:
    """cos and sin of position * frequency, (length, head_dim / 2) float64.

    With ``fraction`` they are correctly rounded to that many bits, the same on every machine.
    """
    frequencies = inverse_frequencies(config)
    angles = np.outer(np.arange(length), frequencies)
    if fraction is None:
        return np.cos(angles), np.sin(angles)
    half = len(frequencies)

    def exact(shift: Decimal):
        def at(i: int) -> Decimal:
            with localcontext() as context:
                context.prec = 90
                angle = Decimal(i // half) * Decimal(frequencies[i % half])
                return +_decimal_cos(angle - shift) * 2**fraction

        return at

    out = []
    for values, shift in ((np.cos(angles), Decimal(0)), (np.sin(angles), HALF_PI)):
        flat = round_exactly(values.reshape(-1) * 2.0**fraction, exact(shift), "rotary")
        out.append(flat.reshape(angles.shape) * 2.0**-fraction)
    return out[0], out[1]
