"""The hashing kernel against hashlib."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from reference import P, random_field

from zkjax._compat import x64
from zkjax.argument import blake2s

PERSON = b"zkj.leaf"


def expected(columns: np.ndarray, keys: np.ndarray, person: bytes) -> list[bytes]:
    return [
        hashlib.blake2s(
            b"".join(int(v).to_bytes(8, "little") for v in column),
            key=key.tobytes(),
            person=person,
        ).digest()
        for column, key in zip(columns.T, keys, strict=True)
    ]


def check(columns: np.ndarray, keys: np.ndarray, person: bytes = PERSON) -> None:
    with x64():
        got = blake2s.hash_columns(columns, keys, person)
    assert got.shape == keys.shape and got.dtype == np.uint8
    assert [d.tobytes() for d in got] == expected(columns, keys, person)


def random_keys(rng, lanes: int) -> np.ndarray:
    return rng.integers(0, 256, size=(lanes, 32), dtype=np.uint8)


def test_hashlib_gives_the_published_vectors():
    """RFC 7693, appendix B, and the first keyed vector of the reference implementation."""
    assert hashlib.blake2s(b"abc").hexdigest() == (
        "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"
    )
    assert hashlib.blake2s(b"", key=bytes(range(32))).hexdigest() == (
        "48a8997da407876b3d79c0d92325ad3b89cbb754d86ab71aee047ad345fd2c49"
    )


def test_constants_of_the_standard():
    """The initial value: 32 bits behind the point of the square roots of the first 8 primes."""
    primes = (2, 3, 5, 7, 11, 13, 17, 19)
    assert blake2s.IV.tolist() == [math.isqrt(q << 64) % 2**32 for q in primes]
    assert all(sorted(row) == list(range(16)) for row in blake2s.SIGMA.tolist())


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 16, 17, 100])
def test_row_counts(rows, rng):
    check(random_field(rng, (rows, 5)), random_keys(rng, 5))


@pytest.mark.parametrize("lanes", [1, 2, 64])
def test_lane_counts(lanes, rng):
    check(random_field(rng, (9, lanes)), random_keys(rng, lanes))


@pytest.mark.parametrize("lanes", [4, 8, 10])
def test_pieces(lanes, rng, monkeypatch):
    monkeypatch.setattr(blake2s, "PIECE", 4)
    check(random_field(rng, (9, lanes)), random_keys(rng, lanes))


def test_extreme_words():
    for value in (0, P - 1, 2**32 - 1, 2**64 - 1):
        for key in (0, 255):
            columns = np.full((8, 5), value, dtype=np.uint64)
            check(columns, np.full((5, 32), key, dtype=np.uint8))


def test_vector_with_the_standard_key_and_message():
    message = np.frombuffer(bytes(range(64)), dtype="<u8").astype(np.uint64)[:, None]
    key = np.arange(32, dtype=np.uint8)[None]
    check(np.repeat(message, 5, axis=1), np.repeat(key, 5, axis=0), bytes(8))


def test_person_and_trailing_zero_rows_matter(rng):
    columns, keys = random_field(rng, (7, 5)), random_keys(rng, 5)
    longer = np.concatenate([columns, np.zeros((1, 5), dtype=np.uint64)])
    with x64():
        digests = {
            blake2s.hash_columns(columns, keys, PERSON).tobytes(),
            blake2s.hash_columns(columns, keys, b"zkj.node").tobytes(),
            blake2s.hash_columns(longer, keys, PERSON).tobytes(),
        }
    assert len(digests) == 3
    check(columns, keys, b"zkj.node")


def test_views_of_larger_arrays(rng):
    big = random_field(rng, (20, 20))
    check(big[::2, 3:8][:9], random_keys(rng, 10)[::2])
