"""The three files of a proof: proof.zkp, statement.zks and claims.json. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zkjax.errors import StatementError
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
