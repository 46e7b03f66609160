"""Compiled kernels: what a proof needs is known before it starts, and compiled in threads.

A kernel is compiled once in a process for each set of shapes. ``Use`` names one: modules with
kernels say which uses they will make, and ``compile_ahead`` makes them, on zeros.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np


class Use(NamedTuple):
    """A kernel for arguments of given (shape, dtype name), with its static arguments."""

    kernel: Kernel
    arguments: tuple[tuple[tuple[int, ...], str], ...]
    static: tuple[tuple[str, Any], ...] = ()


_USED: set[Use] = set()
_READY: set[Use] = set()


class Kernel:
    """A function that is compiled when it is first used, and runs in the 64-bit scope.

    Args:
      name: for reports.
      build: makes the function; called once, so that JAX is imported no earlier than needed.
      static: names of its static arguments.
    """

    def __init__(self, name: str, build: Callable[[], Callable], static: tuple[str, ...] = ()):
        self.name, self._build, self._static = name, build, static

    def __repr__(self) -> str:
        return f"Kernel({self.name})"

    @cached_property
    def _compiled(self) -> Callable:
        import jax

        from zkjax._compat import enable_kernel_cache

        enable_kernel_cache()
        return jax.jit(self._build(), static_argnames=self._static)

    def __call__(self, *arguments, **static):
        from zkjax._compat import x64

        use = Use(
            self,
            tuple((x.shape, x.dtype.name) for x in arguments),
            tuple(sorted(static.items())),
        )
        _USED.add(use)
        with x64():
            result = self._compiled(*arguments, **static)
        _READY.add(use)
        return result


def on_device(values: np.ndarray):
    """The same array where kernels run, for arguments that many calls share."""
    import jax.numpy as jnp

    from zkjax._compat import x64

    with x64():
        return jnp.asarray(values)


def _compile(use: Use) -> Use:
    from zkjax._compat import x64

    with x64():
        zeros = [np.zeros(shape, dtype)[()] for shape, dtype in use.arguments]
        use.kernel._compiled(*zeros, **dict(use.static))
    return use


def compile_ahead(
    uses: Iterable[Use], progress: Callable[[str, int, int], None] = lambda name, done, of: None
) -> None:
    """Compile what is not compiled yet, in as many threads as there are processors.

    ``progress`` is called in this thread with the name of a kernel that is done, and how many are
    done of how many.
    """
    missing = [use for use in dict.fromkeys(uses) if use not in _READY]
    if not missing:
        return
    # One touch from this thread: what builds a kernel and what imports JAX is not for several.
    for use in missing:
        use.kernel._compiled  # noqa: B018
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [pool.submit(_compile, use) for use in missing]
        for done, future in enumerate(as_completed(futures), 1):
            use = future.result()
            _READY.add(use)
            progress(use.kernel.name, done, len(missing))


def uses() -> frozenset[Use]:
    """Every use since the last ``reset``."""
    return frozenset(_USED)


def count() -> int:
    """Distinct kernels used so far."""
    return len(_USED)


def missing(needed: Iterable[Use]) -> int:
    """How many of these are not compiled yet in this process."""
    return len(set(needed) - _READY)


def reset() -> None:
    """Forget the register (not the compiled kernels)."""
    _USED.clear()
