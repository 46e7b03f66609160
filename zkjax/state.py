"""Small files of state that a crash, a full disk or a second process cannot spoil.

A state file is never written in place. Its next contents are on disk before they take its name, and
whoever reads it sees the old or the new contents, whole. Changes are made under a lock, which lies
in a file of its own because a lock on a file that is replaced would not keep others out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from zkjax.drafts import Draft, sync_folder
from zkjax.files import read_capped

MAX_BYTES = 1 << 22
LOCK = ".zkjax.lock"  # one a folder


def read(path: Path) -> bytes | None:
    """The contents of a state file; None if there is none, StatementError if it is no file, or of
    more than ``MAX_BYTES``.
    """
    return read_capped(path, MAX_BYTES) if os.path.lexists(path) else None


def change(changes: Mapping[Path, Callable[[bytes | None], bytes]]) -> None:
    """Replace several state files at once, each by a function of its contents.

    Everything that can fail comes first: all functions are called, and all new contents are on
    disk, before the first file is replaced. If anything raises, no file has changed.

    Args:
      changes: for each path a function from its contents (None: no such file) to the next ones.
    """
    with locked(path.parent for path in changes), contextlib.ExitStack() as stack:
        following = {path: function(read(path)) for path, function in changes.items()}
        drafts = [
            stack.enter_context(Draft(path, data, private=True)) for path, data in following.items()
        ]
        for draft in drafts:
            draft.replace()
        for folder in {path.parent for path in changes}:
            sync_folder(folder)


@contextlib.contextmanager
def locked(folders: Iterable[Path]) -> Iterator[None]:
    """Nobody else changes state files of these folders meanwhile, in any process or thread."""
    with contextlib.ExitStack() as stack:
        for folder in sorted({folder.resolve() for folder in folders}):  # in one order for all
            stack.callback(os.close, lock(folder / LOCK))
        yield


def lock(path: Path, wait: bool = True) -> int:
    """A handle that holds a lock file until it is closed, or its process ends.

    Raises:
      BlockingIOError: another process or thread has it, and ``wait`` is False.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(handle)
        raise
    return handle
