"""``zkjax.check``: a dry run. A call is evaluated without being proved, and what its proof would
cost is told.

The sizes follow from the statement. The time follows from them and from two proofs of a small
program, made on this machine once. How far these estimates were from three measured runs stands in
docs/measured.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np

from zkjax import __version__, fixed
from zkjax._arguments import checked
from zkjax._callable import positional
from zkjax._compat import cache_folder
from zkjax.argument.budget import profile_named, queries_for
from zkjax.argument.opening import MASK_ROWS
from zkjax.errors import ZkjaxError
from zkjax.files import read_capped, write_atomically
from zkjax.program.trace import Private, Traced, trace_call
from zkjax.proof import Claims, Commitment
from zkjax.protocol import Setup, pad_rows
from zkjax.provable import provable
from zkjax.prove import prove
from zkjax.sealed import DEFAULT_OPENINGS, Sealed

# Measured on the programs of docs/measured.md: bytes of memory for a leaf of the lookup tree, not
# counting padding, for a value of the program and for a committed element; seconds of a leaf and of
# a value, relative to the processor seconds of a leaf of the small proofs.
BYTES_A_LEAF, BYTES_A_VALUE, BYTES_AN_ELEMENT = 96, 8, 48
LEAF, VALUE = 0.40, 0.06
TIMES = 2  # that each small proof is timed; the fastest counts
SMALL = 13, 17  # log2 of the elements that the small programs round


@dataclass(frozen=True)
class Check:
    """What a call gives, and what proving it would cost.

    Attributes:
      outputs: as the function returns them.
      run_seconds: of this evaluation, with its range checks, compiled.
      operations, lookups: of the program.
      leaves: of the lookup tree, padding included.
      committed_elements: of the field, blinding included.
      proof_bytes, memory_bytes, prove_seconds: estimates; the time is that of a warm proof.
    """

    outputs: Any
    run_seconds: float
    operations: int
    lookups: int
    leaves: int
    committed_elements: int
    proof_bytes: int
    memory_bytes: int
    prove_seconds: float


@checked
def check(fn: Callable, *, sealed_outputs: Any = False, profile: str = "s100") -> Callable:
    """``check(fn)(*args)``: a dry run of ``prove(fn)(*args)``; ``Private(tree)`` may stand for a
    sealed argument, and then the values of the tree are used.

    Raises (when called):
      TraceError, ValueRangeError: what a proof would raise, named in the same way.
    """
    profile_named(profile)

    def run(*args, **keywords) -> Check:
        args = positional(fn, args, keywords)
        plain = [a.tree if isinstance(a, Sealed | Private) else a for a in args]
        traced = trace_call(fn, args, sealed_outputs)
        checked = provable(fn)
        start = time.perf_counter()
        outputs = jax.block_until_ready(checked(*plain))
        seconds = time.perf_counter() - start
        return estimated(traced, args, outputs, profile, seconds)

    return run


def estimated(traced: Traced, args, outputs: Any, profile: str, run_seconds: float) -> Check:
    """The cost of proving a traced call with these outputs."""
    setup = Setup(traced.statement, stand_in(traced, args, outputs, profile))
    program = setup.program
    lookups, _ = setup.lookup_size()
    leaves = 1 << max(lookups - 1, 1).bit_length()
    committed = sum(t.layout.elements for t in setup.tableaux)
    values = sum(int(np.prod(op.shape)) for op in program.ops)
    memory = BYTES_A_LEAF * lookups + BYTES_A_VALUE * values + BYTES_AN_ELEMENT * committed
    fixed_cost, a_leaf = speed()
    now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Check(
        outputs,
        run_seconds,
        len(program.ops),
        sum(int(np.prod(program.shape(r.vars[0]))) for r in program.lookups),
        leaves,
        committed,
        proof_bytes(setup),
        now + memory,
        fixed_cost + a_leaf * (LEAF * lookups + VALUE * values),
    )


def stand_in(traced: Traced, args, outputs: Any, profile: str) -> Claims:
    """Claims of the right sizes, about commitments that nobody made."""
    program = traced.statement.program
    leaves = jax.tree_util.tree_leaves(
        [a.tree if isinstance(a, Sealed | Private) else a for a in args]
    )
    results = jax.tree_util.tree_leaves(outputs)

    def commitments(ports, openings: int) -> list[Commitment]:
        groups = traced.statement.group_ports(ports)
        return [
            Commitment(
                bytes(32),
                tuple(program.shape(p.var) for p in members),
                tuple(p.dtype for p in members),
                openings,
                profile,
                range_proof=b"" if members[0].ranged else None,
            )
            for members in groups.values()
        ]

    def public(ports, arrays) -> dict[int, np.ndarray]:
        return {
            i: np.asarray(x)
            for i, (p, x) in enumerate(zip(ports, arrays, strict=True))
            if not p.sealed
        }

    return Claims(
        traced.statement.digest,
        profile,
        public(program.inputs, leaves),
        public(program.outputs, results),
        commitments(program.inputs, DEFAULT_OPENINGS),
        commitments(program.outputs, DEFAULT_OPENINGS + 1),
    )


def proof_bytes(setup: Setup) -> int:
    """The length of a proof: what every one has at least, its messages, and the paths of the trees
    to the opened columns.
    """
    kappa, plan = setup.profile.kappa, setup.plan()
    counts = plan.singles, plan.triples
    code = setup.pad_code(counts)
    total = setup.least_bytes + 8 * kappa * plan.messages
    rows = kappa * sum(rows for _, rows in pad_rows(counts, code.row).values())
    opened = queries_for(code, setup.profile)
    total += opened * 8 * (rows + MASK_ROWS * kappa) + 8 * kappa * 3 * code.dimension
    trees = [(c, 1) for c in (*setup.codes, code)] + [(t.layout.code, 1) for t in setup.tableaux]
    for c, count in trees:
        columns = queries_for(c, setup.profile)
        depth = max(c.log_length - int(np.log2(columns)), 0)
        total += count * 32 * columns * depth
    return total


@cache
def speed() -> tuple[float, float]:
    """(seconds, seconds a leaf) of the processor for a proof here, from two small ones; kept beside
    the compiled kernels, so that later processes need not measure again.
    """
    devices = jax.devices()
    machine = [__version__, jax.__version__, devices[0].device_kind, len(devices), os.cpu_count()]
    try:
        path = cache_folder() / "speed.json" if os.environ.get("ZKJAX_CACHE") != "off" else None
    except OSError:
        path = None
    if path is not None:
        with contextlib.suppress(OSError, ValueError, TypeError, ZkjaxError):
            of, seconds, a_leaf = json.loads(read_capped(path, 1 << 12))
            if of == machine:
                return float(seconds), float(a_leaf)
    seconds, a_leaf = _measured()
    if path is not None:
        with contextlib.suppress(OSError):
            write_atomically(path, json.dumps([machine, seconds, a_leaf]).encode())
    return seconds, a_leaf


def _measured() -> tuple[float, float]:
    def program(x):
        v = fixed.decode(x, 8)
        return fixed.encode(fixed.round(v * v, 8, 24), 8)

    found = []
    for log in SMALL:
        x = np.arange(1 << log, dtype=np.int16)
        seconds = []
        for _ in range(1 + TIMES):  # the first compiles kernels
            start = time.process_time()  # whatever else the machine does
            _, proof = prove(program, sealed_outputs=True)(x)
            seconds.append(time.process_time() - start)
        assert proof.report is not None
        found.append((min(seconds[1:]), proof.report["lookups"]))
    (first, few), (second, many) = found
    few, many = (1 << int(n - 1).bit_length() for n in (few, many))
    slope = max(second - first, 0.0) / (many - few)
    return max(first - slope * few, 0.0), slope
