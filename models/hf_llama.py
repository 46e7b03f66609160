"""LLaMA in the files of Hugging Face: what its settings mean, and which tensor is which."""

from __future__ import annotations

import math
from collections.abc import Iterator

from zkjax.errors import CheckpointError, OptionError
from zkjax.models.config import (
    PATHS,
    DynamicRope,
    LinearRope,
    LlamaConfig,
    RopeScaling,
    YarnRope,
)
from zkjax.models.hf_settings import Settings, TensorOf

PREFIX, BARE = "model.", "embed_tokens.weight"
NO_EFFECT = r".*rotary_emb\.inv_freq"
ROPES = ("default", "llama3", "linear", "dynamic", "yarn")
KNOWN = {  # keys of each kind of RoPE that have an effect
    "default": (),
    "llama3": (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"
    ),
    "linear": ("factor",),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "yarn": (
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
        "mscale", "mscale_all_dim", "truncate",
    ),
}  # fmt: skip
ALWAYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


def read_config(s: Settings) -> LlamaConfig:
    """The configuration, from the keys of transformers v4 or v5."""
    s.fixed(hidden_act="silu", pretraining_tp=1, partial_rotary_factor=1.0)
    heads, hidden = s.size("num_attention_heads"), s.size("hidden_size")
    kv = s.size("num_key_value_heads", heads)
    if heads % kv or (not s.given("head_dim") and hidden % heads):
        raise CheckpointError(
            f"{s.path}: {heads} heads of {hidden} with {kv} for keys do not divide"
        )
    theta, scaling = _rope(s)
    try:
        return LlamaConfig(
            vocab_size=s.size("vocab_size"),
            hidden_size=hidden,
            intermediate_size=s.size("intermediate_size"),
            num_hidden_layers=s.size("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=kv,
            rms_norm_eps=s.number("rms_norm_eps", 1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            tie_word_embeddings=s.flag("tie_word_embeddings", False),
            head_dim=s.size("head_dim", hidden // heads),
            attention_bias=s.flag("attention_bias", False),
            mlp_bias=s.flag("mlp_bias", False),
        )
    except OptionError as error:
        raise CheckpointError(f"{s.path}: {error}") from error


def _rope(s: Settings):
    """theta and the scaling."""
    raw = s.raw.get("rope_parameters") or s.raw.get("rope_scaling") or {}
    if not isinstance(raw, dict):
        raise s.wrong("rope_parameters", "it is an object")
    r = Settings(raw, s.path)
    r.fixed(partial_rotary_factor=1.0)
    if raw.get("rope_type") is None:
        raw = raw | {"rope_type": raw.get("type", "default")}
        r = Settings(raw, s.path)
    kind = r.choice("rope_type", ROPES, "default")
    theta = r.number("rope_theta", s.number("rope_theta", 10000.0))
    if strange := sorted(k for k in set(raw) - {*KNOWN[kind], *ALWAYS} if raw[k] is not None):
        raise CheckpointError(f"{s.path}: {strange[0]} is no setting of rope_type = {kind!r}")
    context = s.size("max_position_embeddings", 2048)
    original = r.size("original_max_position_embeddings", context) if kind != "linear" else context
    try:
        if kind == "llama3":
            low, high = r.number("low_freq_factor"), r.number("high_freq_factor")
            return theta, RopeScaling(r.number("factor"), low, high, original)
        if kind == "linear":
            return theta, LinearRope(r.number("factor"))
        if kind == "dynamic":
            return theta, DynamicRope(context)
        return theta, _yarn(r, original, context) if kind == "yarn" else None
    except OptionError as error:
        raise CheckpointError(f"{s.path}: {error}") from error


def _yarn(r: Settings, original: int, context: int) -> YarnRope:
    factor = r.number("factor", context / original)

    def temperature(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    attention = temperature(1.0)
    if r.given("attention_factor"):
        attention = r.number("attention_factor")
    elif r.number("mscale", 0.0) and r.number("mscale_all_dim", 0.0):
        attention = temperature(r.number("mscale")) / temperature(r.number("mscale_all_dim"))
    return YarnRope(
        factor,
        original,
        attention,
        r.number("beta_fast", 0.0) or 32.0,
        r.number("beta_slow", 0.0) or 1.0,
        r.flag("truncate", True),
    )


def outer(config: LlamaConfig) -> Iterator[TensorOf]:
    """The tensors outside the blocks."""
    vocabulary, hidden = config.vocab_size, config.hidden_size
    yield TensorOf("embed_tokens", "embed_tokens.weight", (vocabulary, hidden))
    yield TensorOf("norm.weight", "norm.weight", (hidden,))
    if not config.tie_word_embeddings:
        yield TensorOf("lm_head", "lm_head.weight", (hidden, vocabulary), True)


def of_layer(config: LlamaConfig) -> Iterator[TensorOf]:
    """Those of a block."""
    for norm in ("input_layernorm", "post_attention_layernorm"):
        name = f"layers.{norm}.weight"
        yield TensorOf(name, f"layers.{{}}.{norm}.weight", (config.hidden_size,))
    for target, path in PATHS.items():
        shape, name = config.projection_shape(target), f"layers.{{}}.{path}"
        yield TensorOf(f"layers.{target}", f"{name}.weight", shape, True)
        if config.has_bias(target):
            yield TensorOf(f"layers.{target}_bias", f"{name}.bias", shape[1:])
