"""The few places where JAX versions differ, and the 64-bit scope. Nothing else imports private
names.
"""

from __future__ import annotations

import os
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def x64():
    """The 64-bit scope of JAX as a context manager; other code in the process is untouched."""
    return jax.enable_x64(True)


def scan_sizes(params: dict) -> tuple[int, int]:
    """(number of constants, number of carries) of a ``scan`` equation."""
    if "num_consts" in params:  # jax 0.10 and 0.11
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(list(consts.vals)), len(list(carry.vals))


def cache_folder() -> Path:
    """The per-user folder for compiled kernels (``ZKJAX_CACHE`` overrides it), mode 0700."""
    root = os.environ.get("ZKJAX_CACHE")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = base if root else base / "zkjax"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def enable_kernel_cache() -> None:
    """Keep compiled kernels between processes, in ``cache_folder``; never called on import.

    The command line, ``prove`` and ``seal`` do so. A cache that JAX has been given already stays as
    it is, ``ZKJAX_CACHE=off`` keeps nothing, and neither does a folder that cannot be written.
    """
    given = jax.config.values["jax_compilation_cache_dir"]
    if given is not None or os.environ.get("ZKJAX_CACHE") == "off":
        return
    try:
        folder = cache_folder()
    except OSError:
        return
    compilation_cache.reset_cache()  # JAX looks for its cache once
    jax.config.update("jax_compilation_cache_dir", str(folder / "kernels"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
