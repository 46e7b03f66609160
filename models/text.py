"""Text as token sequences: by a model directory's ``tokenizer.json``, else byte by byte."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zkjax._arguments import checked, typed
from zkjax.errors import OptionError
from zkjax.files import read_capped
from zkjax.models.chat import Span, special_tokens
from zkjax.models.data import documentation, library_sources

__all__ = ["Tokenizer", "read_text"]

MOST_TEXT = 64 << 20
MOST_CHARACTERS = 2_000_000  # that are tokenized
BUILT_IN = {"documentation": documentation, "sources": library_sources}


@typed
def read_text(source: str, most_characters: int | None = MOST_CHARACTERS) -> str:
    """A text file, or a text that Python brings: "documentation" of the language, or "sources" of
    its library. The first so many characters.
    """
    if source in BUILT_IN and not Path(source).exists():
        return bytes(BUILT_IN[source]()).decode("utf-8", "replace")[:most_characters]
    data = read_capped(Path(source), MOST_TEXT)
    try:
        return data.decode("utf-8")[:most_characters]
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise OptionError(
            f"{source} is no text in UTF-8: byte {error.start}, line {line}"
        ) from error


class Tokens(NamedTuple):
    """Tokens of a text, (n,) int32, and which of them overlap given spans of it, (n,) bool."""

    ids: np.ndarray
    inside: np.ndarray


class Tokenizer:
    """A text's tokens: those of ``tokenizer.json`` in a model directory, or its bytes in UTF-8.

    Raises:
      OptionError: the tokenizer cannot be read, or ``tokenizers`` is not installed.
    """

    @typed
    def __init__(self, folder: str | Path | None = None):
        self.folder = None if folder is None else Path(folder)
        self._tokenizer: Any = None
        if self.folder is not None:
            self._tokenizer = _load(self.folder / "tokenizer.json")

    @cached_property
    def eos(self) -> int | None:
        """The token at the end of a text, if ``tokenizer_config.json`` names one."""
        return self._named("eos_token")

    @cached_property
    def pad(self) -> int | None:
        """The token that fills up rows, if ``tokenizer_config.json`` names one."""
        return self._named("pad_token")

    @cached_property
    def special(self) -> frozenset[str]:
        """The texts of special tokens, which no message should hold."""
        if self._tokenizer is None:
            return frozenset()
        added = self._tokenizer.get_added_tokens_decoder().values()
        return frozenset(token.content for token in added if token.special and token.content)

    def _named(self, name: str) -> int | None:
        token = None if self.folder is None else special_tokens(self.folder).get(name)
        if token is None:
            return None
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise OptionError(
                f"{self.folder}: {name} = {token!r} is none of tokenizer.json's tokens; correct "
                "tokenizer_config.json"
            )
        return found

    @checked
    def encode(self, text: str, spans: Sequence[Span] = (), *, special: bool = True) -> Tokens:
        """The tokens of a text, and which of them overlap spans of its characters.

        Args:
          special: with what the tokenizer adds around a text (BOS, EOS), which is in no span.
        """
        if self._tokenizer is None:
            data = text.encode()
            ids = np.frombuffer(data, dtype=np.uint8).astype(np.int32)
            starts = np.arange(len(data))
            ends = starts + 1
            spans = [(len(text[:i].encode()), len(text[:j].encode())) for i, j in spans]
        else:
            found = self._tokenizer.encode(text, add_special_tokens=special)
            ids = np.array(found.ids, dtype=np.int32)
            starts, ends = np.array(found.offsets, dtype=np.int64).reshape(-1, 2).T
            # Of white space alone some tokenizers trim the offsets to where it ends.
            starts = np.where(starts == ends, ends - 1, starts)
        inside = np.zeros(len(ids), dtype=bool)
        for i, j in spans:
            inside |= (starts < j) & (ends > i)
        return Tokens(ids, inside)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise OptionError(f"{path} is missing; put the model's there, or use bytes: Tokenizer()")
    try:
        from tokenizers import Tokenizer as Reader
    except ImportError:
        raise OptionError(f"{path} needs tokenizers: pip install 'zkjax[hf]'") from None
    try:
        tokenizer = Reader.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise OptionError(f"{path} is no tokenizer: {error}") from error
    # A file may carry the cut and the padding of whoever saved it.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def tokenize(text: str, folder: Path | None) -> np.ndarray:
    """Token ids, (n,) int32; bytes, if the folder has no tokenizer."""
    has = folder is not None and (folder / "tokenizer.json").exists()
    return Tokenizer(folder if has else None).encode(text).ids


def detokenize(tokens: np.ndarray, folder: Path | None) -> str:
    """The text of token ids, as ``tokenize`` gives them."""
    tokenizer = None if folder is None else folder / "tokenizer.json"
    if tokenizer is None or not tokenizer.exists():
        return bytes(int(t) & 0xFF for t in tokens).decode("utf-8", "replace")
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(tokenizer)).decode(tokens.tolist())


def sequences(tokens: np.ndarray, count: int, length: int, vocabulary: int) -> np.ndarray:
    """The first ``count`` sequences of length + 1 tokens, one after the other: (count, 1, length +
    1). OptionError if the text is too short, or has a token beyond the vocabulary.
    """
    needed = count * (length + 1)
    if len(tokens) < needed:
        raise OptionError(
            f"the text has {len(tokens):,} tokens and {count} sequences of {length + 1} need "
            f"{needed:,}"
        )
    require_vocabulary(tokens, vocabulary)
    return tokens[:needed].reshape(count, 1, length + 1)


def require_vocabulary(tokens: np.ndarray, vocabulary: int) -> None:
    """OptionError for a token that the model does not know."""
    if tokens.size and tokens.max() >= vocabulary:
        raise OptionError(
            f"token {int(tokens.max())} is beyond the vocabulary of {vocabulary:,}; use the "
            "tokenizer of this model"
        )
