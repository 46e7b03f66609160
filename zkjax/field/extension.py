"""The extensions E = F[x] / (x^kappa - w) for kappa = 2 and 3, coefficients on the leading axis.

An array of extension elements has shape ``(kappa, ...)``: a structure of arrays, so that every
operation is a few vectorised base-field operations. kappa is read off the shape; nothing here
or elsewhere assumes kappa = 2. w = 7 is a non-square and w = 2 a non-cube in F, so both
polynomials are irreducible (tested).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zkjax.field import goldilocks as gl
from zkjax.field.goldilocks import Array, array_namespace

NON_RESIDUE = {2: 7, 3: 2}
BLOCK = (
    1 << 16
)  # elements of a long vector that are worked on at once: products take 8 times theirs


def add(a: Array, b: Array) -> Array:
    """a + b, both (kappa, ...)."""
    return gl.add(a, b)


def sub(a: Array, b: Array) -> Array:
    """a - b, both (kappa, ...)."""
    return gl.sub(a, b)


def neg(a: Array) -> Array:
    """-a."""
    return gl.neg(a)


def mul(a: Array, b: Array) -> Array:
    """a * b for (kappa, ...) arrays that broadcast behind the leading axis (Karatsuba)."""
    xp = array_namespace(a)
    w = NON_RESIDUE[a.shape[0]]
    if a.ndim == b.ndim == 1:  # keep NumPy from warning about scalar overflow
        return mul(a[:, None], b[:, None])[:, 0]
    if a.shape[0] == 2:
        v0, v1 = gl.mul(a[0], b[0]), gl.mul(a[1], b[1])
        cross = gl.mul(gl.add(a[0], a[1]), gl.add(b[0], b[1]))
        return xp.stack([gl.add(v0, gl.mul_small(v1, w)), gl.sub(gl.sub(cross, v0), v1)])
    v0, v1, v2 = (gl.mul(a[i], b[i]) for i in range(3))

    def cross_term(i: int, j: int, vi: Array, vj: Array) -> Array:
        both = gl.mul(gl.add(a[i], a[j]), gl.add(b[i], b[j]))
        return gl.sub(gl.sub(both, vi), vj)

    c0 = gl.add(v0, gl.mul_small(cross_term(1, 2, v1, v2), w))
    c1 = gl.add(cross_term(0, 1, v0, v1), gl.mul_small(v2, w))
    c2 = gl.add(cross_term(0, 2, v0, v2), v1)
    return xp.stack([c0, c1, c2])


def scale(a: Array, s: Array) -> Array:
    """a * s for a of shape (kappa, ...) and base-field s that broadcasts to a[0]."""
    return gl.mul(a, s[None])


def lift(s: Array, kappa: int) -> Array:
    """Embed base-field elements: (...) -> (kappa, ...)."""
    xp = array_namespace(s)
    zero = xp.zeros_like(s)
    return xp.stack([s] + [zero] * (kappa - 1))


def sum_mod(a: Array, axis: int = -1) -> Array:
    """Sum along one non-leading axis."""
    if axis == 0:
        raise ValueError("axis 0 holds the extension coefficients")
    return gl.sum_mod(a, axis=axis)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """sum_i a_i b_i for (kappa, n) arrays: (kappa,), block by block."""
    blocks = [slice(i, i + BLOCK) for i in range(0, max(a.shape[1], 1), BLOCK)]
    return sum_mod(np.stack([sum_mod(mul(a[:, i], b[:, i])) for i in blocks], axis=-1))


def outer(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """a_i b_j for (kappa, m) and (kappa, n) arrays: (kappa, some i, n), block by block."""
    rows = max(1, BLOCK // max(b.shape[1], 1))
    for start in range(0, a.shape[1], rows):
        yield mul(a[:, start : start + rows, None], b[:, None, :])
