"""Arguments of public functions, checked against the types that their signatures name.

``checked`` makes a function refuse a wrong argument before anything is done with it, by an error
that names the argument, what was given and what is taken. Nothing else than a ``ZkjaxError`` then
leaves the function, whatever it was given.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np

from zkjax.errors import OptionError, ZkjaxError

F = TypeVar("F", bound=Callable[..., Any])


class Between(NamedTuple):
    """The range of a number."""

    low: float
    high: float


class Numbers:
    """An array of real numbers: of NumPy or JAX, or one number."""


class HostNumbers:
    """What NumPy makes an array of real numbers of."""


class IntegerType:
    """A dtype of integers."""


# What goes wrong with arguments of the right types that do not fit each other, as shapes.
UNFIT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)


def checked(fn: F) -> F:
    """The same function, refusing arguments that are not of its annotated types.

    Raises (when called):
      OptionError: an argument is of another type, or arguments do not fit each other.
    """
    signature = inspect.signature(fn)
    names = tuple(signature.parameters)

    @functools.cache
    def hints() -> dict[str, Any]:
        return typing.get_type_hints(fn, include_extras=True)

    @functools.wraps(fn)
    def run(*args, **keywords):
        try:
            bound = signature.bind(*args, **keywords)
        except TypeError as error:
            raise TypeError(f"{_name(fn)}: {error}") from None
        for name in names:
            if name in bound.arguments and name in hints():
                require(bound.arguments[name], hints()[name], f"{_name(fn)}: {name}")
        try:
            return fn(*args, **keywords)
        except ZkjaxError:
            raise
        except UNFIT as error:
            if "forward-mode" in str(error):  # JAX's, of how the function is differentiated
                raise
            given = ", ".join(f"{n} = {described(v)}" for n, v in bound.arguments.items())
            raise OptionError(
                f"{_name(fn)} does not take these arguments together: {error}; given are {given}"
            ) from error

    return typing.cast(F, run)


def _name(fn: Callable) -> str:
    module = str(getattr(fn, "__module__", ""))
    home = "zkjax.fixed." if module.startswith("zkjax.fixed") else "zkjax."
    return home + getattr(fn, "__qualname__", "function").removesuffix(".__init__")


def described(value: Any) -> str:
    """A value in a few words: a type and a shape, or itself if it is short."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return f"{dtype}[{','.join(map(str, shape))}]"
    if value is None or isinstance(value, bool | int | float | str | bytes | Path):
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:37]}..."
    return f"a {type(value).__name__}"


def require(value: Any, wanted: Any, what: str) -> None:
    """OptionError unless a value is of an annotated type."""
    told = _refused(value, wanted)
    if told:
        raise OptionError(f"{what} = {described(value)}; it is {told}")


def _refused(value: Any, wanted: Any) -> str:
    """'' if a value is of a type, else what the type takes."""
    origin = typing.get_origin(wanted)
    if wanted is Any or isinstance(wanted, TypeVar):
        return ""
    if origin is Annotated:
        base, *marks = typing.get_args(wanted)
        for mark in marks:
            if type(mark) in MARKS:
                accepts, told = MARKS[type(mark)]
                return "" if accepts(value) else told
        told = _refused(value, base)
        for mark in marks:
            if isinstance(mark, Between) and (told or not mark.low <= value <= mark.high):
                return f"{told or 'a number'} from {mark.low:,} to {mark.high:,}"
        return told
    if origin is typing.Union or origin is types.UnionType:
        told = [_refused(value, choice) for choice in typing.get_args(wanted)]
        return "" if "" in told else " or ".join(dict.fromkeys(told))
    if origin in (Callable, typing.get_origin(Callable[[], None])):
        return "" if callable(value) else "a function"
    if wanted is type(None):
        return "" if value is None else "None"
    if wanted is int:
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        return "" if whole else "an integer"
    if wanted is float:
        number = isinstance(value, int | float | np.integer | np.floating)
        fits = number and not isinstance(value, bool) and math.isfinite(value)
        return "" if fits else "a finite number"
    if origin is tuple or (isinstance(wanted, type) and issubclass(wanted, tuple)):
        return _refused_tuple(value, wanted)
    if origin is typing.Literal:
        choices = typing.get_args(wanted)
        right = isinstance(value, str) and value in choices
        return "" if right else "one of " + ", ".join(map(repr, choices))
    if origin in (Sequence, list):
        right = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        (item,) = typing.get_args(wanted) or (Any,)
        return "" if right and not any(_refused(v, item) for v in value) else "a list"
    if origin in (Mapping, dict):
        return "" if isinstance(value, Mapping) else "a dictionary"
    kind = origin or wanted
    if not isinstance(kind, type):
        return ""
    return "" if isinstance(value, kind) else NAMES.get(kind, f"a {kind.__name__}")


NAMES = {bool: "True or False", str: "a string", bytes: "bytes", Path: "a path"}


def _refused_tuple(value: Any, wanted: Any) -> str:
    """Of a tuple type, or of a named tuple, for which any sequence of its fields will do."""
    parts: Sequence[Any]
    if isinstance(wanted, type) and hasattr(wanted, "_fields"):
        hints = typing.get_type_hints(wanted, include_extras=True)
        parts = [hints.get(f, Any) for f in wanted._fields]  # type: ignore[attr-defined]
        told = f"a {wanted.__name__}({', '.join(wanted._fields)})"  # type: ignore[attr-defined]
    else:
        parts, told = typing.get_args(wanted), "a tuple"
    if not isinstance(value, tuple | list):
        return told
    if len(parts) == 2 and parts[1] is Ellipsis:
        parts = [parts[0]] * len(value)
    fits = len(parts) == len(value)
    return "" if fits and not any(map(_refused, value, parts)) else told


def _is_numbers(value: Any) -> bool:
    if isinstance(value, bool | int | float):
        return True
    dtype = getattr(value, "dtype", None)
    if not isinstance(getattr(value, "shape", None), tuple) or dtype is None:
        return False
    try:
        return np.dtype(dtype).kind in "biuf"
    except TypeError:
        return False


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


MARKS: dict[type, tuple[Callable[[Any], bool], str]] = {
    Numbers: (_is_numbers, "an array of numbers (jnp.asarray makes one)"),
    HostNumbers: (_is_host_numbers, "an array of numbers, or lists of them"),
    IntegerType: (_is_integer_type, "a type of integers, as jnp.int16"),
}
