"""The Goldilocks field F = Z/p, p = 2^64 - 2^32 + 1, on uint64 arrays of NumPy or JAX.

Elements are canonical (< p) everywhere: in memory, on the wire and between functions. The code
uses operators and ``array_namespace`` only, so the same lines run on the host and in a jitted
kernel. JAX callers must be inside the 64-bit scope (``zkjax._compat.x64``).

Reduction: with eps = 2^32 - 1 = 2^64 mod p and hi = hh * 2^32 + hl,
lo + 2^64 hi = lo + eps * hl - hh (mod p), because 2^96 = -1 (mod p).
"""

from __future__ import annotations

from typing import Any

import numpy as np

P = 2**64 - 2**32 + 1
GENERATOR = 7
TWO_ADICITY = 32

Array = Any

_P = np.uint64(P)
_EPS = np.uint64(2**32 - 1)
_MASK = np.uint64(2**32 - 1)
_S32 = np.uint64(32)


def array_namespace(x: Array):
    """``numpy`` or ``jax.numpy``, whichever made ``x``."""
    return x.__array_namespace__()


def add(a: Array, b: Array) -> Array:
    """a + b mod p; a, b canonical."""
    xp = array_namespace(a)
    s = a + b
    # s wrapped past 2^64 (add eps), or lies in [p, 2^64) (add eps = subtract p mod 2^64).
    return xp.where((s < a) | (s >= _P), s + _EPS, s)


def sub(a: Array, b: Array) -> Array:
    """a - b mod p."""
    xp = array_namespace(a)
    d = a - b
    return xp.where(a < b, d - _EPS, d)


def neg(a: Array) -> Array:
    """-a mod p."""
    xp = array_namespace(a)
    return xp.where(a == np.uint64(0), a, _P - a)


def _reduce128(hi: Array, lo: Array) -> Array:
    xp = array_namespace(lo)
    hh = hi >> _S32
    hl = hi & _MASK
    t = lo - hh
    t = xp.where(lo < hh, t - _EPS, t)
    u = (hl << _S32) - hl
    s = t + u
    s = xp.where(s < u, s + _EPS, s)
    return xp.where(s >= _P, s - _P, s)


def mul(a: Array, b: Array) -> Array:
    """a * b mod p by four 32x32 -> 64 bit limb products and the reduction above."""
    a0, a1 = a & _MASK, a >> _S32
    b0, b1 = b & _MASK, b >> _S32
    low = a0 * b0
    mid = a0 * b1 + (low >> _S32)
    cross = a1 * b0 + (mid & _MASK)
    hi = a1 * b1 + (mid >> _S32) + (cross >> _S32)
    lo = (cross << _S32) | (low & _MASK)
    return _reduce128(hi, lo)


def mul_small(a: Array, c: int) -> Array:
    """a * c mod p for a Python integer 0 <= c < 2^31."""
    k = np.uint64(c)
    low = (a & _MASK) * k
    high = (a >> _S32) * k + (low >> _S32)
    return _reduce128(high >> _S32, (high << _S32) | (low & _MASK))


def power(a: Array, exponent: int) -> Array:
    """a ** exponent by square and multiply; exponent is a non-negative Python integer."""
    xp = array_namespace(a)
    result = xp.ones_like(a)
    while exponent:
        if exponent & 1:
            result = mul(result, a)
        exponent >>= 1
        if exponent:
            a = mul(a, a)
    return result


def inverse(a: Array) -> Array:
    """1 / a (0 for a = 0), by Fermat."""
    return power(a, P - 2)


def sum_mod(a: Array, axis: int = -1) -> Array:
    """Sum along one axis mod p: the 32-bit halves are summed without overflow (< 2^32 terms)."""
    low = (a & _MASK).sum(axis=axis, dtype=np.uint64)
    high = (a >> _S32).sum(axis=axis, dtype=np.uint64)
    high = high + (low >> _S32)
    return _reduce128(high >> _S32, (high << _S32) | (low & _MASK))


def from_signed(v: Array) -> Array:
    """Embed int64 (or exact float64 integers) with |v| < p/2 as field elements."""
    xp = array_namespace(v)
    i = v.astype(np.int64)
    u = i.astype(np.uint64)
    # A negative i reads as 2^64 + i; p + i = 2^64 + i - eps.
    return xp.where(i < 0, u - _EPS, u)


def to_signed(a: Array) -> Array:
    """The representative in (-p/2, p/2) as int64; the inverse of ``from_signed``."""
    xp = array_namespace(a)
    negative = a > np.uint64(P // 2)
    return xp.where(negative, a + _EPS, a).astype(np.int64)


def is_canonical(a: np.ndarray) -> bool:
    """Whether every entry of a uint64 array is < p."""
    return bool((a < _P).all())


def root_of_unity(log_order: int) -> int:
    """A primitive 2^log_order-th root of unity, as a Python integer."""
    if not 0 <= log_order <= TWO_ADICITY:
        raise ValueError(f"no root of unity of order 2^{log_order} in Goldilocks (at most 2^32)")
    return pow(GENERATOR, (P - 1) >> log_order, P)


def powers(base: int, n: int) -> np.ndarray:
    """[1, base, base^2, ..., base^(n-1)] as a (n,) uint64 array, by doubling."""
    out = np.ones(max(n, 1), dtype=np.uint64)
    filled, step = 1, base % P
    while filled < n:
        take = min(filled, n - filled)
        out[filled : filled + take] = mul(out[:take], np.uint64(step))
        filled += take
        step = step * step % P
    return out[:n]
