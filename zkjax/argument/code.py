"""The Reed-Solomon codes of the commitment and their row layouts.

A row holds W = 2^log_row values as the low coefficients of P(X) = V(X) + X^W R(X), deg R <
blinding;
its codeword is P on the coset ``ntt.domain(log_length)``. Codes with ``interpolated`` rows hold the
values on H = <omega_W> instead, P = V + (X^W - 1) R, which makes products of rows meaningful.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from zkjax.argument.kernels import used
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


CHUNK = 16


@cache
def _encode_kernel():
    import jax

    return jax.jit(
        lambda c, shifts, table: ntt.ntt(gl.mul(c, shifts[None]), table), donate_argnums=0
    )


def encode(coefficients: np.ndarray, log_length: int) -> np.ndarray:
    """Codewords (m, n) of coefficient rows (m, k <= n), on the device, CHUNK rows at a time."""
    from zkjax._compat import x64

    m, k = coefficients.shape
    n = 1 << log_length
    shifts, table = gl.powers(gl.GENERATOR, n), ntt.twiddles(log_length)
    out = np.empty((m, n), dtype=np.uint64)
    used("encode", n)
    with x64():
        import jax.numpy as jnp

        shifts, table = jnp.asarray(shifts), jnp.asarray(table)
        for start in range(0, m, CHUNK):
            part = coefficients[start : start + CHUNK]
            room = np.zeros((CHUNK, n), dtype=np.uint64)
            room[: len(part), :k] = part
            out[start : start + CHUNK] = np.asarray(
                _encode_kernel()(jnp.asarray(room), shifts, table)
            )[: len(part)]
    return out


@cache
def _combine_kernel():
    import jax
    import jax.numpy as jnp

    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)

    def combine(weights, rows):
        def step(acc, pair):
            product = gl.mul(pair[0][:, None], pair[1][None, :])
            return (acc[0] + (product & mask), acc[1] + (product >> shift)), None

        zero = jnp.zeros((weights.shape[0], rows.shape[1]), dtype=np.uint64)
        return jax.lax.scan(step, (zero, zero), (weights.T, rows))[0]

    return jax.jit(combine)


def combine_rows(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """sum_i w[c, i] rows[i] for base-field weights (c, m) and rows (m, k): (c, k)."""
    from zkjax._compat import x64

    c, m = weights.shape
    total = np.zeros((c, rows.shape[1]), dtype=np.uint64)
    used("combine rows", c, rows.shape[1])
    with x64():
        for start in range(0, m, 2 * CHUNK):
            part = rows[start : start + 2 * CHUNK]
            w = np.zeros((c, 2 * CHUNK), dtype=np.uint64)
            w[:, : len(part)] = weights[:, start : start + len(part)]
            if len(part) < 2 * CHUNK:
                part = np.concatenate(
                    [part, np.zeros((2 * CHUNK - len(part), rows.shape[1]), dtype=np.uint64)]
                )
            low, high = (np.asarray(x) for x in _combine_kernel()(w, part))
            piece = gl.add(
                low % np.uint64(gl.P), gl.mul(high % np.uint64(gl.P), np.uint64(1 << 32))
            )
            total = gl.add(total, piece)
    return total
