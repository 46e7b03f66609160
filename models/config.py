"""Model and adapter hyper-parameters, with the names of Hugging Face's LlamaConfig where they
exist.
"""

from __future__ import annotations

from dataclasses import dataclass

from zkjax.errors import OptionError

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# Linear layers of a block by the activation they read: one exchange with an adapter's owner each.
INPUT_GROUPS = {
    "attention": ("q_proj", "k_proj", "v_proj"),
    "heads": ("o_proj",),
    "mlp": ("gate_proj", "up_proj"),
    "inner": ("down_proj",),
}


@dataclass(frozen=True)
class RopeScaling:
    """Llama-3's frequency scaling: slow frequencies are divided by ``factor``, smoothly."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True)
class LlamaConfig:
    """A LLaMA: ``num_key_value_heads < num_attention_heads`` is grouped-query attention."""

    vocab_size: int = 256
    hidden_size: int = 64
    intermediate_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    rms_norm_eps: float = 2.0**-14
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = True

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def projection_shape(self, target: str) -> tuple[int, int]:
        """(inputs, outputs) of one linear layer of a block."""
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
class LoraConfig:
    """LoRA of rank r on some projections: W x + (alpha / r) B A x."""

    r: int = 4
    alpha: float = 8.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    @property
    def scale(self) -> float:
        return self.alpha / self.r

    def __post_init__(self):
        unknown = set(self.targets) - set(TARGETS)
        if unknown:
            raise OptionError(
                f"unknown LoRA targets {sorted(unknown)}; known: {', '.join(TARGETS)}"
            )
