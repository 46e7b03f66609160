"""Files are read up to a limit, and written whole or not at all; private ones are readable by their
owner only.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from zkjax.errors import StatementError


def require_new(path: str | Path) -> Path:
    """FileExistsError if there is anything at a path but an empty folder."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not an empty folder; choose another")
    return path


def new_folder(path: str | Path) -> Path:
    """An empty folder, made if it is missing, so that what one run keeps is never mixed with what
    another has kept; FileExistsError otherwise.
    """
    path = require_new(path)
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def read_capped(path: str | Path, most: int) -> bytes:
    """The contents of a regular file of at most so many bytes; StatementError otherwise."""
    with open_regular(path) as file:
        data = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
    if data is None or len(data) > most:
        raise StatementError(f"{path} is larger than {most:,} bytes")
    return data


def read_start(path: str | Path, most: int) -> bytes:
    """The first bytes of a regular file, at most so many; StatementError if there is none."""
    with open_regular(path) as file:
        return file.read(most)


@contextlib.contextmanager
def open_regular(path: str | Path) -> Iterator[BinaryIO]:
    """A regular file to read. A pipe, a device or a folder is refused, and not waited for.

    Raises:
      StatementError: there is no such file, or it cannot be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a device may do something
            raise StatementError(f"{path} is missing or not a file")
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise StatementError(f"{path} is missing or not a file")
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise StatementError(f"{path} is missing or not a file") from None
    except (OSError, ValueError) as error:  # a name with a zero byte is no name
        reason = error.strerror if isinstance(error, OSError) else error
        raise StatementError(f"cannot read {path}: {reason}") from error


def write_atomically(path: str | Path, data: bytes, private: bool = False) -> None:
    """Write ``data`` beside ``path``, flush it to disk, rename it into place, flush the folder."""
    from zkjax.drafts import Draft, sync_folder  # whoever only reads does not need its locks

    with Draft(path, data, private) as draft:
        draft.replace()
    sync_folder(draft.path.parent)


def write_new(path: str | Path, data: bytes, private: bool = False) -> None:
    """The same for a file that must not be there yet; FileExistsError if it is."""
    from zkjax.drafts import Draft, sync_folder

    with Draft(path, data, private) as draft:
        draft.create()
    sync_folder(draft.path.parent)
