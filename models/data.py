"""Byte-level text that every machine with Python has: sources to train on, prose to fine-tune
on.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np

from zkjax._arguments import checked
from zkjax._marks import Between
from zkjax.errors import OptionError
from zkjax.models.config import Size

__all__ = ["batches", "documentation", "library_sources"]


@checked
def library_sources(limit: Annotated[int, Between(0, 1 << 40)] = 4_000_000) -> np.ndarray:
    """The standard library's top-level modules, concatenated in name order: (n,) uint8."""
    folder = Path(sysconfig.get_path("stdlib"))
    data = b"\n".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    return np.frombuffer(data[:limit], dtype=np.uint8)


def documentation() -> np.ndarray:
    """The text of ``pydoc_data.topics``, Python's reference documentation: (n,) uint8."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    return np.frombuffer(text.encode(), dtype=np.uint8)


@checked
def batches(
    data: np.ndarray, batch: Size, length: Size, seed: Annotated[int, Between(0, 1 << 128)]
) -> Iterator[np.ndarray]:
    """Endless random batches (batch, length + 1) uint8; deterministic in the seed.

    Raises:
      OptionError: data are not one text that is longer.
    """
    if data.ndim != 1 or data.dtype.kind not in "iu" or len(data) <= length + 1:
        raise OptionError(
            f"data = {data.dtype}{list(data.shape)}; batches are cut from more than {length + 1} "
            "tokens, integers (n,)"
        )
    return _batches(data, batch, length, np.random.default_rng(seed))


def _batches(
    data: np.ndarray, batch: int, length: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    while True:
        starts = rng.integers(0, len(data) - length - 1, batch)
        yield np.stack([data[s : s + length + 1] for s in starts])
