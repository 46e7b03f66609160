"""Kill processes that seal, save, spend and prove, and see what is left of their sealed values.

Usage: python benchmarks/kill_seals.py --kills 200 --disk --out benchmarks/results/kill-seals.json

Every kill starts a process that does one of four things over and over, and ends it by SIGKILL at a
random moment. What it said before it died tells how many proofs may have left. Then every file must
load or be absent, every value that was saved must still be there, no opening may be gained, none
may be lost but the one that was being taken, and the value must be of use again. ``--disk`` (root
only) does the four things on a file system that is full.

Exit status 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import zkjax
from zkjax.errors import SealError
from zkjax.files import new_folder

WORK = ("seal", "save", "spend", "prove")
X = np.arange(-3, 5, dtype=np.int8)
OPENINGS = 12
LONGEST = 1.0  # seconds after which a process is killed at the latest


def double(leaves):
    return (leaves[0].astype(jnp.float64) * 2.0).astype(jnp.int16)


def say(*words) -> None:
    """One line that the parent reads even if this process dies right after it."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def saved(folder: Path, number: int) -> zkjax.Sealed:
    value = zkjax.seal([X], openings=OPENINGS)
    say("saving", number)
    value.save(folder / str(number))
    say("saved", number)
    return value


def work(kind: str, folder: Path) -> None:
    """Do one thing until killed."""
    value = zkjax.seal([X], openings=OPENINGS)
    if kind == "prove":
        zkjax.prove(double)(value)
    say("ready")
    number = 0
    while True:
        if kind == "seal" or value.path is None or not value.remaining:
            value, number = saved(folder, number), number + 1
        name = value.path.name
        if kind == "save":
            say("saving", name)
            value.save(value.path)
            say("saved", name)
        if kind == "spend":
            say("taking", name)
            value.spend()
            say("took", name)
        if kind == "prove":
            say("taking", name)
            zkjax.prove(double)(value)
            say("took", name)


def killed(kind: str, folder: Path, chance: random.Random) -> list[list[str]]:
    """What a process said before it was killed. It is a fork, which is sound as long as this
    process has computed nothing.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.dup2(theirs, 1)
            work(kind, folder)
        finally:
            os._exit(1)
    os.close(theirs)
    with open(ours) as told:
        if told.readline() != "ready\n":
            raise RuntimeError("a process failed before it was killed")
        time.sleep(chance.uniform(0, LONGEST))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return [line.split() for line in told]


def inspected(folder: Path, said: list[list[str]], found: Counter) -> None:
    """Compare what is there with what was said."""
    told = {name: Counter() for _, name in said}
    for word, name in said:
        told[name][word] += 1
    for name, words in told.items():
        begun, done = words["taking"], words["took"]
        found["openings taken"] += done
        try:
            value = zkjax.Sealed.load(folder / name)
        except FileNotFoundError:
            found["never saved"] += 1
            found["saved values that are gone"] += words["saved"] > 0
            continue
        except SealError:
            found["values that do not load"] += 1
            continue
        found["values that load"] += 1
        left = value.remaining
        found["openings lost"] += max(0, OPENINGS - begun - left)
        found["openings gained"] += max(0, left - (OPENINGS - done))
        found["openings taken without being told"] += OPENINGS - done - left
        try:
            if left:
                value.spend()
            value.save(value.path)
        except (SealError, OSError):
            found["values of no use"] += 1
        found["openings gained"] += value.remaining != max(0, left - 1)
    known = re.compile(r"\d+|[0-9a-f]{64}\.openings|\.zkjax\.lock")
    names = [path.name for path in folder.iterdir() if not known.fullmatch(path.name)]
    found["temporary files left"] += len(names)
    modes = {path.stat().st_mode & 0o077 for path in folder.iterdir()}
    found["files that others can read"] += bool(modes - {0})


def full_disk() -> dict[str, int]:
    """The same work on a full file system of 2 MiB: refused, and nothing lost."""
    found: Counter = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ["-t", "tmpfs", "-o", "size=2m,mode=700", "none", name]
        subprocess.run(["mount", *options], check=True)
        try:
            value = zkjax.seal([X], openings=OPENINGS)
            value.save(folder / "0")
            with open(folder / "ballast", "wb", buffering=0) as ballast:
                try:
                    while True:
                        ballast.write(bytes(4096))
                except OSError:
                    pass
            calls = (
                value.spend,
                lambda: zkjax.prove(double)(value),
                lambda: value.save(value.path),
                lambda: zkjax.seal([X]).save(folder / "1"),
            )
            for call in calls:
                try:
                    call()
                    found["done"] += 1
                except (SealError, OSError):
                    found["refused"] += 1
            loaded = zkjax.Sealed.load(folder / "0")
            found["openings lost"] = OPENINGS - loaded.remaining - found["done"]
            found["half a file"] = (folder / "1").exists()
            (folder / "ballast").unlink()
            loaded.spend()
            left = OPENINGS - found["done"] - 1
            found["openings lost"] += left - zkjax.Sealed.load(folder / "0").remaining
        finally:
            subprocess.run(["umount", name], check=True)
    return dict(found)


BAD = (
    "saved values that are gone",
    "values that do not load",
    "values of no use",
    "openings lost",
    "openings gained",
    "files that others can read",
    "half a file",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disk", action="store_true", help="also work on a full file system")
    parser.add_argument("--out", type=Path, help="write the figures here")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    zkjax.enable_kernel_cache()
    warnings.filterwarnings("ignore", "os.fork")
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as name:
        folders = [new_folder(Path(name) / str(number)) for number in range(args.kills)]
        kinds = [WORK[number % len(WORK)] for number in range(args.kills)]
        said = [killed(*each, chance) for each in zip(kinds, folders, strict=True)]
        for kind, folder, words in zip(kinds, folders, said, strict=True):
            found = results.setdefault(kind, Counter(dict.fromkeys(BAD[:-1], 0)))
            found["kills"] += 1
            inspected(folder, words, found)
    if args.disk:
        results["full disk"] = full_disk()
    for kind, found in results.items():
        print(kind, json.dumps(found))
    if args.out:
        machine = {"system": platform.system(), "python": platform.python_version()}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"machine": machine, "kills": args.kills, "results": results}, indent=1)
        args.out.write_text(text + "\n")
    return int(any(found.get(name) for found in results.values() for name in BAD))


if __name__ == "__main__":
    sys.exit(main())
