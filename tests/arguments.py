"""Every public signature, each argument in turn, times bad values: nothing but a ``ZkjaxError`` (or
Python's TypeError for a wrong call) leaves the library, and it names what is wrong.

Signatures are found, not listed: a new public function fails its ``test_arguments`` until there is
a good call of it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import tempfile
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

import zkjax

FOLDER = Path(tempfile.mkdtemp())
Example = Callable[[], dict[str, Any]]


class Odd:
    """Something no library has seen."""

    def __repr__(self) -> str:
        return "Odd()"


BAD: dict[str, Any] = {
    "None": None,
    "True": True,
    "0": 0,
    "-1": -1,
    "3": 3,
    "63": 63,
    "2**31": 2**31,
    "10**30": 10**30,
    "-10**30": -(10**30),
    "0.5": 0.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "1j": 1j,
    "''": "",
    "text": "no such/thing",
    "a NUL": "a\0b",
    "bytes": b"\xff\x00",
    "()": (),
    "a tuple": (1, "x"),
    "[]": [],
    "lists": [[1, 2], [3]],
    "{}": {},
    "a dictionary": {"x": 1},
    "a set": {1, 2},
    "a generator": (i for i in range(2)),
    "a function": lambda *_: None,
    "a class": int,
    "an object": Odd(),
    "floats": np.array([0.5, np.nan, np.inf]),
    "wide integers": np.array([[2**60]]),
    "no elements": np.zeros((0, 3), np.int8),
    "a scalar": np.float64(2.5),
    "texts": np.array(["a", "b"]),
    "objects": np.array([None, {}], object),
    "complex numbers": np.array([1j]),
    "times": np.array(["2020-01-01"], "datetime64[D]"),
    "other bytes": np.array([1, 2], ">i4"),
    "a path": Path(__file__) / "file",  # in no folder
}


@functools.cache
def bad() -> dict[str, Any]:
    """With an array of JAX, which an import shall not make: it would start a backend."""
    return BAD | {"float32": jnp.ones(3, jnp.float32)}


def saved(name: str, write: Callable[[Path], None]) -> Path:
    """A path at which something is written once."""
    path = FOLDER / name
    if not path.exists():
        write(path)
    return path


def new_path() -> Path:
    return Path(tempfile.mkdtemp(dir=FOLDER)) / "new"


def public(module) -> Iterator[tuple[str, Any]]:
    """Names and objects of what a module says is public."""
    for name in module.__all__:
        yield f"{module.__name__}.{name}", getattr(module, name)


def functions(modules: Collection[str]) -> Iterator[tuple[str, Callable]]:
    """Every public function, class and public method, by the first name that it has."""
    seen: list[Any] = []
    for module in map(importlib.import_module, modules):
        for name, found in public(module):
            if any(found is other for other in seen):
                continue
            seen.append(found)
            if inspect.ismodule(found):
                found = getattr(found, name.rpartition(".")[2], found)
            if inspect.ismodule(found):
                continue
            if inspect.isclass(found) and not issubclass(found, Exception):
                yield name, found
                for method in vars(found):
                    member = getattr(found, method)
                    if not method.startswith("_") and (
                        inspect.isfunction(member) or inspect.ismethod(member)
                    ):
                        yield f"{name}.{method}", member
            elif inspect.isroutine(found):
                yield name, found


def parameters(fn: Callable) -> list[str]:
    """Those that can be given, but for private ones."""
    given = inspect.signature(fn).parameters.values()
    kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [p.name for p in given if p.kind not in kinds and not p.name.startswith("_")]


def plainly(name: str, fn: Callable, arguments: dict[str, Any]) -> Any:
    return fn(**arguments)


class Calls:
    """The public functions of some modules, with a good call of each.

    Args:
      examples: {name: its arguments}. What is not named keeps its default.
      more: functions that others give, such as transformations, with their arguments.
      internal: public in Python, called by zkjax only.
      call: how to call a function by its name, itself and its arguments.
    """

    def __init__(
        self,
        modules: Collection[str],
        examples: Mapping[str, Example],
        more: Mapping[str, tuple[Callable, Example]] | None = None,
        internal: Collection[str] = (),
        call: Callable[[str, Callable, dict[str, Any]], Any] = plainly,
    ):
        more = more or {}
        self.found = {
            name: fn
            for name, fn in functions(modules)
            if set(parameters(fn)) - {"self"} and name not in internal
        }
        self.examples = {**examples, **{name: example for name, (_, example) in more.items()}}
        self.all = {**self.found, **{name: fn for name, (fn, _) in more.items()}}
        self.cases = [(n, p) for n, fn in self.all.items() for p in parameters(fn) if p != "self"]
        self._call = call

    def call(self, function: str, changes: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """A good call, but for some of its arguments."""
        return self._call(function, self.all[function], {**self.examples[function](), **changes})

    def require_examples(self) -> None:
        """Of every signature that was found, and of no other."""
        assert set(self.all) == set(self.examples)
        assert len(bad()) >= 30

    def require_refusals(self, name: str, parameter: str) -> None:
        """Of each bad value of a parameter, unless it is a good one there."""
        wrong = []
        warnings.simplefilter("ignore")
        for told, value in bad().items():
            try:
                with contextlib.chdir(tempfile.mkdtemp(dir=FOLDER)):
                    self.call(name, {parameter: value})
            except zkjax.ZkjaxError as error:
                text = str(error)
                if len(text.split()) < 3 or "internal" in text:
                    wrong.append(f"{told}: says {text!r}")
            except OSError as error:  # the operating system's word on a file
                if not error.filename:
                    wrong.append(f"{told}: {type(error).__name__}: {error}")
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                if isinstance(error, TypeError) and Path(last.filename).is_relative_to(TESTS):
                    continue  # Python's, for a wrong call
                place = f"{Path(last.filename).name}:{last.lineno}"
                wrong.append(f"{told}: {type(error).__name__} at {place}: {str(error)[:100]}")
        assert not wrong, "\n".join(wrong)


TESTS = Path(__file__).parent
