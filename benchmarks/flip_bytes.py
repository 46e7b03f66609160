"""Flip single bits of a demo's three files and count which check refuses each.

Usage: python benchmarks/flip_bytes.py DIR --count 2000

DIR holds proof.zkp, statement.zks and claims.json, as ``zkjax demo`` writes them. A flip may pass
only if the file still says the same: a claims file or a packed statement has a few bits without
meaning. Any other acceptance, and any untyped exception, is reported and ends in exit status 1.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

from zkjax.argument.transcript import VerifierTranscript
from zkjax.errors import StatementError, VerificationError
from zkjax.program.statement import Statement
from zkjax.proof import Claims, Proof
from zkjax.verify import verify_statement

PROOF, STATEMENT, CLAIMS = "proof.zkp", "statement.zks", "claims.json"
HEADER = 16  # magic and profile of a proof file


def outcome(files: dict[str, bytes], original: tuple[Statement, Claims], changed: str) -> str:
    """What the verifier says to a folder of which one file was changed."""
    statement, claims = original
    try:
        if changed == STATEMENT:
            statement = Statement.decode(files[STATEMENT])
        if changed == CLAIMS:
            claims = Claims.from_json(files[CLAIMS].decode("latin-1"))
        same = statement.digest == original[0].digest and claims.to_json() == original[1].to_json()
        if changed != PROOF and same:
            return "unchanged meaning"
        verify_statement(statement, Proof.decode(files[PROOF], claims))
    except VerificationError as error:
        return error.check
    except StatementError:
        return f"malformed {changed}"
    except Exception as error:
        return f"UNTYPED {type(error).__name__}"
    return "ACCEPTED"


def regions(statement: Statement, claims: Claims, proof: bytes) -> list[tuple[str, int, int]]:
    """(kind, start, size) of every message of the proof file."""
    read, out = VerifierTranscript.read, [("header", 0, HEADER)]

    def recorded(self, kind: str, n: int) -> bytes:
        out.append((kind, self._position + HEADER, n))
        return read(self, kind, n)

    with mock.patch.object(VerifierTranscript, "read", recorded):
        verify_statement(statement, Proof.decode(proof, claims))
    return [r for r in out if r[2]]


def positions(count: int, spans, sizes: dict[str, int], rng: random.Random):
    """(file, region, position): a tenth in the statement, a tenth in the claims, the rest spread
    evenly over the kinds of messages of the proof."""
    kinds: dict[str, list[tuple[int, int]]] = {}
    for kind, start, size in spans:
        kinds.setdefault(kind, []).append((start, size))
    names = list(kinds)
    for i in range(count):
        if i % 10 == 8:
            yield STATEMENT, STATEMENT, rng.randrange(sizes[STATEMENT])
        elif i % 10 == 9:
            yield CLAIMS, CLAIMS, rng.randrange(sizes[CLAIMS])
        else:
            kind = names[i % len(names)]
            start, size = rng.choice(kinds[kind])
            yield PROOF, kind, start + rng.randrange(size)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    files = {name: (options.folder / name).read_bytes() for name in (PROOF, STATEMENT, CLAIMS)}
    original = Statement.decode(files[STATEMENT]), Claims.from_json(files[CLAIMS].decode())
    spans = regions(*original, files[PROOF])
    rng = random.Random(options.seed)
    sizes = {name: len(data) for name, data in files.items()}
    table: Counter[tuple[str, str]] = Counter()
    for name, region, position in positions(options.count, spans, sizes, rng):
        data = bytearray(files[name])
        data[position] ^= 1 << rng.randrange(8)
        table[region, outcome({**files, name: bytes(data)}, original, name)] += 1
    width = max(len(region) for region, _ in table)
    print(f"{'region':{width}}  {'flips':>6}  answer")
    for (region, answer), n in sorted(table.items()):
        print(f"{region:{width}}  {n:6}  {answer}")
    bad = sum(n for (_, answer), n in table.items() if answer.startswith(("ACCEPTED", "UNTYPED")))
    unchanged = sum(n for (_, answer), n in table.items() if answer == "unchanged meaning")
    total = sum(table.values())
    print(
        f"{total} flips: {total - bad - unchanged} refused, {unchanged} without meaning, {bad} bad"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
