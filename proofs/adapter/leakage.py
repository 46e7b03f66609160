"""How much of an adapter its users could have learned from the answers.

Every answered activation x reveals something of A and B. In one answer a column of x A is one
number of 16 bits, so m answers tell at most 16 m bits of a column of A. The owner refuses queries
once so many bits could tell a share of the entries of some column. Counting only the directions in
which x lies would not do: multiples and sums of known activations are new questions, because x A is
rounded and A holds small integers. By linear algebra A B is known in as many directions as the
activations have rank; the same share limits that too.

Both counts only grow, over all sessions, users and restarts (``ledger``).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from zkjax._arguments import typed
from zkjax._marks import Between
from zkjax.errors import OptionError, SessionError
from zkjax.proofs.adapter.ledger import Beyond, Ledger
from zkjax.proofs.adapter.manifest import Manifest

# Of a residual, relative to the activation's norm. A component this small moves x A by less than
# its rounding, so the answers do not show it; float64 leaves about 1e-15 of noise.
TOLERANCE = 1e-12
DEFAULT_FRACTION = 0.5
ANSWER_BITS = 16  # of one column of x A, rounded
BLOCK = 64  # activations that are compared at a time

Site = tuple[int, str]  # layer, input group


def entry_bits(column: np.ndarray) -> np.ndarray:
    """The least that each integer of a column tells, in bits, to who knows how common it is.

    Values that occur about equally often (within a factor of 2) are a class; an entry among N of
    its class whose value occurs n times holds log2(N / n) bits. Whoever knows beforehand which
    entries are small, or zero, or of few values, needs no more. The value of a class that has one
    only holds what tells its place: the entropy of being in the class or not.
    """
    _, which, counts = np.unique(column, return_inverse=True, return_counts=True)
    classes = np.log2(counts).astype(int)
    size = np.bincount(classes, weights=counts)[classes]
    share = size / len(column)
    other = np.clip(1 - share, 1 / len(column), 1)
    place = np.minimum(-share * np.log2(share) - other * np.log2(other), -np.log2(share))
    return np.where(size == counts, place, np.log2(size / counts))[which]


def reading_bits(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """(inputs + 1,): the fewest bits that tell so many entries of some column of these matrices,
    (inputs, r) integers each, the cheapest first; at least one bit for any.
    """
    columns = [np.cumsum(np.sort(entry_bits(column))) for a in matrices for column in a.T]
    return np.concatenate([[0.0], np.maximum(np.min(columns, axis=0), 1.0)])


class Asking(NamedTuple):
    """Counts of the one who asks, and their limits, for the same entry of the ledger."""

    counts: Mapping[str, int]
    most: Mapping[str, int]


class Leakage:
    """Counts answers and queried dimensions; refuses queries beyond ``max_fraction``.

    Args:
      max_fraction: the share of the inputs of each site, in rank and in entries of a column of A,
        that users may learn; 1 allows all.
      path: the file of the counts, which ``Ledger.start`` made; without one they are kept in
        memory.

    Attributes:
      readings: for each site the bits that tell so many entries (``reading_bits``), which the
        contributor knows. Without them an answer tells one entry.
    """

    @typed
    def __init__(
        self,
        manifest: Manifest,
        max_fraction: Annotated[float, Between(0, 1)] = DEFAULT_FRACTION,
        path: str | Path | None = None,
        memory_bytes: Annotated[int, Between(0, 1 << 50)] = 256 << 20,
    ):
        if max_fraction == 0:
            raise OptionError("max_fraction = 0; it is above 0 and at most 1")
        self.max_fraction = max_fraction
        self.ledger = Ledger(manifest.digest.hex(), None if path is None else Path(path))
        self.readings: Mapping[Site, np.ndarray] = {}
        self._size = {g: manifest.inputs(g) for g in manifest.groups()}
        self.sites: list[Site] = [(layer, g) for layer in manifest.layers for g in self._size]
        self._basis = {site: np.zeros((0, self._size[site[1]])) for site in self.sites}
        self._full = dict.fromkeys(self.sites, False)  # no memory for more directions
        self._room = memory_bytes
        self._locks = {site: threading.Lock() for site in self.sites}
        self._memory = threading.Lock()

    def admit(self, layer: int, group: str, x: np.ndarray, asking: Asking | None = None) -> None:
        """Count the activations (tokens, inputs) of one query, on disk; SessionError("leakage")
        beyond the limit, and then nothing is counted and nothing may be answered.

        Raises:
          Beyond: a count of ``asking`` exceeds its limit.
        """
        site = layer, group
        tokens, dimension = (key_of(site, name) for name in ("tokens", "dimension"))
        most = {}
        if self.max_fraction < 1:
            most = {tokens: self._allowed(site), dimension: self._limit(site)}
            if self.ledger[tokens] + len(x) > most[tokens]:
                raise self._refusal(site)
        with self._locks[site]:
            new = self._new_directions(site, x.astype(np.float64))
            known = len(self._basis[site])
        counts = {tokens: len(x), dimension: len(new)}
        if asking is not None:
            counts, most = {**counts, **asking.counts}, {**most, **asking.most}
        try:
            self.ledger.count(counts, most)
        except Beyond as error:
            raise (self._refusal(site) if error.key in (tokens, dimension) else error) from None
        with self._locks[site]:
            if len(self._basis[site]) != known and not self._full[site]:
                new = _beside(self._basis[site], new)  # others have been answered meanwhile
            self._remember(site, new)

    def _refusal(self, site: Site) -> SessionError:
        """Without counts: they would tell one user how much others have asked."""
        return SessionError(
            "leakage",
            f"layer {site[0]} {site[1]}: the query would exceed what the owner lets users learn "
            "(max_fraction, --max-rank-fraction); send fewer tokens",
        )

    def _limit(self, site: Site) -> int:
        size = self._size[site[1]]
        return min(int(self.max_fraction * size), size - 1)

    def _allowed(self, site: Site) -> int:
        """The most answers that tell no more than the limit."""
        limit = self._limit(site)
        if site not in self.readings:
            return limit
        bits = self.readings[site][limit + 1]
        return int(np.ceil(bits / ANSWER_BITS)) - 1

    def _site(self, layer: int, group: str) -> Site:
        """OptionError unless there is such a site."""
        if (layer, group) not in self._basis:
            raise OptionError(
                f"layer {layer} {group!r} is no site of this adapter; its layers are "
                f"{sorted({site[0] for site in self.sites})}, groups {', '.join(self._size)}"
            )
        return layer, group

    @typed
    def told(self, layer: int, group: str) -> int:
        """How many entries of some column of A the answers so far may tell, at most all."""
        site = self._site(layer, group)
        answers = self.ledger[key_of(site, "tokens")]
        if site not in self.readings:
            return min(answers, self._size[group])
        return int(np.searchsorted(self.readings[site], ANSWER_BITS * answers, side="right")) - 1

    @typed
    def dimension(self, layer: int, group: str) -> int:
        """The rank of the activations answered at a site; more once memory is used up, or after a
        restart.
        """
        return min(self.ledger[key_of(self._site(layer, group), "dimension")], self._size[group])

    def _new_directions(self, site: Site, x: np.ndarray) -> np.ndarray:
        """Orthonormal directions of x outside the counted space; all rows once memory is full."""
        if self._full[site]:
            return x
        space = self._basis[site]
        known = len(space)
        if known >= x.shape[1]:
            return x[:0]
        rows = np.unique(x[np.any(x, axis=1)], axis=0)
        for start in range(0, len(rows), BLOCK):
            if len(space) >= x.shape[1]:
                break
            block = rows[start : start + BLOCK]
            block = block / np.linalg.norm(block, axis=1, keepdims=True)
            space = np.concatenate([space, _beside(space, block)])
        return space[known : max(known, x.shape[1])]

    def _remember(self, site: Site, new: np.ndarray) -> None:
        if self._full[site]:
            return
        with self._memory:
            stored = new[: max(0, self._room // (8 * new.shape[1]))]
            self._room -= stored.nbytes
        self._full[site] = len(stored) < len(new)
        self._basis[site] = np.concatenate([self._basis[site], stored])

    @typed
    def fraction(self, layer: int, group: str) -> float:
        """The share of a site that users may know, at most 1."""
        return max(self.told(layer, group), self.dimension(layer, group)) / self._size[group]

    def summary(self) -> dict[str, dict[str, float]]:
        """For each site: tokens answered, entries of a column of A that they may tell, the rank of
        the activations, input size, and the share that may be known.
        """
        return {
            f"{layer}/{group}": {
                "tokens": self.ledger[key_of((layer, group), "tokens")],
                "told": self.told(layer, group),
                "dimension": self.dimension(layer, group),
                "size": self._size[group],
                "fraction": self.fraction(layer, group),
            }
            for layer, group in self.sites
        }

    def worst(self) -> float:
        """The largest fraction over all sites."""
        return max(self.fraction(*site) for site in self.sites)


def key_of(site: Site, name: str) -> str:
    """The name of a count of a site in the ledger."""
    return f"{site[0]}/{site[1]} {name}"


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
