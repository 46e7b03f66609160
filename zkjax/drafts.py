"""Files that appear whole: written under no name, on disk before they are seen."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from pathlib import Path

from zkjax.errors import OptionError

DESCRIPTORS = "/proc/self/fd"
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where its file system can."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(handle)


class Draft:
    """The next contents of a file: complete and on disk, but not yet under its name.

    A draft has no name at all where the file system allows that, so a crash leaves nothing behind.
    Elsewhere, and for the moment of a replacement, it has a temporary name and its owner's
    permissions only. It is locked as long as its writer lives; the next draft of the same file
    removes those that nobody holds. A context manager: what is not published is discarded.
    """

    def __init__(self, path: str | Path, data: bytes, private: bool = False):
        self.path = Path(path)
        if not self.path.name:
            raise OptionError(f"{str(path)!r} is no path of a file; name one")
        self._sweep()
        self._name = self.path.with_name(f"{self._prefix}{secrets.token_hex(8)}")
        self._handle, self._anonymous = self._open()
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._handle, view) :]
            os.fchmod(self._handle, 0o600 if private else 0o644)
            os.fsync(self._handle)
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *exception) -> None:
        self.discard()

    def replace(self) -> None:
        """Take the place of what is at the path, if anything is."""
        if self._anonymous:
            if not os.path.lexists(self.path):
                with contextlib.suppress(FileExistsError):  # it has appeared meanwhile
                    return self.create()  # never under another name, so nothing is left by a crash
            self._link(self._name)
        os.replace(self._name, self.path)

    def create(self) -> None:
        """Appear at the path, which must be free; FileExistsError otherwise."""
        self._link(self.path)

    def discard(self) -> None:
        """Remove what was not published; the lock goes with the handle."""
        self._name.unlink(missing_ok=True)
        os.close(self._handle)

    @property
    def _prefix(self) -> str:
        return f".{self.path.name}.new-"

    def _open(self) -> tuple[int, bool]:
        """A locked handle, and whether its file has no name."""
        with contextlib.suppress(AttributeError, OSError):  # another system, or file system
            handle = os.open(self.path.parent, os.O_TMPFILE | os.O_WRONLY, 0o600)
            if os.path.exists(f"{DESCRIPTORS}/{handle}"):
                fcntl.flock(handle, fcntl.LOCK_EX)
                return handle, True
            os.close(handle)
        while True:
            handle = os.open(self._name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:  # else it was swept before it was locked
                return handle, False
            os.close(handle)

    def _link(self, path: Path) -> None:
        if not self._anonymous:
            os.link(self._name, path)
            return
        folder = os.open(DESCRIPTORS, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.link(str(self._handle), path, src_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)

    def _sweep(self) -> None:
        """Remove drafts of this file whose writers have died."""
        for name in os.listdir(self.path.parent):
            if not name.startswith(self._prefix):
                continue
            left = self.path.with_name(name)
            with contextlib.suppress(OSError):  # locked: its writer lives; or gone meanwhile
                handle = os.open(left, os.O_RDONLY)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    left.unlink()
                finally:
                    os.close(handle)
