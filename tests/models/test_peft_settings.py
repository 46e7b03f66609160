"""Settings of PEFT: what they name, and those that contradict each other or the weights."""

from __future__ import annotations

import json
import random
import re

import pytest

from models.decoders import BASES, GPT2, LLAMA
from zkjax.models.config import ModelConfig
from zkjax.models.patterns import Budget
from zkjax.models.peft import AdapterError
from zkjax.models.peft_modules import Choices, matched
from zkjax.models.peft_names import family_of, place
from zkjax.models.peft_settings import read_settings

PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["q_proj"]}


def settings(**changes):
    return read_settings(json.dumps(PLAIN | changes).encode())


def paths(config: ModelConfig) -> list[str]:
    layers = range(config.num_hidden_layers)
    return [config.module_path(i, t) for i in layers for t in config.targets]


REFUSED: dict[str, tuple[dict, str]] = {
    "a type as text": ({"use_rslora": "true"}, "use_rslora = 'true' is neither true nor false"),
    "a number as truth": ({"fan_in_fan_out": 1}, "fan_in_fan_out = 1 is neither"),
    "rank 0": ({"r": 0}, "r = 0 is no rank"),
    "a rank that is a truth": ({"r": True}, "r = True is no rank"),
    "a rank that is too large": ({"r": 4097}, "r = 4097 is no rank"),
    "rank 0 of a module": ({"rank_pattern": {"q_proj": 0}}, "rank_pattern, 'q_proj' = 0 is no"),
    "alpha 0": ({"lora_alpha": 0}, "lora_alpha = 0 is not a positive"),
    "alpha 2^27": ({"lora_alpha": 2**27}, "lora_alpha = 134217728 is not"),
    "a small alpha": ({"lora_alpha": 1e-13}, "lora_alpha = 1e-13 is not"),
    "an alpha of a module": ({"alpha_pattern": {"q_proj": -1}}, "alpha_pattern, 'q_proj' = -1"),
    "ranks as a list": ({"rank_pattern": [1]}, r"rank_pattern = \[1\] is no object"),
    "no type": ({"peft_type": None}, "peft_type = None is not plain LoRA"),
    "a type first of all": ({"peft_type": "OFT", "bias": "all"}, "peft_type = 'OFT'"),
    "nothing": ({"target_modules": []}, "target_modules names nothing"),
    "no text": ({"target_modules": ""}, "target_modules names nothing"),
    "numbers": ({"target_modules": ["q_proj", 3]}, r"\['q_proj', 3\] is no list of names"),
    "an object": ({"exclude_modules": {"a": 1}}, "exclude_modules = {'a': 1} is no list"),
    "layers as text": ({"layers_to_transform": "0"}, "layers_to_transform = '0' is no list"),
    "layers as truths": ({"layers_to_transform": [True]}, "is no list of layers"),
    "text and layers": (
        {"target_modules": "q_proj", "layers_to_transform": []},
        "takes no layers_to_transform when target_modules is a text",
    ),
    "a pattern alone": ({"layers_pattern": "layers"}, "layers_pattern needs layers_to_transform"),
    "a pattern of no text": (
        {"layers_pattern": [3], "layers_to_transform": 0},
        "layers_pattern = .3. is no list",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_are_none(name):
    changes, words = REFUSED[name]
    with pytest.raises(AdapterError, match=words):
        settings(**changes)


def test_settings_that_change_nothing():
    plain = settings()
    for name in ("use_dora", "some_setting", "bias", "task_type", "use_rslora", "rank_pattern"):
        assert settings(**{name: None}) == plain
    for value in (False, [], {}, ""):
        assert settings(some_setting=value) == plain
    for init in (True, False, "gaussian", "eva", "orthogonal", "mica", None):
        assert settings(init_lora_weights=init) == plain
    for task in ("CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION"):
        assert settings(task_type=task) == plain
    converted = {"corda_config": {"a": 1}, "lora_ga_config": {"b": 2}, "loftq_config": {"c": 3}}
    assert settings(init_lora_weights=True, **converted) == plain
    assert settings(r=4096).r == 4096 and settings(layers_to_transform=[]) == plain


MATCHED: dict[str, tuple[str, dict, set[tuple[int, str]]]] = {
    "an end": ("llama", {"target_modules": ["up_proj"]}, {(i, "up_proj") for i in range(3)}),
    "no part of a name": ("llama", {"target_modules": ["proj", "1.mlp.up_proj"]}, {(1, "up_proj")}),
    "both of a GPT-2": (
        "gpt2",
        {"target_modules": ["c_proj"], "layers_to_transform": 1},
        {(1, "attn_c_proj"), (1, "mlp_c_proj")},
    ),
    "one of them": (
        "gpt2",
        {"target_modules": ["c_proj"], "exclude_modules": ["mlp.c_proj"]},
        {(0, "attn_c_proj"), (1, "attn_c_proj")},
    ),
    "layers of another kind of list": (
        "gpt2",
        {"target_modules": ["c_fc"], "layers_to_transform": [0], "layers_pattern": ["x", "h"]},
        {(0, "c_fc")},
    ),
    "all but": (
        "llama",
        {"target_modules": "all-linear", "exclude_modules": r".*(mlp|[012]\.self).*(q|o|p|v)_proj"},
        {(i, t) for i in range(3) for t in ("k_proj", "gate_proj", "down_proj")},
    ),
    "an end outside, with layers": (
        "llama",
        {"target_modules": ["q_proj", "embed_tokens", "2"], "layers_to_transform": [2]},
        {(2, "q_proj")},
    ),
    "outside, but excluded": (
        "llama",
        {"target_modules": r".*(up_proj|_head|mlp)", "exclude_modules": ["lm_head", "mlp"]},
        {(i, "up_proj") for i in range(3)},
    ),
    "a whole name": (
        "llama",
        {"target_modules": ["model.layers.1.mlp.up_proj"], "layers_to_transform": [1]},
        {(1, "up_proj")},
    ),
}


@pytest.mark.parametrize("name", MATCHED)
def test_modules_that_settings_name(name):
    base, changes, expected = MATCHED[name]
    config = BASES[base]
    assert matched(settings(**changes), family_of(config), config.num_hidden_layers) == expected


UNMATCHED: dict[str, tuple[str, dict, str]] = {
    "the last layer": ("llama", {"target_modules": ["lm_head"]}, "names lm_head, which is no"),
    "a block": ("llama", {"target_modules": ["layers.1"]}, "names model.layers.1, which is no"),
    "the MLP": ("llama", {"target_modules": ["mlp"]}, "names model.layers.0.mlp, which is no"),
    "the MLP of a layer": (
        "llama",
        {"target_modules": ["mlp"], "layers_to_transform": [2]},
        "names model.layers.2.mlp, which is no",
    ),
    "a norm by its whole name": (
        "gpt2",
        {"target_modules": ["transformer.h.1.ln_1"], "layers_to_transform": [0]},
        "names transformer.h.1.ln_1, which is no",
    ),
    "the last layer by its whole name": (
        "gpt2",
        {"target_modules": ["c_fc", "lm_head"], "layers_to_transform": [0]},
        r"names lm_head, .* of a GPT-2; leave it out \(c_attn, attn.c_proj, c_fc, mlp.c_proj are",
    ),
    "two minds": (
        "llama",
        {"target_modules": ["model.layers.1.mlp.up_proj"], "layers_to_transform": [0]},
        "names model.layers.1.mlp.up_proj, whose layer",
    ),
    "another list of layers": (
        "llama",
        {"layers_to_transform": [0], "layers_pattern": "h"},
        "is no list of layers of a LLaMA; that is 'layers'",
    ),
    "a list of layers by expression": (
        "gpt2",
        {"layers_to_transform": [0], "layers_pattern": "h|x"},
        "'h|x' is an expression; give the name of the list of layers, 'h'",
    ),
    "an expression that is none": ("llama", {"target_modules": "(q_proj"}, "list the modules by"),
    "an exclusion that is none": ("llama", {"exclude_modules": "(q_proj"}, "exclude_modules has"),
}


@pytest.mark.parametrize("name", UNMATCHED)
def test_modules_that_are_refused(name):
    base, changes, words = UNMATCHED[name]
    config = BASES[base]
    with pytest.raises(AdapterError, match=words):
        matched(settings(**changes), family_of(config), config.num_hidden_layers)


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=lambda config: type(config).__name__)
def test_entries_of_patterns(config):
    """The first key that PEFT's expression finds: ``(.*\\.)?(key)$`` from the start of the path."""
    rng, here = random.Random(4), paths(config)
    keys = [end for path in here for end in (path, path.split(".", 2)[2], path.rsplit(".")[-1])]
    keys += (
        [f"^{k}" for k in keys] + [f"{k}$" for k in keys] + [k.replace(".", r"\.") for k in keys]
    )
    keys += ["q.proj", ".q_proj", "elf_attn.q_proj", "0.*", "c.fc", r"[qc]_\w+$", "(a|b)|c_fc", "x"]
    found = 0
    for _ in range(500):
        some = [rng.choice(keys) for _ in range(rng.randrange(1, 8))]
        choices = Choices(some, "rank_pattern", Budget(10**6))
        for path in rng.sample(here, 4):
            expected = next((k for k in some if re.match(rf"(.*\.)?({k})$", path)), None)
            assert choices.of(path) == expected, (some, path)
            found += expected is not None
    assert 300 < found < 1900


NAME = "base_model.model.model.layers.{}.self_attn.q_proj.lora_A.weight"
NAMES = {
    NAME.format("01"): "block$",
    NAME.format(10_000): "block$",
    NAME.format(0).replace("self_attn", "mlp"): "block$",
    NAME.format(0).replace("lora_A", "lora_C"): "block$",
    NAME.format(0).replace("model.layers", "transformer.h", 1): "block$",
    NAME.format(0) + "s": "block$",
    "base_model.model._orig_mod.model.layers.0.mlp.up_proj.lora_A.weight": "torch.compile",
    "_orig_mod.base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": "torch.compile",
    "module.base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": "in parallel",
    "base_model.model._fsdp_wrapped_module.layers.0.mlp.up_proj.lora_A.weight": "in parallel",
    NAME.format(0).replace("lora_A.weight", "lora_magnitude_vector"): "use_dora=False",
    NAME.format(0).replace("A.weight", "B.bias"): "lora_bias=False",
    "base_model.model.lm_head.modules_to_save.weight": "without modules_to_save",
    NAME.format(0).replace(".weight", ".my-adapter.weight"): "an adapter's name in it",
    "base_model.model.layers.0.mlp.up_proj.lora_A.weight": "without a head",
    "base_model.model.h.0.mlp.c_fc.lora_A.weight": "without a head",
    "base_model.model.model.embed_tokens.weight": "have to stay those of the base model",
    "base_model.model.transformer.wpe.lora_embedding_A": "have to stay those of the base model",
    "base_model.model.lm_head.lora_A.weight": "have to stay those of the base model",
    "model.layers.0.mlp.up_proj.lora_A.weight": "begin with base_model.model",
    "model.layers.0.mlp.up_proj.weight": "block$",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_none(name):
    with pytest.raises(AdapterError, match=f"is not the name .*{NAMES[name]}"):
        place(name)
