"""The contributor: an adapter, its commitment, and what both are used for: answers and proofs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np

import zkjax
from zkjax._arguments import checked, typed
from zkjax._marks import Between, NewPath
from zkjax.errors import SealError, SessionError, ValueRangeError
from zkjax.models.config import ALL_TARGETS
from zkjax.proof import MAX_OPENINGS
from zkjax.proofs.adapter.accounts import Account
from zkjax.proofs.adapter.arithmetic import ACTIVATION_BITS
from zkjax.proofs.adapter.contributor_session import ContributorSession, MemoryChannel
from zkjax.proofs.adapter.leakage import Leakage, reading_bits
from zkjax.proofs.adapter.manifest import (
    MASTER_FRACTION,
    STORED,
    WEIGHT_FRACTION,
    Manifest,
)
from zkjax.proofs.adapter.record import Limits, Record
from zkjax.proofs.adapter.statement import (
    WEIGHT_BITS,
    make_deltas,
    make_differences,
    one_token_digest,
)
from zkjax.prove import prove_ranges

DEFAULT_SESSIONS = 100
Sessions = Annotated[int, Between(1, MAX_OPENINGS - 1)]
BLOCK = 128  # activations that are answered at a time


@checked
def commit_adapter(
    weights: Any,
    layers: tuple[int, ...],
    log2_scale: Annotated[int, Between(-8, 8)],
    *,
    sessions: Sessions = DEFAULT_SESSIONS,
    profile: str = "s100",
    fractions: tuple[int, int] = (WEIGHT_FRACTION, WEIGHT_FRACTION),
    base: str | None = None,
) -> tuple[zkjax.Sealed, Manifest]:
    """Commit to an adapter, prove the range of its weights, and describe it.

    Args:
      weights: stored weights {target: {"a": (layers, inputs, r), "b": (layers, r, outputs)}},
        int16, or a ``Sealed`` value of these or of int32 with 24 fraction bits, for example an
        output of a fine-tuning proof.
      layers: the layers of the base model that the leading axis stands for.
      log2_scale: log2 of alpha / r.
      sessions: how many sessions the commitment may serve; each costs blinding.
      fractions: fraction bits of A and of B, of int16 weights.
      base: the digest of the base model that it is for.
    Returns:
      the sealed adapter (private) and its manifest (public).
    """
    tree = weights.tree if isinstance(weights, zkjax.Sealed) else weights
    _require_stored(tree)
    rounded_weights(tree)
    targets = {t: (tree[t]["a"].shape[1], tree[t]["b"].shape[2]) for t in ALL_TARGETS if t in tree}
    first = next(iter(tree.values()))["a"]

    def described(commitment: Any) -> Manifest:
        return Manifest(
            tuple(layers),
            targets,
            first.shape[2],
            log2_scale,
            first.dtype.name,
            "00" * 32,
            commitment,
            (fractions[0], fractions[1]),
            base,
        )

    described(None).check_description()
    if not isinstance(weights, zkjax.Sealed):
        weights = zkjax.seal(weights, openings=sessions, profile=profile, ranges=True)
    elif weights.commitment.range_proof is None:
        prove_ranges(weights)
    manifest = described(weights.commitment)
    manifest = replace(manifest, statement=one_token_digest(manifest))
    manifest.check()
    return weights, manifest


class Contributor:
    """A sealed adapter, ready to serve sessions.

    Args:
      sealed, manifest: from ``commit_adapter``.
      leakage: what the answers of all sessions have revealed; by default users may learn half.
      received: a folder that remembers which shared openings of users were used; without one they
        are remembered as long as the process lives.
      progress: called with the name of each phase of a proof.
    """

    @typed
    def __init__(
        self,
        sealed: zkjax.Sealed,
        manifest: Manifest,
        *,
        limits: Limits | None = None,
        leakage: Leakage | None = None,
        received: NewPath | None = None,
        progress: Callable[[str], None] | None = None,
    ):
        if sealed.commitment != manifest.commitment:
            raise SessionError("manifest", "it is about another commitment")
        self.sealed, self.manifest = sealed, manifest
        self.limits = limits or Limits()
        self.leakage = leakage or Leakage(manifest)
        self.received = None if received is None else Path(received)
        self.progress = progress
        self.report: dict = {}  # figures of the last proof
        self._proving = threading.Lock()
        self._weights = rounded_weights(sealed.tree)
        self.leakage.readings = {
            (layer, group): reading_bits([self._weights[t]["a"][i] for t in targets])
            for i, layer in enumerate(manifest.layers)
            for group, targets in manifest.groups().items()
        }

    @typed
    def session(self, account: Account | None = None) -> ContributorSession:
        """A new session, of an account if users have quotas; nothing is shared with others but the
        counts of what was answered.
        """
        return ContributorSession(self, account)

    def connect(self) -> MemoryChannel:
        """A user's channel to this contributor in the same process."""
        return MemoryChannel(self.session())

    def deltas(self, layer: int, group: str, x: np.ndarray) -> np.ndarray:
        """(x A) B of one group, side by side, (tokens, outputs) int32, exact in float64.

        Block by block: products of many rows would be spread over all cores, for one user.
        """
        blocks = [self._deltas(layer, group, x[i : i + BLOCK]) for i in range(0, len(x), BLOCK)]
        return np.concatenate(blocks)

    def _deltas(self, layer: int, group: str, x: np.ndarray) -> np.ndarray:
        index = self.manifest.layers.index(layer)
        parts = []
        for target in self.manifest.groups()[group]:
            weights = self._weights[target]
            low = _rounded(x.astype(np.float64) @ weights["a"][index], self.manifest.fractions[0])
            _require_bits(low, ACTIVATION_BITS, "x A")
            delta = low @ weights["b"][index]
            _require_bits(delta, 32, "x A B")
            parts.append(delta.astype(np.int32))
        return np.concatenate(parts, axis=1)

    def prove(self, record: Record, wanted: Callable[[], None] = lambda: None) -> bytes:
        """The messages of the proof about a session; one at a time.

        ``wanted`` is called before each phase, and ends the proof by raising: no opening is taken.
        """
        function = make_deltas(self.manifest.dtype, self.manifest.fractions)
        outputs, proof = self._proved(function, record, wanted, record.xs)
        given = record.deltas
        if any(not np.array_equal(outputs[t], given[t]) for t in given):
            raise SessionError("internal", "the answers are not what the statement computes")
        record.proof = proof
        return proof.body

    def prove_sealed(
        self,
        record: Record,
        xs: zkjax.Sealed,
        deltas: zkjax.Sealed,
        wanted: Callable[[], None] = lambda: None,
    ) -> bytes:
        """As ``prove``, about activations and deltas that the user has committed to."""
        function = make_differences(self.manifest.dtype, self.manifest.fractions)
        return self._proved(function, record, wanted, xs, deltas)[1].body

    def _proved(
        self, function: Callable, record: Record, wanted: Callable[[], None], *args: Any
    ) -> tuple[Any, zkjax.Proof]:
        def phase(name: str) -> None:
            wanted()
            if self.progress is not None:
                self.progress(name)

        profile = self.manifest.commitment.profile
        with self._proving:
            wanted()
            outputs, proof = zkjax.prove(
                function, context=record.context, profile=profile, progress=phase
            )(self.sealed, *args)
            self.report = proof.report or {}
        return outputs, proof


def _require_stored(tree: Any) -> None:
    """SealError unless this is {target: {"a": ..., "b": ...}} of stored weights."""
    known = isinstance(tree, Mapping) and tree and set(tree) <= set(ALL_TARGETS)
    if not known or any(
        not isinstance(parts, Mapping) or set(parts) != {"a", "b"} for parts in tree.values()
    ):
        raise SealError(
            f"weights are {{target: {{'a': ..., 'b': ...}}}}; targets are {ALL_TARGETS}"
        )
    for name, parts in tree.items():
        for w in parts.values():
            form = getattr(getattr(w, "dtype", None), "name", type(w).__name__)
            if form not in STORED or w.ndim != 3:
                raise SealError(
                    f"{name} is {form}; weights are (layers, ., .) arrays of int16, as from "
                    "fixed.quantize(w, 12, 'int16'), or int32 with 24 fraction bits"
                )


def _rounded(values: np.ndarray, shift: int) -> np.ndarray:
    """floor(v 2^-shift + 1/2) in float64, as ``fixed.round``."""
    return np.floor(np.asarray(values, dtype=np.float64) * 2.0**-shift + 0.5)


def rounded_weights(tree: Any) -> Any:
    """Stored weights as the integers that products use, in float64; ValueRangeError if one does not
    fit 16 bits.
    """

    def rounded(w: np.ndarray) -> np.ndarray:
        if w.dtype == np.int16:
            return w.astype(np.float64)
        out = _rounded(w, MASTER_FRACTION - WEIGHT_FRACTION)
        if np.abs(out + 0.5).max() > 2 ** (WEIGHT_BITS - 1):
            raise ValueRangeError(
                f"a weight of {np.abs(out).max() * 2.0**-WEIGHT_FRACTION:.2f} does not fit; "
                "adapters are stored in fixed point below 8 in absolute value"
            )
        return out

    return jax.tree.map(rounded, tree)


def _require_bits(values: np.ndarray, bits: int, what: str) -> None:
    if values.size and (values.min() < -(2 ** (bits - 1)) or values.max() >= 2 ** (bits - 1)):
        raise SessionError("range", f"{what} leaves {bits} bits for an activation of this query")
