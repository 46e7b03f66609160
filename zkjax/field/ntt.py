"""Number-theoretic transforms of rows over F, and the evaluation domains of the codes.

``ntt`` is the decimation-in-frequency transform without the final reordering: output position j
holds the value at omega^bitreverse(j). Codewords are only ever addressed through ``domain``,
which lists the evaluation points in that same order, so no reordering is needed anywhere.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from zkjax.field import goldilocks as gl
from zkjax.field.goldilocks import Array, array_namespace


@cache
def twiddles(log_n: int) -> np.ndarray:
    """(n/2,) uint64: omega_n^i for i < n/2; read-only."""
    table = gl.powers(gl.root_of_unity(log_n), max(1, (1 << log_n) // 2))
    table.setflags(write=False)
    return table


def ntt(x: Array, table: Array) -> Array:
    """Values of the polynomials with coefficient rows x (..., n) on <omega_n>, bit-reversed order.

    ``table`` is ``twiddles(log2 n)``; stage s uses every 2^s-th entry.
    """
    xp = array_namespace(x)
    shape, n = x.shape, x.shape[-1]
    half, stride = n // 2, 1
    while half:
        y = x.reshape(*shape[:-1], n // (2 * half), 2, half)
        a, b = y[..., 0, :], y[..., 1, :]
        x = xp.stack([gl.add(a, b), gl.mul(gl.sub(a, b), table[::stride])], axis=-2)
        half, stride = half // 2, stride * 2
    return x.reshape(shape)


@cache
def bit_reversal(log_n: int) -> np.ndarray:
    """(n,) int64: the permutation that reverses log_n bits."""
    order = np.zeros(1, dtype=np.int64)
    for _ in range(log_n):
        order = np.concatenate([2 * order, 2 * order + 1])
    return order


def inverse_ntt(x: np.ndarray) -> np.ndarray:
    """Coefficients (..., n) of the polynomials with values x on <omega_n> in natural order."""
    n = x.shape[-1]
    log_n = n.bit_length() - 1
    forward = ntt(x, twiddles(log_n))[..., bit_reversal(log_n)]
    flipped = np.concatenate([forward[..., :1], forward[..., :0:-1]], axis=-1)
    return gl.mul(flipped, np.uint64(pow(n, gl.P - 2, gl.P)))


@cache
def domain(log_n: int) -> np.ndarray:
    """(n,) uint64: the points 7 * omega^bitreverse(j) at which codewords of length n are
    evaluated.
    """
    points = gl.powers(gl.root_of_unity(log_n), 1 << log_n)[bit_reversal(log_n)]
    points = gl.mul(points, np.uint64(gl.GENERATOR))
    points.setflags(write=False)
    return points


def evaluate(coefficients: np.ndarray, points: np.ndarray) -> np.ndarray:
    """sum_i c_i z^i for extension coefficients (kappa, k) at base points (t,): (kappa, t).

    Baby-step giant-step: k field products a point, all vectorised.
    """
    kappa, k = coefficients.shape
    step = 1 << max(0, ((k - 1).bit_length() + 1) // 2)
    rows = -(-k // step)
    padded = np.zeros((kappa, rows * step), dtype=np.uint64)
    padded[:, :k] = coefficients
    baby = np.ones((len(points), step), dtype=np.uint64)
    for i in range(1, step):
        baby[:, i] = gl.mul(baby[:, i - 1], points)
    giant = gl.mul(baby[:, -1], points)
    blocks = padded.reshape(kappa, rows, 1, step)
    result = np.zeros((kappa, len(points)), dtype=np.uint64)
    for i in reversed(range(rows)):
        inner = gl.sum_mod(gl.mul(np.broadcast_to(blocks[:, i], (kappa, 1, step)), baby[None]))
        result = gl.add(gl.mul(result, giant[None]), inner)
    return result
