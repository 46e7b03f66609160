"""The notebooks are kept with the outputs of one run, and bring what they need."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
everywhere = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def code_cells(path: Path) -> list[dict]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


@everywhere
def test_outputs_are_those_of_one_run(path):
    """``make notebooks`` writes them."""
    cells = code_cells(path)
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not [o for o in cell["outputs"] if o["output_type"] == "error"]
        if re.search(r"^ *print\(", source := "".join(cell["source"]), re.MULTILINE):
            assert cell["outputs"], source
        if "plt.show()" in source:
            assert any("image/png" in o.get("data", {}) for o in cell["outputs"])


@everywhere
def test_the_first_cell_installs_what_is_missing(path, monkeypatch, tmp_path):
    """It asks for a wheel in the folder, or for the package; with zkjax there it does nothing."""
    source = "".join(code_cells(path)[0]["source"])
    found = re.compile(r"^( *)%pip (.*)$", re.MULTILINE)
    source, count = found.subn(r"\1installed.append(f'\2')", source)
    assert count == 1
    installed: list[str] = []
    exec(source, {"installed": installed})
    assert installed == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    exec(source, {"installed": installed})
    assert '"zkjax[' in installed[0] and "jax" in installed[0] and "plot" in installed[0]
    (tmp_path / "zkjax-9.9-py3-none-any.whl").touch()
    exec(source, {"installed": installed})
    assert "zkjax-9.9-py3-none-any.whl[" in installed[1]


@everywhere
def test_nothing_is_of_the_checkout(path):
    """No file is read, and nothing is imported but the package and what its extras bring."""
    text = "\n".join("".join(c["source"]) for c in code_cells(path))
    modules = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    known = {
        "dataclasses",
        "glob",
        "importlib",
        "shutil",
        "tempfile",
        "jax",
        "matplotlib",
        "numpy",
        "zkjax",
    }
    assert modules <= known
    assert "open(" not in text and "Path(" not in text
