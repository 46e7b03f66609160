"""The cheapest runs of the demo's model, made once a process."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from zkjax.proofs.training.loop import train
from zkjax.proofs.training.settings import Settings, make_settings

TEXT = "A proof of a step says that it was made as it should be, and nothing else. " * 3
LINES = [
    {"prompt": "two and two? ", "completion": "four"},
    {"prompt": "a colour? ", "completion": "blue, or green"},
    {"prompt": "hello? ", "completion": "hello!"},
]
SMALL = {"base": "demo", "steps": 2, "length": 8, "rank": 1, "alpha": 2.0, "seed": 3, "sessions": 0}


@cache
def home() -> Path:
    folder = Path(tempfile.mkdtemp())
    (folder / "text.txt").write_text(TEXT)
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return folder


def settings(**changes: Any) -> Settings:
    return make_settings({**SMALL, "data": str(home() / "text.txt"), **changes}, {})


MASKED = {"data": "lines.jsonl", "length": 24, "batch": 2}
RUNS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05},
    "adamw": {"learning_rate": 0.01, "schedule": "linear", "warmup_steps": 1, "public_data": True},
    "split": {"learning_rate": 0.01, "split": True},
    "masked": {**MASKED, "optimizer": "sgd", "momentum": 0.5, "public_base": False},
}


@cache
def proved(name: str) -> Path:
    """A run of two proved steps; copy it before changing it."""
    out, changes = home() / name, dict(RUNS[name])
    if "data" in changes:
        changes["data"] = str(home() / changes["data"])
    train(settings(**changes), out)
    return out
