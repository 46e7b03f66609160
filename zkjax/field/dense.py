"""Contractions of small-integer tensors with extension vectors, as exact float64 matrix products.

Witness values are integers far below 2^53. Splitting the extension vector in limbs of b bits makes
every partial sum of T @ limbs an exact float64, so the work is a real GEMM (memory-bound) followed
by a few field operations per output.
"""

from __future__ import annotations

from functools import reduce

import numpy as np

from zkjax.field import extension as ext
from zkjax.field import goldilocks as gl

EXACT_BITS = 53
MAX_TERMS = 1 << 18  # summed at once, so that a 25-bit matrix always leaves limbs of 8 bits


def matvec(matrix: np.ndarray, weights: np.ndarray, bound: int) -> np.ndarray:
    """T w for float64 integers T (n, m), |T| <= bound, and w (kappa, m): (kappa, n)."""
    kappa, m = weights.shape
    if m > MAX_TERMS:
        parts = [
            matvec(matrix[:, i : i + MAX_TERMS], weights[:, i : i + MAX_TERMS], bound)
            for i in range(0, m, MAX_TERMS)
        ]
        return reduce(gl.add, parts)
    width = EXACT_BITS - max(bound, 1).bit_length() - max(m, 1).bit_length()
    if width < 8:
        # Split T so that wide values still leave room for the limbs.
        high = np.floor(matrix * 2.0**-24)
        low = matrix - high * 2.0**24
        upper = matvec(high, weights, (bound >> 24) + 1)
        return gl.add(gl.mul(upper, np.uint64(1 << 24)), matvec(low, weights, 1 << 24))
    width = min(width, 22)
    limbs = -(-64 // width)
    mask = np.uint64((1 << width) - 1)
    split = np.empty((limbs, kappa, m), dtype=np.float64)
    for i in range(limbs):
        split[i] = (weights >> np.uint64(i * width)) & mask
    partial = (split.reshape(limbs * kappa, m) @ matrix.T).reshape(limbs, kappa, -1)
    total = gl.from_signed(partial[0])
    for i in range(1, limbs):
        scale = np.uint64(pow(2, i * width, gl.P))
        total = gl.add(total, gl.mul(gl.from_signed(partial[i]), scale))
    return total


def contract(values: np.ndarray, weights: dict[int, np.ndarray], bound: int) -> np.ndarray:
    """Contract some axes of a float64 integer tensor with extension vectors.

    Args:
      values: any shape, integers with |v| <= bound.
      weights: axis -> (kappa, length of that axis), at least one.
    Returns:
      (kappa, *remaining axes in order).
    """
    first = max(weights, key=lambda a: values.shape[a])
    rest = [a for a in range(values.ndim) if a != first]
    matrix = np.moveaxis(values, first, -1)
    shape = matrix.shape[:-1]
    result = matvec(matrix.reshape(-1, matrix.shape[-1]), weights[first], bound)
    kappa = result.shape[0]
    result = result.reshape(kappa, *shape)
    for position in reversed(range(len(rest))):
        if rest[position] in weights:
            w = weights[rest[position]]
            expand = [1] * len(rest)
            expand[position] = w.shape[1]
            w = w.reshape(kappa, *expand[: result.ndim - 1])
            result = ext.sum_mod(ext.mul(result, w), axis=position + 1)
    return result


def kron(vectors: list[np.ndarray], kappa: int) -> np.ndarray:
    """The Kronecker product of extension vectors: (kappa, product of lengths)."""
    result = np.zeros((kappa, 1), dtype=np.uint64)
    result[0, 0] = 1
    for v in vectors:
        product = np.empty((kappa, result.shape[1], v.shape[1]), dtype=np.uint64)
        done = 0
        for rows in ext.outer(result, v):
            product[:, done : done + rows.shape[1]] = rows
            done += rows.shape[1]
        result = product.reshape(kappa, -1)
    return result


def pad_to(vector: np.ndarray, length: int) -> np.ndarray:
    """Zero-extend (kappa, n) to (kappa, length)."""
    if vector.shape[1] == length:
        return vector
    out = np.zeros((vector.shape[0], length), dtype=vector.dtype)
    out[:, : vector.shape[1]] = vector
    return out
