"""Runs on disk: they verify, go on where they stopped, and refuse what is not theirs."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from training.common import RUNS, proved, settings
from zkjax.errors import CheckpointError, OptionError, ZkjaxError
from zkjax.models.checkpoint import model_digest
from zkjax.proofs.demo import demo_model
from zkjax.proofs.training.folder import RunFolder
from zkjax.proofs.training.loop import check_run, train
from zkjax.proofs.training.problem import load_problem
from zkjax.proofs.training.report import write_report
from zkjax.proofs.training.settings import Facts, make_settings, read_settings
from zkjax.proofs.training.statement import StepStatement
from zkjax.proofs.training.verification import verify_run
from zkjax.sealed import Sealed


def base_of(name: str) -> str | None:
    return None if name == "masked" else "demo"


def adapter_file(folder):
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("name", RUNS)
def test_a_run_verifies(name):
    folder = proved(name)
    seen = []
    run = verify_run(folder, base_of(name), progress=lambda done, of: seen.append((done, of)))
    assert run.steps == 2 and seen == [(1, 3), (2, 3), (3, 3)]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert run.losses == [m["loss"] for m in metrics]
    assert (run.base is None) == (name != "masked")
    assert len(run.batches) == (0 if name == "adamw" else 2)
    assert run.soundness_bits >= 100
    last = Sealed.load(folder / "private" / "state-2" / "adapter.sealed")
    assert last.commitment == run.adapter and last.remaining >= 1
    kept = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert len(kept) == 8 and any(np.abs(v).max() > 0 for k, v in kept.items() if "lora_B" in k)


@pytest.mark.parametrize("name", ["masked", pytest.param("split", marks=pytest.mark.slow)])
def test_without_proofs_it_is_the_same_training(name, tmp_path):
    """The same losses and the same adapter; float32 beside it."""
    folder = RunFolder(proved(name))
    told = folder.settings
    folder.close()
    found = train(told, tmp_path / "run", proof=False, report=write_report)
    assert adapter_file(tmp_path / "run") == adapter_file(proved(name))
    assert found["losses"] == [m["loss"] for m in folder.metrics()]
    assert found["largest_difference"] < 0.01
    for file in ("report.json", "loss.png", "metrics.jsonl"):
        assert (tmp_path / "run" / file).stat().st_size > 50


def test_a_run_goes_on_where_it_stopped(tmp_path):
    """From every place at which a process may have ended, to the same adapter."""
    whole, out = proved("sgd"), tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "step-2")
    shutil.rmtree(out / "adapter")
    (out / ".new-step-2").mkdir()
    (out / "private" / ".new-state-2").mkdir()
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert verify_run(out, "demo").steps == 1
    found = train(None, out)
    assert adapter_file(out) == adapter_file(whole) and len(found["losses"]) == 2
    assert not list(out.glob(".new-*")) and not list((out / "private").glob(".new-*"))
    assert verify_run(out, "demo").steps == 2
    train(None, out)  # of a run that is complete: nothing happens
    assert verify_run(out, "demo").steps == 2


def test_a_plain_run_goes_on_too(tmp_path):
    told = settings(steps=3)
    train(told, tmp_path / "whole", proof=False)

    class Killed(BaseException):
        pass

    def dies(stage):
        if str(stage).startswith("step 3"):
            raise Killed

    with pytest.raises(Killed):
        train(told, tmp_path / "run", proof=False, progress=dies)
    found = train(None, tmp_path / "run")
    assert not found["proved"] and len(found["losses"]) == 3
    assert adapter_file(tmp_path / "run") == adapter_file(tmp_path / "whole")


def test_two_processes_on_one_run(tmp_path):
    shutil.copytree(proved("sgd"), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(OptionError, match="another process"):
        train(None, tmp_path / "run")
    folder.close()
    with pytest.raises(OptionError, match="holds no run"):
        train(None, tmp_path)


def test_a_run_whose_data_have_changed_does_not_go_on(tmp_path):
    out, data = tmp_path / "run", tmp_path / "text.txt"
    data.write_text("something else, long enough for a row or two of eight tokens")
    train(settings(data=str(data), optimizer="sgd", steps=1), out, proof=False)
    data.write_text("something new,, long enough for a row or two of eight tokens")
    with pytest.raises(OptionError, match="is of another run"):
        train(None, out)


def test_a_dry_run_says_what_a_step_costs():
    (told,) = check_run(settings(optimizer="sgd"))
    assert told.proof_bytes > 10**5 and told.prove_seconds > 0


def test_micro_batches_are_one_batch():
    """Two micro-batches give the mean of their gradients; all of their rows are used."""
    problem = load_problem(settings(gradient_accumulation_steps=2), progress=lambda *_: None)
    tokens = problem.batch(0)
    assert tokens.shape == (2, 1, 9)
    assert np.array_equal(tokens.reshape(2, 9), load_problem(
        settings(batch=2), progress=lambda *_: None).batch(0))  # fmt: skip
    told = StepStatement(problem.facts, problem.run)
    assert told.example_batch().shape == tokens.shape


WRONG = {
    "no such base": ({"base": "nowhere"}, CheckpointError, "no model directory"),
    "no such data": ({"data": "nowhere.txt"}, ZkjaxError, "nowhere.txt"),
    "a target of another model": ({"targets": ["c_attn"]}, OptionError, "no linear layer"),
    "formats of nothing": ({"formats": "nowhere.json"}, ZkjaxError, "nowhere.json"),
}
SETTINGS = {
    "a rate of 10": ({"learning_rate": 10.0}, "learning_rate = 10"),
    "a rate of 0": ({"learning_rate": 0.0}, "learning_rate = 0"),
    "no steps": ({"steps": 0}, "steps = 0"),
    "an unknown target": ({"targets": "q_proj,k"}, "unknown LoRA targets"),
    "an unknown optimizer": ({"optimizer": "lion"}, "optimizer = 'lion'"),
    "momentum of adamw": ({"momentum": 0.9}, "adamw has b1"),
    "a text for a number": ({"rank": "8"}, "rank = '8'"),
    "warm-up beyond the run": ({"schedule": "cosine", "warmup_steps": 99}, "warmup_steps = 99"),
    "a misspelt key": ({"learning_rte": 0.1}, "learning_rte is no setting"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused_before_any_work(name, tmp_path):
    changes, kind, what = WRONG[name]
    with pytest.raises(kind, match=what):
        train(settings(**changes), tmp_path / "run", proof=False)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_are_refused(name):
    changes, what = SETTINGS[name]
    with pytest.raises(OptionError, match=what):
        make_settings({"base": "demo", "data": "x", **changes}, {})


def test_a_file_of_settings(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'base = "demo"\ndata = "notes.txt"\ntargets = "all"\nrank = 4\nlearning_rate = 1e-4\n'
    )
    told = read_settings(path, {"rank": 2, "steps": None})
    assert (told.rank, told.targets, told.learning_rate) == (2, ["all"], 1e-4)
    assert len(told.lora.targets) == 7
    for text, what in (
        ("base = ", "no TOML"),
        ('base = "demo"', "data is missing"),
        ("x = 1", "x"),
    ):
        path.write_text(text)
        with pytest.raises(OptionError, match=what):
            read_settings(path, {})


def test_facts_are_read_strictly():
    good = (proved("sgd") / "run.json").read_bytes()
    facts = Facts.decode(good, "run.json")
    assert facts.encode() == good and facts.model == model_digest(*demo_model())
    raw = json.loads(good)
    assert (json.dumps(raw, indent=1) + "\n").encode() == good
    for wrong in (
        {**raw, "more": 1},
        {k: v for k, v in raw.items() if k != "batch"},
        {**raw, "batch": 0},
        {**raw, "version": 2},
        {**raw, "optimizer": {"name": "lion"}},
        {**raw, "config": {"kind": "LoraConfig"}},
        {**raw, "targets": ["c"]},
        [raw],
    ):
        with pytest.raises(ZkjaxError):
            Facts.decode((json.dumps(wrong, indent=1) + "\n").encode(), "run.json")
    with pytest.raises(ZkjaxError, match="canonical"):
        Facts.decode(json.dumps(raw).encode(), "run.json")


def test_private_runs_tell_no_digest_of_what_is_private():
    folder = proved("masked")
    facts = Facts.decode((folder / "run.json").read_bytes(), "run.json")
    formats = json.loads((folder / "formats.json").read_text())
    assert facts.model is None and formats["model"] == formats["data"] == ""
    with pytest.raises(ZkjaxError, match="is private"):
        verify_run(folder, "demo")
    assert json.loads((proved("sgd") / "formats.json").read_text())["data"] == ""
    assert json.loads((proved("adamw") / "formats.json").read_text())["data"] != ""


def test_a_gpt2_can_be_fine_tuned(tmp_path):
    """Formats are found in which its step can be proved, and tracing it is part of loading it."""
    bundle = Path(__file__).parent.parent / "models" / "fixtures" / "checkpoints.zip"
    zipfile.ZipFile(bundle).extractall(tmp_path)
    data = tmp_path / "text.txt"
    data.write_bytes(np.random.default_rng(0).integers(32, 40, 200).astype(np.uint8).tobytes())
    told = settings(base=str(tmp_path / "gpt2"), data=str(data), targets=["c_attn", "mlp_c_proj"])
    problem = load_problem(told, progress=lambda *_: None)
    assert problem.facts.model_config.targets[0] == "c_attn"
    assert set(problem.first_adapter()) == {"c_attn", "mlp_c_proj"}
