"""Counts that only grow, on disk before anything they count leaves.

A write to disk takes milliseconds, and many threads count at once. So each puts its entry into the
batch that is open. While one of them writes a batch, for all that are in it, the next one fills. No
lock is held meanwhile.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path

from zkjax import state, wire
from zkjax.errors import SealError, StatementError
from zkjax.files import write_new


class Beyond(Exception):
    """A count would exceed what is allowed. ``key`` is the first such count."""

    def __init__(self, key: str):
        super().__init__(key)
        self.key = key


class _Entry:
    """What one thread counts: increments, and the most that counts may come to."""

    def __init__(self, counts: Mapping[str, int], most: Mapping[str, int]):
        self.counts, self.most = counts, most
        self.waits = True
        self.error: Exception | None = OSError("nothing was written")

    def apply(self, totals: dict[str, int]) -> None:
        """Raise all counts, or none."""
        beyond = (k for k, limit in self.most.items() if
                  totals.get(k, 0) + self.counts.get(k, 0) > limit)  # fmt: skip
        self.error = Beyond(key) if (key := next(beyond, None)) is not None else None
        if self.error is None:
            for key, count in self.counts.items():
                totals[key] = totals.get(key, 0) + count


class Ledger:
    """Named counts, in memory or in a file that every process which uses it adds to.

    Args:
      about: what is counted; a file about something else is refused.
      path: a file that ``start`` has made. A missing one would be a count that was set back.
    """

    def __init__(self, about: str, path: Path | None = None):
        self.about, self.path = about, path
        self._turn = threading.Condition()  # to write; its lock is never held meanwhile
        self._writing, self._open = False, list[_Entry]()
        self.totals: Mapping[str, int] = {} if path is None else self._decoded(state.read(path))

    @staticmethod
    def start(about: str, path: Path) -> None:
        """Write a file without counts; FileExistsError if there is one."""
        write_new(path, _encoded(about, {}), private=True)

    def __getitem__(self, key: str) -> int:
        return self.totals.get(key, 0)

    def count(self, counts: Mapping[str, int], most: Mapping[str, int] | None = None) -> None:
        """Raise counts; they are on disk when this returns. If it raises, none was raised.

        Raises:
          Beyond: a count would be above its entry in ``most``.
          OSError, SealError, StatementError: the file cannot be written, or is damaged.
        """
        entry = _Entry(counts, most or {})
        with self._turn:
            self._open.append(entry)
            while entry.waits and self._writing:
                self._turn.wait()
            if entry.waits:
                self._writing, batch, self._open = True, self._open, []
            else:
                batch = []
        if batch:
            try:
                self._write(batch)
            finally:
                with self._turn:
                    self._writing = False
                    self._turn.notify_all()
        if entry.error is not None:
            raise entry.error

    def _write(self, batch: list[_Entry]) -> None:
        totals: dict[str, int] = {}

        def following(saved: bytes | None) -> bytes:
            nonlocal totals
            totals = self._decoded(saved)
            for entry in batch:
                entry.apply(totals)
            return _encoded(self.about, totals)

        try:
            if self.path is None:
                totals = dict(self.totals)
                for entry in batch:
                    entry.apply(totals)
            else:
                state.change({self.path: following})
            self.totals = totals
        except Exception as error:
            for entry in batch:
                entry.error = error
        finally:
            for entry in batch:
                entry.waits = False

    def _decoded(self, saved: bytes | None) -> dict[str, int]:
        """The counts of the file; SealError if it does not tell them."""
        try:
            if saved is None:
                raise StatementError("it is missing")
            fields = {"about": wire.text(200), "counts": _counts}
            told = wire.record(fields)(wire.parse(saved, "counts", state.MAX_BYTES), "counts")
        except StatementError as error:
            raise SealError(
                f"{self.path} is missing or damaged, so what was answered is not known: {error}"
            ) from error
        if told["about"] != self.about:
            raise SealError(f"{self.path} is about another adapter")
        return told["counts"]


_COUNT = wire.integer(0, (1 << 62) - 1)


def _counts(value, where: str) -> dict[str, int]:
    if type(value) is not dict:
        wire.refuse(where, "not an object")
    return {key: _COUNT(count, f"{where}, {key}") for key, count in value.items()}


def _encoded(about: str, totals: Mapping[str, int]) -> bytes:
    return json.dumps({"about": about, "counts": dict(sorted(totals.items()))}, indent=1).encode()
