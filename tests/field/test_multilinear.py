"""Multilinear helpers against sums over the cube."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    array,
    cube,
    e_add,
    e_mul,
    e_sub,
    e_sum,
    element,
    elements,
    embed,
    eq_weight,
    extension_elements,
    ints,
    laws,
    multilinear,
    random_field,
)

from zkjax import work
from zkjax.errors import VerificationError
from zkjax.field import extension as ext
from zkjax.field import multilinear as ml

grid = pytest.mark.parametrize(("kappa", "n"), [(k, n) for k in (2, 3) for n in range(5)])


def weights(point, kappa: int):
    return [eq_weight(elements(point), x, kappa) for x in cube(point.shape[1])]


def test_log2_ceil():
    assert [ml.log2_ceil(n) for n in (1, 2, 3, 4, 5, 8, 9, 1024, 1025)] == [
        *(0, 1, 2, 2, 3, 3, 4, 10, 11)
    ]


@grid
def test_eq_vector(kappa, n, rng):
    point = random_field(rng, (kappa, n))
    expected = weights(point, kappa)
    assert elements(ml.eq_vector(point)) == expected
    for length in range(1, (1 << n) + 1):
        assert elements(ml.eq_vector(point, length)) == expected[:length]


@pytest.mark.parametrize("block", [1, 3, 8, 16])
def test_eq_vectors_are_doubled_in_blocks(block, rng, monkeypatch):
    monkeypatch.setattr(ext, "BLOCK", block)
    point = random_field(rng, (2, 4))
    for length in (1, 7, 11, 16):
        assert elements(ml.eq_vector(point, length)) == weights(point, 2)[:length]


@pytest.mark.parametrize("kappa", [2, 3])
def test_eq_vector_at_a_vertex_is_a_unit_vector(kappa):
    for index, vertex in enumerate(cube(3)):
        point = array([embed(b, kappa) for b in vertex], kappa)
        expected = [embed(int(i == index), kappa) for i in range(8)]
        assert elements(ml.eq_vector(point)) == expected


@grid
def test_evaluate(kappa, n, rng):
    point = random_field(rng, (kappa, n))
    for length in {1, (1 << n) // 2 + 1, 1 << n}:
        values = random_field(rng, length)
        lifted = [embed(v, kappa) for v in ints(values)]
        assert element(ml.evaluate(values, point)) == multilinear(lifted, elements(point), kappa)


@grid
def test_indicator_and_identity(kappa, n, rng):
    point = random_field(rng, (kappa, n))
    eq = weights(point, kappa)
    for length in range((1 << n) + 2):
        assert element(ml.indicator_at(point, length)) == e_sum(eq[:length], kappa)
    numbers = (e_mul(embed(i, kappa), w) for i, w in enumerate(eq))
    assert element(ml.identity_at(point)) == e_sum(numbers, kappa)


@pytest.mark.parametrize("kappa", [2, 3])
def test_fold(kappa, rng):
    table, r = random_field(rng, (kappa, 8)), random_field(rng, kappa)
    low, high = elements(table)[:4], elements(table)[4:]
    weight = e_sub(embed(1, kappa), element(r))
    expected = [
        e_add(e_mul(weight, a), e_mul(element(r), b)) for a, b in zip(low, high, strict=True)
    ]
    assert elements(ml.fold(table, r)) == expected


@pytest.mark.parametrize("kappa", [2, 3])
def test_folding_every_coordinate_evaluates(kappa, rng):
    values, point = random_field(rng, 16), random_field(rng, (kappa, 4))
    table = np.zeros((kappa, 16), dtype=np.uint64)
    table[0] = values
    for b in range(4):
        table = ml.fold(table, point[:, b])
    assert element(table[:, 0]) == element(ml.evaluate(values, point))


@laws(25)
@given(st.data(), st.sampled_from([2, 3]), st.integers(0, 5))
def test_eq_vector_sums_to_one(data, kappa, n):
    coordinates = data.draw(st.lists(extension_elements(kappa), min_size=n, max_size=n))
    table = ml.eq_vector(array(coordinates, kappa).reshape(kappa, n))
    assert e_sum(elements(table), kappa) == embed(1, kappa)


def test_vectors_of_a_point_are_counted_once(rng):
    """Each costs its length, before it is computed; from then on it is known, to suffixes too."""
    point = ml.Point(random_field(rng, (2, 5)))
    with work.bounded(12):
        first = point.eq(2, 3, 7)
        assert point.eq(2, 3, 7) is first and point.last(3).eq(0, 3, 7) is first
        with pytest.raises(VerificationError, match="work"):
            point.eq(0, 5, 6)
