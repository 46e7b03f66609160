"""The base model that a command names: a model directory, or the demo's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zkjax.errors import StatementError
from zkjax.models.checkpoint import directory_digest, load_model, model_digest
from zkjax.models.config import ModelConfig
from zkjax.models.data import batches, documentation
from zkjax.models.pretrain import load_demo_base
from zkjax.models.text import detokenize, read_text, sequences, tokenize
from zkjax.proofs.calibration import Calibration, calibrate
from zkjax.proofs.demo import demo_model
from zkjax.proofs.finetune import FineTuning, require_close, store_base

MAX_SCORES = 1 << 24  # attention scores of one head
MAX_LOGITS = 1 << 27
ROOM = 1.0  # bits of range for what an adapter changes
LOOKED_AT = 8  # sequences from which formats are chosen


@dataclass(frozen=True)
class Base:
    """A base model, as a command runs it.

    Attributes:
      folder: None for the demo's.
      parameters: floats.
      stored: the same in fixed point, once there are formats.
      formats: None for the demo's, which needs none of its own.
    """

    folder: Path | None
    config: ModelConfig
    parameters: Any
    digest: str
    stored: Any = None
    formats: Calibration | None = None

    def tokens(self, text: Path | None, count: int, length: int) -> np.ndarray:
        """(count, length + 1) tokens of a text; by default of Python's documentation."""
        _require_room(count, length, self.config.vocab_size)
        if self.folder is None and text is None:
            return next(batches(documentation(), count, length, seed=1)).astype(np.int32)
        told = read_text("documentation" if text is None else str(text))
        found = sequences(tokenize(told, self.folder), count, length, self.config.vocab_size)
        return found.reshape(count, length + 1)

    def prompt(self, text: str, steps: int) -> np.ndarray:
        """(1, length) tokens of a text that is to be continued by so many."""
        tokens = tokenize(text, self.folder)
        if not len(tokens):
            raise StatementError("the prompt is empty")
        most = min(int(MAX_SCORES**0.5), self.config.max_positions or MAX_SCORES)
        if len(tokens) + steps > most:
            raise StatementError(f"prompt and --tokens may be {most:,} tokens together")
        return tokens[None]

    def text(self, tokens: np.ndarray) -> str:
        return detokenize(tokens, self.folder)

    def with_formats(self, formats: Path | None, looked_at: Iterable[np.ndarray]) -> Base:
        """The model in fixed point, in the formats of a file, or else in those that suit what it
        computes on these tokens.
        """
        if self.folder is None and formats is None:
            return replace(self, stored=load_demo_base())
        if formats is not None:
            found = Calibration.load(formats)
            found.require_model(self.digest)
        else:
            run, texts = FineTuning(model=self.config), list(looked_at)[:LOOKED_AT]
            found = calibrate(
                run,
                self.parameters,
                None,
                [t[None] for t in texts],
                room=ROOM,
                between_parties=True,
            )
            found = replace(found, data="")  # they are kept, and a prompt may be private
        stored = store_base(self.parameters, found.weight_fractions)
        require_close(found.apply(FineTuning(model=self.config)), self.parameters, stored)
        return replace(self, stored=stored, formats=found)


def load_base(folder: Path | None) -> Base:
    """A model directory, or the demo's base model."""
    config, parameters = demo_model() if folder is None else load_model(folder)
    return Base(folder, config, parameters, model_digest(config, parameters))


def describe_base(folder: Path | None) -> tuple[ModelConfig, str]:
    """Configuration and digest, with little memory."""
    if folder is not None:
        return directory_digest(folder)
    base = load_base(None)
    return base.config, base.digest


def _require_room(count: int, length: int, vocabulary: int) -> None:
    if count * length**2 > MAX_SCORES:
        raise StatementError(
            f"{count} sequences of {length} tokens take too much memory; sequences x length^2 may "
            f"be {MAX_SCORES:,}"
        )
    if count * length * vocabulary > MAX_LOGITS:
        raise StatementError(
            f"{count} sequences of {length} tokens take too much memory; with {vocabulary:,} "
            f"logits each, sequences x length may be {MAX_LOGITS // vocabulary:,}"
        )
