"""What an operation costs in chains of 10, 100 and 1,000: prover's reduction, and verifier.

    python benchmarks/chains.py [--out FILE]

Each chain applies one kind of linear operation to its own result, so that claims could double with
every one of them. Times are CPU seconds with warm kernels: of verifying, and of the reduction and
the opening of proving, the least of five. What a proof costs anyway is taken off: the time of the
chain of 10.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import zkjax
from zkjax import fixed
from zkjax.argument.entropy import Entropy
from zkjax.program.trace import trace_call
from zkjax.prove import Phases, prove_traced
from zkjax.verify import verify_statement

LENGTHS = (10, 100, 1000)
REPEATS = 5
CHAINS: dict[str, Callable] = {
    "reverse": lambda y: y - y[::-1, ::-1],
    "roll": lambda y: jnp.roll(y, 1, axis=0) - y,
    "transpose": lambda y: y - y.T,
    "concatenate": lambda y: jnp.concatenate([y[1:], y[:1]]) - y,
}
REDUCTION = ("lookups", "sumchecks", "closing", "opening")


def chain(step: Callable, length: int) -> Callable:
    """``length`` steps; every fourth is rounded to nothing larger than before."""

    def fn(x):
        y = fixed.decode(x, 0)
        for i in range(length):
            y = step(y)
            if i % 4 == 3:
                y = fixed.round(y * 0.03125, 0, 10)
        return fixed.encode(y, 0)

    return fn


def measure(step: Callable, length: int) -> dict[str, float]:
    sealed = zkjax.seal(np.arange(64, dtype=np.int8).reshape(8, 8) % 7, openings=REPEATS + 1)
    fn = chain(step, length)
    traced = trace_call(fn, (sealed,))
    traced._compiled = traced.recorded  # XLA takes minutes for a thousand operations in a row
    prove, check = [], []
    for repeat in range(REPEATS + 1):
        phases = Phases(None, time.process_time)
        proof = prove_traced(traced, (sealed,), "s100", 1, phases, Entropy())[1]
        start = time.process_time()
        verify_statement(traced.statement, proof)
        if repeat:
            check.append(time.process_time() - start)
            prove.append(sum(phases.seconds[name] for name in REDUCTION))
    return {
        "operations": len(traced.statement.program.ops),
        "prove": min(prove),
        "verify": min(check),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/chains.json"))
    args = parser.parse_args()
    zkjax.enable_kernel_cache()
    results = {}
    for name, step in CHAINS.items():
        rows = {length: measure(step, length) for length in LENGTHS}
        for side in ("prove", "verify"):
            fixed_cost = rows[10][side]
            for length in LENGTHS[1:]:
                more = rows[length]["operations"] - rows[10]["operations"]
                rows[length][f"{side} ms/operation"] = (
                    1e3 * (rows[length][side] - fixed_cost) / more
                )
            ratio = rows[1000][f"{side} ms/operation"] / rows[100][f"{side} ms/operation"]
            rows[1000][f"{side} ratio"] = ratio
            print(
                f"{name:12s} {side:6s} "
                + " ".join(f"{n:5d}: {rows[n][side]:7.3f} s" for n in LENGTHS)
                + f"  {rows[100][f'{side} ms/operation']:.2f} and "
                f"{rows[1000][f'{side} ms/operation']:.2f} ms an operation, ratio {ratio:.2f}",
                flush=True,
            )
        results[name] = rows
    args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
