"""Attack random programs: N functions traced, run on extreme inputs, and every hint moved mod p.

Usage: python benchmarks/random_programs.py N [--seed S] [--understate SHARE] [--out FILE]
           [--reduce]

Two worker processes take the seeds S to S + N - 1 in turn. Every finding is printed with its seed,
inputs and source; the exit code is 1 if there is one. ``--reduce`` shrinks the source first.
``--understate 0.4`` makes all bounds that rules declare smaller by 40 %: honest runs then leave
more ranges, but nothing that is proved may change, for nothing may rest on a declared bound.
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


def attack(task: tuple[int, int, float, bool]) -> dict:
    """Some seeds in a row: counts, and findings with their source."""
    sys.path.insert(0, str(ROOT / "tests"))
    from soundness.checking import check_seeds, reduced

    start, stop, understate, reduce = task
    counts: Counter = Counter()
    findings = []
    before = time.process_time()
    for seed, function, outcome in check_seeds(range(start, stop), understate):
        counts["programs"] += 1
        counts[outcome.status] += 1
        counts["runs"] += outcome.runs
        counts["provable runs"] += outcome.provable
        counts.update(f"other hints, same outputs: {kind}" for kind in outcome.loose)
        if not outcome.findings:
            continue
        if reduce:
            function = reduced(function, outcome, understate)
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


class Report:
    """What all batches found so far; written after each, so that a run may be ended early."""

    def __init__(self, seed: int, understate: float, out: Path):
        self.seed, self.understate, self.out = seed, understate, out
        self.began = time.perf_counter()
        self.counts: Counter = Counter()
        self.findings: list[dict] = []
        self.cpu_seconds, self.peak = 0.0, 0

    def add(self, result: dict) -> None:
        self.counts.update(result["counts"])
        self.cpu_seconds += result["seconds"]
        self.peak = max(self.peak, result["peak"])
        self.findings += result["findings"]
        for f in result["findings"]:
            print(f"\nseed {f['seed']}, {f['kind']}: {f['detail']}\n{f['source']}")
            print(f["arguments"], f["sealed_outputs"], ", ".join(f["inputs"]), flush=True)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.figures(), indent=1) + "\n")

    def figures(self) -> dict:
        refused = {k: n for k, n in self.counts.items() if k.endswith("Error")}
        return {
            "programs": self.counts["programs"],
            "seed": self.seed,
            "understated_by": self.understate,
            "accepted": self.counts["accepted"],
            "refused": refused,
            "runs": self.counts["runs"],
            "provable_runs": self.counts["provable runs"],
            "other_hints": {k: n for k, n in self.counts.items() if k.startswith("other hints")},
            "findings": sorted(self.findings, key=lambda f: f["seed"]),
            "seconds": time.perf_counter() - self.began,
            "cpu_seconds": self.cpu_seconds,
            "peak_memory_bytes": self.peak,
            "python": platform.python_version(),
        }

    def summary(self) -> str:
        f = self.figures()
        return (
            f"{f['programs']} programs: {f['accepted']} accepted, {sum(f['refused'].values())} "
            f"refused, {len(self.findings)} findings; {f['runs']} runs, {f['provable_runs']} "
            f"provable; {f['seconds']:.0f} s, {self.cpu_seconds:.0f} CPU s"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--understate", type=float, default=0.0)
    parser.add_argument("--reduce", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    starts = range(args.seed, args.seed + args.n, BATCH)
    last = args.seed + args.n
    tasks = [(s, min(s + BATCH, last), args.understate, args.reduce) for s in starts]
    report = Report(args.seed, args.understate, args.out)
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, maxtasksperchild=BATCHES_A_PROCESS) as pool:
        for result in pool.imap_unordered(attack, tasks, chunksize=1):
            report.add(result)
    print(f"\n{report.summary()}")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
