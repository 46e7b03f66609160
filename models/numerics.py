"""The arithmetics a model definition runs in: floating point, floating point that is watched, or
``zkjax.fixed``.

A model names every place where a real number has to be rounded, its *sites*, and calls these
methods there; everything else is ordinary JAX. ``Float`` rounds nothing, so it is the reference in
float32 or float64; ``Observed`` is the same and lets ``calibration`` see the values; ``FixedPoint``
is what can be proved. Each site has formats of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zkjax import fixed
from zkjax._arguments import checked
from zkjax._marks import Between
from zkjax.fixed import Format, Scale
from zkjax.fixed.sites import Site, observe
from zkjax.models.config import Checked

__all__ = ["FixedPoint", "Float", "Observed"]

TILED = 16  # positions from which on scores are computed in two parts
# What differs from ``Site()`` where nothing was calibrated. These suit small activations: |x| < 16
# between layers, |x| < 32 for scores and logits, and a residual stream below 2,048.
DEFAULT_SITES = MappingProxyType(
    {
        "scores": Site(Format(10, 16)),
        "logits": Site(Format(10, 16)),
        "lora.weight": Site(Format(12, 16)),
        "gradient": Site(Format(24, 40)),
        **{
            f"{norm}_norm.statistic": Site(Format(12, 24)) for norm in ("attention", "mlp", "final")
        },
        **{f"{norm}_norm.inverse": Site(Format(15, 32)) for norm in ("attention", "mlp", "final")},
        # Of an optimizer (``optimizers``): |gradient| < 16, its moments with it; |update| < 2.
        "optimizer.gradient": Site(Format(24, 29)),
        "optimizer.norm": Site(Format(16, 21)),
        "optimizer.trace": Site(Format(24, 32)),
        "optimizer.ratio": Site(Format(14, 22)),
        "optimizer.direction": Site(Format(22, 32)),
        "optimizer.update": Site(Format(24, 26)),
    }
)


@dataclass(frozen=True)
class Float:
    """Floating point of whatever dtype the parameters have."""

    def layer_scales(self) -> dict[str, Any]:
        """What ``at_layer`` needs of each layer: a pytree with a leading layer axis."""
        return {}

    def at_layer(self, scales: dict[str, Any]) -> Float:
        """The arithmetic inside a layer."""
        return self

    def tiles(self, length: int) -> tuple[int, ...]:
        """Where the parts end in which causal attention computes its scores."""
        return (length,)

    def round(self, x, site: str):
        """A value that is rounded, and whose cotangent is."""
        return x

    def round_value(self, x, site: str):
        """A value that is rounded; its cotangent is rounded elsewhere."""
        return x

    def round_if_wide(self, x, site: str, source: str):
        """``round_value`` where the values that x was made of, at another site, have more than 16
        bits.
        """
        return x

    def round_cotangent(self, x, site: str):
        """A value that is exact as it is and whose cotangent is rounded."""
        return x

    def scale(self, x, factor: float, site: str):
        """x times a real number, rounded."""
        return x * factor

    def normalize(self, x, eps: float, site: str):
        """x / sqrt(mean(x^2) + eps) over the last axis."""
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)

    def center(self, x, site: str):
        """x - mean(x) over the last axis; the site is the mean, and the cotangent of x."""
        return x - jnp.mean(x, axis=-1, keepdims=True)

    def silu(self, x, site: str):
        return jax.nn.silu(x)

    def gelu(self, x, approximate: bool, source: str, site: str):
        """GELU of a value that ``source`` rounded to 16 bits."""
        return jax.nn.gelu(x, approximate=approximate)

    def softmax(self, x, mask, site: str):
        return jax.nn.softmax(jnp.where(mask, x, -1e30), axis=-1)

    def cross_entropy(self, logits, target):
        target = target.astype(jnp.int32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, target)

    def embed(self, table, tokens):
        return table[tokens.astype(jnp.int32)]

    def constant(self, value: float):
        """A real number that values are multiplied by."""
        return value

    def quotient(self, n, d, fraction: int, bits: int):
        """n / d of numbers that are not known when a function is traced, rounded."""
        return n / d

    def rotary(self, values):
        """Values of cos and sin."""
        return values


@dataclass(frozen=True)
class Observed(Float):
    """Floating point in which every site's values and cotangents can be seen, by
    ``zkjax.fixed.sites.observations``.
    """

    def round(self, x, site: str):
        return observe(x, site)

    def round_value(self, x, site: str):
        return observe(x, site, backward=False)

    def round_if_wide(self, x, site: str, source: str):
        return observe(x, site, backward=False)

    def round_cotangent(self, x, site: str):
        return observe(x, site, forward=False)

    def normalize(self, x, eps: float, site: str):
        x = observe(x, f"{site}.statistic", backward=False)
        inverse = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)
        inverse = observe(inverse, f"{site}.inverse", backward=False)
        return observe(x * inverse, site)

    def center(self, x, site: str):
        x = observe(x, site, forward=False)
        return x - observe(jnp.mean(x, axis=-1, keepdims=True), site, backward=False)

    def silu(self, x, site: str):
        return observe(jax.nn.silu(x), site, backward=False)

    def gelu(self, x, approximate: bool, source: str, site: str):
        return observe(jax.nn.gelu(x, approximate=approximate), site)

    def softmax(self, x, mask, site: str):
        p = jax.nn.softmax(jnp.where(mask, x, -1e30), axis=-1)
        return observe(p, site, forward=False)


@dataclass(frozen=True)
class FixedPoint(Checked):
    """Fixed point, each site in its formats.

    Attributes:
      sites: formats by name; those not named are ``DEFAULT_SITES`` or else ``default``.
      default: the formats of sites that nobody named.
      constants: fraction bits of cos and sin.
    """

    sites: Mapping[str, Site] = field(default_factory=dict)
    default: Site = field(default_factory=Site)
    constants: Annotated[int, Between(1, 30)] = 14
    _scales: Mapping[str, Scale] = field(default_factory=dict, repr=False, compare=False)

    @checked
    def site(self, name: str) -> Site:
        """The formats of a site."""
        return self.sites.get(name, DEFAULT_SITES.get(name, self.default))

    def layer_scales(self) -> dict[str, Scale]:
        found = {}
        for name, site in self.sites.items():
            for way in ("forward", "backward"):
                shifts = np.array(getattr(site, f"{way}_shifts"), dtype=np.float64)
                if shifts.size:
                    found[f"{name}/{way}"] = Scale(2.0**shifts, 2.0**-shifts)
        return found

    def at_layer(self, scales: dict[str, Scale]) -> FixedPoint:
        inside = copy(self)  # what it holds was checked
        object.__setattr__(inside, "_scales", scales)
        return inside

    def tiles(self, length: int) -> tuple[int, ...]:
        """Two parts: of the scores above the diagonal, which are masked, half are not computed."""
        return (length,) if length < TILED else (-(-length // 2), length)

    def round(self, x, site: str):
        return self.round_value(self.round_cotangent(x, site), site)

    def round_value(self, x, site: str):
        scale = self._scales.get(f"{site}/forward")
        return fixed.round_value(x, *self.site(site).forward, scale=scale, site=site)

    def round_if_wide(self, x, site: str, source: str):
        return self.round_value(x, site) if self.site(source).forward.bits > 16 else x

    def round_cotangent(self, x, site: str):
        scale = self._scales.get(f"{site}/backward")
        return fixed.round_cotangent(x, *self.site(site).backward, scale=scale, site=site)

    def scale(self, x, factor: float, site: str):
        return fixed.scale(x, factor, *self.site(site).forward, site=site)

    def normalize(self, x, eps: float, site: str):
        form = self.site(site)
        statistic = self.site(f"{site}.statistic").forward
        inverse = self.site(f"{site}.inverse").forward
        return fixed.rms_normalize(x, eps, statistic, inverse, form.forward, form.backward, site)

    def center(self, x, site: str):
        x = self.round_cotangent(x, site)
        total, form = jnp.sum(x, axis=-1, keepdims=True), self.site(site).forward
        return x - fixed.scale(total, 1.0 / x.shape[-1], *form, site=site)

    def silu(self, x, site: str):
        """Of a value that ``gate_proj`` rounded to 16 bits."""
        return fixed.silu(
            x, self.site("gate_proj").forward.fraction, self.site(site).forward.fraction
        )

    def gelu(self, x, approximate: bool, source: str, site: str):
        fractions = self.site(source).forward.fraction, self.site(site).forward.fraction
        return self.round_cotangent(fixed.gelu(x, *fractions, approximate), site)

    def softmax(self, x, mask, site: str):
        form = self.site("scores").forward
        lowest = -(2.0 ** (form.bits - 1 - form.fraction))
        with fixed.cotangent_format(*self.site(site).backward):
            return fixed.softmax(jnp.where(mask, x, lowest), mask, form.fraction)

    def cross_entropy(self, logits, target):
        return fixed.cross_entropy(logits, target, self.site("logits").forward.fraction)

    def embed(self, table, tokens):
        return fixed.embed(table, tokens)

    def constant(self, value: float):
        return fixed.significant(value)

    def quotient(self, n, d, fraction: int, bits: int):
        return fixed.divide(n, d, fraction, bits)

    def rotary(self, values):
        return values


Numerics = Float | FixedPoint
