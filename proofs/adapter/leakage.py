"""How much of an adapter its users could have learned from the answers.

Every answered activation x reveals something of A and B. In one answer a column of x A is one
number of 16 bits, so m answers tell at most 16 m bits of a column of A. What a column holds is its
size times the entropy H of its entries; the owner refuses queries once 16 m / H exceeds a share of
that size. Counting only the directions in which x lies would not do: multiples and sums of known
activations are new questions, because x A is rounded and A holds small integers.

The rank of all activations is counted too, for information: in so many directions A B is known by
linear algebra alone. Both counts only grow, over all sessions, users and restarts; those in the
file count, so that a second counter of the same file starts where the first is.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np

from zkjax import state
from zkjax.errors import OptionError, SealError, SessionError
from zkjax.proofs.adapter.manifest import Manifest

# Of a residual, relative to the activation's norm. A component this small moves x A by less than
# its rounding, so the answers do not show it; float64 leaves about 1e-15 of noise.
TOLERANCE = 1e-12
DEFAULT_FRACTION = 0.5
ANSWER_BITS = 16  # of one column of x A, rounded
BLOCK = 64  # activations that are compared at a time


def answer_cost(a: np.ndarray) -> float:
    """How many entries of a column of A, (inputs, r) integers, one answer may tell: 16 bits over
    the entropy of an entry, estimated from their frequencies (never too high for few entries), but
    no more than there are.
    """
    _, counts = np.unique(a, return_counts=True)
    share = counts / counts.sum()
    entropy = float(-np.sum(share * np.log2(share)))
    return ANSWER_BITS / max(entropy, ANSWER_BITS / len(a))


class Leakage:
    """Counts answers and queried dimensions; refuses queries beyond ``max_fraction``."""

    def __init__(
        self,
        manifest: Manifest,
        max_fraction: float = DEFAULT_FRACTION,
        path: Path | None = None,
        memory_bytes: int = 256 << 20,
    ):
        if not 0 < max_fraction <= 1:
            raise OptionError("max_fraction must be above 0 and at most 1")
        self.max_fraction, self.path = max_fraction, path
        self._manifest = manifest.digest.hex()
        self._size = {g: manifest.inputs(g) for g in manifest.groups()}
        keys = [(layer, g) for layer in manifest.layers for g in self._size]
        self._tokens = dict.fromkeys(keys, 0)
        self._told = dict.fromkeys(keys, 0.0)  # entries of a column of A
        self._earlier = dict.fromkeys(keys, 0)
        self._basis = {key: np.zeros((0, self._size[key[1]])) for key in keys}
        self._room = memory_bytes
        self._uncounted = dict.fromkeys(keys, 0)
        self._lock = threading.Lock()
        if path is not None:
            self._resume(state.read(path))

    def _resume(self, saved: bytes | None) -> None:
        """Take over the counts of the file; SealError if it does not tell them."""
        if saved is None:
            return
        try:
            counts = json.loads(saved)
            if counts["manifest"] != self._manifest:
                raise SealError(f"{self.path} is about another adapter")
            for key in self._tokens:
                entry = counts["{}/{}".format(*key)]
                told = float(entry["told"])
                tokens, dimension = int(entry["tokens"]), int(entry["dimension"])
                if not (told >= 0 and min(tokens, dimension) >= 0):
                    raise ValueError("a count is negative or no number")
                self._told[key] = max(self._told[key], told)
                self._tokens[key] = max(self._tokens[key], tokens)
                here = len(self._basis[key]) + self._uncounted[key]
                self._earlier[key] = max(self._earlier[key], dimension - here)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SealError(
                f"{self.path} is damaged: what the adapter has revealed is not known ({error!r})"
            ) from error

    def dimension(self, layer: int, group: str) -> int:
        """The rank of the activations answered at a site; more once memory is used up."""
        key = layer, group
        known = self._earlier[key] + len(self._basis[key]) + self._uncounted[key]
        return min(known, self._size[group])

    def admit(self, layer: int, group: str, x: np.ndarray, cost: float = 1.0) -> None:
        """Count the activations (tokens, inputs) of one query; SessionError("leakage") beyond the
        limit, and then nothing is counted and nothing may be answered.

        Args:
          cost: entries of a column of A that one answer may tell, see ``answer_cost``.
        """
        key = layer, group

        def counted(saved: bytes | None) -> bytes:
            self._resume(saved)
            self._count(key, x, cost)
            return self._encode()

        with self._lock:
            tables: Any = self._tokens, self._told, self._basis, self._uncounted
            room, before = self._room, [table[key] for table in tables]
            try:
                if self.path is None:
                    counted(None)
                else:
                    state.change({self.path: counted})  # before the answer leaves
            except BaseException:
                for table, value in zip(tables, before, strict=True):
                    table[key] = value
                self._room = room
                raise

    def _count(self, key: tuple[int, str], x: np.ndarray, cost: float) -> None:
        size = self._size[key[1]]
        told = self._told[key] + cost * len(x)
        if self.max_fraction < 1 and told > self.max_fraction * size:
            # No counts: they would tell one user how much others have asked.
            raise SessionError(
                "leakage",
                f"layer {key[0]} {key[1]}: the query would exceed what the owner lets users "
                "learn (max_fraction, --max-rank-fraction); send fewer tokens",
            )
        new = self._new_directions(key, x.astype(np.float64))
        stored = new[: max(0, self._room // (8 * size))]
        self._room -= stored.nbytes
        self._basis[key] = np.concatenate([self._basis[key], stored])
        self._uncounted[key] += len(new) - len(stored)
        self._tokens[key] += len(x)
        self._told[key] = told

    def _new_directions(self, key, x: np.ndarray) -> np.ndarray:
        """Orthonormal directions of x outside the counted space; all rows once memory is full."""
        if self._uncounted[key]:
            return x
        space = self._basis[key]
        known = len(space)
        rows = np.unique(x[np.any(x, axis=1)], axis=0)
        for start in range(0, len(rows), BLOCK):
            if len(space) >= x.shape[1]:
                break
            block = rows[start : start + BLOCK]
            block = block / np.linalg.norm(block, axis=1, keepdims=True)
            space = np.concatenate([space, _beside(space, block)])
        return space[known : max(known, x.shape[1])]

    def fraction(self, layer: int, group: str) -> float:
        """The share of a site that users may know, at most 1."""
        return min(1.0, self._told[layer, group] / self._size[group])

    def summary(self) -> dict[str, dict[str, float]]:
        """For each site: tokens answered, entries of a column of A that they may tell, the rank of
        the activations, input size, and the share that may be known.
        """
        return {
            f"{layer}/{group}": {
                "tokens": tokens,
                "told": self._told[layer, group],
                "dimension": self.dimension(layer, group),
                "size": self._size[group],
                "fraction": self.fraction(layer, group),
            }
            for (layer, group), tokens in self._tokens.items()
        }

    def worst(self) -> float:
        """The largest fraction over all sites."""
        return max(entry["fraction"] for entry in self.summary().values())

    def save(self) -> None:
        """Keep the counts for the next run of the server."""

        def merged(saved: bytes | None) -> bytes:
            self._resume(saved)
            return self._encode()

        with self._lock:
            if self.path is not None:
                state.change({self.path: merged})

    def _encode(self) -> bytes:
        return json.dumps({"manifest": self._manifest} | self.summary(), indent=1).encode()


def _beside(space: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Orthonormal directions of the rows of ``block`` (unit vectors) beside those of ``space``."""
    for _ in range(2):  # the second pass removes what rounding left
        block = block - (block @ space.T) @ space
    q, r = np.linalg.qr(block.T)
    if len(block) <= block.shape[1] and np.all(np.abs(np.diag(r)) > TOLERANCE):
        return q.T
    found = np.zeros((0, block.shape[1]))
    for row in block:  # one after another: each counts if anything is left beside all before it
        for _ in range(2):
            row = row - (row @ found.T) @ found
            row = row - (row @ space.T) @ space
        norm = np.linalg.norm(row)
        if norm > TOLERANCE:
            found = np.concatenate([found, row[None] / norm])
    return found
