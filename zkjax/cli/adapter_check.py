"""``zkjax adapter check`` as a function: score text with served adapters and check the proofs.

The weights of the base model are public.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from zkjax.cli.base import Base, describe_base, load_base
from zkjax.digests import read_digest
from zkjax.errors import SessionError, StatementError, VerificationError
from zkjax.files import new_folder
from zkjax.models.config import ModelConfig
from zkjax.models.numerics import Float
from zkjax.proof import Commitment
from zkjax.proofs.adapter.arithmetic import Arithmetic
from zkjax.proofs.adapter.credentials import read_certificate, read_token
from zkjax.proofs.adapter.inference import (
    Inference,
    prove_inference,
    require_dyadic,
    require_manifests,
    verify_inference,
)
from zkjax.proofs.adapter.peer import Channel, Peer
from zkjax.proofs.adapter.record import Record, verify_session
from zkjax.proofs.adapter.session import Session, loss_of
from zkjax.proofs.adapter.transport import connect, require_address
from zkjax.proofs.finetune import FineTuning, make_loss

FORMATS = "formats.json"  # in the folder of a kept session


@dataclass(frozen=True)
class Server:
    """Where a contributor serves, and what the user knows about it beforehand."""

    url: str
    token: str
    ca: Path | None
    manifest: str | None


@dataclass
class Report:
    """What a check found. Losses are those of the base model in float32, of the same in fixed
    point, and with the adapters. Seconds are measured in this run.
    """

    float_loss: float
    base_loss: float
    loss: float
    seconds: dict[str, float]
    records: dict[str, Record] = field(default_factory=dict)
    text: str | None = None
    prompt: Commitment | None = None  # of a sealed inference


def servers(
    urls: Sequence[str], tokens: Sequence[Path], cas: Sequence[Path], manifests: Sequence[str]
) -> list[Server]:
    """One server a URL; options given once hold for all."""

    def spread(values: Sequence, name: str) -> list:
        if len(values) not in (1, len(urls)) and values:
            raise SessionError("options", f"{len(urls)} addresses but {len(values)} of {name}")
        return list(values) * len(urls) if len(values) == 1 else list(values) or [None] * len(urls)

    if len({url.rstrip("/") for url in urls}) != len(urls):
        raise SessionError("options", "an address is named twice")
    if len(manifests) not in (0, len(urls)):
        raise SessionError("options", "name a manifest for every address, or none")
    for url in urls:
        require_address(url)
    for manifest in manifests:
        read_digest(manifest)
    for ca in cas:
        read_certificate(ca)
    known = [read_token(path) for path in spread(tokens, "--token-file")]
    rest = spread(cas, "--ca"), list(manifests) or [None] * len(urls)
    return [Server(*each) for each in zip(urls, known, *rest, strict=True)]


def float_loss(config: ModelConfig, parameters: Any, tokens: np.ndarray) -> float:
    """Mean cross-entropy of the base model in float32, one sequence at a time."""
    loss = jax.jit(make_loss(FineTuning(model=config, numerics=Float())))
    return float(np.mean([loss(parameters, None, t[None]) for t in tokens]))


def check_adapters(
    base: Base,
    contributors: Sequence[Server],
    tokens: np.ndarray,
    *,
    formats: Path | None = None,
    prompt: str | None = None,
    steps: int = 0,
    out: Path | None = None,
    seal: bool = False,
    least: str = "s100",
    progress: Callable[[str], None] = lambda message: None,
) -> Report:
    """Score ``tokens`` with and without the adapters, and check the contributors' proofs.

    Args:
      formats: the file of the fixed point to run in; chosen from the tokens if not given.
      prompt, steps: also continue this text by so many tokens.
      out: where to keep the session: a folder a contributor, or with ``seal`` one inference that
        third parties can verify.
    """
    seconds: dict[str, float] = {}
    clock = time.perf_counter

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = clock()
        result = call()
        seconds[name] = clock() - start
        return result

    start = None if prompt is None else base.prompt(prompt, steps)
    if seal:
        require_dyadic(tokens.shape)
    if out is not None:
        new_folder(out)
    channels = _connected(contributors)
    for s in contributors:  # whatever is wrong with them is found before the base model is run
        Peer(
            channels[s.url],
            s.url,
            config=base.config,
            base=base.digest,
            manifest=s.manifest,
            least=least,
        ).abandon()
    plain = timed("float32", lambda: float_loss(base.config, base.parameters, tokens))
    base = timed("formats", lambda: base.with_formats(formats, tokens))
    numerics = Arithmetic(base.config, base.formats).numerics

    def opened() -> Session:
        channels = _connected(contributors)
        pinned = {s.url: s.manifest for s in contributors if s.manifest is not None}
        return Session(
            base.config,
            base.stored,
            channels,
            formats=base.formats,
            digest=base.digest,
            manifests=pinned,
            least=least,
            progress=progress,
        )

    if out is not None and base.formats is not None:
        base.formats.save(out / FORMATS)
    with timed("connect and pin", opened) as session:
        targets = tokens[:, 1:]
        base_loss = loss_of(session.base_score(tokens[:, :-1]), targets, numerics)
        if seal:
            inference: Inference = timed(
                "score and prove", lambda: prove_inference(session, base.stored, tokens)
            )
            inference.save(out)
            loss = timed("verify", lambda: verify_inference(inference, least))
            records = {p.name: p.record for p in session.peers}
            sealed = inference.tokens.commitment
            return Report(plain, base_loss, loss, seconds, records, prompt=sealed)
        scored = timed("score", lambda: session.score(tokens[:, :-1]))
        loss = loss_of(scored, targets, numerics)
        text = None
        if start is not None:
            text = base.text(timed("generate", lambda: session.generate(start, steps))[0])
        records = timed("prove and verify", session.finish)
    if out is not None:
        for i, record in enumerate(records.values()):
            record.save(out if len(records) == 1 else out / str(i))
    return Report(plain, base_loss, loss, seconds, records, text)


def _connected(contributors: Sequence[Server]) -> dict[str, Channel]:
    channels: dict[str, Channel] = {}
    try:
        for s in contributors:
            channels[s.url] = connect(s.url, s.token, ca=s.ca)
    except BaseException:
        for channel in channels.values():
            channel.close()
        raise
    return channels


def verify_kept(
    folder: Path,
    base: Path | None = None,
    formats: Path | None = None,
    least: str = "s100",
    manifests: Sequence[str] = (),
    prompt: str | None = None,
) -> Record | Inference:
    """Verify what ``check_adapters`` kept: a session, or a sealed inference.

    ``base`` is the directory of the base model, the demo's by default; the formats of a sealed
    inference are those of a file, or else those that were kept with it. With ``manifests`` the
    adapters must be these, in this order; with ``prompt`` the commitment to the text of a sealed
    inference must have this digest (hex).
    """
    pinned = None if prompt is None else read_digest(prompt)
    for manifest in manifests:
        read_digest(manifest)
    if (folder / "statement.zks").exists():
        raise StatementError(f"{folder} is not a kept session; use zkjax verify")
    if not any((folder / name).exists() for name in ("manifest.json", "inference.json")):
        if inside := sorted(path.parent for path in folder.glob("*/manifest.json")):
            command = f"zkjax adapter verify {inside[0]}"
            raise StatementError(f"{folder} holds {len(inside)} kept sessions; use {command}")
        raise StatementError(f"{folder} holds no kept session (no manifest.json)")
    if (folder / "inference.json").exists():
        kept = folder / FORMATS
        chosen = formats or (kept if base is not None or kept.exists() else None)
        run = load_base(base).with_formats(chosen, ())
        inference = Inference.load(folder, run.config, run.stored, formats=run.formats)
        verify_inference(inference, least, manifests, digest=run.digest)
        if pinned is not None and pinned != inference.tokens.digest:
            raise VerificationError("claims", "the prompt has another commitment")
        return inference
    if pinned is not None:
        raise StatementError(f"{folder} is a session; it has no commitment to a prompt")
    config, digest = describe_base(base)
    record = verify_session(folder, least, config=config, base=digest)
    require_manifests([record.manifest], manifests)
    return record
