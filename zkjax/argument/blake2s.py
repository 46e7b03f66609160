"""BLAKE2s-256 of many equally long messages at once, as a JAX kernel.

Keyed with a 32-byte key per message (the nonce of a Merkle leaf), personalised; equal to
``hashlib.blake2s(message, key=nonce, person=person)`` (RFC 7693), tested against it. The state
is held as four rows (4, lanes) so that one G step serves a whole column or diagonal round; the
rounds are a loop, because unrolled hash rounds take minutes to compile.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from zkjax.argument.kernels import Kernel, Use

IV = np.array(
    [
        0x6A09E667,
        0xBB67AE85,
        0x3C6EF372,
        0xA54FF53A,
        0x510E527F,
        0x9B05688C,
        0x1F83D9AB,
        0x5BE0CD19,
    ],
    dtype=np.uint32,
)
SIGMA = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ],
    dtype=np.int32,
)
# Per round: the x and y message words of the column step, then of the diagonal step.
SCHEDULE = np.stack([SIGMA[:, 0:8:2], SIGMA[:, 1:8:2], SIGMA[:, 8::2], SIGMA[:, 9::2]], axis=1)

PIECE = 1 << 13  # lanes
BLOCKS = 8  # blocks of 8 rows that one call hashes


def _rotate(x, bits: int):
    return (x >> np.uint32(bits)) | (x << np.uint32(32 - bits))


def _g(a, b, c, d, x, y):
    a = a + b + x
    d = _rotate(d ^ a, 16)
    c = c + d
    b = _rotate(b ^ c, 12)
    a = a + b + y
    d = _rotate(d ^ a, 8)
    c = c + d
    b = _rotate(b ^ c, 7)
    return lax.optimization_barrier((a, b, c, d))


def _compress(h, words, counter, last):
    """One compression: h (8, lanes), words (16, lanes) uint32, byte counter and final flag
    scalars.
    """
    lanes = h.shape[1]
    iv = jnp.broadcast_to(jnp.asarray(IV)[:, None], (8, lanes))
    tweak = jnp.stack([counter, np.uint32(0) * counter, last, np.uint32(0) * last])
    state = (h[:4], h[4:], iv[:4], iv[4:] ^ tweak[:, None])
    schedule = jnp.asarray(SCHEDULE)

    def one_round(r, state):
        m = words[schedule[r]]
        a, b, c, d = _g(*state, m[0], m[1])  # type: ignore[call-arg]
        b, c, d = jnp.roll(b, -1, 0), jnp.roll(c, -2, 0), jnp.roll(d, -3, 0)
        a, b, c, d = _g(a, b, c, d, m[2], m[3])
        return a, jnp.roll(b, 1, 0), jnp.roll(c, 2, 0), jnp.roll(d, 3, 0)

    a, b, c, d = lax.fori_loop(0, 10, one_round, state)
    return h ^ jnp.concatenate([a, b]) ^ jnp.concatenate([c, d])


def _hash_blocks(h, words, keys, first, rows, *, person: bytes):
    """The state after the next BLOCKS blocks, or what is left, of messages of 8 ``rows`` bytes.

    h (8, lanes) after block ``first - 1`` (anything for 0); words (BLOCKS, 16, lanes) uint32.
    """
    blocks = (rows + 7) // 8

    def start(h):
        """The block of the key comes before the message."""
        parameter = np.zeros(8, dtype=np.uint32)
        parameter[0] = 32 | (32 << 8) | (1 << 16) | (1 << 24)
        parameter[6:8] = np.frombuffer(person, dtype=np.uint32)
        h = jnp.broadcast_to(jnp.asarray(IV ^ parameter)[:, None], h.shape)
        key_block = jnp.concatenate([keys, jnp.zeros_like(keys)])
        return _compress(h, key_block, jnp.uint32(64), jnp.uint32(0))

    def step(index, h):
        is_last = index == blocks - 1
        counter = jnp.where(is_last, 64 + 8 * rows, 64 * (index + 2)).astype(jnp.uint32)
        flag = jnp.where(is_last, np.uint32(0xFFFFFFFF), np.uint32(0))
        return _compress(h, words[index - first], counter, flag)

    h = lax.cond(first == 0, start, lambda h: h, h)
    return lax.fori_loop(first, jnp.minimum(first + BLOCKS, blocks), step, h)


HASH = Kernel("hash columns", lambda: _hash_blocks, static=("person",))


def hash_columns(columns: np.ndarray, keys: np.ndarray, person: bytes) -> np.ndarray:
    """Hash each column of field elements, little-endian, under its own key.

    Lanes are processed in pieces that stay in cache, and rows in runs of BLOCKS blocks, so that one
    kernel serves any number of rows.

    Args:
      columns: (rows, lanes) uint64, rows >= 1.
      keys: (lanes, 32) uint8.
      person: 8 bytes.
    Returns:
      (lanes, 32) uint8 digests.
    """
    rows, lanes = columns.shape
    piece = min(lanes, PIECE)
    key_words = np.ascontiguousarray(keys).view("<u4").T
    out = np.empty((lanes, 8), dtype="<u4")
    for start in range(0, lanes, piece):
        part = columns[:, start : start + piece]
        key_part = np.zeros((8, piece), dtype=np.uint32)
        key_part[:, : part.shape[1]] = key_words[:, start : start + piece]
        h: Any = np.zeros((8, piece), dtype=np.uint32)
        for first in range(0, -(-rows // 8), BLOCKS):
            run = part[8 * first : 8 * (first + BLOCKS)]
            words = np.zeros((8 * BLOCKS, 2, piece), dtype=np.uint32)
            words[: len(run), 0, : run.shape[1]] = run & np.uint64(0xFFFFFFFF)
            words[: len(run), 1, : run.shape[1]] = run >> np.uint64(32)
            words = words.reshape(BLOCKS, 16, piece)
            h = HASH(h, words, key_part, np.int32(first), np.int32(rows), person=person)
        out[start : start + piece] = np.asarray(h).T[: part.shape[1]]
    return out.view(np.uint8)


def hash_use(lanes: int, person: bytes) -> Use:
    piece = min(lanes, PIECE)
    state, words = ((8, piece), "uint32"), ((BLOCKS, 16, piece), "uint32")
    number = ((), "int32")
    return Use(HASH, (state, words, state, number, number), (("person", person),))
