"""Change the verifier in one place at a time and see that a test goes red.

Usage: python tests/mutation.py [--only TEXT ..] [--again VERDICT ..] [--tests TEXT] [--list]
           [--coverage [FILE ..]] [--report] [--workers N] [--seconds S]

Every module between a file and "accepted" is covered, and what tracing must refuse: see ``SOURCES``
and, for the changes, ``mutating/mutants.py``. The tests that reach the changed function are run,
those that killed other mutants and fast ones first, until one fails. A verdict is

- killed: a test failed;
- survived: all these tests pass, or there is none;
- undecided: they took too long (an endless loop, or too many tests for the time given).

Verdicts are appended to ``tests/mutation-results.jsonl`` under a name that changes with the mutated
function, so a second run takes up where the first one stopped, and after a change only what changed
is run again. ``--tests`` tries some tests only, to kill quickly. ``--report`` writes
``tests/mutation-report.md``: survivors, each with the reason in ``tests/mutation-explained.json``,
if there is one; a reason holds as long as the function is what it was. What tests reach is measured
once and kept in ``.mutation/``; ``--coverage`` measures it again, for new tests too.

Most mutants die within two seconds of tests. So a first pass gives each that much, a second one,
``--again undecided --seconds 60``, gives more to those that nothing explains. The first takes two
hours on two cores, so it is not part of the default run; one module takes minutes.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mutating.mutants import Mutant, mutants, mutated
from mutating.running import (
    FOLDER,
    NOT_ALL,
    ROOT,
    Collected,
    collected,
    import_heavy_modules,
    in_a_process,
    missed_by,
    missed_when_imported,
    run_all,
    touched_by,
    touched_by_imports,
)

sys.path.insert(0, str(ROOT))

RESULTS = ROOT / "tests" / "mutation-results.jsonl"
EXPLAINED = ROOT / "tests" / "mutation-explained.json"
REPORT = ROOT / "tests" / "mutation-report.md"
COVERAGE = FOLDER / "coverage.json"
SOURCES = (
    "zkjax/argument/*.py",
    "zkjax/program/*.py",
    "zkjax/program/ops/*.py",
    "zkjax/program/rules/*.py",
    "zkjax/field/*.py",
    "zkjax/fixed/*.py",
    *(f"zkjax/{n}.py" for n in ("digests", "drafts", "files", "openings", "proof", "protocol")),
    *(f"zkjax/{n}.py" for n in ("provable", "prove", "ranges", "seal", "sealed", "state")),
    *(f"zkjax/{n}.py" for n in ("verify", "wire", "work")),
)
NARROW = (  # run by the prover alone, or when a function is written or traced: see mutants.py
    *(f"zkjax/argument/{n}.py" for n in ("blake2s", "kernels", "opening_prover", "rounds")),
    "zkjax/drafts.py",
    "zkjax/fixed/",
    *(f"zkjax/program/{n}.py" for n in ("hints", "jaxprs", "origin", "recording", "trace")),
    "zkjax/program/rules/",
    "zkjax/program/tracer.py",
    "zkjax/prove.py",
    "zkjax/provable.py",
    "zkjax/work.py",
)
TESTS = (
    "tests/argument",
    "tests/field",
    "tests/fixed",
    "tests/program",
    "tests/soundness",
    "tests/zero_knowledge",
    "tests/cli/test_cli.py",
    "tests/test_digests.py",
    "tests/test_files.py",
    "tests/test_state.py",
)
IMPORTS = "imports"  # what they reach is kept under this name
FIRST = 40  # tests that are tried before the rest is collected


def sources() -> list[str]:
    paths = sorted({p for pattern in SOURCES for p in ROOT.glob(pattern)})
    return [str(p.relative_to(ROOT)) for p in paths if p.name != "__init__.py"]


def all_mutants() -> list[Mutant]:
    return [
        mutant
        for name in sources()
        for mutant in mutants(name, (ROOT / name).read_text(), name.startswith(NARROW))
    ]


def measure(workers: int, files: list[str]) -> None:
    """What the tests of some files, or of all, reach and how long they take, and what imports call;
    kept in a file.
    """
    [(_, imports)] = run_all([(IMPORTS, touched_by_imports(sources()), 600.0)], 1)
    known: dict[str, dict] = json.loads(COVERAGE.read_text()) if COVERAGE.exists() else {}
    known[IMPORTS] = imports or {}

    def then(tests: Collected) -> None:
        nonlocal known
        wanted = {f: names for f, names in tests.of_files().items() if not files or f in files}
        known = {t: entry for t, entry in known.items() if t.split("::")[0] not in wanted}
        tasks = ((f, touched_by(tests, names), 1800.0) for f, names in wanted.items())
        for file, answer in run_all(tasks, workers):
            failed = [t for t, entry in (answer or {}).items() if not entry["passed"]]
            print(
                f"{file}: {len(answer or {})} tests, {len(failed)} not passed", *failed, flush=True
            )
            known |= {t: e for t, e in (answer or {}).items() if e["passed"]}
            COVERAGE.write_text(json.dumps(known))

    collected(TESTS, then)


class Chosen:
    """The tests for a mutant, of those that reach its unit: first those that killed others of its
    module, then the module's own (test_opening.py for opening.py and opening_prover.py), then the
    fastest case of every test, then the second fastest, ..
    """

    def __init__(self, tests: dict[str, dict], known: dict[str, dict], name: str):
        self._name, self.all = name, not name
        self._imported = set(tests.pop(IMPORTS)["units"])
        self._kills: dict[str, Counter] = defaultdict(Counter)
        for result in known.values():
            self.killed(result["path"], result["by"])
        self.seconds = {t: entry["seconds"] for t, entry in tests.items()}
        self._by_unit: dict[str, list[str]] = defaultdict(list)
        place: dict[str, int] = {}
        count = Counter[str]()
        for test in sorted(tests, key=self.seconds.__getitem__):
            function = test.split("[")[0]
            place[test] = count[function]
            count[function] += 1

        self._in_order = sorted(tests, key=lambda t: (place[t], self.seconds[t]))
        for test in self._in_order:
            files = set()
            for unit in tests[test]["units"]:
                self._by_unit[unit].append(test)
                files.add(unit.split(":")[0])
            for file in files:
                self._by_unit[file].append(test)

    def killed(self, path: str, test: str) -> None:
        """A test has killed a mutant of a module: it comes first from now on."""
        self._kills[path][test] += 1

    def of(self, mutant: Mutant) -> list[str]:
        """A function that no test calls after imports, or no function: what reaches its module; a
        module without functions: any.
        """
        unit, module = f"{mutant.path}:{mutant.unit}", Path(mutant.path).stem
        tests = self._by_unit.get(unit) or self._by_unit.get(mutant.path) or self._in_order

        kills = self._kills[mutant.path]

        def late(test: str) -> tuple[int, bool]:
            stem = Path(test.split("::")[0]).stem.removeprefix("test_")
            return -kills[test], not module.startswith(stem)

        return sorted((t for t in tests if self._name in t), key=late)

    def by_import(self, mutant: Mutant) -> bool:
        """Whether a change shows only in a process that imports it."""
        unit = f"{mutant.path}:{mutant.unit}"
        return not mutant.in_function or unit in self._imported

    def stages(self, mutant: Mutant, seconds: float) -> tuple[list[list[str]], bool, float]:
        """Two groups of tests that fit the time, whether these are all, how long they take."""
        tests, total, fitting = self.of(mutant), 0.0, []
        for test in tests:
            if total + self.seconds[test] <= seconds:
                total += self.seconds[test]
                fitting.append(test)
        return [fitting[:FIRST], fitting[FIRST:]], len(fitting) == len(tests), total


def results() -> dict[str, dict]:
    """The last verdict on each mutant."""
    if not RESULTS.exists():
        return {}
    return {r["name"]: r for r in map(json.loads, RESULTS.read_text().splitlines())}


def run(chosen: Chosen, todo: list[Mutant], workers: int, seconds: float) -> None:
    """Try the mutants and note the verdicts; at last those that only an import shows."""
    texts: dict[str, str] = {}

    def tasks(some: Iterable[Mutant], task: Callable) -> Iterator:
        for mutant in some:
            source = texts.setdefault(mutant.path, (ROOT / mutant.path).read_text())
            stages, every, expected = chosen.stages(mutant, seconds)
            yield (mutant, every), task(mutant, mutated(source, mutant), stages), 5 + 1.3 * expected

    def imported(mutant: Mutant, tree: ast.Module, stages: list[list[str]]) -> Callable[[], dict]:
        return missed_when_imported(ROOT / mutant.path, tree, stages)

    def changed(tests: Collected) -> None:
        def task(mutant: Mutant, tree: ast.Module, stages: list[list[str]]) -> Callable[[], dict]:
            def change() -> None:
                tests.functions.change(mutant.path, mutant.unit, tree)

            names = [t for stage in stages for t in stage]
            return missed_by(tests, change, names, 1.5 * seconds)

        note(tasks([m for m in todo if not chosen.by_import(m)], task))

    def note(some: Iterable[tuple[Any, Callable[[], dict], float]]) -> None:
        start = time.monotonic()
        for count, ((mutant, every), answer) in enumerate(run_all(some, workers), 1):
            answer = answer or {"verdict": "undecided", "by": "out of time"}
            if answer["verdict"] == "killed":
                chosen.killed(mutant.path, answer["by"])
            if answer["verdict"] == "survived" and not (every and chosen.all):
                answer = {"verdict": "undecided", "by": NOT_ALL}
            where = {k: getattr(mutant, k) for k in ("name", "path", "unit", "line", "change")}
            with RESULTS.open("a") as file:  # each time: a commit may have replaced it
                print(json.dumps(where | answer), file=file)
            pace = (time.monotonic() - start) / count
            print(f"{answer['verdict']:9s} {pace:4.1f} s each  {mutant}", flush=True)

    in_a_process(lambda: collected(TESTS, changed))
    note(tasks([m for m in todo if chosen.by_import(m)], imported))


def explanations() -> dict[str, dict]:
    return json.loads(EXPLAINED.read_text()) if EXPLAINED.exists() else {}


def keys(mutant: Mutant) -> tuple[str, str, str]:
    """What an explanation of a mutant stands under: its change, its function or its file."""
    unit = f"{mutant.path}:{mutant.unit}"
    return f"{unit}: {mutant.change}", unit, mutant.path


def reason(explained: dict[str, dict], mutant: Mutant) -> str:
    """Why a survivor is none to kill; a reason holds of the function that it was written for."""
    for key in keys(mutant):
        entry = explained.get(key)
        if entry and entry.get("version", mutant.version) == mutant.version:
            return entry["why"]
    return ""


def sorted_out(every: list[Mutant], explained: dict[str, dict]) -> None:
    """Note which version of its function a new reason is for, and name those that are for none."""
    versions = {k: m.version for m in every for k in keys(m) if k != m.path}
    files = {m.path for m in every}
    for key, entry in sorted(explained.items()):
        if key in files:
            continue
        if key not in versions:
            print(f"explains no mutant: {key}")
        elif entry.setdefault("version", versions[key]) != versions[key]:
            print(f"the function has changed; delete the version if it still holds: {key}")
    EXPLAINED.write_text(json.dumps(explained, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def report(every: list[Mutant], known: dict[str, dict]) -> None:
    """Write the table of files and the list of survivors; forget verdicts on what is no more."""
    lasting = [json.dumps(known[m.name]) for m in every if m.name in known]
    RESULTS.write_text("".join(line + "\n" for line in lasting))
    explained = explanations()
    sorted_out(every, explained)
    counts: dict[str, Counter] = defaultdict(Counter)
    for mutant in every:
        verdict = known.get(mutant.name, {}).get("verdict", "not run")
        if verdict in ("survived", "undecided") and reason(explained, mutant):
            verdict = "explained"
        counts[mutant.path][verdict] += 1
    columns = ("killed", "explained", "survived", "undecided", "not run")
    lines = [
        "# Mutants of the verifier",
        "",
        "Written by `python tests/mutation.py --report`; see there what a mutant is. What no test",
        "noticed stands below, with the reason why it accepts nothing false and tells no secret.",
        "",
        f"| file | {' | '.join(columns)} |",
        "|---|---|---|---|---|---|",
    ]
    for path, count in sorted(counts.items()):
        lines.append(f"| `{path}` | {' | '.join(str(count[c]) for c in columns)} |")
    total = sum(counts.values(), Counter())
    lines += [f"| all | {' | '.join(str(total[c]) for c in columns)} |", ""]
    for verdict in ("survived", "undecided"):
        lines += [f"## {verdict.capitalize()}", ""]
        groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for mutant in every:
            if known.get(mutant.name, {}).get("verdict") == verdict:
                why = reason(explained, mutant) or "**not explained**"
                groups[mutant.path, mutant.unit, why].append(mutant.change.replace("\n", " "))
        for (path, unit, why), changes in groups.items():
            lines.append(f"- `{path}` `{unit}`: {why}")
            lines += [f"  - {change}" for change in changes]
        lines.append("")
    REPORT.write_text("\n".join(lines).rstrip() + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], help="in the place or text of mutants")
    parser.add_argument("--again", nargs="*", default=[], help="also unexplained ones of a verdict")
    parser.add_argument("--tests", default="", help="only tests whose name contains this")
    parser.add_argument("--list", action="store_true", help="name the mutants and stop")
    parser.add_argument("--coverage", nargs="*", help="measure what (these) tests reach, and stop")
    parser.add_argument("--report", action="store_true", help="write the report and stop")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="of tests for each mutant")
    args = parser.parse_args()
    every, known = all_mutants(), results()
    if args.report:
        report(every, known)
        return 0
    wanted = [m for text in args.only for m in every if text in str(m)]
    told = explanations()
    todo = [
        m
        for m in wanted
        if (verdict := known.get(m.name, {}).get("verdict")) is None
        or (verdict in args.again and not reason(told, m))
    ]
    if args.list:
        print(*wanted, sep="\n")
        return 0
    import_heavy_modules()
    if args.coverage is not None or not COVERAGE.exists():
        measure(args.workers, args.coverage or [])
    if args.coverage is not None:
        return 0
    chosen = Chosen(json.loads(COVERAGE.read_text()), known, args.tests)
    run(chosen, todo, args.workers, args.seconds)
    verdicts = Counter(results().get(m.name, {}).get("verdict", "not run") for m in wanted)
    print(", ".join(f"{n} {verdict}" for verdict, n in verdicts.items()))
    return verdicts["survived"]


if __name__ == "__main__":
    sys.exit(main())
