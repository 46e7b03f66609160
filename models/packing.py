"""Documents as rows of tokens of one length, with labels, and in what order they are trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from zkjax._arguments import checked, typed
from zkjax._marks import Between, HostNumbers, Itself
from zkjax.errors import OptionError
from zkjax.models.config import Checked, Size
from zkjax.models.examples import Document, read_documents
from zkjax.models.text import Tokenizer

__all__ = ["Examples", "Order", "read_examples"]

IGNORED = -100  # a label that is in no loss
MOST_TOKENS = 1 << 28


class Examples(NamedTuple):
    """Rows to train on.

    Attributes:
      tokens: (n, length + 1) int32.
      labels: (n, length) int32: what is to be predicted behind ``tokens[:, :-1]``, so
        ``tokens[:, 1:]``, or -100 where nothing is learned. (Labels of Hugging Face's models have
        one more column in front, which these models do not look at.)
    """

    tokens: np.ndarray
    labels: np.ndarray

    @checked
    def take(self, rows: Annotated[Any, HostNumbers()]) -> Examples:
        """Some of the rows, such as a batch: ``examples.take(order.rows(step))``."""
        return Examples(self.tokens[rows], self.labels[rows])


@typed
def read_examples(
    path: str | Path,
    tokenizer: Tokenizer,
    length: Annotated[int, Itself()],
    *,
    packed: bool = False,
    truncate: bool = False,
    positions: Size | None = None,
    **options: Any,
) -> Examples:
    """The examples of a file, for predictions of ``length`` tokens a row.

    Args:
      packed: one document behind the other, with EOS between, cut into rows; else each has a row of
        its own, padded at its end.
      truncate: cut documents that are longer than a row, at their end; else that is an error.
      positions: how many the model has.
      options: see ``examples.read_documents``.
    Raises:
      OptionError: names the file and the line that cannot be used.
    """
    if type(length) is not int or length < 1:
        raise OptionError(f"length = {length!r}; it is the number of predictions in a row")
    if positions is not None and length > positions:
        raise OptionError(f"length = {length} and the model has {positions} positions")
    documents = read_documents(path, tokenizer, **options)
    if packed:
        return pack(documents, length, tokenizer)
    return pad(documents, length, tokenizer, truncate=truncate)


def pad(
    documents: Iterable[Document], length: int, tokenizer: Tokenizer, *, truncate: bool = False
) -> Examples:
    """A row for each document. What fills it up is the padding token (or EOS, or 0) and is never
    in the loss; causal attention does not look at it.
    """
    filler = next(t for t in (tokenizer.pad, tokenizer.eos, 0) if t is not None)
    tokens: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for ids, learned, where in documents:
        if len(ids) > length + 1 and not truncate:
            raise OptionError(
                f"{where}: {len(ids):,} tokens, a row has {length + 1:,}; give more length, "
                "truncate=True or packed=True"
            )
        ids, learned = ids[: length + 1], learned[: length + 1]
        if not learned[1:].any():
            raise OptionError(f"{where}: cut to {length + 1:,} tokens nothing of it is learned")
        _require_room(len(tokens) + 1, length, where)
        row = np.full(length + 1, filler, np.int32)
        row[: len(ids)] = ids
        label = np.full(length, IGNORED, np.int32)
        label[: len(ids) - 1] = np.where(learned[1:], ids[1:], IGNORED)
        tokens.append(row)
        labels.append(label)
    if not tokens:
        raise OptionError("there are no documents to make rows of")
    return Examples(np.stack(tokens), np.stack(labels))


def pack(documents: Iterable[Document], length: int, tokenizer: Tokenizer) -> Examples:
    """Rows cut from all documents one behind the other, with EOS between (none, if the tokenizer
    has no such token). Attention sees what a row holds of earlier documents. The last row is padded
    with EOS; a row in which nothing is learned is left out.
    """
    eos = tokenizer.eos
    ids, learned, count = [], [], 0
    for document in documents:
        ids.append(document.ids)
        learned.append(document.learned)
        if eos is not None and document.ids[-1] != eos:
            ids.append(np.array([eos], np.int32))
            learned.append(np.array([document.learned.all()]))
        count += len(document.ids) + 1
        _require_room(-(-count // (length + 1)), length, document.where)
    if not ids:
        raise OptionError("there are no documents to make rows of")
    stream, marks = np.concatenate(ids), np.concatenate(learned)
    missing = -len(stream) % (length + 1)
    filler = 0 if eos is None else eos
    tokens = np.append(stream, np.full(missing, filler, np.int32)).reshape(-1, length + 1)
    marks = np.append(marks, np.zeros(missing, bool)).reshape(-1, length + 1)
    labels = np.where(marks[:, 1:], tokens[:, 1:], np.int32(IGNORED))
    kept = marks[:, 1:].any(axis=1)
    if not kept.any():
        raise OptionError(
            f"nothing is learned in any row of {length + 1:,} tokens; give a longer text"
        )
    return Examples(tokens[kept], labels[kept])


def _require_room(rows: int, length: int, where: str) -> None:
    if rows * (length + 1) > MOST_TOKENS:
        raise OptionError(f"{where}: more than {MOST_TOKENS:,} tokens in all; split the file")


@dataclass(frozen=True)
class Order(Checked):
    """Which rows a step trains on: all of them once, in an order that looks random, then all of
    them in another one, and so on.

    It follows from the fields and the step alone, the same on every machine, so a run can go on
    where it stopped, and be checked.
    """

    count: Size
    batch: Size
    seed: Annotated[int, Between(0, (1 << 64) - 1)] = 0

    @checked
    def rows(self, step: Annotated[int, Itself()]) -> np.ndarray:
        """The rows of a step, counted from 0: (batch,) int64."""
        if type(step) is not int or not 0 <= step < 1 << 48:
            raise OptionError(f"step = {step!r}; steps are counted from 0")
        places = range(step * self.batch, (step + 1) * self.batch)
        found = [_shuffled(self.count, self.seed, p // self.count)[p % self.count] for p in places]
        return np.array(found, dtype=np.int64)


@lru_cache(maxsize=4)
def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """Rows by a hash of (seed, epoch, row): no generator whose stream a version may change."""

    def place(row: int) -> bytes:
        key = b"".join(n.to_bytes(8, "little") for n in (seed, epoch, row))
        return hashlib.blake2s(key, digest_size=16, person=b"zkj.ordr").digest()

    return np.array(sorted(range(count), key=place), dtype=np.int64)
