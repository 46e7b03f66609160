"""A LoRA step of a real model, measured: ``python benchmarks/real_model.py DIR [--out FILE]``.

DIR is a LLaMA directory with its tokenizer, for example what ``benchmarks/smollm2.py`` writes.
Parts, each in a process of its own so that its memory is its own:

- formats: chosen on one text, compared with float32 on 20 sequences of another.
- check: the dry run of the step, beside the step without a proof, both from a cold start.
- step: the step is proved and verified; its loss against the exact cross-entropy of the fixed-point
  logits.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import zkjax
from zkjax._compat import enable_kernel_cache
from zkjax.models.adapter import init_adapter, warm_adapter
from zkjax.models.checkpoint import load_model, model_digest
from zkjax.models.config import LoraConfig
from zkjax.models.text import read_text, sequences, tokenize
from zkjax.proofs.calibration import Calibration, calibrate
from zkjax.proofs.comparison import compare, mean_losses
from zkjax.proofs.finetune import (
    LOSS_FRACTION,
    FineTuning,
    make_checked_logits,
    make_step,
    store_adapter,
    store_base,
    store_rate,
)
from zkjax.verify import verify_statement

PARTS = ("formats", "check", "step")
SEALED_OUTPUTS = (True, False)
LENGTH, STEP_LENGTH, COMPARED = 120, 8, 20


def lora() -> LoraConfig:
    return LoraConfig(r=8, alpha=16.0, targets=("q_proj", "v_proj"))


def formats(folder: Path, kept: Path) -> dict:
    config, parameters = load_model(folder)
    run = FineTuning(model=config, lora=lora())
    adapter = jax.tree.map(np.asarray, warm_adapter(config, run.lora, jax.random.key(0)))
    looked_at = tokenize(read_text("documentation"), folder)
    unseen = tokenize(read_text("sources"), folder)
    start = time.perf_counter()
    looked_at = sequences(looked_at, 6, LENGTH, config.vocab_size)
    calibration = calibrate(run, parameters, adapter, looked_at)
    seconds = time.perf_counter() - start
    calibration.save(kept)
    unseen = sequences(unseen, COMPARED, LENGTH, config.vocab_size)
    found = compare(calibration.apply(run), parameters, adapter, unseen)
    gaps = [abs(a - b) for a, b in found.losses]
    return {
        "calibrate_seconds": seconds,
        **found.summary(),
        "sequences": len(gaps),
        "largest_loss_difference_of_a_sequence": max(gaps),
    }


def prepared(folder: Path, kept: Path):
    """The run, stored base and adapter, and tokens of a step."""
    config, parameters = load_model(folder)
    calibration = Calibration.load(kept)
    calibration.require_model(model_digest(config, parameters))
    run = calibration.apply(FineTuning(model=config, lora=lora()))
    base = store_base(parameters, run.weight_fractions)
    adapter = store_adapter(init_adapter(config, run.lora, jax.random.key(0)))
    tokens = tokenize(read_text("documentation"), folder)[9000:]
    return run, base, adapter, sequences(tokens, 1, STEP_LENGTH, config.vocab_size)[0]


def check(folder: Path, kept: Path) -> dict:
    run, base, adapter, tokens = prepared(folder, kept)
    rate = store_rate(0.1)
    start = time.perf_counter()
    jax.block_until_ready(zkjax.provable(make_step(run))(base, adapter, tokens, rate))
    plain = time.perf_counter() - start
    private = zkjax.Private(adapter), zkjax.Private(tokens)
    start = time.perf_counter()
    step = make_step(run)
    found = zkjax.check(step, sealed_outputs=SEALED_OUTPUTS)(base, *private, rate)
    seconds = time.perf_counter() - start
    names = ("leaves", "committed_elements", "proof_bytes", "memory_bytes", "prove_seconds")
    return {
        "step_without_proof_seconds": plain,
        "check_seconds": seconds,
        "expected": {name: getattr(found, name) for name in names},
    }


def step(folder: Path, kept: Path) -> dict:
    run, base, adapter, tokens = prepared(folder, kept)
    rate, step = store_rate(0.1), make_step(run)
    private = [zkjax.seal(x) for x in (adapter, tokens)]

    def progress(stage):
        print(f"{stage.elapsed:6.0f} s  {stage}", file=sys.stderr, flush=True)

    start = time.perf_counter()
    prove = zkjax.prove(step, sealed_outputs=SEALED_OUTPUTS, progress=progress)
    (new, loss), proof = prove(base, *private, rate)
    proved = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    statement = zkjax.trace(step, sealed_outputs=SEALED_OUTPUTS)(base, new, private[1], rate)
    start = time.perf_counter()
    verify_statement(statement, proof)
    verified = time.perf_counter() - start
    logits = make_checked_logits(run)(base, adapter, tokens[:, :-1])
    loss = float(loss) * 2.0**-LOSS_FRACTION
    kept_figures = ("phases", "proof_bytes", "lookups", "committed_elements", "soundness_bits")
    return {
        "prove_seconds": proved,
        "verify_seconds": verified,
        "peak_memory_bytes": memory,
        "loss": loss,
        "exact_loss_of_the_logits": mean_losses(logits, tokens),
        **{name: proof.report[name] for name in kept_figures},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--kept", type=Path, help="the calibration to use, or to write")
    parser.add_argument("--part", choices=PARTS)
    args = parser.parse_args()
    if args.part:
        enable_kernel_cache()
        part = {"formats": formats, "check": check, "step": step}[args.part]
        print(json.dumps(part(args.folder, args.kept)))
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        kept = args.kept or Path(folder) / "calibration.json"
        for part in PARTS:
            command = [sys.executable, __file__, str(args.folder), "--kept", kept, "--part", part]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            results[part] = json.loads(done.stdout.splitlines()[-1])
            print(part, json.dumps(results[part], indent=1), flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
