"""What the command line says of proofs, as plain data: printed by ``show``, or as it is by
``--json``. The members are described in docs/json.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from zkjax.argument.budget import Budget, queries_for
from zkjax.argument.opening import Member
from zkjax.argument.party import Planner
from zkjax.cli.bundle import Bundle
from zkjax.errors import VerificationError
from zkjax.program.program import Port, Program
from zkjax.proof import Claims
from zkjax.protocol import Setup

FIRST = 4  # entries of a public value


def accepted(
    bundles: Sequence[Bundle],
    links: Sequence[tuple[int, int]],
    budget: Budget,
    seconds: float,
    compared: bool,
) -> dict[str, Any]:
    """Valid proofs, which follow each other by ``links``; the values are those of the last."""
    return {
        "command": "verify",
        "accepted": True,
        **_of_claims(bundles[-1]),
        "statement_compared": compared,
        "soundness_bits": budget.bits,
        "proofs": len(bundles),
        "proof_bytes": sum(len(b.proof_bytes) for b in bundles),
        "seconds": seconds,
        "chain": [{"output": made, "input": taken} for made, taken in links],
    }


def rejected(command: str, error: VerificationError) -> dict[str, Any]:
    return {
        "command": command,
        "accepted": False,
        "check": error.check,
        "detail": error.detail,
    }


def unusable(command: str, message: str) -> dict[str, Any]:
    return {"command": command, "error": message}


def inspected(bundle: Bundle) -> dict[str, Any]:
    """Everything that follows from the statement and the claims, and the sizes of the files."""
    program, claims = bundle.statement.program, bundle.claims
    proof = bundle.proof()
    setup = Setup(bundle.statement, claims)
    setup.require_length(proof.body)
    planner = Planner(setup.profile.kappa)
    setup.reduce(planner)
    pads = setup.pads((planner.singles, planner.triples), Member("pads", b"", 0))
    budget = setup.budget(planner, pads)
    counts = Counter[int]()
    for lookup in program.lookups:
        counts[lookup.table] += math.prod(program.shape(lookup.vars[0]))
    codes = [(t.name, t.layout.code, t.layout.rows) for t in setup.tableaux]
    codes.append(("pads", pads.code, pads.rows * setup.profile.kappa))
    return {
        "command": "inspect",
        "verified": False,
        **_of_claims(bundle),
        "files": dict(bundle.sizes),
        "operation_kinds": dict(Counter(op.kind for op in program.ops).most_common()),
        "tables": [
            {"name": t.name, "rows": t.rows, "columns": t.width, "lookups": counts[i]}
            for i, t in enumerate(program.tables)
        ],
        "tableaux": [
            {
                "name": name,
                "rows": rows,
                "row_values": code.row,
                "blinding": code.blinding,
                "code_length": code.length,
                "columns_opened": queries_for(code, setup.profile),
            }
            for name, code, rows in codes
        ],
        "soundness_terms": dict(budget.terms),
        "soundness_bits": budget.bits,
        "proof_of_work_bits": setup.grinding,
    }


def _of_claims(bundle: Bundle) -> dict[str, Any]:
    program, claims = bundle.statement.program, bundle.claims
    return {
        "statement": claims.statement.hex(),
        "context": claims.context.hex(),
        "profile": claims.profile,
        "operations": len(program.ops),
        "lookups": sum(math.prod(program.shape(r.vars[0])) for r in program.lookups),
        "inputs": _ports(program, program.inputs, claims.inputs),
        "outputs": _ports(program, program.outputs, claims.outputs),
        "commitments": _commitments(claims),
    }


def _ports(program: Program, ports: list[Port], values: dict[int, np.ndarray]) -> list[dict]:
    found = []
    for i, port in enumerate(ports):
        fact: dict[str, Any] = {
            "name": port.name,
            "dtype": port.dtype,
            "shape": list(program.shape(port.var)),
            "private": port.sealed,
        }
        if port.sealed:
            fact["commitment"] = port.group
        else:
            fact["first_values"] = [int(x) for x in values[i].reshape(-1)[:FIRST]]
        found.append(fact)
    return found


def _commitments(claims: Claims) -> list[dict]:
    given = {"input": claims.input_commitments, "output": claims.output_commitments}
    return [
        {
            "of": kind,
            "number": i,
            "digest": str(c),
            "tensors": len(c.shapes),
            "openings": c.openings,
            "elements": c.layout.elements,
        }
        for kind, commitments in given.items()
        for i, c in enumerate(commitments)
    ]


def expected(check) -> dict[str, Any]:
    """What a dry run tells: sizes and costs of the proof that was not made."""
    names = [f.name for f in dataclasses.fields(check) if f.name != "outputs"]
    return {"command": "check", **{name: getattr(check, name) for name in names}}


def verified_run(run, seconds: float) -> dict[str, Any]:
    """A fine-tuning run whose proofs hold (a ``proofs.training.verification.VerifiedRun``)."""
    told = run.facts
    return {
        "command": "verify",
        "accepted": True,
        "run": told.digest.hex(),
        "model": told.model,
        "targets": list(told.targets),
        "rank": told.r,
        "alpha": told.alpha,
        "optimizer": dict(told.optimizer),
        "steps": told.steps,
        "proved_steps": run.steps,
        "batch": told.batch,
        "length": told.length,
        "profile": told.profile,
        "losses": run.losses,
        "adapter": run.adapter.digest.hex(),
        "base_commitment": None if run.base is None else run.base.digest.hex(),
        "batch_commitments": [c.digest.hex() for c in run.batches],
        "soundness_bits": run.soundness_bits,
        "proof_bytes": run.proof_bytes,
        "seconds": seconds,
    }


def demonstrated(report: dict[str, Any], out: str) -> dict[str, Any]:
    """A demo run: what was proved and verified, how long it took, what was learned."""
    names = ("profile", "steps", "layers", "tokens_per_step", "soundness_bits", "proof_bytes")
    names += ("prove_seconds", "verify_seconds", "peak_memory_bytes", "lookups", "messages")
    names += ("committed_elements", "kernels", "loss_before", "loss_after", "losses", "curves")
    found = {"command": "demo", "accepted": True, "out": out}
    found |= {name: report[name] for name in names if name in report}
    return found | {"stages": report.get("seconds", {}), "phases": report.get("phases", {})}
