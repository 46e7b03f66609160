"""A contributor's folder: the sealed adapter, its manifest, and what has leaked so far."""

from __future__ import annotations

import contextlib
import math
import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

import zkjax
from zkjax import fixed, state
from zkjax._arguments import typed
from zkjax._marks import Between, NewPath
from zkjax.argument.budget import profile_named
from zkjax.errors import SealError, SessionError
from zkjax.files import new_folder, open_regular, read_capped, write_atomically
from zkjax.models.adapter import Adapter
from zkjax.models.config import ModelConfig
from zkjax.models.peft import load_adapter
from zkjax.proofs.adapter.contributor import (
    DEFAULT_SESSIONS,
    Contributor,
    Sessions,
    commit_adapter,
    rounded_weights,
)
from zkjax.proofs.adapter.leakage import DEFAULT_FRACTION, Leakage
from zkjax.proofs.adapter.ledger import Ledger
from zkjax.proofs.adapter.manifest import (
    MAX_BYTES,
    MOST_FRACTION,
    WEIGHT_FRACTION,
    Manifest,
    dyadic_scale,
)
from zkjax.proofs.adapter.record import Limits
from zkjax.proofs.adapter.statement import example

# Of the largest entry of A and of B: products x A B, which have 32 bits, need some of the latter.
A_BITS, B_BITS = 15, 13
SEALED, MANIFEST, ELSEWHERE = "adapter.sealed", "manifest.json", "sealed-at"
LEAKAGE, RECEIVED, LOCK = ".leakage.json", ".received", ".lock"  # beside the sealed adapter


class Committed(NamedTuple):
    """What ``commit_folder`` wrote: the manifest, the sessions that its commitment can serve, and
    the largest relative change of a module's A B by rounding, with the module's name.
    """

    manifest: Manifest
    sessions: int
    rounding: float
    module: str


@typed
def commit_folder(
    adapter: str | Path,
    out: NewPath,
    *,
    base: tuple[ModelConfig, str] | None = None,
    sealed: str | Path | None = None,
    sessions: Sessions | None = None,
    profile: str = "s100",
) -> Committed:
    """Commit to a PEFT adapter; writes the new folder ``out``.

    Weights are rounded to 16 bits, with as many fraction bits as hold the largest of A, and of B.
    alpha / r is folded into B unless it is a power of two. With ``sealed``, a file that a
    fine-tuning proof left (with 24 fraction bits), the commitment is that of the proof; its weights
    must be the adapter's. ``base`` is the configuration and the digest of the base model.
    """
    if sealed is not None and sessions is not None:
        raise SealError("the sealed adapter has its number of openings; leave out sessions")
    profile_named(profile)
    out = new_folder(out)
    try:
        sealed = None if sealed is None else Path(sealed)
        return _commit(Path(adapter), out, base, sealed, sessions, profile)
    except BaseException:
        with contextlib.suppress(OSError):
            out.rmdir()  # if nothing is in it
        raise


def _commit(
    adapter: Path,
    out: Path,
    base: tuple[ModelConfig, str] | None,
    sealed: Path | None,
    sessions: int | None,
    profile: str,
) -> Committed:
    config, digest = (None, None) if base is None else base
    weights, layers, scale = load_adapter(adapter, config)
    log2_scale = dyadic_scale(scale)
    if sealed is not None:
        if log2_scale is None:
            raise SessionError("manifest", f"alpha / r = {scale} is not a power of two")
        with open_regular(sealed):
            value = zkjax.Sealed.load(sealed, like=weights)
        same = jax.tree.map(
            lambda kept, told: (
                kept.shape == told.shape
                and np.allclose(kept * 2.0**-24, told, rtol=2.0**-23, atol=2.0**-24)
            ),
            value.tree,
            weights,
        )
        if not all(jax.tree.leaves(same)):
            raise SealError(f"{sealed} does not hold the weights of {adapter}")
        fractions = (WEIGHT_FRACTION, WEIGHT_FRACTION)
        rounding, module = _rounding(weights, rounded_weights(value.tree), fractions, layers)
        value, manifest = commit_adapter(value, layers, log2_scale, base=digest)
        _require_base(manifest, base)
        value.save(sealed)
        write_atomically(out / ELSEWHERE, str(sealed.resolve()).encode(), private=True)
    else:
        if log2_scale is None:
            weights = {t: p | {"b": p["b"] * scale} for t, p in weights.items()}
        fractions = _fraction(weights, "a", A_BITS), _fraction(weights, "b", B_BITS)
        of = dict(zip("ab", fractions, strict=True))
        stored = {
            t: {k: fixed.quantize(w, of[k], "int16") for k, w in p.items()}
            for t, p in weights.items()
        }
        rounding, module = _rounding(weights, stored, fractions, layers)
        value, manifest = commit_adapter(
            stored,
            layers,
            log2_scale or 0,
            sessions=sessions or DEFAULT_SESSIONS,
            profile=profile,
            fractions=fractions,
            base=digest,
        )
        _require_base(manifest, base)
        value.save(out / SEALED)
    _start_counts(manifest, value.path or out / SEALED)
    write_atomically(out / MANIFEST, manifest.encode())
    return Committed(manifest, value.remaining, rounding, module)


def _start_counts(manifest: Manifest, path: Path) -> None:
    """Counts of answers beside a sealed adapter, unless it has them; SealError if it had."""
    counts, received = _beside(path, LEAKAGE), _beside(path, RECEIVED)
    if not counts.exists():
        if received.exists():
            raise SealError(f"{counts} is missing: what this commitment has revealed is not known")
        Ledger.start(manifest.digest.hex(), counts)
    received.mkdir(mode=0o700, exist_ok=True)


def _require_base(manifest: Manifest, base: tuple[ModelConfig, str] | None) -> None:
    if base is not None:
        manifest.require_base(*base)


def _fraction(weights: Adapter, part: str, bits: int) -> int:
    """Fraction bits with which the largest weight has so many bits."""
    largest = max(float(np.abs(parts[part]).max()) for parts in weights.values())
    whole = math.frexp(largest * (1 + 2.0**-bits))[1]
    return min(max(bits - whole, 0), MOST_FRACTION)


def _rounding(
    exact: Adapter, stored: Any, fractions: tuple[int, int], layers: tuple[int, ...]
) -> tuple[float, str]:
    """The largest |A' B' - A B| / |A B| (Frobenius norm) of a module, and the module; SealError if
    rounding leaves nothing of one.
    """

    def inner(one, two):
        """<A1 B1, A2 B2> for each layer, from r x r matrices."""
        a = np.einsum("lnr,lns->lrs", one["a"], two["a"])
        return np.sum(a * np.einsum("lrm,lsm->lrs", one["b"], two["b"]), axis=(1, 2))

    worst, name = 0.0, "none"
    for target, parts in exact.items():
        kept = {k: stored[target][k] * 2.0**-f for k, f in zip("ab", fractions, strict=True)}
        size, left = inner(parts, parts), inner(kept, kept)
        change = size + left - 2 * inner(parts, kept)
        relative = np.sqrt(np.maximum(change, 0) / np.where(size > 0, size, 1))
        for i, layer in enumerate(layers):
            if size[i] > 0 and left[i] == 0:
                raise SealError(
                    f"layer {layer} {target}: all of it is rounded to 0; entries below "
                    f"{2.0 ** -(fractions[0] + 1):.1g} of A and {2.0 ** -(fractions[1] + 1):.1g} "
                    "of B are lost"
                )
            if relative[i] > worst:
                worst, name = float(relative[i]), f"layer {layer} {target}"
    return worst, name


@typed
def load_contributor(
    folder: str | Path,
    *,
    limits: Limits | None = None,
    max_fraction: Annotated[float, Between(0, 1)] = DEFAULT_FRACTION,
    progress: Callable[[str], None] | None = None,
) -> Contributor:
    """The contributor of a folder that ``commit_folder`` wrote; one at a time, because the counts
    of what has leaked, and of what users have shared, belong to the sealed adapter.
    """
    folder = Path(folder)
    try:
        manifest = Manifest.decode(read_capped(folder / MANIFEST, MAX_BYTES))
        path = sealed_path(folder)
        lock = state.lock(_beside(path, LOCK), wait=False)
    except BlockingIOError:
        raise SealError(f"the adapter of {folder} is already being served") from None
    except OSError as error:
        raise SealError(f"{folder} holds no committed adapter ({error})") from error
    try:
        received = _beside(path, RECEIVED)
        received.mkdir(mode=0o700, exist_ok=True)
        with open_regular(path):
            sealed = zkjax.Sealed.load(path, like=example(manifest))
        commitment = replace(manifest.commitment, range_proof=sealed.commitment.range_proof)
        contributor = Contributor(
            sealed,
            replace(manifest, commitment=commitment),
            limits=limits,
            leakage=Leakage(manifest, max_fraction, _beside(path, LEAKAGE)),
            received=received,
            progress=progress,
        )
    except BaseException:
        os.close(lock)
        raise
    weakref.finalize(contributor, os.close, lock)
    return contributor


def sealed_path(folder: Path) -> Path:
    """Where the sealed adapter of a folder lies."""
    elsewhere = folder / ELSEWHERE
    return Path(read_capped(elsewhere, 1 << 12).decode()) if elsewhere.exists() else folder / SEALED


def counts_of(folder: Path) -> Leakage:
    """What the adapter of a folder has revealed so far, and to whom; to look at."""
    manifest = Manifest.decode(read_capped(folder / MANIFEST, MAX_BYTES))
    return Leakage(manifest, path=_beside(sealed_path(folder), LEAKAGE))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
