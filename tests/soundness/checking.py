"""One function checked: traced, run on inputs at the ends of their types, attacked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from unittest import mock

import jax
import numpy as np

import zkjax
from soundness import interpreter
from soundness.random_programs import Function, random_function, smallest
from soundness.solutions import Effort, Finding, Search
from zkjax._compat import x64
from zkjax.program.builder import Builder
from zkjax.program.trace import Traced, trace_call

USUAL, THOROUGH = Effort(), Effort(elements=8, steps=48, repairs=400)
REDUCING = Effort(elements=8, steps=32, repairs=16)


@dataclass
class Outcome:
    """``status`` is "accepted", the name of the error that refuses it, or "crashed"."""

    status: str
    findings: list[Finding] = field(default_factory=list)
    inputs: list[np.ndarray] = field(default_factory=list)  # those of the finding
    runs: int = 0
    provable: int = 0  # runs whose relations hold with honest hints
    loose: list[str] = field(default_factory=list)


def jax_outputs(fn: Callable, inputs) -> list[np.ndarray]:
    """What JAX itself computes."""
    with x64():
        return [np.asarray(y) for y in jax.tree.leaves(jax.jit(fn)(*inputs))]


@contextlib.contextmanager
def understated(share: float) -> Iterator[None]:
    """Meanwhile rules declare bounds that are smaller by a share of them. Nothing that is proved
    may rest on a declared bound; but honest runs may leave what is checked.
    """
    add = Builder.add

    def smaller(builder, kind, inputs, shape, bound, *params, key=None):
        declared = bound - int(share * bound) if len(inputs) else bound
        return add(builder, kind, inputs, shape, declared, *params, key=key)

    with mock.patch.object(Builder, "add", smaller):
        yield


def check_traced(
    traced: Traced, fn: Callable, runs, rng, effort: Effort, complete: bool = True
) -> Outcome:
    """All runs of one traced function, up to the first finding. ``complete``: it is one that an
    honest run which leaves no range can't be proved.
    """
    outcome = Outcome("accepted")
    for inputs in runs:
        outcome.runs += 1
        expected, trouble = interpreter.run(traced.closed, inputs)
        search = Search(traced.statement.program, inputs, expected, rng)
        outcome.provable += not search.broken
        found = search.honest(complete and not trouble) or search.moves(effort)
        outcome.loose += search.loose
        # Whoever checks the checker: a finding counts if JAX computes what the interpreter did.
        if found and all(map(np.array_equal, jax_outputs(fn, inputs), expected)):
            outcome.findings, outcome.inputs = found, inputs
            return outcome
    return outcome


def check(
    function: Function, runs, rng, effort: Effort = USUAL, understate: float = 0.0
) -> Outcome:
    """A random function; declared bounds are smaller by a share of them."""
    fn = function.callable()
    try:
        args = function.arguments(runs[0])
        with understated(understate):
            traced = trace_call(fn, args, tuple(function.sealed_outputs))
    except zkjax.ZkjaxError as error:
        return Outcome(type(error).__name__)
    except Exception as error:
        finding = Finding("crashed", f"{type(error).__name__}: {error}")
        return Outcome("crashed", [finding], runs[0])
    return check_traced(traced, fn, runs, rng, effort, not understate)


def check_seed(
    seed: int, effort: Effort = USUAL, understate: float = 0.0
) -> tuple[Function, Outcome]:
    """The random function of a seed."""
    rng = np.random.default_rng(seed)
    function = random_function(rng)
    return function, check(function, function.inputs(rng), rng, effort, understate)


def reduced(function: Function, outcome: Outcome, understate: float = 0.0) -> Function:
    """The smallest function found with a finding of the same kind on the same inputs."""
    kind = outcome.findings[0].kind

    def still(other: Function) -> bool:
        try:
            rng = np.random.default_rng(0)
            again = check(other, [outcome.inputs], rng, REDUCING, understate)
        except Exception:  # a function that Python or JAX refuses
            return False
        return any(f.kind == kind for f in again.findings)

    return smallest(function, still)


def check_seeds(seeds, understate: float = 0.0) -> Iterator[tuple[int, Function, Outcome]]:
    """Several seeds, one after the other."""
    for seed in seeds:
        yield seed, *check_seed(seed, USUAL, understate)
