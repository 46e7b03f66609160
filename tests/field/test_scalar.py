"""Sequences of scalars as arrays; the arithmetic is tested beside the extension arrays."""

from __future__ import annotations

import numpy as np
import pytest
from reference import P, elements

from zkjax.field.scalar import Scalar, stack


@pytest.mark.parametrize("kappa", [2, 3])
def test_stack(kappa):
    values = [Scalar((i, P - 1 - i, 5)[:kappa]) for i in range(4)]
    stacked = stack(values)
    assert stacked.dtype == np.uint64 and stacked.shape == (kappa, 4)
    assert stacked.flags.c_contiguous
    assert elements(stacked) == [v.coefficients for v in values]


def test_coefficients_are_python_integers():
    value = Scalar.from_array(np.array([2**63, P - 1], dtype=np.uint64))
    assert all(type(c) is int for c in value.coefficients)
    assert value * value == Scalar((2**63, P - 1)) ** 2


def test_repr():
    assert repr(Scalar((1, 2))) == "Scalar([1, 2])"
