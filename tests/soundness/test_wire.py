"""What is counted in a JSON text before a parser builds anything from it."""

from __future__ import annotations

import json
import re
from unittest import mock

import pytest

from zkjax import wire
from zkjax.errors import StatementError

DEEP = wire.MAX_DEPTH
DIGITS = b"9" * wire.MAX_DIGITS
STRING = rb'"a\\\"[[[,:99999999999999999999\\\\"'

FINE = {
    "as deep as allowed": b"[" * DEEP + b"]" * DEEP,
    "as long a number": b"[" + DIGITS + b"," + DIGITS + b"]",
    "as many values": b"[" + b"1," * 39 + b"1]",
    "as many in an object": b'{"a":[1,2,3,4,5,6,7,8],"b":[1,2,3,4,5,6]}',
    "brackets and digits in a string": b"[" + b",".join([STRING] * 6) + b"]",
}
REFUSED = {
    "nested more than 16 deep": [
        b"[" * (DEEP + 1) + b"]" * (DEEP + 1),
        b'{"a":' * (DEEP + 1) + b"1" + b"}" * (DEEP + 1),
        b"[" + b"[]," * 4 + b"[" * DEEP + b"]" * (DEEP + 1),
        b"[" + STRING + b"," + b"[" * DEEP + b"]" * (DEEP + 1),
    ],
    "more than 19 digits": [b"[1" + DIGITS + b"]", b"[" + STRING + b",-1" + DIGITS + b"]"],
    "more than 40 values": [
        b"[" + b"1," * 40 + b"1]",
        b"[" + b"[]," * 20 + b"[]]",
        b"{" + b'"a":1,' * 20 + b'"a":1}',
    ],
    "81 bytes of text; 80 are allowed": [b"[" + b" " * 79 + b"]"],
    "not ASCII": ['["é"]'.encode()],
}


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
def test_a_text_is_counted_before_it_is_parsed(monkeypatch, block):
    """Also where a string, or an escape in it, is cut by the end of a block."""
    monkeypatch.setattr(wire, "MAX_VALUES", 40)
    monkeypatch.setattr(wire, "_BLOCK", block)
    for name, text in FINE.items():
        assert wire.parse(text, "here", len(text)) == json.loads(text), name
    with mock.patch("json.loads", side_effect=RuntimeError("parsed")):
        for said, texts in REFUSED.items():
            for text in texts:
                with pytest.raises(StatementError, match=re.escape(said)):
                    wire.parse(text, "here", 80 if "bytes" in said else 1000)
    for text in (b"1.5", b"[NaN]", b"[-Infinity]", b'{"a":1,"a":2}', b"[1", b"[1] 2"):
        with pytest.raises(StatementError, match="not JSON"):
            wire.parse(text, "here", 1000)


LETTER, DIGIT = wire.text(1), wire.integer(0, 9)
# A reader, values that it takes, and values that it refuses.
READERS = {
    "items": (wire.items(DIGIT, 2, 1), [[1], [1, 2]], [[], [1, 2, 3], "1", {"1": 1}, None]),
    "row": (wire.row(LETTER, LETTER), [["a", "b"]], [["a"], ["a"] * 3, "ab", {"a": 1, "b": 2}, 7]),
    "short row": (wire.row(DIGIT, LETTER, optional=1), [[1], [1, "a"]], [[], [1, "a", 2], ["a"]]),
    "record": (
        wire.record({"a": DIGIT}, {"b": DIGIT}),
        [{"a": 1}, {"a": 1, "b": 2}],
        [{}, {"b": 1}, {"a": 1, "c": 2}, {"a": "1"}, ["a"], None],
    ),
    "plain record": (wire.record({"a": DIGIT}), [{"a": 1}], [{"a": 1, "b": 2}]),
    "shape": (
        wire.shape,
        [[], [1], [2**26, 2**14], [1] * 32],
        [[0], [-1], [2**26 + 1], [2**26, 2**14 + 1], [1] * 33, ["1"], 1],
    ),
    "hexadecimal": (wire.hexadecimal(2, 1), ["00", "09af"], ["", "0", "000", "AF", "000000", 0]),
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_what_it_should_and_nothing_else(name):
    read, fine, wrong = READERS[name]
    for value in fine:
        read(value, "here")
    for value in wrong:
        with pytest.raises(StatementError, match="here"):
            read(value, "here")
