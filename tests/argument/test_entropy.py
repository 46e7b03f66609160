"""Sources of randomness: canonical values, and a seeded source that repeats."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from reference import P, ints

from zkjax.argument.entropy import Entropy, SeededEntropy


@pytest.mark.parametrize("source", [Entropy(), SeededEntropy(1)])
def test_shapes_and_range(source):
    assert len(source.bytes(33)) == 33
    values = source.field((3, 5))
    assert values.shape == (3, 5) and values.dtype == np.uint64
    assert max(ints(values)) < P and len(set(ints(values))) == 15
    scalars = source.scalars(4, 3)
    assert len(scalars) == 4 and all(s.kappa == 3 for s in scalars)
    assert len({c for s in scalars for c in s.coefficients} - {0}) == 12
    assert source.scalars(0, 2) == [] and source.field((0, 4)).shape == (0, 4)


class Scripted(Entropy):
    """Bytes from a list of numbers."""

    def __init__(self, numbers):
        self.numbers = list(numbers)

    def bytes(self, n):
        taken, self.numbers = self.numbers[: n // 8], self.numbers[n // 8 :]
        return struct.pack(f"<{n // 8}Q", *taken)


def test_rejection_redraws_only_what_is_too_large():
    source = Scripted([1, P, P - 1, 2**64 - 1, P + 1, 7, 8])
    assert ints(source.field((4,))) == [1, 8, P - 1, 7]


def test_seeds():
    first, again, other = SeededEntropy(5), SeededEntropy(5), SeededEntropy(6)
    a, b = first.field((4,)), first.field((4,))
    assert ints(again.field((4,))) == ints(a) and ints(again.field((4,))) == ints(b)
    assert ints(a) != ints(b) and ints(other.field((4,))) != ints(a)
    assert Entropy().bytes(32) != Entropy().bytes(32)
