"""Training: step after step, each proved, or none."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import zkjax
from zkjax._arguments import typed
from zkjax._marks import NewPath
from zkjax.errors import OptionError
from zkjax.estimate import Check, check
from zkjax.files import require_new
from zkjax.models.peft import save_adapter
from zkjax.progress import Course, Progress
from zkjax.proofs.finetune import LOSS_FRACTION, load_adapter
from zkjax.proofs.training.folder import RunFolder
from zkjax.proofs.training.problem import Problem, load_problem
from zkjax.proofs.training.settings import DEMO, Settings
from zkjax.proofs.training.statement import StepStatement, start

__all__ = ["check_run", "train"]

# More openings than proofs: of one that was made and not kept, because the process ended then.
SPARE = 8
Note = Callable[[Any, dict[str, Any]], None]  # (loss, figures) of a step, for metrics.jsonl
SAVE_SECONDS = 5.0  # between saved states of a run without proofs


def expected_seconds(steps: int, proof: bool) -> dict[str, float]:
    """Stages and what they take, roughly; the first steps show how much it is here."""
    stages = {"load": 2.0, "formats": 20.0}
    if proof:
        stages |= {"seal": 2.0}
    for k in range(steps):
        stages[f"step {k + 1}"] = (10.0 if proof else 0.5) * (2.0 if k == 0 else 1.0)
    return stages | {"report": 10.0}


@typed
def check_run(settings: Settings) -> list[Check]:
    """The dry run of a step: what its proof would cost, or its two proofs."""
    problem = load_problem(settings, progress=lambda done, of: None)
    told = StepStatement(problem.facts, problem.run)
    adapter = problem.first_adapter()
    parts = told.parts(problem.base, adapter, told.init_state(adapter), problem.batch(0))
    found: list[Check] = []
    for part in parts:
        run = check(part.function, sealed_outputs=part.sealed_outputs, profile=settings.profile)
        arguments = list(part.arguments)
        if found:  # the gradient that the first part gave
            arguments[2] = zkjax.Private(jax.tree.map(np.asarray, found[0].outputs[0]))
        found.append(run(*arguments))
    return found


@typed
def train(
    settings: Settings | None,
    out: NewPath,
    *,
    proof: bool | None = None,
    progress: Progress | None = None,
    report: Callable[[Problem, Any, RunFolder], dict[str, Any]] = lambda *_: {},
) -> dict[str, Any]:
    """Train into the new folder ``out``, or go on with the run that it holds.

    Args:
      settings: None to go on.
      proof: prove every step (so by default); a run goes on as it was begun.
      report: called at the end with the problem, the last stored adapter and the folder.
    Returns:
      what ``report`` gave, with "steps", "losses", "proved" and the seconds of all stages.
    """
    out, folder, kept = Path(out), None, None
    if settings is None:
        folder = RunFolder(out)
        settings, kept, begun = folder.settings, folder.read("formats.json"), folder.proved
        if proof not in (None, begun):
            folder.close()
            raise OptionError(f"{out} was begun {'with' if begun else 'without'} proofs")
        proof = begun
    else:
        require_new(out)
        proof = proof is not False
        if settings.seed is None:
            settings = replace(settings, seed=secrets.randbelow(1 << 31))
    try:
        course = Course(expected_seconds(settings.steps, proof), progress)
        course.start("load")

        def looked(done: int, of: int) -> None:
            course.start("formats")
            course.part(done, of, "rows looked at")

        # Whatever is wrong with base model or data is found before there is a folder.
        problem = load_problem(settings, kept, looked)
        if folder is None:
            folder = RunFolder.create(out, settings, proof)
        folder.keep_facts(problem.facts, problem.formats.encode(), problem.data_digest)
        return _train(problem, folder, proof, course, report)
    finally:
        if folder is not None:
            folder.close()


def _train(problem: Problem, folder: RunFolder, proof: bool, course: Course, report) -> dict:
    run = _Proved(problem, folder, course) if proof else _Plain(problem, folder)
    folder.cut_metrics(run.done)
    for k in range(run.done, problem.settings.steps):
        course.start(f"step {k + 1}")
        began = time.perf_counter()

        def note(loss: Any, told: dict[str, Any], k: int = k, began: float = began) -> None:
            """Before the step is kept, so that every step that is kept has its line."""
            line = {
                "step": k + 1,
                "loss": int(loss) * 2.0**-LOSS_FRACTION,
                "learning_rate": learning_rate(problem, k),
                "seconds": round(time.perf_counter() - began, 3),
            }
            folder.add_metrics(line | told)

        run.step(k, note)
    adapter = run.finish()
    with folder.appearing("adapter") as target:
        base = problem.settings.base
        name = "zkjax demo base" if base == DEMO else base
        save_adapter(target, load_adapter(adapter), problem.run.lora, name)
    course.start("report")
    found = report(problem, adapter, folder)
    course.stop()
    losses = [m["loss"] for m in folder.metrics()]
    steps, seconds = problem.settings.steps, course.seconds
    return found | {"steps": steps, "proved": proof, "losses": losses, "seconds": seconds}


def learning_rate(problem: Problem, step: int) -> float:
    """The rate of a step as it is proved."""
    optimizer = problem.facts.optimizer_config
    stored = StepStatement(problem.facts, problem.run).hyperparameters(step)["learning_rate"]
    return float(stored) * 2.0**-optimizer.rate_fraction


class _Plain:
    """Steps in the same arithmetic, range checks included, without proofs."""

    def __init__(self, problem: Problem, folder: RunFolder):
        self.problem, self.folder = problem, folder
        self.told = StepStatement(problem.facts, problem.run)
        self._step = zkjax.provable(self.told.step)
        first = problem.first_adapter()
        found = folder.load_plain(first, self.told.init_state(first))
        self.done, self.adapter, self.state = found
        self._saved = time.monotonic()
        if not self.done:
            folder.keep_plain(0, self.adapter, self.state)

    def step(self, k: int, note: Note) -> None:
        hyper = self.told.hyperparameters(k)
        batch = self.problem.batch(k)
        new = self._step(self.problem.base, self.adapter, self.state, batch, hyper)
        self.adapter, self.state, loss = jax.tree.map(np.asarray, new)
        self.done = k + 1
        note(loss, {})
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self._save()

    def _save(self) -> None:
        self.folder.keep_plain(self.done, self.adapter, self.state)
        self._saved = time.monotonic()

    def finish(self) -> Any:
        self._save()
        return self.adapter


class _Proved:
    """Steps with their proofs."""

    def __init__(self, problem: Problem, folder: RunFolder, course: Course):
        self.problem, self.folder, self.course = problem, folder, course
        self.told = StepStatement(problem.facts, problem.run)
        settings = problem.settings
        self.profile, proofs = settings.profile, 2 if problem.facts.split else 1
        self.openings = proofs * (SPARE + 1) + settings.sessions
        self._seal: Any = {"profile": self.profile, "openings": self.openings}
        self._first = problem.first_adapter()
        self._first_state = self.told.init_state(self._first)
        course.start("seal")
        self.base = problem.base if settings.public_base else self._sealed_base()
        self.done = folder.steps()
        if not (folder.path / "start").exists():
            self._begin()
        self.adapter, self.state = folder.load_state(self.done, self._first, self._first_state)
        statements = self.told.trace(problem.base, self._first, self._first_state, problem.batch(0))
        folder.fix_statements(statements)

    def _sealed_base(self) -> zkjax.Sealed:
        if not (self.folder.private / "base").exists():
            count = 2 * self.problem.settings.steps + SPARE
            with self.folder.appearing("private/base") as folder:
                base = zkjax.seal(
                    self.problem.base, profile=self.profile, openings=count, ranges=True
                )
                base.save(folder / "base.sealed")
        path = self.folder.private / "base" / "base.sealed"
        return zkjax.Sealed.load(path, like=self.problem.base)

    def _begin(self) -> None:
        """Commit to the first state, and prove that nothing is learned in it."""
        adapter, state = zkjax.seal(self._first, **self._seal), self._first_state
        if self.told.has_state:
            state = zkjax.seal(state, **self._seal)
        context = self.problem.facts.context(0)
        prove = zkjax.prove(start, profile=self.profile, context=context)
        _, proof = prove(adapter, state)
        self.folder.keep_state(0, adapter, state if self.told.has_state else None)
        statement = self.told.trace_start(self._first, self._first_state)
        self.folder.keep_proofs("start", [proof], 0, statement)

    def step(self, k: int, note: Note) -> None:
        problem, told = self.problem, self.told
        batch = problem.batch(k)
        if not problem.settings.public_data:
            batch = zkjax.seal(batch, openings=1, profile=self.profile)
        make = self._split if problem.facts.split else self._together
        adapter, state, loss, proofs = make(batch, told.hyperparameters(k), k)
        self.folder.keep_state(k + 1, adapter, state if told.has_state else None)
        reports = [proof.report or {} for proof in proofs]
        figures = {name: sum(r[name] for r in reports) for name in ("prove_seconds", "proof_bytes")}
        figures["peak_memory_bytes"] = max(r["peak_memory_bytes"] for r in reports)
        figures["soundness_bits"] = min(r["soundness_bits"] for r in reports)
        note(loss, figures | {"lookups": [r["lookups"] for r in reports]})
        known = len(jax.tree.leaves(problem.base)) if problem.settings.public_base else 0
        self.folder.keep_proofs(f"step-{k + 1}", proofs, known, None)
        self.folder.forget_states(k)
        self.done = k + 1
        self.adapter, self.state = self.folder.load_state(k + 1, self._first, self._first_state)

    def _prove(self, function: Callable, sealed_outputs: Any, k: int, openings: int) -> Callable:
        return zkjax.prove(
            function,
            sealed_outputs=sealed_outputs,
            profile=self.profile,
            openings=openings,
            context=self.problem.facts.context(k + 1),
            progress=self.course.inner,
        )

    def _together(self, batch: Any, hyper: Any, k: int) -> tuple[Any, Any, Any, list[zkjax.Proof]]:
        prove = self._prove(self.told.step, self.told.sealed_outputs, k, self.openings)
        (adapter, state, loss), proof = prove(self.base, self.adapter, self.state, batch, hyper)
        return adapter, state, loss, [proof]

    def _split(self, batch: Any, hyper: Any, k: int) -> tuple[Any, Any, Any, list[zkjax.Proof]]:
        prove = self._prove(self.told.gradient_step, (True, False), k, 1)
        (gradient, loss), first = prove(self.base, self.adapter, batch)
        prove = self._prove(self.told.update_step, (True, self.told.has_state), k, self.openings)
        (adapter, state), second = prove(self.adapter, self.state, gradient, hyper)
        return adapter, state, loss, [first, second]

    def finish(self) -> Any:
        return self.adapter.tree
