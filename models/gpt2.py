"""A Flax (NNX) GPT-2: LayerNorm, learned positions, fused attention, GELU; see ``decoder``."""

from __future__ import annotations

from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import nnx

from zkjax.models.adapter import Deltas, normal
from zkjax.models.config import GPT2_TARGETS, Gpt2Config
from zkjax.models.decoder import Cache, Decoder, attention, linear, stacked
from zkjax.models.numerics import Numerics
from zkjax.models.rotary import score_scale


class LayerNorm(nnx.Module):
    """(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias."""

    def __init__(self, size: int, eps: float):
        self.weight = nnx.Param(jnp.ones((size,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((size,), jnp.float32))
        self.eps = eps

    def __call__(self, x, numerics: Numerics, name: str):
        """Sites ``{name}_norm.mean``, ``{name}_norm`` and ``{name}_input``."""
        y = numerics.normalize(numerics.center(x, f"{name}_norm.mean"), self.eps, f"{name}_norm")
        return numerics.round(y * self.weight[...] + self.bias[...], f"{name}_input")


class Block(nnx.Module):
    """One transformer layer."""

    def __init__(self, config: Gpt2Config, *, rngs: nnx.Rngs):
        self.config = config
        self.ln_1 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.ln_2 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        depth = (2 * config.n_layer) ** -0.5
        for target in GPT2_TARGETS:
            shape = config.projection_shape(target)
            scale = 0.02 * (depth if target.endswith("c_proj") else 1.0)
            setattr(self, target, nnx.Param(normal(rngs.params(), shape, scale)))
            setattr(self, f"{target}_bias", nnx.Param(jnp.zeros(shape[1:], jnp.float32)))

    def __call__(self, x, positions, mask, deltas: Deltas, numerics: Numerics, cache: Cache | None):
        """The next residual stream, and this layer's cache with the new positions."""
        mixed, cache = self._attention(
            self.ln_1(x, numerics, "attention"), mask, deltas, numerics, cache
        )
        x = numerics.round_cotangent(x + mixed, "residual.middle")
        x = x + self._mlp(self.ln_2(x, numerics, "mlp"), deltas, numerics)
        return numerics.round_cotangent(x, "residual"), cache

    def _attention(self, x, mask, deltas: Deltas, numerics: Numerics, cache: Cache | None):
        config = self.config
        batch, length, _ = x.shape
        shape = (batch, length, config.n_head, config.head_dim)
        y = linear(self, x, "c_attn", deltas("attention", x))
        q, k, v = jnp.split(y, 3, axis=-1)
        mantissa, power = score_scale(config)
        if mantissa != 1.0:
            q = numerics.round_cotangent(q, "c_attn.q") * numerics.constant(mantissa)
        q, k, v = (
            numerics.round(y, f"c_attn.{name}").reshape(shape)
            for y, name in ((q, "q"), (k, "k"), (v, "v"))
        )
        if cache is not None:
            cache = cache.with_new(k, v)
            k, v = cache.k, cache.v
        mixed = attention(q[:, :, :, None], k, v, mask, power, numerics, tiled=cache is None)
        out = linear(self, mixed, "attn_c_proj", deltas("heads", mixed))
        return numerics.round_value(out, "attn_c_proj"), cache

    def _mlp(self, x, deltas: Deltas, numerics: Numerics):
        wide = numerics.round(linear(self, x, "c_fc", deltas("mlp", x)), "c_fc")
        approximate = self.config.activation_function != "gelu"
        inner = numerics.gelu(wide, approximate, "c_fc", "gelu")
        out = linear(self, inner, "mlp_c_proj", deltas("inner", inner))
        return numerics.round_value(out, "mlp_c_proj")


class Gpt2(Decoder):
    """Token ids (batch, length) to logits (batch, length, vocabulary)."""

    config: Gpt2Config
    embeddings = ("wte", "wpe")
    outputs = ("attn_c_proj", "mlp_c_proj")
    input_sites = MappingProxyType(Decoder.input_sites | {"inner": "gelu"})

    def __init__(self, config: Gpt2Config, *, rngs: nnx.Rngs):
        self.config = config
        size = config.n_embd
        self.wte = nnx.Param(normal(rngs.params(), (config.vocab_size, size), 0.02))
        self.wpe = nnx.Param(normal(rngs.params(), (config.n_positions, size), 0.01))
        self.layers = stacked(lambda rngs: Block(config, rngs=rngs), config.n_layer, rngs)
        self.norm = LayerNorm(size, config.layer_norm_epsilon)
        if not config.tie_word_embeddings:
            self.lm_head = nnx.Param(normal(rngs.params(), (size, config.vocab_size), 0.02))

    @property
    def table(self):
        return self.wte[...]

    def embed(self, tokens, start, numerics: Numerics):
        length = tokens.shape[1]
        positions = self.wpe[...]
        if isinstance(start, int):
            positions = positions[start : start + length]
        else:
            positions = jax.lax.dynamic_slice_in_dim(positions, start, length)
        return numerics.embed(self.table, tokens) + positions
