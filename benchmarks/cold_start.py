"""Measure what a newcomer waits for: the first proof in a process, without and with kept kernels.

Usage: python benchmarks/cold_start.py [--runs 3] [--out FILE] NAME=PYTHON ...

Each PYTHON has zkjax with its models installed, say one before a change and one after it. In every
run each of them, in turn, starts two processes: one without kept kernels ("cold"), and one with
those that the first has kept ("warm"). A process seals the inputs of the demo's step, proves the
step twice, and ends. Figures are medians: seconds on the wall and of processor time, of the whole
process and of each proof.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

STEP = """
import json, time
import zkjax
from zkjax._compat import enable_kernel_cache
from zkjax.argument import kernels
from zkjax.proofs.demo import LEARNING_RATE, SEALED_OUTPUTS, demo_inputs
from zkjax.proofs.finetune import make_step, store_rate
enable_kernel_cache()
run, base, adapter, source = demo_inputs()
sealed = [zkjax.seal(x) for x in (base, adapter, next(source))]
prove = zkjax.prove(make_step(run), sealed_outputs=SEALED_OUTPUTS)
found = {}
for name in ("first proof", "second proof"):
    start = time.perf_counter(), time.process_time()
    prove(*sealed, store_rate(LEARNING_RATE))
    found[name] = time.perf_counter() - start[0]
    found[name + ", processor"] = time.process_time() - start[1]
print(json.dumps(found | {"kernels": kernels.count()}))
"""


def measure(python: str, cache: Path) -> dict[str, float]:
    """One process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    environment = {**os.environ, "ZKJAX_CACHE": str(cache)}
    done = subprocess.run(
        [python, "-c", STEP], env=environment, cwd=cache.parent, capture_output=True, check=True
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"process": wall, "process, processor": spent, **json.loads(done.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="+", metavar="NAME=PYTHON")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs: dict[str, dict[str, list[dict]]] = {}
    for _ in range(args.runs):
        for name, python in (p.split("=", 1) for p in args.pythons):
            folder = Path(tempfile.mkdtemp())
            found = [measure(python, folder / "cache") for _ in ("cold", "warm")]
            shutil.rmtree(folder)
            for state, result in zip(("cold", "warm"), found, strict=True):
                runs.setdefault(name, {}).setdefault(state, []).append(result)
    medians = {
        name: {
            state: {key: statistics.median(r[key] for r in results) for key in results[0]}
            for state, results in states.items()
        }
        for name, states in runs.items()
    }
    for name, states in medians.items():
        for state, figures in states.items():
            print(f"{name}, {state}")
            for key, value in figures.items():
                print(f"  {key:26s} {value:8.2f}")
    if args.out:
        args.out.write_text(json.dumps({"medians": medians, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
