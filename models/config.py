"""Model and adapter hyper-parameters, with the names of Hugging Face's LlamaConfig where they
exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, get_type_hints

from zkjax._arguments import Between, require
from zkjax.errors import OptionError

__all__ = ["INPUT_GROUPS", "TARGETS", "LlamaConfig", "LoraConfig", "RopeScaling"]

Size = Annotated[int, Between(1, 1 << 24)]
Positive = Annotated[float, Between(1e-12, 1e12)]

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# Linear layers of a block by the activation they read: one exchange with an adapter's owner each.
INPUT_GROUPS = {
    "attention": ("q_proj", "k_proj", "v_proj"),
    "heads": ("o_proj",),
    "mlp": ("gate_proj", "up_proj"),
    "inner": ("down_proj",),
}


class Checked:
    """A dataclass whose fields are of the types that it names."""

    def __post_init__(self):
        hints = get_type_hints(type(self), include_extras=True)
        for field in fields(self):  # type: ignore[arg-type]
            what = f"{type(self).__name__}: {field.name}"
            require(getattr(self, field.name), hints[field.name], what)


@dataclass(frozen=True)
class RopeScaling(Checked):
    """Llama-3's frequency scaling: slow frequencies are divided by ``factor``, smoothly."""

    factor: Positive = 8.0
    low_freq_factor: Positive = 1.0
    high_freq_factor: Positive = 4.0
    original_max_position_embeddings: Size = 8192

    def __post_init__(self):
        super().__post_init__()
        if self.low_freq_factor >= self.high_freq_factor:
            raise OptionError("RopeScaling: low_freq_factor is below high_freq_factor")


@dataclass(frozen=True)
class LlamaConfig(Checked):
    """A LLaMA: ``num_key_value_heads < num_attention_heads`` is grouped-query attention."""

    vocab_size: Size = 256
    hidden_size: Size = 64
    intermediate_size: Size = 128
    num_hidden_layers: Size = 2
    num_attention_heads: Size = 4
    num_key_value_heads: Size = 2
    rms_norm_eps: Annotated[float, Between(0, 1)] = 2.0**-14
    rope_theta: Positive = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self):
        super().__post_init__()
        heads, kv = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % (2 * heads) or heads % kv:
            raise OptionError(
                f"LlamaConfig: hidden_size = {self.hidden_size} is an even number for each of "
                f"num_attention_heads = {heads}, a multiple of num_key_value_heads = {kv}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def projection_shape(self, target: str) -> tuple[int, int]:
        """(inputs, outputs) of one linear layer of a block."""
        if not isinstance(target, str) or target not in TARGETS:
            raise OptionError(f"{target!r} is no linear layer; they are {', '.join(TARGETS)}")
        hidden, inner = self.hidden_size, self.intermediate_size
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        shapes = {
            "q_proj": (hidden, heads * self.head_dim),
            "k_proj": (hidden, kv_heads * self.head_dim),
            "v_proj": (hidden, kv_heads * self.head_dim),
            "o_proj": (heads * self.head_dim, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }
        return shapes[target]


@dataclass(frozen=True)
class LoraConfig(Checked):
    """LoRA of rank r on some projections: W x + (alpha / r) B A x."""

    r: Size = 4
    alpha: Positive = 8.0
    targets: Sequence[str] = ("q_proj", "v_proj")

    @property
    def scale(self) -> float:
        return self.alpha / self.r

    def __post_init__(self):
        super().__post_init__()
        unknown = set(self.targets) - set(TARGETS)
        if unknown:
            raise OptionError(
                f"unknown LoRA targets {sorted(unknown)}; known: {', '.join(TARGETS)}"
            )
