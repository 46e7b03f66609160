"""Files made to cost a verifier time or memory, and files that say something in a second way."""

from __future__ import annotations

import base64
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import zkjax
from soundness.hostile import FILES, Cost, encoded, packed, taken_apart, verdict
from soundness.test_malformed import files
from zkjax import work
from zkjax.argument.party import Planner
from zkjax.errors import StatementError, VerificationError
from zkjax.program.ops import RULES, Op
from zkjax.program.statement import FREE_BYTES, MAX_RATIO, Statement, decode_program
from zkjax.proof import Claims, Commitment
from zkjax.protocol import Setup

SECONDS = 2.0  # more than the honest files
PEAK = 100 << 20

Files = tuple[bytes, str, bytes]


# Files that cost ----------------------------------------------------------------------------


def empty_header(**fields) -> dict:
    names = ("ops", "constants", "tables", "lookups", "zeros", "obligations", "inputs", "outputs")
    return {**{name: [] for name in names}, **fields}


@cache
def bomb(size: int) -> bytes:
    """So many zero bytes, packed."""
    packer, part = zlib.compressobj(9), bytes(1 << 24)
    return b"".join([*(packer.compress(part) for _ in range(size >> 24)), packer.flush()])


def costly_statements() -> Iterator[tuple[str, bytes]]:
    header, integers = taken_apart(files()[0])
    yield "no-size", packed(b"", 0, bomb(1 << 29))
    yield "true-size", packed(b"", 1 << 29, bomb(1 << 29))
    yield "small-size", packed(b"", 1 << 20, bomb(1 << 29))
    yield "wide-table", packed(encoded(empty_header(tables=[["t", 0, 10**7]])))
    yield "wide-table-of-rows", packed(encoded(empty_header(tables=[["t", 1, 10**7]])))
    yield "tall-table", packed(encoded(empty_header(tables=[["t", 10**15, 1]])))
    wide = {**header, "lookups": [[0, [0]]] * 40_000}
    yield "lookups-all-alike", packed(encoded(wide, integers))
    yield "deep", packed(encoded(b"[" * 500_000))
    yield "deep-behind-strings", packed(encoded(b'{"]]]]":' * 200_000))
    yield "empty-lists", packed(encoded(b"[" + b"[]," * 1_300_000 + b"[]]"))
    yield "backslashes", packed(encoded(b'["' + b"\\" * 4_000_000 + b'"]'))
    yield "long-number", packed(encoded(b'{"zeros":[' + b"9" * 4_000_000 + b"]}"))
    yield "long-header", packed(encoded(b" " * ((1 << 22) + 1)))


def expensive_programs() -> Iterator[tuple[str, dict]]:
    """(name, header) of programs with one public input and output, int8."""
    x = ["input", [], [2], [0]]
    scalar = [["input", [], [], [0]], ["broadcast", [0], [1 << 26], [[], []]]]
    yield "stretched", program([*scalar, ["sum", [1], [], [[0], [1 << 26]]]])
    spread = ["broadcast", [0], [4096, 4097], [[], []]]
    merged = ["reshape", [1], [4097, 4096], [[4096, 4097]]]
    total = ["sum", [2], [], [[0, 1], [4097, 4096]]]
    yield "dense", program([["input", [], [], [0]], spread, merged, total])
    ops = [x]
    for i in range(0, 120, 2):
        ops += [["reverse", [i], [2], [[0]]], ["affine", [i, i + 1], [2], [[1, 1], 0]]]
    yield "paths", program(ops)
    ops = [x, ["multiply", [0, 0], [2], []]]
    for i in range(1, 121, 2):
        ops += [["reverse", [i], [2], [[0]]], ["affine", [i, i + 1], [2], [[1, 1], 0]]]
    yield "paths-of-claims", program(ops)


def program(ops: list, **fields) -> dict:
    """A header with the first variable as its input and the last as its output."""
    last = len(ops) - 1
    ports = {"inputs": [[0, "int8", -1, "x"]], "outputs": [[last, "int8", -1, "y"]]}
    return empty_header(ops=ops, **ports, **fields)


def public_files(header: dict) -> Files:
    """The three files of a program of public values; the proof is zeros, long enough for any."""
    shapes = header["ops"][0][2], header["ops"][-1][2]
    arrays = [
        {"dtype": "int8", "shape": s, "data": base64.b64encode(bytes(max(s, default=1))).decode()}
        for s in shapes
    ]
    statement = packed(encoded(header))
    told = {
        "context": "",
        "statement": statement[16:48].hex(),
        "profile": "s100",
        "inputs": {"0": arrays[0]},
        "outputs": {"0": arrays[1]},
        "input_commitments": [],
        "output_commitments": [],
    }
    return statement, json.dumps(told, indent=1), files()[2][:16] + bytes(1 << 20)


def sealed_files(shape: list[int], openings: int) -> Files:
    """A sealed input as large as a file may declare, and a proof of nearly nothing."""
    ops = [["input", [], shape, [0]], ["affine", [0], shape, [[1], 128]]]
    header = empty_header(
        ops=ops, inputs=[[0, "int8", 0, "x"]], lookups=[[0, [1]]], tables=[["range8", 256, 1]]
    )
    statement = packed(encoded(header, struct.pack("<256q", *range(256))))
    commitment = {
        "root": "00" * 32,
        "shapes": [shape],
        "dtypes": ["int8"],
        "openings": openings,
        "profile": "s100",
    }
    told = {
        "context": "",
        "statement": statement[16:48].hex(),
        "profile": "s100",
        "inputs": {},
        "outputs": {},
        "input_commitments": [commitment],
        "output_commitments": [],
    }
    return statement, json.dumps(told, indent=1), files()[2]


def costly_claims() -> Iterator[tuple[str, str]]:
    claims = files()[1]
    shape = re.search(r'"shape": \[\n\s+2\n', claims).group()
    yield "huge-shape", claims.replace(shape, '"shape": [\n' + "9" * 3_400_000, 1)
    yield "huge-openings", claims.replace('"openings": 1', '"openings": ' + "1" * 3_400_000, 1)
    yield "claims-of-lists", "[" + "[]," * 4_000_000 + "[]]"
    yield "claims-of-objects", "[" + "{}," * 4_000_000 + "{}]"
    yield "deep-claims", "[" * 500_000
    yield "wide-characters", '{"context": "' + "a" * 10_000_000 + '\\ud83d\\ude00"}'
    yield "long-context", claims.replace('"context": ""', '"context": "' + "0" * 10_000_000 + '"')
    yield "many-arrays", claims.replace('"inputs": {', '"inputs": {' + '"7": 0, ' * 1_000_000)


# What each is refused for; the checks behind would refuse most of them too, at a price.
REFUSED_FOR = {
    "no-size": "truncated or extended",
    "true-size": "unpacks to",
    "small-size": "truncated or extended",
    "wide-table": "tables: not an integer",
    "wide-table-of-rows": "tables: not an integer from 1 to 64",
    "tall-table": "tables: not an integer",
    "lookups-all-alike": "not in order",
    "deep": "nested more than 16 deep",
    "deep-behind-strings": "nested more than 16 deep",
    "empty-lists": "more than 524,288 values",
    "backslashes": "the header of the statement",
    "long-number": "more than 19 digits",
    "long-header": "bytes of text",
    "huge-shape": "more than 19 digits",
    "huge-openings": "more than 19 digits",
    "claims-of-lists": "more than 524,288 values",
    "claims-of-objects": "more than 524,288 values",
    "deep-claims": "nested more than 16 deep",
    "wide-characters": "a backslash",
    "long-context": "context: not 0 to",
    "many-arrays": "more than 524,288 values",
    # Claims that double are brought together; what is left of such a program is that it wraps.
    "paths": "bounds",
    "paths-of-claims": "bounds",
    "much-sealed": "proof length",
    "many-openings": "proof length",
}


def write(folder: Path, *contents: bytes | str) -> None:
    folder.mkdir()
    for name, data in zip(FILES, contents, strict=True):
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


@pytest.fixture(scope="module")
def costs(tmp_path_factory) -> dict[str, Cost]:
    """ "case command" -> what it cost, for all hostile files and the honest ones."""
    root = tmp_path_factory.mktemp("hostile")
    statement, claims, proof = files()
    write(root / "honest", statement, claims, proof)
    for name, data in costly_statements():
        write(root / name, data, told_of(claims, data), proof)
    for name, header in expensive_programs():
        write(root / name, *public_files(header))
    for name, text in costly_claims():
        write(root / name, statement, text, proof)
    write(root / "much-sealed", *sealed_files([1 << 20, 1 << 20], 1))
    write(root / "many-openings", *sealed_files([64], 65536))
    environment = os.environ | {"PYTHONPATH": str(Path(zkjax.__file__).parent.parent)}
    script = Path(__file__).with_name("hostile.py")
    done = subprocess.run(
        [sys.executable, script, root], env=environment, capture_output=True, text=True, check=True
    )
    return {name: Cost(*cost) for name, cost in json.loads(done.stdout).items()}


def told_of(claims: str, statement: bytes) -> str:
    """The claims, about another statement file."""
    return claims.replace(files()[0][16:48].hex(), statement[16:48].hex())


def test_hostile_files_cost_little(costs):
    """Each ends in a sentence and exit code 1 or 2, soon and in little memory."""
    honest = {name: costs[f"honest {name}"] for name in ("verify", "inspect")}
    assert all(cost.answer[0] == 0 for cost in honest.values()), honest
    wrong = {}
    for case, cost in costs.items():
        name = case.split()[1]
        if case.startswith("honest "):
            continue
        code, said = cost.answer or (None, "killed")
        expected = REFUSED_FOR.get(case.split()[0], "work")
        spoke = expected in said and "Traceback" not in said and "malformed input" not in said
        cheap = cost.seconds < honest[name].seconds + SECONDS and cost.peak < PEAK
        if code not in (1, 2) or not spoke or not cheap:
            wrong[case] = (code, said[-300:], cost.seconds, cost.peak >> 20)
    assert not wrong, wrong


# What is written has one form -----------------------------------------------------------------


def second_forms() -> Iterator[tuple[str, str, str]]:
    """(name, text, part of the refusal) of claims that say in another way, or nearly, what the
    honest ones say.
    """
    honest = files()[1]
    digest = json.loads(honest)["statement"]
    key = re.search(r'"inputs": \{\n\s+"(\d+)"', honest).group(1)
    root = json.loads(honest)["input_commitments"][0]["root"]
    data = re.search(r'"data": "(.*)"', honest).group()
    one = '"openings": 1'

    def swap(old: str, new: str) -> str:
        assert old in honest
        return honest.replace(old, new, 1)

    context = '"context": ""'
    yield "key twice", swap(context, f"{context},\n {context}"), "same key twice"
    yield "unknown field", swap(context, f'"more": 1,\n {context}'), "not an object with the keys"
    yield "missing field", swap(f"{context},\n ", ""), "not an object with the keys"
    told = json.loads(honest)
    for part in ("input_commitments", "inputs"):
        inner = told[part][0] if part == "input_commitments" else told[part][key]
        for name in inner:
            fields = {k: v for k, v in inner.items() if k != name}
            for label, wrong in ((f"{part} without {name}", fields), (part, {**inner, "x": 0})):
                other = [wrong] if part == "input_commitments" else {key: wrong}
                text = json.dumps({**told, part: other}, indent=1)
                yield label, text, "not an object with the keys"
    for wrong in (
        "1.9",
        "1.0",
        "1e0",
        "true",
        '"1"',
        "null",
        "[1]",
        "NaN",
        "Infinity",
        "-Infinity",
    ):
        number = swap(one, f'"openings": {wrong}')
        yield f"openings {wrong}", number, "not an integer"
    for wrong in ("01", "+1", "٢", "1_0"):
        yield f"openings {wrong}", swap(one, f'"openings": {wrong}'), "not JSON|not ASCII"
    for wrong in ("٢", "\\u0662"):
        keyed = swap(f'"{key}": {{', f'"{wrong}": {{')
        yield f"input {wrong}", keyed, "not ASCII|a backslash"
    for wrong in (f"0{key}", f" {key}", f"+{key}", "1_0", ""):
        yield f"input {wrong!r}", swap(f'"{key}": {{', f'"{wrong}": {{'), "numbers for keys"
    for wrong in (
        digest.upper(),
        f" {digest}",
        digest[:-1],
        digest[:-2],
        f"{digest}00",
        "0x" + digest,
    ):
        yield f"digest {wrong}", swap(digest, wrong), "hexadecimal"
    yield "a large number", swap(f'"{key}": {{', '"65536": {'), "not below 65536"
    yield "inputs in a list", json.dumps({**told, "inputs": []}, indent=1), "numbers for keys"
    few = {key: {**told["inputs"][key], "shape": [3]}}
    yield "few bytes", json.dumps({**told, "inputs": few}, indent=1), "not of its declared size"
    yield "spaces in a root", swap(root, f"{root[:2]} {root[2:]}"), "hexadecimal"
    yield "capital root", swap(root, root.upper()), "hexadecimal"
    spare = data.replace("Y=", "Z=")
    assert spare != data
    yield "spare bits", swap(data, spare), "canonical form"
    yield "base64 with a space", swap(data, data[:-2] + ' "'), "not base64"
    yield "a newline", honest + "\n", "canonical form"
    yield "less space", json.dumps(json.loads(honest)), "canonical form"
    yield "another order", json.dumps(dict(reversed(told.items())), indent=1), "canonical form"
    yield "escaped", swap('"s100"', '"s10\\u0030"'), "a backslash"
    yield "byte order mark", "\ufeff" + honest, "not ASCII"
    yield "more behind", honest + "{}", "not JSON"


def test_claims_have_one_form():
    cases = list(second_forms())
    assert len(cases) > 50
    wrong = [other(Claims.from_json, text, name, said) for name, text, said in cases]
    assert not list(filter(None, wrong))


def other(read, value, name: str, expected: str) -> str:
    """Empty if ``read`` refuses the value as expected, else what it does."""
    try:
        read(value)
    except StatementError as error:
        return "" if re.search(expected, str(error)) else f"{name}: {error}"
    return f"{name}: accepted"


def test_a_commitment_has_one_form():
    honest = json.loads(files()[1])["input_commitments"][0]
    assert Commitment.from_json(honest).to_json() == honest
    for field, wrong in {
        "root": [honest["root"].upper(), honest["root"] + "00", 7, None],
        "shapes": [[], [[]], [[0]], [[-1]], [[1.0]], [[True]], [["2"]], [[1 << 27]], [[2] * 41], 2],
        "dtypes": [[], ["int64"], ["i1"], [["int8"]], "int8", ["int8", "int8"]],
        "openings": [0, -1, 65537, 1.0, True, "1", None, 10**30],
        "profile": ["s7", 100, None, ["s100"]],
        "range_proof": [7, "A", "AB==", "A A=", None, "AAAA "],
    }.items():
        for value in wrong:
            told = {**honest, field: value}
            # One scalar more is another commitment, not a malformed one.
            if field == "shapes" and value == [[]]:
                assert Commitment.from_json(told).shapes == ((),)
                continue
            with pytest.raises(StatementError):
                Commitment.from_json(told)
    padded = {**honest, "shapes": [[3] * 21]}  # to 2^42 elements
    for told in (None, [], "x", {}, {**honest, "more": 1}, padded):
        with pytest.raises(StatementError):
            Commitment.from_json(told)


def test_a_claimed_boolean_is_zero_or_one():
    claims = Claims(b"0" * 32, "s100", {0: np.array([True, False])}, {}, [], [])
    assert Claims.from_json(claims.to_json()).inputs[0].tolist() == [True, False]
    wrong = claims.to_json().replace(base64.b64encode(b"\1\0").decode(), "AQI=")
    with pytest.raises(StatementError, match="neither 0 nor 1"):
        Claims.from_json(wrong)


def test_claims_with_many_inputs_are_written_in_order():
    arrays = {i: np.array(i, dtype=np.int8) for i in (10, 2, 0)}
    text = Claims(b"0" * 32, "s100", arrays, {}, [], []).to_json()
    assert list(Claims.from_json(text).inputs) == [0, 2, 10]
    assert Claims.from_json(text.encode()).to_json() == text


# Statements ---------------------------------------------------------------------------------


def statement_edits() -> Iterator[tuple[str, dict, str]]:
    """(name, changed fields of the header, part of the refusal)."""
    header, _ = taken_apart(files()[0])
    ops, ports, outs = header["ops"], header["inputs"], header["outputs"]
    lookups, tables = header["lookups"], header["tables"]

    def port(where: str, position: int, value) -> dict:
        changed = [list(p) for p in header[where]]
        changed[0][position] = value
        return {where: changed}

    yield "unknown field", {"more": []}, "not an object with the keys"
    yield "an operand after its use", {"ops": [["alias", [0], [2], []], *ops[1:]]}, "comes? before"
    yield "an unknown kind", {"ops": [["jump", [], [2], []], *ops[1:]]}, "not one of"
    yield "a shape of zero", {"ops": [["input", [], [0], [0]], *ops[1:]]}, "integer from 1"
    yield "a long axis", {"ops": [["input", [], [1 << 27], [0]], *ops[1:]]}, "integer from 1"
    yield "a large shape", {"ops": [["input", [], [1 << 21] * 2, [0]], *ops[1:]]}, "elements"
    yield "many axes", {"ops": [["input", [], [1] * 33, [0]], *ops[1:]]}, "0 to 32"
    yield "a deep parameter", {"ops": [["input", [], [2], [[[[1]]]]], *ops[1:]]}, "nested"
    yield "a string parameter", {"ops": [["input", [], [2], ["0"]], *ops[1:]]}, "not an integer"
    yield "an input twice", {"ops": [*ops, ops[0]]}, "numbered in turn"
    yield "an input less", {"inputs": ports[:-1]}, "inputs are not"
    yield "inputs swapped", {"inputs": ports[::-1]}, "inputs are not"
    yield "int64 for an input", port("inputs", 1, "int64"), "has dtype int64"
    yield "floats", port("inputs", 1, "float32"), "not one of"
    yield "a group of its own", port("inputs", 2, 1), "numbered in turn"
    yield "a negative group", port("inputs", 2, -2), "not an integer"
    yield "a long name", port("inputs", 3, "x" * 1025), "at most 1024 characters"
    yield "a name that is none", port("inputs", 3, 7), "not a string"
    yield "a false flag", {"inputs": [[*ports[0], False], *ports[1:]]}, "not true"
    yield "a public ranged input", {"inputs": [ports[0], [*ports[1], True]]}, "public port"
    yield "a ranged output", {"outputs": [[*outs[0], True], *outs[1:]]}, "marked as ranged"
    yield "an output of nothing", port("outputs", 0, len(ops)), "output of no variable"
    yield "a sealed int64", port("outputs", 1, "int64"), "has dtype int64"
    yield "zeros twice", {"zeros": [0, 0]}, "zero relations are not in order"
    yield "a zero of nothing", {"zeros": [len(ops)]}, "zero relation of no variable"
    obliged = {"obligations": [[0, 0, 1], [0, 0, 1]]}
    yield "obligations twice", obliged, "obligations are not in order"
    yield "an obligation of nothing", {"obligations": [[len(ops), 0, 1]]}, "of no variable"
    yield "lookups twice", {"lookups": [lookups[0], *lookups]}, "lookups are not in order"
    yield "a lookup of nothing", {"lookups": [[0, [len(ops)]]]}, "lookup of no variable"
    yield "a lookup of more", {"lookups": [[0, [0, len(ops)]]]}, "lookup of no variable"
    yield "a lookup in nothing", {"lookups": [[len(tables), [0]]]}, "lookup in no table"
    yield "a wide lookup", {"lookups": [[0, [0, 0]]]}, "does not fit its table"
    yield "a wide table", {"tables": [["t", 1, 65]]}, "from 1 to 64"
    yield "a table without rows", {"tables": [["t", 0, 1]]}, "from 1 to"
    yield "integers behind", {"tables": tables[:-1]}, "trailing bytes"
    yield "integers missing", {"constants": [[2, 2], *header["constants"]]}, "consecutive|truncated"


def test_edited_statements():
    header, integers = taken_apart(files()[0])
    wrong = []
    for name, fields, said in statement_edits():
        file = packed(encoded({**header, **fields}, integers))
        wrong += filter(None, [other(Statement.decode, file, name, said)])
    assert not wrong


def small_edits() -> Iterator[tuple[str, dict]]:
    """(part of the refusal, changed fields) of ``small_program``."""
    ops, inputs = small_program()["ops"], small_program()["inputs"]
    yield "a lookup mixes shapes", {"lookups": [[0, [0, 1]]]}
    yield "operation 4 .alias.: has shape", {"ops": [*ops, ["alias", [0], [3], []]]}
    yield "there is no such constant", {"ops": [*ops, ["constant", [], [2], [1]]]}
    yield "a constant without its operation", {"ops": [*ops, ["constant", [], [2], [0]]]}
    yield "another shape", {"ops": [*ops[:2], ["constant", [], [1, 2], [0]], ops[3]]}
    yield "a constant without its operation", {"ops": [*ops[:2], ["alias", [0], [2], []], ops[3]]}
    yield "there is no such table", {"ops": [*ops[:3], ["lookup", [0], [2], [1, 1]]]}
    yield "there is no such table", {"ops": [*ops[:3], ["locate", [0], [2], [1]]]}
    yield "there is no such column", {"ops": [*ops[:3], ["lookup", [0], [2], [0, 2]]]}
    yield "inputs do not come first", {"ops": [ops[0], ["alias", [0], [2], []], ops[1], *ops[2:]]}
    yield "4 to 5 things", {"inputs": [inputs[0][:3], inputs[1]]}
    yield "4 to 5 things", {"inputs": [[*inputs[0], True, True], inputs[1]]}


def small_program() -> dict:
    """Two inputs, a constant, and a column of a table looked up."""
    return empty_header(
        ops=[
            ["input", [], [2], [0]],
            ["input", [], [3], [1]],
            ["constant", [], [2], [0]],
            ["lookup", [0], [2], [0, 1]],
        ],
        constants=[[2]],
        tables=[["t", 2, 2]],
        lookups=[[0, [0, 3]]],
        inputs=[[0, "int8", -1, "x"], [1, "int8", -1, "y"]],
    )


SMALL_INTEGERS = struct.pack("<6q", 5, 6, 0, 1, 7, 8)


def test_edited_small_programs(monkeypatch):
    honest = encoded(small_program(), SMALL_INTEGERS)
    assert decode_program(honest).encode() == honest
    wrong = []
    for said, fields in small_edits():
        raw = encoded({**small_program(), **fields}, SMALL_INTEGERS)
        wrong += filter(None, [other(decode_program, raw, said, said)])
    for raw in (b"", honest[:7], honest[:-1], honest[:40], b"\xff" * 8 + honest[8:]):
        wrong += filter(None, [other(decode_program, raw, "cut", "truncated")])
    monkeypatch.setitem(RULES, "lookup", replace(RULES["lookup"], shape=None))
    wrong += filter(None, [other(decode_program, honest, "rule", "of no known kind")])
    assert not wrong


def test_the_beginning_of_a_statement_file(monkeypatch):
    raw = encoded(small_program(), SMALL_INTEGERS)
    file = packed(raw)
    for wrong, said in (
        *(
            (file[:8] + size.to_bytes(8, "little") + file[16:], "truncated or extended")
            for size in (len(raw) - 1, len(raw) + 1, len(raw) + 1000)
        ),
        (b"ZKJXSTM2" + file[8:], "not a zkjax statement of this version"),
        (file[:47], "truncated or too large"),
        (file[:16] + bytes(32) + file[48:], "does not match its digest"),
        (file[:48] + b"\0" + file[49:], "is malformed"),
        (file + b"\0", "truncated or extended"),
        (file[:-1], "truncated or extended"),
    ):
        assert not other(Statement.decode, wrong, said, said)
    statement = Statement.decode(file)
    monkeypatch.setattr("zkjax.program.statement.MAX_BYTES", len(file) - 1)
    assert not other(Statement.decode, file, "size", "too large")
    assert not other(lambda s: s.encode(), statement, "size", "is larger than")


def test_the_beginning_of_a_proof_file():
    statement, claims, proof = files()
    unknown = claims.replace('"profile": "s100"', '"profile": "s7"', 1)
    for told, wrong, refusal in (
        (claims, proof[:15], ("proof header", "not a zkjax proof of this version")),
        (claims, b"ZKJXPRF2" + proof[8:], ("proof header", "not a zkjax proof of this version")),
        (
            claims,
            proof[:8] + b"s128" + proof[12:],
            ("proof header", "the proof is of another profile"),
        ),
        (unknown, proof, ("profile", "unknown profile 's7'")),
    ):
        assert verdict(statement, told.encode(), wrong) == refusal


def test_a_statement_has_one_form():
    header, integers = taken_apart(files()[0])
    raw = encoded(header, integers)
    assert decode_program(raw).encode() == raw
    text = raw[8 : -len(integers)]
    for wrong in (
        text + b" ",
        json.dumps(header, sort_keys=True).encode(),
        text.replace(b'"zeros"', b'"zero\\u0073"'),
        b'{"ops":[],' + text[1:],
    ):
        with pytest.raises(StatementError, match=r"canonical form|same key twice"):
            decode_program(encoded(wrong, integers))


def test_a_statement_that_packs_well_is_stored():
    """What a writer writes a reader reads, whatever the ratio; others' files have a limit."""
    program = zkjax.trace(lambda x: x)(np.zeros(2, np.int8)).program
    program.ops[:] = [Op("input", (), (2,), (0,)), Op("constant", (), (FREE_BYTES // 8,), (0,))]
    program.constants[:] = [np.zeros(FREE_BYTES // 8, dtype=np.int64)]
    file = Statement(program).encode()
    assert len(file) > FREE_BYTES
    assert Statement.decode(file).program.encode() == program.encode()
    raw = program.encode()
    wrong = packed(raw)
    assert len(raw) > MAX_RATIO * len(wrong)
    with pytest.raises(StatementError, match="unpacks to"):
        Statement.decode(wrong)


# The verifier's work ------------------------------------------------------------------------


def test_programs_that_cost_more_than_their_proof():
    for name, header in expensive_programs():
        statement, claims, proof = public_files(header)
        expected = REFUSED_FOR.get(name, "work")
        assert verdict(statement, claims.encode(), proof)[0] == expected, name


def test_operations_and_relations_count_as_steps():
    """Before anything is computed for them."""
    statement, claims, _ = files()
    setup = Setup(Statement.decode(statement), Claims.from_json(claims))
    program = setup.program
    relations = sum(len(r.vars) for r in program.lookups) + len(program.zeros)
    steps = work.STEP * (len(program.ops) + relations)
    assert relations
    with mock.patch("zkjax.protocol.reduce_program"), mock.patch("zkjax.protocol.close"):
        with mock.patch.object(Setup, "most_work", steps):
            setup.reduce(Planner(2))
        short = mock.patch.object(Setup, "most_work", steps - 1)
        with short, pytest.raises(VerificationError, match="work"):
            setup.reduce(Planner(2))


def test_proofs_that_are_too_short():
    """Refused by their length alone, before the statement is reduced."""
    statement, claims, proof = files()
    for keep in (16, 1000, 20_000):
        check, detail = verdict(statement, claims.encode(), proof[:keep])
        assert check == "proof length" and "needs more than" in detail
    for told in (sealed_files([1 << 20, 1 << 20], 1), sealed_files([64], 65536)):
        check, detail = verdict(told[0], told[1].encode(), told[2])
        assert check == "proof length" and "needs more than" in detail
