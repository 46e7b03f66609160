"""How much of an adapter its users could have learned from the answers.

Every answered activation x reveals A and B on one more direction. The owner counts, for each layer
and input group, the dimension of the space spanned by all activations that were ever answered; in
all dimensions, B A is known. Two counts are kept: the number of tokens, which bounds the dimension,
and the numerical rank, which is the dimension unless the memory for it is used up; from then on
every token counts as a new direction. Both only grow, over all sessions and restarts.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
from zkjax.proofs.adapter.manifest import Manifest

from zkjax.errors import SealError, SessionError
from zkjax.files import write_atomically

# Of a residual, relative to the activation's norm. A component this small moves x A by less than
# its rounding, so the answers do not show it; float64 leaves about 1e-15 of noise.
TOLERANCE = 1e-12
DEFAULT_FRACTION = 0.5
BLOCK = 64  # activations that are compared at a time


class Leakage:
    """Counts queried dimensions and refuses queries beyond ``max_fraction`` of the input size."""

    def __init__(
        self,
        manifest: Manifest,
        max_fraction: float = DEFAULT_FRACTION,
        path: Path | None = None,
        memory_bytes: int = 256 << 20,
    ):
        if not 0 < max_fraction <= 1:
            raise ValueError("max_fraction must be above 0 and at most 1")
        self.max_fraction, self.path = max_fraction, path
        self._manifest = manifest.digest.hex()
        self._size = {g: manifest.inputs(g) for g in manifest.groups()}
        keys = [(layer, g) for layer in manifest.layers for g in self._size]
        self._tokens = dict.fromkeys(keys, 0)
        self._earlier = dict.fromkeys(keys, 0)
        self._basis = {key: np.zeros((0, self._size[key[1]])) for key in keys}
        self._room = memory_bytes
        self._uncounted = dict.fromkeys(keys, 0)
        self._lock = threading.Lock()
        if path is not None and path.exists():
            try:
                saved = json.loads(path.read_text())
                if saved["manifest"] != self._manifest:
                    raise SealError(f"{path} is about another adapter")
                for layer, group in keys:
                    entry = saved[f"{layer}/{group}"]
                    self._tokens[layer, group] = int(entry["tokens"])
                    self._earlier[layer, group] = int(entry["dimension"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise SealError(
                    f"{path} is damaged: what the adapter has revealed is not known ({error!r})"
                ) from error

    def dimension(self, layer: int, group: str) -> int:
        """Directions that have been answered at a site, at most the input size."""
        key = layer, group
        known = self._earlier[key] + len(self._basis[key]) + self._uncounted[key]
        return min(known, self._size[group])

    def admit(self, layer: int, group: str, x: np.ndarray) -> None:
        """Count the activations (tokens, inputs) of one query; SessionError("leakage") beyond the
        limit, and then nothing is counted and nothing may be answered.
        """
        key, size = (layer, group), self._size[group]
        allowed = int(self.max_fraction * size)
        with self._lock:
            before = self._earlier[key] + len(self._basis[key]) + self._uncounted[key]
            new = self._new_directions(key, x.astype(np.float64), max(0, allowed - before))
            stored = new[: max(0, self._room // (8 * size))]
            after = min(before + len(new), size)
            if after > allowed:
                # No counts: they would tell one user what others have asked.
                raise SessionError(
                    "leakage",
                    f"layer {layer} {group} may not be asked any further: the owner's limit "
                    "(max_fraction, --max-rank-fraction) is reached",
                )
            self._room -= stored.nbytes
            self._basis[key] = np.concatenate([self._basis[key], stored])
            self._uncounted[key] += len(new) - len(stored)
            self._tokens[key] += len(x)
            if len(new):
                self._write()  # before the answer leaves

    def _new_directions(self, key, x: np.ndarray, most: int) -> np.ndarray:
        """Orthonormal directions of x outside the counted space (all rows once memory is full); the
        search ends when there are more than ``most``.
        """
        if self._uncounted[key]:
            return x
        space = self._basis[key]
        known = len(space)
        rows = np.unique(x[np.any(x, axis=1)], axis=0)
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            block = block / np.linalg.norm(block, axis=1, keepdims=True)
            space = np.concatenate([space, _beside(space, block)])
            if len(space) - known > most:
                break
        return space[known : max(known, x.shape[1])]

    def summary(self) -> dict[str, dict[str, float]]:
        """For each site: tokens answered, dimension, input size, and the fraction known."""
        out = {}
        for (layer, group), tokens in self._tokens.items():
            size, dimension = self._size[group], self.dimension(layer, group)
            out[f"{layer}/{group}"] = {
                "tokens": tokens,
                "dimension": dimension,
                "size": size,
                "fraction": dimension / size,
            }
        return out

    def worst(self) -> float:
        """The largest fraction over all sites."""
        return max(entry["fraction"] for entry in self.summary().values())

    def save(self) -> None:
        """Keep the counts for the next run of the server."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        if self.path is not None:
            data = json.dumps({"manifest": self._manifest} | self.summary(), indent=1).encode()
            write_atomically(self.path, data, private=True)


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
