"""A Flax (NNX) LLaMA: RMSNorm, RoPE, grouped-query attention, SwiGLU, layers by scan, LoRA.

One definition for both arithmetics (``numerics``). The parameters of all blocks are stacked on a
leading layer axis and applied with ``jax.lax.scan``, so the traced program has the size of one
block. An adapter is a plain pytree, stacked the same way:
``{target: {"a": (layers, inputs, r), "b": (layers, r, outputs)}}``.

What an adapter adds to the linear layers of a block comes from a function ``deltas(group, x)``,
called once for each activation that linear layers read (``config.INPUT_GROUPS``). It can compute
LoRA here, ask the owner of a private adapter, or hand in values received earlier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from zkjax.models.config import INPUT_GROUPS, TARGETS, LlamaConfig, LoraConfig
from zkjax.models.numerics import FixedPoint, Float, Numerics, rotary_tables

Adapter = dict[str, dict[str, Any]]
Deltas = Callable[[str, Any], dict[str, Any]]  # (input group, x) -> {target: added to x W}


class Cache(NamedTuple):
    """Keys and values of earlier positions, (layers, batch, room, kv heads, head size), and how
    many of the ``room`` positions are filled.
    """

    k: Any
    v: Any
    filled: Any


def no_deltas(group: str, x) -> dict[str, Any]:
    """A base model without an adapter."""
    return {}


def lora_delta(x, a, b, numerics: Numerics):
    """(x A) B with x A rounded: what an adapter of scale 1 adds, exactly."""
    return numerics.activation(x @ numerics.weight(a)) @ numerics.weight(b)


def lora_deltas(adapter: Adapter | None, scale: float, numerics: Numerics) -> Deltas:
    """(alpha / r) (x A) B for the targets of one layer's adapter."""

    def deltas(group: str, x) -> dict[str, Any]:
        return {
            target: scale * lora_delta(x, adapter[target]["a"], adapter[target]["b"], numerics)
            for target in INPUT_GROUPS[group]
            if adapter and target in adapter
        }

    return deltas


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

    def _linear(self, x, target: str, deltas: dict[str, Any], numerics: Numerics):
        """x W + delta, rounded once at the end."""
        y = x @ getattr(self, target)[...]
        return numerics.activation(y + deltas[target] if target in deltas else y)

    def __call__(self, x, rotary, mask, deltas: Deltas, numerics: Numerics, cache: Cache | None):
        """The next residual stream, and this layer's cache with the new positions."""
        mixed, cache = self._attention(
            self.input_layernorm(x, numerics), rotary, mask, deltas, numerics, cache
        )
        x = x + mixed
        x = x + self._mlp(self.post_attention_layernorm(x, numerics), deltas, numerics)
        return numerics.residual(x), cache

    def _attention(self, x, rotary, mask, deltas: Deltas, numerics: Numerics, cache: Cache | None):
        config = self.config
        batch, length, _ = x.shape
        kv, d = config.num_key_value_heads, config.head_dim
        group = config.num_attention_heads // kv
        added = deltas("attention", x)
        q = self._linear(x, "q_proj", added, numerics).reshape(batch, length, kv, group, d)
        k = self._linear(x, "k_proj", added, numerics).reshape(batch, length, kv, d)
        v = self._linear(x, "v_proj", added, numerics).reshape(batch, length, kv, d)
        cos, sin = rotary
        q = rotate(q, cos[:, None, None], sin[:, None, None], numerics)
        k = rotate(k, cos[:, None], sin[:, None], numerics)
        if cache is not None:
            k, v = (
                jax.lax.dynamic_update_slice_in_dim(old, new, cache.filled, axis=1)
                for old, new in ((cache.k, k), (cache.v, v))
            )
            cache = Cache(k, v, cache.filled)
        scores = jnp.einsum("bskgd,btkd->bkgst", q, k) * numerics.constant(d**-0.5)
        p = numerics.softmax(numerics.score(scores), mask)
        mixed = numerics.activation(jnp.einsum("bkgst,btkd->bskgd", p, v))
        mixed = mixed.reshape(batch, length, config.num_attention_heads * d)
        return self._linear(mixed, "o_proj", deltas("heads", mixed), numerics), cache

    def _mlp(self, x, deltas: Deltas, numerics: Numerics):
        added = deltas("mlp", x)
        gate = numerics.silu(self._linear(x, "gate_proj", added, numerics))
        up = self._linear(x, "up_proj", added, numerics)
        inner = numerics.activation(gate * up)
        return self._linear(inner, "down_proj", deltas("inner", inner), numerics)


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
        return self.run(tokens, numerics, lambda a: lora_deltas(a, scale, numerics), adapter)[0]

    def run(
        self,
        tokens,
        numerics: Numerics,
        deltas_of: Callable[[Any], Deltas] = lambda _: no_deltas,
        layer_inputs: Any = None,
        *,
        scan: bool = True,
        record: bool = False,
        cache: Cache | None = None,
    ):
        """Logits with any source of deltas.

        Args:
          tokens: (batch, length) integers; with a cache, the ones that follow its positions.
          deltas_of: from a layer's slice of ``layer_inputs`` to its ``deltas`` function.
          layer_inputs: a pytree with a leading layer axis.
          scan: one traced block for all layers; False calls ``deltas`` with concrete arrays.
          record: also return the activations that the linear layers read.
        Returns:
          logits (batch, length, vocabulary), {group: (layers, batch, length, size)} or None, and
          the cache with the new positions.
        """
        length = tokens.shape[1]
        room, start = (length, 0) if cache is None else (cache.k.shape[2], cache.filled)
        fraction = numerics.constants if isinstance(numerics, FixedPoint) else None
        table = self.embed_tokens[...]
        mask = jnp.tril(jnp.ones((room, room), dtype=bool))
        rotary = tuple(
            jnp.asarray(t, dtype=table.dtype) for t in rotary_tables(self.config, room, fraction)
        )
        if cache is not None:
            mask, *rotary = (
                jax.lax.dynamic_slice_in_dim(t, start, length) for t in (mask, *rotary)
            )
        graph, state = nnx.split(self.layers)

        def body(x, layer):
            layer_state, layer_input, layer_cache = layer
            source, seen = deltas_of(layer_input), {}

            def deltas(group: str, x):
                seen[group] = x
                return source(group, x)

            if layer_cache is not None:
                k, v = layer_cache
                layer_cache = Cache(k, v, start)
            block = nnx.merge(graph, layer_state)
            x, new = block(x, rotary, mask, deltas, numerics, layer_cache)
            return x, (seen if record else None, new and new[:2])

        layers = (state, layer_inputs, cache and (cache.k, cache.v))
        x = numerics.embed(table, tokens)
        x, (seen, new) = (jax.lax.scan if scan else unrolled_scan)(body, x, layers)
        x = self.norm(x, numerics)
        head = table.T if self.config.tie_word_embeddings else self.lm_head[...]
        if new is not None:
            k, v = new
            new = Cache(k, v, start + length)
        return numerics.score(x @ head), seen, new

    def empty_cache(self, batch: int, room: int) -> Cache:
        """A cache for up to ``room`` positions."""
        c = self.config
        shape = (c.num_hidden_layers, batch, room, c.num_key_value_heads, c.head_dim)
        empty = jnp.zeros(shape, self.embed_tokens[...].dtype)
        return Cache(empty, empty, 0)


def unrolled_scan(body, carry, xs):
    """``jax.lax.scan`` as a Python loop, so that ``body`` sees concrete arrays."""
    outputs = []
    for i in range(jax.tree.leaves(xs)[0].shape[0]):
        carry, y = body(carry, jax.tree.map(lambda x, i=i: x[i], xs))
        outputs.append(y)
    return carry, jax.tree.map(lambda *ys: jnp.stack(ys), *outputs)


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
