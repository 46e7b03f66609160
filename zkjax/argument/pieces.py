"""Long arrays in pieces of a few fixed sizes, so that a kernel is compiled for these and not for
every length. On a CPU a piece also stays in cache: a sumcheck over pieces takes half the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

SMALL = 1 << 10  # lanes of a small piece; what is shorter is padded to one, or stays on the host


@cache
def sizes() -> tuple[int, ...]:
    """Lanes of pieces, descending: what fits a CPU's cache, or keeps another device busy; SMALL."""
    import jax

    return (1 << 14, SMALL) if jax.default_backend() == "cpu" else (1 << 20, 1 << 15, SMALL)


def lanes(size: int) -> int:
    """Lanes of the pieces of ``size`` values, a power of two: the most that give two pieces."""
    return next((n for n in sizes() if size >= 2 * n), SMALL)


def widths(size: int) -> list[int]:
    """Lanes of all pieces that an array of ``size`` values is folded in."""
    return sorted(n for n in sizes() if n <= lanes(size))


def cut(values: np.ndarray) -> list[Any]:
    """(..., size) -> pieces (..., lanes); a short array becomes one piece, filled with zeros."""
    size, width = values.shape[-1], lanes(values.shape[-1])
    if size < width:
        room = np.zeros((*values.shape[:-1], width), dtype=values.dtype)
        room[..., :size] = values
        return [room]
    return [values[..., i : i + width] for i in range(0, size, width)]


def recut(pieces: Sequence[Any]) -> list[Any]:
    """The same values in smaller pieces where a single large one is left."""
    if len(pieces) > 1 or pieces[0].shape[-1] == SMALL:
        return list(pieces)
    return cut(np.asarray(pieces[0]))


def halves(pieces: Sequence[Any]) -> list[tuple[Any, Any]]:
    """The pairs of pieces that differ in the most significant bit of the index."""
    half = len(pieces) // 2
    return list(zip(pieces[:half], pieces[half:], strict=True))


def joined(pieces: Sequence[Any]) -> np.ndarray:
    """(..., size) on the host."""
    return np.concatenate([np.asarray(p) for p in pieces], axis=-1)
