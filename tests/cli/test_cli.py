"""The command line: what it says and its exit codes, with and without JAX in the process."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import zkjax
from zkjax import fixed
from zkjax.cli import bundle
from zkjax.cli.main import app

FILES = ("proof.zkp", "statement.zks", "claims.json")


def polynomial(secret, x):
    """secret * x at 6 fraction bits: one rounding, so the tables stay small."""
    return fixed.encode(fixed.decode(secret, 6) * fixed.decode(x, 6), 6, "int8")


@pytest.fixture(scope="session")
def proved(tmp_path_factory) -> Path:
    """A folder with the three files of an honest proof."""
    folder = tmp_path_factory.mktemp("proved")
    secret = zkjax.seal(np.array([3, -5, 64], dtype=np.int8), openings=1)
    x = np.array([64, 32, -16], dtype=np.int8)
    _, proof = zkjax.prove(polynomial, context=b"offer 7")(secret, x)
    zkjax.trace(polynomial)(secret, x).save(folder / "statement.zks")
    proof.save(folder / "proof.zkp")
    (folder / "claims.json").write_text(proof.claims.to_json())
    return folder


@pytest.fixture
def folder(proved, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(proved, tmp_path / "copy"))


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


def digest_of(folder: Path) -> str:
    return json.loads((folder / "claims.json").read_text())["statement"]


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def halved(secret):
    """One step of a chain: a sealed value from a sealed value."""
    return fixed.encode(fixed.decode(secret, 6) * 0.5, 6, "int8")


def write(folder: Path, statement: zkjax.Statement, proof: zkjax.Proof) -> None:
    folder.mkdir(exist_ok=True)
    statement.save(folder / "statement.zks")
    proof.save(folder / "proof.zkp")
    (folder / "claims.json").write_text(proof.claims.to_json())


@pytest.fixture(scope="session")
def proved_chain(tmp_path_factory) -> Path:
    """Three steps, each from what the one before has made."""
    out = tmp_path_factory.mktemp("chain")
    value = zkjax.seal(np.array([96, -40], dtype=np.int8), openings=1)
    statement = zkjax.trace(halved, sealed_outputs=True)(value)
    for folder in (out / "step-1", out / "step-2", out):
        value, proof = zkjax.prove(halved, sealed_outputs=True, openings=1)(value)
        write(folder, statement, proof)
    return out


@pytest.fixture
def chain(proved_chain, tmp_path) -> Path:
    return Path(shutil.copytree(proved_chain, tmp_path / "chain"))


# Verify -------------------------------------------------------------------------------------


def test_accepts_a_chain(chain):
    result = run("verify", chain, "--statement", digest_of(chain))
    assert result.exit_code == 0, result.output
    assert "3 proofs" in result.stdout
    assert "output 0 of each step is input 0 of the next" in result.stdout
    assert run("verify", chain / "step-2").exit_code == 0


def test_a_chain_is_checked_in_every_step(chain):
    flip(chain / "step-1" / "proof.zkp", 2000)
    result = run("verify", chain)
    assert result.exit_code == 1 and "step 1 of 3" in result.stdout


def test_a_chain_is_checked_in_every_link(chain):
    first, second = chain / "step-1", chain / "step-2"
    first.rename(chain / "kept")
    second.rename(first)
    (chain / "kept").rename(second)
    result = run("verify", chain)
    assert result.exit_code == 1 and "step 2 does not go on from what step 1 has made" in (
        " ".join(result.stdout.split())
    )


def test_a_chain_is_of_one_program(chain, proved):
    for name in FILES:
        shutil.copy(proved / name, chain / "step-2" / name)
    result = run("verify", chain)
    assert result.exit_code == 1 and "steps 1 and 2 are of other programs" in result.stdout


def test_a_chain_has_all_of_its_steps(chain):
    shutil.rmtree(chain / "step-1")
    result = run("verify", chain)
    assert result.exit_code == 2 and "no step-1" in result.stderr


def test_accepts_a_folder_and_a_proof_file(proved):
    for target in (proved, proved / "proof.zkp"):
        result = run("verify", target)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("accepted")
        assert digest_of(proved) in result.stdout
        assert "private, input 0" in result.stdout
        commitment = zkjax.Claims.from_json((proved / "claims.json").read_text())
        assert str(commitment.input_commitments[0]) in result.stdout
        assert "public, 64 32 -16" in result.stdout
        assert "public, 3 -2 -16" in result.stdout  # ties of secret * x / 64 round up


@pytest.mark.parametrize("position", [20, 500, 2000, -1])
def test_rejects_a_flipped_bit(folder, position):
    flip(folder / "proof.zkp", position)
    result = run("verify", folder)
    assert result.exit_code == 1, result.output
    assert result.stdout.startswith("rejected")
    assert "check" in result.stdout


def test_rejects_a_proof_of_other_claims(folder):
    path = folder / "claims.json"
    claims = json.loads(path.read_text())
    claims["input_commitments"][0]["root"] = "00" * 32
    path.write_text(json.dumps(claims, indent=1))
    assert run("verify", folder).exit_code == 1


@pytest.mark.parametrize("keep", [0, 7, 16, 40, 3000])
def test_rejects_a_truncated_proof(folder, keep):
    path = folder / "proof.zkp"
    path.write_bytes(path.read_bytes()[:keep])
    result = run("verify", folder)
    assert result.exit_code == 1
    assert "proof header" in result.stdout or "proof length" in result.stdout


def test_rejects_trailing_bytes(folder):
    with (folder / "proof.zkp").open("ab") as file:
        file.write(b"\0")
    assert run("verify", folder).exit_code == 1


def test_expected_digest(proved):
    digest = digest_of(proved)
    assert run("verify", proved, "--statement", digest).exit_code == 0
    result = run("verify", proved, "--statement", "00" * 32)
    assert result.exit_code == 1
    assert digest in result.stdout
    assert run("verify", proved, "--statement", "xyz").exit_code == 2
    assert run("verify", proved, "--statement", digest[:-2]).exit_code == 2


def test_expected_context(proved):
    assert run("verify", proved, "--context", b"offer 7".hex()).exit_code == 0
    for other in (b"offer 8".hex(), ""):
        result = run("verify", proved, "--context", other)
        assert result.exit_code == 1
        assert "another context" in result.stdout
    result = run("verify", proved, "--context", "offer 7")
    assert result.exit_code == 2
    assert "--context" in result.stderr


def test_least_profile(proved):
    assert run("verify", proved, "--profile", "s100").exit_code == 0
    assert run("verify", proved, "--profile", "s128").exit_code == 1
    assert run("verify", proved, "--profile", "s1").exit_code == 2


def test_unknown_profile_in_the_claims(folder):
    path = folder / "claims.json"
    path.write_text(path.read_text().replace('"profile": "s100"', '"profile": "s7"', 1))
    assert run("verify", folder).exit_code == 1


@pytest.mark.parametrize("name", FILES)
def test_missing_file(folder, name):
    (folder / name).unlink()
    result = run("verify", folder)
    assert result.exit_code == 2
    assert name in result.stderr
    (folder / name).mkdir()
    assert run("verify", folder).exit_code == 2


def test_nothing_there(tmp_path):
    assert run("verify", tmp_path / "absent").exit_code == 2
    assert run("verify", tmp_path).exit_code == 2
    assert run("verify").exit_code == 2


GARBAGE = (b"", b"\xff\x00\x1b[31m", b"[]", b"{}", b"[" * 100_000, bytes(range(256)) * 8)


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("name, code", [("statement.zks", 2), ("claims.json", 2), ("proof.zkp", 1)])
def test_garbage(folder, name, code, data):
    (folder / name).write_bytes(data)
    result = run("verify", folder)
    assert result.exit_code == code
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize("name", ["statement.zks", "claims.json"])
def test_truncated_or_damaged_input(folder, name):
    path = folder / name
    data = path.read_bytes()
    for cut in (9, 47, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        assert run("verify", folder).exit_code == 2
    if name == "statement.zks":
        path.write_bytes(data)
        flip(path, 20)  # the stored digest
        assert run("verify", folder).exit_code == 2


def test_size_limit(folder, monkeypatch):
    monkeypatch.setattr(bundle, "MAX_BYTES", 1000)
    result = run("verify", folder)
    assert result.exit_code == 2
    assert "larger than" in result.stderr


def test_statement_that_unpacks_to_too_much(folder):
    path = folder / "statement.zks"
    data = bytearray(path.read_bytes())
    data[8:16] = (bundle.MAX_BYTES + 1).to_bytes(8, "little")
    path.write_bytes(data)
    result = run("verify", folder)
    assert result.exit_code == 2
    assert "unpacks" in result.stderr


def test_unexpected_error_is_a_sentence(folder, monkeypatch):
    def broken(statement, proof):
        raise AssertionError("something\nnobody foresaw")

    monkeypatch.setattr("zkjax.cli.main.verify_statement", broken)
    result = run("verify", folder)
    assert result.exit_code == 2
    assert "nobody foresaw" in result.stderr


# Without JAX --------------------------------------------------------------------------------


def run_without_jax(tmp_path, *args) -> subprocess.CompletedProcess:
    """The command in a process in which ``import jax`` fails."""
    for name in ("jax", "jaxlib"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('blocked')\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = "from zkjax.cli.main import app; app(prog_name='zkjax')"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_verify_and_inspect_without_jax(folder, tmp_path):
    (tmp_path / "block").mkdir()
    accepted = run_without_jax(tmp_path / "block", "verify", folder)
    assert accepted.returncode == 0, accepted.stderr
    inspected = run_without_jax(tmp_path / "block", "inspect", folder)
    assert inspected.returncode == 0, inspected.stderr
    flip(folder / "proof.zkp", 700)
    rejected = run_without_jax(tmp_path / "block", "verify", folder)
    assert rejected.returncode == 1, rejected.stderr
    assert rejected.stderr == ""


# Inspect ------------------------------------------------------------------------------------


def test_inspect(proved):
    result = run("inspect", proved)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("not verified")
    claims = json.loads((proved / "claims.json").read_text())
    for text in (
        digest_of(proved),
        "s100",
        "int8[3]",
        zkjax.Commitment.from_json(claims["input_commitments"][0]).digest.hex(),
        "multiply",
        "range8",
        "lookup challenge",
        "row combiner",
        "all together",
    ):
        assert text in result.stdout, text


def test_inspect_does_not_verify_but_wants_files_that_fit(folder):
    flip(folder / "proof.zkp", 500)
    assert run("inspect", folder).exit_code == 0
    (folder / "proof.zkp").write_bytes(b"not a proof")
    assert run("inspect", folder).exit_code == 2
    (folder / "claims.json").write_text("{}")
    assert run("inspect", folder).exit_code == 2


def test_inspect_reports_the_budget_that_verification_checks(proved):
    loaded = bundle.load_bundle(proved)
    from zkjax.verify import verify_statement

    budget = verify_statement(loaded.statement, loaded.proof())
    stdout = run("inspect", proved).stdout
    assert f"{budget.bits:.1f}" in stdout.splitlines()[-1]


# Demo ---------------------------------------------------------------------------------------


def test_demo_shows_the_report(monkeypatch, tmp_path):
    def run_demo(out, steps, profile, progress):
        progress("witness")
        assert (steps, profile) == (3, "s128")
        return {"phases": {"witness": 1.5}, "prove_seconds": 2.0, "proof_bytes": 1_500_000}

    _install_demo(monkeypatch, run_demo)
    result = run("demo", "--out", tmp_path / "out", "--steps", "3", "--profile", "s128")
    assert result.exit_code == 0, result.output
    assert "1.50 MB" in result.stdout
    assert "zkjax verify" in result.stdout


@pytest.mark.parametrize("missing", ["optax", "matplotlib"])
def test_demo_names_a_missing_package_before_any_work(monkeypatch, tmp_path, missing):
    def run_demo(*args):
        raise AssertionError("work was done")

    _install_demo(monkeypatch, run_demo)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == missing else find(name)
    )
    result = run("demo", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert f"this needs {missing}: pip install 'zkjax[models,plot]'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_demo_refuses_a_folder_that_is_used(monkeypatch, tmp_path):
    """Before any work, and nothing in it is touched."""
    (tmp_path / "out" / "private").mkdir(parents=True)
    (tmp_path / "out" / "private" / "base.sealed").write_bytes(b"of an earlier run")
    _install_demo(monkeypatch, lambda *args: pytest.fail("the demo ran"))
    result = run("demo", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "not an empty folder" in " ".join(result.stderr.split())
    kept = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in kept] == [b"of an earlier run"]


def test_run_demo_refuses_a_folder_that_is_used(monkeypatch, tmp_path):
    from zkjax.proofs import demo

    (tmp_path / "report.json").write_text("{}")
    monkeypatch.setattr(demo, "demo_inputs", lambda *args: pytest.fail("the demo ran"))
    with pytest.raises(FileExistsError, match="not an empty folder"):
        demo.run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.fixture
def made_demo(tmp_path):
    """``make demo`` with a stand-in for ``zkjax`` that writes a folder; gives what was printed."""
    command = tmp_path / "bin" / "zkjax"
    command.parent.mkdir()
    command.write_text(
        "#!/bin/sh\n"
        'echo "zkjax $*"\n'
        '[ "$1" != demo ] || { mkdir -p "$3" && touch "$3/proof.zkp"; }\n'
    )
    command.chmod(0o755)
    for name in ("pyproject.toml", "installed"):  # in this order: nothing is to be installed
        (tmp_path / name).touch()
    makefile = Path(__file__).parent.parent.parent / "Makefile"

    def make() -> str:
        options = [f"BIN={command.parent}", "INSTALLED=installed", "OUT=out"]
        arguments = ["make", "--no-print-directory", "-f", makefile, "demo", *options]
        done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    return make


def test_make_demo_can_be_run_again(made_demo, tmp_path):
    """The first run writes and verifies out; later ones the next free folder."""
    (tmp_path / "out").mkdir()  # empty: free
    for name in ("out", "out-2", "out-3"):
        text = made_demo()
        assert f"zkjax demo --out {name} --steps 1" in text and f"zkjax verify {name}\n" in text
        assert ("writing to" in text) == (name != "out")
        assert (tmp_path / name / "proof.zkp").exists()


def test_make_demo_installs_what_the_demo_needs(tmp_path):
    """Neither linters nor tests; an environment for development is used as it is."""
    makefile = Path(__file__).parent.parent.parent / "Makefile"

    def commands() -> str:
        arguments = ["make", "-n", "-f", makefile, "demo", f"VENV={tmp_path / 'environment'}"]
        cwd = makefile.parent
        return subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, check=True).stdout

    assert "-e '.[models,plot]'" in (text := commands()) and "dev]" not in text
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / ".installed").touch()
    assert "pip install" not in commands()


def _install_demo(monkeypatch, run_demo) -> None:
    import types

    module = types.ModuleType("zkjax.proofs.demo")
    module.run_demo = run_demo
    monkeypatch.setitem(sys.modules, "zkjax.proofs.demo", module)
