"""The linear layers that an adapter of PEFT can adapt, and the names of its weights.

A module is (layer, target). Its path in the base model is ``model.layers.0.self_attn.q_proj``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from zkjax.errors import OptionError
from zkjax.models.config import Gpt2Config, LlamaConfig, ModelConfig
from zkjax.models.peft_settings import AdapterError, short

MAX_LAYERS = 10_000
WEIGHT = re.compile(
    r"base_model\.model\.(?P<block>model\.layers|transformer\.h)\."
    r"(?P<layer>0|[1-9][0-9]{0,3})\.(?P<path>[a-z_.]{1,40})\.lora_(?P<part>[AB])\.weight"
)

Module = tuple[int, str]


class Family(NamedTuple):
    """The modules that base models of one kind have.

    Attributes:
      outer: those outside the blocks.
      inner: those of a block that are no linear layer.
    """

    name: str
    config: type[ModelConfig]
    outer: tuple[str, ...]
    inner: tuple[str, ...]

    def path(self, layer: int, target: str) -> str:
        """The path of a module in the base model."""
        return f"{self.config.block.format(layer)}.{self.config.paths[target]}"

    def weight(self, layer: int, target: str, part: str) -> str:
        """PEFT's name of a LoRA matrix; ``part`` is "A" or "B"."""
        return f"base_model.model.{self.path(layer, target)}.lora_{part}.weight"

    def suffix(self, target: str) -> str:
        """The shortest name by which PEFT finds a target in all layers, and no other."""
        parts = self.config.paths[target].split(".")
        paths = self.config.paths.values()
        ends = (".".join(parts[i:]) for i in reversed(range(len(parts))))
        return next(e for e in ends if sum(f".{p}".endswith(f".{e}") for p in paths) == 1)


LLAMA = Family(
    "LLaMA",
    LlamaConfig,
    ("model", "model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head"),
    ("self_attn", "mlp", "mlp.act_fn", "input_layernorm", "post_attention_layernorm"),
)
GPT2 = Family(
    "GPT-2",
    Gpt2Config,
    (*(f"transformer{n}" for n in ("", ".wte", ".wpe", ".drop", ".h", ".ln_f")), "lm_head"),
    (
        *("ln_1", "ln_2", "attn", "attn.attn_dropout", "attn.resid_dropout"),
        *("mlp", "mlp.act", "mlp.dropout"),
    ),
)
FAMILIES = (LLAMA, GPT2)


def family_of(config: ModelConfig) -> Family:
    """The family of a base model. OptionError if adapters of its kind are not read."""
    for family in FAMILIES:
        if isinstance(config, family.config):
            return family
    names = " or a ".join(f.name for f in FAMILIES)
    raise OptionError(f"base is a {type(config).__name__}; adapters of a {names} are read")


def place(name: str) -> tuple[Family, Module, str]:
    """Family, module and "a" or "b" of a weight, by the one name that it has.

    Raises:
      AdapterError: it is not the name of a LoRA matrix of a block.
    """
    match = WEIGHT.fullmatch(name)
    for family in FAMILIES if match else ():
        for target, path in family.config.paths.items():
            layer = int(match["layer"])
            if match["path"] == path and name == family.weight(layer, target, match["part"]):
                return family, (layer, target), match["part"].lower()
    raise AdapterError(
        f"{short(name, 120)} is not the name of a LoRA weight of a LLaMA's or GPT-2's block"
        f"{_told_by(name)}"
    )


def _told_by(name: str) -> str:
    """What an unknown name says of how the file was made."""
    parts = name.split(".")
    inner = name.removeprefix("base_model.model.")
    if "_orig_mod" in parts:
        return ": the model was under torch.compile; save it unwrapped (model._orig_mod)"
    if "module" in parts or "_fsdp_wrapped_module" in parts:
        return ": the model was wrapped for training in parallel; save it unwrapped"
    if "lora_magnitude_vector" in parts:
        return ": it is of DoRA; retrain with use_dora=False"
    if name.endswith("lora_B.bias"):
        return ": it is a bias; retrain with lora_bias=False"
    if "modules_to_save" in parts:
        return ": it replaces a module of the base model; retrain without modules_to_save"
    if re.search(r"\.lora_[AB]\.[A-Za-z0-9_-]+\.weight$", name):
        return ": it has an adapter's name in it; save with PEFT's save_pretrained"
    if re.match(r"(layers|h)\.[0-9]", inner):
        return ": it is of a model without a head; train the model for causal language modelling"
    if {"embed_tokens", "lm_head", "wte", "wpe"} & set(parts):
        return (
            ": embeddings and the last layer have to stay those of the base model; leave them out "
            "of target_modules, and save with save_embedding_layers=False"
        )
    if inner == name and ".lora_" in name:
        return ": PEFT's begin with base_model.model; save with PEFT's save_pretrained"
    return ""
