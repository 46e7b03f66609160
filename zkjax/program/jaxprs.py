"""What JAX's equations say: the bodies of calls, values known at trace time, source lines."""

from __future__ import annotations

import importlib
import importlib.util
import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any

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

# What gives another value each time it is called, or is not JAX: it is no constant.
NOT_CONSTANT = {"io_callback", "new_ref", "pure_callback", "rng_uniform"}

# What a device says to others of its mesh, and where values are to lie.
ON_ONE_DEVICE = {
    "all_gather",
    "all_gather_invariant",
    "all_to_all",
    "axis_index",
    "mesh_cast",
    "pbroadcast",
    "pcast",
    "pmax",
    "pmin",
    "ppermute",
    "psum",
    "psum_invariant",
    "pvary",
    "reduce_scatter",
    "reshard",
    "sharding_constraint",
}


def on_one_device(eqn, operands: Sequence, reshaped: Callable[[Any, tuple], Any]) -> list:
    """What one of ``ON_ONE_DEVICE`` gives in a mesh of one device: its operands, and index 0; zeros
    where a permutation sends the device nothing.
    """
    avals = [v.aval for v in eqn.outvars]
    if eqn.primitive.name == "axis_index":
        return [np.zeros((), avals[0].dtype)]
    if eqn.primitive.name == "ppermute" and not eqn.params["perm"]:
        return [np.zeros(a.shape, a.dtype) for a in avals]
    return [reshaped(x, tuple(a.shape)) for x, a in zip(operands, avals, strict=True)]


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
    """The body of a call-like equation (jit, custom_jvp_call, remat, shard_map over one device,
    ...), or None.
    """
    from jax.extend.core import ClosedJaxpr

    alone = eqn.primitive.name == "shard_map" and eqn.params["mesh"].size == 1
    if eqn.primitive.name not in CALLS and not alone:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if inner is not None:
            if hasattr(inner, "jaxpr"):
                return inner
            return ClosedJaxpr(inner, ())
    return None


def primitives_of(eqn) -> set[str]:
    """The names of an equation's primitive and of all those in its bodies."""
    names = {eqn.primitive.name}
    for value in eqn.params.values():
        for body in value if isinstance(value, tuple | list) else (value,):
            for inner in getattr(getattr(body, "jaxpr", body), "eqns", ()):
                names |= primitives_of(inner)
    return names


def scans_of(eqn) -> int:
    """How many scans an equation holds, in any branch and body, those left unused not counted.

    Scans are numbered in the order in which they stand, whichever of them come to be proved.
    """
    name, inner = eqn.primitive.name, inner_jaxpr(eqn)
    if inner is not None:
        return scans_in(inner)
    if name == "cond":
        return sum(map(scans_in, eqn.params["branches"]))
    return 1 + scans_in(eqn.params["jaxpr"]) if name == "scan" else 0


def scans_in(closed) -> int:
    return sum(map(scans_of, used_equations(closed.jaxpr)))


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
    """A value known at trace time; UnsupportedPrimitiveError for a random key or a reference."""
    if hasattr(value, "addupdate"):
        raise UnsupportedPrimitiveError(
            "references cannot be used inside; read them outside and pass in what they hold"
        )
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


def _frames(eqn) -> tuple[list, Any]:
    """The frames that made an equation inside libraries, outermost first, and the user's frame
    around them, or None.
    """
    made = getattr(eqn.source_info, "traceback", None)
    inside: list = []
    for frame in made.frames if made is not None else ():
        name = frame.file_name
        if not name.startswith("<") and not _of_library(os.path.abspath(name)):
            return inside[::-1], frame
        inside.append(frame)
    return inside[::-1], None


def source_line(eqn) -> str:
    """file:line (function) of the innermost user frame of an equation, or ''."""
    frame = _frames(eqn)[1]
    return f"{frame.file_name}:{frame.line_num} ({frame.function_name})" if frame else ""


def line_of(error: BaseException) -> str:
    """file:line (function) of the innermost user frame that an exception passed, or ''."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        if not name.startswith("<") and not _of_library(os.path.abspath(name)):
            found = f"{name}:{line} ({frame.f_code.co_qualname})"
    return found


def library_frames(eqn) -> list[tuple[str, str]] | None:
    """(file, function) of what the user's line called to make an equation, outermost first; None if
    no line of the user's is known.
    """
    inside, user = _frames(eqn)
    return [(f.file_name, f.function_name) for f in inside] if user else None


def _of_library(path: str) -> bool:
    folder = next((f for f in _library_folders() if path.startswith(f)), None)
    if folder is None:
        return False
    first, *rest = path[len(folder) :].split(os.sep)
    ours = folder.endswith(f"{os.sep}zkjax{os.sep}") and first in _OWN_USERS
    return not ours or rest[-1:] == ["numerics.py"]
