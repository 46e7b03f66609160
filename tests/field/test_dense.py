"""Exact float products against Python integers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from reference import P, e_mul, e_sum, elements, embed, random_field

from zkjax.field import dense

BOUNDS = [0, 1, 2**8, 2**15, 2**24 - 1, 2**24, 2**31, 2**40, 2**50]


def signed(rng, shape, bound: int) -> np.ndarray:
    """Random integers in [-bound, bound] as float64, the ends among them."""
    values = rng.integers(-bound, bound + 1, size=shape)
    ends = np.where(rng.random(shape) < 0.5, bound, -bound)
    return np.where(rng.random(shape) < 0.3, ends, values).astype(np.float64)


def naive_matvec(matrix, weights, kappa: int):
    w = elements(weights)
    return [
        e_sum((e_mul(embed(int(v), kappa), x) for v, x in zip(row, w, strict=True)), kappa)
        for row in matrix
    ]


@pytest.mark.parametrize("kappa", [2, 3])
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (1, 500)])
def test_matvec(kappa, bound, shape, rng):
    matrix, weights = signed(rng, shape, bound), random_field(rng, (kappa, shape[1]))
    assert elements(dense.matvec(matrix, weights, bound)) == naive_matvec(matrix, weights, kappa)


@pytest.mark.parametrize("bound", [2**15 - 1, 2**40 - 1, 2**50 - 1])
def test_matvec_of_extremes(bound, rng):
    """All entries at the bound, so that nothing cancels in the partial sums."""
    for sign in (1, -1):
        matrix = np.full((1, 500), sign * float(bound))
        for weights in (
            np.full((2, 500), 2**64 - 2**32, dtype=np.uint64),
            random_field(rng, (2, 500)),
        ):
            expected = naive_matvec(matrix, weights, 2)
            assert elements(dense.matvec(matrix, weights, bound)) == expected


def test_matvec_of_a_transposed_view(rng):
    matrix, weights = signed(rng, (5, 3), 1000), random_field(rng, (2, 5))
    assert elements(dense.matvec(matrix.T, weights, 1000)) == naive_matvec(matrix.T, weights, 2)


def naive_contract(values, weights, kappa: int):
    kept = [range(n) if a not in weights else (None,) for a, n in enumerate(values.shape)]
    vectors = {a: elements(w) for a, w in weights.items()}
    out = []
    for place in product(*kept):
        ranges = [range(n) if i is None else (i,) for i, n in zip(place, values.shape, strict=True)]
        terms = (
            e_mul(embed(int(values[i]), kappa), *(vectors[a][i[a]] for a in weights))
            for i in product(*ranges)
        )
        out.append(e_sum(terms, kappa))
    return out


@pytest.mark.parametrize("kappa", [2, 3])
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2), (2, 0)])
@pytest.mark.parametrize("bound", [1000, 2**50])
def test_contract(kappa, axes, bound, rng):
    values = signed(rng, (2, 4, 3), bound)
    weights = {a: random_field(rng, (kappa, values.shape[a])) for a in axes}
    got = dense.contract(values, weights, bound)
    assert got.shape == (kappa, *(n for a, n in enumerate(values.shape) if a not in axes))
    assert elements(got.reshape(kappa, -1)) == naive_contract(values, weights, kappa)


@pytest.mark.parametrize("kappa", [2, 3])
def test_kron(kappa, rng):
    vectors = [random_field(rng, (kappa, n)) for n in (2, 1, 3)]
    expected = [e_mul(*factors) for factors in product(*(elements(v) for v in vectors))]
    assert elements(dense.kron(vectors, kappa)) == expected
    assert elements(dense.kron([], kappa)) == [embed(1, kappa)]


def test_pad_to(rng):
    vector = random_field(rng, (2, 3))
    assert elements(dense.pad_to(vector, 5)) == elements(vector) + [(0, 0)] * 2
    assert elements(dense.pad_to(vector, 3)) == elements(vector)


def test_many_columns_of_wide_values():
    """More columns than are summed at once, with values that leave few bits for limbs."""
    columns = (1 << 18) + 3
    total = dense.matvec(np.full((1, columns), 2.0**24), np.ones((2, columns), np.uint64), 1 << 24)
    assert total.tolist() == [[columns << 24]] * 2


@pytest.mark.parametrize(
    ("value", "columns"),
    [(2**31 - 1, 511), (((2**14 - 3) << 24) + 2**24 - 1, 2**18 - 1)],
    ids=["whole", "split"],
)
def test_sums_that_fill_what_float64_holds(value, columns):
    """One bit more in a limb, and a partial sum would be rounded: all parts of what is multiplied
    are as large as their bounds allow.
    """
    weight = 2**63 - 1
    for sign in (1, -1):
        matrix = np.full((1, columns), sign * float(value))
        got = dense.matvec(matrix, np.full((2, columns), weight, dtype=np.uint64), value)
        assert elements(got) == [(sign * value * columns * weight % P,) * 2]
