"""The demo: a small byte-level LLaMA is fine-tuned with LoRA on Python's documentation, and proved.

Base model, adapter and tokens are private (sealed); the learning rate and the loss are public.
With several steps the proofs chain: each takes the adapter commitment of the one before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import zkjax
from zkjax._compat import x64
from zkjax.files import new_folder, write_atomically
from zkjax.models.config import LlamaConfig
from zkjax.models.data import batches, documentation
from zkjax.models.llama import init_adapter
from zkjax.models.numerics import Float
from zkjax.models.peft import save_adapter
from zkjax.models.pretrain import CHECKPOINT, load_demo_base
from zkjax.program.statement import Statement
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
CURVE_STEPS = 20
SEALED_OUTPUTS = (True, False)  # (adapter, loss)


def demo_inputs(layers: int = 2) -> tuple[FineTuning, Any, Any, Any]:
    """The run, the stored base model, a fresh stored adapter, and an endless source of batches.

    More than two layers repeat the trained ones; that is for measuring, not for learning.
    """
    run = FineTuning(model=LlamaConfig(num_hidden_layers=layers))
    run = Calibration.load(DEMO_CALIBRATION).apply(run)
    base = load_demo_base()
    if layers != 2:
        base["layers"] = jax.tree.map(
            lambda x: np.concatenate([x] * layers)[:layers], base["layers"]
        )
    adapter = store_adapter(init_adapter(run.model, run.lora, jax.random.key(0)))
    return run, base, adapter, batches(documentation(), BATCH, LENGTH, seed=0)


def demo_statement(layers: int = 2) -> Statement:
    """The statement the demo proves, traced without committing or proving anything."""
    run, base, adapter, source = demo_inputs(layers)
    args = (*(zkjax.Private(x) for x in (base, adapter, next(source))), store_rate(LEARNING_RATE))
    return zkjax.trace(make_step(run), sealed_outputs=SEALED_OUTPUTS)(*args)


def loss_curves(run: FineTuning, base, adapter, tokens, steps: int) -> dict[str, list[float]]:
    """Training losses in fixed point and in float64, from the same start on the same batches."""
    step, rate = zkjax.provable(make_step(run)), store_rate(LEARNING_RATE)
    fixed_losses, current = [], adapter
    for batch in tokens[:steps]:
        current, loss = step(base, current, batch, rate)
        fixed_losses.append(float(loss) * 2.0**-LOSS_FRACTION)
    weights = jax.tree.map(lambda x: x * 2.0**-WEIGHT_FRACTION, base)
    loss_of = make_loss(FineTuning(run.model, run.lora, Float()))  # type: ignore[arg-type]
    float_losses, current = [], load_adapter(adapter)
    with x64():
        grad = jax.jit(jax.value_and_grad(loss_of, argnums=1))
        for batch in tokens[:steps]:
            value, g = grad(weights, current, batch)
            float_losses.append(float(value))
            current = jax.tree.map(lambda w, d: w - LEARNING_RATE * d, current, g)
    return {"fixed": fixed_losses, "float64": float_losses}


def plot_losses(curves: dict[str, list[float]], proved: int, path: Path) -> None:
    """Write a picture of the two loss curves; the proved steps are marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(curves["float64"], label="float64", linewidth=4, alpha=0.35)
    axes.plot(curves["fixed"], label="fixed point", linewidth=1.5)
    axes.plot(range(proved), curves["fixed"][:proved], "o", label="proved")
    axes.set(xlabel="step", ylabel="loss (nats per byte)", title="LoRA fine-tuning")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run_demo(
    out: Path,
    steps: int = 1,
    profile: str = "s100",
    progress: Callable[[str], None] = lambda phase: None,
    layers: int = 2,
) -> dict[str, Any]:
    """Fine-tune, prove every step, verify from the written files, and report.

    ``out`` is missing or empty; FileExistsError otherwise, before any work. Written are
    ``proof.zkp``, ``statement.zks``, ``claims.json`` (of the last step; earlier steps in
    ``step-N/``), ``adapter/``, ``loss.png``, ``report.json`` and the sealed values in ``private/``.
    """
    out = new_folder(out)
    private = new_folder(out / "private")
    progress("load")
    run, base, adapter, source = demo_inputs(layers)
    tokens = [next(source) for _ in range(max(steps, CURVE_STEPS))]
    rate = store_rate(LEARNING_RATE)
    progress("seal")
    sealed_base = zkjax.seal(base, profile=profile, openings=max(4, steps))
    sealed_adapter = zkjax.seal(adapter, profile=profile)
    sealed_base.save(private / "base.sealed")
    sealed_adapter.save(private / "adapter-0.sealed")
    step = make_step(run)
    prove = zkjax.prove(step, sealed_outputs=SEALED_OUTPUTS, profile=profile, progress=progress)
    proof, losses, current = None, [], adapter
    verify_seconds = 0.0
    for k in range(steps):
        sealed_tokens = zkjax.seal(tokens[k], profile=profile, openings=1)
        sealed_tokens.save(private / f"tokens-{k + 1}.sealed")
        (sealed_next, loss), proof = prove(sealed_base, sealed_adapter, sealed_tokens, rate)
        losses.append(float(loss) * 2.0**-LOSS_FRACTION)
        sealed_next.save(private / f"adapter-{k + 1}.sealed")
        current, sealed_adapter = sealed_next.tree, sealed_next
        folder = out if k == steps - 1 else out / f"step-{k + 1}"
        folder.mkdir(exist_ok=True)
        progress("write")
        statement = zkjax.trace(step, sealed_outputs=SEALED_OUTPUTS)(
            sealed_base, sealed_next, sealed_tokens, rate
        )
        write_proof(folder, statement, proof)
        progress("verify")
        start = time.perf_counter()
        verify_folder(folder)
        verify_seconds = time.perf_counter() - start
    progress("loss curve")
    curves = loss_curves(run, base, adapter, tokens, max(steps, CURVE_STEPS))
    after = zkjax.provable(step)(base, current, tokens[steps - 1], rate)[1]
    plot_losses(curves, steps, out / "loss.png")
    save_adapter(out / "adapter", load_adapter(current), run.lora, "zkjax demo base")
    assert proof is not None and proof.report is not None
    report = dict(proof.report)
    report |= {
        "verify_seconds": verify_seconds,
        "loss_before": losses[-1],
        "loss_after": float(after) * 2.0**-LOSS_FRACTION,
        "losses": losses,
        "curves": curves,
        "profile": profile,
        "steps": steps,
        "layers": layers,
        "tokens_per_step": BATCH * LENGTH,
    }
    write_atomically(out / "report.json", json.dumps(report, indent=1).encode())
    return report


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
