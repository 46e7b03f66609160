"""Files: read up to a limit, never through a device, and new folders that are new and private."""

from __future__ import annotations

import os

import pytest

from zkjax.errors import StatementError
from zkjax.files import (
    new_folder,
    read_capped,
    read_start,
    require_new,
    write_atomically,
    write_new,
)


def modes(path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_folder_is_made_private_with_those_above_it(tmp_path):
    made = new_folder(tmp_path / "above" / "new")
    assert made.is_dir() and modes(made) == 0o700
    assert new_folder(made) == made  # it is empty
    assert require_new(tmp_path / "missing") == tmp_path / "missing"
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("call", [require_new, new_folder])
@pytest.mark.parametrize("kind", ["file", "empty file", "one entry", "empty and full entries"])
def test_what_is_there_is_not_taken_for_new(tmp_path, kind, call):
    path = tmp_path / "there"
    if kind.endswith("file"):
        path.write_text("" if kind == "empty file" else "x")
    else:
        path.mkdir()
        for name in ("a", "b")[: 1 if kind == "one entry" else 2]:
            (path / name).touch()
    with pytest.raises(FileExistsError, match="not an empty folder"):
        call(path)


def test_a_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "file"
    for size in (0, 9, 10):
        path.write_bytes(bytes(size))
        assert read_capped(path, 10) == bytes(size)
        assert read_start(path, 4) == bytes(min(size, 4))
    path.write_bytes(bytes(11))
    with pytest.raises(StatementError, match="larger than 10 bytes"):
        read_capped(path, 10)


def test_a_file_that_grows_while_it_is_read(tmp_path, monkeypatch):
    """Its size says nothing: not a byte more than the limit is read."""
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    honest = os.fstat

    def small(handle):
        fields = list(honest(handle))
        fields[6] = 5  # its size
        return os.stat_result(fields)

    monkeypatch.setattr("zkjax.files.os.fstat", small)
    with pytest.raises(StatementError, match="larger than 10 bytes"):
        read_capped(path, 10)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link to a device", "missing", "NUL"])
def test_what_is_no_file_is_not_read(tmp_path, kind):
    path = tmp_path / "other"
    told = "missing or not a file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = "/dev/zero"
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "NUL":
        path, told = "a\0b", "cannot read .*null"
    for read in (read_capped, read_start):
        with pytest.raises(StatementError, match=told):
            read(path, 10)


def test_a_file_that_becomes_a_device_is_not_read(tmp_path, monkeypatch):
    """Between looking at it and opening it: what was opened is looked at again."""
    path, honest = tmp_path / "file", os.open
    path.write_bytes(b"x")
    monkeypatch.setattr("zkjax.files.os.open", lambda _, flags: honest("/dev/zero", flags))
    with pytest.raises(StatementError, match="missing or not a file"):
        read_capped(path, 10)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"x")

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("zkjax.files.os.open", refused)
    with pytest.raises(StatementError, match=r"cannot read .*: Permission denied"):
        read_capped(path, 10)


def test_a_new_file_overwrites_none(tmp_path):
    path = tmp_path / "file"
    write_new(path, b"first", private=True)
    assert path.read_bytes() == b"first" and modes(path) == 0o600
    with pytest.raises(FileExistsError):
        write_new(path, b"second")
    assert path.read_bytes() == b"first"
    write_atomically(path, b"third")
    assert path.read_bytes() == b"third" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("write", [write_new, write_atomically])
def test_the_folder_is_flushed_after_a_file_has_its_name(tmp_path, monkeypatch, write):
    """A name that is not on disk would be lost with the power."""
    path, seen = tmp_path / "file", []
    monkeypatch.setattr("zkjax.drafts.sync_folder", lambda f: seen.append((f, path.exists())))
    write(path, b"x")
    assert seen == [(tmp_path, True)]
