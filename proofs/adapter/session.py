"""The user's session: a base model run together with one or more contributors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from zkjax import fixed
from zkjax._arguments import checked, typed
from zkjax._compat import x64
from zkjax._marks import Between, Itself
from zkjax.errors import SessionError, ValueRangeError
from zkjax.fixed.types import HostArray
from zkjax.models.adapter import no_deltas
from zkjax.models.config import ModelConfig
from zkjax.models.decoder import Cache, mean_loss
from zkjax.models.numerics import FixedPoint
from zkjax.models.registry import bind
from zkjax.proofs.adapter.arithmetic import Arithmetic
from zkjax.proofs.adapter.peer import Channel, Peer
from zkjax.proofs.adapter.record import Limits, Record
from zkjax.proofs.calibration import Calibration
from zkjax.proofs.finetune import LOSS_FRACTION


class Session:
    """Runs a LLaMA with adapters that stay with their owners. Deltas of one site are added.

    Args:
      config, base: the model and its stored weights, as ``store_base`` gives them.
      formats: of the fixed point it runs in, from ``calibrate(..., between_parties=True)``; without
        them weights have 12 fraction bits.
      digest: names the base model (``models.checkpoint.model_digest``), so that adapters for
        another one are refused.
      channels: {name: channel} of the contributors; the name appears in errors.
      manifests: {name: digest} of adapters that are known beforehand.
      least: the least security profile accepted.
      limits: what a session may use.
      progress: called with "layer i of n" and the like.

    The methods return fixed-point values as float64, equal bit for bit to a local run with the
    same adapters. Close the session with ``finish``; as a context manager it is abandoned if
    anything fails.
    """

    @typed
    def __init__(
        self,
        config: ModelConfig,
        base: Any,
        channels: Mapping[str, Annotated[Channel, Itself()]],
        *,
        formats: Calibration | None = None,
        digest: str | None = None,
        manifests: Mapping[str, str | bytes] | None = None,
        least: str = "s100",
        limits: Limits | None = None,
        progress: Callable[[str], None] = lambda message: None,
    ):
        expected = dict(manifests or {})
        if unknown := set(expected) - set(channels):
            raise SessionError(
                "options", f"manifests of {sorted(unknown)}, channels of {sorted(channels)}"
            )
        for name, channel in channels.items():
            if not hasattr(channel, "receive"):
                raise SessionError(
                    "options", "not a channel; use contributor.connect() or adapter.connect", name
                )
        arithmetic = Arithmetic(config, formats)
        if not arithmetic.is_stored(base):
            raise SessionError(
                "base", "its arrays are not int16 of the shapes that the configuration has"
            )
        self.arithmetic, self.config, self.progress = arithmetic, config, progress
        self.peers: list[Peer] = []
        with x64():
            self._model = bind(config, jax.tree.map(np.asarray, arithmetic.decode(base)))
        try:
            for name, channel in channels.items():
                progress(f"pin {name}")
                pinned = expected.get(name)
                self.peers.append(
                    Peer(
                        channel,
                        name,
                        least=least,
                        limits=limits,
                        config=config,
                        base=digest,
                        manifest=pinned,
                        progress=progress,
                    )
                )
        except BaseException:
            self.close()
            for channel in channels.values():
                channel.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave all contributors."""
        for peer in self.peers:
            peer.abandon()

    def score(self, tokens: Any) -> np.ndarray:
        """Logits (batch, length, vocabulary) of tokens (batch, length) with the adapters."""
        return self._run(self._checked(tokens), None)[0]

    def base_score(self, tokens: Any) -> np.ndarray:
        """The same without any adapter; nothing is sent."""
        tokens = self._checked(tokens)
        with x64():
            return np.asarray(self._model.run(jnp.asarray(tokens), self.arithmetic.numerics)[0])

    @typed
    def generate(self, tokens: Any, steps: Annotated[int, Between(0, 1 << 20)]) -> np.ndarray:
        """Greedy continuation: tokens (batch, length + steps); each token is sent once."""
        tokens = self._checked(tokens)
        with x64():
            cache = self._model.empty_cache(len(tokens), tokens.shape[1] + steps)
        new = tokens
        for i in range(steps):
            self.progress(f"token {i + 1} of {steps}")
            logits, cache = self._run(new, cache)
            new = np.argmax(logits[:, -1:], axis=-1).astype(tokens.dtype)
            tokens = np.concatenate([tokens, new], axis=1)
        return tokens

    def _checked(self, tokens: Any) -> np.ndarray:
        size = self.config.vocab_size
        try:
            tokens = np.asarray(tokens)
        except (TypeError, ValueError):  # lists of different lengths
            tokens = np.asarray(None)
        inside = tokens.dtype.kind in "iu" and tokens.ndim == 2 and tokens.size > 0
        if not inside or tokens.min() < 0 or tokens.max() >= size:
            raise SessionError(
                "tokens",
                f"they are integers of shape (batch, length), from 0 to {size - 1}; "
                f"got {tokens.dtype} of shape {tokens.shape}",
            )
        return tokens

    def finish(self) -> dict[str, Record]:
        """Have every contributor prove its answers, and check the proofs.

        Returns:
          the verified records by name; ``Record.save`` keeps one.
        Raises:
          VerificationError, SessionError: naming the contributor.
        """
        records = {}
        for peer in self.peers:
            self.progress(f"prove {peer.name}")
            records[peer.name] = peer.finish()
        return records

    def _run(self, tokens, cache: Cache | None) -> tuple[np.ndarray, Cache | None]:
        with x64():
            logits, _, cache = self._model.run(
                jnp.asarray(tokens),
                self.arithmetic.numerics,
                self._deltas_of,
                np.arange(self.config.num_hidden_layers),
                scan=False,
                cache=cache,
            )
            return np.asarray(logits), cache

    def _deltas_of(self, layer, _) -> Callable:
        index = int(layer)
        self.progress(f"layer {index + 1} of {self.config.num_hidden_layers}")
        mine = [p for p in self.peers if index in p.manifest.layers]
        return (lambda group, x: self._ask(mine, index, group, x)) if mine else no_deltas

    def _ask(self, peers: list[Peer], layer: int, group: str, x) -> dict[str, Any]:
        unit = self.arithmetic.fraction(group) + int(self.arithmetic.shifts(group)[layer])
        values = np.asarray(x) * 2.0**unit
        if np.abs(values + 0.5).max() > 2**15:
            raise ValueRangeError(
                f"layer {layer}, {group}: an activation of {np.abs(x).max():.1f} does not fit the "
                f"fixed point of this model, which holds numbers below {2.0 ** (15 - unit):g}"
            )
        if (values != np.rint(values)).any():
            raise SessionError("internal", f"layer {layer}, {group}: an activation is not rounded")
        stored = values.reshape(-1, values.shape[-1]).astype(np.int16)
        total: dict[str, Any] = {}
        for peer in peers:
            if group not in peer.manifest.groups():
                continue
            fraction = unit + peer.manifest.fractions[1] - peer.manifest.log2_scale
            for target, delta in peer.deltas(layer, group, stored).items():
                shape = (*values.shape[:-1], delta.shape[-1])
                real = delta.reshape(shape) * 2.0**-fraction
                total[target] = total[target] + real if target in total else real
        return total


@checked
def loss_of(logits: HostArray, targets: HostArray, numerics: FixedPoint | None = None) -> float:
    """Mean cross-entropy in fixed point, rounded to 16 fraction bits as in fine-tuning proofs."""
    if np.ndim(logits) != 3 or np.shape(logits)[:2] != np.shape(targets):
        raise SessionError(
            "tokens",
            f"logits of shape {np.shape(logits)} and targets of {np.shape(targets)}; they are "
            "(batch, length, vocabulary) and (batch, length)",
        )
    with x64():
        loss = mean_loss(jnp.asarray(logits), jnp.asarray(targets), numerics or FixedPoint())
        return float(fixed.encode(loss, LOSS_FRACTION)) * 2.0**-LOSS_FRACTION
