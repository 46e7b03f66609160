"""Sealed values: private data behind a hiding commitment that can be opened a few times."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zkjax._callable import make_callable
from zkjax.argument import merkle
from zkjax.argument.budget import profile_named
from zkjax.argument.entropy import Entropy
from zkjax.argument.tableau import Tableau
from zkjax.errors import SealError
from zkjax.field import goldilocks as gl
from zkjax.files import write_atomically
from zkjax.program.dtypes import DTYPE_RANGES
from zkjax.proof import MAX_OPENINGS, Commitment, committed_layout

DEFAULT_OPENINGS = 4


class Sealed:
    """A pytree of integer arrays, its blinding, and how many proofs may still open it.

    Attributes:
      tree: the private data (NumPy arrays).
      commitment: what may be published.
      remaining: openings left; a proof takes one before it reveals anything.
    """

    def __init__(self, leaves, treedef, commitment, tableau, remaining, path=None):
        self.leaves: list[np.ndarray] = leaves
        self.treedef = treedef
        self.commitment: Commitment = replace(commitment, treedef=treedef)
        self.tableau: Tableau = tableau
        self.remaining: int = remaining
        self.path: Path | None = path

    @property
    def tree(self) -> Any:
        return self.treedef.unflatten(self.leaves)

    def __repr__(self) -> str:
        count = sum(x.size for x in self.leaves)
        return f"Sealed({self.commitment}, {count} values, {self.remaining} openings left)"

    def __eq__(self, other) -> bool:
        return self is other

    __hash__ = object.__hash__

    def with_structure(self, treedef) -> Sealed:
        """The same sealed value, read as another pytree of as many leaves."""
        self.treedef = treedef
        self.commitment = replace(self.commitment, treedef=treedef)
        return self

    def spend(self) -> None:
        """Take one opening; raises SealError when none is left. On disk first, if saved."""
        if self.path is not None:
            self.remaining = min(self.remaining, _take_from_counter(self.path) + 1)
        if self.remaining < 1:
            raise SealError(
                f"the sealed value {self.commitment} has no openings left; another proof would "
                "reveal private data. Seal it again with openings=N for N proofs"
            )
        self.remaining -= 1

    def share(self) -> bytes:
        """The secrets (blinding and nonces) for a party who knows the values, so that it can prove
        about the same commitment. Takes one opening, which that party then has.
        """
        self.spend()
        c = self.commitment
        blinding = np.ascontiguousarray(self.tableau.rows[:, c.code.row :], dtype="<u8")
        return blinding.tobytes() + np.ascontiguousarray(self.tableau.nonces).tobytes()

    @staticmethod
    def secrets_size(commitment: Commitment) -> int:
        """The number of bytes that ``share`` gives."""
        layout = commitment.layout
        return 8 * layout.rows * layout.code.blinding + merkle.NONCE * layout.code.length

    @classmethod
    def from_secrets(cls, tree: Any, commitment: Commitment, secrets: bytes) -> Sealed:
        """The sealed value of a known pytree, from what ``share`` gave; one opening.

        Raises:
          SealError: value, secrets and commitment do not belong together.
        """
        import jax

        leaves, treedef = jax.tree_util.tree_flatten(tree)
        leaves = [np.asarray(x) for x in leaves]
        described = tuple(x.shape for x in leaves), tuple(x.dtype.name for x in leaves)
        if described != (commitment.shapes, commitment.dtypes):
            raise SealError("the commitment is to values of other shapes or types")
        if len(secrets) != cls.secrets_size(commitment):
            raise SealError("the secrets of this commitment have another size")
        layout = commitment.layout
        split = 8 * layout.rows * layout.code.blinding
        blinding = np.frombuffer(secrets[:split], "<u8").astype(np.uint64)
        if blinding.size and blinding.max() >= gl.P:
            raise SealError("the blinding has an element that is not canonical")
        rows = layout.matrix([x.astype(np.float64) for x in leaves])
        rows = np.concatenate([rows, blinding.reshape(layout.rows, -1)], axis=1)
        nonces = np.frombuffer(secrets[split:], np.uint8).reshape(-1, merkle.NONCE)
        tableau = Tableau(rows, commitment.code.log_length, nonces)
        if tableau.root != commitment.root:
            raise SealError("the values and secrets do not give this commitment")
        return cls(leaves, treedef, commitment, tableau, 1)

    def save(self, path: str | Path) -> None:
        """Write data, blinding and nonces to ``path`` and the openings left to
        ``path.openings``.
        """
        path = Path(path)
        if self.path is not None and self.path != path.resolve():
            raise SealError(
                f"this sealed value lives in {self.path}; a copy would have openings of its own"
            )
        buffer = io.BytesIO()
        c = self.commitment
        arrays: Any = {f"leaf{i}": x for i, x in enumerate(self.leaves)}
        np.savez(
            buffer,
            meta=np.frombuffer(json.dumps(c.to_json()).encode(), dtype=np.uint8),
            blinding=self.tableau.rows[:, c.code.row :],
            nonces=self.tableau.nonces,
            **arrays,
        )
        self.remaining = _keep_counter(path, self.remaining, new=self.path is None)
        write_atomically(path, buffer.getvalue(), private=True)
        self.path = path.resolve()

    @classmethod
    def load(cls, path: str | Path, like: Any = None) -> Sealed:
        """Read a sealed value; ``like`` gives the pytree structure (default: a list of leaves)."""
        import jax

        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as data:
                commitment = Commitment.from_json(json.loads(bytes(data["meta"])))
                leaves = [data[f"leaf{i}"] for i in range(len(commitment.shapes))]
                rows = commitment.layout.matrix([x.astype(np.float64) for x in leaves])
                rows = np.concatenate([rows, data["blinding"]], axis=1)
                tableau = Tableau(rows, commitment.code.log_length, data["nonces"])
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever the file holds
            raise SealError(f"{path} is not a sealed value, or damaged") from error
        if tableau.root != commitment.root:
            raise SealError(f"{path} is damaged: its data do not give its commitment")
        tree = leaves if like is None else like
        treedef: Any = jax.tree_util.tree_structure(tree)
        if treedef.num_leaves != len(leaves):
            raise SealError(f"{path} holds {len(leaves)} arrays, not {treedef.num_leaves}")
        return cls(leaves, treedef, commitment, tableau, _read_counter(path), path.resolve())


def _counter_path(path: Path) -> Path:
    return path.with_name(path.name + ".openings")


def _read_counter(path: Path) -> int:
    try:
        return int(_counter_path(path).read_text())
    except (OSError, ValueError) as error:
        raise SealError(f"{_counter_path(path)} is missing or damaged: refusing to open") from error


def _take_from_counter(path: Path) -> int:
    """Lower the counter by one under a lock; what is left, -1 if nothing was."""
    return _change_counter(path, lambda left: left - 1)


def _keep_counter(path: Path, remaining: int, new: bool) -> int:
    """Start the counter of a new file; one that is there, or was, may only fall. What is left."""
    try:
        if not new:
            raise FileExistsError
        handle = os.open(_counter_path(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return _change_counter(path, lambda left: min(left, remaining))
    with os.fdopen(handle, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(remaining))
        file.flush()
        os.fsync(file.fileno())
    return remaining


def _change_counter(path: Path, change: Callable[[int], int]) -> int:
    """Write change(left) unless it is negative, in place and under the counter's lock."""
    try:
        with open(_counter_path(path), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            left = change(int(file.read()))
            if left >= 0:
                file.seek(0)
                file.truncate()
                file.write(str(left))
                file.flush()
                os.fsync(file.fileno())
            return left
    except (OSError, ValueError) as error:
        raise SealError(f"{_counter_path(path)} is missing or damaged: refusing to open") from error


def seal(
    tree: Any,
    *,
    openings: int = DEFAULT_OPENINGS,
    profile: str = "s100",
    ranges: bool = False,
    _entropy: Entropy | None = None,
) -> Sealed:
    """Commit to a pytree of integer arrays.

    Args:
      tree: arrays of int8 to int32, uint8 to uint32 or bool (see ``zkjax.fixed.quantize``).
      openings: how many proofs it may enter; every opening costs about 150 random values a row.
      profile: the security profile of the proofs, ``"s100"`` or ``"s128"``.
      ranges: prove now that the values fit their dtypes, so that later proofs need not (for large
        values that enter several proofs).
    Returns:
      A ``Sealed`` value; publish its ``.commitment``.
    """
    import jax

    leaves, treedef = jax.tree_util.tree_flatten(tree)
    arrays = [np.asarray(x) for x in leaves]
    for x in arrays:
        if x.dtype.name not in DTYPE_RANGES:
            raise SealError(
                f"cannot seal an array of {x.dtype.name}; use integers of at most 32 bits, for "
                "example zkjax.fixed.quantize(x, fraction=12, dtype='int16')"
            )
    if not arrays:
        raise SealError("nothing to seal: the pytree has no arrays")
    entropy = _entropy or Entropy()
    if not ranges:
        return seal_arrays(arrays, treedef, openings, profile, entropy)
    from zkjax.prove import prove_ranges

    sealed = seal_arrays(arrays, treedef, openings + 1, profile, entropy)
    prove_ranges(sealed, _entropy=entropy)
    return sealed


def seal_arrays(arrays, treedef, openings: int, profile: str, entropy: Entropy) -> Sealed:
    """``seal`` for flattened arrays."""
    profile_named(profile)
    if not 1 <= openings <= MAX_OPENINGS:
        raise SealError(f"a sealed value has 1 to {MAX_OPENINGS:,} openings, not {openings:,}")
    shapes = tuple(x.shape for x in arrays)
    layout = committed_layout(shapes, openings, profile)
    values = layout.matrix([x.astype(np.float64) for x in arrays])
    noise = entropy.field((layout.rows, layout.code.blinding))
    tableau = Tableau.fresh(
        np.concatenate([values, noise], axis=1), layout.code.log_length, entropy
    )
    dtypes = tuple(x.dtype.name for x in arrays)
    commitment = Commitment(tableau.root, shapes, dtypes, openings, profile)
    return Sealed(arrays, treedef, commitment, tableau, openings)


make_callable(__name__)
