"""Verifiable inference: this base model with this adapter gives this loss on a sealed prompt.

The user seals the prompt and the deltas it received, and proves that its base model, with those
deltas added, reads certain activations (sealed as well) and gives a public loss. The contributors
prove about the same commitments that the deltas are what their adapters answer to those
activations. Together the proofs convince someone who saw none of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import zkjax
from zkjax import wire
from zkjax._arguments import checked, typed
from zkjax._marks import NewPath
from zkjax.errors import SessionError, StatementError, VerificationError
from zkjax.files import read_capped, write_atomically
from zkjax.fixed.types import Array
from zkjax.models.config import ModelConfig
from zkjax.program.dtypes import DTYPE_RANGES
from zkjax.program.trace import trace_call
from zkjax.proof import Commitment
from zkjax.proofs.adapter.arithmetic import Arithmetic
from zkjax.proofs.adapter.manifest import Manifest
from zkjax.proofs.adapter.record import MAX_PROOF
from zkjax.proofs.adapter.session import Session
from zkjax.proofs.adapter.statement import (
    activations,
    answers,
    example,
    make_differences,
    make_inference,
    require_valid,
)
from zkjax.proofs.calibration import Calibration
from zkjax.proofs.finetune import LOSS_FRACTION, Weights, stored_like
from zkjax.sealed import Sealed
from zkjax.verify import require_profile, verify_statement

__all__ = ["Inference", "prove_inference", "verify_inference"]

# What a file may make a verifier allocate: tokens of a sequence, and deltas.
MAX_LENGTH = 1 << 14
MAX_ELEMENTS = 1 << 26
MAX_TEXT = 1 << 20  # bytes of inference.json


@dataclass
class Part:
    """One contributor's share of a verifiable inference."""

    manifest: Manifest
    xs: Commitment
    deltas: Commitment
    body: bytes
    session: bytes  # the digest of the session's frames, to which the body is bound


@dataclass
class Inference:
    """What a third party checks. Base model and prompt are arrays if public, else commitments.

    Attributes:
      tokens: (batch, length + 1) int32, or its commitment.
      loss: the mean cross-entropy, an integer with 16 fraction bits.
      formats: of the fixed point in which the base model is run; None for the default ones.
    """

    config: ModelConfig
    base: Any
    tokens: Any
    loss: int
    body: bytes
    parts: list[Part]
    profile: str
    formats: Calibration | None = None

    @property
    def real_loss(self) -> float:
        return self.loss * 2.0**-LOSS_FRACTION

    @checked
    def save(self, folder: NewPath) -> None:
        """Write the proofs and everything public but the base model and a public prompt."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        parts = []
        for i, part in enumerate(self.parts):
            write_atomically(folder / f"adapter-{i}.zkp", part.body)
            write_atomically(
                folder / f"adapter-{i}.range.zkp", part.manifest.commitment.range_proof or b""
            )
            parts.append(
                {
                    "manifest": part.manifest.encode().decode(),
                    "xs": part.xs.identity(),
                    "deltas": part.deltas.identity(),
                    "session": part.session.hex(),
                }
            )
        write_atomically(folder / "inference.zkp", self.body)
        data = {
            "loss": self.loss,
            "profile": self.profile,
            "tokens": _told(self.tokens),
            "base": _told(self.base),
            "parts": parts,
        }
        write_atomically(folder / "inference.json", json.dumps(data, indent=1).encode())

    @classmethod
    @typed
    def load(
        cls,
        folder: str | Path,
        config: ModelConfig,
        base: Any,
        tokens: Any = None,
        formats: Calibration | None = None,
    ) -> Inference:
        """Read what ``save`` wrote, for the base model, formats and prompt that the reader has in
        mind: arrays, or commitments that it expects; a prompt left out is the one that was sealed.
        """
        folder = Path(folder)
        try:
            told = read_capped(folder / "inference.json", MAX_TEXT)
            data = wire.parse(told, "inference.json", MAX_TEXT)
            parts = []
            for i, told in enumerate(data["parts"]):
                manifest = Manifest.decode(told["manifest"].encode())
                range_proof = read_capped(folder / f"adapter-{i}.range.zkp", MAX_PROOF)
                commitment = replace(manifest.commitment, range_proof=range_proof)
                parts.append(
                    Part(
                        replace(manifest, commitment=commitment),
                        Commitment.from_json(told["xs"]),
                        Commitment.from_json(told["deltas"]),
                        read_capped(folder / f"adapter-{i}.zkp", MAX_PROOF),
                        wire.hexadecimal(32, 32)(told["session"], "session"),
                    )
                )
            if tokens is None:
                tokens = Commitment.from_json(data["tokens"])
            body = read_capped(folder / "inference.zkp", MAX_PROOF)
            loss, profile = int(data["loss"]), str(data["profile"])
            return cls(config, base, tokens, loss, body, parts, profile, formats)
        except (SessionError, StatementError):
            raise
        except Exception as error:  # whatever the files hold
            raise StatementError(f"{folder} is not a saved inference ({error})") from error


def _told(value: Any) -> dict | None:
    commitment = getattr(value, "commitment", value)
    return commitment.identity() if isinstance(commitment, Commitment) else None


@typed
def prove_inference(
    session: Session, base: Weights | Sealed, tokens: Array | Sealed, *, seal_tokens: bool = True
) -> Inference:
    """Score a prompt together with the contributors, and prove the loss to third parties.

    Args:
      session: a fresh session; it is finished here.
      base: the stored base weights, or the ``Sealed`` value of them (then the model stays private).
      tokens: (batch, length + 1) int32; the loss is that of predicting tokens[:, 1:]. A ``Sealed``
        value of them keeps its commitment, which others may know beforehand.
    Returns:
      proofs and commitments; ``Inference.save`` writes them, ``verify_inference`` checks them.
    """
    prompt: Any = tokens if isinstance(tokens, Sealed) else None
    scored: Any = tokens if prompt is None else prompt.tree
    require_dyadic(jax.numpy.shape(scored))
    if not isinstance(base, Sealed) and not session.arithmetic.is_stored(base):
        raise SessionError("base", "it is not the stored base model of this session")
    if not session.peers:
        raise SessionError("record", "there is no contributor in this session")
    profile = session.peers[0].manifest.commitment.profile
    if any(p.manifest.commitment.profile != profile for p in session.peers):
        raise SessionError("profile", "the contributors' commitments have different profiles")
    for peer in session.peers:
        if peer.record.size:
            raise SessionError("record", "the session has been used; open another", peer.name)
    session.score(scored[:, :-1])
    deltas = [zkjax.seal(p.record.deltas, openings=2, profile=profile) for p in session.peers]
    if prompt is None:
        prompt = zkjax.seal(scored, openings=1, profile=profile) if seal_tokens else scored
    function, sealed_outputs = _inference_of(
        session.arithmetic, [p.manifest for p in session.peers]
    )
    session.progress("prove the forward pass")
    (xs, loss), proof = zkjax.prove(
        function, sealed_outputs=sealed_outputs, profile=profile, openings=1
    )(base, prompt, *deltas)
    parts = []
    for peer, x, d in zip(session.peers, xs, deltas, strict=True):
        if any(not np.array_equal(x.tree[g], peer.record.xs[g]) for g in x.tree):
            raise SessionError("record", "the session did not score exactly this prompt", peer.name)
        part = Part(peer.manifest, x.commitment, d.commitment, b"", peer.digest)

        def check(body: bytes, part=part) -> None:
            part.body = body
            _verify_part(part, scored[:, 1:].size, profile)

        session.progress(f"prove {peer.name}")
        peer.finish_sealed([x.commitment, d.commitment], x.share() + d.share(), check)
        parts.append(part)
    formats = session.arithmetic.formats
    return Inference(session.config, base, prompt, int(loss), proof.body, parts, profile, formats)


def require_dyadic(shape: Sequence[int]) -> None:
    """The mean of a sealed prompt's losses is exact for a power of two of tokens only."""
    if len(shape) != 2:
        raise StatementError(f"tokens of shape {tuple(shape)}; they are (batch, length + 1)")
    batch, length = shape
    count = batch * (length - 1)
    if count < 1 or count & (count - 1):
        raise StatementError(
            f"{batch} x {length - 1} tokens are no power of two; a sealed inference needs one "
            "(--sequences, --length)"
        )


def _inference_of(arithmetic: Arithmetic, manifests: Sequence[Manifest]):
    parts = tuple((m.layers, m.fractions[1] - m.log2_scale) for m in manifests)
    return make_inference(arithmetic, parts), ([True] * len(manifests), False)


def require_manifests(found: Sequence[Manifest], expected: Sequence[str | bytes]) -> None:
    """VerificationError unless these are the expected digests, or none are expected."""
    if expected and len(expected) != len(found):
        raise VerificationError("manifest", f"{len(found)} adapters, {len(expected)} expected")
    for manifest, digest in zip(found, expected, strict=False):
        manifest.require_digest(digest)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise VerificationError("claims", what)


def _tokens_of(prompt: Any) -> int:
    """The tokens that a prompt (batch, length + 1), or a commitment to one, sends to each site."""
    shapes = prompt.shapes if isinstance(prompt, Commitment) else (np.shape(prompt),)
    dtypes = prompt.dtypes if isinstance(prompt, Commitment) else (prompt.dtype.name,)
    _require(len(shapes) == len(dtypes) == 1 and len(shapes[0]) == 2, "not one prompt")
    _require(dtypes[0] in DTYPE_RANGES, "the prompt is not of integers")
    batch, length = shapes[0]
    _require(batch >= 1 and 2 <= length <= MAX_LENGTH, "the prompt's shape")
    return batch * (length - 1)


def _structured(commitment: Commitment, example: Any) -> Commitment:
    """The commitment as a pytree of shapes; VerificationError if it has others."""
    leaves = jax.tree.leaves(example)
    _require(
        commitment.shapes == tuple(x.shape for x in leaves)
        and commitment.dtypes == tuple(x.dtype.name for x in leaves),
        "a commitment has other shapes",
    )
    return commitment.like(example)


def _verify_part(part: Part, tokens: int, profile: str) -> None:
    """The contributor's proof: the committed deltas answer the committed activations."""
    manifest = part.manifest
    _require(manifest.commitment.profile == profile, "an adapter has another profile")
    args = (
        _structured(manifest.commitment, example(manifest)),
        _structured(part.xs, activations(manifest, tokens)),
        _structured(part.deltas, answers(manifest, tokens)),
    )
    traced = trace_call(make_differences(manifest.dtype, manifest.fractions), args)
    zeros = [np.broadcast_to(0, x.shape) for x in jax.tree.leaves(
        answers(manifest, tokens))]  # fmt: skip
    claims = traced.claims(args, profile, zeros, context=manifest.digest + part.session)
    verify_statement(traced.statement, zkjax.Proof(claims, part.body))


@typed
def verify_inference(
    inference: Inference,
    least: str = "s100",
    manifests: Sequence[str | bytes] = (),
    *,
    digest: str | None = None,
) -> float:
    """Check all proofs of a verifiable inference; returns the loss.

    Base model and prompt are those in ``inference``, which the caller put there. The adapters are
    those of its manifests; with ``manifests``, digests (hex) in order, they must be these. With
    ``digest``, which names the base model, they must be for it.
    Nothing else but the proofs is believed.

    Raises:
      VerificationError: naming the proof and the check that fails.
    """
    require_profile(inference.profile, least)
    _require(type(inference.loss) is int and -(2**31) <= inference.loss < 2**31, "the loss")
    _require(bool(inference.parts), "no adapter")
    require_manifests([p.manifest for p in inference.parts], manifests)
    prompt = getattr(inference.tokens, "commitment", inference.tokens)
    base = getattr(inference.base, "commitment", inference.base)
    tokens = _tokens_of(prompt)
    widest = sum(len(p.manifest.layers) * sum(o for _, o in p.manifest.targets.values())
                 for p in inference.parts)  # fmt: skip
    _require(tokens * widest <= MAX_ELEMENTS, "too many deltas to verify")
    arithmetic = Arithmetic(inference.config, inference.formats)
    if isinstance(base, Commitment):
        like = stored_like(inference.config, base)
        _require(like is not None, "a commitment has other shapes")
        base = base.like(like)
    else:
        same = arithmetic.is_stored(base)
        _require(same, "the base model has other shapes than its configuration")
    for i, part in enumerate(inference.parts):
        try:
            require_valid(part.manifest, config=inference.config, base=digest, least=least)
            _verify_part(part, tokens, inference.profile)
        except VerificationError as error:
            raise VerificationError(error.check, f"adapter {i}: {error.detail}") from error
    function, sealed = _inference_of(arithmetic, [p.manifest for p in inference.parts])
    deltas = [_structured(p.deltas, answers(p.manifest, tokens)) for p in inference.parts]
    if isinstance(prompt, Commitment):
        prompt = prompt.like(0)
    args = (base, prompt, *deltas)
    traced = trace_call(function, args, sealed)
    xs = [p.xs for p in inference.parts]
    claims = traced.claims(args, inference.profile, [np.asarray(inference.loss)], xs)
    verify_statement(traced.statement, zkjax.Proof(claims, inference.body))
    return inference.real_loss
