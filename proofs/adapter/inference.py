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
from zkjax.models.config import LlamaConfig
from zkjax.proofs.adapter.manifest import STORED, Manifest
from zkjax.proofs.adapter.session import Session
from zkjax.proofs.adapter.statement import activations, example, make_differences, make_inference
from zkjax.proofs.finetune import LOSS_FRACTION

import zkjax
from zkjax.errors import SessionError, StatementError, VerificationError
from zkjax.files import write_atomically
from zkjax.program.trace import trace_call
from zkjax.proof import Commitment
from zkjax.verify import require_profile, verify_ranges, verify_statement


@dataclass
class Part:
    """One contributor's share of a verifiable inference."""

    manifest: Manifest
    xs: Commitment
    deltas: Commitment
    body: bytes


@dataclass
class Inference:
    """What a third party checks. Base model and prompt are arrays if public, else commitments.

    Attributes:
      tokens: (batch, length + 1) int32, or its commitment.
      loss: the mean cross-entropy, an integer with 16 fraction bits.
    """

    config: LlamaConfig
    base: Any
    tokens: Any
    loss: int
    body: bytes
    parts: list[Part]
    profile: str

    @property
    def real_loss(self) -> float:
        return self.loss * 2.0**-LOSS_FRACTION

    def save(self, folder: str | Path) -> None:
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
    def load(
        cls, folder: str | Path, config: LlamaConfig, base: Any, tokens: Any = None
    ) -> Inference:
        """Read what ``save`` wrote, for the base model and prompt that the reader has in mind:
        arrays, or commitments that it expects; a prompt left out is the one that was sealed.
        """
        folder = Path(folder)
        try:
            data = json.loads((folder / "inference.json").read_bytes())
            parts = []
            for i, told in enumerate(data["parts"]):
                manifest = Manifest.decode(told["manifest"].encode())
                range_proof = (folder / f"adapter-{i}.range.zkp").read_bytes()
                commitment = replace(manifest.commitment, range_proof=range_proof)
                parts.append(
                    Part(
                        replace(manifest, commitment=commitment),
                        Commitment.from_json(told["xs"]),
                        Commitment.from_json(told["deltas"]),
                        (folder / f"adapter-{i}.zkp").read_bytes(),
                    )
                )
            if tokens is None:
                tokens = Commitment.from_json(data["tokens"])
            body = (folder / "inference.zkp").read_bytes()
            return cls(config, base, tokens, int(data["loss"]), body, parts, str(data["profile"]))
        except (SessionError, StatementError):
            raise
        except Exception as error:  # whatever the files hold
            raise StatementError(f"{folder} is not a saved inference ({error})") from error


def _told(value: Any) -> dict | None:
    commitment = getattr(value, "commitment", value)
    return commitment.identity() if isinstance(commitment, Commitment) else None


def prove_inference(
    session: Session, base: Any, tokens: np.ndarray, *, seal_tokens: bool = True
) -> Inference:
    """Score a prompt together with the contributors, and prove the loss to third parties.

    Args:
      session: a fresh session; it is finished here.
      base: the stored base weights, or the ``Sealed`` value of them (then the model stays private).
      tokens: (batch, length + 1) int32; the loss is that of predicting tokens[:, 1:].
    Returns:
      proofs and commitments; ``Inference.save`` writes them, ``verify_inference`` checks them.
    """
    profile = session.peers[0].manifest.commitment.profile
    if any(p.manifest.commitment.profile != profile for p in session.peers):
        raise SessionError("profile", "the contributors' commitments have different profiles")
    session.score(tokens[:, :-1])
    deltas = [zkjax.seal(p.record.deltas, openings=2, profile=profile) for p in session.peers]
    prompt = zkjax.seal(tokens, openings=1, profile=profile) if seal_tokens else tokens
    function, sealed_outputs = _inference_of(session.config, [p.manifest for p in session.peers])
    session.progress("prove the forward pass")
    (xs, loss), proof = zkjax.prove(
        function, sealed_outputs=sealed_outputs, profile=profile, openings=1
    )(base, prompt, *deltas)
    parts = []
    for peer, x, d in zip(session.peers, xs, deltas, strict=True):
        if any(not np.array_equal(x.tree[g], peer.record.xs[g]) for g in x.tree):
            raise SessionError("record", "the session did not score exactly this prompt", peer.name)
        part = Part(peer.manifest, x.commitment, d.commitment, b"")

        def check(body: bytes, part=part) -> None:
            part.body = body
            _verify_part(part)

        session.progress(f"prove {peer.name}")
        peer.finish_sealed([x.commitment, d.commitment], x.share() + d.share(), check)
        parts.append(part)
    return Inference(session.config, base, prompt, int(loss), proof.body, parts, profile)


def _inference_of(config: LlamaConfig, manifests: Sequence[Manifest]):
    parts = tuple((m.layers, m.log2_scale) for m in manifests)
    return make_inference(config, parts), ([True] * len(manifests), False)


def _zero_deltas(manifest: Manifest, tokens: int) -> dict[str, np.ndarray]:
    shape = (len(manifest.layers), tokens)
    return {t: np.zeros((*shape, o), np.int32) for t, (_, o) in manifest.targets.items()}


def _tokens_of(part: Part) -> int:
    """The session's tokens, from the commitment's shapes; they must be a session's shapes."""
    n = part.xs.shapes[0][1] if part.xs.shapes and len(part.xs.shapes[0]) == 3 else 0
    for commitment, tree in (
        (part.xs, activations(part.manifest, n)),
        (part.deltas, _zero_deltas(part.manifest, n)),
    ):
        leaves = jax.tree.leaves(tree)
        if commitment.shapes != tuple(x.shape for x in leaves) or commitment.dtypes != tuple(
            x.dtype.name for x in leaves
        ):
            raise VerificationError("claims", "commitments do not fit the adapter")
    return n


def _verify_part(part: Part) -> None:
    """The contributor's proof: the committed deltas answer the committed activations."""
    n = _tokens_of(part)
    zeros = _zero_deltas(part.manifest, n)
    args = (
        part.manifest.commitment.like(example(part.manifest)),
        part.xs.like(activations(part.manifest, n)),
        part.deltas.like(zeros),
    )
    traced = trace_call(make_differences(STORED[part.manifest.dtype]), args)
    profile = part.manifest.commitment.profile
    claims = traced.claims(args, profile, [zeros[t] for t in sorted(zeros)])
    verify_statement(traced.statement, zkjax.Proof(claims, part.body))


def verify_inference(inference: Inference, least: str = "s100") -> float:
    """Check all proofs of a verifiable inference; returns the loss.

    Base model and prompt are those in ``inference``, which the caller put there; nothing else but
    the proofs is believed.

    Raises:
      VerificationError: naming the proof and the check that fails.
    """
    require_profile(inference.profile, least)
    prompt = getattr(inference.tokens, "commitment", inference.tokens)
    base = getattr(inference.base, "commitment", inference.base)
    for i, part in enumerate(inference.parts):
        verify_ranges(part.manifest.commitment)
        part.manifest.require_base(inference.config)
        try:
            _verify_part(part)
        except VerificationError as error:
            raise VerificationError(error.check, f"adapter {i}: {error.detail}") from error
    function, sealed = _inference_of(inference.config, [p.manifest for p in inference.parts])
    deltas = [p.deltas.like(_zero_deltas(p.manifest, _tokens_of(p))) for p in inference.parts]
    args = (base, prompt, *deltas)
    if not -(2**31) <= inference.loss < 2**31:
        raise VerificationError("claims", "the loss is out of range")
    traced = trace_call(function, args, sealed)
    xs = [p.xs for p in inference.parts]
    claims = traced.claims(args, inference.profile, [np.asarray(inference.loss)], xs)
    verify_statement(traced.statement, zkjax.Proof(claims, inference.body))
    return inference.real_loss
