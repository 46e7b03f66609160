"""The provable functions of the adapter check, on stored integers.

Arrays of a session, one a key, stacked over layers:
``xs``      {group: (layers, tokens, inputs)} int16, activations in units of the user;
``deltas``  {target: (layers, tokens, outputs)} int32, (x A) B in these units over 2 to the
            fraction bits of B.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import zkjax
from zkjax import fixed
from zkjax.errors import SessionError
from zkjax.models.config import INPUT_GROUPS, ModelConfig
from zkjax.models.decoder import mean_loss
from zkjax.models.registry import bind
from zkjax.proofs.adapter.arithmetic import ACTIVATION_BITS, Arithmetic
from zkjax.proofs.adapter.manifest import MASTER_FRACTION, WEIGHT_FRACTION, Manifest
from zkjax.proofs.finetune import LOSS_FRACTION
from zkjax.verify import require_profile, verify_ranges

WEIGHT_BITS = 16
GROUP_OF = {target: group for group, targets in INPUT_GROUPS.items() for target in targets}


@lru_cache(maxsize=8)
def make_deltas(dtype: str, fractions: tuple[int, int] = (WEIGHT_FRACTION,) * 2) -> Callable:
    """(adapter, xs) -> deltas as int64: what the contributor proves about a session.

    (x A) is rounded to the unit of x, (x A) B is exact. ``dtype`` and ``fractions`` are those of a
    manifest: int32 weights are rounded first, as the model does that was trained.
    """

    def weight(stored, fraction: int):
        if dtype == "int16":
            return fixed.decode(stored, fraction)
        return fixed.round(fixed.decode(stored, MASTER_FRACTION), fraction, WEIGHT_BITS)

    def deltas(adapter, xs):
        out = {}
        for target, parts in adapter.items():
            a, b = (weight(parts[k], f) for k, f in zip("ab", fractions, strict=True))
            x = fixed.decode(xs[GROUP_OF[target]], 0)
            product = fixed.round(x @ a, 0, ACTIVATION_BITS) @ b
            out[target] = (product * 2.0 ** fractions[1]).astype(jnp.int64)
        return out

    return deltas


@lru_cache(maxsize=8)
def make_differences(dtype: str, fractions: tuple[int, int] = (WEIGHT_FRACTION,) * 2) -> Callable:
    """(adapter, xs, deltas) -> computed - given deltas: all zero if the deltas are right.

    The contributor's statement when activations and deltas are sealed too.
    """
    compute = make_deltas(dtype, fractions)

    def differences(adapter, xs, deltas):
        computed = compute(adapter, xs)
        return {t: computed[t] - deltas[t].astype(jnp.int64) for t in computed}

    return differences


@lru_cache(maxsize=8)
def make_inference(
    arithmetic: Arithmetic, parts: tuple[tuple[tuple[int, ...], int], ...]
) -> Callable:
    """(base, tokens (batch, length + 1), deltas of each contributor) -> (xs of each, loss).

    The user's statement about sealed activations: this base model, with these deltas added, reads
    these activations and gives this mean cross-entropy (int32, 16 fraction bits). ``parts`` are the
    layers of the contributors, and the fraction bits that their deltas have beyond those of the
    activations; the delta pytrees say the targets.
    """
    config, numerics = arithmetic.config, arithmetic.numerics

    def inference(base, tokens, *given):
        batch, length = tokens.shape[0], tokens.shape[1] - 1
        total: dict[str, Any] = {}
        for (layers, fraction), deltas in zip(parts, given, strict=True):
            for target, value in deltas.items():
                group = GROUP_OF[target]
                scaled = fixed.decode(value, arithmetic.fraction(group) + fraction)
                scaled = scaled.reshape(len(layers), batch, length, -1)
                scaled = scaled * _units(-arithmetic.shifts(group)[list(layers)])
                spread = over_layers(scaled, layers, config.num_hidden_layers)
                total[target] = total[target] + spread if target in total else spread

        def deltas_of(layer, _):
            return lambda group, x: {t: layer[t] for t in INPUT_GROUPS[group] if t in layer}

        model = bind(config, arithmetic.decode(base))
        logits, seen, _ = model.run(tokens[:, :-1], numerics, deltas_of, total, record=True)
        loss = fixed.encode(mean_loss(logits, tokens[:, 1:], numerics), LOSS_FRACTION)
        xs = []
        for (layers, _), deltas in zip(parts, given, strict=True):
            groups = sorted({GROUP_OF[t] for t in deltas})
            stored = {
                g: fixed.encode(
                    seen[g] * _units(arithmetic.shifts(g)), arithmetic.fraction(g), jnp.int16
                ).reshape(config.num_hidden_layers, batch * length, -1)
                for g in groups
            }
            xs.append({g: jnp.concatenate([x[i : i + 1] for i in layers]) if
                       list(layers) != list(range(config.num_hidden_layers)) else x
                       for g, x in stored.items()})  # fmt: skip
        return xs, loss

    return inference


def _units(shifts: np.ndarray):
    """2^shifts for (layers, batch, length, size), 1 where there are none."""
    return 2.0 ** shifts.reshape(-1, 1, 1, 1) if shifts.any() else 1.0


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


def one_token_digest(manifest: Manifest) -> str:
    """The digest that a manifest pins: the statement about one token."""
    function = make_deltas(manifest.dtype, manifest.fractions)
    private = zkjax.Private(example(manifest), ranged=True)
    return zkjax.trace(function)(private, activations(manifest, 1)).digest.hex()


def require_valid(
    manifest: Manifest,
    *,
    config: ModelConfig | None = None,
    base: str | None = None,
    expected: str | bytes | None = None,
    least: str = "s100",
) -> None:
    """All that whoever relies on a manifest checks first, user, verifier and third party alike.

    Args:
      manifest: with the range proof in its commitment.
      config, base: the base model that the adapter must fit, and its digest.
      expected: the digest that the manifest must have.
      least: the least security profile.
    Raises:
      SessionError, VerificationError: it contradicts itself or the base model, is another one, is
        committed with less security, names another statement than its contributor would prove, or
        its weights are not proved to be in range.
    """
    manifest.check()
    if config is not None:  # before anything is computed: it bounds every size in the manifest
        manifest.require_base(config, base)
    if expected is not None:
        manifest.require_digest(expected)
    require_profile(manifest.commitment.profile, least)
    if manifest.statement != one_token_digest(manifest):
        raise SessionError("manifest", "it names another statement than its contributor proves")
    verify_ranges(manifest.commitment)
