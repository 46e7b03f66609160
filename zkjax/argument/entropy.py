"""Where pads, blinding and nonces come from.

``Entropy()`` reads the operating system. ``SeededEntropy`` exists for tests that compare runs; it
is not reachable from the command line or from the public functions' documented arguments.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np

from zkjax.field.goldilocks import P
from zkjax.field.scalar import Scalar


class Entropy:
    """Uniform bytes and field elements from the operating system."""

    def bytes(self, n: int) -> bytes:
        return os.urandom(n)

    def field(self, shape: tuple[int, ...]) -> np.ndarray:
        """Uniform canonical field elements, by rejection (probability 2^-32 each)."""
        count = int(np.prod(shape, dtype=np.int64))
        values = np.frombuffer(self.bytes(8 * count), dtype="<u8").astype(np.uint64)
        while (bad := np.flatnonzero(values >= np.uint64(P))).size:
            values[bad] = np.frombuffer(self.bytes(8 * bad.size), dtype="<u8")
        return values.reshape(shape)

    def scalars(self, n: int, kappa: int) -> list[Scalar]:
        return [Scalar(row) for row in self.field((n, kappa)).tolist()]


class SeededEntropy(Entropy):
    """Deterministic bytes from a seed. Proofs made with it are not zero-knowledge."""

    def __init__(self, seed: int):
        self._seed, self._counter = seed, 0

    def bytes(self, n: int) -> bytes:
        self._counter += 1
        state = hashlib.shake_256(f"zkjax seeded {self._seed} {self._counter}".encode())
        return state.digest(n)
