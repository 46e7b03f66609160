"""Exit codes and error messages that all commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import StrEnum

import typer

from zkjax.cli import show
from zkjax.errors import VerificationError, ZkjaxError

ACCEPTED, REJECTED, UNUSABLE = 0, 1, 2
EXTRAS = {"cryptography", "flax", "matplotlib", "optax", "safetensors", "websockets"}


class ProfileName(StrEnum):
    """The security profiles, as the command line offers them."""

    S100 = "s100"
    S128 = "s128"


def sentence(error: Exception) -> str:
    if isinstance(error, ZkjaxError | OSError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def answers(extra: str) -> Callable:
    """A command that ends in a sentence and an exit code: 1 a proof is rejected, 2 anything else.

    ``extra`` is what to install if an optional library is missing.
    """

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def run(*args, **kwargs):
            try:
                return command(*args, **kwargs)
            except VerificationError as error:
                show.rejected(error)
                raise typer.Exit(REJECTED) from None
            except ImportError as error:
                missing = (error.name or "").partition(".")[0]
                if missing not in EXTRAS:
                    raise
                show.unusable(f"this needs {missing}; in the checkout: pip install -e '.[{extra}]'")
                raise typer.Exit(UNUSABLE) from None
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except Exception as error:
                show.unusable(sentence(error))
                raise typer.Exit(UNUSABLE) from None

        return run

    return decorate
