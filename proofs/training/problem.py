"""What a run computes on: the base model in its formats, and rows of tokens in their order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from zkjax.errors import OptionError, OverflowBoundError
from zkjax.fixed import Format
from zkjax.fixed.sites import Site
from zkjax.models.adapter import init_adapter, warm_adapter
from zkjax.models.checkpoint import load_model, model_digest
from zkjax.models.config import config_to_json
from zkjax.models.packing import IGNORED, Examples, Order, read_examples
from zkjax.models.text import Tokenizer
from zkjax.proofs.calibration import Calibration, calibrate
from zkjax.proofs.demo import demo_model
from zkjax.proofs.finetune import FineTuning, store_adapter, store_base
from zkjax.proofs.training.settings import ALL, DEMO, Facts, Settings
from zkjax.proofs.training.statement import StepStatement

LOOKED_AT = 6  # rows that formats are chosen from
HELD_OUT = 16  # rows at most
LEARNED = 5  # bits by which what passes an adapter may grow while that is trained
MOST_TOGETHER = 1 << 18  # parameters of an adapter whose gradient and update share a proof


@dataclass(frozen=True)
class Problem:
    """A run, ready to be trained.

    Attributes:
      parameters: the base model in floats; ``base`` is the same as it is stored.
      data_digest: names rows and labels; as private as they are.
      held: rows that no step trains on; there may be none.
    """

    settings: Settings
    facts: Facts
    run: FineTuning
    formats: Calibration
    parameters: Any
    base: Any
    examples: Examples
    held: Examples
    data_digest: str

    def batch(self, step: int) -> Any:
        """What a step trains on, as ``make_step`` takes it."""
        s = self.settings
        parts = s.gradient_accumulation_steps
        order = Order(len(self.examples.tokens), s.batch * parts, s.seed)
        rows = order.rows(step)
        return self._of(self.examples.take(rows.reshape(parts, s.batch) if parts > 1 else rows))

    def held_batches(self) -> list[Any]:
        size, count = self.settings.batch, len(self.held.tokens)
        places = [np.arange(i, i + size) for i in range(0, count - size + 1, size)]
        return [self._of(self.held.take(rows)) for rows in places]

    def _of(self, rows: Examples) -> Any:
        if not self.facts.masked:
            return rows.tokens
        return {"tokens": rows.tokens, "learned": rows.labels != IGNORED}

    def first_adapter(self) -> Any:
        """The stored adapter that training starts with: A random, B zero."""
        key = jax.random.key(self.settings.seed)
        return store_adapter(init_adapter(self.run.model, self.run.lora, key))


def load_problem(
    settings: Settings, formats: bytes | None = None, progress: Callable[[int, int], None] = print
) -> Problem:
    """Read the base model and the data, and choose formats unless there are some.

    Args:
      formats: those that the run has already, as it keeps them.
      progress: called with the number of rows that were looked at, and of all.
    Raises:
      CheckpointError, OptionError, CalibrationError: whatever is wrong, before any long work.
    """
    if settings.seed is None:
        settings = replace(settings, seed=0)
    folder = None if settings.base == DEMO else Path(settings.base)
    config, parameters = demo_model() if folder is None else load_model(folder)
    if tuple(settings.targets) == ALL:
        settings = replace(settings, targets=config.targets)
    for target in settings.targets:
        config.projection_shape(target)
    has_tokens = folder is not None and (folder / "tokenizer.json").exists()
    tokenizer = Tokenizer(folder if has_tokens else None)  # bytes without one

    def read(path: str) -> Examples:
        packed = settings.packed
        return read_examples(
            path,
            tokenizer,
            settings.length,
            packed=not path.endswith(("jsonl", "ndjson")) if packed is None else packed,
            truncate=settings.truncate,
            positions=config.max_positions,
            loss_on=settings.loss_on,
            vocabulary=config.vocab_size,
        )

    examples = read(settings.data)
    examples, held = _split(
        examples, None if settings.held_out is None else read(settings.held_out)
    )
    masked = bool((examples.labels == IGNORED).any() or (held.labels == IGNORED).any())
    run, digest = FineTuning(model=config, lora=settings.lora), model_digest(config, parameters)
    facts = Facts(
        model=digest if settings.public_base else None,
        config=config_to_json(config),
        formats="",
        r=settings.rank,
        alpha=settings.alpha,
        targets=list(settings.targets),
        optimizer=vars(settings.optimizer_config),
        steps=settings.steps,
        batch=settings.batch,
        length=settings.length,
        masked=masked,
        public_base=settings.public_base,
        public_data=settings.public_data,
        split=_size(run) > MOST_TOGETHER if settings.split is None else settings.split,
        profile=settings.profile,
    )
    facts.require_consistent()
    data = hashlib.blake2s(b"".join(np.ascontiguousarray(x).tobytes() for x in examples))

    def in_formats(found: Calibration) -> Problem:
        found = replace(  # it is shown to everybody
            found,
            model=digest if settings.public_base else "",
            data=found.data if settings.public_data else "",
        )
        told = replace(facts, formats=hashlib.blake2s(found.encode()).hexdigest())
        base = store_base(parameters, found.weight_fractions)
        rest = parameters, base, examples, held, data.hexdigest()
        return Problem(settings, told, found.apply(run), found, *rest)

    if formats is not None:
        return in_formats(Calibration.decode(formats))
    if settings.formats is not None:
        found = Calibration.load(settings.formats)
        found.require_model(digest)
        return in_formats(found)
    for room in (settings.room, settings.room / 2, 0.0):
        problem = in_formats(_chosen(settings, run, parameters, examples, room, progress))
        try:
            _trace(problem)
            return problem
        except OverflowBoundError as error:
            last = error
    raise OptionError(
        f"no formats were found in which a step can be proved ({last}); make some with zkjax "
        "calibrate on more text, and name them by --formats"
    )


def _trace(problem: Problem) -> None:
    """OverflowBoundError if a step cannot be proved in these formats."""
    told, adapter = StepStatement(problem.facts, problem.run), problem.first_adapter()
    told.trace(problem.base, adapter, told.init_state(adapter), problem.batch(0))


def _size(run: FineTuning) -> int:
    """Parameters of the adapter."""
    shapes = [run.model.projection_shape(target) for target in run.lora.targets]
    return run.model.num_hidden_layers * run.lora.r * sum(i + o for i, o in shapes)


def _split(examples: Examples, held: Examples | None) -> tuple[Examples, Examples]:
    """Rows to train on, and those that are held out."""
    count = len(examples.tokens)
    if held is not None:
        return examples, held.take(np.arange(min(len(held.tokens), HELD_OUT)))
    aside = min(count // 10, HELD_OUT)
    if count - aside < 1:
        raise OptionError("the data have no row to train on")
    rows = np.arange(count)
    return examples.take(rows[: count - aside]), examples.take(rows[count - aside :])


def _chosen(settings, run, parameters, examples, room: float, progress) -> Calibration:
    """Formats from what the run computes on the first rows."""
    texts = examples.tokens[:LOOKED_AT, None]
    adapter = warm_adapter(run.model, run.lora, jax.random.key(settings.seed))
    adapter = jax.tree.map(np.asarray, adapter)
    found = calibrate(
        run, parameters, adapter, texts, room=room,
        progress=lambda done: progress(done, len(texts)),
    )  # fmt: skip
    return replace(found, sites=_with_room_to_learn(found.sites))


def _with_room_to_learn(sites: Mapping[str, Site]) -> dict[str, Site]:
    """What passes an adapter grows with it. It has few elements, so bits of range cost little."""

    def wider(form: Format) -> Format:
        return Format(form.fraction, form.bits + LEARNED)

    return {
        name: site._replace(forward=wider(site.forward), backward=wider(site.backward))
        if name.endswith(".lora")
        else site
        for name, site in sites.items()
    }
