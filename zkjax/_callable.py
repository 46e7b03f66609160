"""Modules that can be called like the function they are named after.

Importing ``zkjax.prove`` binds the submodule as ``zkjax.prove``; both ``import zkjax.prove`` and
``zkjax.prove(fn)`` have to work, in any order of imports.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable

from zkjax.errors import OptionError


class _CallableModule(types.ModuleType):
    def __call__(self, *args, **kwargs):
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(name: str) -> None:
    """Let the module called ``name`` stand for its function of the same name."""
    sys.modules[name].__class__ = _CallableModule


def positional(fn: Callable, args: tuple, keywords: dict) -> tuple:
    """The arguments of a call in the order of the function's parameters.

    Raises:
      OptionError: ``fn`` does not take these arguments, or takes some by name only.
    """
    if not keywords:
        return args
    try:
        bound = inspect.signature(fn).bind(*args, **keywords)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{getattr(fn, '__name__', fn)!s}: {error}") from error
    if bound.kwargs:
        names = ", ".join(bound.kwargs)
        raise OptionError(
            f"{names} can't be given in order: by name only, or after a parameter that was left "
            "out; give all parameters in order"
        )
    return bound.args
