"""Merkle trees over hashed columns, with one batched authentication path for many leaves."""

from __future__ import annotations

import hashlib

import numpy as np

from zkjax.errors import VerificationError

NONCE = 32  # bytes
LEAF, NODE = b"zkj.leaf", b"zkj.node"


def leaf_digest(column: np.ndarray, nonce: bytes) -> bytes:
    """The leaf of one column (rows,) uint64 under its 32-byte nonce."""
    data = np.ascontiguousarray(column, dtype="<u8").tobytes()
    return hashlib.blake2s(data, key=nonce, person=LEAF).digest()


def node_digest(left: bytes, right: bytes) -> bytes:
    return hashlib.blake2s(left + right, person=NODE).digest()


def build(leaves: list[bytes]) -> list[list[bytes]]:
    """All levels from the leaves (a power of two of them) to the root."""
    levels = [leaves]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_digest(below[i], below[i + 1]) for i in range(0, len(below), 2)])
    return levels


def missing_siblings(indices: list[int], depth: int) -> list[tuple[int, int]]:
    """(level, position) of the nodes a verifier needs besides the opened leaves, in reading
    order.
    """
    needed = []
    known = sorted(set(indices))
    for level in range(depth):
        present = set(known)
        needed += [(level, i ^ 1) for i in known if i ^ 1 not in present]
        known = sorted({i >> 1 for i in known})
    return needed


def open_paths(levels: list[list[bytes]], indices: list[int]) -> bytes:
    """The batched path: the missing siblings, concatenated."""
    return b"".join(levels[k][i] for k, i in missing_siblings(indices, len(levels) - 1))


def check_paths(root: bytes, depth: int, leaves: dict[int, bytes], path: bytes) -> None:
    """Recompute the root from opened leaves {index: digest} and a batched path; raise on
    mismatch.
    """
    needed = missing_siblings(list(leaves), depth)
    siblings = {place: path[32 * i : 32 * i + 32] for i, place in enumerate(needed)}
    current = dict(leaves)
    for level in range(depth):
        above: dict[int, bytes] = {}
        for i in current:
            if i >> 1 in above:
                continue
            pair = [current[j] if j in current else siblings[(level, j)] for j in (i & ~1, i | 1)]
            above[i >> 1] = node_digest(*pair)
        current = above
    if current != {0: root}:
        raise VerificationError("merkle path", "an opened column is not under the commitment")
