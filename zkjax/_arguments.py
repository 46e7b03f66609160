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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np

from zkjax._marks import MARKS, Between, Secret
from zkjax.errors import OptionError, ZkjaxError

F = TypeVar("F", bound=Callable[..., Any])


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


def typed(fn: F) -> F:
    """``checked`` of types alone: of a function that reads what others may have written, or runs
    what they wrote, in which any other error is one of this package, or theirs.
    """
    return checked(fn, unfit=())


def checked(fn: F, unfit: tuple[type[Exception], ...] = UNFIT) -> F:
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
        except unfit as error:
            if "forward-mode" in str(error):  # JAX's, of how the function is differentiated
                raise
            told = ((n, _shown(v, hints().get(n))) for n, v in bound.arguments.items())
            given = ", ".join(f"{n} = {text}" for n, text in told)
            raise OptionError(
                f"{_name(fn)} does not take these arguments together: {error}; given are {given}"
            ) from error

    return typing.cast(F, run)


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """The annotated types of a class's fields."""
    return typing.get_type_hints(kind, include_extras=True)


def _name(fn: Callable) -> str:
    """What a user calls it: by the name of its module, or of ``zkjax`` or ``zkjax.fixed``."""
    home = str(getattr(fn, "__module__", ""))
    if not home.startswith(("zkjax.models.", "zkjax.proofs.")):
        home = "zkjax.fixed" if home.startswith("zkjax.fixed") else "zkjax"
    name = getattr(fn, "__qualname__", "function").removesuffix(".__init__")
    return f"{home}.{name}".replace(".<locals>", "(...)")


def described(value: Any) -> str:
    """A value in a few words: a type and a shape, or itself if it is short."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return f"{dtype}[{','.join(map(str, shape))}]"
    if value is None or isinstance(value, bool | int | float | str | bytes | Path):
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:37]}..."
    return _a(type(value))


def _shown(value: Any, wanted: Any) -> str:
    """A value as messages show it; of a secret one the type alone."""
    secret = any(isinstance(mark, Secret) for mark in typing.get_args(wanted))
    return _a(type(value)) if secret else described(value)


def _a(kind: type) -> str:
    name = kind.__name__
    spelled = name[:2].isupper()  # an SSLContext
    return f"{'an' if name[0] in ('AEFHILMNORSX' if spelled else 'AEIOaeio') else 'a'} {name}"


def require(value: Any, wanted: Any, what: str) -> None:
    """OptionError unless a value is of an annotated type."""
    told = _refused(value, wanted)
    if told:
        raise OptionError(f"{what} = {_shown(value, wanted)}; it is {told}")


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
                told = told or ("an integer" if base is int else "a number")
                return f"{told} from {_number(mark.low)} to {_number(mark.high)}"
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
        return _refused_items(value, item, "a list, of which each is") if right else "a list"
    if origin in (Mapping, dict):
        if not isinstance(value, Mapping):
            return NAMES[Mapping]
        key, item = typing.get_args(wanted) or (Any, Any)
        return _refused_items(value, key, "a dictionary, of which each key is") or _refused_items(
            value.values(), item, "a dictionary, of which each value is"
        )
    kind = origin or wanted
    if not isinstance(kind, type):
        return ""
    return "" if isinstance(value, kind) else NAMES.get(kind) or _a(kind)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


NAMES: dict[type, str] = {
    bool: "True or False",
    str: "a string",
    bytes: "bytes",
    Path: "a path",
    dict: "a dictionary",
    Mapping: "a dictionary",
    Iterable: "a list, or something else to iterate over",
}


def _refused_items(values: Iterable, wanted: Any, told: str) -> str:
    refused = next(filter(None, (_refused(value, wanted) for value in values)), "")
    return refused and f"{told} {refused}"


def _refused_tuple(value: Any, wanted: Any) -> str:
    """Of a tuple type, or of a named tuple, for which any sequence of its fields will do."""
    parts: Sequence[Any]
    if isinstance(wanted, type) and hasattr(wanted, "_fields"):
        parts = [hints_of(wanted).get(f, Any) for f in wanted._fields]  # type: ignore[attr-defined]
        told = f"a {wanted.__name__}({', '.join(wanted._fields)})"  # type: ignore[attr-defined]
    else:
        parts, told = typing.get_args(wanted), "a tuple"
    if not isinstance(value, tuple | list):
        return told
    if len(parts) == 2 and parts[1] is Ellipsis:
        parts = [parts[0]] * len(value)
    fits = len(parts) == len(value)
    return "" if fits and not any(map(_refused, value, parts)) else told
