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
from zkjax.argument.budget import Budget
from zkjax.cli import adapter, facts, show
from zkjax.cli.bundle import Bundle, chain_links, load_bundle, load_steps
from zkjax.cli.calibrate import calibrate
from zkjax.cli.common import AsJson, ProfileName, answers, require_installed
from zkjax.cli.finetune import finetune
from zkjax.digests import read_digest
from zkjax.errors import StatementError, VerificationError
from zkjax.files import new_folder
from zkjax.progress import Course
from zkjax.verify import require_profile, verify_statement

app = typer.Typer(
    help="Zero-knowledge proofs of JAX programs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.add_typer(adapter.app, name="adapter")
app.command()(answers("models")(calibrate))
app.command()(answers("models,plot")(finetune))


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
@answers()
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
    base: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Of a run of zkjax finetune: the base model's directory, or demo."
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Of a run of zkjax finetune: the one that you expect."),
    ] = None,
    profile: Annotated[
        ProfileName, typer.Option(help="The least security profile to accept.")
    ] = ProfileName.S100,
    as_json: AsJson = False,
) -> None:
    """Check a proof, or a chain of them. Exit code 0: accepted, 1: rejected, 2: the input cannot
    be used.
    """
    expected = None if statement is None else read_digest(statement)
    if (target / "run.json").is_file():
        if statement is not None or context is not None:
            raise StatementError("a run is named by --run; leave out --statement and --context")
        return _verify_run(target, base, run, profile.value, as_json)
    if base is not None or run is not None:
        raise StatementError(f"{target} is no run of zkjax finetune; leave out --base and --run")
    bound_to = None if context is None else _bytes(context)
    start = time.perf_counter()
    bundles = load_steps(target)
    links = chain_links(bundles)
    for bundle in bundles:
        if expected is not None and bundle.statement.digest != expected:
            raise VerificationError(
                "statement", f"the files are about {bundle.statement.digest.hex()}"
            )
        if bound_to is not None and bundle.claims.context != bound_to:
            raise VerificationError("claims", "the proof is bound to another context")
        require_profile(bundle.claims.profile, profile.value)
    budget = _verify_all(bundles)
    seconds = time.perf_counter() - start
    found = facts.accepted(bundles, links, budget, seconds, compared=expected is not None)
    show.as_json(found) if as_json else show.accepted(found)


def _verify_run(target: Path, base: str | None, run: str | None, least: str, as_json: bool) -> None:
    """``verify`` of a fine-tuning run, which needs JAX: its statement is traced again."""
    require_installed("models")
    from zkjax.proofs.training.verification import verify_run

    digest, start = None if run is None else read_digest(run), time.perf_counter()
    with show.Phases() as phases:
        course = Course({"verify": 1.0}, phases)
        course.start("verify")
        found = verify_run(
            target,
            base,
            least=least,
            run_digest=digest,
            progress=lambda done, of: course.part(done, of, "proofs"),
        )
    told = facts.verified_run(found, time.perf_counter() - start)
    show.as_json(told) if as_json else show.verified_run(told)


def _verify_all(bundles: list[Bundle]) -> Budget:
    """The budget of the last of these proofs, all of which must verify."""
    count = len(bundles)
    with show.Phases() as phases:
        course = Course({f"step {k + 1}": 1.0 for k in range(count)}, phases if count > 1 else None)
        for step, bundle in enumerate(bundles, 1):
            course.start(f"step {step}")
            try:
                budget = verify_statement(bundle.statement, bundle.proof())
            except VerificationError as error:
                where = f"step {step} of {count}: " if count > 1 else ""
                raise VerificationError(error.check, where + error.detail) from error
    return budget


@app.command()
@answers()
def inspect(target: Target, as_json: AsJson = False) -> None:
    """Print what a proof claims, its sizes and its soundness budget, without verifying it."""
    try:
        found = facts.inspected(load_bundle(target))
    except VerificationError as error:
        raise StatementError(f"the files do not fit together: {error}") from error
    show.as_json(found) if as_json else show.inspected(found)


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
    check: Annotated[
        bool, typer.Option("--check", help="Prove nothing: run a step and tell what it would cost.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a small LLaMA with LoRA, prove the steps and verify the proofs."""
    if check:
        from zkjax._compat import enable_kernel_cache
        from zkjax.proofs.demo import check_demo

        enable_kernel_cache()
        expected = facts.expected(check_demo(profile.value))
        show.as_json(expected) if as_json else show.expected(expected)
        return
    new_folder(out)
    with show.Phases() as phases:
        from zkjax._compat import enable_kernel_cache
        from zkjax.proofs.demo import run_demo

        enable_kernel_cache()
        report = run_demo(out, steps, profile.value, phases)
    found = facts.demonstrated(report, str(out))
    show.as_json(found) if as_json else show.demo_report(found)


def _bytes(context: str) -> bytes:
    try:
        return bytes.fromhex(context.removeprefix("0x"))
    except ValueError:
        raise StatementError("--context takes hexadecimal digits") from None
