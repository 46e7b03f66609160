"""Optimizers in fixed point against optax in float64, and what a proved step of each costs.

    python benchmarks/optimizers.py [--steps 200] [--repeats 3] [--out FILE]

The demo's model with an adapter on all seven targets. Both runs of an optimizer start from the same
adapter and see the same batches; losses are those of every training step and, every ten steps, of
held-out text. Costs are of one proved step, all of one run: proofs of all optimizers in turn, after
one of each with cold kernels. The least of the repeats counts, of processor seconds too, which what
else the machine does changes less; ``times_sgd`` compares those.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import zkjax
from zkjax import fixed
from zkjax._compat import enable_kernel_cache, x64
from zkjax.fixed import Format
from zkjax.models.adapter import init_adapter
from zkjax.models.config import TARGETS, LoraConfig
from zkjax.models.data import batches
from zkjax.models.hyperparameters import OptimizerConfig
from zkjax.models.numerics import Float
from zkjax.models.optimizers import float_optimizer
from zkjax.proofs.demo import BATCH, HELD_OUT, LENGTH, demo_inputs, split_text
from zkjax.proofs.finetune import (
    LOSS_FRACTION,
    MASTER,
    FineTuning,
    decode_base,
    init_state,
    load_adapter,
    make_gradient,
    make_hyperparameters,
    make_loss,
    make_step,
    store_adapter,
)
from zkjax.verify import verify_statement

EVERY = 10  # steps between losses of held-out text
SEALED = (True, True, False)  # (adapter, state, loss)
COSTS = (
    "prove_seconds",
    "processor_seconds",
    "verify_seconds",
    "proof_bytes",
    "lookups",
    "committed_elements",
)


def configurations(steps: int) -> dict[str, OptimizerConfig]:
    cosine = {"schedule": "cosine", "warmup_steps": steps // 20, "total_steps": steps}
    return {
        "sgd": OptimizerConfig("sgd", 0.1),
        "momentum": OptimizerConfig("sgd", 0.02, momentum=0.9, nesterov=True, **cosine),
        "adamw": OptimizerConfig("adamw", 2e-3, weight_decay=0.01, max_grad_norm=1.0, **cosine),
    }


def problem() -> tuple[FineTuning, Any, Any]:
    """The demo's run with an adapter on all targets, whose sites have a bit more of range: the
    calibration saw an adapter that was not trained.
    """
    run, base, _, _ = demo_inputs()
    sites = dict(run.numerics.sites)
    for name in (f"{target}.lora" for target in TARGETS):
        fraction, bits = sites[name].forward
        sites[name] = sites[name]._replace(forward=Format(fraction - 1, bits))
    numerics = replace(run.numerics, sites=sites)
    run = replace(run, lora=LoraConfig(targets=TARGETS), numerics=numerics)
    return run, base, store_adapter(init_adapter(run.model, run.lora, jax.random.key(0)))


def held_out() -> list[np.ndarray]:
    source = batches(split_text()[1], BATCH, LENGTH, seed=0)
    return [next(source) for _ in range(HELD_OUT)]


def fixed_losses(run: FineTuning, base, adapter, config: OptimizerConfig, tokens) -> dict:
    """Losses in fixed point: of each step, and of held-out text."""
    step, hyper = zkjax.provable(make_step(run, config)), make_hyperparameters(run, config)

    @zkjax.provable
    def loss_of(base, adapter, tokens):
        masters = jax.tree.map(lambda x: fixed.decode(x, MASTER.fraction), adapter)
        return fixed.encode(make_loss(run)(decode_base(run, base), masters, tokens), LOSS_FRACTION)

    def held(adapter) -> float:
        return float(np.mean([loss_of(base, adapter, b) for b in held_out()])) * unit

    unit, state = 2.0**-LOSS_FRACTION, init_state(run, config, adapter)
    train, seen = [], [held(adapter)]
    for count, batch in enumerate(tokens):
        adapter, state, loss = step(base, adapter, state, batch, hyper(count))
        train.append(float(loss) * unit)
        if (count + 1) % EVERY == 0:
            seen.append(held(adapter))
    return {"train": train, "held_out": seen}


def float_losses(run: FineTuning, base, adapter, config: OptimizerConfig, tokens) -> dict:
    """The same with optax in float64."""
    floats = FineTuning(run.model, run.lora, Float())
    weights = jax.tree_util.tree_map_with_path(
        lambda path, x: x * 2.0 ** -run.fraction_of(path), base
    )
    optimizer = float_optimizer(config)
    with x64():
        gradient, loss_of = make_gradient(floats), jax.jit(make_loss(floats))

        @jax.jit
        def step(weights, adapter, state, batch):
            grads, loss = gradient(weights, adapter, batch)
            updates, state = optimizer.update(grads, state, adapter)
            return optax.apply_updates(adapter, updates), state, loss

        def held(adapter) -> float:
            return float(np.mean([loss_of(weights, adapter, b) for b in held_out()]))

        current = load_adapter(adapter)
        state = optimizer.init(current)
        train, seen = [], [held(current)]
        for count, batch in enumerate(tokens):
            current, state, loss = step(weights, current, state, batch)
            train.append(float(loss))
            if (count + 1) % EVERY == 0:
                seen.append(held(current))
    return {"train": train, "held_out": seen}


def differences(steps: int) -> dict[str, dict]:
    """Losses of every optimizer in both arithmetics, and how far apart they are at most."""
    run, base, adapter = problem()
    source = batches(split_text()[0], BATCH, LENGTH, seed=0)
    tokens = [next(source) for _ in range(steps)]
    found = {}
    for name, config in configurations(steps).items():
        args = run, base, adapter, config, tokens
        ours, theirs = fixed_losses(*args), float_losses(*args)
        apart = {
            k: float(np.abs(np.subtract(ours[k], theirs[k])).max()) for k in ("train", "held_out")
        }
        first, last = ours["held_out"][0], ours["held_out"][-1]
        print(
            f"{name:9s} {steps} steps: held-out loss {first:.4f} -> {last:.4f}, apart by at most "
            f"{apart['train']:.5f} in training, {apart['held_out']:.5f} on held-out text",
            flush=True,
        )
        found[name] = {"config": asdict(config), "fixed": ours, "float64": theirs, "apart": apart}
    return found


def costs(repeats: int) -> dict[str, dict]:
    """One proved step of each optimizer, in the same run."""
    run, base, adapter = problem()
    tokens = next(batches(split_text()[0], BATCH, LENGTH, seed=0))
    known = configurations(200)
    sealed_base = zkjax.seal(base, openings=len(known) * (repeats + 1), ranges=False)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in known}
    found: dict[str, dict] = {}
    for _ in range(repeats + 1):
        for name, config in known.items():
            step, state = make_step(run, config), init_state(run, config, adapter)
            public = make_hyperparameters(run, config)(config.warmup_steps)
            sealed = [zkjax.seal(x, openings=1) for x in (adapter, tokens)]
            sealed_state = zkjax.seal(state, openings=1) if jax.tree.leaves(state) else state
            args = sealed_base, sealed[0], sealed_state, sealed[1], public
            start = time.perf_counter(), time.process_time()
            _, proof = zkjax.prove(step, sealed_outputs=SEALED)(*args)
            end = time.perf_counter(), time.process_time()
            seconds[name].append((end[0] - start[0], end[1] - start[1]))
            statement = zkjax.trace(step, sealed_outputs=SEALED)(*args)
            start = time.perf_counter()
            verify_statement(statement, proof)
            check = time.perf_counter() - start
            found[name] = dict(proof.report) | {"verify_seconds": check}
    for name, row in found.items():
        warm = np.array(seconds[name][1:])
        row["prove_seconds"], row["processor_seconds"] = warm.min(axis=0).tolist()
        row["seconds_of_all"] = seconds[name]
        row["times_sgd"] = row["processor_seconds"] / found["sgd"]["processor_seconds"]
        told = "  ".join(f"{k} {row[k]:,.6g}" for k in COSTS)
        print(f"{name:9s} {told}  {row['times_sgd']:.2f} times sgd", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/optimizers.json"))
    args = parser.parse_args()
    enable_kernel_cache()
    results = {"costs": costs(args.repeats), "losses": differences(args.steps)}
    machine = {
        "jax": jax.__version__,
        "optax": optax.__version__,
        "device": str(jax.devices()[0]),
        "python": platform.python_version(),
    }
    args.out.write_text(json.dumps({"machine": machine} | results, indent=1) + "\n")


if __name__ == "__main__":
    main()
