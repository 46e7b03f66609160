"""Committed tableaux, the prover's half: coefficient rows, codewords, salted Merkle tree."""

from __future__ import annotations

import numpy as np

from zkjax.argument import merkle
from zkjax.argument.code import Code, encode
from zkjax.argument.entropy import Entropy
from zkjax.field import goldilocks as gl
from zkjax.field import ntt


class Tableau:
    """Rows of one code under one Merkle root.

    Args:
      rows: (m, k) uint64 coefficients.
      log_length: log2 of the code length.
      nonces: (n, 32) uint8, one secret nonce a column.
    """

    def __init__(self, rows: np.ndarray, log_length: int, nonces: np.ndarray):
        from zkjax.argument.blake2s import hash_columns

        self.rows, self.nonces = rows, nonces
        self.codewords = encode(rows, log_length)
        digests = hash_columns(self.codewords, nonces, merkle.LEAF)
        self.levels = merkle.build([d.tobytes() for d in digests])

    @property
    def root(self) -> bytes:
        return self.levels[-1][0]

    @classmethod
    def fresh(cls, rows: np.ndarray, log_length: int, entropy: Entropy) -> Tableau:
        """Commit rows that already carry their blinding, with new nonces."""
        nonces = np.frombuffer(entropy.bytes(merkle.NONCE << log_length), dtype=np.uint8)
        return cls(rows, log_length, nonces.reshape(-1, merkle.NONCE))

    def columns(self, indices: np.ndarray) -> np.ndarray:
        """(t, m): the opened columns."""
        return np.ascontiguousarray(self.codewords[:, indices].T)

    def path(self, indices: np.ndarray) -> bytes:
        return merkle.open_paths(self.levels, [int(i) for i in indices])


def blind(values: np.ndarray, code: Code, entropy: Entropy) -> np.ndarray:
    """(m, W) field values -> (m, k) coefficient rows V + X^W R with fresh R."""
    if not code.blinding:
        return values
    noise = entropy.field((values.shape[0], code.blinding))
    return np.concatenate([values, noise], axis=1)


def blind_interpolated(values: np.ndarray, code: Code, entropy: Entropy) -> np.ndarray:
    """(m, W) values on H -> (m, k) coefficients of the interpolant plus (X^W - 1) R."""
    inner = ntt.inverse_ntt(values)
    noise = entropy.field((values.shape[0], code.blinding))
    rows = np.zeros((values.shape[0], code.dimension), dtype=np.uint64)
    rows[:, : code.row] = inner
    rows[:, code.row :] = noise
    rows[:, : code.blinding] = gl.sub(rows[:, : code.blinding], noise)
    return rows
