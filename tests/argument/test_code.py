"""Encoding and row combinations against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
from reference import P, horner, ints, random_field, uints

from zkjax.argument.code import CHUNK, Code, combine_rows, encode
from zkjax.field import ntt


def test_code_sizes():
    code = Code(3, 5, 6)
    assert (code.row, code.dimension, code.length) == (8, 13, 64)
    assert code == Code(3, 5, 6) and code != Code(3, 6, 6) and hash(code) == hash(Code(3, 5, 6))


@pytest.mark.parametrize(
    ("m", "k"), [(1, 1), (1, 16), (2, 5), (CHUNK, 3), (CHUNK + 1, 7), (2 * CHUNK + 3, 16)]
)
def test_encode(m, k, rng):
    rows = random_field(rng, (m, k))
    points = ints(ntt.domain(4))
    got = encode(rows, 4)
    assert got.shape == (m, 16)
    for row, word in zip(rows, got, strict=True):
        assert ints(word) == [horner(ints(row), z) for z in points]


def test_encode_leaves_its_input_alone(rng):
    rows = random_field(rng, (CHUNK, 16))
    before = rows.copy()
    encode(rows, 4)
    assert np.array_equal(rows, before)


def naive_combination(weights, rows) -> list[list[int]]:
    return [
        [
            sum(w * v for w, v in zip(ints(ws), column, strict=True)) % P
            for column in zip(*rows.tolist(), strict=True)
        ]
        for ws in weights
    ]


@pytest.mark.parametrize("m", [1, 2, 31, 32, 33, 70])
def test_combine_rows(m, rng):
    weights, rows = random_field(rng, (4, m)), random_field(rng, (m, 6))
    assert combine_rows(weights, rows).tolist() == naive_combination(weights, rows)


def test_combine_rows_of_extremes():
    weights, rows = uints([[P - 1] * 64] * 4), uints([[P - 1, 1, 2**32, 2**63, 0, 7]] * 64)
    assert combine_rows(weights, rows).tolist() == naive_combination(weights, rows)


def test_encoding_commutes_with_combination(rng):
    weights, rows = random_field(rng, (4, 3)), random_field(rng, (3, 6))
    mixed = combine_rows(weights, encode(rows, 4))
    assert np.array_equal(encode(combine_rows(weights, rows), 4), mixed)
