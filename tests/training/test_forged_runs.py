"""A provider that has the folder of a run in its hands, and wants a verifier to believe more than
it did. Every proof here is a good one of something; what is false is what they are put together to.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import zkjax
from zkjax.cli.main import app
from zkjax.errors import CheckpointError, StatementError, ValueRangeError, VerificationError
from zkjax.models.checkpoint import model_digest
from zkjax.proof import Claims, Commitment, Proof
from zkjax.proofs.calibration import Calibration
from zkjax.proofs.demo import demo_model
from zkjax.proofs.training.folder import RunFolder
from zkjax.proofs.training.problem import load_problem
from zkjax.proofs.training.settings import Facts, Settings
from zkjax.proofs.training.statement import StepStatement, start
from zkjax.proofs.training.verification import VerifiedRun, verify_run

# What is still accepted; the mark goes when it is refused.
OPENINGS = 12
OTHER_CLAIMS = "merkle path"  # what a proof ends at whose claims are not those it was made for
ROW = {"prompt": "a b ", "completion": "cd e"}  # eight predictions, some of them learned


class Provider:
    """Proves whatever it is asked to, and says of it what it likes."""

    def __init__(self, place: Path, fractions: dict[str, int] | None = None, **settings: Any):
        place.mkdir()
        (place / "data.jsonl").write_text(2 * (json.dumps(ROW) + "\n"))
        digest = model_digest(*demo_model())
        Calibration(digest, "", {}, fractions or {}).save(place / "formats.json")
        told = {"rank": 1, "targets": ["q_proj"], "length": 8, "steps": 2, "learning_rate": 0.01}
        told |= {"formats": str(place / "formats.json"), "sessions": 0} | settings
        self.settings = Settings("demo", str(place / "data.jsonl"), **told)
        self.problem = load_problem(self.settings, progress=lambda *_: None)
        self.facts = self.problem.facts
        self.told = StepStatement(self.facts, self.problem.run)
        self.first = self.problem.first_adapter()
        self.zero = self.told.init_state(self.first)
        self.known = len(jax.tree.leaves(self.problem.base)) if self.facts.public_base else 0
        self.place = place

    def seal(self, value: Any) -> Any:
        return zkjax.seal(value, openings=OPENINGS) if jax.tree.leaves(value) else value

    def start(self, adapter: Any, state: Any) -> Proof:
        return zkjax.prove(start, context=self.facts.context(0))(adapter, state)[1]

    @functools.cached_property
    def base(self) -> Any:
        base = self.problem.base
        return base if self.known else zkjax.seal(base, openings=OPENINGS, ranges=True)

    def step(
        self, k: int, adapter: Any, state: Any, *, told=None, base=None, batch=None, rates=None
    ) -> tuple[Any, Any, Proof]:
        """The proof of a step, counted from 1, and what it gives."""
        told = told or self.told
        run = zkjax.prove(
            told.step,
            sealed_outputs=told.sealed_outputs,
            openings=OPENINGS,
            context=self.facts.context(k),
        )
        batch = self.problem.batch(k - 1) if batch is None else batch
        batch = zkjax.seal(batch, openings=1)
        rates = told.hyperparameters(k - 1) if rates is None else rates
        (new, kept, _), proof = run(base or self.base, adapter, state, batch, rates)
        return new, kept, proof

    def publish(self, name: str, proofs: dict[str, Any]) -> Path:
        """A folder with these proofs, as an honest provider writes it."""
        folder = RunFolder.create(self.place / name, self.settings, True)
        problem = self.problem
        folder.keep_facts(problem.facts, problem.formats.encode(), problem.data_digest)
        for place, proof in proofs.items():
            parts = proof if isinstance(proof, list) else [proof]
            folder.keep_proofs(place, parts, self.known if place != "start" else 0, None)
        folder.close()
        return folder.path


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """The same run.json has the same statement: tracing it once for all tests saves a minute."""
    trace, kept = StepStatement.trace, {}

    def remembered(self, base, *args):
        leaves = [(x.shape, str(x.dtype)) for x in jax.tree.leaves(base)]
        key = self.facts.encode(), str(self.run), str(leaves)
        if key not in kept:
            kept[key] = trace(self, base, *args)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepStatement, "trace", remembered)
        yield


class Sgd:
    """An honest run of two steps, and what else its provider could prove."""

    def __init__(self, place: Path):
        self.provider = p = Provider(place, optimizer="sgd", schedule="linear")
        self.adapter = p.seal(p.first)
        self.start = p.start(self.adapter, p.zero)
        self.second, state, one = p.step(1, self.adapter, p.zero)
        *_, two = p.step(2, self.second, state)
        self.proofs = {"start": self.start, "step-1": one, "step-2": two}
        self.path = p.publish("honest", self.proofs)


class AdamW:
    def __init__(self, place: Path):
        self.provider = p = Provider(place, optimizer="adamw", learning_rate=0.001)
        self.adapter, self.state = p.seal(p.first), p.seal(p.zero)
        self.start = p.start(self.adapter, self.state)
        self.second, self.moments, self.one = p.step(1, self.adapter, self.state)
        self.path = p.publish("honest", {"start": self.start, "step-1": self.one})


@pytest.fixture(scope="module")
def sgd(tmp_path_factory) -> Sgd:
    return Sgd(tmp_path_factory.mktemp("sgd") / "run")


@pytest.fixture(scope="module")
def adamw(tmp_path_factory) -> AdamW:
    return AdamW(tmp_path_factory.mktemp("adamw") / "run")


@pytest.fixture
def copy(sgd, tmp_path_factory) -> Path:
    """The honest run's folder, to be tampered with."""
    path = tmp_path_factory.mktemp("copy") / "run"
    return Path(shutil.copytree(sgd.path, path))


def refused(folder: Path, check: str | set[str], base: str | None = "demo", **options: Any) -> None:
    with pytest.raises(VerificationError) as caught:
        verify_run(folder, base, **options)
    assert caught.value.check in ({check} if isinstance(check, str) else check), caught.value


def claims_of(folder: Path) -> Claims:
    return Claims.from_json((folder / "claims.json").read_bytes())


def retell(folder: Path, **changes: Any) -> None:
    """Change claims behind their proof's back."""
    told = dataclasses.replace(claims_of(folder), **changes)
    (folder / "claims.json").write_text(told.to_json())


def restate(folder: Path, **changes: Any) -> None:
    """Change run.json, and name the new run in the claims of all proofs."""
    told = facts_of(folder)
    new = dataclasses.replace(told, **changes)
    (folder / "run.json").write_bytes(new.encode())
    for place in (folder / "start", *folder.glob("step-*")):
        retell(place, context=new.context(int(place.name.partition("-")[2] or 0)))


def facts_of(folder: Path) -> Facts:
    return Facts.decode((folder / "run.json").read_bytes(), "run.json")


def test_honest_runs_verify(sgd, adamw):
    found: VerifiedRun = verify_run(sgd.path, "demo")
    assert found.steps == 2 and len(found.batches) == 2 and found.losses[0] > 0
    assert found.adapter == sgd.proofs["step-2"].claims.output_commitments[0]
    assert verify_run(adamw.path, "demo").steps == 1


# Steps put together otherwise --------------------------------------------------------------------


def test_steps_in_another_order(copy):
    (copy / "step-1").rename(copy / "x")
    (copy / "step-2").rename(copy / "step-1")
    (copy / "x").rename(copy / "step-2")
    refused(copy, "claims")


def test_a_step_twice(copy):
    shutil.rmtree(copy / "step-2")
    shutil.copytree(copy / "step-1", copy / "step-2")
    refused(copy, "claims")


def test_a_step_twice_by_a_link(copy):
    shutil.rmtree(copy / "step-2")
    (copy / "step-2").symlink_to("step-1", target_is_directory=True)
    refused(copy, "claims")


def test_a_step_twice_that_names_its_new_place(copy):
    shutil.rmtree(copy / "step-2")
    shutil.copytree(copy / "step-1", copy / "step-2")
    retell(copy / "step-2", context=facts_of(copy).context(2))
    refused(copy, OTHER_CLAIMS)


def test_the_first_step_left_out(copy):
    shutil.rmtree(copy / "step-1")
    refused(copy, "chain")


def test_the_second_step_as_the_first(copy):
    shutil.rmtree(copy / "step-1")
    (copy / "step-2").rename(copy / "step-1")
    refused(copy, "claims")


def test_more_steps_than_the_run_has(copy):
    shutil.copytree(copy / "step-2", copy / "step-3")
    refused(copy, "chain")


def test_a_file_in_a_step_s_place(copy):
    shutil.rmtree(copy / "step-2")
    (copy / "step-2").write_text("proved")
    refused(copy, "chain")


def test_no_start(copy):
    shutil.rmtree(copy / "start")
    with pytest.raises(StatementError, match="missing"):
        verify_run(copy, "demo")


# Other settings ----------------------------------------------------------------------------------


def test_another_run_than_expected(sgd):
    refused(sgd.path, "run", run_digest=bytes(32))


def test_less_security_than_asked_for(sgd):
    refused(sgd.path, "profile", least="s128")


def test_proofs_of_less_security_than_run_json_tells(sgd):
    p = sgd.provider
    facts = dataclasses.replace(p.facts, profile="s128")
    began = zkjax.prove(start, context=facts.context(0))(sgd.adapter, p.zero)[1]
    folder = p.publish("less", {"start": began})
    (folder / "run.json").write_bytes(facts.encode())
    refused(folder, "profile", least="s128")


def test_run_json_tells_of_another_learning_rate(copy):
    told = facts_of(copy)
    optimizer = dict(told.optimizer) | {"learning_rate": 0.125}
    (copy / "run.json").write_bytes(dataclasses.replace(told, optimizer=optimizer).encode())
    refused(copy, "claims")


def test_all_claims_name_the_run_with_another_learning_rate(copy):
    optimizer = dict(facts_of(copy).optimizer) | {"learning_rate": 0.125}
    restate(copy, optimizer=optimizer)
    refused(copy, OTHER_CLAIMS)


@pytest.mark.parametrize("changes", [{"alpha": 8.0}, {"batch": 2}])
def test_steps_of_another_computation_than_run_json_tells(sgd, copy, changes):
    """The start does not depend on it, and is proved again for the new run."""
    p = sgd.provider
    restate(copy, **changes)
    began = zkjax.prove(start, context=facts_of(copy).context(0))(sgd.adapter, p.zero)[1]
    began.save(copy / "start" / "proof.zkp")
    refused(copy, "statement")


def test_formats_changed(copy):
    data = (copy / "formats.json").read_bytes()
    (copy / "formats.json").write_bytes(data.replace(b"-4", b"-3"))
    refused(copy, "formats")


def test_a_step_of_another_learning_rate(sgd):
    p = sgd.provider
    rates = {"learning_rate": np.asarray(1, np.uint16)}
    *_, proof = p.step(1, sgd.adapter, p.zero, rates=rates)
    refused(p.publish("rate", {"start": sgd.start, "step-1": proof}), "hyperparameters")


def test_a_step_with_the_eps_of_a_later_one(adamw):
    p = adamw.provider
    rates = p.told.hyperparameters(0) | {"eps": p.told.hyperparameters(40)["eps"]}
    *_, proof = p.step(1, adamw.adapter, adamw.state, rates=rates)
    refused(p.publish("late", {"start": adamw.start, "step-1": proof}), "hyperparameters")


# Other values ------------------------------------------------------------------------------------


def test_claims_bring_a_base_model_of_their_own(copy):
    told = claims_of(copy / "step-1")
    retell(copy / "step-1", inputs=told.inputs | {0: np.zeros((256, 64), np.int16)})
    refused(copy, "claims")


def test_claims_bring_inputs_that_the_step_has_not(copy):
    told = claims_of(copy / "step-1")
    last = max(told.inputs)
    retell(copy / "step-1", inputs=told.inputs | {last + 1: told.inputs[last]})
    refused(copy, "claims")


def test_claims_tell_of_another_learning_rate(copy):
    told = claims_of(copy / "step-1")
    retell(copy / "step-1", inputs={i: x + np.uint16(1) for i, x in told.inputs.items()})
    refused(copy, OTHER_CLAIMS)


def test_claims_tell_of_another_loss(copy):
    told = claims_of(copy / "step-1")
    retell(copy / "step-1", outputs={i: x - np.int32(1) for i, x in told.outputs.items()})
    refused(copy, OTHER_CLAIMS)


def test_an_adapter_that_has_learned_something_already(sgd):
    p = sgd.provider
    warm = jax.tree.map(lambda x: x + np.int32(1), p.first)
    adapter = p.seal(warm)
    began = p.start(adapter, p.zero)
    refused(p.publish("warm", {"start": began}), "start")


def test_a_start_that_hides_what_was_learned(sgd):
    """The claims of a warm start say zero."""
    p = sgd.provider
    began = p.start(p.seal(jax.tree.map(lambda x: x + np.int32(1), p.first)), p.zero)
    folder = p.publish("hidden", {"start": began})
    outputs = {i: np.zeros_like(x) for i, x in began.claims.outputs.items()}
    retell(folder / "start", outputs=outputs)
    refused(folder, OTHER_CLAIMS)


def test_a_first_step_from_another_adapter(sgd):
    p = sgd.provider
    warm = p.seal(jax.tree.map(lambda x: x + np.int32(1), p.first))
    *_, proof = p.step(1, warm, p.zero)
    refused(p.publish("other", {"start": sgd.start, "step-1": proof}), "chain")


def test_a_commitment_put_in_the_place_of_another(copy):
    """The chain closes, and the proof is of another adapter."""
    first, *others = claims_of(copy / "step-2").input_commitments
    (adapter,) = claims_of(copy / "start").input_commitments
    assert adapter != first
    retell(copy / "step-2", input_commitments=[adapter, *others])
    refused(copy, OTHER_CLAIMS)


def test_an_optimizer_that_has_seen_something_already(adamw):
    p = adamw.provider
    began = p.start(adamw.adapter, p.seal(jax.tree.map(lambda x: x + x.dtype.type(1), p.zero)))
    refused(p.publish("moments", {"start": began}), "start")


def test_a_second_step_that_forgets_the_moments(adamw):
    p = adamw.provider
    *_, proof = p.step(2, adamw.second, adamw.state)
    proofs = {"start": adamw.start, "step-1": adamw.one, "step-2": proof}
    refused(p.publish("forgets", proofs), "chain")


def test_a_batch_of_which_nothing_is_learned(sgd):
    p = sgd.provider
    batch = p.problem.batch(0)
    batch = batch | {"learned": np.zeros_like(batch["learned"])}
    with pytest.raises(ValueRangeError):
        p.step(1, sgd.adapter, p.zero, batch=batch)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """A run whose steps have two proofs: its provider, a gradient with its proof, and a function
    that proves what the optimizer makes of an adapter and a gradient.
    """
    p = Provider(tmp_path_factory.mktemp("split") / "run", optimizer="sgd", split=True)
    adapter, context = p.seal(p.first), p.facts.context(1)
    options = {"openings": OPENINGS, "context": context}
    gradient_of = zkjax.prove(p.told.gradient_step, sealed_outputs=(True, False), **options)
    (gradient, _), one = gradient_of(p.base, adapter, zkjax.seal(p.problem.batch(0), openings=1))

    def update(adapter, gradient) -> Proof:
        run = zkjax.prove(p.told.update_step, sealed_outputs=(True, False), **options)
        return run(adapter, p.zero, gradient, p.told.hyperparameters(0))[1]

    return p, adapter, gradient, {"start": p.start(adapter, p.zero)}, one, update


def test_an_optimizer_that_has_another_gradient(split):
    p, adapter, gradient, began, one, update = split
    honest = p.publish("honest", began | {"step-1": [one, update(adapter, gradient)]})
    assert verify_run(honest, "demo").steps == 1
    none = p.seal(jax.tree.map(np.zeros_like, gradient.tree))
    refused(p.publish("none", began | {"step-1": [one, update(adapter, none)]}), "chain")


def test_an_optimizer_that_has_another_adapter(split):
    p, _, gradient, began, one, update = split
    warm = p.seal(jax.tree.map(lambda x: x + np.int32(1), p.first))
    refused(p.publish("warm", began | {"step-1": [one, update(warm, gradient)]}), "chain")


# The base model ----------------------------------------------------------------------------------


def test_another_public_base_model(copy):
    told = facts_of(copy)
    (copy / "run.json").write_bytes(dataclasses.replace(told, model="0" * 64).encode())
    with pytest.raises(CheckpointError, match="about the base model 0000"):
        verify_run(copy, "demo")


def test_another_configuration_of_the_public_base_model(copy):
    told = facts_of(copy)
    config = dict(told.config) | {"rope_theta": 500000.0}
    (copy / "run.json").write_bytes(dataclasses.replace(told, config=config).encode())
    with pytest.raises(CheckpointError):
        verify_run(copy, "demo")


def test_formats_that_make_another_model_of_the_public_one(tmp_path):
    """Every weight of a layer is below one half, and rounded to an integer."""
    p = Provider(tmp_path / "run", {"layers.q_proj": 0}, optimizer="sgd")
    assert not p.problem.base["layers"]["q_proj"].any()
    folder = p.publish("rounded", {"start": p.start(p.seal(p.first), p.zero)})
    with pytest.raises((StatementError, VerificationError)):
        verify_run(folder, "demo")


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """A run whose base model is private: its start and first step."""
    p = Provider(tmp_path_factory.mktemp("hidden") / "run", optimizer="sgd", public_base=False)
    adapter = p.seal(p.first)
    began = p.start(adapter, p.zero)
    second, state, one = p.step(1, adapter, p.zero)
    return p, {"start": began, "step-1": one}, second, state


def test_a_private_base_model_is_exchanged_between_steps(hidden):
    p, proofs, second, state = hidden
    assert verify_run(p.publish("honest", proofs)).base == p.base.commitment
    other = zkjax.seal(p.problem.base, openings=OPENINGS, ranges=True)
    *_, two = p.step(2, second, state, base=other)
    refused(p.publish("exchanged", proofs | {"step-2": two}), "chain", base=None)


def test_a_base_model_given_for_one_that_is_private(hidden):
    """It would not be looked at, and the verifier would believe it was."""
    p, proofs, *_ = hidden
    with pytest.raises(StatementError, match="private; leave out --base"):
        verify_run(p.publish("given", {"start": proofs["start"]}), "demo")


def test_a_private_base_model_of_another_shape(hidden):
    p, proofs, *_ = hidden
    folder = p.publish("shape", proofs)
    told = claims_of(folder / "step-1")
    base = told.input_commitments[0]
    shapes = ((base.shapes[0][0] + 1, base.shapes[0][1]), *base.shapes[1:])
    wider = Commitment(base.root, shapes, base.dtypes, base.openings, base.profile)
    retell(folder / "step-1", input_commitments=[wider, *told.input_commitments[1:]])
    refused(folder, "claims", base=None)


def test_a_private_base_model_without_its_range_proof(hidden):
    p, proofs, *_ = hidden
    folder = p.publish("unranged", proofs)
    told = claims_of(folder / "step-1")
    base = dataclasses.replace(told.input_commitments[0], range_proof=None)
    retell(folder / "step-1", input_commitments=[base, *told.input_commitments[1:]])
    refused(folder, "claims", base=None)


def test_a_private_base_model_has_no_name(hidden):
    """Nobody can compare it, so it is not said."""
    p, *_ = hidden
    facts = dataclasses.replace(p.facts, model="0" * 64)
    began = zkjax.prove(start, context=facts.context(0))(p.seal(p.first), p.zero)[1]
    folder = p.publish("named", {"start": began})
    (folder / "run.json").write_bytes(facts.encode())
    with pytest.raises((StatementError, VerificationError)):
        verify_run(folder)


# The command -------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [("--statement", "0" * 64), ("--context", "00")])
def test_what_is_asked_of_a_single_proof_is_asked_of_a_run(sgd, option):
    found = CliRunner().invoke(app, ["verify", str(sgd.path), "--base", "demo", *option])
    assert found.exit_code != 0
