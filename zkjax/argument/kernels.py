"""A register of the compiled kernels a process has used, for reports."""

from __future__ import annotations

_USED: set[tuple] = set()


def used(name: str, *shape) -> None:
    """Note the use of a kernel for a shape; every distinct pair is one compilation."""
    _USED.add((name, *shape))


def count() -> int:
    """Distinct kernels used so far."""
    return len(_USED)


def reset() -> None:
    """Forget the register (not the compiled kernels)."""
    _USED.clear()
