"""Delete the checks of the verifier one at a time and see that a test goes red.

Usage: python tests/mutation.py [--only TEXT] [--list]

Every statement that is a check (a relation, a requirement, a raised refusal) is replaced by
``pass`` in a copy of the sources, and the tests run against that copy until one fails. A check that
no test misses is a survivor; the exit code is the number of survivors. This takes hours,
so it is not part of the default run.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PROOF_TESTS = ("tests/soundness", "tests/argument", "tests/cli/test_cli.py", "tests/program")
ADAPTER_TESTS = ("tests/adapter", "tests/cli/test_adapter.py")
CALLS = {
    "require",
    "require_zero",
    "lookup",
    "range_check",
    "signed_range_check",
    "input_range_check",
    "verify_ranges",
    "refuse",
    "require_same",
    "require_well_formed",
    "require_length",
    "charge",
    "require_profile",
    "require_base",
    "require_manifests",
    "_require",
    "_require_arguments",
    "_require_equal",
    "absorb",
    "absorb_header",
    "check",
    "check_claims",
    "check_paths",
    "finish",
    "grind",
    "_verify_part",
}
REFUSALS = {"VerificationError", "SessionError", "StatementError"}
SOURCES = {
    PROOF_TESTS: (
        "zkjax/argument/*.py",
        "zkjax/program/lookups.py",
        "zkjax/program/onehot.py",
        "zkjax/program/products.py",
        "zkjax/program/reduction.py",
        "zkjax/program/resolver.py",
        "zkjax/program/tracing.py",
        "zkjax/program/trace.py",
        "zkjax/program/builder.py",
        "zkjax/program/ops/*.py",
        "zkjax/program/statement.py",
        "zkjax/program/wellformed.py",
        "zkjax/program/rules/*.py",
        "zkjax/proof.py",
        "zkjax/protocol.py",
        "zkjax/ranges.py",
        "zkjax/verify.py",
        "zkjax/wire.py",
        "zkjax/work.py",
    ),
    ADAPTER_TESTS: ("proofs/adapter/*.py",),
}


class Mutant(NamedTuple):
    """One check: its file, its lines (first, last) and the tests that should miss it."""

    path: Path
    first: int
    last: int
    tests: tuple[str, ...]

    @property
    def text(self) -> str:
        lines = (ROOT / self.path).read_text().splitlines()
        return " ".join(line.strip() for line in lines[self.first - 1 : self.last])

    def __str__(self) -> str:
        return f"{self.path}:{self.first}: {self.text[:110]}"

    def apply(self, copy: Path) -> None:
        lines = (copy / self.path).read_text().splitlines()
        first = lines[self.first - 1]
        indent = first[: len(first) - len(first.lstrip())]
        lines[self.first - 1 : self.last] = [indent + "pass"]
        (copy / self.path).write_text("\n".join(lines) + "\n")


def name_of(node: ast.expr) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def mutants() -> Iterator[Mutant]:
    for tests, patterns in SOURCES.items():
        for path in sorted({p for pattern in patterns for p in ROOT.glob(pattern)}):
            for node in ast.walk(ast.parse(path.read_text())):
                call = node.value if isinstance(node, ast.Expr) else getattr(node, "exc", None)
                if not isinstance(call, ast.Call):
                    continue
                wanted = CALLS if isinstance(node, ast.Expr) else REFUSALS
                if name_of(call.func) in wanted:
                    where = path.relative_to(ROOT)
                    yield Mutant(where, node.lineno, node.end_lineno or node.lineno, tests)


def survives(mutant: Mutant) -> bool:
    """Whether all tests pass without the check."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("zkjax", "models", "proofs", "tests", "docs"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
        for name in ("pyproject.toml", "README.md", "Makefile"):
            shutil.copy(ROOT / name, copy / name)
        mutant.apply(copy)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        tests = [t for t in mutant.tests if (copy / t).exists()]
        try:
            done = subprocess.run(
                [*command, *tests], cwd=copy, env=environment, capture_output=True, timeout=900
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose place or text contains this")
    parser.add_argument("--list", action="store_true", help="name the mutants and stop")
    args = parser.parse_args()
    survivors = 0
    for mutant in mutants():
        if args.only not in str(mutant):
            continue
        if args.list:
            print(mutant)
            continue
        start = time.perf_counter()
        alive = survives(mutant)
        survivors += alive
        verdict = "SURVIVES" if alive else "killed"
        print(f"{verdict:8s} {time.perf_counter() - start:4.0f} s  {mutant}", flush=True)
    return survivors


if __name__ == "__main__":
    sys.exit(main())
