"""GPT-2 in the files of Hugging Face: what its settings mean, and which tensor is which.

Its linear layers are (inputs, outputs) in the files (transformers' Conv1D), as here.
"""

from __future__ import annotations

from collections.abc import Iterator

from zkjax.errors import CheckpointError, OptionError
from zkjax.models.config import GPT2_PATHS, Gpt2Config
from zkjax.models.hf_settings import Settings, TensorOf

PREFIX, BARE = "transformer.", "wte.weight"
NO_EFFECT = r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias"  # causal masks of old files
ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu")


def read_config(s: Settings) -> Gpt2Config:
    """The configuration."""
    s.fixed(
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        reorder_and_upcast_attn=False,
        add_cross_attention=False,
    )
    width, heads = s.size("n_embd", 768), s.size("n_head", 12)
    if width % heads:
        raise CheckpointError(f"{s.path}: {heads} heads of n_embd = {width} do not divide")
    try:
        return Gpt2Config(
            vocab_size=s.size("vocab_size", 50257),
            n_positions=s.size("n_positions", 1024),
            n_embd=width,
            n_layer=s.size("n_layer", 12),
            n_head=heads,
            n_inner=s.size("n_inner", 4 * width),
            activation_function=s.choice("activation_function", ACTIVATIONS, "gelu_new"),
            layer_norm_epsilon=s.number("layer_norm_epsilon", 1e-5),
            tie_word_embeddings=s.flag("tie_word_embeddings", True),
        )
    except OptionError as error:
        raise CheckpointError(f"{s.path}: {error}") from error


def outer(config: Gpt2Config) -> Iterator[TensorOf]:
    """The tensors outside the blocks."""
    size = config.n_embd
    yield TensorOf("wte", "wte.weight", (config.vocab_size, size))
    yield TensorOf("wpe", "wpe.weight", (config.n_positions, size))
    yield TensorOf("norm.weight", "ln_f.weight", (size,))
    yield TensorOf("norm.bias", "ln_f.bias", (size,))
    if not config.tie_word_embeddings:
        yield TensorOf("lm_head", "lm_head.weight", (size, config.vocab_size), True)


def of_layer(config: Gpt2Config) -> Iterator[TensorOf]:
    """Those of a block."""
    for norm in ("ln_1", "ln_2"):
        for part in ("weight", "bias"):
            yield TensorOf(f"layers.{norm}.{part}", f"h.{{}}.{norm}.{part}", (config.n_embd,))
    for target, path in GPT2_PATHS.items():
        shape, name = config.projection_shape(target), f"h.{{}}.{path}"
        yield TensorOf(f"layers.{target}", f"{name}.weight", shape)
        yield TensorOf(f"layers.{target}_bias", f"{name}.bias", shape[1:])
