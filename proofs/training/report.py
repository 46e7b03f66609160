"""What a run has learned, beside the same run in floating point."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import zkjax
from zkjax import fixed
from zkjax.files import write_atomically
from zkjax.models.numerics import Float
from zkjax.models.optimizers import MASTER, float_optimizer
from zkjax.proofs.finetune import (
    LOSS_FRACTION,
    FineTuning,
    decode_base,
    load_adapter,
    make_accumulated,
    make_gradient,
    make_loss,
)
from zkjax.proofs.training.folder import RunFolder
from zkjax.proofs.training.problem import Problem


def write_report(problem: Problem, adapter: Any, folder: RunFolder) -> dict[str, Any]:
    """Train once more in float32 with optax, compare losses, and write report.json and loss.png."""
    theirs, twin = float_run(problem)
    losses = [m["loss"] for m in folder.metrics()]
    found: dict[str, Any] = {"losses": losses, "float32_losses": theirs}
    if held := problem.held_batches():
        first = problem.first_adapter()
        start = load_adapter(first)
        found["held_out"] = {
            "batches": len(held),
            "before": {"fixed": fixed_loss(problem, first), "float32": float_loss(problem, start)},
            "after": {"fixed": fixed_loss(problem, adapter), "float32": float_loss(problem, twin)},
        }
    apart = np.abs(np.subtract(losses, theirs))
    found["largest_difference"] = float(apart.max())
    write_atomically(folder.path / "report.json", json.dumps(found, indent=1).encode())
    plot_losses(found, folder.path / "loss.png")
    return found


def _floats(problem: Problem) -> FineTuning:
    return FineTuning(model=problem.run.model, lora=problem.run.lora, numerics=Float())


def float_run(problem: Problem) -> tuple[list[float], Any]:
    """Losses of every step in float32, and the last adapter."""
    config = problem.facts.optimizer_config
    run, optimizer = _floats(problem), float_optimizer(config)
    parts = config.gradient_accumulation_steps
    gradient = make_accumulated(run, parts) if parts > 1 else make_gradient(run)

    @jax.jit
    def step(weights, adapter, state, batch):
        grads, loss = gradient(weights, adapter, batch)
        updates, state = optimizer.update(grads, state, adapter)
        return optax.apply_updates(adapter, updates), state, loss

    adapter = jax.tree.map(np.float32, load_adapter(problem.first_adapter()))
    state, losses = optimizer.init(adapter), []
    for k in range(problem.settings.steps):
        adapter, state, loss = step(problem.parameters, adapter, state, problem.batch(k))
        losses.append(float(loss))
    return losses, adapter


def float_loss(problem: Problem, adapter: Any) -> float:
    """Mean held-out loss in float32."""
    loss = jax.jit(make_loss(_floats(problem)))
    adapter = jax.tree.map(np.float32, adapter)
    found = [loss(problem.parameters, adapter, b) for b in problem.held_batches()]
    return float(np.mean(found))


def fixed_loss(problem: Problem, adapter: Any) -> float:
    """Mean held-out loss in fixed point, of a stored adapter."""
    run = problem.run

    @zkjax.provable
    def loss(base, adapter, batch):
        masters = jax.tree.map(lambda x: fixed.decode(x, MASTER.fraction), adapter)
        return fixed.encode(make_loss(run)(decode_base(run, base), masters, batch), LOSS_FRACTION)

    found = [float(loss(problem.base, adapter, b)) for b in problem.held_batches()]
    return float(np.mean(found)) * 2.0**-LOSS_FRACTION


def plot_losses(found: dict[str, Any], path: Path) -> None:
    """Write a picture: both curves, and their difference."""
    from matplotlib.figure import Figure  # pyplot would change how a notebook shows pictures

    ours, theirs = np.array(found["losses"]), np.array(found["float32_losses"])
    steps = np.arange(1, len(ours) + 1)
    figure = Figure(figsize=(6, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    upper.plot(steps, theirs, label="float32", linewidth=4, alpha=0.35)
    upper.plot(steps, ours, label="fixed point", linewidth=1.5)
    upper.set(ylabel="loss (nats a token)", title="fine-tuning: loss of every step")
    upper.legend()
    lower.axhline(0, color="grey", linewidth=0.8)
    lower.plot(steps, 1000 * (ours - theirs), color="C1")
    lower.set(xlabel="step", ylabel="difference (1/1000)")
    figure.savefig(path, dpi=120)
