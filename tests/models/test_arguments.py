"""Every argument of ``zkjax.models``, times bad values (``arguments``)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import jax
import numpy as np
import pytest
from arguments import FOLDER, Calls, Example, new_path, saved
from flax import linen as nn
from flax import nnx

from zkjax.fixed import Format
from zkjax.models import lora
from zkjax.models.adapter import init_adapter
from zkjax.models.chat import ChatTemplate
from zkjax.models.checkpoint import load_model
from zkjax.models.config import Gpt2Config, LlamaConfig, LoraConfig, config_to_json
from zkjax.models.hyperparameters import OptimizerConfig, hyperparameters
from zkjax.models.lora import linen
from zkjax.models.numerics import FixedPoint, Float, Observed
from zkjax.models.packing import Examples, Order
from zkjax.models.peft import save_adapter
from zkjax.models.text import Tokenizer

MODULES = tuple(
    f"zkjax.models.{name}"
    for name in (
        "adapter", "chat", "checkpoint", "config", "data", "examples", "hyperparameters", "lora",
        "lora.linen", "numerics", "optimizers", "packing", "peft", "text",
    )
)  # fmt: skip
FIXTURES = Path(__file__).parent / "fixtures"
SMALL = LlamaConfig(
    vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2,
)  # fmt: skip
LORA = LoraConfig(r=2, alpha=4.0, targets=("q_proj",))
X = np.array([[0.5, -0.25]])
CHAT = [{"role": "user", "content": "two and two?"}, {"role": "assistant", "content": "four"}]


@cache
def directory() -> Path:
    """A model of Hugging Face, with a chat template."""
    with ZipFile(FIXTURES / "checkpoints.zip") as files:
        for name in ("config.json", "model.safetensors"):
            files.extract(f"plain/{name}", FOLDER)
    (FOLDER / "plain" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role + m.content }}{% endfor %}"
    )
    return FOLDER / "plain"


@cache
def lines() -> Path:
    path = FOLDER / "lines.jsonl"
    path.write_text(json.dumps({"prompt": "two and two? ", "completion": "four"}) + "\n")
    return path


@cache
def template() -> ChatTemplate:
    return ChatTemplate(directory())


def adapter() -> dict[str, Any]:
    return jax.tree.map(np.asarray, init_adapter(SMALL, LORA, jax.random.key(0)))


class Net(nnx.Module):
    def __init__(self):
        self.up = nnx.Linear(2, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.up(x)


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="up")(x)


RULES = [lora.LoraRule("up", r=2)]


@cache
def net() -> dict[str, Any]:
    model = Net()
    targets = lora.find(model, RULES)
    return {"model": model, "adapter": lora.init(targets, jax.random.key(0)), "targets": targets}


@cache
def variables() -> Any:
    return LinenNet().init(jax.random.key(0), X)


@cache
def linen_net() -> dict[str, Any]:
    targets = linen.find(LinenNet(), RULES, variables(), X)
    return {"adapter": lora.init(targets, jax.random.key(0)), "targets": targets}


def without(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in names}


def bound(**given: Any) -> Any:
    return linen.bind(LinenNet(), linen_net()["targets"])(**given)


EXAMPLES: dict[str, Example] = {
    "zkjax.models.adapter.init_adapter": lambda: {
        "config": SMALL, "lora": LORA, "key": jax.random.key(0)
    },
    "zkjax.models.adapter.lora_delta": lambda: {
        "x": X, "a": X.T, "b": X, "numerics": Float(), "scale": 1.5
    },
    "zkjax.models.adapter.warm_adapter": lambda: {
        "config": SMALL, "lora": LORA, "key": jax.random.key(0)
    },
    "zkjax.models.chat.ChatTemplate": lambda: {"folder": directory()},
    "zkjax.models.chat.ChatTemplate.assistant": lambda: {"self": template(), "messages": CHAT},
    "zkjax.models.chat.ChatTemplate.render": lambda: {"self": template(), "messages": CHAT},
    "zkjax.models.checkpoint.directory_digest": lambda: {"folder": directory()},
    "zkjax.models.checkpoint.load_model": lambda: {"folder": directory()},
    "zkjax.models.checkpoint.model_digest": lambda: dict(
        zip(("config", "parameters"), load_model(directory()), strict=True)
    ),
    "zkjax.models.checkpoint.read_config": lambda: {"folder": directory()},
    "zkjax.models.config.DynamicRope": lambda: {"max_position_embeddings": 64},
    "zkjax.models.config.Gpt2Config": lambda: {},
    "zkjax.models.config.config_from_json": lambda: {"told": config_to_json(LlamaConfig())},
    "zkjax.models.config.config_to_json": lambda: {"config": LlamaConfig()},
    "zkjax.models.config.LinearRope": lambda: {"factor": 2.0},
    "zkjax.models.hyperparameters.OptimizerConfig": lambda: {},
    "zkjax.models.hyperparameters.hyperparameters": lambda: {
        "config": OptimizerConfig("adamw"), "step": 3
    },
    "zkjax.models.config.LlamaConfig": lambda: {},
    "zkjax.models.config.LlamaConfig.has_bias": lambda: {
        "self": LlamaConfig(), "target": "q_proj"
    },
    "zkjax.models.config.ModelConfig.module_path": lambda: {
        "self": Gpt2Config(), "layer": 0, "target": "c_fc"
    },
    "zkjax.models.config.ModelConfig.projection_shape": lambda: {
        "self": LlamaConfig(), "target": "q_proj"
    },
    "zkjax.models.config.LoraConfig": lambda: {},
    "zkjax.models.config.RopeScaling": lambda: {},
    "zkjax.models.config.YarnRope": lambda: {
        "factor": 2.0, "original_max_position_embeddings": 64, "attention_factor": 1.0
    },
    "zkjax.models.data.batches": lambda: {
        "data": np.arange(9), "batch": 2, "length": 4, "seed": 0
    },
    "zkjax.models.data.library_sources": lambda: {"limit": 99},
    "zkjax.models.examples.read_documents": lambda: {"path": lines(), "tokenizer": Tokenizer()},
    "zkjax.models.lora.LoraRule": lambda: {"pattern": "up"},
    "zkjax.models.lora.LoraRule.matches": lambda: {"self": RULES[0], "path": "up"},
    "zkjax.models.lora.Target": lambda: vars(net()["targets"]["up"]).copy(),
    "zkjax.models.lora.attach": lambda: {**net(), "numerics": Float()},
    "zkjax.models.lora.find": lambda: {"model": Net(), "rules": RULES},
    "zkjax.models.lora.init": lambda: {"targets": net()["targets"], "key": jax.random.key(0)},
    "zkjax.models.lora.load": lambda: {
        "path": saved("net", lambda path: lora.save(path, **without(net(), "model"))),
        "targets": net()["targets"],
    },
    "zkjax.models.lora.merge": net,
    "zkjax.models.lora.save": lambda: {**without(net(), "model"), "path": new_path()},
    "zkjax.models.lora.linen.bind": lambda: {
        "module": LinenNet(), "targets": linen_net()["targets"], "numerics": FixedPoint()
    },
    "zkjax.models.lora.linen.find": lambda: {
        "module": LinenNet(), "rules": RULES, "variables": variables()
    },
    "zkjax.models.lora.linen.merge": lambda: {**linen_net(), "variables": variables()},
    "zkjax.models.numerics.FixedPoint": lambda: {},
    "zkjax.models.numerics.FixedPoint.round": lambda: {
        "self": FixedPoint(), "x": X, "site": "here"
    },
    "zkjax.models.numerics.FixedPoint.site": lambda: {"self": FixedPoint(), "name": "here"},
    "zkjax.models.numerics.Observed.round": lambda: {"self": Observed(), "x": X, "site": "here"},
    "zkjax.models.optimizers.clip_by_global_norm": lambda: {
        "max_norm": 1.0, "gradient": Format(24, 29), "norm": Format(16, 21)
    },
    "zkjax.models.optimizers.decode_hyperparameters": lambda: {
        "config": OptimizerConfig(), "numerics": FixedPoint(),
        "stored": hyperparameters(OptimizerConfig(), 0),
    },
    "zkjax.models.optimizers.float_optimizer": lambda: {"config": OptimizerConfig()},
    "zkjax.models.optimizers.make_optimizer": lambda: {
        "config": OptimizerConfig(), "numerics": FixedPoint()
    },
    "zkjax.models.optimizers.scale_by_adam": lambda: {
        "b1": 0.9, "b2": 0.99, "gradient": Format(24, 29), "ratio": Format(14, 22)
    },
    "zkjax.models.optimizers.scale_by_learning_rate": lambda: {},
    "zkjax.models.optimizers.trace": lambda: {"decay": 0.5, "form": Format(24, 32)},
    "zkjax.models.packing.Examples": lambda: {
        "tokens": np.zeros((1, 3)), "labels": np.zeros((1, 2))
    },
    "zkjax.models.packing.Examples.take": lambda: {
        "self": Examples(np.zeros((2, 3)), np.zeros((2, 2))), "rows": np.array([0])
    },
    "zkjax.models.packing.Order": lambda: {"count": 5, "batch": 2},
    "zkjax.models.packing.Order.rows": lambda: {"self": Order(5, 2), "step": 0},
    "zkjax.models.packing.read_examples": lambda: {
        "path": lines(), "tokenizer": Tokenizer(), "length": 32
    },
    "zkjax.models.peft.LoadedAdapter": lambda: {
        "weights": adapter(), "layers": (0, 1), "scale": 2.0
    },
    "zkjax.models.peft.load_adapter": lambda: {
        "folder": saved("peft", lambda path: save_adapter(path, adapter(), LORA, "base")),
        "base": SMALL,
    },
    "zkjax.models.peft.save_adapter": lambda: {
        "folder": new_path(), "adapter": adapter(), "lora": LORA, "base_name": "base"
    },
    "zkjax.models.peft.weight_name": lambda: {"layer": 0, "target": "q_proj", "part": "A"},
    "zkjax.models.text.Tokenizer": lambda: {},
    "zkjax.models.text.Tokenizer.encode": lambda: {"self": Tokenizer(), "text": "two and two"},
    "zkjax.models.text.read_text": lambda: {"source": str(lines())},
}  # fmt: skip
MADE: dict[str, Any] = {
    "zkjax.models.lora.linen.bind(...)": (
        bound,
        lambda: {"variables": variables(), "adapter": linen_net()["adapter"], "x": X},
    ),
}
# Methods that the models here call, in which a number is checked by zkjax.fixed.
INTERNAL = {
    f"zkjax.models.numerics.{kind}.{method}"
    for kind in ("Float", "Observed", "FixedPoint")
    for method in vars(FixedPoint)
    if (kind, method)
    not in {("FixedPoint", "round"), ("FixedPoint", "site"), ("Observed", "round")}
}


def call(name: str, fn: Any, arguments: dict[str, Any]) -> Any:
    if name == "zkjax.models.lora.linen.find":
        return fn(*arguments.values(), X)
    made = fn(**arguments)
    return next(iter(made)) if name.endswith(("batches", "read_documents")) else made


CALLS = Calls(MODULES, EXAMPLES, MADE, INTERNAL, call)


def test_every_signature_has_a_good_call():
    CALLS.require_examples()


@pytest.mark.parametrize("name", CALLS.all)
def test_the_good_call_is_good(name):
    CALLS.call(name)


@pytest.mark.parametrize(("name", "parameter"), CALLS.cases)
def test_bad_values_are_refused_by_a_sentence(name, parameter):
    CALLS.require_refusals(name, parameter)
