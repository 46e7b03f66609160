"""RoPE's angles and tables, in floating point or correctly rounded."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as np

from zkjax.models.config import LinearRope, LlamaConfig, ModelConfig, RopeScaling, YarnRope
from zkjax.program.tables import round_exactly


def inverse_frequencies(config: LlamaConfig) -> list[float]:
    """RoPE's angular frequencies theta^(-2 i / d), scaled as configured."""
    d = config.head_dim
    plain = [config.rope_theta ** (-2.0 * i / d) for i in range(d // 2)]
    scaling = config.rope_scaling
    if isinstance(scaling, LinearRope):
        return [f / scaling.factor for f in plain]
    if isinstance(scaling, YarnRope):
        return _yarn(plain, config, scaling)
    if isinstance(scaling, RopeScaling):
        return [_llama3(f, scaling) for f in plain]
    return plain


def _llama3(f: float, s: RopeScaling) -> float:
    """f below one wavelength, f / factor above another, and what lies between between them."""
    wavelength = 2.0 * np.pi / f
    if wavelength > s.original_max_position_embeddings / s.low_freq_factor:
        return f / s.factor
    if wavelength < s.original_max_position_embeddings / s.high_freq_factor:
        return f
    ratio = s.original_max_position_embeddings / wavelength
    smooth = (ratio - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    return (1 - smooth) * f / s.factor + smooth * f


def _yarn(plain: list[float], config: LlamaConfig, s: YarnRope) -> list[float]:
    """A ramp from f to f / factor, from the frequency that turns ``beta_fast`` times in the
    original context to the one that turns ``beta_slow`` times.
    """
    d = config.head_dim

    def index_of(turns: float) -> float:
        context = s.original_max_position_embeddings
        return d * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low, high = index_of(s.beta_fast), index_of(s.beta_slow)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    width = high - low or 0.001
    ramp = [min(max((i - low) / width, 0.0), 1.0) for i in range(d // 2)]
    return [r * f / s.factor + (1 - r) * f for f, r in zip(plain, ramp, strict=True)]


def decimal_cos(x: Decimal) -> Decimal:
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


def score_scale(config: ModelConfig) -> tuple[float, float]:
    """head_dim^(-1/2) as a number in [1, 2), which the queries take up, and a power of two, which
    costs nothing.
    """
    mantissa, exponent = np.frexp(config.head_dim**-0.5)
    return 2 * float(mantissa), 2.0 ** (int(exponent) - 1)


def rotary_tables(
    config: LlamaConfig, length: int, fraction: int | None, factor: float = 1.0
) -> tuple[Any, Any]:
    """factor (times YaRN's attention factor) times cos and sin of position * frequency, (length,
    head_dim / 2) float64.

    With ``fraction`` they are correctly rounded to that many bits, the same on every machine.
    """
    frequencies = inverse_frequencies(config)
    if isinstance(config.rope_scaling, YarnRope):
        factor *= config.rope_scaling.attention_factor
    angles = np.outer(np.arange(length), frequencies)
    if fraction is None:
        return factor * np.cos(angles), factor * np.sin(angles)
    half = len(frequencies)

    def exact(shift: Decimal):
        def at(i: int) -> Decimal:
            with localcontext() as context:
                context.prec = 90
                angle = Decimal(i // half) * Decimal(frequencies[i % half])
                return Decimal(factor) * decimal_cos(angle - shift) * 2**fraction

        return at

    out = []
    for values, shift in ((np.cos(angles), Decimal(0)), (np.sin(angles), HALF_PI)):
        flat = round_exactly(factor * values.reshape(-1) * 2.0**fraction, exact(shift), "rotary")
        out.append(flat.reshape(angles.shape) * 2.0**-fraction)
    return out[0], out[1]
