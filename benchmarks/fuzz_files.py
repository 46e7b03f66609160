"""Change the three files of honest proofs at random, and see what the verifier says and spends.

Usage: python benchmarks/fuzz_files.py [DIR ...] --count 100000 --seed 1

Each DIR holds the files of one proof, as ``zkjax demo`` writes them; without one, small programs
are proved first. Some changes know the structure: a number, shape, operation or message is
replaced, and digests are computed again. Others flip, cut and insert bytes. Every file must be
refused with a check of its own or as unusable, unless it still says the same; within ``SECONDS``
more CPU than the honest files take and ``PEAK`` more memory, in a process forked from one that has
verified the honest files. Anything else is reported and ends in exit status 1.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from soundness.hostile import FILES, encoded, measured, packed, taken_apart, verdict  # noqa: E402

SECONDS = 2.0
PEAK = 100 << 20
UNVERIFIED = ("unusable", "read", "unchanged", "says the same")
BATCH = 100  # files that one fork looks at
RESULTS = ROOT / "benchmarks" / "results" / "fuzz-files.json"
NUMBERS = [-1, 0, 1, 2, 3, 4, 7, 16, 63, 64, 255, 1 << 16, 1 << 20, 1 << 26, 1 << 40, 1 << 62]
THINGS = [None, True, False, 1.5, "", "x", "affine", "int8", [], [1], [[1]], {}, {"x": 1}]
WORDS = [bytes(8), b"\xff" * 8, (2**64 - 2**32 + 1).to_bytes(8, "little"), b"\1" + bytes(7)]
TOKENS = [b"[", b"]", b"{", b"}", b",", b":", b'"', b"-", b"0", b"9" * 30, b"1.0", b"1e9", b"NaN",
          b"null", b"true", b"\\", b"\\u0031", b" ", b"\n", b"[]," * 50, b"[" * 50, b"\xd9\xa1",
          b'"ops":[],', b'"statement": "00",']  # fmt: skip


@dataclass
class Honest:
    """The files of one proof, and what they hold."""

    name: str
    statement: bytes
    claims: bytes
    proof: bytes
    seconds: float = 0.0

    def __post_init__(self):
        self.header, self.integers = taken_apart(self.statement)
        self.told = json.loads(self.claims)
        self.raw = encoded(self.header, self.integers)

    def about(self, raw: bytes, claims: bytes | None = None) -> tuple[bytes, bytes, bytes]:
        """The files with another encoding of the statement, and claims about that one."""
        file = packed(raw)
        old = self.told["statement"].encode()
        claims = (claims or self.claims).replace(old, file[16:48].hex().encode())
        return file, claims, self.proof

    def same(self, files: tuple[bytes, bytes, bytes]) -> bool:
        """Whether these files say what the honest ones say; a statement may be packed
        differently.
        """
        statement = files[0] == self.statement
        if not statement and files[0][:48] == self.statement[:48]:
            from zkjax.program.statement import Statement

            statement = Statement.decode(files[0]).program.encode() == self.raw
        return statement and files[1:] == (self.claims, self.proof)


# Changes ------------------------------------------------------------------------------------


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes flipped, cut out, doubled or replaced."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        at = rng.randrange(len(out) + 1)
        size = rng.choice([1, 1, 4, 8, 100, 5000])
        match rng.randrange(6):
            case 0:
                del out[at : at + size]
            case 1:
                out[at:at] = out[at : at + size]
            case 2:
                out[at:at] = rng.randbytes(size)
            case 3:
                out[at : at + size] = rng.randbytes(min(size, len(out) - at))
            case _:
                if at < len(out):
                    out[at] ^= 1 << rng.randrange(8)
    return bytes(out)


def retyped(text: bytes, rng: random.Random) -> bytes:
    """A token of JSON put in, or in the place of a few bytes."""
    at = rng.randrange(len(text))
    return text[:at] + rng.choice(TOKENS) + text[at + rng.choice([0, 0, 1, 2, 8]) :]


def edited(value, rng: random.Random):
    """A JSON value of which one random part is another one."""
    value = copy.deepcopy(value)
    node, key = value, rng.choice(list(value))
    while True:
        child = node[key]
        if not isinstance(child, list | dict) or not child or rng.random() < 0.1:
            break
        node, key = child, rng.choice(list(child) if isinstance(child, dict) else range(len(child)))
    old = node[key]
    match rng.randrange(8):
        case 0:
            node[key] = rng.choice(THINGS)
        case 1 if isinstance(node, list):
            node.insert(key, copy.deepcopy(old))
        case 2 if isinstance(node, list):
            del node[key]
        case 3 if isinstance(node, list):
            other = rng.randrange(len(node))
            node[key], node[other] = node[other], node[key]
        case 4 if isinstance(node, dict):
            del node[key]
        case 5 if isinstance(node, dict):
            node[rng.choice(["x", "0", "1", "00"])] = old
        case _ if type(old) is int:
            node[key] = rng.choice([*NUMBERS, old + 1, old - 1, -old, 2 * old])
        case _ if isinstance(old, str):
            node[key] = rng.choice([old + "0", old[:-1], old.upper(), "é", "\ud800", old * 40])
        case _:
            node[key] = rng.choice([*THINGS, *NUMBERS])
    return value


def resized(value, old: int, new: int):
    """Every number ``old`` of a JSON value replaced: an axis gets another length everywhere."""
    if isinstance(value, list):
        return [resized(v, old, new) for v in value]
    if isinstance(value, dict):
        return {k: resized(v, old, new) for k, v in value.items()}
    return new if type(value) is int and value == old else value


def grown(header: dict, rng: random.Random) -> dict:
    """Operations put behind the last: chains that move, split and merge their operands."""
    header = copy.deepcopy(header)
    ops = header["ops"]
    for _ in range(rng.choice([1, 5, 60])):
        var = rng.randrange(max(0, len(ops) - 3), len(ops))
        s = ops[var][2]
        flat = [1]
        for n in s:
            flat[0] *= n
        n = rng.choice([2, 1000, 1 << 20, 1 << 26])
        ops.append(
            rng.choice(
                [
                    ["affine", [var, var], s, [[1, rng.choice(NUMBERS)], rng.choice(NUMBERS)]],
                    ["affine", [var, rng.randrange(len(ops))], s, [[1, 1], 0]],
                    ["reverse", [var], s, [list(range(len(s)))]],
                    ["multiply", [var, var], s, []],
                    ["broadcast", [var], [n, *s], [list(range(1, len(s) + 1)), s]],
                    ["reshape", [var], flat, [s]],
                    ["sum", [var], [], [list(range(len(s))), s]],
                    ["max", [var], s[:-1], []],
                    ["contract", [var, var], s, [[[i, i] for i in range(len(s))], []]],
                ]
            )
        )
    header["zeros"].append(len(ops) - 1)  # so that the claims still fit
    return header


def changed_statement(h: Honest, rng: random.Random) -> tuple[str, tuple[bytes, bytes, bytes]]:
    header, integers, claims = h.header, h.integers, None
    kind = rng.choice(["part", "part", "parts", "axis", "grown", "text", "integers", "bytes"])
    if kind in ("part", "parts"):
        for _ in range(1 if kind == "part" else rng.randrange(2, 6)):
            header = edited(header, rng)
    elif kind == "axis":
        old = rng.choice([n for op in header["ops"] for n in op[2]] or [2])
        new = rng.choice([*NUMBERS, old + 1, old - 1])
        header = resized(header, old, new)
        claims = json.dumps(resized(h.told, old, new), indent=1).encode()
    elif kind == "grown":
        header = grown(header, rng)
    elif kind == "integers":
        words = bytearray(integers)
        at = 8 * rng.randrange(max(1, len(words) // 8))
        words[at : at + 8] = rng.choice([*WORDS, rng.randbytes(8), rng.randbytes(2) + bytes(6)])
        integers = bytes(words)
    text: dict | bytes = header
    if kind == "text":
        text = retyped(h.raw[8 : len(h.raw) - len(integers)], rng)
    raw = encoded(text, integers)
    if kind == "bytes":
        raw = damaged(h.raw, rng)
    return kind, h.about(raw, claims)


def changed_claims(h: Honest, rng: random.Random) -> tuple[str, tuple[bytes, bytes, bytes]]:
    kind = rng.choice(["part", "part", "parts", "text"])
    told = h.told
    for _ in range({"part": 1, "parts": 3}.get(kind, 0)):
        told = edited(told, rng)
    claims = json.dumps(told, indent=1).encode()
    if kind == "text":
        claims = retyped(h.claims, rng)
    return kind, (h.statement, claims, h.proof)


def changed_proof(h: Honest, rng: random.Random) -> tuple[str, tuple[bytes, bytes, bytes]]:
    kind = rng.choice(["bit", "bit", "word", "cut", "longer", "bytes"])
    proof = bytearray(h.proof)
    at = rng.randrange(len(proof))
    if kind == "bit":
        proof[at] ^= 1 << rng.randrange(8)
    elif kind == "word":
        at -= at % 8
        proof[at : at + 8] = rng.choice([*WORDS, rng.randbytes(8)])
    elif kind == "cut":
        del proof[at:]
    elif kind == "longer":
        proof += rng.randbytes(rng.choice([1, 8, 1000]))
    else:
        proof = bytearray(damaged(h.proof, rng))
    return kind, (h.statement, h.claims, bytes(proof))


def damaged_file(h: Honest, rng: random.Random) -> tuple[str, tuple[bytes, bytes, bytes]]:
    if rng.random() < 0.5:
        return "claims", (h.statement, damaged(h.claims, rng), h.proof)
    return "statement", (damaged(h.statement, rng), h.claims, h.proof)


# (name, change, weight); a changed proof is always verified, which takes longest.
CHANGES = (
    ("statement", changed_statement, 50),
    ("claims", changed_claims, 32),
    ("raw bytes", damaged_file, 16),
    ("proof", changed_proof, 2),
)


# Runs ---------------------------------------------------------------------------------------


def batch(honest: list[Honest], seed: int, count: int, share: float) -> list:
    """[(change, program, answer, detail, seconds, memory above the start)] of ``count`` files."""
    import resource

    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng, out = random.Random(seed), []
    weights = [weight for _, _, weight in CHANGES]
    for _ in range(count):
        h = rng.choice(honest)
        name, change, _ = rng.choices(CHANGES, weights)[0]
        kind, files = change(h, rng)
        if files == (h.statement, h.claims, h.proof):
            out.append([f"{name}, {kind}", h.name, "unchanged", "", 0.0, 0])
            continue
        before = time.process_time()
        answer, detail = verdict(*files, verify=name == "proof" or rng.random() < share)
        seconds = time.process_time() - before
        peak = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)
        if answer in ("accepted", "read") and h.same(files):
            answer = "says the same"
        out.append([f"{name}, {kind}", h.name, answer, detail[:300], seconds, peak])
        if seconds > h.seconds + SECONDS or peak > PEAK:
            out[-1][2] = "EXPENSIVE: " + answer
            break
    return out


def make(folder: Path) -> None:
    """Prove small programs that together have every kind of operation."""
    import numpy as np
    from soundness.programs import SMALL, every_hint, every_hint_input

    import zkjax

    for name, (fn, x) in SMALL.items():

        def both(a, scale, fn=fn):
            return fn(a), (scale.astype(np.float64) * 2.0).astype(np.int16)

        args = zkjax.seal(x, openings=1), np.array([5, 6], dtype=np.int8)
        write(folder / name, both, args, (True, False))
    write(folder / "every_hint", every_hint, (every_hint_input(),), False)


def write(folder: Path, fn, args, sealed_outputs) -> None:
    import zkjax

    folder.mkdir()
    statement = zkjax.trace(fn, sealed_outputs=sealed_outputs)(*args)
    _, proof = zkjax.prove(fn, sealed_outputs=sealed_outputs)(*args)
    contents = statement.encode(), proof.claims.to_json().encode(), proof.encode()
    for name, data in zip(FILES, contents, strict=True):
        (folder / name).write_bytes(data)


def load(folders: list[Path]) -> list[Honest]:
    honest = []
    for folder in folders:
        h = Honest(folder.name, *((folder / name).read_bytes() for name in FILES))
        before = time.process_time()
        answer = verdict(h.statement, h.claims, h.proof)
        h.seconds = time.process_time() - before
        if answer[0] != "accepted":
            raise SystemExit(f"{folder}: the honest files are refused: {answer}")
        honest.append(h)
    return honest


class Tally:
    """What all batches saw."""

    def __init__(self, honest: list[Honest]):
        self.honest = honest
        self.changes: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.seeds: list[int] = []
        self.bad: list[str] = []
        self.slowest, self.largest = ("", 0.0), ("", 0)

    def add(self, seed: int, rows: list | None) -> None:
        """Count a batch; print what should not have happened."""
        before, self.seeds = len(self.bad), [*self.seeds[:1], seed]
        if rows is None:
            self.bad.append(f"seed {seed}: the process was killed")
        for change, program, answer, detail, seconds, peak in rows or ():
            self.changes[change] += 1
            self.answers[answer] += 1
            what = f"{change} of {program} (seed {seed}): {answer}"
            self.slowest = max(self.slowest, (what, seconds), key=lambda v: v[1])
            self.largest = max(self.largest, (what, peak), key=lambda v: v[1])
            if answer == "accepted" or answer.startswith(("UNTYPED", "EXPENSIVE")):
                self.bad.append(f"{what}: {detail} ({seconds:.2f} s, {peak >> 20} MB)")
        for line in self.bad[before:]:
            print(line, flush=True)

    def report(self) -> dict:
        return {
            "files": sum(self.changes.values()),
            "verified": sum(n for a, n in self.answers.items() if a not in UNVERIFIED),
            "seeds": self.seeds,
            "programs": [h.name for h in self.honest],
            "changes": dict(sorted(self.changes.items())),
            "answers": dict(self.answers.most_common()),
            "slowest": {"file": self.slowest[0], "cpu_seconds": round(self.slowest[1], 3)},
            "slowest_honest_cpu_seconds": round(max(h.seconds for h in self.honest), 3),
            "largest": {"file": self.largest[0], "megabytes": self.largest[1] >> 20},
            "bad": self.bad,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, metavar="DIR", nargs="*")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--verify",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="of the changed statements and claims that can be read, how many are verified too",
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--make", type=Path, help="only prove the small programs, into this folder")
    options = parser.parse_args()
    if options.make:
        make(options.make)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folders = options.folders
        if not folders:
            # A process of its own, so that what is forked here has no JAX in it.
            command = [sys.executable, __file__, "--make", temporary]
            subprocess.run(command, check=True)
            folders = sorted(Path(temporary).iterdir())
        honest = load(folders)
    tally = Tally(honest)
    first = options.seed * 1_000_000
    for seed in range(first, first + -(-options.count // BATCH)):
        cost = measured(lambda s=seed: batch(honest, s, BATCH, options.verify))
        tally.add(seed, cost.answer)
        if (seed + 1) % 100 == 0:
            print(f"{sum(tally.changes.values()):,} files", flush=True)
            options.out.write_text(json.dumps(tally.report(), indent=1) + "\n")
    options.out.write_text(json.dumps(tally.report(), indent=1) + "\n")
    print(json.dumps(tally.report(), indent=1))
    return 1 if tally.bad else 0


if __name__ == "__main__":
    sys.exit(main())
