"""State files survive kills at any moment, full disks and other processes; and so do seals."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import zkjax
from zkjax import drafts, state
from zkjax.drafts import Draft
from zkjax.errors import SealError
from zkjax.files import new_folder, write_atomically, write_new
from zkjax.openings import Openings, take

ROOT = Path(__file__).parent.parent
DIGEST, OTHER = "ab" * 32, "cd" * 32
SYSTEM_CALLS = ("write", "fsync", "fchmod", "link", "replace", "unlink", "close", "open")

# A process that dies right before its n-th system call of these kinds, of which it says the count.
DOOMED = """
import os, signal, sys
from pathlib import Path
from zkjax import files, state
from zkjax.drafts import Draft
from zkjax.openings import Openings, take

folder, task, doom, named = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "named"
calls = 0
if named:
    del os.O_TMPFILE

def counted(call):
    def wrapped(*args, **options):
        global calls
        if calls == doom:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        return call(*args, **options)
    return wrapped

counters = []
for digest in ("ab" * 32, "cd" * 32):
    counters.append(Openings(digest, 3))
    if task == "take":
        counters[-1].resume(folder)
for name in sys.argv[5:]:
    setattr(os, name, counted(getattr(os, name)))
if task == "take":
    take(counters)
if task == "save":
    with Draft(folder / "x", b"secret" * 1000, private=True) as draft:
        with counters[0].starting(folder):
            draft.create()
if task == "write":
    files.write_atomically(folder / "x", b"new" * 1000, private=True)
os._exit(100 + calls)
"""


def doomed(folder: Path, task: str, doom: int, named: str) -> int:
    """Run a task that is killed before its n-th system call; -9, or 100 and the calls it took."""
    command = [sys.executable, "-c", DOOMED, str(folder), task, str(doom), named]
    command += SYSTEM_CALLS
    return subprocess.run(command).returncode


def kept(folder: Path) -> list[Openings]:
    """Two counters that have files in a folder."""
    counters = [Openings(digest, 3) for digest in (DIGEST, OTHER)]
    for counter in counters:
        with counter.starting(folder):
            pass
    return counters


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if ".new-" in path.name]


@pytest.mark.parametrize("named", ["anonymous", "named"])
def test_a_kill_at_any_call_of_taking_openings(named, tmp_path):
    """Two openings are taken at once. Each count is the old or the new one, never lost or raised,
    and the next taking works and cleans up.
    """
    calls, doom = doomed_calls("take", tmp_path, named), 0
    for doom in range(calls):
        folder = new_folder(tmp_path / str(doom))
        counters = kept(folder)
        assert doomed(folder, "take", doom, named) == -9
        before = [counter.remaining for counter in counters]
        assert set(before) <= {2, 3}
        for path in left_over(folder):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        take(counters)
        assert [counter.remaining for counter in counters] == [n - 1 for n in before]
        assert not left_over(folder)


@pytest.mark.parametrize("named", ["anonymous", "named"])
def test_a_kill_at_any_call_of_saving(named, tmp_path):
    """The file is absent or whole, and where it is there, so is its counter."""
    for doom in range(doomed_calls("save", tmp_path, named)):
        folder = new_folder(tmp_path / str(doom))
        assert doomed(folder, "save", doom, named) == -9
        if (folder / "x").exists():
            assert (folder / "x").read_bytes() == b"secret" * 1000
            counter = Openings(DIGEST, 3)
            counter.resume(folder)
            take([counter])
            assert counter.remaining == 2
        for path in left_over(folder):
            assert named == "named" and stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("named", ["anonymous", "named"])
def test_a_kill_at_any_call_of_writing(named, tmp_path):
    """Old or new, and what was left behind goes with the next write."""
    for doom in range(doomed_calls("write", tmp_path, named)):
        folder = new_folder(tmp_path / str(doom))
        write_atomically(folder / "x", b"old")
        assert doomed(folder, "write", doom, named) == -9
        assert (folder / "x").read_bytes() in (b"old", b"new" * 1000)
        write_atomically(folder / "x", b"last")
        assert [path.name for path in folder.iterdir()] == ["x"]


def test_a_kill_at_any_call_of_writing_a_new_file(tmp_path):
    """A private file that was not there has no other name at any moment."""
    for doom in range(doomed_calls("write", tmp_path, "anonymous", old=False)):
        folder = new_folder(tmp_path / str(doom))
        assert doomed(folder, "write", doom, "anonymous") == -9
        assert [path.name for path in folder.iterdir()] in ([], ["x"])


def doomed_calls(task: str, tmp_path: Path, named: str, old: bool = True) -> int:
    """How many system calls a task takes; its effect is what it should be."""
    folder = new_folder(tmp_path / "whole")
    if task == "write" and old:
        write_atomically(folder / "x", b"old")
    counters = kept(folder) if task == "take" else []
    calls = doomed(folder, task, -1, named) - 100
    assert calls > 5
    assert [counter.remaining for counter in counters] == [2, 2][: len(counters)]
    assert not left_over(folder)
    return calls


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("call", ["write", "fsync", "fchmod"])
def test_a_full_disk_takes_no_opening(call, named, monkeypatch, tmp_path):
    """Whichever write of the two counters fails: both are as they were, and nothing lies about."""
    if named:
        monkeypatch.delattr(os, "O_TMPFILE")
    counters = kept(tmp_path)
    real, refused = getattr(os, call), 0
    for number in range(2):
        calls = iter(range(1000))

        def failing(*args, calls=calls, number=number):
            if next(calls) == number:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args)

        with mock.patch.object(os, call, failing), pytest.raises(SealError, match="No space left"):
            take(counters)
        refused += 1
        assert [counter.remaining for counter in counters] == [3, 3]
        assert [counter.left for counter in counters] == [3, 3]
        assert not left_over(tmp_path)
    assert refused == 2
    take(counters)
    assert [counter.remaining for counter in counters] == [2, 2]


def test_a_disk_that_takes_a_part_of_what_is_written(tmp_path):
    """``write`` may write less than it was given."""
    real = os.write
    with mock.patch.object(os, "write", lambda handle, data: real(handle, data[:7])):
        write_atomically(tmp_path / "x", b"0123456789" * 10)
    assert (tmp_path / "x").read_bytes() == b"0123456789" * 10


def test_a_seal_that_cannot_be_saved_leaves_no_counter(tmp_path):
    """So it can be saved elsewhere, or later."""
    counter = Openings(DIGEST, 3)
    with pytest.raises(ZeroDivisionError), counter.starting(tmp_path):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir()) and not counter.files
    with counter.starting(tmp_path):
        pass
    with pytest.raises(SealError, match="already"), Openings(DIGEST, 3).starting(tmp_path):
        pass
    assert counter.remaining == 3


def test_processes_take_turns(tmp_path):
    """Three processes and three threads count in one file."""
    path = tmp_path / "count"
    script = (
        "import sys; from pathlib import Path; from zkjax import state\n"
        "for _ in range(50):\n"
        "    state.change({Path(sys.argv[1]): lambda data: str(int(data or 0) + 1).encode()})"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(path)]) for _ in range(3)]

    def count(_) -> None:
        for _ in range(50):
            state.change({path: lambda data: str(int(data or 0) + 1).encode()})

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(count, range(3)))
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert path.read_bytes() == b"300"


def test_folders_are_locked_in_one_order(tmp_path):
    """Two that change the same files in opposite order do not wait for each other."""
    paths = [new_folder(tmp_path / name) / "x" for name in ("a", "b")]
    together = threading.Barrier(2)

    def run(order) -> None:
        together.wait()
        for _ in range(50):
            state.change(dict.fromkeys(order, lambda data: str(int(data or 0) + 1).encode()))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, (paths, paths[::-1])))
    assert [path.read_bytes() for path in paths] == [b"100", b"100"]


def test_a_change_that_is_refused_changes_nothing(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    state.change({first: lambda data: b"1", second: lambda data: b"1"})

    def refuse(data):
        raise SealError("no")

    with pytest.raises(SealError):
        state.change({first: lambda data: b"2", second: refuse})
    assert state.read(first) == state.read(second) == b"1"
    assert state.read(tmp_path / "third") is None


def test_a_draft_of_a_living_writer_is_not_swept(monkeypatch, tmp_path):
    """Where drafts have names, a second writer of the same file leaves the first one's alone."""
    monkeypatch.delattr(os, "O_TMPFILE")
    with Draft(tmp_path / "x", b"first") as first:
        write_atomically(tmp_path / "x", b"second")
        first.replace()
    assert (tmp_path / "x").read_bytes() == b"first"
    (tmp_path / ".x.new-0").write_bytes(b"of a writer that died")
    write_atomically(tmp_path / "x", b"third")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("named", [False, True])
def test_a_new_file_is_new(named, monkeypatch, tmp_path):
    if named:
        monkeypatch.delattr(os, "O_TMPFILE")
    write_new(tmp_path / "x", b"first", private=True)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "x", b"second")
    assert (tmp_path / "x").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_lock_that_another_holds(tmp_path):
    handle = state.lock(tmp_path / "lock", wait=False)
    with pytest.raises(BlockingIOError):
        state.lock(tmp_path / "lock", wait=False)
    os.close(handle)
    os.close(state.lock(tmp_path / "lock", wait=False))


@pytest.mark.parametrize("named", [False, True])
def test_what_is_done_is_on_disk(named, monkeypatch, tmp_path):
    """A power cut undoes nothing that was told: contents are flushed before they get a name, and
    the folder after the last name, before the call returns.
    """
    events: list[str] = []
    fsync, link, replace = os.fsync, os.link, os.replace

    def flushed(handle):
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "contents")
        fsync(handle)

    def name(call):
        return lambda *args, **options: (events.append("name"), call(*args, **options))

    sealed = zkjax.seal(np.arange(3, dtype=np.int32), openings=2)
    for call, changed in (("fsync", flushed), ("link", name(link)), ("replace", name(replace))):
        monkeypatch.setattr(os, call, changed)
    if named:
        monkeypatch.delattr(os, "O_TMPFILE")
    once = {tmp_path / n: lambda data: b"1" for n in "ab"}
    for files, call in (
        (2, lambda: state.change(once)),
        (2, lambda: state.change(once)),
        (1, lambda: write_atomically(tmp_path / "c", b"1")),
        (1, lambda: write_new(tmp_path / "d", b"1")),
        (2, lambda: sealed.save(tmp_path / "sealed")),
        (1, lambda: sealed.save(tmp_path / "sealed")),
        (1, lambda: take([sealed.counter])),
    ):
        events.clear()
        call()
        assert events[:files] == ["contents"] * files
        assert set(events[files:]) == {"name", "folder"}
        assert events[-1] == "folder"


def test_a_folder_that_cannot_be_flushed_is_no_error(tmp_path):
    """Some file systems do not know how; an error of the disk is one."""
    for number, fine in ((errno.EINVAL, True), (errno.EIO, False)):
        with mock.patch.object(drafts.os, "fsync", side_effect=OSError(number, "")):
            if fine:
                drafts.sync_folder(tmp_path)
            else:
                with pytest.raises(OSError):
                    drafts.sync_folder(tmp_path)


def test_processes_that_are_killed_lose_nothing(tmp_path):
    """Sealing, saving, spending, proving: one kill each; benchmarks/kill_seals.py does more."""
    command = [sys.executable, ROOT / "benchmarks" / "kill_seals.py", "--kills", "4"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
