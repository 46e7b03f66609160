"""A Flax (NNX) LLaMA: RMSNorm, RoPE, grouped-query attention, SwiGLU, layers by scan, LoRA.

One definition for both arithmetics (``numerics``). The parameters of all blocks are stacked on a
leading layer axis and applied with ``jax.lax.scan``, so the traced program has the size of one
block. An adapter is a plain pytree, stacked the same way:
``{target: {"a": (layers, inputs, r), "b": (layers, r, outputs)}}``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from zkjax.models.config import TARGETS, LlamaConfig, LoraConfig
from zkjax.models.numerics import FixedPoint, Float, Numerics, rotary_tables

Adapter = dict[str, dict[str, Any]]


def _normal(key, shape, scale: float):
    return scale * jax.random.normal(key, shape, dtype=jnp.float32)


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + eps) * weight."""

    def __init__(self, size: int, eps: float):
        self.weight = nnx.Param(jnp.ones((size,), jnp.float32))
        self.eps = eps

    def __call__(self, x, numerics: Numerics):
        size = x.shape[-1]
        mean_square = jnp.sum(x * x, axis=-1, keepdims=True) * (1.0 / size)
        inverse = numerics.inverse_rms(mean_square, self.eps)
        normal = numerics.activation(x * inverse)
        return numerics.activation(normal * self.weight[...])


class Block(nnx.Module):
    """One transformer layer. Kernels are (inputs, outputs)."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        depth = (2 * config.num_hidden_layers) ** -0.5
        for target in TARGETS:
            shape = config.projection_shape(target)
            scale = shape[0] ** -0.5 * (depth if target in ("o_proj", "down_proj") else 1.0)
            setattr(self, target, nnx.Param(_normal(rngs.params(), shape, scale)))

    def _linear(self, x, target: str, adapter: Adapter | None, scale: float, numerics: Numerics):
        """x W + (alpha / r) (x A) B, rounded once at the end."""
        y = x @ getattr(self, target)[...]
        if adapter is not None and target in adapter:
            low = numerics.activation(x @ numerics.weight(adapter[target]["a"]))
            y = y + scale * (low @ numerics.weight(adapter[target]["b"]))
        return numerics.activation(y)

    def __call__(self, x, rotary, mask, adapter, scale: float, numerics: Numerics):
        x = x + self._attention(
            self.input_layernorm(x, numerics), rotary, mask, adapter, scale, numerics
        )
        x = x + self._mlp(self.post_attention_layernorm(x, numerics), adapter, scale, numerics)
        return numerics.residual(x)

    def _attention(self, x, rotary, mask, adapter, scale, numerics: Numerics):
        config = self.config
        batch, length, _ = x.shape
        kv, d = config.num_key_value_heads, config.head_dim
        group = config.num_attention_heads // kv
        q = self._linear(x, "q_proj", adapter, scale, numerics).reshape(batch, length, kv, group, d)
        k = self._linear(x, "k_proj", adapter, scale, numerics).reshape(batch, length, kv, d)
        v = self._linear(x, "v_proj", adapter, scale, numerics).reshape(batch, length, kv, d)
        q = rotate(q, *(t[:, None, None] for t in rotary), numerics)
        k = rotate(k, *(t[:, None] for t in rotary), numerics)
        scores = jnp.einsum("bskgd,btkd->bkgst", q, k) * numerics.constant(d**-0.5)
        p = numerics.softmax(numerics.score(scores), mask)
        mixed = numerics.activation(jnp.einsum("bkgst,btkd->bskgd", p, v))
        mixed = mixed.reshape(batch, length, config.num_attention_heads * d)
        return self._linear(mixed, "o_proj", adapter, scale, numerics)

    def _mlp(self, x, adapter, scale, numerics: Numerics):
        gate = numerics.silu(self._linear(x, "gate_proj", adapter, scale, numerics))
        up = self._linear(x, "up_proj", adapter, scale, numerics)
        return self._linear(numerics.activation(gate * up), "down_proj", adapter, scale, numerics)


def rotate(x, cos, sin, numerics: Numerics):
    """RoPE on the last axis, halves (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return numerics.activation(turned)


class Llama(nnx.Module):
    """Token ids (batch, length) to logits (batch, length, vocabulary)."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        self.config = config
        embedding = (config.vocab_size, config.hidden_size)
        self.embed_tokens = nnx.Param(_normal(rngs.params(), embedding, 0.05))

        @nnx.split_rngs(splits=config.num_hidden_layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs)

        self.layers = stack(rngs)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if not config.tie_word_embeddings:
            head = (config.hidden_size, config.vocab_size)
            self.lm_head = nnx.Param(_normal(rngs.params(), head, config.hidden_size**-0.5))

    def __call__(
        self,
        tokens,
        adapter: Adapter | None = None,
        scale: float = 1.0,
        numerics: Numerics | None = None,
    ):
        """Logits; ``scale`` is alpha / r of the adapter."""
        numerics = numerics or Float()
        length = tokens.shape[1]
        fraction = numerics.constants if isinstance(numerics, FixedPoint) else None
        table = self.embed_tokens[...]
        rotary = tuple(
            jnp.asarray(t, dtype=table.dtype) for t in rotary_tables(self.config, length, fraction)
        )
        mask = jnp.tril(jnp.ones((length, length), dtype=bool))
        graph, state = nnx.split(self.layers)

        def body(x, layer):
            layer_state, layer_adapter = layer
            block = nnx.merge(graph, layer_state)
            return block(x, rotary, mask, layer_adapter, scale, numerics), None

        x, _ = jax.lax.scan(body, numerics.embed(table, tokens), (state, adapter))
        x = self.norm(x, numerics)
        head = table.T if self.config.tie_word_embeddings else self.lm_head[...]
        return numerics.score(x @ head)


def mean_loss(logits, targets, numerics: Numerics | None = None):
    """Mean cross-entropy over all positions."""
    losses = (numerics or Float()).cross_entropy(logits, targets)
    return jnp.sum(losses) * (1.0 / losses.size)


def init_adapter(config: LlamaConfig, lora: LoraConfig, key) -> Adapter:
    """A random, B zero, float32."""
    adapter: Adapter = {}
    for i, target in enumerate(lora.targets):
        inputs, outputs = config.projection_shape(target)
        layers = config.num_hidden_layers
        a = _normal(jax.random.fold_in(key, i), (layers, inputs, lora.r), inputs**-0.5)
        adapter[target] = {"a": a, "b": jnp.zeros((layers, lora.r, outputs), jnp.float32)}
    return adapter
