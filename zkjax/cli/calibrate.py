"""``zkjax calibrate``: formats for a model, and how close fixed point comes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from zkjax.cli import show
from zkjax.cli.common import AsJson
from zkjax.cli.text import field, grid, line
from zkjax.errors import OptionError
from zkjax.progress import Course

DEMO = "demo"


def calibrate(
    model: Annotated[
        str,
        typer.Argument(help='A model directory of Hugging Face, or "demo".', show_default=False),
    ],
    data: Annotated[
        str,
        typer.Argument(
            help='A text file, or a text that Python brings: "documentation" or "sources".',
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file of formats to write.")] = Path(
        "calibration.json"
    ),
    held_out: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Another text to compare on; the rest of DATA if none."),
    ] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Sequences to look at.")] = 6,
    compared: Annotated[int, typer.Option(min=1, help="Sequences to compare on.")] = 4,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a sequence.")] = 120,
    targets: Annotated[
        str, typer.Option(help="LoRA targets, separated by commas.")
    ] = "q_proj,v_proj",
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapter.")] = 8,
    alpha: Annotated[float, typer.Option(help="LoRA's alpha.")] = 16.0,
    room: Annotated[float, typer.Option(min=0, help="Bits of range beyond what is usual.")] = 0.0,
    between_parties: Annotated[
        bool, typer.Option("--between-parties", help="For zkjax adapter check; no adapter is used.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="A picture of the comparison to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Choose fixed-point formats for a model from what it computes on a text, and compare fixed
    point with float32 on text that was not looked at.
    """
    if out.exists():
        raise OptionError(f"{out} exists; a calibration is not overwritten. Give another --out")
    if plot is not None:
        from zkjax.cli.common import require_installed

        require_installed("plot")
    with show.Phases() as phases:
        course = Course({"load": 3.0, "calibrate": 40.0, "compare": 40.0}, phases)
        found = _run(
            model, data, held_out, out, sequences, compared, length,
            (targets, rank, alpha), room, between_parties, plot, course,
        )  # fmt: skip
        course.stop()
    show.as_json(found) if as_json else _print(found)


def _run(
    model, data, held_out, out, count, compared, length, lora, room, between_parties, plot, course
):
    import jax
    import numpy as np

    from zkjax.models.adapter import warm_adapter
    from zkjax.models.config import LoraConfig
    from zkjax.models.text import read_text, sequences, tokenize
    from zkjax.proofs.calibration import calibrate
    from zkjax.proofs.comparison import compare
    from zkjax.proofs.demo import demo_model
    from zkjax.proofs.finetune import FineTuning

    course.start("load")
    targets, rank, alpha = lora
    settings = LoraConfig(r=rank, alpha=alpha, targets=tuple(t for t in targets.split(",") if t))
    if model == DEMO:
        (config, parameters), folder, stored = demo_model(), None, {}
    else:
        from zkjax.models.checkpoint import load_model

        folder, stored = Path(model), None
        config, parameters = load_model(folder)
    first = tokenize(read_text(data), folder)
    looked_at = sequences(first, count, length, config.vocab_size)
    rest = tokenize(read_text(held_out), folder) if held_out else first[looked_at.size :]
    unseen = sequences(rest, compared, length, config.vocab_size)
    run = FineTuning(model=config, lora=settings)
    adapter = None
    if not between_parties:
        adapter = jax.tree.map(np.asarray, warm_adapter(config, settings, jax.random.key(0)))
    course.start("calibrate")
    result = calibrate(
        run, parameters, adapter, looked_at, room=room, stored=stored,
        between_parties=between_parties,
        progress=lambda done: course.part(done, count, "sequences"),
    )  # fmt: skip
    result.save(out)
    course.start("compare")
    comparison = compare(
        result.apply(run), parameters, adapter, unseen, gradients=0 if between_parties else 1,
        progress=lambda done: course.part(done, compared, "sequences"),
    )  # fmt: skip
    if plot is not None:
        from zkjax.proofs.plots import plot_calibration

        plot_calibration(result, comparison, plot)
    sites = {
        name: {
            "forward": list(site.forward),
            "backward": list(site.backward),
            "layers_differ": bool(site.forward_shifts or site.backward_shifts),
        }
        for name, site in sorted(result.sites.items())
    }
    return {
        "command": "calibrate",
        "file": str(out),
        "plot": str(plot) if plot else None,
        "model": result.model,
        "sequences": count,
        "length": length,
        "compared_on": held_out or f"{data}, the part not looked at",
        **comparison.summary(),
        "sites": sites,
    }


def _print(found: dict[str, Any]) -> None:
    line(f"wrote {found['file']}" + (f" and {found['plot']}" if found["plot"] else ""))
    grid(
        f"On {found['positions']:,} predictions of {found['compared_on']}",
        ("", "float32", "fixed point"),
        [
            ("loss", f"{found['loss_float']:.4f}", f"{found['loss_fixed']:.4f}"),
            ("perplexity", f"{found['perplexity_float']:.3f}", f"{found['perplexity_fixed']:.3f}"),
        ],
        right=(1, 2),
    )
    field("top-1", f"{100 * found['top1_agreement']:.2f} % of the most likely tokens agree")
    for target, cosine in found["gradient_cosine"].items():
        field("gradient", f"cosine {cosine:.6f} to float64's, {target}")
    rows = [
        (name, *(f"{f} of {b}" for f, b in (site["forward"], site["backward"])),
         "by layer" if site["layers_differ"] else "")
        for name, site in found["sites"].items()
    ]  # fmt: skip
    grid("Fraction bits, of bits", ("site", "value", "cotangent", ""), rows)
