"""A contributor's folder: the sealed adapter, its manifest, and what has leaked so far."""

from __future__ import annotations

import fcntl
import os
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from zkjax.models.peft import load_adapter
from zkjax.proofs.adapter.contributor import DEFAULT_SESSIONS, Contributor, commit_adapter
from zkjax.proofs.adapter.leakage import DEFAULT_FRACTION, Leakage
from zkjax.proofs.adapter.limits import Limits
from zkjax.proofs.adapter.manifest import WEIGHT_FRACTION, Manifest, dyadic_scale
from zkjax.proofs.adapter.statement import example

import zkjax
from zkjax import fixed
from zkjax.errors import SealError, SessionError
from zkjax.files import write_atomically

SEALED, MANIFEST, ELSEWHERE = "adapter.sealed", "manifest.json", "sealed-at"
LEAKAGE, LOCK = ".leakage.json", ".lock"  # beside the sealed adapter, which they are about


def commit_folder(
    adapter: Path,
    out: Path,
    *,
    sealed: Path | None = None,
    sessions: int = DEFAULT_SESSIONS,
    profile: str = "s100",
) -> Manifest:
    """Commit to a PEFT adapter; writes ``out`` and returns the manifest.

    Weights are rounded to 12 fraction bits, as the model does when it runs. alpha / r is folded
    into B unless it is a power of two. With ``sealed``, a file that a fine-tuning proof left (with
    24 fraction bits), the commitment is that of the proof; its weights must be the adapter's.
    """
    weights, layers, scale = load_adapter(adapter)
    log2_scale = dyadic_scale(scale)
    if (out / SEALED).exists() or (out / ELSEWHERE).exists():
        raise SealError(f"{out} already holds a committed adapter; choose another folder")
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    if sealed is not None:
        if log2_scale is None:
            raise SessionError("manifest", f"alpha / r = {scale} is not a power of two")
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
        value, manifest = commit_adapter(value, layers, log2_scale)
        value.save(sealed)
        write_atomically(out / ELSEWHERE, str(sealed.resolve()).encode(), private=True)
    else:
        if log2_scale is None:
            for parts in weights.values():
                parts["b"] = parts["b"] * scale
        stored = jax.tree.map(lambda w: fixed.quantize(w, WEIGHT_FRACTION, "int16"), weights)
        value, manifest = commit_adapter(
            stored, layers, log2_scale or 0, sessions=sessions, profile=profile
        )
        value.save(out / SEALED)
    write_atomically(out / MANIFEST, manifest.encode())
    return manifest


def load_contributor(
    folder: Path,
    *,
    limits: Limits | None = None,
    max_fraction: float = DEFAULT_FRACTION,
    progress: Any = None,
) -> Contributor:
    """The contributor of a folder that ``commit_folder`` wrote; one at a time, because the counts
    of what has leaked belong to the sealed adapter.
    """
    try:
        manifest = Manifest.decode((folder / MANIFEST).read_bytes())
        elsewhere = folder / ELSEWHERE
        path = Path(elsewhere.read_text()) if elsewhere.exists() else folder / SEALED
        lock = os.open(_beside(path, LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SealError(f"{folder} holds no committed adapter ({error})") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sealed = zkjax.Sealed.load(path, like=example(manifest))
        commitment = replace(manifest.commitment, range_proof=sealed.commitment.range_proof)
        contributor = Contributor(
            sealed,
            replace(manifest, commitment=commitment),
            limits=limits,
            leakage=Leakage(manifest, max_fraction, _beside(path, LEAKAGE)),
            progress=progress,
        )
    except BlockingIOError:
        os.close(lock)
        raise SealError(f"the adapter of {folder} is already being served") from None
    except BaseException:
        os.close(lock)
        raise
    weakref.finalize(contributor, os.close, lock)
    return contributor


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
