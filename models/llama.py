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
import numpy as np
from flax import nnx

from zkjax.models.config import INPUT_GROUPS, TARGETS, LlamaConfig, LoraConfig
from zkjax.models.numerics import FixedPoint, Float, Numerics
from zkjax.models.rotary import rotary_tables, score_scale

LONG = 128  # positions whose cotangents are added without rounding before RoPE is undone

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


def lora_delta(x, a, b, numerics: Numerics, scale: float = 1.0, site: str = "lora"):
    """scale (x A) B with x A rounded. A scale that is no power of two is rounded on purpose, and
    multiplies x A before that is.
    """
    mantissa = float(2 * np.frexp(scale)[0])
    low = x @ numerics.round(a, "lora.weight")
    if mantissa != 1.0:
        low = numerics.round_cotangent(low, site) * numerics.constant(mantissa)
    low = numerics.round(low, site)
    return (scale / mantissa) * (low @ numerics.round(b, "lora.weight"))


def lora_deltas(adapter: Adapter | None, scale: float, numerics: Numerics) -> Deltas:
    """(alpha / r) (x A) B for the targets of one layer's adapter."""

    def delta(target: str, x):
        a, b = adapter[target]["a"], adapter[target]["b"]
        return lora_delta(x, a, b, numerics, scale, f"{target}.lora")

    def deltas(group: str, x) -> dict[str, Any]:
        return {
            target: delta(target, x)
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

    def __call__(self, x, numerics: Numerics, name: str):
        """Sites ``{name}_norm`` and ``{name}_input``."""
        normal = numerics.normalize(x, self.eps, f"{name}_norm")
        return numerics.round(normal * self.weight[...], f"{name}_input")


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

    def _linear(self, x, target: str, deltas: dict[str, Any]):
        """x W + delta, exact."""
        y = x @ getattr(self, target)[...]
        return y + deltas[target] if target in deltas else y

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
        q, k, v = (self._linear(x, t, added) for t in ("q_proj", "k_proj", "v_proj"))
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
            k, v = (
                jax.lax.dynamic_update_slice_in_dim(old, new, cache.filled, axis=1)
                for old, new in ((cache.k, k), (cache.v, v))
            )
            cache = Cache(k, v, cache.filled)
        q, k = back(q, "q_proj"), back(k, "k_proj")

        def attend(queries: slice, seen: int):
            """What some positions take from the first ``seen`` ones."""
            scores = jnp.einsum("bskgd,btkd->bkgst", q[:, queries], k[:, :seen])
            scores = numerics.round(scores * score_scale(config)[1], "scores")
            p = numerics.softmax(scores, mask[queries, :seen], "probabilities")
            mixed = jnp.einsum("bkgst,btkd->bskgd", p, v[:, :seen])
            return numerics.round(mixed, "mixed")

        if cache is not None:
            mixed = attend(slice(None), k.shape[1])
        else:
            ends = numerics.tiles(length)
            starts = (0, *ends[:-1])
            tiles = [attend(slice(*ab), ab[1]) for ab in zip(starts, ends, strict=True)]
            mixed = tiles[0] if len(tiles) == 1 else jnp.concatenate(tiles, axis=1)
        mixed = mixed.reshape(batch, length, config.num_attention_heads * d)
        out = self._linear(mixed, "o_proj", deltas("heads", mixed))
        return numerics.round_value(out, "o_proj"), cache

    def _mlp(self, x, deltas: Deltas, numerics: Numerics):
        added = deltas("mlp", x)
        gate = numerics.round(self._linear(x, "gate_proj", added), "gate_proj")
        up = numerics.round(self._linear(x, "up_proj", added), "up_proj")
        inner = numerics.round(numerics.silu(gate, "silu") * up, "inner")
        out = self._linear(inner, "down_proj", deltas("inner", inner))
        return numerics.round_value(out, "down_proj")


def rotate(x, cos, sin):
    """RoPE on the last axis, halves (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), exact."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


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
            jnp.asarray(t, dtype=table.dtype)
            for factor in (score_scale(self.config)[0], 1.0)  # of queries and of keys
            for t in rotary_tables(self.config, room, fraction, factor)
        )
        if cache is not None:
            mask, *rotary = (
                jax.lax.dynamic_slice_in_dim(t, start, length) for t in (mask, *rotary)
            )
        graph, state = nnx.split(self.layers)

        def body(x, layer):
            layer_state, layer_input, layer_cache, scales = layer
            source, seen = deltas_of(layer_input), {}

            def deltas(group: str, x):
                seen[group] = x
                return source(group, x)

            if layer_cache is not None:
                k, v = layer_cache
                layer_cache = Cache(k, v, start)
            block = nnx.merge(graph, layer_state)
            x, new = block(x, rotary, mask, deltas, numerics.at_layer(scales), layer_cache)
            return x, (seen if record else None, new and new[:2])

        layers = (state, layer_inputs, cache and (cache.k, cache.v), numerics.layer_scales())
        x = numerics.embed(table, tokens)
        x, (seen, new) = (jax.lax.scan if scan else unrolled_scan)(body, x, layers)
        x = self.norm(x, numerics, "final")
        head = table.T if self.config.tie_word_embeddings else self.lm_head[...]
        if new is not None:
            k, v = new
            new = Cache(k, v, start + length)
        return numerics.round_value(x @ head, "logits"), seen, new

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
    numerics = numerics or Float()
    losses = numerics.cross_entropy(logits, targets)
    return jnp.sum(losses) * numerics.constant(1.0 / losses.size)


def warm_adapter(config: LlamaConfig, lora: LoraConfig, key) -> Adapter:
    """An adapter as it may look in the middle of training: B is random too. For calibration: with
    B = 0 half of the gradient is zero.
    """
    fresh = init_adapter(config, lora, key)
    return {
        target: {"a": ab["a"], "b": _normal(jax.random.fold_in(key, 99 + i), ab["b"].shape, 0.02)}
        for i, (target, ab) in enumerate(fresh.items())
    }


def init_adapter(config: LlamaConfig, lora: LoraConfig, key) -> Adapter:
    """A random, B zero, float32."""
    adapter: Adapter = {}
    for i, target in enumerate(lora.targets):
        inputs, outputs = config.projection_shape(target)
        layers = config.num_hidden_layers
        a = _normal(jax.random.fold_in(key, i), (layers, inputs, lora.r), inputs**-0.5)
        adapter[target] = {"a": a, "b": jnp.zeros((layers, lora.r, outputs), jnp.float32)}
    return adapter
