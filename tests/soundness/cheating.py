"""A prover that lies: the honest code with one change, and what the verifier says to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest

from zkjax.argument.entropy import Entropy, SeededEntropy
from zkjax.argument.transcript import VerifierTranscript
from zkjax.errors import VerificationError
from zkjax.program.ops import RULES
from zkjax.program.program import OF_TABLES, Program
from zkjax.program.trace import Traced, trace_call
from zkjax.progress import Course
from zkjax.proof import Proof
from zkjax.prove import prove_traced
from zkjax.sealed import Sealed
from zkjax.verify import verify_statement

Change = Callable[[np.ndarray], np.ndarray]

PADDED = {"linear test", "product test"}  # where a violated constraint on padded values surfaces


def evaluate(
    program: Program,
    inputs: Sequence[np.ndarray],
    carries: Sequence[np.ndarray] = (),
    changes: Mapping[int, Change] | None = None,
) -> list[np.ndarray]:
    """``Program.evaluate`` without its checks, some variables changed, all others recomputed."""
    values: list[np.ndarray] = []
    ports = {p.var: np.asarray(x) for p, x in zip(program.inputs, inputs, strict=True)}
    for var, op in enumerate(program.ops):
        if op.kind == "input":
            value = ports[var].astype(np.float64)
        elif op.kind == "constant":
            value = program.constants[op.params[0]].astype(np.float64)
        elif op.kind == "carry":
            value = np.asarray(carries[op.params[0]], dtype=np.float64)
        else:
            operands = [values[i] for i in op.inputs]
            extra = {"tables": program.tables} if op.kind in OF_TABLES else {}
            value = RULES[op.kind].evaluate(op, *operands, **extra)
        value = np.asarray(value, dtype=np.float64).reshape(op.shape)
        if changes and var in changes:
            value = np.asarray(changes[var](value.copy()), dtype=np.float64).reshape(op.shape)
        values.append(value)
    return values


def multiplicities(program: Program, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """How often each row is looked up, as well as a liar can: keys that are no row do not count."""
    counts = [np.zeros(t.rows) for t in program.tables]
    for lookup in program.lookups:
        table = program.tables[lookup.table]
        index = (values[lookup.vars[0]] - float(table.columns[0][0])).reshape(-1)
        index = index[(index >= 0) & (index < table.rows)].astype(np.int64)
        counts[lookup.table] += np.bincount(index, minlength=table.rows)
    return counts


def unchecked():
    """A prover that gives out what its verifier will refuse."""
    return mock.patch("zkjax.argument.opening_prover.require_true")


@contextmanager
def liar(changes: Mapping[int, Change] | None = None):
    """The prover's evaluation is replaced by one with ``changes`` and without any check."""
    with (
        mock.patch.object(Program, "evaluate", lambda p, xs, cs=(): evaluate(p, xs, cs, changes)),
        mock.patch("zkjax.prove.compare_with_jax"),
        mock.patch.object(Program, "multiplicities", lambda p, values: multiplicities(p, values)),
        unchecked(),
    ):
        yield


def prove(
    traced: Traced,
    args: Sequence[Any],
    changes: Mapping[int, Change] | None = None,
    profile: str = "s100",
    openings: int = 1,
    entropy: Entropy | None = None,
) -> tuple[Any, Proof]:
    """Outputs and proof of a call of a traced function; sealed arguments do not count openings."""
    for a in args:
        if isinstance(a, Sealed):
            a.counter.left = max(a.counter.left, 1)
    with liar(changes):
        return prove_traced(
            traced, args, profile, openings, Course({}), entropy or SeededEntropy(7)
        )


def bump(position: int = 0, by: float = 1.0) -> Change:
    """Add ``by`` to one entry."""

    def change(value: np.ndarray) -> np.ndarray:
        value.reshape(-1)[position] += by
        return value

    return change


def variables(traced: Traced, kind: str) -> list[int]:
    """The numbers of all variables of one kind."""
    return [v for v, op in enumerate(traced.statement.program.ops) if op.kind == kind]


def rejected(traced: Traced, proof: Proof, checks: str | Iterable[str] = PADDED) -> None:
    """The verifier raises VerificationError, and it is one of ``checks`` that fires."""
    with pytest.raises(VerificationError) as caught:
        verify_statement(traced.statement, proof)
    expected = {checks} if isinstance(checks, str) else set(checks)
    assert caught.value.check in expected, caught.value


def messages(traced: Traced, proof: Proof) -> list[tuple[str, int, int]]:
    """(kind, start, size) of every message of a proof, as its verifier reads them."""
    read, out = VerifierTranscript.read, []

    def recorded(self, kind: str, n: int) -> bytes:
        out.append((kind, self._position, n))
        return read(self, kind, n)

    with mock.patch.object(VerifierTranscript, "read", recorded):
        verify_statement(traced.statement, proof)
    return out


__all__ = [
    "PADDED",
    "Change",
    "bump",
    "evaluate",
    "liar",
    "messages",
    "multiplicities",
    "prove",
    "rejected",
    "trace_call",
    "unchecked",
    "variables",
]
