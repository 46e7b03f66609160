"""Kill fine-tuning runs at random moments, go on, and see whether anything is lost or changed.

Usage: python benchmarks/resume.py --kills 20 --out benchmarks/results/resume.json

A run of ``zkjax finetune`` on the demo's model is made once in peace. The same run is then begun
again and ended by SIGKILL, over and over, and each time resumed. Half of the kills come after a
random time, half at a random change of the run's folder or just behind it, so that some fall on
renames. After each kill ``zkjax verify`` has to accept the steps that have a folder, and every one
that was there before. When the run ends, its adapter is that of the run in peace, byte for byte,
and its metrics have a line for each step; if kills are left, another run begins.

Exit status 1 if anything was lost or changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from zkjax.errors import ZkjaxError
from zkjax.files import new_folder
from zkjax.proofs.training.verification import verify_run

COMMAND = "from zkjax.cli.main import app; app()"
RUN = ("demo", "documentation", "--length", "8", "--batch", "1", "--rank", "1", "--seed", "0")
LONGEST = 600.0  # seconds of a process
JUST_BEHIND = 0.03  # seconds after a change


def started(arguments: list[str], log: Path) -> subprocess.Popen:
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, "finetune", *arguments], stdout=file, stderr=file
        )


def arguments(run: Path, steps: int) -> list[str]:
    """To go on with a run, or to begin it: nothing was begun before there are settings."""
    if (run / "private" / "settings.json").exists():
        return ["--resume", str(run)]
    if run.exists():
        shutil.rmtree(run)
    return [*RUN, "--steps", str(steps), "--out", str(run)]


def names(run: Path) -> frozenset[str]:
    """All names in a run's folder, with their sizes."""
    found = set()
    for folder, _, files in os.walk(run):
        found.add(folder)
        for name in files:
            try:
                found.add(f"{folder}/{name} {os.stat(f'{folder}/{name}').st_size}")
            except OSError:  # it is being renamed
                found.add(f"{folder}/{name}")
    return frozenset(found)


def wait_for_change(process: subprocess.Popen, run: Path, count: int) -> None:
    """Return at the change of the folder with this number, or when the process ends."""
    before = names(run)
    while process.poll() is None and count:
        now = names(run)
        count -= now != before
        before = now


def kill(process: subprocess.Popen, run: Path, rng: random.Random, seconds: float) -> str | None:
    """Kill a process; what was waited for. None if it had ended before."""
    if rng.random() < 0.5:
        number, behind = rng.randint(1, 40), rng.choice((0.0, rng.uniform(0, JUST_BEHIND)))
        wait_for_change(process, run, number)
        time.sleep(behind)
        told = f"change {number}"
    else:
        delay = rng.uniform(0, seconds)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        told = f"{delay:.1f} s"
    if process.poll() is not None:
        return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return told


def proved(run: Path) -> int | str:
    """Steps that verify; a sentence if nothing does."""
    try:
        return verify_run(run, "demo").steps
    except ZkjaxError as error:
        return str(error).replace(f"{run}/", "")


def kept_steps(run: Path) -> int:
    return len(list(run.glob("step-*")))


def wrong_at_end(run: Path, steps: int, expected: bytes) -> list[str]:
    """What is not as in the run in peace."""
    found = []
    if (run / "adapter" / "adapter_model.safetensors").read_bytes() != expected:
        found.append("another adapter")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    if [json.loads(line)["step"] for line in lines] != list(range(1, steps + 1)):
        found.append("metrics lack steps")
    if proved(run) != steps:
        found.append("the finished run does not verify")
    return found


def killed(kills: int, steps: int, place: Path, seed: int) -> dict:
    """All kills; what they hit and what came of it."""
    rng, log, run = random.Random(seed), place / "log", place / "run"
    began = time.monotonic()
    peace = started([*RUN, "--steps", str(steps), "--out", str(place / "peace")], log)
    if peace.wait(LONGEST):
        sys.exit(log.read_text())
    whole = time.monotonic() - began
    expected = (place / "peace" / "adapter" / "adapter_model.safetensors").read_bytes()
    rows, failures, ended, before = [], [], 0, 0
    while True:
        process = started(arguments(run, steps), log)
        told = kill(process, run, rng, whole) if len(rows) < kills else None
        if told is None:
            wrong = ["it ends in an error"] if process.wait(LONGEST) else []
            wrong += wrong_at_end(run, steps, expected)
            failures += [f"after kill {len(rows)}: {what}" for what in wrong]
            ended, before = ended + 1, 0
            shutil.rmtree(run)
            if len(rows) < kills:
                continue
            break
        count, found = kept_steps(run), proved(run)
        drafts = sorted(p.name for p in run.rglob(".new-*"))
        rows.append({"kill": told, "steps": count, "verified": found, "drafts": drafts})
        print(f"{len(rows):3} {told:>10}  {count} steps  {found}  {' '.join(drafts)}", flush=True)
        if count < before or ((run / "start").exists() and found != count):
            failures.append(f"kill {len(rows)}: {before} steps before, {count} now, {found}")
        before = count
    return {
        "kills": rows,
        "steps_a_run": steps,
        "runs_ended": ended,
        "seconds_in_peace": round(whole, 1),
        "failures": failures,
        "machine": platform.processor() or platform.machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="a new one; a temporary one by default")
    parser.add_argument("--out", type=Path)
    told = parser.parse_args()
    place = Path(tempfile.mkdtemp()) if told.folder is None else new_folder(told.folder)
    found = killed(told.kills, told.steps, place, told.seed)
    for failure in found["failures"]:
        print(failure)
    if told.out is not None:
        told.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(found["failures"]))


if __name__ == "__main__":
    main()
