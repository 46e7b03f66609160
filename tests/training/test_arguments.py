"""Every argument of ``zkjax.proofs.finetune`` and of runs, times bad values (``arguments``)."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from arguments import FOLDER, Calls, Example, new_path, saved

import zkjax
from zkjax.fixed.sites import Site
from zkjax.models.adapter import init_adapter
from zkjax.models.config import LlamaConfig, LoraConfig, config_to_json
from zkjax.models.hyperparameters import OptimizerConfig
from zkjax.models.registry import parameter_shapes
from zkjax.proofs.calibration import Calibration
from zkjax.proofs.finetune import (
    FineTuning,
    init_state,
    make_hyperparameters,
    make_step,
    store_adapter,
    store_base,
    store_rate,
)
from zkjax.proofs.training.settings import Facts, Settings

MODULES = tuple(
    f"zkjax.proofs.{name}"
    for name in ("finetune", "calibration", "training.settings", "training.loop",
                 "training.verification")
)  # fmt: skip
ADAMW = OptimizerConfig("adamw", total_steps=2)
RUN = FineTuning(
    LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1,
    ),
    LoraConfig(r=1, alpha=1.0, targets=("q_proj",)),
)  # fmt: skip
TOKENS = np.array([[1, 2, 3]], np.int32)


@cache
def parameters() -> Any:
    return jax.tree.map(lambda x: np.zeros(x.shape, np.float32), parameter_shapes(RUN.model))


@cache
def base() -> Any:
    return store_base(parameters())


@cache
def adapter() -> Any:
    return store_adapter(init_adapter(RUN.model, RUN.lora, jax.random.key(0)))


@cache
def formats() -> Calibration:
    return Calibration("00" * 32, "00" * 32, {"scores": Site()})


def settings() -> Settings:
    """Of a run that cannot begin, so that nothing is computed: ``test_runs`` has those that can."""
    return Settings(base=str(FOLDER / "no model"), data="demo")


@cache
def run_folder() -> Path:
    """What is public of a run, without a proof."""
    folder, data = FOLDER / "run", formats().encode()
    folder.mkdir()
    facts = Facts(
        model="00" * 32, config=config_to_json(RUN.model),
        formats=hashlib.blake2s(data).hexdigest(),
        r=1, alpha=1.0, targets=["q_proj"], optimizer=vars(ADAMW), steps=2, batch=1, length=2,
        masked=False, public_base=True, public_data=True, split=False, profile="s100",
    )  # fmt: skip
    (folder / "run.json").write_bytes(facts.encode())
    (folder / "formats.json").write_bytes(data)
    return folder


def toml(path: Path) -> None:
    path.write_text('base = "demo"\ndata = "documentation"\n')


EXAMPLES: dict[str, Example] = {
    "zkjax.proofs.calibration.Calibration": lambda: vars(formats()).copy(),
    "zkjax.proofs.calibration.Calibration.apply": lambda: {"self": formats(), "run": RUN},
    "zkjax.proofs.calibration.Calibration.decode": lambda: {"data": formats().encode()},
    "zkjax.proofs.calibration.Calibration.load": lambda: {"path": saved("formats", formats().save)},
    "zkjax.proofs.calibration.Calibration.require_model": lambda: {
        "self": formats(), "digest": "00" * 32
    },
    "zkjax.proofs.calibration.Calibration.save": lambda: {"self": formats(), "path": new_path()},
    "zkjax.proofs.calibration.calibrate": lambda: {
        "run": RUN, "parameters": parameters(), "adapter": adapter(), "batches": []
    },
    "zkjax.proofs.finetune.FineTuning": lambda: {},
    "zkjax.proofs.finetune.init_state": lambda: {
        "run": RUN, "config": ADAMW, "adapter": adapter()
    },
    "zkjax.proofs.finetune.load_adapter": lambda: {"stored": adapter()},
    "zkjax.proofs.finetune.make_hyperparameters": lambda: {"run": RUN, "config": ADAMW},
    "zkjax.proofs.finetune.make_step": lambda: {"run": RUN},
    "zkjax.proofs.finetune.store_adapter": lambda: {
        "adapter": init_adapter(RUN.model, RUN.lora, jax.random.key(0))
    },
    "zkjax.proofs.finetune.store_base": lambda: {"parameters": parameters()},
    "zkjax.proofs.finetune.store_rate": lambda: {"learning_rate": 0.1},
    "zkjax.proofs.training.loop.check_run": lambda: {"settings": settings()},
    "zkjax.proofs.training.loop.train": lambda: {"settings": None, "out": new_path()},
    "zkjax.proofs.training.settings.Settings": lambda: {"base": "demo", "data": "documentation"},
    "zkjax.proofs.training.settings.make_settings": lambda: {
        "told": {"base": "demo", "data": "documentation"}, "flags": {}
    },
    "zkjax.proofs.training.settings.read_settings": lambda: {
        "path": saved("run.toml", toml), "flags": {}
    },
    "zkjax.proofs.training.verification.verify_run": lambda: {
        "folder": run_folder(), "base": "demo"
    },
}  # fmt: skip
MADE: dict[str, Any] = {
    "zkjax.proofs.finetune.make_hyperparameters(...)": (
        lambda step: make_hyperparameters(RUN, ADAMW)(step),
        lambda: {"step": 0},
    ),
    "zkjax.proofs.finetune.make_step(run)": (
        lambda base, adapter, tokens, learning_rate: zkjax.trace(make_step(RUN))(
            base, adapter, tokens, learning_rate
        ),
        lambda: {
            "base": base(), "adapter": adapter(), "tokens": TOKENS, "learning_rate": store_rate(0.1)
        },
    ),
    "zkjax.proofs.finetune.make_step(run, optimizer)": (
        lambda state, hyper: zkjax.trace(make_step(RUN, ADAMW))(
            base(), adapter(), state, TOKENS, hyper
        ),
        lambda: {
            "state": init_state(RUN, ADAMW, adapter()), "hyper": make_hyperparameters(RUN, ADAMW)(0)
        },
    ),
}  # fmt: skip
INTERNAL = {"zkjax.proofs.finetune.FineTuning.fraction_of"}  # it takes a path of JAX
# What is right in all arguments and has nothing to compute with, so that no bad one costs anything.
UNFIT = {
    "zkjax.proofs.calibration.calibrate",
    "zkjax.proofs.training.loop.check_run",
    "zkjax.proofs.training.loop.train",
    "zkjax.proofs.training.verification.verify_run",
}
CALLS = Calls(MODULES, EXAMPLES, MADE, INTERNAL)


def test_every_signature_has_a_good_call():
    CALLS.require_examples()


@pytest.mark.parametrize("name", [name for name in CALLS.all if name not in UNFIT])
def test_the_good_call_is_good(name):
    CALLS.call(name)


@pytest.mark.parametrize(("name", "parameter"), CALLS.cases)
def test_bad_values_are_refused_by_a_sentence(name, parameter):
    CALLS.require_refusals(name, parameter)
