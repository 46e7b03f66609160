"""What JAX's equations say: the bodies of calls, values known at trace time, source lines."""

from __future__ import annotations

import importlib
import importlib.util
import os

import numpy as np

from zkjax.errors import UnsupportedPrimitiveError

CALLS = {
    "checkpoint",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "jit",
    "pjit",
    "remat",
    "remat2",
}


def used_equations(jaxpr) -> list:
    """The equations that results depend on, in order; what tracing leaves behind is not proved."""
    used = {v for v in jaxpr.outvars if not hasattr(v, "val")}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or used.intersection(eqn.outvars):
            kept.append(eqn)
            used.update(v for v in eqn.invars if not hasattr(v, "val"))
    return kept[::-1]


def inner_jaxpr(eqn):
    """The body of a call-like equation (jit, custom_jvp_call, remat, ...), or None."""
    from jax.extend.core import ClosedJaxpr

    if eqn.primitive.name not in CALLS:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if inner is not None:
            if hasattr(inner, "jaxpr"):
                return inner
            return ClosedJaxpr(inner, ())
    return None


def fold_constants(eqn, inputs: list[np.ndarray]) -> list:
    """Evaluate an equation whose operands are all known at trace time."""
    if eqn.primitive.name == "broadcast_in_dim":
        shape, dims = eqn.params["shape"], eqn.params["broadcast_dimensions"]
        spread = [1] * len(shape)
        for i, d in enumerate(dims):
            spread[d] = inputs[0].shape[i]
        return [np.broadcast_to(inputs[0].reshape(spread), shape)]
    import jax

    with jax.ensure_compile_time_eval():
        out = eqn.primitive.bind(*inputs, **eqn.params)
    out = out if eqn.primitive.multiple_results else [out]
    return [known_array(v) for v in out]


def known_array(value) -> np.ndarray:
    """A value known at trace time; UnsupportedPrimitiveError for a random key."""
    try:
        return np.asarray(value)
    except TypeError as error:
        raise UnsupportedPrimitiveError(
            "random keys cannot be used inside; draw the numbers outside and pass them in"
        ) from error


_PACKAGES: list[str] = []
_OWN_USERS = ("models", "proofs")  # of our own folders: what they compute is a user's to read


def _library_folders() -> list[str]:
    if not _PACKAGES:
        for name in ("jax", "jaxlib", "flax", "optax", "zkjax"):
            try:
                module = importlib.import_module(name)
            except ImportError:
                continue
            _PACKAGES.extend(os.path.abspath(folder) + os.sep for folder in module.__path__)
    return _PACKAGES


def source_line(eqn) -> str:
    """file:line (function) of the innermost user frame of an equation, or ''."""
    traceback = getattr(eqn.source_info, "traceback", None)
    if traceback is None:
        return ""
    for frame in traceback.frames:
        name = frame.file_name
        if not name.startswith("<") and not _of_library(os.path.abspath(name)):
            return f"{name}:{frame.line_num} ({frame.function_name})"
    return ""


def _of_library(path: str) -> bool:
    folder = next((f for f in _library_folders() if path.startswith(f)), None)
    if folder is None:
        return False
    first, *rest = path[len(folder) :].split(os.sep)
    ours = folder.endswith(f"{os.sep}zkjax{os.sep}") and first in _OWN_USERS
    return not ours or rest[-1:] == ["numerics.py"]
