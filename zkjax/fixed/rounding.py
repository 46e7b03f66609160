"""Rounding, and conversion between stored integers and fixed-point values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zkjax._arguments import checked
from zkjax._marks import Between
from zkjax.errors import OptionError, ValueRangeError
from zkjax.fixed.primitives import round_p
from zkjax.fixed.types import Array, Bits, Fraction, HostArray, IntegerDtype, as_array


class Format(NamedTuple):
    """k * 2^-fraction with -2^(bits-1) <= k < 2^(bits-1). 16 bits cost one lookup, 32 cost two."""

    fraction: Fraction
    bits: Bits


_COTANGENT: ContextVar[Format] = ContextVar("cotangent", default=Format(20, 32))


@checked
@contextlib.contextmanager
def cotangent_format(fraction: Fraction, bits: Bits) -> Iterator[None]:
    """The format that backward passes traced in this scope round to (default 20 of 32 bits)."""
    token = _COTANGENT.set(Format(fraction, bits))
    try:
        yield
    finally:
        _COTANGENT.reset(token)


def current_cotangent_format() -> Format:
    return _COTANGENT.get()


class Scale(NamedTuple):
    """Powers of two that broadcast against an array, and their inverses."""

    factor: Any
    inverse: Any


def _scaled(x, form: Format, scale: Scale | None, site: str):
    """x rounded at ``fraction`` bits plus those of its scale."""
    if scale is None:
        return round_p.bind(x, fraction=form.fraction, bits=form.bits, site=site)[0]
    x = x * scale.factor
    return round_p.bind(x, fraction=form.fraction, bits=form.bits, site=site)[0] * scale.inverse


@partial(jax.custom_vjp, nondiff_argnums=(1, 3))
def _round(x, format, scale, site):
    return _scaled(x, format, scale, site)


_round.defvjp(
    lambda x, form, scale, site: (_round(x, form, scale, site), None),
    lambda form, site, _, ct: (ct, None),
)


@partial(jax.custom_vjp, nondiff_argnums=(1, 3))
def _cotangent(x, format, scale, site):
    return x


_cotangent.defvjp(
    lambda x, form, scale, site: (x, scale),
    lambda form, site, scale, ct: (
        _round(_cotangent(ct, form, scale, site), form, scale, site),
        None,
    ),
)


@checked
def round(
    x: Array,
    fraction: Fraction,
    bits: Bits = 32,
    *,
    cotangent: Format | None = None,
    scale: Scale | None = None,
    site: str = "",
) -> jax.Array:
    """Round to nearest (ties up) at ``fraction`` fraction bits: floor(x 2^f + 1/2) 2^-f.

    Args:
      x: float64 array.
      fraction: fraction bits kept.
      bits: the result must satisfy -2^(bits-1) <= y 2^f < 2^(bits-1); checked by every proof.
      cotangent: the format its derivative is rounded to (default: ``cotangent_format``).
      scale: powers of two that multiply x before it is rounded, and their inverses after, so that
        a part of an array has other fraction bits and another range.
      site: a name for this rounding, for messages.
    Returns:
      The rounded array. Its VJP rounds the cotangent, so a backward pass stays in fixed point.

    >>> import numpy as np
    >>> from zkjax import fixed
    >>> print(fixed.round(np.array([0.3, -0.125, 0.375]), fraction=2))
    [0.25 0.   0.5 ]
    """
    x = round_cotangent(x, *(cotangent or _COTANGENT.get()), site=site)
    return round_value(x, fraction, bits, scale=scale, site=site)


@checked
def round_value(
    x: Array, fraction: Fraction, bits: Bits = 32, *, scale: Scale | None = None, site: str = ""
) -> jax.Array:
    """``round`` with a VJP that hands the cotangent through as it is."""
    return _round(jnp.asarray(x), Format(fraction, bits), scale, site)


@checked
def round_cotangent(
    x: Array, fraction: Fraction, bits: Bits = 32, *, scale: Scale | None = None, site: str = ""
) -> jax.Array:
    """x, with a VJP that rounds the cotangent."""
    site = f"{site} (backward)" if site else ""
    return _cotangent(jnp.asarray(x), Format(fraction, bits), scale, site)


@checked
def scale(
    x: Array, factor: float, fraction: Fraction, bits: Bits = 32, *, site: str = ""
) -> jax.Array:
    """x times a real number, within 2^-fraction and 2^-16 of it; VJP as of ``round_value``.

    The power of two comes first, because it costs no bits; the rest of the factor, of 16 bits,
    multiplies what was rounded.
    """
    mantissa, exponent = np.frexp(float(factor))
    if not -40 <= exponent <= 40:
        raise OptionError(f"factor = {factor!r}; it is a number between 2^-40 and 2^40")
    if abs(mantissa) == 0.5:
        return round_value(x * float(factor), fraction, bits, site=site)
    x = round_value(x * 2.0 ** int(exponent), fraction, bits, site=site)
    return round_value(x * significant(mantissa), fraction, bits, site=site)


@checked
def decode(stored: Array, fraction: Fraction) -> jax.Array:
    """Stored integers as values: i * 2^-fraction, exact.

    >>> import numpy as np
    >>> from zkjax import fixed
    >>> print(fixed.decode(np.array([-4, 3], np.int16), fraction=2))
    [-1.    0.75]
    """
    return as_array(stored).astype(jnp.float64) * 2.0**-fraction


@checked
def encode(x: Array, fraction: Fraction, dtype: IntegerDtype = jnp.int32) -> jax.Array:
    """Values as stored integers: ``round`` to ``fraction`` bits, then i = x 2^fraction.

    The result must fit the dtype; a proof checks that it does.

    >>> import numpy as np
    >>> from zkjax import fixed
    >>> print(fixed.encode(np.array([-1.0, 0.75]), fraction=2))
    [-4  3]
    """
    info = jnp.iinfo(dtype)
    bits = min(info.bits + (info.min == 0), 53)  # those of ``round`` have a sign
    return (round(x, fraction, bits) * 2.0**fraction).astype(dtype)


def _require_finite(values) -> None:
    if not np.isfinite(np.asarray(values, dtype=np.float64)).all():
        raise ValueRangeError("a value is infinite or not a number")


@checked
def constant(value: HostArray, fraction: Fraction) -> np.ndarray:
    """A real constant rounded to ``fraction`` bits, as float64.

    >>> from zkjax import fixed
    >>> float(fixed.constant(0.1, fraction=4))
    0.125
    """
    _require_finite(value)
    return np.floor(np.asarray(value, dtype=np.float64) * 2.0**fraction + 0.5) * 2.0**-fraction


@checked
def significant(value: float, bits: Annotated[int, Between(1, 52)] = 16) -> float:
    """A real constant rounded to so many significant bits; within 2^-bits of it, relatively."""
    _require_finite(value)
    mantissa, exponent = np.frexp(float(value))
    return float(np.ldexp(np.floor(mantissa * 2.0**bits + 0.5), int(exponent) - bits))


@checked
def quantize(values: HostArray, fraction: Fraction, dtype: IntegerDtype = "int32") -> np.ndarray:
    """Real numbers as stored integers on the host: floor(x 2^fraction + 1/2), NumPy.

    Raises:
      ValueRangeError: a value does not fit the dtype, or is not a finite number.

    >>> from zkjax import fixed
    >>> fixed.quantize([0.1, -1.0], fraction=8, dtype="int16")
    array([  26, -256], dtype=int16)
    """
    _require_finite(values)
    scaled = np.floor(np.asarray(values, dtype=np.float64) * 2.0**fraction + 0.5)
    info = np.iinfo(dtype)
    if scaled.size and (scaled.min() < info.min or scaled.max() > info.max):
        raise ValueRangeError(
            f"values in [{scaled.min() * 2.0**-fraction:.6g}, {scaled.max() * 2.0**-fraction:.6g}] "
            f"do not fit {dtype} with {fraction} fraction bits"
        )
    return scaled.astype(dtype)
