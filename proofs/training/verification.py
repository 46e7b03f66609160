"""Verify a run: every proof, what it is about, and that each goes on where the last one ended.

A run is about what run.json and formats.json say, and the base model: a directory that the verifier
has, or a commitment if the model is private. From these the statement of a step is traced again;
hyper-parameters are computed again; nothing in the folder is taken for granted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from zkjax._arguments import typed
from zkjax.errors import CheckpointError, StatementError, VerificationError
from zkjax.files import read_capped
from zkjax.models.checkpoint import load_model, model_digest
from zkjax.program.statement import Statement
from zkjax.proof import Claims, Commitment, Proof
from zkjax.proofs.calibration import Calibration
from zkjax.proofs.demo import demo_model
from zkjax.proofs.finetune import (
    LOSS_FRACTION,
    FineTuning,
    require_close,
    store_base,
    stored_like,
)
from zkjax.proofs.training.folder import WHOLE, Files, names
from zkjax.proofs.training.settings import DEMO, MOST_SETTINGS, Facts
from zkjax.proofs.training.statement import StepStatement
from zkjax.verify import require_profile, verify_statement

__all__ = ["verify_run"]

MAX_CLAIMS, MAX_PROOF, MAX_FORMATS = 1 << 25, 1 << 26, 1 << 20
Step = Callable[[int, int], None]


@dataclass
class VerifiedRun:
    """What the proofs of a run show.

    Attributes:
      steps: how many of ``facts.steps`` are proved.
      adapter: the commitment to the adapter after the last of them.
      base: the commitment to the base model, if it is private.
      batches: the commitments to what each step trained on, if that is private.
    """

    facts: Facts
    steps: int
    losses: list[float]
    adapter: Commitment
    base: Commitment | None
    batches: list[Commitment]
    soundness_bits: float
    proof_bytes: int


@typed
def verify_run(
    folder: str | Path,
    base: str | Path | None = None,
    *,
    least: str = "s100",
    run_digest: bytes | None = None,
    progress: Step = lambda done, of: None,
) -> VerifiedRun:
    """Verify the steps that a run's folder has.

    Args:
      base: the directory of the base model, or "demo"; None if the model is private.
      least: the least security profile accepted.
      run_digest: of run.json (``Facts.digest``), if the verifier knows it beforehand.
      progress: called with the proofs that are verified, and of how many.
    Raises:
      VerificationError: names the step and the check that fails.
      StatementError, CheckpointError: a file cannot be used.
    """
    folder = Path(folder)
    facts = Facts.decode(read_capped(folder / "run.json", MOST_SETTINGS), str(folder / "run.json"))
    if run_digest is not None and run_digest != facts.digest:
        raise VerificationError("run", f"it is the run {facts.digest.hex()}")
    require_profile(facts.profile, least)
    told, stored = _statement_of(folder, facts, base)
    adapter = told.example_adapter()
    state, batch = told.init_state(adapter), told.example_batch()
    count = 0
    while count < facts.steps and (folder / f"step-{count + 1}").is_dir():
        count += 1
    if extra := [p.name for p in folder.glob("step-*") if _number(p.name) > count]:
        raise VerificationError("chain", f"{sorted(extra)[0]} does not follow on {count} steps")
    shown = sum(x.size for x in jax.tree.leaves((adapter, state)))  # int32, and in base 64
    most = MAX_CLAIMS + 8 * shown
    began = _Proof(folder / "start", facts.context(0), facts.profile, most=most)
    began.verify(told.trace_start(adapter, state), {}, "start")
    for value in began.claims.outputs.values():
        if value.any():
            raise VerificationError("start", "the first adapter's B, or the optimizer, is not zero")
    commitments = began.claims.input_commitments
    current: tuple[Commitment, Commitment | None] = (
        commitments[0],
        commitments[1] if told.has_state else None,
    )
    progress(1, count + 1)
    known = dict(enumerate(jax.tree.leaves(stored))) if facts.public_base else {}
    statements: list[Statement] = []
    run = VerifiedRun(facts, count, [], current[0], None, [], began.bits, began.size)
    for k in range(count):
        where, files = f"step {k + 1}", names(2 if facts.split else 1)
        place = folder / f"step-{k + 1}"
        proofs = [_Proof(place, facts.context(k + 1), facts.profile, f) for f in files]
        if not statements:
            if not facts.public_base:
                stored = _shapes(proofs[0].claims, told, where)
            statements = told.trace(stored, adapter, state, batch)
        for proof, statement in zip(proofs, statements, strict=True):
            proof.verify(statement, known if proof is proofs[0] else {}, where)
            run.soundness_bits = min(run.soundness_bits, proof.bits)
            run.proof_bytes += proof.size
        first, last = proofs[0].claims, proofs[-1].claims
        _require_hyperparameters(last, told.hyperparameters(k), where)
        current = _require_link(told, first, last, current, run, where)
        (loss,) = first.outputs.values()
        run.losses.append(float(loss) * 2.0**-LOSS_FRACTION)
        progress(k + 2, count + 1)
    return replace(run, adapter=current[0])


def _number(name: str) -> int:
    digits = name.partition("-")[2]
    return int(digits) if digits.isdecimal() and len(digits) < 10 else 1 << 30


def _statement_of(folder: Path, facts: Facts, base: str | Path | None) -> tuple[StepStatement, Any]:
    """The statement of a step, and the base model as it is stored; None if it is private."""
    data = read_capped(folder / "formats.json", MAX_FORMATS)
    if hashlib.blake2s(data).hexdigest() != facts.formats:
        raise VerificationError("formats", "formats.json is not the one that run.json names")
    formats = Calibration.decode(data, str(folder / "formats.json"))
    run = FineTuning(model=facts.model_config, lora=facts.lora)
    told = StepStatement(facts, formats.apply(run))
    if not facts.public_base:
        if base is not None:
            raise StatementError("the base model of this run is private; leave out --base")
        return told, None
    if base is None:
        raise StatementError("name the directory of the base model (--base), or demo")
    config, parameters = demo_model() if base == DEMO else load_model(base)
    digest = model_digest(config, parameters)
    if digest != facts.model or config != facts.model_config:
        raise CheckpointError(f"the run is about the base model {facts.model}, {base} is {digest}")
    stored = store_base(parameters, formats.weight_fractions)
    require_close(told.run, parameters, stored)
    return told, stored


def _shapes(claims: Claims, told: StepStatement, where: str) -> Any:
    """The shapes of a private base model, by its commitment."""
    for commitment in claims.input_commitments[:1]:
        if (like := stored_like(told.run.model, commitment)) is not None:
            return like
    raise VerificationError("claims", f"{where}: no commitment to a base model of this shape")


class _Proof:
    """The files of one proof, for this place in this run."""

    def __init__(
        self,
        folder: Path,
        context: bytes,
        profile: str,
        files: Files = WHOLE,
        most: int = MAX_CLAIMS,
    ):
        self.claims = Claims.from_json(read_capped(folder / files.claims, most))
        self.data = read_capped(folder / files.proof, MAX_PROOF)
        self.size, self.bits = len(self.data), 0.0
        if self.claims.context != context:
            raise VerificationError("claims", f"{folder.name} is of another run or step")
        if self.claims.profile != profile:
            raise VerificationError("profile", f"{folder.name} has profile {self.claims.profile}")

    def verify(self, statement: Statement, known: dict[int, np.ndarray], where: str) -> None:
        """Against the statement that it should be of, with public inputs that are known."""
        if set(known) & set(self.claims.inputs):
            raise VerificationError("claims", f"{where}: it tells of a base model of its own")
        if self.claims.statement != statement.digest:
            raise VerificationError("statement", f"{where} proves another computation")
        self.claims = replace(self.claims, inputs=known | self.claims.inputs)
        try:
            self.bits = verify_statement(statement, Proof.decode(self.data, self.claims)).bits
        except VerificationError as error:
            raise VerificationError(error.check, f"{where}: {error.detail}") from error


def _require_hyperparameters(claims: Claims, expected: Any, where: str) -> None:
    """The last public inputs are the numbers of this step."""
    leaves = jax.tree.leaves(expected)
    last = max(claims.inputs, default=-1) + 1
    for place, leaf in enumerate(leaves, last - len(leaves)):
        found = claims.inputs.get(place)
        if found is None or found.dtype != leaf.dtype or not np.array_equal(found, leaf):
            raise VerificationError("hyperparameters", f"{where} has others than the run says")


def _require_link(
    told: StepStatement, first: Claims, last: Claims, before: tuple, run: VerifiedRun, where: str
) -> tuple[Commitment, Commitment | None]:
    """What a step takes is what the last one gave: its own adapter and state. Of two proofs the
    second takes the same adapter, and the gradient that the first gave.
    """
    taken, later = list(first.input_commitments), list(last.input_commitments)
    if not told.facts.public_base:
        base = taken.pop(0)
        if run.base not in (None, base):
            raise VerificationError("chain", f"{where} has another base model")
        run.base = base
    adapter, source = taken.pop(0), taken
    if told.facts.split:
        if later.pop(0) != adapter:
            raise VerificationError("chain", f"{where}: the optimizer has another adapter")
        source = later
    here = (adapter, source.pop(0) if told.has_state else None)
    if here != before:
        raise VerificationError("chain", f"{where} does not go on from the step before it")
    if told.facts.split and later.pop(0) != first.output_commitments[0]:
        raise VerificationError("chain", f"{where}: the optimizer has another gradient")
    if not told.facts.public_data:
        run.batches.append(taken.pop(0))
    made = last.output_commitments
    return made[0], made[1] if told.has_state else None
