"""What the decoders have in common: layers by scan, causal attention, a cache, LoRA.

One definition for both arithmetics (``numerics``). The parameters of all blocks are stacked on a
leading layer axis and applied with ``jax.lax.scan``, so the traced program has the size of one
block.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from zkjax.errors import OptionError
from zkjax.models.adapter import Adapter, Deltas, lora_deltas, no_deltas
from zkjax.models.config import ModelConfig
from zkjax.models.numerics import Float, Numerics


class Cache(NamedTuple):
    """Keys and values of earlier positions, (layers, batch, room, kv heads, head size), and how
    many of the ``room`` positions are filled.
    """

    k: Any
    v: Any
    filled: Any

    def with_new(self, k, v) -> Cache:
        """The new positions of a layer written behind the filled ones."""
        k, v = (
            jax.lax.dynamic_update_slice_in_dim(old, new, self.filled, axis=1)
            for old, new in ((self.k, k), (self.v, v))
        )
        return Cache(k, v, self.filled)


def attention(q, k, v, mask, power: float, numerics: Numerics, *, tiled: bool):
    """softmax(power q k^T) v, (batch, queries, kv heads x group x size).

    Args:
      q: (batch, queries, kv heads, group, size), the scale but for a power of two in it.
      k, v: (batch, keys, kv heads, size).
      mask: (queries, keys), true where a query sees a key.
      tiled: queries and keys are the same positions: scores above the diagonal can be left out.
    """

    def attend(queries: slice, seen: int):
        """What some positions take from the first ``seen`` ones."""
        scores = jnp.einsum("bskgd,btkd->bkgst", q[:, queries], k[:, :seen])
        scores = numerics.round(scores * power, "scores")
        p = numerics.softmax(scores, mask[queries, :seen], "probabilities")
        mixed = jnp.einsum("bkgst,btkd->bskgd", p, v[:, :seen])
        return numerics.round(mixed, "mixed")

    if tiled:
        ends = numerics.tiles(q.shape[1])
        starts = (0, *ends[:-1])
        tiles = [attend(slice(*ab), ab[1]) for ab in zip(starts, ends, strict=True)]
        mixed = tiles[0] if len(tiles) == 1 else jnp.concatenate(tiles, axis=1)
    else:
        mixed = attend(slice(None), k.shape[1])
    return mixed.reshape(*q.shape[:2], -1)


def linear(block: nnx.Module, x, target: str, deltas: dict[str, Any]):
    """x W (+ bias) + delta, exact. Kernels are (inputs, outputs)."""
    y = x @ getattr(block, target)[...]
    if (bias := getattr(block, f"{target}_bias", None)) is not None:
        y = y + bias[...]
    return y + deltas[target] if target in deltas else y


class Decoder(nnx.Module):
    """Token ids (batch, length) to logits (batch, length, vocabulary).

    A model has ``config``, ``layers`` (its blocks, stacked), ``norm`` and, unless tied, ``lm_head``
    (hidden, vocabulary); it defines ``table``, ``embed`` and ``positions``. A block takes (x,
    positions, mask, deltas, numerics, cache) and gives (x, cache).
    """

    config: ModelConfig
    embeddings: tuple[str, ...]  # the parameters whose rows start the residual stream
    outputs: tuple[str, ...]  # the sites that are added to it
    layers: Any
    norm: Any
    lm_head: Any
    # The site that rounded what the linear layers of a group read.
    input_sites = MappingProxyType(
        {"attention": "attention_input", "heads": "mixed", "mlp": "mlp_input", "inner": "inner"}
    )

    @property
    def table(self):
        """The embeddings of tokens, (vocabulary, hidden)."""
        raise NotImplementedError

    def embed(self, tokens, start, numerics: Numerics):
        """The residual stream before the first block, of tokens from position ``start`` on."""
        raise NotImplementedError

    def positions(self, room: int, numerics: Numerics) -> tuple:
        """Arrays (room, ...) that a block needs, at the rows of its positions."""
        return ()

    def __call__(
        self,
        tokens,
        adapter: Adapter | None = None,
        scale: float = 1.0,
        numerics: Numerics | None = None,
    ):
        """Logits; ``scale`` is alpha / r of the adapter."""
        numerics = numerics or Float()
        return self.run(tokens, numerics, lambda a, n: lora_deltas(a, scale, n), adapter)[0]

    def run(
        self,
        tokens,
        numerics: Numerics,
        deltas_of: Callable[[Any, Numerics], Deltas] = lambda *_: no_deltas,
        layer_inputs: Any = None,
        *,
        scan: bool = True,
        record: bool = False,
        cache: Cache | None = None,
    ):
        """Logits with any source of deltas.

        Args:
          tokens: (batch, length) integers; with a cache, the ones that follow its positions.
          deltas_of: from a layer's slice of ``layer_inputs``, and the arithmetic in that layer, to
            its ``deltas`` function.
          layer_inputs: a pytree with a leading layer axis.
          scan: one traced block for all layers; False calls ``deltas`` with concrete arrays.
          record: also return the activations that the linear layers read.
        Returns:
          logits (batch, length, vocabulary), {group: (layers, batch, length, size)} or None, and
          the cache with the new positions.
        """
        length = tokens.shape[1]
        room, start = (length, 0) if cache is None else (cache.k.shape[2], cache.filled)
        if (most := self.config.max_positions) is not None and room > most:
            raise OptionError(f"{room:,} positions; this model reads at most {most:,}")
        mask = jnp.tril(jnp.ones((room, room), dtype=bool))
        positions = self.positions(room, numerics)
        if cache is not None:
            mask, *positions = (
                jax.lax.dynamic_slice_in_dim(t, start, length) for t in (mask, *positions)
            )
        graph, state = nnx.split(self.layers)

        def body(x, layer):
            layer_state, layer_input, layer_cache, scales = layer
            arithmetic = numerics.at_layer(scales)
            source, seen = deltas_of(layer_input, arithmetic), {}

            def deltas(group: str, x):
                seen[group] = x
                return source(group, x)

            if layer_cache is not None:
                k, v = layer_cache
                layer_cache = Cache(k, v, start)
            block = nnx.merge(graph, layer_state)
            x, new = block(x, positions, mask, deltas, arithmetic, layer_cache)
            return x, (seen if record else None, new and new[:2])

        layers = (state, layer_inputs, cache and (cache.k, cache.v), numerics.layer_scales())
        x = self.embed(tokens, start, numerics)
        x, (seen, new) = (jax.lax.scan if scan else unrolled_scan)(body, x, layers)
        x = self.norm(x, numerics, "final")
        head = self.table.T if self.config.tie_word_embeddings else self.lm_head[...]
        if new is not None:
            k, v = new
            new = Cache(k, v, start + length)
        return numerics.round_value(x @ head, "logits"), seen, new

    def empty_cache(self, batch: int, room: int) -> Cache:
        """A cache for up to ``room`` positions."""
        c = self.config
        shape = (c.num_hidden_layers, batch, room, c.num_key_value_heads, c.head_dim)
        empty = jnp.zeros(shape, self.table.dtype)
        return Cache(empty, empty, 0)


def stacked(block: Callable[[nnx.Rngs], nnx.Module], layers: int, rngs: nnx.Rngs):
    """So many blocks in one, their parameters stacked."""

    @nnx.split_rngs(splits=layers)
    @nnx.vmap(in_axes=0, out_axes=0)
    def stack(rngs: nnx.Rngs) -> nnx.Module:
        return block(rngs)

    return stack(rngs)


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
