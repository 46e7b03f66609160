"""The provable functions of the adapter check, on stored integers.

Arrays of a session, one a key, stacked over layers:
``xs``      {group: (layers, tokens, inputs)} int16, activations with 11 fraction bits;
``deltas``  {target: (layers, tokens, outputs)}, (x A) B with 11 + 12 fraction bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import zkjax
from zkjax import fixed
from zkjax.errors import SessionError
from zkjax.models.adapter import lora_delta
from zkjax.models.config import INPUT_GROUPS, LlamaConfig
from zkjax.models.decoder import mean_loss
from zkjax.models.llama import Llama
from zkjax.models.numerics import FixedPoint
from zkjax.proofs.adapter.manifest import (
    ACTIVATION_FRACTION,
    PRODUCT_FRACTION,
    STORED,
    Manifest,
)
from zkjax.proofs.finetune import LOSS_FRACTION, WEIGHT_FRACTION, bind
from zkjax.verify import require_profile, verify_ranges

NUMERICS = FixedPoint()
GROUP_OF = {target: group for group, targets in INPUT_GROUPS.items() for target in targets}


@lru_cache(maxsize=8)
def make_deltas(fraction: int) -> Callable:
    """(adapter, xs) -> deltas as int64: what the contributor proves about a session.

    (x A) is rounded to an activation, (x A) B is exact. Stored weights have ``fraction`` bits and
    are rounded to 12, as the model that was trained does.
    """

    def deltas(adapter, xs):
        out = {}
        for target, parts in adapter.items():
            a, b = (fixed.decode(parts[k], fraction) for k in ("a", "b"))
            x = fixed.decode(xs[GROUP_OF[target]], ACTIVATION_FRACTION)
            product = lora_delta(x, a, b, NUMERICS)
            out[target] = (product * 2.0**PRODUCT_FRACTION).astype(jnp.int64)
        return out

    return deltas


@lru_cache(maxsize=8)
def make_differences(fraction: int) -> Callable:
    """(adapter, xs, deltas) -> computed - given deltas: all zero if the deltas are right.

    The contributor's statement when activations and deltas are sealed too.
    """
    compute = make_deltas(fraction)

    def differences(adapter, xs, deltas):
        computed = compute(adapter, xs)
        return {t: computed[t] - deltas[t].astype(jnp.int64) for t in computed}

    return differences


@lru_cache(maxsize=8)
def make_inference(config: LlamaConfig, parts: tuple[tuple[tuple[int, ...], int], ...]) -> Callable:
    """(base, tokens (batch, length + 1), deltas of each contributor) -> (xs of each, loss).

    The user's statement about sealed activations: this base model, with these deltas added, reads
    these activations and gives this mean cross-entropy (int32, 16 fraction bits). ``parts`` are the
    (layers, log2_scale) of the contributors; the delta pytrees say the targets.
    """

    def inference(base, tokens, *given):
        weights = jax.tree.map(lambda x: fixed.decode(x, WEIGHT_FRACTION), base)
        batch, length = tokens.shape[0], tokens.shape[1] - 1
        total: dict[str, Any] = {}
        for (layers, log2_scale), deltas in zip(parts, given, strict=True):
            for target, value in deltas.items():
                scaled = fixed.decode(value, PRODUCT_FRACTION - log2_scale)
                scaled = scaled.reshape(len(layers), batch, length, -1)
                spread = over_layers(scaled, layers, config.num_hidden_layers)
                total[target] = total[target] + spread if target in total else spread

        def deltas_of(layer):
            return lambda group, x: {t: layer[t] for t in INPUT_GROUPS[group] if t in layer}

        model = bind(config, weights)
        logits, seen, _ = model.run(tokens[:, :-1], NUMERICS, deltas_of, total, record=True)
        loss = fixed.encode(mean_loss(logits, tokens[:, 1:], NUMERICS), LOSS_FRACTION)
        xs = []
        for (layers, _), deltas in zip(parts, given, strict=True):
            groups = sorted({GROUP_OF[t] for t in deltas})
            stored = {
                g: fixed.encode(seen[g], ACTIVATION_FRACTION, jnp.int16).reshape(
                    config.num_hidden_layers, batch * length, -1
                )
                for g in groups
            }
            xs.append({g: jnp.concatenate([x[i : i + 1] for i in layers]) if
                       list(layers) != list(range(config.num_hidden_layers)) else x
                       for g, x in stored.items()})  # fmt: skip
        return xs, loss

    return inference


def over_layers(values, layers: tuple[int, ...], total: int):
    """(len(layers), ...) -> (total, ...), zero in the other layers."""
    if list(layers) == list(range(total)):
        return values
    zero = jnp.zeros((1, *values.shape[1:]), values.dtype)
    rows = {layer: values[i : i + 1] for i, layer in enumerate(layers)}
    return jnp.concatenate([rows.get(layer, zero) for layer in range(total)])


def example(manifest: Manifest) -> Any:
    """The pytree of the committed adapter, with shapes for leaves."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.dtype(manifest.dtype)),
        manifest.structure(),
        is_leaf=lambda x: isinstance(x, tuple),
    )


def activations(manifest: Manifest, tokens: int) -> dict[str, Any]:
    """``xs`` of a session as shapes."""
    n = len(manifest.layers)
    return {
        g: jax.ShapeDtypeStruct((n, tokens, manifest.inputs(g)), np.dtype(np.int16))
        for g in manifest.groups()
    }


def answers(manifest: Manifest, tokens: int) -> dict[str, Any]:
    """``deltas`` of a session as shapes, int32 as they are sent."""
    n = len(manifest.layers)
    return {
        t: jax.ShapeDtypeStruct((n, tokens, outputs), np.dtype(np.int32))
        for t, (_, outputs) in manifest.targets.items()
    }


def stored_base(config: LlamaConfig) -> Any:
    """The stored base weights of a configuration as shapes."""
    state = nnx.eval_shape(lambda: nnx.split(Llama(config, rngs=nnx.Rngs(0)))[1])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, np.dtype(np.int16)), nnx.to_pure_dict(state)
    )


def is_stored_base(base: Any, config: LlamaConfig) -> bool:
    """Whether arrays have the structure, shapes and types of a stored base model."""
    leaves, form = jax.tree.flatten(base)
    wanted, wanted_form = jax.tree.flatten(stored_base(config))
    return [form] == [wanted_form] and all(
        np.shape(x) == e.shape and getattr(x, "dtype", None) == e.dtype
        for x, e in zip(leaves, wanted, strict=True)
    )


def one_token_digest(manifest: Manifest) -> str:
    """The digest that a manifest pins: the statement about one token."""
    function = make_deltas(STORED[manifest.dtype])
    private = zkjax.Private(example(manifest), ranged=True)
    return zkjax.trace(function)(private, activations(manifest, 1)).digest.hex()


def require_valid(
    manifest: Manifest,
    *,
    config: LlamaConfig | None = None,
    expected: str | bytes | None = None,
    least: str = "s100",
) -> None:
    """All that whoever relies on a manifest checks first, user, verifier and third party alike.

    Args:
      manifest: with the range proof in its commitment.
      config: the base model that the adapter must fit.
      expected: the digest that the manifest must have.
      least: the least security profile.
    Raises:
      SessionError, VerificationError: it contradicts itself or the base model, is another one, is
        committed with less security, names another statement than its contributor would prove, or
        its weights are not proved to be in range.
    """
    manifest.check()
    if config is not None:  # before anything is computed: it bounds every size in the manifest
        manifest.require_base(config)
    if expected is not None:
        manifest.require_digest(expected)
    require_profile(manifest.commitment.profile, least)
    if manifest.statement != one_token_digest(manifest):
        raise SessionError("manifest", "it names another statement than its contributor proves")
    verify_ranges(manifest.commitment)
