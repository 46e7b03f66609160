"""The three files of a proof, proof.zkp, statement.zks and claims.json, and proofs that follow each
other. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from zkjax.errors import StatementError, VerificationError
from zkjax.files import read_capped
from zkjax.program.statement import Statement
from zkjax.proof import Claims, Proof

PROOF, STATEMENT, CLAIMS = "proof.zkp", "statement.zks", "claims.json"
MAX_BYTES = 1 << 30


@dataclass
class Bundle:
    """A statement, claims about one run of it, and the bytes that should prove them."""

    statement: Statement
    claims: Claims
    proof_bytes: bytes
    sizes: dict[str, int]

    def proof(self) -> Proof:
        """The proof; VerificationError if it is not a proof file of the claimed profile."""
        return Proof.decode(self.proof_bytes, self.claims)


def load_bundle(target: Path) -> Bundle:
    """Read the files at ``target``, a folder or a proof file with the other two beside it.

    Raises:
      StatementError: a file is missing, unreadable, too large or malformed.
    """
    if target.is_dir():
        folder, proof = target, target / PROOF
    elif target.exists():
        folder, proof = target.parent, target
    else:
        raise StatementError(f"{target} does not exist")
    if (folder / "record.safetensors").exists() or (folder / "inference.json").exists():
        raise StatementError(f"{folder} is of an adapter check; use zkjax adapter verify")
    data = {
        PROOF: read_capped(proof, MAX_BYTES),
        STATEMENT: read_capped(folder / STATEMENT, MAX_BYTES),
        CLAIMS: read_capped(folder / CLAIMS, MAX_BYTES),
    }
    statement = Statement.decode(data[STATEMENT])
    claims = Claims.from_json(data[CLAIMS])
    return Bundle(statement, claims, data[PROOF], {k: len(v) for k, v in data.items()})


def load_steps(target: Path) -> list[Bundle]:
    """The proofs at ``target`` in order: those in its folders step-1, step-2, ... and its own.

    Raises:
      StatementError: a step is missing, or a file is as ``load_bundle`` says.
    """
    if not target.is_dir():
        return [load_bundle(target)]
    earlier = {p.name for p in target.glob("step-*") if p.is_dir()}
    names = [f"step-{k + 1}" for k in range(len(earlier))]
    if missing := [name for name in names if name not in earlier]:
        raise StatementError(f"{target} has {len(earlier)} earlier steps, but no {missing[0]}")
    return [load_bundle(folder) for folder in (*(target / name for name in names), target)]


def chain_links(bundles: Sequence[Bundle]) -> list[tuple[int, int]]:
    """(i, j): the commitment to output i of every proof is the one to input j of the next.

    Raises:
      VerificationError: the proofs are of different programs or profiles, or don't follow.
    """
    links: set[tuple[int, int]] | None = None
    for step, (before, after) in enumerate(pairwise(bundles), 1):
        if before.statement.digest != after.statement.digest:
            raise VerificationError("chain", f"steps {step} and {step + 1} are of other programs")
        here = {
            (i, j)
            for i, made in enumerate(before.claims.output_commitments)
            for j, taken in enumerate(after.claims.input_commitments)
            if made == taken
        }
        links = here if links is None else links & here
        if not links:
            raise VerificationError(
                "chain", f"step {step + 1} does not go on from what step {step} has made"
            )
    return sorted(links or ())
