"""``zkjax adapter check`` as a function: score text with served adapters and check the proofs.

The base model is the demo's, a byte-level LLaMA; its weights are public.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zkjax.digests import read_digest
from zkjax.errors import SessionError, StatementError, VerificationError
from zkjax.files import new_folder, read_start
from zkjax.models.config import LlamaConfig
from zkjax.models.data import batches, documentation
from zkjax.models.pretrain import load_demo_base
from zkjax.proof import Commitment
from zkjax.proofs.adapter.credentials import read_certificate, read_token
from zkjax.proofs.adapter.inference import (
    Inference,
    prove_inference,
    require_dyadic,
    require_manifests,
    verify_inference,
)
from zkjax.proofs.adapter.record import Record, verify_session
from zkjax.proofs.adapter.session import Session, loss_of
from zkjax.proofs.adapter.transport import connect, require_address

MAX_SCORES = 1 << 24  # attention scores of one head


@dataclass(frozen=True)
class Server:
    """Where a contributor serves, and what the user knows about it beforehand."""

    url: str
    token: str
    ca: Path | None
    manifest: str | None


@dataclass
class Report:
    """What a check found. Seconds are measured in this run."""

    base_loss: float
    loss: float
    seconds: dict[str, float]
    records: dict[str, Record] = field(default_factory=dict)
    text: bytes | None = None
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


def sequences_of(path: Path | None, count: int, length: int) -> np.ndarray:
    """(count, length + 1) byte tokens of a text; by default a sample of Python's documentation."""
    if count * length**2 > MAX_SCORES:
        raise StatementError(
            f"{count} sequences of {length} tokens take too much memory; sequences x length^2 may "
            f"be {MAX_SCORES:,}"
        )
    if path is None:
        return next(batches(documentation(), count, length, seed=1)).astype(np.int32)
    need = count * (length + 1)
    data = np.frombuffer(read_start(path, need), dtype=np.uint8)
    if len(data) < need:
        raise StatementError(
            f"{path} has {len(data)} bytes; {count} sequences of {length + 1} take {need}"
        )
    return data[:need].reshape(count, length + 1).astype(np.int32)


def check_demo(
    contributors: Sequence[Server],
    tokens: np.ndarray,
    *,
    prompt: bytes | None = None,
    steps: int = 0,
    out: Path | None = None,
    seal: bool = False,
    least: str = "s100",
    progress: Callable[[str], None] = lambda message: None,
) -> Report:
    """Score ``tokens`` with and without the adapters, and check the contributors' proofs.

    Args:
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

    def opened() -> Session:
        channels = {}
        try:
            for s in contributors:
                channels[s.url] = connect(s.url, s.token, ca=s.ca)
        except BaseException:
            for channel in channels.values():
                channel.close()
            raise
        pinned = {s.url: s.manifest for s in contributors if s.manifest is not None}
        return Session(
            LlamaConfig(), base, channels, manifests=pinned, least=least, progress=progress
        )

    if prompt is not None and not prompt:
        raise StatementError("the prompt is empty")
    if prompt is not None and (len(prompt) + steps) ** 2 > MAX_SCORES:
        most = int(MAX_SCORES**0.5)
        raise StatementError(f"prompt and --tokens may be {most:,} tokens together")
    if seal:
        require_dyadic(tokens.shape)
    if out is not None:
        new_folder(out)
    base = load_demo_base()
    with timed("connect and pin", opened) as session:
        targets = tokens[:, 1:]
        base_loss = loss_of(session.base_score(tokens[:, :-1]), targets)
        if seal:
            inference: Inference = timed(
                "score and prove", lambda: prove_inference(session, base, tokens)
            )
            inference.save(out)
            loss = timed("verify", lambda: verify_inference(inference, least))
            records = {p.name: p.record for p in session.peers}
            return Report(base_loss, loss, seconds, records, prompt=inference.tokens.commitment)
        loss = loss_of(timed("score", lambda: session.score(tokens[:, :-1])), targets)
        text = None
        if prompt is not None:
            start = np.frombuffer(prompt, np.uint8).astype(np.int32)[None]
            text = bytes(timed("generate", lambda: session.generate(start, steps))[0].tolist())
        records = timed("prove and verify", session.finish)
    if out is not None:
        for i, record in enumerate(records.values()):
            record.save(out if len(records) == 1 else out / str(i))
    return Report(base_loss, loss, seconds, records, text)


def verify_kept(
    folder: Path,
    least: str = "s100",
    manifests: Sequence[str] = (),
    prompt: str | None = None,
) -> Record | Inference:
    """Verify what ``check_demo`` kept: a session, or a sealed inference of the demo's base model.

    With ``manifests`` the adapters must be these, in this order; with ``prompt`` the commitment to
    the text of a sealed inference must have this digest (hex).
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
        inference = Inference.load(folder, LlamaConfig(), load_demo_base())
        verify_inference(inference, least, manifests)
        if pinned is not None and pinned != inference.tokens.digest:
            raise VerificationError("claims", "the prompt has another commitment")
        return inference
    if pinned is not None:
        raise StatementError(f"{folder} is a session; it has no commitment to a prompt")
    record = verify_session(folder, least, config=LlamaConfig())
    require_manifests([record.manifest], manifests)
    return record
