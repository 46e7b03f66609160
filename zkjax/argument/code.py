"""The Reed-Solomon codes of the commitment and their row layouts.

A row holds W = 2^log_row values as the low coefficients of P(X) = V(X) + X^W R(X), deg R <
blinding;
its codeword is P on the coset ``ntt.domain(log_length)``. Codes with ``interpolated`` rows hold the
values on H = <omega_W> instead, P = V + (X^W - 1) R, which makes products of rows meaningful.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zkjax.argument.kernels import Kernel, Use, on_device
from zkjax.field import goldilocks as gl
from zkjax.field import ntt


@dataclass(frozen=True, order=True)
class Code:
    """log_row: log2 W; blinding: random coefficients a row; log_length: log2 of the code length."""

    log_row: int
    blinding: int
    log_length: int

    @property
    def row(self) -> int:
        return 1 << self.log_row

    @property
    def dimension(self) -> int:
        return self.row + self.blinding

    @property
    def length(self) -> int:
        return 1 << self.log_length


CHUNK = 16  # rows that are encoded at a time
ROWS, COLUMNS = 32, 1 << 10  # rows and columns that are combined at a time


def _encode(coefficients, shifts, table):
    return ntt.ntt(gl.mul(coefficients, shifts[None]), table)


ENCODE = Kernel("encode", lambda: _encode)


def encode(coefficients: np.ndarray, log_length: int) -> np.ndarray:
    """Codewords (m, n) of coefficient rows (m, k <= n), on the device, CHUNK rows at a time."""
    m, k = coefficients.shape
    n = 1 << log_length
    shifts, table = (on_device(x) for x in (gl.powers(gl.GENERATOR, n), ntt.twiddles(log_length)))
    out = np.empty((m, n), dtype=np.uint64)
    for start in range(0, m, CHUNK):
        part = coefficients[start : start + CHUNK]
        room = np.zeros((CHUNK, n), dtype=np.uint64)
        room[: len(part), :k] = part
        out[start : start + CHUNK] = np.asarray(ENCODE(room, shifts, table))[: len(part)]
    return out


def encode_use(log_length: int) -> Use:
    n = 1 << log_length
    return Use(ENCODE, (((CHUNK, n), "uint64"), ((n,), "uint64"), ((n // 2,), "uint64")))


def _combine() -> Callable:
    import jax
    import jax.numpy as jnp

    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)

    def combine(weights, rows):
        def step(acc, pair):
            product = gl.mul(pair[0][:, None], pair[1][None, :])
            return (acc[0] + (product & mask), acc[1] + (product >> shift)), None

        zero = jnp.zeros((weights.shape[0], rows.shape[1]), dtype=np.uint64)
        return jax.lax.scan(step, (zero, zero), (weights.T, rows))[0]

    return combine


COMBINE = Kernel("combine rows", _combine)


def combine_rows(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """sum_i w[c, i] rows[i] for base-field weights (c, m) and rows (m, k): (c, k)."""
    c, m = weights.shape
    k = rows.shape[1]
    low, high = (np.zeros((c, k), dtype=np.uint64) for _ in range(2))
    for start in range(0, m, ROWS):
        w = np.zeros((c, ROWS), dtype=np.uint64)
        w[:, : min(ROWS, m - start)] = weights[:, start : start + ROWS]
        for left in range(0, k, COLUMNS):
            part = rows[start : start + ROWS, left : left + COLUMNS]
            room = np.zeros((ROWS, COLUMNS), dtype=np.uint64)
            room[: part.shape[0], : part.shape[1]] = part
            here = slice(left, left + part.shape[1])
            # Sums of 32-bit halves: there is room for 2^32 rows.
            for total, piece in zip((low, high), COMBINE(w, room), strict=True):
                total[:, here] += np.asarray(piece)[:, : part.shape[1]]
    return gl.add(low % np.uint64(gl.P), gl.mul(high % np.uint64(gl.P), np.uint64(1 << 32)))


def combine_use(count: int) -> Use:
    return Use(COMBINE, (((count, ROWS), "uint64"), ((ROWS, COLUMNS), "uint64")))
