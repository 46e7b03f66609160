"""Multilinear extensions on the host: eq vectors, evaluation, folding.

A vector of length 2^n is a function on {0,1}^n, the first coordinate being the most significant
bit of the index. Points are (kappa, n) arrays. A vector of any length is extended by zeros.
"""

from __future__ import annotations

import numpy as np

from zkjax.field import extension as ext
from zkjax.field import goldilocks as gl
from zkjax.work import charge


def log2_ceil(n: int) -> int:
    """The smallest k with 2^k >= n (n >= 1)."""
    return (n - 1).bit_length()


def eq_vector(point: np.ndarray, length: int | None = None) -> np.ndarray:
    """(kappa, length): eq(point, i) = prod_b (p_b i_b + (1 - p_b)(1 - i_b)), the first ``length``
    of 2^n.

    Only prefixes that are needed are expanded: O(length) products.
    """
    kappa, n = point.shape
    length = 1 << n if length is None else length
    table = np.zeros((kappa, 1), dtype=np.uint64)
    table[0, 0] = 1
    for b in range(n):
        doubled = np.empty((kappa, table.shape[1], 2), dtype=np.uint64)
        for i in range(0, table.shape[1], ext.BLOCK):
            part = table[:, i : i + ext.BLOCK]
            high = ext.mul(part, point[:, b : b + 1])
            doubled[:, i : i + ext.BLOCK, 0] = ext.sub(part, high)
            doubled[:, i : i + ext.BLOCK, 1] = high
        table = doubled.reshape(kappa, -1)[:, : -(-length // (1 << (n - 1 - b)))]
    return table


def evaluate(values: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(kappa,): the extension of base-field ``values`` (length <= 2^n) at ``point`` (kappa, n)."""
    weights = eq_vector(point, len(values))
    return gl.sum_mod(gl.mul(weights, values[None]))


def fold(table: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Bind the first coordinate of (kappa, 2m) to r (kappa,): low + r (high - low)."""
    half = table.shape[1] // 2
    low, high = table[:, :half], table[:, half:]
    return ext.add(low, ext.mul(ext.sub(high, low), r[:, None]))


def indicator_at(point: np.ndarray, length: int) -> np.ndarray:
    """(kappa,): the extension of [i < length] on {0,1}^n at ``point`` (kappa, n), in O(n)."""
    kappa, n = point.shape
    one = np.zeros(kappa, dtype=np.uint64)
    one[0] = 1
    if length >= 1 << n:
        return one
    total, prefix = np.zeros(kappa, dtype=np.uint64), one
    for b in range(n):
        high = ext.mul(prefix, point[:, b])
        low = ext.sub(prefix, high)
        if (length >> (n - 1 - b)) & 1:
            total, prefix = ext.add(total, low), high
        else:
            prefix = low
    return total


def identity_at(point: np.ndarray) -> np.ndarray:
    """(kappa,): the extension of i -> i at ``point``: sum_b 2^(n-1-b) p_b."""
    kappa, n = point.shape
    total = np.zeros(kappa, dtype=np.uint64)
    for b in range(n):
        total = ext.add(ext.add(total, total), point[:, b])
    return total


class Point:
    """A point of E^n whose eq vectors are computed once, also for its suffixes.

    Equal vectors are the same arrays, so functionals at the same point can be recognised and
    merged.
    """

    def __init__(self, coordinates: np.ndarray, _cache: dict | None = None):
        self.coordinates = coordinates  # (kappa, n), most significant first
        self._cache = {} if _cache is None else _cache

    def __len__(self) -> int:
        return self.coordinates.shape[1]

    def last(self, k: int) -> Point:
        """The last k coordinates."""
        return Point(self.coordinates[:, len(self) - k :], self._cache)

    def eq(self, start: int, log: int, length: int) -> np.ndarray:
        """eq of coordinates [start, start + log), truncated to ``length``: (kappa, length)."""
        key = (len(self) - start, log, length)
        if key not in self._cache:
            charge(length)
            self._cache[key] = eq_vector(self.coordinates[:, start : start + log], length)
        return self._cache[key]

    def weights(self, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """eq on a tensor of this shape, padded to powers of two: one truncated vector an axis."""
        out, start = [], 0
        for n in shape:
            out.append(self.eq(start, log2_ceil(n), n))
            start += log2_ceil(n)
        return tuple(out)
