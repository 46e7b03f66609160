"""Chat templates give what ``transformers`` makes of them, and are refused where they can't."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zkjax.errors import OptionError
from zkjax.models.chat import ChatTemplate, read_templates, special_tokens
from zkjax.models.text import Tokenizer

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "chat.json").read_text())
CASES = {case["name"]: case for case in FIXTURE["cases"]}
TALK = CASES["chatml"]["messages"]


def directory(folder: Path, template=None, tokens=None) -> Path:
    """A model directory with the fixtures' tokenizer."""
    config = {"eos_token": "<|im_end|>"} if tokens is None else tokens
    if template is not None:
        config = {**config, "chat_template": template}
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(FIXTURE["tokenizer"]))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_chat_is_what_transformers_makes_of_it(name, tmp_path):
    case = CASES[name]
    folder = directory(tmp_path, case["template"], case["tokens"])
    template = ChatTemplate(folder, case["variables"])
    chat = template.render(case["messages"], case["tools"])
    assert chat.text == case["text"]
    asked = template.render(case["messages"][:-1], case["tools"], add_generation_prompt=True)
    assert asked.text == case["asked"]
    ids, inside = Tokenizer(folder).encode(chat.text, chat.spans, special=False)
    assert ids.tolist() == case["ids"]
    assert bool(chat.spans) == (case["mask"] is not None)
    if case["mask"] is not None:
        assert inside.astype(int).tolist() == case["mask"]


@pytest.mark.parametrize("name", CASES)
def test_where_the_assistant_speaks(name, tmp_path):
    case = CASES[name]
    template = ChatTemplate(directory(tmp_path, case["template"], case["tokens"]))
    if name == "thinking, in two turns":
        with pytest.raises(OptionError, match=r"\(message 2\).*generation.*loss_on"):
            template.assistant(case["messages"], case["tools"])
        return
    chat = template.assistant(case["messages"], case["tools"])
    answers = [m for m in case["messages"] if m["role"] == "assistant"]
    said = [chat.text[i:j] for i, j in chat.spans]
    assert len(said) == len(answers)
    for text, message in zip(said, answers, strict=True):
        assert (message["content"] or "weather").strip() in text
        assert text.endswith(case["tokens"]["eos_token"])
    others = chat.text
    for text in said:
        others = others.replace(text, "", 1)
    assert not any(m["content"].strip() in others for m in answers if m["content"])


def test_generation_blocks_say_it_themselves(tmp_path):
    """Also where prefixes would not."""
    source = (
        "{{ messages | length }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    chat = ChatTemplate(directory(tmp_path, source)).assistant(TALK)
    said = [chat.text[i:j] for i, j in chat.spans]
    assert said == [m["content"] for m in TALK if m["role"] == "assistant"]


def test_which_template_it_is(tmp_path):
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t{{ tools }}"}]
    folder = directory(tmp_path, named)
    assert ChatTemplate(folder).render(TALK).text == "d"
    assert ChatTemplate(folder).render(TALK, [{}]).text == "t[{}]"
    (folder / "chat_template.jinja").write_text("file")
    assert read_templates(folder) == {"default": "file"}
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("more{{ tools }}")
    assert ChatTemplate(folder).render(TALK, [{}]).text == "more[{}]"


def test_special_tokens_are_strings_or_objects(tmp_path):
    directory(tmp_path, tokens={"eos_token": {"content": "</s>"}, "bos_token": None})
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<s>", "pad_token": "<s>"}')
    assert special_tokens(tmp_path) == {"eos_token": "</s>", "pad_token": "<s>"}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (None, "has no chat template"),
        ("{% if %}", "chat template 'default', line 1"),
        ("{{ messages[0].nothing.more }}", "refuses this chat"),
        ("{{ raise_exception('only two turns') }}", "refuses this chat: only two turns"),
        ("{{ strftime_now('%d %b') }}", "today's date.*date_string"),
        ("{{ messages.append(1) }}", "refuses this chat"),
        ("{{ messages.__class__.__mro__ }}", "refuses this chat: .*unsafe"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "refuses this chat"),
        (3, "has no chat template"),
        ([{"name": "default"}], "neither a string nor a list"),
        ([{"name": "rag", "template": ""}], r"\['rag'\]; none is the default"),
    ],
)
def test_templates_that_are_refused(source, told, tmp_path):
    with pytest.raises(OptionError, match=told):
        ChatTemplate(directory(tmp_path, source)).render(TALK)


def test_chats_that_are_refused(tmp_path):
    template = ChatTemplate(directory(tmp_path, CASES["chatml"]["template"]))
    with pytest.raises(OptionError, match="no place for them"):
        template.render(TALK, [{"type": "function"}])
    with pytest.raises(OptionError, match="U\\+FDD0"):
        template.render([{"role": "user", "content": "\ufdd0"}])


def test_files_that_are_refused(tmp_path):
    folder = directory(tmp_path, "x")
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(OptionError, match="no text in UTF-8: byte 0"):
        ChatTemplate(folder)
    for text, told in (("{", "is not JSON"), ("[]", "not an object")):
        (folder / "tokenizer_config.json").write_text(text)
        with pytest.raises(OptionError, match=told):
            ChatTemplate(folder)


def test_jinja_is_asked_for_before_anything_else(tmp_path, monkeypatch):
    folder = directory(tmp_path, "x")
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(OptionError, match=r"needs jinja2: pip install 'zkjax\[hf\]'"):
        ChatTemplate(folder)
