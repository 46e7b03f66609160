"""Marks on annotated types: what an argument is where its Python type does not say enough.

``Annotated[Any, Tree()]`` is a dictionary of arrays, ``Annotated[int, Between(0, 9)]`` a digit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np


class Between(NamedTuple):
    """The range of a number."""

    low: float
    high: float


class Numbers:
    """An array of real numbers: of NumPy or JAX, or one number."""


class Values:
    """The same, of any dtype that JAX has for them."""


class HostNumbers:
    """What NumPy makes an array of real numbers of."""


class IntegerType:
    """A dtype of integers."""


class FileName:
    """A path at which something may be written."""


class Itself:
    """What the function checks itself, by a sentence of its own."""


class Secret:
    """What no message shows."""


class RandomKey:
    """A key of ``jax.random``."""


class Tree:
    """A nested dictionary of arrays of numbers, such as the weights of a model."""


NewPath = Annotated[str | Path, FileName()]


def _is_numbers(value: Any) -> bool:
    return isinstance(value, bool | int | float) or _dtype(value).kind in "biuf"


def _is_values(value: Any) -> bool:
    return _is_numbers(value) or _dtype(value).name.startswith(("bfloat", "float"))


def _dtype(value: Any) -> np.dtype:
    """Of an array; that of objects, if it is none that NumPy knows."""
    if isinstance(getattr(value, "shape", None), tuple):
        with contextlib.suppress(TypeError):
            return np.dtype(getattr(value, "dtype", object))
    return np.dtype(object)


def _is_host_numbers(value: Any) -> bool:
    try:
        return np.asarray(value).dtype.kind in "biuf"
    except (TypeError, ValueError, OverflowError):
        return False


def _is_integer_type(value: Any) -> bool:
    if hasattr(value, "shape"):  # an array is no type, though NumPy asks it for its own
        return False
    try:
        return value is not None and np.dtype(value).kind in "iu"
    except (TypeError, ValueError):
        return False


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str | Path) and "\0" not in str(value)


def _is_key(value: Any) -> bool:
    """Of the kind that ``jax.random.key`` makes, or of the older one."""
    shape, dtype = getattr(value, "shape", None), str(getattr(value, "dtype", ""))
    if dtype.startswith("key<"):
        return shape == ()
    return dtype == "uint32" and isinstance(shape, tuple) and len(shape) == 1


def _is_tree(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return hasattr(value, "shape") and _is_values(value)
    return all(map(_is_tree, value.values()))


def _is_dictionary(value: Any) -> bool:
    return isinstance(value, Mapping) and _is_tree(value)


MARKS: dict[type, tuple[Callable[[Any], bool], str]] = {
    Numbers: (_is_numbers, "an array of numbers (jnp.asarray makes one)"),
    Values: (_is_values, "an array of numbers (jnp.asarray makes one)"),
    HostNumbers: (_is_host_numbers, "an array of numbers, or lists of them"),
    IntegerType: (_is_integer_type, "a type of integers, as jnp.int16"),
    FileName: (_is_file_name, "a path, a string or of pathlib"),
    Itself: (lambda value: True, ""),
    RandomKey: (_is_key, "a key, as jax.random.key(0) makes it"),
    Tree: (_is_dictionary, "a dictionary of arrays of numbers, or of such dictionaries"),
}
