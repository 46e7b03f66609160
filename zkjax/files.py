"""Files are written whole or not at all; private ones are readable by their owner only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def new_folder(path: str | Path) -> Path:
    """An empty folder, made if it is missing, so that what one run keeps is never mixed with what
    another has kept; FileExistsError otherwise.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not an empty folder; choose another")
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def write_atomically(path: str | Path, data: bytes, private: bool = False) -> None:
    """Write ``data`` to a temporary file beside ``path``, flush it to disk, rename it into
    place.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o600 if private else 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
