"""Who made an equation: the function of JAX, Flax or Optax that a user's line calls."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import cache

from zkjax.program.jaxprs import library_frames

# Part of a file's path -> where its functions are public, and how users write that.
HOMES = (
    ("jax/_src/numpy/linalg", "jax.numpy.linalg", "jnp.linalg"),
    ("jax/_src/numpy/fft", "jax.numpy.fft", "jnp.fft"),
    ("jax/_src/numpy/", "jax.numpy", "jnp"),
    ("jax/_src/lax/linalg", "jax.numpy.linalg", "jnp.linalg"),
    ("jax/_src/lax/fft", "jax.numpy.fft", "jnp.fft"),
    ("jax/_src/lax/", "jax.lax", "lax"),
    ("jax/_src/nn/", "jax.nn", "jax.nn"),
    ("jax/_src/ops/", "jax.ops", "jax.ops"),
    ("jax/_src/random", "jax.random", "jax.random"),
    ("jax/_src/image/", "jax.image", "jax.image"),
    ("jax/_src/scipy/special", "jax.scipy.special", "jax.scipy.special"),
    ("jax/_src/scipy/linalg", "jax.scipy.linalg", "jax.scipy.linalg"),
    ("jax/_src/scipy/signal", "jax.scipy.signal", "jax.scipy.signal"),
    ("jax/_src/scipy/stats", "jax.scipy.stats", "jax.scipy.stats"),
    ("optax/", "optax", "optax"),
    ("flax/linen/", "flax.linen", "nn"),
    ("flax/nnx/", "flax.nnx", "nnx"),
)
OPERATORS = {
    "truediv": "/",
    "rtruediv": "/",
    "floordiv": "//",
    "rfloordiv": "//",
    "mod": "%",
    "rmod": "%",
    "divmod": "divmod",
    "pow": "**",
    "rpow": "**",
    "matmul": "@",
    "rmatmul": "@",
    "add": "+",
    "radd": "+",
    "sub": "-",
    "rsub": "-",
    "mul": "*",
    "rmul": "*",
    "neg": "-",
    "lshift": "<<",
    "rshift": ">>",
    "and": "&",
    "or": "|",
    "xor": "^",
    "invert": "~",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
}
INLINED = {"logistic": "jax.nn.sigmoid"}
AROUND = {
    "Module",
    "apply",
    "chain",
    "flatten",
    "init",
    "masked",
    "named_chain",
    "partition",
    "ufunc",
    "with_extra_args_support",
}


@cache
def public_name(file: str, function: str) -> str:
    """How a user writes a function of a library's file: ``jnp.interp``, ``optax.adam``; or ''."""
    path = file.replace("\\", "/")
    first = function.split(".")[0]
    if path.endswith("jax/_src/numpy/array_methods.py"):
        operator = first.removeprefix("_operator_")
        if operator != first and operator in OPERATORS:
            return f"'{OPERATORS[operator]}'"
        if first == "_getitem":
            return "x[...]"
        if first == "_IndexUpdateRef":
            return f"x.at[...].{function.rpartition('.')[2]}"
    for part, module, written in HOMES:
        if part not in path:
            continue
        for name in (first, first.lstrip("_"), first.removesuffix("_impl").lstrip("_")):
            if name in AROUND or not name.isidentifier() or name.startswith("_"):
                continue
            if hasattr(importlib.import_module(module), name):
                return f"{written}.{name}"
        return ""
    return ""


def called(path: Iterable) -> str:
    """The public function by which the user's line made an equation, given with all equations
    around it, the outermost first; or ''.
    """
    found = ""
    for eqn in path:
        frames = library_frames(eqn)
        if frames is not None:  # a line of the user's: what follows belongs to it
            names = [public_name(file, function) for file, function in frames]
            found = next((name for name in names if name), "")
            if not found and any("pjit" in file for file, _ in frames):  # inlined
                found = INLINED.get(eqn.primitive.name) or public_name(
                    "jax/_src/numpy/", eqn.primitive.name
                )
        if not found:
            found = _called_body(eqn)
    return found


def _called_body(eqn) -> str:
    """The function that a ``jit`` of a library calls."""
    inner = eqn.params.get("jaxpr")
    info = getattr(getattr(inner, "jaxpr", inner), "debug_info", None)
    name, _, place = str(getattr(info, "func_src_info", "") or "").partition(" at ")
    return public_name(place.rpartition(":")[0], name) if place else ""


def in_backward_pass(path: Iterable) -> bool:
    """Whether one of these equations belongs to the transpose of a linear map, as JAX makes it for
    ``grad`` and ``vjp``.
    """
    return any("transpose(" in str(eqn.source_info.name_stack) for eqn in path)
