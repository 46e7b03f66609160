"""What is printed: whole words in 80 columns, on a terminal and in a pipe; JSON; progress."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

import zkjax
from zkjax import fixed
from zkjax.cli import bundle, facts, live, text
from zkjax.cli.main import app
from zkjax.estimate import Check
from zkjax.progress import Stage

DOCUMENT = (Path(__file__).parent.parent.parent / "docs" / "json.md").read_text()
LONG = "a_name_that_takes_much_of_the_space_that_a_line_has"
REPORT = {
    "phases": {"witness": 1.5},
    "seconds": {"prove step 1": 2.5},
    "prove_seconds": 2.0,
    "verify_seconds": 0.5,
    "proof_bytes": 1_500_000,
    "peak_memory_bytes": 2 * 10**9,
    "lookups": 5_000_000,
    "committed_elements": 3_000_000,
    "messages": 1175,
    "kernels": 34,
    "soundness_bits": 102.4,
    "profile": "s100",
    "steps": 1,
    "layers": 2,
    "tokens_per_step": 256,
    "losses": [1.5],
    "loss_before": 1.5,
    "loss_after": 1.25,
    "curves": {"fixed": [1.5], "float64": [1.5]},
}
# All commands in one process, with a line between them that says which one follows.
SCRIPT = """
import json, sys, types
from zkjax.cli.main import app
from zkjax.estimate import Check
from zkjax.progress import Stage

def run_demo(out, steps, profile, progress):
    progress(Stage("prove step 1: kernels 7 of 34: message, and more than a line " * 2, 3, 5, 1, 9))
    return json.loads(sys.argv[2])

demo = types.ModuleType("zkjax.proofs.demo")
demo.run_demo = run_demo
demo.check_demo = lambda profile: Check(None, 1.2, 30, 4, 5, 6, 70_000, 8 * 10**9, 9.0)
sys.modules["zkjax.proofs.demo"] = demo
for arguments in json.loads(sys.argv[1]):
    print(f"<<{json.dumps(arguments)}>>", flush=True)
    try:
        app(arguments, prog_name="zkjax")
    except SystemExit as end:
        print(f"<<exit {end.code}>>", flush=True)
"""


def scaled(weights, x):
    value = fixed.decode(weights[LONG][LONG], 6) * fixed.decode(x, 6)
    return fixed.encode(value, 6, "int8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    secret = zkjax.seal({LONG: {LONG: np.array([3, -5, 64], dtype=np.int8)}}, openings=1)
    x = np.array([64, 32, -16], dtype=np.int8)
    _, proof = zkjax.prove(scaled)(secret, x)
    zkjax.trace(scaled)(secret, x).save(folder / bundle.STATEMENT)
    proof.save(folder / bundle.PROOF)
    (folder / bundle.CLAIMS).write_text(proof.claims.to_json())
    return folder


@pytest.fixture(scope="module")
def damaged(folder, tmp_path_factory) -> Path:
    copy = tmp_path_factory.mktemp("damaged")
    for name in (bundle.STATEMENT, bundle.CLAIMS, bundle.PROOF):
        data = bytearray((folder / name).read_bytes())
        if name == bundle.PROOF:
            data[2000] ^= 1
        (copy / name).write_bytes(data)
    return copy


def command_words(command, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command there is, as it is typed."""
    inner = getattr(command, "commands", {})
    return [words, *(w for name in inner for w in command_words(inner[name], (*words, name)))]


@pytest.fixture(scope="module")
def commands(folder, damaged, tmp_path_factory) -> list[list[str]]:
    out, digest = tmp_path_factory.mktemp("demo") / "out", "00" * 32
    return [
        *([*words, "--help"] for words in command_words(get_command(app))),
        ["--version"],
        ["verify", str(folder)],
        ["verify", str(damaged)],
        ["verify", str(folder), "--statement", digest],
        ["verify", str(folder / "there" / "is" / "nothing" / "here")],
        ["verify", str(folder), "--json"],
        ["inspect", str(folder)],
        ["inspect", str(out)],
        ["demo", "--out", str(out)],
        ["demo", "--check"],
        ["verify"],
        ["verify", "--nonsense"],
        ["adapter", "verify", str(out)],
    ]


def is_one_word(line: str) -> bool:
    """But for a label before it."""
    label, *rest = sorted(line.split(), key=len)
    return len(rest) < 2 and len(label) <= 10


def arguments_of(commands) -> list[str]:
    return [sys.executable, "-c", SCRIPT, json.dumps(commands), json.dumps(REPORT)]


def on_a_terminal(commands) -> str:
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "LINES": "40", "TERM": "xterm"}
    process = subprocess.Popen(
        arguments_of(commands), stdin=slave, stdout=slave, stderr=slave, env=environment
    )
    os.close(slave)
    data = b""
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        data += part
    os.close(master)
    assert process.wait(60) == 0
    return data.decode()


def in_a_pipe(commands) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR")}
    done = subprocess.run(
        arguments_of(commands), env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("run", [on_a_terminal, in_a_pipe], ids=["terminal", "pipe"])
def test_every_command_fits_80_columns_without_a_broken_word(run, commands, folder):
    output = run(commands)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output)
    shown = re.split(r"<<(?=\[)", plain)[1:]
    assert len(shown) == len(commands)
    for words, part in zip(commands, shown, strict=True):
        if "--json" in words:  # for programs
            continue
        # What a live line has overwritten counts as lines of its own.
        _, *lines = re.split(r"[\r\n]+", part)
        for line in lines:
            assert len(line) <= 80 or is_one_word(line), line
    claims = zkjax.Claims.from_json((folder / bundle.CLAIMS).read_text())
    words = plain.split()
    for whole in (claims.statement.hex(), str(claims.input_commitments[0])):
        assert words.count(whole) >= 2, whole  # verify and inspect
    assert words.count(f"0['{LONG}']['{LONG}']") >= 2
    assert "Traceback" not in plain


def test_wrapping_keeps_values_below_each_other(capsys):
    text.line("  detail      " + "seventeen letters " * 8)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("  detail      seventeen") and len(first) <= 80
    assert second.startswith("              s") or second.startswith("              l")


def test_a_table_puts_below_what_does_not_fit(capsys):
    text.grid("Title", ("", "name", "n"), [("a", "short", 1), ("b", "x" * 90, 22)], (2,))
    _, title, header, first, *second = capsys.readouterr().out.splitlines()
    assert title == "Title" and header.split() == ["name", "n"]
    assert first == "a  short  1"
    assert second == [f"b  {'x' * 90}", "          22"]


def test_control_characters_are_not_printed(capsys):
    text.line("a\x1b[31mb\u202ec", error=True)
    assert "\x1b" not in (said := capsys.readouterr().err) and "\u202e" not in said


# JSON ---------------------------------------------------------------------------------------


def answer(*arguments) -> tuple[int, dict]:
    result = CliRunner().invoke(app, [str(a) for a in arguments] + ["--json"])
    return result.exit_code, json.loads(result.stdout)


def members(value) -> set[str]:
    """Every name of a member, at any depth (but names that are data)."""
    found: set[str] = set()
    if isinstance(value, list):
        found = set().union(*(members(v) for v in value))
    elif isinstance(value, dict):
        for name, inner in value.items():
            free = ("files", "operation_kinds", "soundness_terms", "phases", "stages")
            found |= {name} | (set() if name in free else members(inner))
    return found


def test_json_of_verify_and_inspect(folder, damaged, tmp_path):
    claims = zkjax.Claims.from_json((folder / bundle.CLAIMS).read_text())
    for command in ("verify", "inspect"):
        code, found = answer(command, folder)
        assert code == 0 and found["command"] == command
        assert found["statement"] == claims.statement.hex()
        assert found["commitments"][0]["digest"] == str(claims.input_commitments[0])
        private, public = found["inputs"]
        assert private["private"] and private["commitment"] == 0 and private["shape"] == [3]
        assert not public["private"] and public["first_values"] == [64, 32, -16]
        assert found["soundness_bits"] > 100
        assert members(found) <= documented(), members(found) - documented()
    code, found = answer("verify", folder, "--statement", claims.statement.hex())
    assert code == 0 and found["accepted"] is True and found["statement_compared"] is True
    assert answer("verify", folder)[1]["statement_compared"] is False
    assert answer("inspect", folder)[1]["verified"] is False
    code, found = answer("verify", damaged)
    assert code == 1 and found["accepted"] is False and found["check"]
    assert set(found) == {"command", "accepted", "check", "detail"}
    for command in ("verify", "inspect"):
        code, found = answer(command, tmp_path)
        assert code == 2 and "proof.zkp" in found["error"] and set(found) == {"command", "error"}


def documented() -> set[str]:
    return set(re.findall(r"`([a-z_0-9]+)`", DOCUMENT))


@pytest.fixture
def stand_in(monkeypatch):
    """``zkjax demo`` with another run_demo."""
    import types

    def install(run_demo):
        module = types.ModuleType("zkjax.proofs.demo")
        module.run_demo = run_demo
        monkeypatch.setitem(sys.modules, "zkjax.proofs.demo", module)

    return install


def test_json_of_the_demo(stand_in, tmp_path):
    stand_in(lambda out, steps, profile, progress: REPORT)
    code, found = answer("demo", "--out", tmp_path / "out")
    assert code == 0 and found["accepted"] is True and found["out"] == str(tmp_path / "out")
    assert found["loss_after"] == 1.25 and found["stages"] == {"prove step 1": 2.5}
    assert members(found) <= documented(), members(found) - documented()
    # Everything of a report is handed on, under its own name or that of stages.
    assert set(REPORT) - {"seconds"} <= set(found)


def test_json_of_a_dry_run():
    found = facts.expected(Check(None, 1.2, 30, 4, 5, 6, 70_000, 8 * 10**9, 9.0))
    assert found["command"] == "check" and found["prove_seconds"] == 9.0
    assert members(found) <= documented() and json.dumps(found)


# Progress -----------------------------------------------------------------------------------


def test_progress_in_a_pipe_is_one_line(stand_in, tmp_path):
    def run_demo(out, steps, profile, progress):
        for k in range(50):
            progress(Stage(f"stage {k}", k + 1, 50, float(k), 50.0 - k))
        return REPORT

    stand_in(run_demo)
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert re.fullmatch(r"demo: running, about 50 s \.\.\. done after [\d.]+ s\n", result.stderr)


def test_progress_that_fails_ends_its_line(stand_in, tmp_path):
    def run_demo(out, steps, profile, progress):
        progress("something")
        raise ValueError("no luck")

    stand_in(run_demo)
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "out")])
    first, second = result.stderr.splitlines()
    assert result.exit_code == 2
    assert re.fullmatch(r"demo: running \.\.\. stopped after [\d.]+ s", first)
    assert second == "zkjax: ValueError: no luck"


def test_whoever_tells_nothing_leaves_no_line(capsys):
    with live.Phases():
        pass
    assert capsys.readouterr() == ("", "")


# Completion ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "offered"), [("zkjax ", "verify"), ("zkjax verify --st", "--statement")]
)
def test_completion(typed, offered):
    code = "from zkjax.cli.main import app; app(prog_name='zkjax')"
    words = typed.split(" ")
    environment = {
        **os.environ,
        "_ZKJAX_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert offered in done.stdout.split(), done.stdout + done.stderr
