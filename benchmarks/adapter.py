"""Measure the adapter check for the adapter shapes that ZKLoRA (arXiv 2501.13965) reports.

Usage: python benchmarks/adapter.py [--rows NAME ...] [--profile s100] [--out FILE]

Random weights; activations of batch 3 x sequence 5. Every row runs in a process of its own, twice:
``cold`` is the first time in that process (kernels compiled or read from the kernel cache), the
other figures are the second time. Both parties run in that process, so the peak memory is that of
both. The published figures are those of the paper's table 1, on its machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

BATCH, SEQUENCE, SESSIONS = 3, 5, 4


class Row(NamedTuple):
    """An adapter: layers, {target: (inputs, outputs)}, rank."""

    layers: int
    targets: dict[str, tuple[int, int]]
    r: int


ROWS = {
    "distilgpt2": Row(24, {"q_proj": (768, 2304)}, 8),
    "gpt2": Row(48, {"q_proj": (768, 2304)}, 16),
    "Llama-3.2-1B": Row(16, {"q_proj": (2048, 2048), "v_proj": (2048, 512)}, 8),
    "Llama-3.1-8B": Row(32, {"v_proj": (4096, 1024)}, 32),
    "Mixtral-8x7B": Row(32, {"v_proj": (4096, 1024)}, 64),
    "Llama-3.3-70B": Row(80, {"v_proj": (8192, 1024)}, 16),
}
COLUMNS = (
    ("modules", "{:d}"),
    ("parameters_per_module", "{:,.0f}"),
    ("commit_seconds", "{:.2f}"),
    ("exchange_seconds", "{:.2f}"),
    ("prove_seconds", "{:.2f}"),
    ("verify_seconds", "{:.2f}"),
    ("verify_ms_per_module", "{:.1f}"),
    ("proof_bytes", "{:,d}"),
    ("peak_memory_gb", "{:.2f}"),
    ("soundness_bits", "{:.1f}"),
)


def random_adapter(row: Row, rng) -> dict:
    def weights(shape, scale):
        return np.clip(np.round(rng.normal(size=shape) * scale * 4096), -32768, 32767)

    return {
        t: {
            "a": weights((row.layers, i, row.r), i**-0.5).astype(np.int16),
            "b": weights((row.layers, row.r, o), 0.02).astype(np.int16),
        }
        for t, (i, o) in row.targets.items()
    }


def measure(name: str, profile: str) -> dict:
    """All phases of one row, cold and warm."""
    import zkjax
    from zkjax._compat import enable_kernel_cache
    from zkjax.proofs import adapter
    from zkjax.proofs.adapter.peer import Peer
    from zkjax.prove import prove_ranges
    from zkjax.verify import _ranges_hold, verify_ranges

    enable_kernel_cache()
    row, rng = ROWS[name], np.random.default_rng(0)
    weights = random_adapter(row, rng)
    tokens = BATCH * SEQUENCE
    size = next(iter(row.targets.values()))[0]
    x = np.clip(np.round(rng.normal(size=(row.layers, tokens, size)) * 2048), -32768, 32767)
    x = x.astype(np.int16)
    runs = []
    for _ in range(2):
        seconds: dict[str, float] = {}
        start = time.perf_counter()

        def lap(key, seconds=seconds):
            nonlocal start
            seconds[key] = time.perf_counter() - start
            start = time.perf_counter()

        sealed = zkjax.seal(weights, openings=SESSIONS + 1, profile=profile)
        lap("seal")
        ranges = prove_ranges(sealed)
        lap("range proof")
        sealed, manifest = adapter.commit_adapter(sealed, tuple(range(row.layers)), 0)
        lap("manifest")
        contributor = adapter.Contributor(sealed, manifest, leakage=adapter.Leakage(manifest, 1.0))
        _ranges_hold.cache_clear()
        start = time.perf_counter()
        verify_ranges(manifest.commitment)
        lap("verify range proof")
        peer = Peer(contributor.connect(), name, least=profile)
        lap("pin")
        for layer in range(row.layers):
            peer.deltas(layer, "attention", x[layer])
        lap("exchange")
        body = contributor.prove(peer.record)
        lap("prove")
        peer.record.verify(body, profile)
        lap("verify")
        runs.append(seconds)
    cold, warm = runs
    report = contributor.report
    commit = warm["seal"] + warm["range proof"] + warm["manifest"]
    return {
        "name": name,
        "profile": profile,
        "modules": manifest.modules,
        "parameters_per_module": manifest.parameters / manifest.modules,
        "r": row.r,
        "shapes": {t: list(s) for t, s in row.targets.items()},
        "batch": BATCH,
        "sequence": SEQUENCE,
        "sessions_per_commitment": SESSIONS,
        "commit_seconds": commit,
        "exchange_seconds": warm["exchange"],
        "prove_seconds": warm["prove"],
        "verify_seconds": warm["verify"],
        "verify_ms_per_module": 1000 * warm["verify"] / manifest.modules,
        "range_proof_bytes": len(manifest.commitment.range_proof),
        "range_proof_phases": ranges["phases"],
        "proof_bytes": len(body),
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "prove_phases": report["phases"],
        "lookups": report["lookups"],
        "committed_elements": report["committed_elements"],
        "messages": report["messages"],
        "soundness_bits": min(report["soundness_bits"], ranges["soundness_bits"]),
        "seconds": warm,
        "cold": cold,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--profile", default="s100")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--here", action="store_true", help="one row, in this process, as JSON")
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.rows[0], args.profile)))
        return
    results = []
    for name in args.rows:
        command = [sys.executable, __file__, "--here", "--rows", name, "--profile", args.profile]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr}")
        results.append(json.loads(done.stdout.splitlines()[-1]))
        line = ", ".join(f"{k} {form.format(results[-1][k])}" for k, form in COLUMNS)
        print(f"{name}: {line}", flush=True)
    if args.out:
        import jax

        machine = {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "processor": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"machine": machine, "rows": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
