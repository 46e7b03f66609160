"""Hyper-parameters of models and adapters, with the names of Hugging Face's configurations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from zkjax._arguments import hints_of, require
from zkjax._marks import Between
from zkjax.errors import OptionError

__all__ = [
    "ALL_TARGETS",
    "GPT2_TARGETS",
    "INPUT_GROUPS",
    "TARGETS",
    "DynamicRope",
    "Gpt2Config",
    "LinearRope",
    "LlamaConfig",
    "LoraConfig",
    "ModelConfig",
    "RopeScaling",
    "YarnRope",
    "config_from_json",
    "config_to_json",
]

Size = Annotated[int, Between(1, 1 << 24)]
Positive = Annotated[float, Between(1e-12, 1e12)]

# The linear layers of a block, by the last parts of their paths in a file of Hugging Face.
PATHS = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.o_proj",
    "gate_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "down_proj": "mlp.down_proj",
}
GPT2_PATHS = {
    "c_attn": "attn.c_attn",
    "attn_c_proj": "attn.c_proj",
    "c_fc": "mlp.c_fc",
    "mlp_c_proj": "mlp.c_proj",
}
TARGETS, GPT2_TARGETS = tuple(PATHS), tuple(GPT2_PATHS)
ALL_TARGETS = TARGETS + GPT2_TARGETS

# Linear layers of a block by the activation they read: one exchange with an adapter's owner each.
INPUT_GROUPS = {
    "attention": ("q_proj", "k_proj", "v_proj", "c_attn"),
    "heads": ("o_proj", "attn_c_proj"),
    "mlp": ("gate_proj", "up_proj", "c_fc"),
    "inner": ("down_proj", "mlp_c_proj"),
}


class Checked:
    """A dataclass whose fields are of the types that it names."""

    def __post_init__(self):
        hints = hints_of(type(self))  # type: ignore[arg-type]
        for field in fields(self):  # type: ignore[arg-type]
            what = f"{type(self).__name__}: {field.name}"
            require(getattr(self, field.name), hints[field.name], what)


class ModelConfig(Checked):
    """What LoRA and the check between two parties have to know of a decoder.

    Attributes:
      vocab_size, hidden_size, num_hidden_layers, num_attention_heads: as in Hugging Face.
      head_dim: the size of a head.
      max_positions: the longest sequence it can read; None if there is no limit.
      paths: {linear layer of a block: its path in block}, in the files of Hugging Face.
      block: the path of a block, with ``{}`` for its number.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool
    paths = PATHS
    block = "model.layers.{}"

    @property
    def max_positions(self) -> int | None:
        return None

    @property
    def targets(self) -> tuple[str, ...]:
        """The linear layers of a block."""
        return tuple(self.paths)

    def _shapes(self) -> dict[str, tuple[int, int]]:
        raise NotImplementedError

    def projection_shape(self, target: str) -> tuple[int, int]:
        """(inputs, outputs) of one linear layer of a block."""
        if not isinstance(target, str) or target not in self.paths:
            raise OptionError(f"{target!r} is no linear layer; they are {', '.join(self.paths)}")
        return self._shapes()[target]

    def module_path(self, layer: int, target: str) -> str:
        """The name of a linear layer in the files of Hugging Face."""
        self.projection_shape(target)
        require(layer, Annotated[int, Between(0, self.num_hidden_layers - 1)], "layer")
        return f"{self.block.format(layer)}.{self.paths[target]}"


@dataclass(frozen=True)
class LinearRope(Checked):
    """Positions divided by ``factor``."""

    factor: Positive


@dataclass(frozen=True)
class DynamicRope(Checked):
    """Plain frequencies up to so many positions. Beyond, they would depend on a sequence's length;
    such sequences are refused.
    """

    max_position_embeddings: Size


@dataclass(frozen=True)
class YarnRope(Checked):
    """YaRN (arXiv 2309.00071): fast frequencies stay, slow ones are divided by ``factor``.

    Attributes:
      attention_factor: multiplies cos and sin.
    """

    factor: Positive
    original_max_position_embeddings: Size
    attention_factor: Positive
    beta_fast: Positive = 32.0
    beta_slow: Positive = 1.0
    truncate: bool = True


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
class LlamaConfig(ModelConfig):
    """A LLaMA: ``num_key_value_heads < num_attention_heads`` is grouped-query attention.

    ``head_dim`` is hidden_size / num_attention_heads where it is not given.
    """

    vocab_size: Size = 256
    hidden_size: Size = 64
    intermediate_size: Size = 128
    num_hidden_layers: Size = 2
    num_attention_heads: Size = 4
    num_key_value_heads: Size = 2
    rms_norm_eps: Annotated[float, Between(0, 1)] = 2.0**-14
    rope_theta: Positive = 10000.0
    rope_scaling: RopeScaling | LinearRope | DynamicRope | YarnRope | None = None
    tie_word_embeddings: bool = True
    head_dim: Size = None  # type: ignore[assignment]
    attention_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self):
        heads, kv = self.num_attention_heads, self.num_key_value_heads
        derived = self.head_dim is None
        if derived and type(heads) is int and heads > 0 and type(self.hidden_size) is int:
            object.__setattr__(self, "head_dim", self.hidden_size // heads)
        super().__post_init__()
        if (derived and self.hidden_size % (2 * heads)) or heads % kv or self.head_dim % 2:
            raise OptionError(
                f"LlamaConfig: hidden_size = {self.hidden_size} is an even number for each of "
                f"num_attention_heads = {heads} (or head_dim is given, and even), a multiple of "
                f"num_key_value_heads = {kv}"
            )

    @property
    def max_positions(self) -> int | None:
        rope = self.rope_scaling
        return rope.max_position_embeddings if isinstance(rope, DynamicRope) else None

    def _shapes(self) -> dict[str, tuple[int, int]]:
        hidden, inner = self.hidden_size, self.intermediate_size
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        return {
            "q_proj": (hidden, heads * self.head_dim),
            "k_proj": (hidden, kv_heads * self.head_dim),
            "v_proj": (hidden, kv_heads * self.head_dim),
            "o_proj": (heads * self.head_dim, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }

    def has_bias(self, target: str) -> bool:
        """Whether a linear layer adds a bias."""
        self.projection_shape(target)
        return self.attention_bias if target in TARGETS[:4] else self.mlp_bias


@dataclass(frozen=True)
class Gpt2Config(ModelConfig):
    """A GPT-2: LayerNorm, learned positions, one fused layer for queries, keys and values."""

    vocab_size: Size = 50257
    n_positions: Size = 1024
    n_embd: Size = 768
    n_layer: Size = 6
    n_head: Size = 12
    n_inner: Size = None  # type: ignore[assignment]
    activation_function: Literal["gelu_new", "gelu_pytorch_tanh", "gelu"] = "gelu_new"
    layer_norm_epsilon: Annotated[float, Between(0, 1)] = 1e-5
    tie_word_embeddings: bool = True
    paths = GPT2_PATHS
    block = "transformer.h.{}"

    def __post_init__(self):
        if self.n_inner is None and type(self.n_embd) is int:
            object.__setattr__(self, "n_inner", 4 * self.n_embd)
        super().__post_init__()
        if self.n_embd % self.n_head:
            raise OptionError(
                f"Gpt2Config: n_embd = {self.n_embd} is a multiple of n_head = {self.n_head}"
            )

    @property
    def num_hidden_layers(self) -> int:  # type: ignore[override]
        return self.n_layer

    @property
    def num_attention_heads(self) -> int:  # type: ignore[override]
        return self.n_head

    @property
    def hidden_size(self) -> int:  # type: ignore[override]
        return self.n_embd

    @property
    def num_key_value_heads(self) -> int:  # type: ignore[override]
        return self.n_head

    @property
    def head_dim(self) -> int:  # type: ignore[override]
        return self.n_embd // self.n_head

    @property
    def max_positions(self) -> int:
        return self.n_positions

    def _shapes(self) -> dict[str, tuple[int, int]]:
        hidden, inner = self.n_embd, self.n_inner
        return {
            "c_attn": (hidden, 3 * hidden),
            "attn_c_proj": (hidden, hidden),
            "c_fc": (hidden, inner),
            "mlp_c_proj": (inner, hidden),
        }


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
        unknown = set(self.targets) - set(ALL_TARGETS)
        if unknown:
            raise OptionError(
                f"unknown LoRA targets {sorted(unknown)}; known: {', '.join(ALL_TARGETS)}"
            )


_KINDS: tuple[type, ...] = (
    LlamaConfig,
    Gpt2Config,
    RopeScaling,
    LinearRope,
    DynamicRope,
    YarnRope,
)


def config_to_json(config: Any) -> Any:
    """A configuration as plain data, with the names of its dataclasses."""
    if not isinstance(config, _KINDS):
        return config
    told = {f.name: config_to_json(getattr(config, f.name)) for f in fields(config)}  # type: ignore[arg-type]
    return {"kind": type(config).__name__, **told}


def config_from_json(told: Any) -> ModelConfig:
    """The inverse; OptionError if it is not the data of a model's configuration."""

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        rest = dict(value)
        kinds = {kind.__name__: kind for kind in _KINDS}
        kind = kinds.get(str(rest.pop("kind", None)))
        if kind is None:
            raise OptionError(f"{value.get('kind')!r} is no kind of configuration")
        try:
            return kind(**{name: read(v) for name, v in rest.items()})
        except TypeError as error:
            raise OptionError(f"{kind.__name__}: {error}") from None

    config = read(told)
    if not isinstance(config, ModelConfig):
        raise OptionError("it is no configuration of a model")
    return config
