"""What a file costs a verifier: seconds and bytes of a process that is forked from a loaded parent.

``python tests/soundness/hostile.py FOLDER`` runs ``zkjax verify`` and ``zkjax inspect`` on every
folder inside FOLDER, each in a process of its own, and prints what came of it as JSON. The parent
has verified the folder named ``honest``, so that a child pays for its own file only. NumPy only.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

FILES = ("statement.zks", "claims.json", "proof.zkp")
MOST_SECONDS = 120  # of a child, whatever happens


class Cost(NamedTuple):
    """What ``measured`` saw: the action's answer (None if it did not end), CPU seconds, bytes."""

    answer: Any
    seconds: float
    peak: int


def measured(action: Callable[[], Any]) -> Cost:
    """Run ``action`` in a fork: its JSON answer, its CPU seconds, and by how much its memory rose
    above what the parent handed over.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
            before = resource.getrusage(resource.RUSAGE_SELF)
            answer = action()
            after = resource.getrusage(resource.RUSAGE_SELF)
            peak = 1024 * (after.ru_maxrss - before.ru_maxrss)
            seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            with os.fdopen(write, "w") as pipe:
                json.dump([answer, seconds, peak], pipe)
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return Cost(*json.loads(told)) if told else Cost(None, float(MOST_SECONDS), 0)


def verdict(statement: bytes, claims: bytes, proof: bytes, verify: bool = True) -> tuple[str, str]:
    """ "accepted", the check that refused, "unusable" or "UNTYPED", and what was said; "read" if
    all can be read, fits together and is not to be verified.
    """
    from zkjax.errors import StatementError, VerificationError
    from zkjax.program.statement import Statement
    from zkjax.proof import Claims, Proof
    from zkjax.protocol import Setup
    from zkjax.verify import verify_statement

    try:
        loaded = Statement.decode(statement)
        told = Claims.from_json(claims)
        decoded = Proof.decode(proof, told)
        if not verify:
            Setup(loaded, told).require_length(decoded.body)
            return "read", ""
        verify_statement(loaded, decoded)
    except VerificationError as error:
        # A refusal that nobody wrote down hides what a check should have said.
        if error.check == "malformed input":
            return "UNTYPED", str(error)
        return error.check, error.detail
    except StatementError as error:
        return "unusable", str(error)
    except Exception as error:
        return "UNTYPED", f"{type(error).__name__}: {error}"
    return "accepted", ""


def command(*args: str) -> tuple[int, str]:
    """Exit code and text of a ``zkjax`` command in this process."""
    from zkjax.cli.main import app

    with tempfile.TemporaryFile("w+") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        try:
            app(list(args), prog_name="zkjax")
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        out.seek(0)
        return code, out.read(4000)


# Files --------------------------------------------------------------------------------------


def packed(raw: bytes, size: int | None = None, body: bytes | None = None) -> bytes:
    """A statement file of an encoding, its digest computed again; size and body may lie."""
    import hashlib

    size = len(raw) if size is None else size
    digest = hashlib.blake2s(raw, person=b"zkj.stmt").digest()
    body = zlib.compress(raw, 1) if body is None else body
    return b"ZKJXSTM1" + size.to_bytes(8, "little") + digest + body


def taken_apart(statement: bytes) -> tuple[dict, bytes]:
    """The header and the integers behind it of a statement file."""
    raw = zlib.decompress(statement[48:])
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def encoded(header: dict | bytes, integers: bytes = b"") -> bytes:
    """An encoding: of a header as it is written, or of any text in its place."""
    if isinstance(header, dict):
        header = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    return len(header).to_bytes(8, "little") + header + integers


def main() -> None:
    root = Path(sys.argv[1])
    honest = [(root / "honest" / name).read_bytes() for name in FILES]
    if verdict(*honest)[0] != "accepted":
        raise SystemExit("the honest files are refused")
    results = {}
    for folder in sorted(root.iterdir()):
        for name in ("verify", "inspect"):
            cost = measured(lambda n=name, f=folder: command(n, str(f)))
            results[f"{folder.name} {name}"] = cost
    print(json.dumps(results))


if __name__ == "__main__":
    main()
