"""Run tests in forked processes, to learn what they reach and whether they miss a change.

The parent has imported JAX, NumPy and pytest, but has started no backend of JAX and imported
nothing of zkjax. So a fork is safe, takes no time, and imports zkjax with the change in it.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".mutation"
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--no-header", "-W", "ignore")


def import_heavy_modules() -> None:
    """What takes long to import and does not depend on zkjax."""
    os.environ.setdefault("ZKJAX_CACHE", str(FOLDER / "cache"))
    (FOLDER / "cache").mkdir(parents=True, exist_ok=True)
    for name in ("numpy", "jax", "jax.numpy", "pytest", "hypothesis", "scipy.stats"):
        importlib.import_module(name)


def load_mutated(path: Path, tree: ast.Module) -> None:
    """When ``path`` is imported, ``tree`` is executed in its place."""
    get_code = SourceFileLoader.get_code

    def changed(self, fullname):
        if Path(self.path).resolve() == path.resolve():
            return compile(tree, str(path), "exec")
        return get_code(self, fullname)

    SourceFileLoader.get_code = changed  # type: ignore[method-assign]
    builtins._trivial = importlib.import_module("mutating.trivial")  # type: ignore[attr-defined]


class Touched:
    """A plugin of pytest: which units of zkjax every test calls, and how long it takes."""

    def __init__(self):
        self.tests: dict[str, dict] = {}
        self._codes: set = set()

    def _call(self, frame, event, _) -> None:
        self._codes.add(frame.f_code)

    def pytest_runtest_logstart(self, nodeid) -> None:
        self._codes, self._start = set(), time.perf_counter()
        sys.settrace(self._call)

    def pytest_runtest_logreport(self, report) -> None:
        entry = self.tests.setdefault(report.nodeid, {"passed": True})
        entry["passed"] &= report.passed

    def pytest_runtest_logfinish(self, nodeid) -> None:
        sys.settrace(None)
        units, prefix = set(), str(ROOT / "zkjax") + os.sep
        for code in self._codes:
            if code.co_filename.startswith(prefix):
                path = os.path.relpath(code.co_filename, ROOT)
                units.add(f"{path}:{code.co_qualname.split('.<locals>')[0]}")
        seconds = round(time.perf_counter() - self._start, 3)
        self.tests[nodeid] |= {"seconds": seconds, "units": sorted(units)}


class FirstFailure:
    """A plugin of pytest: the first test that fails."""

    nodeid = ""

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and not self.nodeid:
            self.nodeid = report.nodeid

    def pytest_collectreport(self, report) -> None:
        if report.failed and not self.nodeid:
            self.nodeid = report.nodeid


def touched_by(file: str) -> Callable[[], dict]:
    """A task for a child: run one test file and say what its tests reach."""

    def run() -> dict:
        import pytest

        plugin = Touched()
        pytest.main([*OPTIONS[1:], file], plugins=[plugin])
        return plugin.tests

    return run


def missed_by(path: Path, tree: ast.Module, stages: Sequence[Sequence[str]]) -> Callable[[], dict]:
    """A task for a child: run tests against a changed module until one fails."""

    def run() -> dict:
        import pytest

        load_mutated(path, tree)
        for tests in stages:
            plugin = FirstFailure()
            status = pytest.main([*OPTIONS, *tests], plugins=[plugin]) if tests else 0
            if status:
                return {"verdict": "killed", "by": plugin.nodeid or f"pytest exits with {status}"}
        return {"verdict": "survived", "by": ""}

    return run


class Child(NamedTuple):
    """A forked process: its number, when it must be done, where its answer will be.

    The limit proper is on processor time; the clock only ends those that wait for ever.
    """

    pid: int
    deadline: float
    answer: Path
    key: Any


def _start(task: Callable[[], dict], seconds: float, key: Any, folder: Path) -> Child:
    answer = folder / f"{time.monotonic_ns()}.json"
    pid = os.fork()
    if pid:
        return Child(pid, time.monotonic() + 10 * seconds, answer, key)
    status = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
        log = os.open(answer.with_suffix(".log"), os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
        answer.write_text(json.dumps(task()))
        status = 0
    finally:
        os._exit(status)


def run_all(
    tasks: Iterator[tuple[Any, Callable[[], dict], float]], workers: int
) -> Iterator[tuple[Any, dict | None]]:
    """(key, answer) of all tasks (key, function, seconds); None for one that ran out of time.

    A child that dies without an answer was killed by what it ran, an answer {"verdict": "killed"}.
    """
    running: list[Child] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for key, task, seconds in tasks:
            running.append(_start(task, seconds, key, folder))
            while len(running) >= workers:
                yield from _finished(running)
        while running:
            yield from _finished(running)


def _finished(running: list[Child]) -> Iterator[tuple[Any, dict | None]]:
    """Wait a moment; take those out that are done or late."""
    time.sleep(0.02)
    for child in list(running):
        done, status = os.waitpid(child.pid, os.WNOHANG)
        late = not done and time.monotonic() > child.deadline
        if late:
            os.killpg(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
        if done or late:
            running.remove(child)
            spent = (signal.SIGKILL, signal.SIGXCPU)
            if late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in spent):
                yield child.key, None
            elif child.answer.exists():
                yield child.key, json.loads(child.answer.read_text())
            else:
                yield child.key, {"verdict": "killed", "by": "the process ended"}
