"""Run tests in forked processes, to learn what they reach and whether they miss a change.

The parent has imported JAX, NumPy and pytest, perhaps also collected all tests, but has started no
backend of JAX. So a fork is safe and takes no time. A change is made in the child, in one of two
ways:

- to a function: all tests are collected already, and the function gets the changed code;
- to what an import computes: nothing of zkjax is imported yet, and the child imports the change.
"""

from __future__ import annotations

import ast
import builtins
import gc
import importlib
import inspect
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import _lru_cache_wrapper
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".mutation"
NOT_ALL = "not all tests that reach it were run"
OPTIONS = ("-x", "-q", "-s", "-p", "no:cacheprovider", "--no-header", "-W", "ignore")


def import_heavy_modules() -> None:
    """What takes long to import and does not depend on zkjax; hypothesis shall not shrink."""
    os.environ.setdefault("ZKJAX_CACHE", str(FOLDER / "cache"))
    (FOLDER / "cache").mkdir(parents=True, exist_ok=True)
    for name in ("numpy", "jax", "jax.numpy", "pytest", "scipy.stats", "mutating.trivial"):
        importlib.import_module(name)
    from hypothesis import Phase, settings

    settings.register_profile("mutation", phases=(Phase.explicit, Phase.generate), database=None)
    settings.load_profile("mutation")
    builtins._trivial = sys.modules["mutating.trivial"]  # type: ignore[attr-defined]


def load_mutated(path: Path, tree: ast.Module) -> None:
    """When ``path`` is imported, ``tree`` is executed in its place."""
    get_code = SourceFileLoader.get_code

    def changed(self, fullname):
        if Path(self.path).resolve() == path.resolve():
            return compile(tree, str(path), "exec")
        return get_code(self, fullname)

    SourceFileLoader.get_code = changed  # type: ignore[method-assign]


def unit_of(code: CodeType) -> str:
    """The function that a piece of code belongs to: path:name."""
    path = os.path.relpath(code.co_filename, ROOT)
    return f"{path}:{code.co_qualname.split('.<locals>')[0]}"


class Functions:
    """All functions of zkjax by their units, and how to change one."""

    def __init__(self):
        self._by_unit: dict[str, list[FunctionType]] = {}
        prefix = str(ROOT / "zkjax") + os.sep
        for found in (f for f in gc.get_objects() if isinstance(f, FunctionType)):
            code = found.__code__
            if code.co_filename.startswith(prefix) and "<locals>" not in code.co_qualname:
                self._by_unit.setdefault(unit_of(code), []).append(found)

    def change(self, path: str, unit: str, tree: ast.Module) -> None:
        """Give a function the code and the defaults that it has in ``tree``; LookupError if it is
        not one that can be changed.
        """
        functions = self._by_unit.get(f"{path}:{unit}", [])
        [code] = [c for c in _codes(compile(tree, str(ROOT / path), "exec"))
                  if c.co_qualname == unit] or [None]  # fmt: skip
        if code is None or len(functions) != 1:
            raise LookupError(unit)
        [function] = functions
        arguments = _definition(tree, unit).args

        def values(nodes: Iterable[ast.expr]) -> tuple:
            return tuple(
                eval(compile(ast.Expression(n), path, "eval"), function.__globals__) for n in nodes
            )

        if function.__defaults__ is not None:
            function.__defaults__ = values(arguments.defaults)
        if function.__kwdefaults__ is not None:
            names = [a.arg for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
                     if d is not None]  # fmt: skip
            given = values(d for d in arguments.kw_defaults if d is not None)
            function.__kwdefaults__ = dict(zip(names, given, strict=True))
        function.__code__ = code


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _definition(tree: ast.Module, unit: str) -> ast.FunctionDef:
    node: Any = tree
    for name in unit.split("."):
        node = [n for n in node.body if getattr(n, "name", None) == name][-1]
    return node


def _is_of_tests(function: Callable) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename.startswith(str(ROOT / "tests") + os.sep)


class Touched:
    """A plugin of pytest: which units of zkjax every test calls, and how long it takes."""

    def __init__(self, caches: Sequence[Any] = ()):
        """caches: those of the tests; what one test has computed, the next one reaches as well."""
        self.tests: dict[str, dict] = {}
        self._codes: set = set()
        self._caches = caches

    def _call(self, frame, event, _) -> None:
        self._codes.add(frame.f_code)

    def start(self) -> None:
        for cached in self._caches:
            cached.cache_clear()
        self._codes, self._start = set(), time.perf_counter()
        sys.settrace(self._call)
        threading.settrace(self._call)

    def stop(self) -> dict:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        prefix = str(ROOT / "zkjax") + os.sep
        units = {unit_of(c) for c in self._codes if c.co_filename.startswith(prefix)}
        seconds = round(time.perf_counter() - self._start, 3)
        return {"seconds": seconds, "units": sorted(units)}

    def pytest_runtest_logstart(self, nodeid) -> None:
        self.start()

    def pytest_runtest_logreport(self, report) -> None:
        entry = self.tests.setdefault(report.nodeid, {"passed": True})
        entry["passed"] &= report.passed

    def pytest_runtest_logfinish(self, nodeid) -> None:
        self.tests[nodeid] |= self.stop()


class FirstFailure:
    """A plugin of pytest: the first test that fails."""

    nodeid = ""

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and not self.nodeid:
            self.nodeid = report.nodeid

    def pytest_collectreport(self, report) -> None:
        if report.failed and not self.nodeid:
            self.nodeid = report.nodeid


class Collected:
    """A plugin of pytest: once all tests are collected, ``then`` is called in place of running
    them; it runs some in forked processes (``run``).
    """

    def __init__(self, then: Callable[[Collected], None]):
        self._then = then
        self._items: dict[str, Any] = {}

    def pytest_runtestloop(self, session) -> bool:
        from jax._src import xla_bridge

        if xla_bridge.backends_are_initialized():
            raise RuntimeError("an import of a test has started JAX; a fork would hang")
        self._items = {item.nodeid: item for item in session.items}
        self.functions = Functions()
        self.caches = [
            found
            for found in gc.get_objects()
            if isinstance(found, _lru_cache_wrapper) and _is_of_tests(inspect.unwrap(found))
        ]
        gc.collect()
        gc.freeze()
        self._then(self)
        return True

    def of_files(self) -> dict[str, list[str]]:
        """The names of tests by their files."""
        files: dict[str, list[str]] = {}
        for name in self._items:
            files.setdefault(name.split("::")[0], []).append(name)
        return files

    def run(self, names: Sequence[str], plugin: Any, until: Callable[[], bool]) -> None:
        """Run tests here, one after another, until something holds."""
        items = [self._items[n] for n in names if n in self._items]
        for i, item in enumerate(items):
            following = items[i + 1] if i + 1 < len(items) else None
            manager = item.config.pluginmanager
            if not manager.is_registered(plugin):
                manager.register(plugin)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if until():
                return


def collected(tests: Sequence[str], then: Callable[[Collected], None]) -> None:
    """Collect tests and call ``then``, in this process."""
    import pytest

    status = pytest.main([*OPTIONS, *tests], plugins=[Collected(then)])
    if status not in (0, 5):
        raise RuntimeError(f"the tests could not be collected: pytest exits with {status}")


def in_a_process(task: Callable[[], None]) -> None:
    """Do something in a forked process, so that this one imports nothing by it."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            task()
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the forked process failed")


def touched_by(tests: Collected, names: Sequence[str]) -> Callable[[], dict]:
    """A task for a child: run tests and say what they reach."""

    def run() -> dict:
        plugin = Touched(tests.caches)
        tests.run(names, plugin, lambda: False)
        return plugin.tests

    return run


def touched_by_imports(paths: Sequence[str]) -> Callable[[], dict]:
    """A task for a child that has not imported zkjax: what the imports of modules call."""

    def run() -> dict:
        plugin = Touched()
        plugin.start()
        for path in paths:
            importlib.import_module(path.removesuffix(".py").replace("/", "."))
        return plugin.stop()

    return run


def missed_by(
    tests: Collected, change: Callable[[], None], names: Sequence[str], seconds: float
) -> Callable[[], dict]:
    """A task for a child: change something, and run tests until one fails, or for so long."""

    def run() -> dict:
        try:
            change()
        except Exception as error:
            return {"verdict": "undecided", "by": f"not changed: {type(error).__name__}: {error}"}
        plugin, left = FirstFailure(), len(names)

        def ended() -> bool:
            nonlocal left
            left -= 1
            return bool(plugin.nodeid) or time.process_time() > seconds

        tests.run(names, plugin, ended)
        if plugin.nodeid:
            return {"verdict": "killed", "by": plugin.nodeid}
        return {"verdict": "undecided" if left else "survived", "by": NOT_ALL if left else ""}

    return run


def missed_when_imported(
    path: Path, tree: ast.Module, stages: Sequence[Sequence[str]]
) -> Callable[[], dict]:
    """A task for a child that has not imported zkjax: run tests against a changed module until one
    fails.
    """

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
    """A forked process: its number, when it must be done, its folder, where its answer will be.

    The limit proper is on processor time; the clock only ends those that wait for ever.
    """

    pid: int
    deadline: float
    folder: Path
    key: Any

    @property
    def answer(self) -> Path:
        return self.folder / "answer.json"


def _start(task: Callable[[], dict], seconds: float, key: Any, folder: Path) -> Child:
    own = folder / str(time.monotonic_ns())
    own.mkdir()
    pid = os.fork()
    child = Child(pid, time.monotonic() + 20 + 10 * seconds, own, key)
    if pid:
        return child
    status = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
        log = os.open(own / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(own)
        try:
            told = task()
        except Exception as error:
            told = {"verdict": "undecided", "by": f"not tried: {type(error).__name__}: {error}"}
        child.answer.write_text(json.dumps(told))
        status = 0
    finally:
        os._exit(status)


def run_all(
    tasks: Iterable[tuple[Any, Callable[[], dict], float]], workers: int
) -> Iterator[tuple[Any, dict | None]]:
    """(key, answer) of all tasks (key, function, seconds); None for one that ran out of time.

    A child that dies without an answer was ended by what it ran, an answer {"verdict": "killed"}.
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
    time.sleep(0.005)
    for child in list(running):
        done, status = os.waitpid(child.pid, os.WNOHANG)
        late = not done and time.monotonic() > child.deadline
        if late:
            os.killpg(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
        if done or late:
            running.remove(child)
            spent = (signal.SIGKILL, signal.SIGXCPU)
            answer = {"verdict": "killed", "by": "the process ended"}
            if late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in spent):
                answer = None
            elif child.answer.exists():
                answer = json.loads(child.answer.read_text())
            shutil.rmtree(child.folder, ignore_errors=True)
            yield child.key, answer
