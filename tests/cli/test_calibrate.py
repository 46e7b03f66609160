"""``zkjax calibrate`` and the dry run of the demo."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from zkjax.cli.main import app
from zkjax.proofs.calibration import Calibration

SHORT = ["--sequences", "1", "--compared", "1", "--length", "16"]


def run(*args) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in args])
    return result.exit_code, result.stdout, result.stderr


def test_calibrate_writes_formats_and_a_picture(tmp_path):
    out, plot = tmp_path / "c.json", tmp_path / "c.png"
    code, text, _ = run(
        "calibrate", "demo", "documentation", "--out", out, "--plot", plot, "--json",
        "--held-out", "sources", "--room", "2", *SHORT,
    )  # fmt: skip
    found = json.loads(text)
    assert code == 0 and found["command"] == "calibrate" and found["positions"] == 16
    assert abs(found["loss_float"] - found["loss_fixed"]) < 0.05
    assert Calibration.load(out).model == found["model"]
    assert set(found["sites"]) == set(Calibration.load(out).sites)
    assert plot.read_bytes()[:4] == b"\x89PNG"
    code, _, error = run("calibrate", "demo", "documentation", "--out", out)
    assert code == 2 and "exists" in error


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("nowhere", "sources"), "nowhere is no model directory"),
        (("demo", "nothing.txt"), "nothing.txt is missing"),
        (("demo", "short.txt"), "the text has 3 tokens"),
        (("demo", "binary.txt"), "no text in UTF-8"),
        (("demo", "sources", "--targets", "q_proj,x"), "unknown LoRA targets"),
    ],
)
def test_what_cannot_be_calibrated(tmp_path, monkeypatch, arguments, what):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("abc")
    (tmp_path / "binary.txt").write_bytes(b"abc\xff\xfe")
    code, _, error = run("calibrate", *arguments, "--out", tmp_path / "c.json", *SHORT)
    assert code == 2 and what in error.replace("\n", " ") and "Traceback" not in error
    assert not (tmp_path / "c.json").exists()


def test_the_dry_run_of_the_demo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text, _ = run("demo", "--check", "--json")
    found = json.loads(text)
    assert code == 0 and found["command"] == "check"
    assert found["leaves"] == 1 << 22 and not list(tmp_path.iterdir())
    code, text, _ = run("demo", "--check")
    assert code == 0 and "nothing was proved" in text
