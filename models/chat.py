"""Chats as text: the chat template of a tokenizer, rendered as ``transformers`` does.

A template is a Jinja program that comes with a model. It runs in Jinja's sandbox, sees plain JSON
values, and has to give the same text whenever it runs. Which part of the text the assistant says is
told by the template (``{% generation %}``), or found by rendering the beginnings of the chat.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zkjax._arguments import typed
from zkjax.errors import OptionError
from zkjax.files import read_capped

__all__ = ["ChatTemplate"]

MOST_CONFIG = 16 << 20  # bytes; a tokenizer's configuration lists its added tokens
TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of what comes before an answer
BEGIN, END = "\ufdd0", "\ufdd1"  # no characters of Unicode; around what {% generation %} holds

Span = tuple[int, int]


class Chat(NamedTuple):
    """A rendered chat, and where in it the assistant speaks: [start, end) of characters."""

    text: str
    spans: tuple[Span, ...]


def require_jinja(path: Path) -> Any:
    """The module; OptionError if it is not installed."""
    try:
        import jinja2
        import jinja2.sandbox
    except ImportError:
        raise OptionError(
            f"the chat template of {path} needs jinja2: pip install 'zkjax[hf]'"
        ) from (None)
    return jinja2


def special_tokens(folder: Path) -> dict[str, str]:
    """The tokens that a tokenizer's configuration names: bos_token, eos_token, pad_token, ..."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        raw = _read_json(folder / name)
        for token in TOKENS:
            value = raw.get(token)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str) and value:
                found[token] = value
    return found


def read_templates(folder: Path) -> dict[str, str]:
    """Chat templates by name; "default" is the one of ``chat_template.jinja``, or else that of
    ``tokenizer_config.json``. Empty if there is none.
    """
    found: dict[str, str] = {}
    stored = _read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(stored, str):
        found["default"] = stored
    elif isinstance(stored, list):
        for entry in stored:
            if not isinstance(entry, dict) or not isinstance(entry.get("template"), str):
                raise OptionError(
                    f"{folder / 'tokenizer_config.json'}: chat_template is neither a string nor a "
                    "list of objects with name and template"
                )
            found[str(entry.get("name"))] = entry["template"]
    if (folder / "chat_template.jinja").exists():
        found = {"default": _read_text(folder / "chat_template.jinja")}
        for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
            found[path.stem] = _read_text(path)
    return found


class ChatTemplate:
    """The chat template of a model directory.

    Args:
      folder: with ``tokenizer_config.json``, and perhaps ``chat_template.jinja``.
      variables: more that the template may read, such as ``date_string``.
    Raises:
      OptionError: there is no template, it is not one, or jinja2 is not installed.
    """

    @typed
    def __init__(self, folder: str | Path, variables: Mapping[str, Any] | None = None):
        self.folder = Path(folder)
        self.tokens = special_tokens(self.folder)
        self.variables = {**self.tokens, **(variables or {})}
        sources = read_templates(self.folder)
        if not sources:
            raise OptionError(
                f"{self.folder} has no chat template; put the model's chat_template.jinja there, "
                "or give prompt and completion instead of messages"
            )
        self._jinja = require_jinja(self.folder)
        environment = _environment(self._jinja)
        self._templates, self._reads = {}, {}
        for name, source in sources.items():
            try:
                tree = environment.parse(source)
                self._templates[name] = environment.from_string(source)
            except self._jinja.TemplateError as error:
                raise OptionError(
                    f"{self.folder}: chat template {name!r}, line {error.lineno}: {error}"
                ) from error
            from jinja2.meta import find_undeclared_variables

            self._reads[name] = find_undeclared_variables(tree)

    @typed
    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> Chat:
        """The text of a chat, with the spans of ``{% generation %}`` blocks.

        Args:
          messages: objects of JSON with "role" and "content".
          tools: JSON schemas of functions.
          add_generation_prompt: end with what comes before an answer.
        Raises:
          OptionError: the template refuses the chat, fails, or asks for the date.
        """
        name = self._name(tools)
        if tools and "tools" not in self._reads[name]:
            raise OptionError("there are tools, and the chat template has no place for them")
        plain = json.dumps([list(messages), tools], ensure_ascii=False)
        if BEGIN in plain or END in plain:
            raise OptionError(
                "a message has U+FDD0 or U+FDD1, which are no characters; leave it out"
            )
        try:
            text = self._templates[name].render(
                messages=[_normal(m) for m in messages],
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.variables,
            )
        except OptionError:
            raise
        except Exception as error:  # a program of others: anything may go wrong in it
            raise OptionError(f"the chat template refuses this chat: {error}") from error
        return _without_marks(text)

    @typed
    def assistant(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Chat:
        """The text of a chat, and where the assistant speaks.

        That is what ``{% generation %}`` blocks hold, if the template has them. If not, an answer
        is what the chat up to it has beyond the chat before it, with the generation prompt; it ends
        with the end-of-sequence token, if it has that.

        Raises:
          OptionError: see ``render``; or the beginning of a chat is rendered differently once the
            chat goes on.
        """
        whole = self.render(messages, tools)
        if whole.spans or not any(m["role"] == "assistant" for m in messages):
            return whole
        spans = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.render(messages[:i], tools, add_generation_prompt=True).text
            after = self.render(messages[: i + 1], tools).text
            if not (after.startswith(before) and whole.text.startswith(after)):
                raise OptionError(
                    "the chat template renders the beginning of a chat differently once it goes on "
                    f"(message {i + 1}), so the assistant's part cannot be found; use a template "
                    'with {% generation %} blocks, one answer a chat, or loss_on="all"'
                )
            spans.append((len(before), len(before) + self._answer(after[len(before) :])))
        return Chat(whole.text, tuple(spans))

    def _answer(self, text: str) -> int:
        """The length of an answer without what separates it from the next message."""
        eos = self.tokens.get("eos_token")
        stripped = text.rstrip()
        return len(stripped) if eos and stripped.endswith(eos) else len(text)

    def _name(self, tools: Any) -> str:
        if tools and "tool_use" in self._templates:
            return "tool_use"
        if "default" not in self._templates:
            raise OptionError(
                f"{self.folder} has chat templates {sorted(self._templates)}; none is the default. "
                "Put the one to use in chat_template.jinja"
            )
        return "default"


def _environment(jinja2: Any) -> Any:
    """Jinja's sandbox as chat templates expect it."""
    from jinja2.ext import Extension

    class Generation(Extension):
        """``{% generation %}`` ... ``{% endgeneration %}``: the text between, with marks."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body)
            return call.set_lineno(line)

        def _mark(self, caller):
            return BEGIN + caller() + END

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """JSON without HTML's escapes."""
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message):
    raise OptionError(f"the chat template refuses this chat: {message}")


def _strftime_now(pattern):
    raise OptionError(
        "the chat template prints today's date, so tomorrow it would make other examples; give the "
        'date in a variable that it reads, as variables={"date_string": "01 Jan 2025"}'
    )


def _normal(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without what is null, and with its reasoning under the names that are in use."""
    found = {key: value for key, value in message.items() if value is not None}
    reasoning = next((found[name] for name in REASONING if name in found), None)
    if reasoning is None:
        return found
    return {"thinking": reasoning, **found, "reasoning_content": reasoning}


def _without_marks(text: str) -> Chat:
    plain: list[str] = []
    spans: list[Span] = []
    length = 0
    for i, part in enumerate(text.split(BEGIN)):
        inside, mark, outside = part.partition(END) if i else ("", "", part)
        if i and not mark:
            raise OptionError("the chat template cuts its {% generation %} blocks in two")
        if i:
            spans.append((length, length + len(inside)))
        length += len(inside) + len(outside)
        plain += [inside, outside]
    return Chat("".join(plain), tuple(spans))


def _read_text(path: Path) -> str:
    try:
        return read_capped(path, MOST_CONFIG).decode()
    except UnicodeDecodeError as error:
        raise OptionError(f"{path} is no text in UTF-8: byte {error.start}") from error


def _read_json(path: Path) -> dict[str, Any]:
    """An object; empty if there is no such file."""
    if not path.exists():
        return {}
    try:
        raw = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise OptionError(f"{path} is not an object of JSON")
    return raw
