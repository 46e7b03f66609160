"""Attack random programs: N functions traced, run on extreme inputs, and every hint moved mod p.

Usage: python benchmarks/random_programs.py N [--seed S] [--out FILE] [--reduce]

Two worker processes take the seeds S to S + N - 1 in turn. Every finding is printed with its seed,
inputs and source; the exit code is 1 if there is one. ``--reduce`` shrinks the source first.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/random-programs.json"
BATCH = 50
BATCHES_A_PROCESS = 20  # what JAX keeps of each trace is returned with the process


def attack(task: tuple[int, int, bool]) -> dict:
    """Some seeds in a row: counts, and findings with their source."""
    sys.path.insert(0, str(ROOT / "tests"))
    from soundness.checking import check_seeds, reduced

    start, stop, reduce = task
    counts: Counter = Counter()
    findings = []
    before = time.process_time()
    for seed, function, outcome in check_seeds(range(start, stop)):
        counts[outcome.status] += 1
        counts["runs"] += outcome.runs
        counts["provable runs"] += outcome.provable
        counts.update(f"other hints, same outputs: {kind}" for kind in outcome.loose)
        if not outcome.findings:
            continue
        if reduce:
            function = reduced(function, outcome)
        found = outcome.findings[0]
        findings.append(
            {
                "seed": seed,
                "kind": found.kind,
                "detail": found.detail,
                "source": "\n".join(function.block.lines()),
                "arguments": function.sealed,
                "sealed_outputs": function.sealed_outputs,
                "inputs": [f"np.array({x.tolist()}, np.{x.dtype})" for x in outcome.inputs],
            }
        )
    seconds = time.process_time() - before
    return {"counts": counts, "findings": findings, "seconds": seconds, "peak": _peak()}


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reduce", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    stop = args.seed + args.n
    tasks = [
        (start, min(start + BATCH, stop), args.reduce) for start in range(args.seed, stop, BATCH)
    ]
    counts: Counter = Counter()
    findings, seconds, peak = [], 0.0, 0
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, maxtasksperchild=BATCHES_A_PROCESS) as pool:
        for result in pool.imap_unordered(attack, tasks):
            counts.update(result["counts"])
            seconds, peak = seconds + result["seconds"], max(peak, result["peak"])
            findings += result["findings"]
            for f in result["findings"]:
                print(f"\nseed {f['seed']}, {f['kind']}: {f['detail']}\n{f['source']}", flush=True)
                print(
                    f"{f['arguments']} {f['sealed_outputs']} {', '.join(f['inputs'])}", flush=True
                )
    refused = {k: n for k, n in counts.items() if k.endswith("Error")}
    report = {
        "programs": args.n,
        "seed": args.seed,
        "accepted": counts["accepted"],
        "refused": refused,
        "runs": counts["runs"],
        "provable_runs": counts["provable runs"],
        "other_hints": {k: n for k, n in counts.items() if k.startswith("other hints")},
        "findings": sorted(findings, key=lambda f: f["seed"]),
        "seconds": time.perf_counter() - began,
        "cpu_seconds": seconds,
        "peak_memory_bytes": peak,
        "python": platform.python_version(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(
        f"\n{args.n} programs: {counts['accepted']} accepted, {sum(refused.values())} refused, "
        f"{len(findings)} findings; {counts['runs']} runs, {counts['provable runs']} provable; "
        f"{report['seconds']:.0f} s, {seconds:.0f} CPU s"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
