"""Committed tableaux: roots from hashlib and naive evaluation, blinding, opened columns."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from reference import P, horner, ints, random_field

from zkjax.argument import merkle
from zkjax.argument.code import Code
from zkjax.argument.entropy import Entropy, SeededEntropy
from zkjax.argument.tableau import Tableau, blind, blind_interpolated
from zkjax.field import ntt


def naive_root(rows, log_length: int, nonces) -> bytes:
    points = ints(ntt.domain(log_length))
    level = []
    for z, nonce in zip(points, nonces, strict=True):
        column = b"".join(horner(ints(row), z).to_bytes(8, "little") for row in rows)
        level.append(hashlib.blake2s(column, key=nonce.tobytes(), person=b"zkj.leaf").digest())
    while len(level) > 1:
        level = [
            hashlib.blake2s(level[i] + level[i + 1], person=b"zkj.node").digest()
            for i in range(0, len(level), 2)
        ]
    return level[0]


@pytest.mark.parametrize("m", [1, 3, 17])
def test_root(m, rng):
    rows = random_field(rng, (m, 6))
    nonces = rng.integers(0, 256, size=(16, 32), dtype=np.uint8)
    assert Tableau(rows, 4, nonces).root == naive_root(rows, 4, nonces)


def test_openings_pass_the_path_check(rng):
    rows = random_field(rng, (3, 6))
    tableau = Tableau.fresh(rows, 4, SeededEntropy(3))
    indices = np.array([0, 3, 9, 15])
    columns, points = tableau.columns(indices), ints(ntt.domain(4))
    for i, column in zip(indices, columns, strict=True):
        assert ints(column) == [horner(ints(row), points[i]) for row in rows]
    leaves = {
        int(i): merkle.leaf_digest(columns[j], tableau.nonces[i].tobytes())
        for j, i in enumerate(indices)
    }
    merkle.check_paths(tableau.root, 4, leaves, tableau.path(indices))


def test_nonces_hide_equal_rows(rng):
    rows = random_field(rng, (2, 6))
    roots = {Tableau.fresh(rows, 4, SeededEntropy(seed)).root for seed in range(4)}
    assert len(roots) == 4
    assert Tableau.fresh(rows, 4, SeededEntropy(0)).root in roots


def test_all_nonces_of_a_tree_differ(rng):
    """A nonce used twice would tell whether two columns are equal."""
    rows = random_field(rng, (2, 6))
    for entropy in (SeededEntropy(3), Entropy()):
        nonces = Tableau.fresh(rows, 9, entropy).nonces
        assert nonces.shape == (512, 32)
        assert len({n.tobytes() for n in nonces}) == 512
        assert len(np.unique(nonces)) == 256


def test_blind_keeps_the_values_and_adds_fresh_coefficients(rng):
    values, code = random_field(rng, (3, 4)), Code(2, 5, 5)
    rows = blind(values, code, SeededEntropy(1))
    assert rows.shape == (3, 9) and np.array_equal(rows[:, :4], values)
    assert len(set(ints(rows[:, 4:]))) == 15
    assert np.array_equal(blind(values, Code(2, 0, 5), SeededEntropy(1)), values)


@pytest.mark.parametrize("blinding", [1, 3, 4, 5, 9])
def test_blind_interpolated(blinding, rng):
    """The row takes its values on H, also when the blinding is longer than the row."""
    values, code = random_field(rng, (2, 4)), Code(2, blinding, 6)
    rows = blind_interpolated(values, code, SeededEntropy(1))
    assert rows.shape == (2, 4 + blinding)
    omega = pow(7, (P - 1) // 4, P)
    for row, expected in zip(rows, values, strict=True):
        assert [horner(ints(row), pow(omega, i, P)) for i in range(4)] == ints(expected)
    other = blind_interpolated(values, code, SeededEntropy(2))
    assert not np.array_equal(rows[:, 4:], other[:, 4:])
    assert len(set(ints(rows[:, 4:]))) == 2 * blinding
