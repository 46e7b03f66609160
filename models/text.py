"""Text as token sequences: by a model directory's ``tokenizer.json``, else byte by byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zkjax.errors import OptionError
from zkjax.files import read_capped
from zkjax.models.data import documentation, library_sources

MOST_TEXT = 64 << 20
MOST_CHARACTERS = 2_000_000  # that are tokenized
BUILT_IN = {"documentation": documentation, "sources": library_sources}


def read_text(source: str) -> str:
    """A text file, or a text that Python brings: "documentation" of the language, or "sources" of
    its library.
    """
    if source in BUILT_IN and not Path(source).exists():
        return bytes(BUILT_IN[source]()).decode("utf-8", "replace")[:MOST_CHARACTERS]
    data = read_capped(Path(source), MOST_TEXT)
    try:
        return data.decode("utf-8")[:MOST_CHARACTERS]
    except UnicodeDecodeError as error:
        raise OptionError(f"{source} is no text in UTF-8: byte {error.start}") from error


def tokenize(text: str, folder: Path | None) -> np.ndarray:
    """Token ids, (n,) int32."""
    tokenizer = None if folder is None else folder / "tokenizer.json"
    if tokenizer is None or not tokenizer.exists():
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise OptionError(f"{tokenizer} needs tokenizers: pip install 'zkjax[hf]'") from None
    return np.array(Tokenizer.from_file(str(tokenizer)).encode(text).ids, dtype=np.int32)


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
    if tokens.max() >= vocabulary:
        raise OptionError(f"token {int(tokens.max())} is beyond the vocabulary of {vocabulary:,}")
    return tokens[:needed].reshape(count, 1, length + 1)
