"""The documents are true: their Python blocks run, the commands they mention exist."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from zkjax.cli.main import app

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
GUIDES = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
DOCUMENTS = [README, *GUIDES, *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def code(path: Path) -> str:
    """What is typed in a shell: fenced blocks but Python, indented blocks, inline spans."""
    text = path.read_text()
    fenced = re.findall(r"^```(?!python)\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^    (.*)$", text, re.MULTILINE)
    inline = re.findall(r"`([^`]+)`", text)
    return "\n".join([*fenced, *indented, *inline])


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if blocks(p)], ids=lambda p: p.name)
def test_python_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "document"}
    for number, block in enumerate(blocks(path)):
        exec(compile(block, f"{path.name} block {number}", "exec", dont_inherit=True), names)
    if path == README:
        result = CliRunner().invoke(app, ["verify", "."])
        assert result.exit_code == 0, result.output


def test_the_readme_has_an_example():
    first, *_ = blocks(README)
    lines = [line for line in first.splitlines() if line.strip() and "import" not in line]
    assert len(lines) <= 20


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_commands_exist(path):
    for name, rest in re.findall(r"(?:^|[\s/])zkjax ([a-z]+)([^\n]*)", code(path), re.MULTILINE):
        commands = get_command(app).commands
        assert name in commands, f"zkjax {name}"
        command = commands[name]
        if inner := re.match(r" ([a-z]+)", rest) if hasattr(command, "commands") else None:
            command = command.commands[inner[1]]
        known = {option for p in command.params for option in p.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, f"zkjax {name}{rest}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_make_targets_exist(path):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z]+)", code(path), re.MULTILINE)) <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#:]+)\)", prose):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", [README, *GUIDES], ids=lambda p: p.name)
def test_files_exist(path):
    """Whatever is named with a folder, or as a document."""
    named = re.findall(r"`([\w.-]+/[\w./-]+|[\w-]+\.(?:md|toml))`", path.read_text())
    written = ("out", "step-1", "step-2", "private", "adapter", "dist", "mine", "session")
    for name in named:
        if name.split("/")[0] not in written:
            assert (ROOT / name).exists(), name


def test_public_names_in_the_readme_exist():
    import zkjax

    for name in set(re.findall(r"`zkjax\.(\w+)", README.read_text())):
        assert hasattr(zkjax, name) or find_spec(f"zkjax.{name}"), name
    texts = "".join(p.read_text() for p in DOCUMENTS if p not in GUIDES)
    for name in set(re.findall(r"\bfixed\.(\w+)", texts)):
        assert hasattr(zkjax.fixed, name) or find_spec(f"zkjax.fixed.{name}"), name
