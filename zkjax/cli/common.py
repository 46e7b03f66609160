"""Exit codes and error messages that all commands share."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from zkjax.cli import facts, live, show
from zkjax.errors import OptionError, VerificationError, ZkjaxError

ACCEPTED, REJECTED, UNUSABLE = 0, 1, 2
EXTRAS = {  # what each optional part of the package needs
    "models": ("flax", "optax", "safetensors"),
    "plot": ("matplotlib",),
    "adapter": ("flax", "optax", "safetensors", "cryptography", "websockets"),
}


AsJson = Annotated[
    bool, typer.Option("--json", help="Answer by one JSON object, as docs/json.md describes it.")
]


class ProfileName(StrEnum):
    """The security profiles, as the command line offers them."""

    S100 = "s100"
    S128 = "s128"


def sentence(error: Exception) -> str:
    if isinstance(error, ZkjaxError | OSError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def require_installed(extra: str) -> None:
    """OptionError unless the libraries of optional parts, as in "models,plot", are installed."""
    for part in filter(None, extra.split(",")):
        for name in EXTRAS[part]:
            if importlib.util.find_spec(name) is None:
                raise OptionError(
                    f"this needs {name}: pip install 'zkjax[{extra}]', or in a checkout "
                    f"pip install -e '.[{extra}]'"
                )


def answers(extra: str = "") -> Callable:
    """A command that ends in a sentence and an exit code: 1 a proof is rejected, 2 anything else.

    ``extra`` names the optional parts that it needs; that they are installed is checked before any
    work. A command with ``--json`` (a parameter ``as_json``) answers by an object in every case.
    """

    def decorate(command: Callable) -> Callable:
        name = command.__name__

        @functools.wraps(command)
        def run(*args, **kwargs):
            as_json = kwargs.get("as_json", False)
            live.running.set(name)
            try:
                require_installed(extra)
                return command(*args, **kwargs)
            except VerificationError as error:
                if as_json:
                    show.as_json(facts.rejected(name, error))
                else:
                    show.rejected(error)
                raise typer.Exit(REJECTED) from None
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except Exception as error:  # whatever a file holds, the answer is a sentence
                if as_json:
                    show.as_json(facts.unusable(name, sentence(error)))
                else:
                    show.unusable(sentence(error))
                raise typer.Exit(UNUSABLE) from None

        return run

    return decorate
