"""Byte-level text that every machine with Python has: sources to train on, prose to fine-tune
on.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np


def library_sources(limit: int = 4_000_000) -> np.ndarray:
    """The standard library's top-level modules, concatenated in name order: (n,) uint8."""
    folder = Path(sysconfig.get_path("stdlib"))
    data = b"\n".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    return np.frombuffer(data[:limit], dtype=np.uint8)


def documentation() -> np.ndarray:
    """The text of ``pydoc_data.topics``, Python's reference documentation: (n,) uint8."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    return np.frombuffer(text.encode(), dtype=np.uint8)


def batches(data: np.ndarray, batch: int, length: int, seed: int):
    """Endless random batches (batch, length + 1) uint8; deterministic in the seed."""
    rng = np.random.default_rng(seed)
    while True:
        starts = rng.integers(0, len(data) - length - 1, batch)
        yield np.stack([data[s : s + length + 1] for s in starts])
