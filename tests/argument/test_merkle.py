"""Batched Merkle paths: complete, minimal, and rejected after any change."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import laws

from zkjax.argument import merkle
from zkjax.errors import VerificationError


def leaves_of(depth: int) -> list[bytes]:
    return [hashlib.sha256(b"leaf %d" % i).digest() for i in range(1 << depth)]


def root_of(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    half = len(leaves) // 2
    both = root_of(leaves[:half]) + root_of(leaves[half:])
    return hashlib.blake2s(both, person=b"zkj.node").digest()


def needed(depth: int, indices) -> list[tuple[int, int]]:
    """Nodes outside every path to an opened leaf, whose parent is on such a path."""
    out = []
    for level in range(depth):
        known = {i >> level for i in indices}
        out += [
            (level, n) for n in range(1 << (depth - level)) if n not in known and n ^ 1 in known
        ]
    return out


def accepted(root, depth, leaves, path) -> bool:
    try:
        merkle.check_paths(root, depth, leaves, path)
    except VerificationError as error:
        assert error.check == "merkle path"
        return False
    return True


@pytest.mark.parametrize("depth", range(6))
def test_build(depth):
    leaves = leaves_of(depth)
    levels = merkle.build(leaves)
    assert [len(level) for level in levels] == [1 << (depth - k) for k in range(depth + 1)]
    assert levels[0] == leaves and levels[-1] == [root_of(leaves)]


def test_leaf_digest():
    column, nonce = np.array([1, 2**64 - 2**32], dtype=np.uint64), bytes(range(32))
    data = (1).to_bytes(8, "little") + (2**64 - 2**32).to_bytes(8, "little")
    expected = hashlib.blake2s(data, key=nonce, person=b"zkj.leaf").digest()
    assert merkle.leaf_digest(column, nonce) == expected
    assert merkle.leaf_digest(np.repeat(column, 2)[::2], nonce) == expected
    assert merkle.leaf_digest(column, bytes(32)) != expected
    assert merkle.leaf_digest(column[::-1], nonce) != expected


def test_leaves_and_nodes_are_separate_domains():
    pair = [hashlib.sha256(bytes([i])).digest() for i in range(2)]
    plain = hashlib.blake2s(b"".join(pair)).digest()
    leaf = hashlib.blake2s(b"".join(pair), person=merkle.LEAF).digest()
    assert len({plain, leaf, merkle.node_digest(*pair)}) == 3
    assert merkle.node_digest(*pair) != merkle.node_digest(*pair[::-1])


subsets = st.integers(0, 5).flatmap(
    lambda depth: st.tuples(
        st.just(depth), st.sets(st.integers(0, (1 << depth) - 1), min_size=1, max_size=12)
    )
)


@laws(60)
@given(subsets)
def test_paths_are_complete_and_minimal(case):
    depth, indices = case[0], sorted(case[1])
    leaves = leaves_of(depth)
    levels = merkle.build(leaves)
    path = merkle.open_paths(levels, indices)
    places = needed(depth, indices)
    assert sorted(merkle.missing_siblings(indices, depth)) == sorted(places)
    assert len(path) == 32 * len(places)
    assert accepted(levels[-1][0], depth, {i: leaves[i] for i in indices}, path)


def opening(depth: int, indices: list[int]):
    leaves = leaves_of(depth)
    levels = merkle.build(leaves)
    opened = {i: leaves[i] for i in indices}
    return levels[-1][0], opened, merkle.open_paths(levels, indices)


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


@pytest.mark.parametrize("indices", [[3], [0, 1], [2, 5, 7], list(range(8))])
def test_any_flipped_bit_is_rejected(indices):
    root, opened, path = opening(3, indices)
    assert accepted(root, 3, opened, path)
    for bit in range(0, 8 * len(path)):
        assert not accepted(root, 3, opened, flip(path, bit))
    for bit in range(256):
        assert not accepted(flip(root, bit), 3, opened, path)
        for i in indices:
            assert not accepted(root, 3, opened | {i: flip(opened[i], bit)}, path)


def test_moved_leaves_and_short_paths_are_rejected():
    root, opened, path = opening(3, [2, 5])
    assert not accepted(root, 3, {2: opened[5], 5: opened[2]}, path)
    assert not accepted(root, 3, {3: opened[2], 5: opened[5]}, path)
    assert not accepted(root, 3, opened, path[:-1])
    assert not accepted(root, 3, opened, path[32:])
    assert not accepted(root, 3, opened, b"")
    assert not accepted(root, 3, {2: opened[2]}, path)
    assert not accepted(root, 4, opened, path)


def test_equal_leaves_at_different_places():
    """Two columns with the same content are two leaves, and each needs its own path."""
    leaves = leaves_of(3)
    leaves[6] = leaves[1]
    levels = merkle.build(leaves)
    root = levels[-1][0]
    for indices in ([1], [6], [1, 6]):
        path = merkle.open_paths(levels, indices)
        assert accepted(root, 3, dict.fromkeys(indices, leaves[1]), path)
    assert not accepted(root, 3, {6: leaves[1]}, merkle.open_paths(levels, [1]))


def test_an_index_listed_twice_is_opened_once():
    levels = merkle.build(leaves_of(3))
    assert merkle.open_paths(levels, [4, 4, 1]) == merkle.open_paths(levels, [1, 4])
