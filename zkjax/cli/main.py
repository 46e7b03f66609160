"""The ``zkjax`` command: verify a proof, look into one, run the demonstration.

``verify`` and ``inspect`` need NumPy only: they run where JAX is not installed. Exit codes: 0 the
proof is accepted, 1 it is rejected, 2 the input cannot be used.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from zkjax import __version__
from zkjax.cli import adapter, show
from zkjax.cli.bundle import chain_links, load_bundle, load_steps
from zkjax.cli.common import REJECTED, UNUSABLE, ProfileName, answers, sentence
from zkjax.digests import read_digest
from zkjax.errors import StatementError, VerificationError
from zkjax.files import new_folder
from zkjax.verify import require_profile, verify_statement

app = typer.Typer(
    help="Zero-knowledge proofs of JAX programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(adapter.app, name="adapter")


@app.callback(invoke_without_command=True, no_args_is_help=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Zero-knowledge proofs of JAX programs."""
    if version:
        typer.echo(f"zkjax {__version__}")
        raise typer.Exit


Target = Annotated[
    Path,
    typer.Argument(
        metavar="TARGET",
        help="A folder with proof.zkp, statement.zks and claims.json, and perhaps step-1, step-2, "
        "... with those of earlier steps; or a proof file beside the other two.",
        show_default=False,
    ),
]


@app.command()
def verify(
    target: Target,
    statement: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="The statement digest (hex) that you expect."),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="The context that the proof must be bound to."),
    ] = None,
    profile: Annotated[
        ProfileName, typer.Option(help="The least security profile to accept.")
    ] = ProfileName.S100,
) -> None:
    """Check a proof, or a chain of them. Exit code 0: accepted, 1: rejected, 2: the input cannot
    be used.
    """
    try:
        expected = None if statement is None else read_digest(statement)
        bound_to = None if context is None else _bytes(context)
        start = time.perf_counter()
        bundles = load_steps(target)
        links = chain_links(bundles)
        for step, bundle in enumerate(bundles, 1):
            if expected is not None and bundle.statement.digest != expected:
                raise VerificationError(
                    "statement", f"the files are about {bundle.statement.digest.hex()}"
                )
            if bound_to is not None and bundle.claims.context != bound_to:
                raise VerificationError("claims", "the proof is bound to another context")
            require_profile(bundle.claims.profile, profile.value)
            try:
                budget = verify_statement(bundle.statement, bundle.proof())
            except VerificationError as error:
                where = f"step {step} of {len(bundles)}: " if len(bundles) > 1 else ""
                raise VerificationError(error.check, where + error.detail) from error
        seconds = time.perf_counter() - start
        show.accepted(bundles, links, budget, seconds, compared=expected is not None)
    except VerificationError as error:
        show.rejected(error)
        raise typer.Exit(REJECTED) from None
    except Exception as error:  # whatever a file holds, the answer is a sentence
        show.unusable(sentence(error))
        raise typer.Exit(UNUSABLE) from None


@app.command()
def inspect(target: Target) -> None:
    """Print what a proof claims, its sizes and its soundness budget, without verifying it."""
    try:
        show.inspected(load_bundle(target))
    except VerificationError as error:
        show.unusable(f"the files do not fit together: {error}")
        raise typer.Exit(UNUSABLE) from None
    except Exception as error:
        show.unusable(sentence(error))
        raise typer.Exit(UNUSABLE) from None


@app.command()
@answers("models,plot")
def demo(
    out: Annotated[Path, typer.Option(help="The new folder to write.")] = Path("out"),
    steps: Annotated[
        int, typer.Option(min=1, help="Training steps to prove, each in a proof of its own.")
    ] = 1,
    profile: Annotated[
        ProfileName, typer.Option(help="The security profile of the proof.")
    ] = ProfileName.S100,
) -> None:
    """Fine-tune a small LLaMA with LoRA, prove the steps and verify the proofs."""
    new_folder(out)
    from zkjax._compat import enable_kernel_cache

    enable_kernel_cache()
    from zkjax.proofs.demo import run_demo

    with show.Phases() as phases:
        report = run_demo(out, steps, profile.value, phases)
    show.demo_report(report, out)


def _bytes(context: str) -> bytes:
    try:
        return bytes.fromhex(context.removeprefix("0x"))
    except ValueError:
        raise StatementError("--context takes hexadecimal digits") from None
