"""The demo: a small byte-level LLaMA is fine-tuned with LoRA on Python's documentation, and proved.

Base model, adapter and tokens are private (sealed); the learning rate and the loss are public.
With several steps the proofs chain: each takes the adapter commitment of the one before.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import zkjax
from zkjax._compat import x64
from zkjax.estimate import Check, check
from zkjax.files import new_folder, write_atomically
from zkjax.fixed import Format
from zkjax.models.adapter import init_adapter
from zkjax.models.config import LlamaConfig
from zkjax.models.data import batches, documentation
from zkjax.models.numerics import FixedPoint, Float
from zkjax.models.peft import save_adapter
from zkjax.models.pretrain import CHECKPOINT, load_demo_base
from zkjax.program.statement import Statement
from zkjax.progress import Course, Progress
from zkjax.proofs.calibration import Calibration
from zkjax.proofs.finetune import (
    LOSS_FRACTION,
    WEIGHT_FRACTION,
    FineTuning,
    load_adapter,
    make_loss,
    make_step,
    store_adapter,
    store_rate,
)
from zkjax.verify import verify_statement

LEARNING_RATE = 0.1
DEMO_CALIBRATION = CHECKPOINT.with_name("demo-calibration.json")
BATCH, LENGTH = 4, 64
CURVE_STEPS = 30
HELD_OUT = 4  # batches that no step trains on
SEALED_OUTPUTS = (True, False)  # (adapter, loss)


def demo_inputs(layers: int = 2) -> tuple[FineTuning, Any, Any, Any]:
    """The run, the stored base model, a fresh stored adapter, and an endless source of batches.

    More than two layers repeat the trained ones; that is for measuring, not for learning.
    """
    run = FineTuning(model=LlamaConfig(num_hidden_layers=layers))
    run = Calibration.load(DEMO_CALIBRATION).apply(run)
    base = load_demo_base()
    if layers != 2:
        # The residual stream grows with every layer that is repeated.
        assert isinstance(run.numerics, FixedPoint)
        sites = dict(run.numerics.sites)
        for name, site in sites.items():
            if name.endswith(".statistic"):
                fraction, bits = site.forward
                sites[name] = site._replace(forward=Format(fraction, bits + 4))
        run = replace(run, numerics=replace(run.numerics, sites=sites))
        base["layers"] = jax.tree.map(
            lambda x: np.concatenate([x] * layers)[:layers], base["layers"]
        )
    adapter = store_adapter(init_adapter(run.model, run.lora, jax.random.key(0)))
    return run, base, adapter, batches(split_text()[0], BATCH, LENGTH, seed=0)


def split_text() -> tuple[np.ndarray, np.ndarray]:
    """What steps train on, and the last tenth of the text, which is held out."""
    text = documentation()
    cut = len(text) - len(text) // 10
    return text[:cut], text[cut:]


def demo_model() -> tuple[LlamaConfig, Any]:
    """The shipped base model: its configuration and its weights as floats."""
    base = jax.tree.map(
        lambda x: np.asarray(x * 2.0**-WEIGHT_FRACTION, np.float32), load_demo_base()
    )
    return LlamaConfig(), base


def check_demo(profile: str = "s100") -> Check:
    """The dry run of one step of the demo."""
    run, base, adapter, source = demo_inputs()
    args = (*(zkjax.Private(x) for x in (base, adapter, next(source))), store_rate(LEARNING_RATE))
    return check(make_step(run), sealed_outputs=SEALED_OUTPUTS, profile=profile)(*args)


def demo_statement(layers: int = 2) -> Statement:
    """The statement the demo proves, traced without committing or proving anything."""
    run, base, adapter, source = demo_inputs(layers)
    args = (*(zkjax.Private(x) for x in (base, adapter, next(source))), store_rate(LEARNING_RATE))
    return zkjax.trace(make_step(run), sealed_outputs=SEALED_OUTPUTS)(*args)


def loss_curves(run: FineTuning, base, adapter, tokens) -> dict[str, list[float]]:
    """Losses on the same held-out batches before the first step and after each, in fixed point and
    in float64, from the same start on the same training batches.
    """
    step, rate = zkjax.provable(make_step(run)), store_rate(LEARNING_RATE)
    source = batches(split_text()[1], BATCH, LENGTH, seed=0)
    held = [next(source) for _ in range(HELD_OUT)]

    def fixed_loss(adapter) -> float:
        units = [float(step(base, adapter, batch, rate)[1]) for batch in held]
        return float(np.mean(units)) * 2.0**-LOSS_FRACTION

    current, fixed_losses = adapter, [fixed_loss(adapter)]
    for batch in tokens:
        current, _ = step(base, current, batch, rate)
        fixed_losses.append(fixed_loss(current))
    weights = jax.tree.map(lambda x: x * 2.0**-WEIGHT_FRACTION, base)
    loss_of = make_loss(FineTuning(run.model, run.lora, Float()))  # type: ignore[arg-type]
    current = load_adapter(adapter)
    with x64():
        grad = jax.jit(jax.value_and_grad(loss_of, argnums=1))

        def float_loss(adapter) -> float:
            return float(np.mean([grad(weights, adapter, batch)[0] for batch in held]))

        float_losses = [float_loss(current)]
        for batch in tokens:
            _, g = grad(weights, current, batch)
            current = jax.tree.map(lambda w, d: w - LEARNING_RATE * d, current, g)
            float_losses.append(float_loss(current))
    return {"fixed": fixed_losses, "float64": float_losses}


def plot_losses(curves: dict[str, list[float]], proved: int, path: Path) -> None:
    """Write a picture: the two curves, with the proved steps marked, and their difference."""
    from matplotlib.figure import Figure  # pyplot would change how a notebook shows pictures

    fixed, exact = np.array(curves["fixed"]), np.array(curves["float64"])
    figure = Figure(figsize=(6, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    upper.plot(exact, label="float64", linewidth=4, alpha=0.35)
    upper.plot(fixed, label="fixed point", linewidth=1.5)
    upper.plot(range(proved + 1), fixed[: proved + 1], "o", label="proved")
    upper.set(ylabel="loss (nats a byte)", title="LoRA fine-tuning: loss on held-out text")
    upper.legend()
    lower.axhline(0, color="grey", linewidth=0.8)
    lower.plot(1000 * (fixed - exact), color="C1")
    lower.set(xlabel="steps", ylabel="difference (1/1000)")
    figure.savefig(path, dpi=120)


def expected_seconds(steps: int) -> dict[str, float]:
    """The stages of a demo with what they take, roughly; the first proof compiles its kernels."""
    stages = {"load": 1.0, "seal": 1.0}
    for k in range(steps):
        stages[f"prove step {k + 1}"] = 5.0 if k else 12.0
        stages[f"verify step {k + 1}"] = 0.8
    return stages | {"loss curve": 6.0}


def run_demo(
    out: Path,
    steps: int = 1,
    profile: str = "s100",
    progress: Progress | None = None,
    layers: int = 2,
) -> dict[str, Any]:
    """Fine-tune, prove every step, verify from the written files, and report.

    ``out`` is missing or empty; FileExistsError otherwise, before any work. Written are
    ``proof.zkp``, ``statement.zks``, ``claims.json`` (of the last step; earlier steps in
    ``step-N/``), ``adapter/``, ``report.json``, ``loss.png`` and the sealed values in ``private/``.
    """
    out = new_folder(out)
    private = new_folder(out / "private")
    count = max(steps, CURVE_STEPS)
    course = Course(expected_seconds(steps), progress)
    course.start("load")
    run, base, adapter, source = demo_inputs(layers)
    tokens = [next(source) for _ in range(count)]
    rate = store_rate(LEARNING_RATE)
    course.start("seal")
    sealed_base = zkjax.seal(base, profile=profile, openings=max(4, steps))
    sealed_adapter = zkjax.seal(adapter, profile=profile)
    sealed_base.save(private / "base.sealed")
    sealed_adapter.save(private / "adapter-0.sealed")
    step = make_step(run)
    prove = zkjax.prove(step, sealed_outputs=SEALED_OUTPUTS, profile=profile, progress=course.inner)
    proof, losses, current = None, [], adapter
    for k in range(steps):
        course.start(f"prove step {k + 1}")
        sealed_tokens = zkjax.seal(tokens[k], profile=profile, openings=1)
        sealed_tokens.save(private / f"tokens-{k + 1}.sealed")
        (sealed_next, loss), proof = prove(sealed_base, sealed_adapter, sealed_tokens, rate)
        losses.append(float(loss) * 2.0**-LOSS_FRACTION)
        sealed_next.save(private / f"adapter-{k + 1}.sealed")
        current, sealed_adapter = sealed_next.tree, sealed_next
        folder = out if k == steps - 1 else out / f"step-{k + 1}"
        folder.mkdir(exist_ok=True)
        statement = zkjax.trace(step, sealed_outputs=SEALED_OUTPUTS)(
            sealed_base, sealed_next, sealed_tokens, rate
        )
        write_proof(folder, statement, proof)
        course.start(f"verify step {k + 1}")
        verify_folder(folder)
    assert proof is not None and proof.report is not None
    course.start("loss curve")
    save_adapter(out / "adapter", load_adapter(current), run.lora, "zkjax demo base")
    report = dict(proof.report) | {
        "verify_seconds": course.seconds[f"verify step {steps}"],
        "losses": losses,
        "profile": profile,
        "steps": steps,
        "layers": layers,
        "tokens_per_step": BATCH * LENGTH,
    }
    write_report(out, report)
    curves = loss_curves(run, base, adapter, tokens)
    report |= {
        "loss_before": curves["fixed"][0],
        "loss_after": curves["fixed"][steps],
        "curves": curves,
    }
    write_report(out, report)
    plot_losses(curves, steps, out / "loss.png")
    course.stop()
    return report | {"seconds": course.seconds}


def write_report(folder: Path, report: dict) -> None:
    write_atomically(folder / "report.json", json.dumps(report, indent=1).encode())


def write_proof(folder: Path, statement: Statement, proof: zkjax.Proof) -> None:
    """Write the three files a verifier needs."""
    statement.save(folder / "statement.zks")
    write_atomically(folder / "claims.json", proof.claims.to_json().encode())
    proof.save(folder / "proof.zkp")


def verify_folder(folder: Path) -> None:
    """Verify the three files of a folder, as ``zkjax verify`` does."""
    statement = Statement.load(folder / "statement.zks")
    claims = zkjax.Claims.from_json((folder / "claims.json").read_text())
    verify_statement(statement, zkjax.Proof.decode((folder / "proof.zkp").read_bytes(), claims))
