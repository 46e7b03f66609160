"""A Flax (NNX) LLaMA: RMSNorm, RoPE, grouped-query attention, SwiGLU; see ``decoder``."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from zkjax.models.adapter import Deltas, normal
from zkjax.models.config import TARGETS, LlamaConfig
from zkjax.models.decoder import Cache, Decoder, attention, linear, stacked
from zkjax.models.numerics import FixedPoint, Numerics
from zkjax.models.rotary import rotary_tables, score_scale

LONG = 128  # positions whose cotangents are added without rounding before RoPE is undone


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + eps) * weight."""

    def __init__(self, size: int, eps: float):
        self.weight = nnx.Param(jnp.ones((size,), jnp.float32))
        self.eps = eps

    def __call__(self, x, numerics: Numerics, name: str):
        """Sites ``{name}_norm`` and ``{name}_input``."""
        y = numerics.normalize(x, self.eps, f"{name}_norm")
        return numerics.round(y * self.weight[...], f"{name}_input")


class Block(nnx.Module):
    """One transformer layer."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        depth = (2 * config.num_hidden_layers) ** -0.5
        for target in TARGETS:
            shape = config.projection_shape(target)
            scale = shape[0] ** -0.5 * (depth if target in ("o_proj", "down_proj") else 1.0)
            setattr(self, target, nnx.Param(normal(rngs.params(), shape, scale)))
            if config.has_bias(target):
                setattr(self, f"{target}_bias", nnx.Param(jnp.zeros(shape[1:], jnp.float32)))

    def __call__(self, x, rotary, mask, deltas: Deltas, numerics: Numerics, cache: Cache | None):
        """The next residual stream, and this layer's cache with the new positions."""
        mixed, cache = self._attention(
            self.input_layernorm(x, numerics, "attention"), rotary, mask, deltas, numerics, cache
        )
        x = numerics.round_cotangent(x + mixed, "residual.middle")
        x = x + self._mlp(self.post_attention_layernorm(x, numerics, "mlp"), deltas, numerics)
        return numerics.round_cotangent(x, "residual"), cache

    def _attention(self, x, rotary, mask, deltas: Deltas, numerics: Numerics, cache: Cache | None):
        config = self.config
        batch, length, _ = x.shape
        kv, d = config.num_key_value_heads, config.head_dim
        group = config.num_attention_heads // kv
        added = deltas("attention", x)
        q, k, v = (linear(self, x, t, added) for t in ("q_proj", "k_proj", "v_proj"))
        q = numerics.round_cotangent(q, "q_proj").reshape(batch, length, kv, group, d)
        k = numerics.round_cotangent(k, "k_proj").reshape(batch, length, kv, d)
        v = numerics.round(v, "v_proj").reshape(batch, length, kv, d)
        cos_q, sin_q, cos_k, sin_k = rotary
        # Exact as long as sums over all positions times a cosine stay small.
        back = numerics.round_cotangent if length > LONG else (lambda x, site: x)
        # Exact before RoPE as long as what the linear layers read has few bits.
        q, k = (
            numerics.round_if_wide(y, f"{name}.linear", "attention_input")
            for y, name in ((q, "q_proj"), (k, "k_proj"))
        )
        q = numerics.round_value(rotate(q, cos_q[:, None, None], sin_q[:, None, None]), "q_proj")
        k = numerics.round_value(rotate(k, cos_k[:, None], sin_k[:, None]), "k_proj")
        if cache is not None:
            cache = cache.with_new(k, v)
            k, v = cache.k, cache.v
        q, k = back(q, "q_proj"), back(k, "k_proj")
        power = score_scale(config)[1]
        mixed = attention(q, k, v, mask, power, numerics, tiled=cache is None)
        out = linear(self, mixed, "o_proj", deltas("heads", mixed))
        return numerics.round_value(out, "o_proj"), cache

    def _mlp(self, x, deltas: Deltas, numerics: Numerics):
        added = deltas("mlp", x)
        gate = numerics.round(linear(self, x, "gate_proj", added), "gate_proj")
        up = numerics.round(linear(self, x, "up_proj", added), "up_proj")
        inner = numerics.round(numerics.silu(gate, "silu") * up, "inner")
        out = linear(self, inner, "down_proj", deltas("inner", inner))
        return numerics.round_value(out, "down_proj")


def rotate(x, cos, sin):
    """RoPE on the last axis, halves (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), exact."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class Llama(Decoder):
    """Token ids (batch, length) to logits (batch, length, vocabulary)."""

    config: LlamaConfig
    embeddings = ("embed_tokens",)
    outputs = ("o_proj", "down_proj")

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        self.config = config
        embedding = (config.vocab_size, config.hidden_size)
        self.embed_tokens = nnx.Param(normal(rngs.params(), embedding, 0.05))
        self.layers = stacked(lambda rngs: Block(config, rngs=rngs), config.num_hidden_layers, rngs)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if not config.tie_word_embeddings:
            head = (config.hidden_size, config.vocab_size)
            self.lm_head = nnx.Param(normal(rngs.params(), head, config.hidden_size**-0.5))

    @property
    def table(self):
        return self.embed_tokens[...]

    def embed(self, tokens, start, numerics: Numerics):
        return numerics.embed(self.table, tokens)

    def positions(self, room: int, numerics: Numerics) -> tuple:
        """cos and sin for queries and for keys."""
        fraction = numerics.constants if isinstance(numerics, FixedPoint) else None
        return tuple(
            jnp.asarray(t, dtype=self.table.dtype)
            for factor in (score_scale(self.config)[0], 1.0)  # of queries and of keys
            for t in rotary_tables(self.config, room, fraction, factor)
        )
