"""Examples to fine-tune on, from text files and JSON lines, as tokens and what is to be learned.

A line of a JSON lines file is an object with the keys of one of three forms: ``text``; ``prompt``
and ``completion``; ``messages``, perhaps with ``tools``. All that can be wrong with a file is told
with its line, before anything is computed. A line is read into memory only up to a limit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np

from zkjax._arguments import typed
from zkjax.errors import OptionError
from zkjax.files import open_regular
from zkjax.models.chat import ChatTemplate
from zkjax.models.config import Size
from zkjax.models.text import Tokenizer, read_text, require_vocabulary

__all__ = ["read_documents"]

MOST_FILE = 1 << 30  # bytes
MOST_LINE = 1 << 22
SUFFIXES = (".jsonl", ".ndjson")
FORMS = ({"text"}, {"prompt", "completion"}, {"messages"}, {"messages", "tools"})
ROLES = ("system", "developer", "user", "assistant", "tool")


class Document(NamedTuple):
    """One text of a file.

    Attributes:
      ids: (n,) int32.
      learned: (n,) bool, the tokens that are in the loss.
      where: the file, and the line in it.
    """

    ids: np.ndarray
    learned: np.ndarray
    where: str


@typed
def read_documents(
    path: str | Path,
    tokenizer: Tokenizer,
    *,
    loss_on: Literal["completion", "all"] = "completion",
    vocabulary: Size | None = None,
    template: ChatTemplate | None = None,
    ignore: Sequence[str] = (),
) -> Iterator[Document]:
    """The texts of a file: the lines of ``.jsonl`` or ``.ndjson``, else a text file as a whole.

    Tokens are those that the tokenizer gives; it adds BOS and EOS as it does by itself. A text, or
    a prompt with its completion, ends with EOS in any case, if the tokenizer has that token. A chat
    has what its template writes.

    Args:
      loss_on: "completion" learns completions, and what the assistant says in messages; "all"
        every token. A text is learned whole.
      vocabulary: size of the model's.
      template: for messages; by default the one beside the tokenizer.
      ignore: keys of lines to pass over.
    Raises:
      OptionError: a line is not one of the forms, or has nothing to learn.
    """
    reader = _Reader(tokenizer, loss_on == "all", vocabulary, template, frozenset(ignore))
    path = Path(path)
    if path.suffix == ".json":
        raise OptionError(f"{path}: write an object of JSON on each line, and call it .jsonl")
    return _documents(path, reader)


def _documents(path: Path, reader: _Reader) -> Iterator[Document]:
    if path.suffix not in SUFFIXES:
        text = read_text(str(path), None)
        yield reader.document({"text": text}, str(path))
        return
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        yield reader.document(_object(line, where), where)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1."""
    number, found, fault = 0, False, ""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > MOST_FILE:
            fault = f"{path} is larger than {MOST_FILE:,} bytes; split it"
        while not fault and (line := file.readline(MOST_LINE + 1)):
            number += 1
            if len(line) > MOST_LINE:
                fault = f"{path}, line {number}: longer than {MOST_LINE:,} bytes; split it"
            elif line.strip():
                found = True
                yield number, line
    if fault or not found:  # not inside, where it would pass for a file that cannot be read
        raise OptionError(fault or f"{path} has no lines; put an object of JSON on each")


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        raw = json.loads(line.decode(), object_pairs_hook=_unique, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise OptionError(f"{where}: not UTF-8 (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{where}: not JSON ({error})") from error
    if not isinstance(raw, dict):
        raise OptionError(f"{where}: not an object of JSON; a line is {_told_forms()}")
    try:
        json.dumps(raw, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise OptionError(f"{where}: half of a surrogate pair (\\ud800 to \\udfff)") from error
    return raw


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {_short(key)} is there twice")
        found[key] = value
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _told_forms() -> str:
    return " or ".join(f"{{{', '.join(sorted(form))}}}" for form in FORMS)


class _Reader:
    """From the objects of lines to tokens."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        learn_all: bool,
        vocabulary: int | None,
        template: ChatTemplate | None,
        ignore: frozenset[str],
    ):
        self.tokenizer, self.learn_all, self.vocabulary = tokenizer, learn_all, vocabulary
        self._template, self._ignore = template, ignore

    def document(self, raw: Mapping[str, Any], where: str) -> Document:
        raw = {key: value for key, value in raw.items() if key not in self._ignore}
        if set(raw) not in FORMS:
            raise OptionError(
                f"{where}: its keys are {_short(sorted(raw))}; a line is {_told_forms()}, and "
                "ignore= names keys to pass over"
            )
        try:
            found = self._chat(raw) if "messages" in raw else self._text(raw)
            if self.vocabulary is not None:
                require_vocabulary(found[0], self.vocabulary)
        except OptionError as error:
            raise OptionError(f"{where}: {error}") from error
        ids, learned = found
        if not learned[1:].any():  # the first token follows nothing
            raise OptionError(f"{where}: no token of it would be learned")
        return Document(ids, learned, where)

    def _text(self, raw: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Of {text} or {prompt, completion}."""
        for key, value in raw.items():
            if not isinstance(value, str):
                raise OptionError(f"{key} is {_short(value)}; it is a string")
            if not value and key != "prompt":
                raise OptionError(f"{key} is empty")
        prompt, rest = raw.get("prompt", ""), raw.get("completion", raw.get("text"))
        text = prompt + rest
        ids, learned = self.tokenizer.encode(text, [(len(prompt), len(text))])
        eos = self.tokenizer.eos
        if eos is not None and (not len(ids) or ids[-1] != eos):
            ids, learned = np.append(ids, np.int32(eos)), np.append(learned, True)
        elif eos is not None:
            learned[-1] = True
        return ids, learned | (self.learn_all or "text" in raw)

    def _chat(self, raw: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Of {messages} or {messages, tools}."""
        messages, tools = raw["messages"], raw.get("tools")
        if tools is not None and not (
            isinstance(tools, list) and tools and all(isinstance(t, dict) for t in tools)
        ):
            raise OptionError("tools is a list of objects; leave it out if there are none")
        if not isinstance(messages, list) or not messages:
            raise OptionError("messages is a list of one message or more")
        for number, message in enumerate(messages, 1):
            _require_message(message, number)
            self._require_plain(message, f"message {number}")
        self._require_plain(tools, "tools")
        if not self.learn_all and all(m["role"] != "assistant" for m in messages):
            raise OptionError("no message is the assistant's, so there is nothing to learn")
        template = self._chat_template()
        if self.learn_all:
            chat = template.render(messages, tools)
        else:
            chat = template.assistant(messages, tools)
        ids, learned = self.tokenizer.encode(chat.text, chat.spans, special=False)
        return ids, learned | self.learn_all

    def _require_plain(self, value: Any, what: str) -> None:
        """OptionError if a string in it holds a special token."""
        for text in _strings(value):
            token = next((t for t in sorted(self.tokenizer.special) if t in text), None)
            if token is not None:
                raise OptionError(
                    f"{what} holds the special token {token!r}, which would pass for the "
                    "template's own; take it out"
                )

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            if self.tokenizer.folder is None:
                raise OptionError(
                    "messages need the chat template of a model; give its tokenizer, or prompt "
                    "and completion"
                )
            self._template = ChatTemplate(self.tokenizer.folder)
        return self._template


def _require_message(message: Any, number: int) -> None:
    if not isinstance(message, dict) or "role" not in message:
        raise OptionError(f"message {number} is no object with role and content")
    role, content = message["role"], message.get("content")
    if role not in ROLES:
        raise OptionError(
            f"message {number} is of role {_short(role)}; roles are {', '.join(ROLES)}"
        )
    calls = role == "assistant" and message.get("tool_calls")
    if not isinstance(content, str) and not (content is None and calls):
        raise OptionError(f"message {number} has content {_short(content)}; it is a string")
    if role == "assistant" and not content and not calls:
        raise OptionError(f"message {number}, the assistant's, is empty")


def _strings(value: Any) -> Iterator[str]:
    """All strings in a value of JSON, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
