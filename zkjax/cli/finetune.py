"""``zkjax finetune``: LoRA on a model directory and a text, every step proved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from zkjax.cli import facts, show
from zkjax.cli.common import AsJson, ProfileName
from zkjax.cli.text import field, grid, line
from zkjax.errors import OptionError


def finetune(
    base: Annotated[
        str | None, typer.Argument(help='A model directory of Hugging Face, or "demo".')
    ] = None,
    data: Annotated[
        str | None, typer.Argument(help="A text file, or JSON lines (docs/data.md).")
    ] = None,
    out: Annotated[Path, typer.Option(help="The new folder of the run.")] = Path("run"),
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file with these settings by name; flags come before it."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with the run of this folder.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Prove nothing: run a step and tell what it would cost.")
    ] = False,
    proof: Annotated[
        bool | None,
        typer.Option("--proof/--no-proof", help="Prove every step (the default), or none."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the optimizer.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows a step.")] = None,
    length: Annotated[int | None, typer.Option(help="Predictions a row.")] = None,
    targets: Annotated[
        str | None, typer.Option(help='Linear layers, separated by commas, or "all".')
    ] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA's rank.")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA's alpha.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw or sgd.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its peak.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, linear or cosine.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="In which the rate rises.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of sgd.")] = None,
    nesterov: Annotated[bool | None, typer.Option(help="Of sgd.")] = None,
    b1: Annotated[float | None, typer.Option(help="Of adamw.")] = None,
    b2: Annotated[float | None, typer.Option(help="Of adamw.")] = None,
    eps: Annotated[float | None, typer.Option(help="Of adamw.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Decoupled.")] = None,
    max_grad_norm: Annotated[float | None, typer.Option(help="Clip gradients to it.")] = None,
    gradient_accumulation_steps: Annotated[
        int | None, typer.Option(help="Batches whose gradients a step averages.")
    ] = None,
    held_out: Annotated[
        str | None, typer.Option(help="Data to compare losses on; a tenth of DATA by default.")
    ] = None,
    packed: Annotated[
        bool | None, typer.Option(help="Fill rows with one text behind the other.")
    ] = None,
    truncate: Annotated[bool | None, typer.Option(help="Cut texts longer than a row.")] = None,
    loss_on: Annotated[
        str | None, typer.Option(help="completion, or all: what is learned of prompts and chats.")
    ] = None,
    public_base: Annotated[
        bool | None, typer.Option(help="Whether verifiers have the base model (yes by default).")
    ] = None,
    public_data: Annotated[
        bool | None, typer.Option(help="Whether verifiers see the data (no by default).")
    ] = None,
    profile: Annotated[
        ProfileName | None, typer.Option(help="The security profile of the proofs.")
    ] = None,
    formats: Annotated[
        str | None, typer.Option(help="From zkjax calibrate; chosen from the data by default.")
    ] = None,
    room: Annotated[
        float | None, typer.Option(help="Bits of range beyond what is usual, of such formats.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the adapter and the order of rows.")] = None,
    sessions: Annotated[
        int | None, typer.Option(help="Proofs that the last adapter can enter later.")
    ] = None,
    split: Annotated[
        bool | None,
        typer.Option(help="Two proofs a step, in less memory; so for large adapters by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model with LoRA, and prove every step. Ctrl-C is safe: --resume goes on."""
    given = locals()
    from zkjax._compat import enable_kernel_cache
    from zkjax.proofs.training.loop import check_run, train
    from zkjax.proofs.training.report import write_report
    from zkjax.proofs.training.settings import Settings, make_settings, read_settings

    names = Settings.__dataclass_fields__
    flags = {name: given[name] for name in names if given[name] is not None}
    if profile is not None:
        flags["profile"] = profile.value
    if resume is not None and (flags or config is not None or check):
        told = next(iter(flags), "config" if config is not None else "check")
        raise OptionError(f"--resume goes on with the settings of its run; leave out {told}")
    settings = None
    if resume is None:
        settings = make_settings({}, flags) if config is None else read_settings(config, flags)
    enable_kernel_cache()
    if check:
        assert settings is not None
        costs = [facts.expected(cost) for cost in check_run(settings)]
        if as_json:
            show.as_json({"command": "check", "steps": settings.steps, "proofs": costs})
        else:
            for name, cost in zip(("gradient", "optimizer"), costs, strict=False):
                if len(costs) > 1:
                    line(f"The proof of the {name}:")
                show.expected(cost)
        return
    place = out if resume is None else resume
    with show.Phases() as phases:
        try:
            told = train(settings, place, proof=proof, progress=phases, report=write_report)
        except KeyboardInterrupt:
            line(f"stopped; go on with: zkjax finetune --resume {place}")
            raise typer.Exit(130) from None
    found = {"command": "finetune", "out": str(place), **told}
    show.as_json(found) if as_json else _print(found)


def _print(found: dict[str, Any]) -> None:
    steps, losses = found["steps"], found["losses"]
    line("proved" if found["proved"] else "trained without proofs", "bold green")
    field("steps", f"{steps:,}; loss {losses[0]:.4f} in the first, {losses[-1]:.4f} in the last")
    field("float32", f"losses of the same steps are within {found['largest_difference']:.5f}")
    if held := found.get("held_out"):
        rows = [
            (when, f"{held[when]['float32']:.5f}", f"{held[when]['fixed']:.5f}")
            for when in ("before", "after")
        ]
        grid("Loss on held-out data", ("", "float32", "fixed point"), rows, right=(1, 2))
    line("")
    out = found["out"]
    line(f"The adapter is in {out}/adapter (PEFT); {out}/loss.png shows the losses.")
    if found["proved"]:
        line(f"Check the proofs in a process of their own: zkjax verify {out} --base BASE")
        line("Publish run.json, formats.json, start and the steps; the rest is yours.")
