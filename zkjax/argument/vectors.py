"""Vectors of extension elements by value: equal ones are one, however often they were computed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


class Vectors:
    """Names of (kappa, n) uint64 arrays; an array is hashed once.

    Functionals are compared by these names. Two that are equal merge, so the cost of following
    claims does not depend on how many paths lead to a variable.
    """

    def __init__(self):
        self._names: dict[int, tuple[np.ndarray, bytes]] = {}

    def name(self, vector: np.ndarray) -> bytes:
        known = self._names.get(id(vector))
        if known is None:
            data = np.ascontiguousarray(vector)
            shape = repr(data.shape).encode()
            # The array is kept, so its id is not given to another.
            known = vector, hashlib.blake2s(data.tobytes(), key=shape[:32]).digest()
            self._names[id(vector)] = known
        return known[1]

    def names(self, vectors: Sequence[np.ndarray]) -> tuple[bytes, ...]:
        return tuple(map(self.name, vectors))
