"""What a mutant puts in place of random values: challenges, masks, pads and nonces without secrets.

Everything still is drawn, so that transcripts and counters go on as before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NONCE = 32


def _is_scalar(value: Any) -> bool:
    return hasattr(value, "coefficients")


def one(value: Any) -> Any:
    """A challenge, a list or an array (kappa, n) of them, all one; indices are the first ones."""
    if isinstance(value, list):
        return [one(v) for v in value]
    if _is_scalar(value):
        return type(value).of(1, value.kappa)
    if value.dtype == np.int64:
        return np.arange(len(value))
    out = np.zeros_like(value)
    out[0] = 1
    return out


def equal(owner: Any, value: Any) -> Any:
    """The same challenge as the first one here by ``owner``, or within one list or array."""
    if isinstance(value, list):
        return [value[0] for _ in value]
    if _is_scalar(value):
        return owner.__dict__.setdefault("_first_challenge", value)
    if value.dtype == np.int64:
        return one(value)
    return np.repeat(value[:, :1], value.shape[1], axis=1)


def zeros(value: Any) -> Any:
    """Entropy without any."""
    if isinstance(value, bytes):
        return bytes(len(value))
    if isinstance(value, list):
        return [type(v).of(0, v.kappa) for v in value]
    return np.zeros_like(value)


def same(value: Any) -> Any:
    """Entropy that repeats: one nonce for all, one element for all."""
    if isinstance(value, bytes):
        return (value[:NONCE] * (len(value) // NONCE + 1))[: len(value)]
    if isinstance(value, list):
        return [value[0] for _ in value]
    out = value.copy()
    out[...] = value.reshape(-1)[0] if value.size else 0
    return out


def row(value: np.ndarray, index: int) -> np.ndarray:
    """One row of an array of entropy is zero."""
    out = value.copy()
    out[index] = 0
    return out
