"""Counts that are shared: exact, on disk before anyone goes on, and written together."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest

from zkjax import state
from zkjax.errors import SealError
from zkjax.proofs.adapter.ledger import Beyond, Ledger


@pytest.fixture
def path(tmp_path):
    Ledger.start("x", tmp_path / "counts")
    return tmp_path / "counts"


def test_many_threads_share_their_writes(path):
    """While one batch is written the next one fills; every count is there when it returns."""
    ledger, honest, writes = Ledger("x", path), state.change, []

    def slow(changes):
        time.sleep(0.02)
        writes.append(1)
        honest(changes)

    def count(i: int) -> None:
        for _ in range(5):
            ledger.count({"all": 1, f"mine {i}": 2})
            assert Ledger("x", path)[f"mine {i}"] >= 2

    with mock.patch("zkjax.state.change", slow), ThreadPoolExecutor(16) as pool:
        list(pool.map(count, range(16)))
    assert ledger["all"] == Ledger("x", path)["all"] == 80
    assert all(ledger[f"mine {i}"] == 10 for i in range(16))
    assert len(writes) < 30  # one for each would be 80


def test_nobody_waits_for_a_write_but_those_who_count(path):
    """Totals are read while a write hangs."""
    ledger, begun, gate = Ledger("x", path), threading.Event(), threading.Event()
    honest = state.change

    def hanging(changes):
        begun.set()
        assert gate.wait(30)
        honest(changes)

    with mock.patch("zkjax.state.change", hanging), ThreadPoolExecutor(1) as pool:
        counted = pool.submit(ledger.count, {"a": 1})
        assert begun.wait(30)
        assert ledger["a"] == 0 and not counted.done()
        gate.set()
        counted.result(30)
    assert ledger["a"] == 1


@pytest.mark.parametrize("kept", [True, False])
def test_a_limit_holds_for_all_together(path, kept):
    """Of many that count at once exactly as many succeed as are allowed, and the others raise
    nothing, not even the counts that had room.
    """
    ledger = Ledger("x", path if kept else None)
    other = Ledger("x", path) if kept else ledger

    def count(i: int) -> bool:
        try:
            (ledger if i % 2 else other).count({"a": 3, "b": 1}, {"a": 30})
        except Beyond as error:
            assert error.key == "a"
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(count, range(24)))
    final = Ledger("x", path) if kept else ledger
    assert sum(done) == 10 and final["a"] == 30 and final["b"] == 10


def test_a_write_that_fails_counts_nothing(path):
    ledger = Ledger("x", path)
    ledger.count({"a": 1})
    text = path.read_bytes()
    full = mock.patch("os.fsync", side_effect=OSError(28, "No space left on device"))
    with full, pytest.raises(OSError, match="No space"):
        ledger.count({"a": 1})
    assert ledger["a"] == 1 and path.read_bytes() == text
    interrupted = mock.patch("zkjax.state.change", side_effect=KeyboardInterrupt)
    with interrupted, pytest.raises(KeyboardInterrupt):
        ledger.count({"a": 1})
    ledger.count({"a": 1})
    assert ledger["a"] == Ledger("x", path)["a"] == 2


def test_a_file_that_is_there_is_not_started_again(path):
    Ledger("x", path).count({"a": 1})
    with pytest.raises(FileExistsError):
        Ledger.start("x", path)
    with pytest.raises(SealError, match="another adapter"):
        Ledger("y", path)
    assert Ledger("x", path)["a"] == 1
