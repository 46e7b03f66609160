"""Modules that can be called like the function they are named after.

Importing ``zkjax.prove`` binds the submodule as ``zkjax.prove``; both ``import zkjax.prove`` and
``zkjax.prove(fn)`` have to work, in any order of imports.
"""

from __future__ import annotations

import sys
import types


class _CallableModule(types.ModuleType):
    def __call__(self, *args, **kwargs):
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(name: str) -> None:
    """Let the module called ``name`` stand for its function of the same name."""
    sys.modules[name].__class__ = _CallableModule
