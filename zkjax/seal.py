"""``seal``: make a sealed value of private data, with a proof that it fits its dtypes if asked."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from zkjax._arguments import checked
from zkjax._callable import make_callable
from zkjax.argument.entropy import Entropy
from zkjax.errors import SealError
from zkjax.program.dtypes import DTYPE_RANGES
from zkjax.prove import prove_ranges
from zkjax.sealed import DEFAULT_OPENINGS, Sealed, seal_arrays


@checked
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

    >>> import numpy as np
    >>> import zkjax
    >>> sealed = zkjax.seal({"w": np.array([1, 2], np.int8)}, openings=2)
    >>> sealed.remaining, sealed.commitment.shapes
    (2, ((2,),))
    """
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
    sealed = seal_arrays(arrays, treedef, openings + 1, profile, entropy)
    prove_ranges(sealed, _entropy=entropy)
    return sealed


make_callable(__name__)
