"""Measure one proved step of the demo: phases, sizes, memory, soundness, for several depths.

Usage: python benchmarks/step.py [--layers 2 4 8] [--profile s100] [--out FILE]

Every figure is measured in this run. Each depth is proved twice; the second time counts, with
kernels compiled. ``kernels`` is what that proof uses, whether compiled now or before.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import jax

import zkjax
from zkjax._compat import enable_kernel_cache
from zkjax.argument import kernels
from zkjax.proofs.demo import LEARNING_RATE, SEALED_OUTPUTS, demo_inputs
from zkjax.proofs.finetune import make_step, store_rate
from zkjax.verify import verify_statement

FIGURES = (
    "prove_seconds",
    "verify_seconds",
    "proof_bytes",
    "peak_memory_bytes",
    "lookups",
    "committed_elements",
    "messages",
    "kernels",
    "soundness_bits",
)
EXPECTED = ("prove_seconds", "proof_bytes", "memory_bytes", "committed_elements")


def measure(layers: int, profile: str) -> dict:
    """One warm proof of the demo step at a depth."""
    run, base, adapter, source = demo_inputs(layers)
    step, rate = make_step(run), store_rate(LEARNING_RATE)
    tokens = next(source)
    sealed = [zkjax.seal(x, profile=profile) for x in (base, adapter, tokens)]
    prove = zkjax.prove(step, sealed_outputs=SEALED_OUTPUTS, profile=profile)
    check = zkjax.check(step, sealed_outputs=SEALED_OUTPUTS, profile=profile)
    expected = check(*(zkjax.Private(x) for x in (base, adapter, tokens)), rate)
    prove(*sealed, rate)
    kernels.reset()
    start = time.perf_counter()
    _, proof = prove(*sealed, rate)
    elapsed = time.perf_counter() - start
    statement = zkjax.trace(step, sealed_outputs=SEALED_OUTPUTS)(*sealed, rate)
    verify_statement(statement, proof)
    start = time.perf_counter()
    verify_statement(statement, proof)
    report = dict(proof.report)
    report |= {
        "layers": layers,
        "profile": profile,
        "prove_seconds": elapsed,
        "verify_seconds": time.perf_counter() - start,
        **{f"expected_{name}": getattr(expected, name) for name in EXPECTED},
    }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--profile", nargs="+", default=["s100"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    enable_kernel_cache()
    results = []
    for profile in args.profile:
        for layers in args.layers:
            result = measure(layers, profile)
            results.append(result)
            phases = "  ".join(f"{k} {v:.2f}" for k, v in result["phases"].items())
            print(f"{profile}, {layers} layers: {phases}", flush=True)
            for name in (*FIGURES, *(f"expected_{n}" for n in EXPECTED)):
                print(f"  {name:20s} {result[name]:,.6g}", flush=True)
    machine = {
        "jax": jax.__version__,
        "device": str(jax.devices()[0]),
        "python": platform.python_version(),
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"machine": machine, "results": results}, indent=1))


if __name__ == "__main__":
    main()
