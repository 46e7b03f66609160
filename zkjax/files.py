"""Files are read up to a limit, and written whole or not at all; private ones are readable by their
owner only.
"""

from __future__ import annotations

from pathlib import Path

from zkjax.errors import StatementError


def new_folder(path: str | Path) -> Path:
    """An empty folder, made if it is missing, so that what one run keeps is never mixed with what
    another has kept; FileExistsError otherwise.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not an empty folder; choose another")
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def read_capped(path: str | Path, most: int) -> bytes:
    """The contents of a regular file of at most so many bytes; StatementError otherwise."""
    path = Path(path)
    if not path.is_file():
        raise StatementError(f"{path} is missing or not a file")
    try:
        with path.open("rb") as file:
            data = file.read(most + 1) if path.stat().st_size <= most else None
    except OSError as error:
        raise StatementError(f"cannot read {path}: {error.strerror}") from error
    if data is None or len(data) > most:
        raise StatementError(f"{path} is larger than {most:,} bytes")
    return data


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
