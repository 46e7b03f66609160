"""Files of examples: what is learned of them, how rows are made, and what is wrong with a line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.test_chat import CASES, FIXTURE, TALK, directory
from zkjax.errors import OptionError, StatementError
from zkjax.models import examples as reading
from zkjax.models.chat import ChatTemplate
from zkjax.models.examples import Document, read_documents
from zkjax.models.packing import IGNORED, Examples, Order, pack, pad, read_examples
from zkjax.models.text import Tokenizer, read_text, sequences, tokenize

BYTES = Tokenizer()


@pytest.fixture(scope="module")
def hf(tmp_path_factory) -> Tokenizer:
    """The fixtures' tokenizer, which puts <s> in front; EOS is <|im_end|>."""
    folder = tmp_path_factory.mktemp("model")
    return Tokenizer(directory(folder, CASES["chatml"]["template"]))


def write(path: Path, *lines) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def learned(tokenizer: Tokenizer, document: Document) -> str:
    """The text of the tokens that are learned."""
    ids = document.ids[document.learned]
    if tokenizer.folder is None:
        return bytes(ids.astype(np.uint8)).decode()
    return tokenizer._tokenizer.decode(list(ids), skip_special_tokens=False)


# Texts and tokens -----------------------------------------------------------------------------


def test_without_a_tokenizer_tokens_are_bytes(tmp_path):
    ids, inside = BYTES.encode("aé月", [(1, 2)])
    assert ids.tolist() == list("aé月".encode()) and ids.dtype == np.int32
    assert inside.tolist() == [False, True, True, False, False, False]
    assert tokenize("é", None).tolist() == tokenize("é", tmp_path).tolist() == [195, 169]


def test_a_tokenizer_adds_what_it_adds_and_never_cuts(hf):
    assert FIXTURE["tokenizer"]["truncation"]["max_length"] == 8
    text = "How old is the Earth? " * 4
    with_bos, without = hf.encode(text).ids, hf.encode(text, special=False).ids
    assert len(without) > 20 and with_bos[1:].tolist() == without.tolist()
    assert with_bos[0] == hf._tokenizer.token_to_id("<s>")
    assert np.array_equal(tokenize(text, hf.folder), with_bos)
    assert not hf.encode(text, [(0, len(text))]).inside[0]  # BOS is in no span
    assert hf.encode(text, [(0, len(text))]).inside[1:].all()  # also white space at the end
    ids, inside = hf.encode("a \n b  ", [(1, 3), (6, 7)], special=False)
    kept = [hf._tokenizer.decode([t]) for t in ids[inside]]
    assert "".join(kept).strip(" ") == "\n" and not inside[0] and inside[-1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "is no tokenizer"),
    ],
)
def test_tokenizers_that_are_refused(change, told, tmp_path):
    change(directory(tmp_path))
    with pytest.raises(OptionError, match=told):
        Tokenizer(tmp_path)


def test_names_of_tokens_that_are_wrong_matter_where_they_are_used(tmp_path):
    tokenizer = Tokenizer(directory(tmp_path, tokens={"eos_token": "<end>"}))
    assert tokenizer.pad is None and len(tokenizer.encode("How").ids) > 1
    with pytest.raises(OptionError, match="eos_token = '<end>' is none of"):
        read_examples(write(tmp_path / "x.jsonl", {"text": "ab"}), tokenizer, 8)


def test_tokenizers_are_asked_for_before_anything_else(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(OptionError, match=r"needs tokenizers: pip install 'zkjax\[hf\]'"):
        Tokenizer(directory(tmp_path))


def test_sequences_of_a_text(tmp_path):
    (tmp_path / "x.txt").write_text("abcdefgh")
    tokens = tokenize(read_text(str(tmp_path / "x.txt")), None)
    assert sequences(tokens, 2, 3, 256).tolist() == [[list(b"abcd")], [list(b"efgh")]]
    with pytest.raises(OptionError, match="8 tokens and 3 sequences of 4 need 12"):
        sequences(tokens, 3, 3, 256)
    with pytest.raises(OptionError, match="token 104 is beyond the vocabulary of 100"):
        sequences(tokens, 2, 3, 100)
    assert len(read_text("sources")) == 2_000_000 < len(read_text("sources", None))


# What is learned ------------------------------------------------------------------------------


def test_a_completion_is_learned_and_ends_with_eos(tmp_path, hf):
    path = write(tmp_path / "x.jsonl", {"prompt": "How é?", "completion": " Old é."})
    (of_bytes,), (of_hf,) = read_documents(path, BYTES), read_documents(path, hf)
    assert learned(BYTES, of_bytes) == " Old é."
    assert learned(hf, of_hf) == " Old é.<|im_end|>"
    assert of_hf.ids[0] == hf._tokenizer.token_to_id("<s>") and of_hf.ids[-1] == hf.eos
    (whole,) = read_documents(path, hf, loss_on="all")
    assert whole.learned.all() and np.array_equal(whole.ids, of_hf.ids)


def test_eos_is_not_doubled(tmp_path, hf):
    path = write(tmp_path / "x.jsonl", {"prompt": "a", "completion": "b<|im_end|>"})
    (document,) = read_documents(path, hf)
    assert (document.ids == hf.eos).sum() == 1 and document.learned[-1]


def test_eos_that_the_tokenizer_adds_is_learned(tmp_path):
    folder = directory(tmp_path / "model")
    raw = json.loads((folder / "tokenizer.json").read_text())
    start = raw["post_processor"]["processors"][1]
    end = next(t for t in raw["added_tokens"] if t["content"] == "<|im_end|>")
    start["single"].append({"SpecialToken": {"id": end["content"], "type_id": 0}})
    start["special_tokens"][end["content"]] = {
        "id": end["content"], "ids": [end["id"]], "tokens": [end["content"]],
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    tokenizer = Tokenizer(folder)
    path = write(tmp_path / "x.jsonl", {"prompt": "a", "completion": "b"})
    (document,) = read_documents(path, tokenizer)
    assert learned(tokenizer, document) == "b<|im_end|>"
    assert (document.ids == tokenizer.eos).sum() == 1


def test_a_text_is_learned_whole(tmp_path, hf):
    (tmp_path / "x.txt").write_text("How old?")
    by_line = write(tmp_path / "x.jsonl", {"text": "How old?"})
    (a,), (b,) = read_documents(tmp_path / "x.txt", hf), read_documents(by_line, hf)
    assert np.array_equal(a.ids, b.ids) and a.learned.all() and a.ids[-1] == hf.eos
    assert (a.where, b.where) == (f"{tmp_path / 'x.txt'}", f"{by_line}, line 1")
    (bytes_,) = read_documents(tmp_path / "x.txt", BYTES)
    assert bytes(bytes_.ids.astype(np.uint8)) == b"How old?" and bytes_.learned.all()


def test_what_the_assistant_says_is_learned(tmp_path, hf):
    path = write(tmp_path / "x.jsonl", {"messages": TALK})
    (document,) = read_documents(path, hf)
    assert document.ids.tolist() == CASES["chatml"]["ids"]
    said = [m["content"] + "<|im_end|>" for m in TALK if m["role"] == "assistant"]
    assert learned(hf, document) == "".join(said)
    (whole,) = read_documents(path, hf, loss_on="all")
    assert whole.learned.all() and np.array_equal(whole.ids, document.ids)


def test_tools_and_a_template_of_ones_own(tmp_path, hf):
    case = CASES["tools"]
    line = {"messages": case["messages"], "tools": case["tools"]}
    path = write(tmp_path / "x.jsonl", line, {**line, "id": 3})
    template = ChatTemplate(directory(tmp_path, case["template"]))
    found = list(read_documents(path, hf, template=template, ignore=["id"]))
    assert [d.ids.tolist() for d in found] == [case["ids"]] * 2
    assert learned(hf, found[0]).count("<tool_call>") == 2


# Rows -----------------------------------------------------------------------------------------


def document(ids, marks=None, where="x, line 1") -> Document:
    ids = np.array(ids, np.int32)
    return Document(ids, np.ones(len(ids), bool) if marks is None else np.array(marks, bool), where)


def test_one_document_a_row(hf):
    rows = pad([document([5, 6, 7], [0, 0, 1]), document([8, 9, 1, 2])], 4, hf)
    assert rows.tokens.dtype == rows.labels.dtype == np.int32
    assert rows.tokens.tolist() == [[5, 6, 7, hf.eos, hf.eos], [8, 9, 1, 2, hf.eos]]
    assert rows.labels.tolist() == [[IGNORED, 7, IGNORED, IGNORED], [9, 1, 2, IGNORED]]
    assert pad([document([5, 6])], 2, BYTES).tokens.tolist() == [[5, 6, 0]]


def test_the_padding_token_is_the_tokenizers(tmp_path):
    tokenizer = Tokenizer(directory(tmp_path, tokens={"pad_token": "</s>"}))
    rows = pad([document([5, 6])], 3, tokenizer)
    assert rows.tokens[0, 2:].tolist() == [tokenizer.pad] * 2 and tokenizer.eos is None


def test_rows_are_cut_only_when_asked():
    long = [document([1, 2, 3, 4], [0, 1, 0, 1], "f.jsonl, line 7")]
    with pytest.raises(OptionError, match=r"f.jsonl, line 7: 4 tokens, a row has 3; .*truncate"):
        pad(long, 2, BYTES)
    assert pad(long, 2, BYTES, truncate=True).labels.tolist() == [[2, IGNORED]]
    with pytest.raises(OptionError, match="line 7: cut to 2 tokens nothing of it is learned"):
        pad([document([1, 2, 3], [0, 0, 1], "f.jsonl, line 7")], 1, BYTES, truncate=True)


def test_packed_rows(hf):
    documents = [document([1, 2, 3], [0, 1, 0]), document([4, hf.eos]), document([6])]
    rows = pack(documents, 2, hf)
    e, i = hf.eos, IGNORED
    assert rows.tokens.tolist() == [[1, 2, 3], [e, 4, e], [6, e, e]]
    assert rows.labels.tolist() == [[2, i], [4, e], [e, i]]  # EOS after a chat is not learned
    rows = pack([document(range(1, 6))], 2, BYTES)
    assert rows.tokens.tolist() == [[1, 2, 3], [4, 5, 0]]
    assert rows.labels.tolist() == [[2, 3], [5, i]]


def test_rows_in_which_nothing_is_learned_are_left_out():
    rows = pack([document([1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 1, 1])], 2, BYTES)
    assert rows.tokens.tolist() == [[4, 5, 6]]
    with pytest.raises(OptionError, match="nothing is learned in any row of 3 tokens"):
        pack([document([1, 2, 3, 4], [0, 0, 0, 1])], 2, BYTES)
    for make in (pad, pack):
        with pytest.raises(OptionError, match="no documents"):
            make([], 2, BYTES)


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=2, max_size=9), min_size=1
    ),
    st.integers(1, 7),
)
def test_packing_keeps_every_token_and_learns_no_other(pieces, length):
    documents = [document(*zip(*piece, strict=True)) for piece in pieces]
    stream = [pair for piece in pieces for pair in piece]
    try:
        rows = pack(documents, length, BYTES)
    except OptionError:
        rows = Examples(np.zeros((0, length + 1), int), np.zeros((0, length), int))
    chunks = [stream[i : i + length + 1] for i in range(0, len(stream), length + 1)]
    kept = [c for c in chunks if any(mark for _, mark in c[1:])]
    assert len(kept) == len(rows.tokens)
    for chunk, tokens, labels in zip(kept, rows.tokens, rows.labels, strict=True):
        assert tokens.tolist() == [t for t, _ in chunk] + [0] * (length + 1 - len(chunk))
        wanted = [t if mark else IGNORED for t, mark in chunk[1:]]
        assert labels.tolist() == wanted + [IGNORED] * (length - len(wanted))


def test_examples_of_a_file(tmp_path, hf):
    lines = [{"prompt": f"{n} + {n} =", "completion": f" {2 * n}"} for n in range(9)]
    path = write(tmp_path / "x.jsonl", *lines)
    rows = read_examples(path, hf, 20, vocabulary=410, positions=20)
    assert rows.tokens.shape == (9, 21) and rows.labels.shape == (9, 20)
    for row in range(9):
        kept = rows.labels[row] != IGNORED
        assert np.array_equal(rows.labels[row][kept], rows.tokens[row, 1:][kept])
        assert rows.labels[row][kept][-1] == hf.eos
    packed = read_examples(path, hf, 20, packed=True)
    assert len(packed.tokens) < 9
    assert (packed.labels != IGNORED).sum() <= (rows.labels != IGNORED).sum()
    with pytest.raises(OptionError, match="length = 20 and the model has 19 positions"):
        read_examples(path, hf, 20, positions=19)
    with pytest.raises(OptionError, match="line 1: token 400 is beyond the vocabulary of 8"):
        read_examples(write(tmp_path / "y.jsonl", {"text": "<tool_call>"}), hf, 20, vocabulary=8)
    for length in (0, 1.5, True):
        with pytest.raises(OptionError, match="number of predictions"):
            read_examples(path, hf, length)


# Order ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 2**64 - 1))
def test_every_row_comes_once_before_any_comes_again(count, batch, seed):
    order = Order(count, batch, seed)
    rows = np.concatenate([order.rows(step) for step in range(2 * count)])
    for epoch in range(2 * batch):
        assert sorted(rows[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_the_order_follows_from_seed_and_step_alone():
    order = Order(count=1000, batch=4, seed=7)
    later = order.rows(12_345)
    assert np.array_equal(later, Order(1000, 4, 7).rows(12_345))
    assert not np.array_equal(later, Order(1000, 4, 8).rows(12_345))
    assert not np.array_equal(order.rows(0), order.rows(250))  # the next time round
    assert Order(10, 5, 7).rows(0).tolist() == PINNED
    taken = Examples(np.arange(20).reshape(10, 2), np.arange(10)[:, None]).take(order.rows(0) % 10)
    assert taken.tokens[:, 0].tolist() == (2 * (order.rows(0) % 10)).tolist()
    for wrong in (-1, 1.0, 1 << 48):
        with pytest.raises(OptionError, match="steps are counted from 0"):
            order.rows(wrong)
    for fields in ((0, 1), (1, 0), (1, 1, -1)):
        with pytest.raises(OptionError):
            Order(*fields)


PINNED = [4, 8, 5, 0, 1]


# What is wrong with a line --------------------------------------------------------------------

GOOD = '{"text": "ab"}\n'


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"text": "\xff"}', "not UTF-8"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"text": NaN}', "NaN is no number"),
        ('["text"]', "not an object"),
        ('{"text": "a", "text": "b"}', "the key 'text' is there twice"),
        ('{"text": "\\ud800"}', "surrogate"),
        ('{"txt": "a"}', r"its keys are \['txt'\]"),
        ('{"prompt": "a"}', r"its keys are \['prompt'\]"),
        ('{"text": "a", "id": 3}', "ignore= names keys"),
        ('{"text": ""}', "text is empty"),
        ('{"text": 3}', "text is 3; it is a string"),
        ('{"text": "a"}', "no token of it would be learned"),
        ('{"prompt": "a", "completion": ""}', "completion is empty"),
        ('{"prompt": ["a"], "completion": "b"}', "prompt is .*a string"),
        ('{"messages": []}', "messages is a list of one message or more"),
        ('{"messages": [3]}', "message 1 is no object"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "no message is the assistant's"),
        ('{"messages": [{"role": "robot", "content": "a"}]}', "message 1 is of role 'robot'"),
        ('{"messages": [{"role": ["user"], "content": "a"}]}', "is of role"),
        ('{"messages": [{"role": "user", "content": ["a"]}]}', "has content .* it is a string"),
        ('{"messages": [{"role": "user"}]}', "has content None"),
        ('{"messages": [{"role": "assistant", "content": ""}]}', "the assistant's, is empty"),
        (
            '{"messages": [{"role": "user", "content": "a <|im_end|>"}]}',
            r"message 1 holds the special token '<\|im_end\|>'",
        ),
        (
            '{"messages": [{"role": "assistant", "content": "a", "thinking": ["<s>"]}]}',
            "message 1 holds the special token '<s>'",
        ),
        (
            '{"messages": [{"role": "assistant", "content": "a"}], "tools": [{"<s>": 1}]}',
            "tools holds the special token '<s>'",
        ),
        ('{"messages": [{"role": "user", "content": "a"}], "tools": []}', "tools is a list"),
    ],
)
def test_bad_lines_are_named(line, told, tmp_path, hf):
    data = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "x.jsonl").write_bytes(GOOD.encode() + b"\n" + data + b"\n" + GOOD.encode())
    tokenizer = BYTES if "would be learned" in told else hf
    with pytest.raises(OptionError, match=rf"x\.jsonl, line 3: .*{told}"):
        list(read_documents(tmp_path / "x.jsonl", tokenizer))


def test_a_line_is_read_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_LINE", 100)
    path = tmp_path / "x.jsonl"
    path.write_text(GOOD + '{"text": "' + "a" * 1000 + '"}\n')
    with pytest.raises(OptionError, match=r"line 2: longer than 100 bytes"):
        list(read_documents(path, BYTES))
    monkeypatch.setattr(reading, "MOST_FILE", 500)
    with pytest.raises(OptionError, match="larger than 500 bytes"):
        list(read_documents(path, BYTES))


def test_files_that_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n \n")
    (tmp_path / "x.json").write_text("[]")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"a\nb\xff")
    chat = write(tmp_path / "x.jsonl", {"messages": [{"role": "assistant", "content": "a"}]})
    for path, told in (
        (tmp_path / "empty.jsonl", "has no lines"),
        (tmp_path / "x.json", "call it .jsonl"),
        (tmp_path / "empty.txt", "text is empty"),
        (tmp_path / "binary.txt", "no text in UTF-8: byte 3, line 2"),
        (chat, "line 1: messages need the chat template"),
    ):
        with pytest.raises(OptionError, match=told):
            list(read_documents(path, BYTES))
    with pytest.raises(StatementError, match="missing"):
        list(read_documents(tmp_path / "none.jsonl", BYTES))
    with pytest.raises(OptionError, match="loss_on = 'prompt'"):
        list(read_documents(chat, BYTES, loss_on="prompt"))
