"""Sealed values: private data behind a hiding commitment that can be opened a few times."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from zkjax._arguments import checked
from zkjax._marks import Secret
from zkjax.argument import merkle
from zkjax.argument.budget import profile_named
from zkjax.argument.entropy import Entropy
from zkjax.argument.tableau import Tableau
from zkjax.drafts import Draft, sync_folder
from zkjax.errors import SealError
from zkjax.field import goldilocks as gl
from zkjax.openings import Openings, received, take
from zkjax.proof import MAX_OPENINGS, Commitment, committed_layout

DEFAULT_OPENINGS = 4


def immutable(x: Any) -> np.ndarray:
    """A copy that nobody can change in place, so that what was committed or claimed stays as is;
    an array that is such a copy already.
    """
    x = owner = np.asarray(x)
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, bytes) and x.dtype.isnative:
        return x
    x = x.astype(x.dtype.newbyteorder("="), copy=False)
    return np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape)


class Sealed:
    """A pytree of integer arrays, its blinding, and how many proofs may still open it.

    Attributes:
      tree: the private data (NumPy arrays, immutable).
      commitment: what may be published.
      counter: the openings left; a proof takes one before it is given out.
      path: the file in which it lives, if it was saved.
    """

    @checked
    def __init__(
        self,
        leaves: Sequence[np.ndarray],
        treedef: Any,
        commitment: Commitment,
        tableau: Tableau,
        counter: Openings,
        path: Path | None = None,
    ):
        self.leaves = tuple(leaves)
        self.treedef = treedef
        self.commitment = replace(commitment, treedef=treedef)
        self.tableau = tableau
        self.counter = counter
        self.path = path

    @property
    def tree(self) -> Any:
        return self.treedef.unflatten(self.leaves)

    @property
    def remaining(self) -> int:
        """Openings left; SealError if their count is lost."""
        return self.counter.remaining

    def __repr__(self) -> str:
        count = sum(x.size for x in self.leaves)
        try:
            left = f"{self.remaining} openings left"
        except SealError:
            left = "its count of openings is lost"
        return f"Sealed({self.commitment}, {count} values, {left})"

    def __eq__(self, other) -> bool:
        return self is other

    __hash__ = object.__hash__

    def with_structure(self, treedef: Any) -> Sealed:
        """The same sealed value, read as another pytree of as many leaves."""
        self.treedef = treedef
        self.commitment = replace(self.commitment, treedef=treedef)
        return self

    def spend(self) -> None:
        """Take one opening; raises SealError when none is left. On disk first, if saved."""
        take([self.counter])

    def share(self) -> bytes:
        """The secrets (blinding and nonces) for a party who knows the values, so that it can prove
        about the same commitment. Takes one opening, which that party then has.
        """
        c = self.commitment
        blinding = np.ascontiguousarray(self.tableau.rows[:, c.code.row :], dtype="<u8")
        secrets = blinding.tobytes() + np.ascontiguousarray(self.tableau.nonces).tobytes()
        self.spend()
        return secrets

    @staticmethod
    @checked
    def secrets_size(commitment: Commitment) -> int:
        """The number of bytes that ``share`` gives."""
        layout = commitment.layout
        return 8 * layout.rows * layout.code.blinding + merkle.NONCE * layout.code.length

    @classmethod
    @checked
    def from_secrets(
        cls,
        tree: Any,
        commitment: Commitment,
        secrets: Annotated[bytes, Secret()],
        *,
        folder: str | Path | None = None,
    ) -> Sealed:
        """The sealed value of a known pytree, from what ``share`` gave; one opening.

        The same secrets give that opening once, in this process. With ``folder``, an existing one,
        a used opening is written down there, and the same holds for all processes that use it, now
        and later. Two proofs with the blinding of one would reveal the values.

        Raises:
          SealError: value, secrets and commitment do not belong together, or the opening was used.
        """
        import jax

        leaves, treedef = jax.tree_util.tree_flatten(tree)
        leaves = [np.asarray(x) for x in leaves]
        described = tuple(x.shape for x in leaves), tuple(x.dtype.name for x in leaves)
        if described != (commitment.shapes, commitment.dtypes):
            raise SealError("the commitment is to values of other shapes or types")
        leaves, secrets = [immutable(x) for x in leaves], bytes(secrets)
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
        counter = received(commitment.digest.hex(), None if folder is None else Path(folder))
        if counter.remaining < 1:
            raise SealError("the opening that these secrets give was used before")
        return cls(leaves, treedef, commitment, tableau, counter)

    @checked
    def save(self, path: str | Path) -> None:
        """Write data, blinding and nonces to ``path``, and the openings left to a file beside it
        that is named after the commitment. A file that is there is never overwritten, but by the
        same sealed value.
        """
        path = Path(path).resolve()
        if self.path not in (None, path):
            raise SealError(
                f"this sealed value lives in {self.path}; a copy would have openings of its own"
            )
        with Draft(path, self._encode(), private=True) as draft:
            if self.path is None:
                with self.counter.starting(path.parent):
                    try:
                        draft.create()
                    except FileExistsError:
                        raise SealError(f"{path} exists; a seal does not replace it") from None
            else:
                _ = self.remaining
                if path.exists() and _read(path)[0] != self.commitment:
                    raise SealError(f"{path} holds another sealed value by now")
                draft.replace()
        self.path = path
        sync_folder(path.parent)

    def _encode(self) -> bytes:
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
        return buffer.getvalue()

    @classmethod
    @checked
    def load(cls, path: str | Path, like: Any = None) -> Sealed:
        """Read a sealed value; ``like`` gives the pytree structure (default: a list of leaves)."""
        import jax

        path = Path(path).resolve()
        commitment, leaves, blinding, nonces = _read(path)
        try:
            rows = commitment.layout.matrix([x.astype(np.float64) for x in leaves])
            rows = np.concatenate([rows, blinding], axis=1)
            tableau = Tableau(rows, commitment.code.log_length, nonces)
        except Exception as error:  # whatever the file holds
            raise SealError(f"{path} is not a sealed value, or damaged") from error
        if tableau.root != commitment.root:
            raise SealError(f"{path} is damaged: its data do not give its commitment")
        tree = list(leaves) if like is None else like
        treedef: Any = jax.tree_util.tree_structure(tree)
        if treedef.num_leaves != len(leaves):
            raise SealError(f"{path} holds {len(leaves)} arrays, not {treedef.num_leaves}")
        counter = Openings(commitment.digest.hex(), commitment.openings)
        counter.resume(path.parent)
        return cls(leaves, treedef, commitment, tableau, counter, path)


def _read(path: Path) -> tuple[Commitment, list[np.ndarray], np.ndarray, np.ndarray]:
    """Commitment, values, blinding and nonces as a file has them; SealError if it has none."""
    try:
        with np.load(path, allow_pickle=False) as data:
            commitment = Commitment.from_json(json.loads(bytes(data["meta"])))
            leaves = [immutable(data[f"leaf{i}"]) for i in range(len(commitment.shapes))]
            return commitment, leaves, data["blinding"], data["nonces"]
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever the file holds
        raise SealError(f"{path} is not a sealed value, or damaged") from error


def seal_arrays(arrays, treedef, openings: int, profile: str, entropy: Entropy) -> Sealed:
    """``seal`` for flattened arrays."""
    profile_named(profile)
    if not 1 <= openings <= MAX_OPENINGS:
        raise SealError(f"a sealed value has 1 to {MAX_OPENINGS:,} openings, not {openings:,}")
    arrays = [immutable(x) for x in arrays]
    shapes = tuple(x.shape for x in arrays)
    layout = committed_layout(shapes, openings, profile)
    values = layout.matrix([x.astype(np.float64) for x in arrays])
    noise = entropy.field((layout.rows, layout.code.blinding))
    tableau = Tableau.fresh(
        np.concatenate([values, noise], axis=1), layout.code.log_length, entropy
    )
    dtypes = tuple(x.dtype.name for x in arrays)
    commitment = Commitment(tableau.root, shapes, dtypes, openings, profile)
    counter = Openings(commitment.digest.hex(), openings)
    return Sealed(arrays, treedef, commitment, tableau, counter)
