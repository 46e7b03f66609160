"""What many users of one server share: the line in which they wait, and a log that stops nobody."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

MAX_LINES = 1000  # that wait to be written
LOG_SECONDS = 1.0  # for the last lines, when the server stops


class Line:
    """One at a time, first come, first served; who waits hears how many are before it."""

    def __init__(self):
        self._places: list[asyncio.Event] = []

    @contextlib.asynccontextmanager
    async def turn(self, told: Callable[[int], Awaitable[None]]) -> AsyncIterator[None]:
        """Wait for one's turn, and have it while the context is open. ``told`` is called with the
        number of those before, whenever it has become smaller; 0 at last.
        """
        moved, last = asyncio.Event(), len(self._places) + 1
        self._places.append(moved)
        try:
            while True:
                moved.clear()
                ahead = self._places.index(moved)
                if ahead < last:
                    await told(last := ahead)
                if ahead == 0:
                    break
                await moved.wait()
            yield
        finally:
            self._places.remove(moved)
            for other in self._places:
                other.set()


class Log:
    """Lines for the owner, written by a thread of its own: a log that cannot be written, or that
    nobody reads, stops nothing and nobody. What does not fit is counted.
    """

    def __init__(self, write: Callable[[str], None]):
        self._write, self._lost = write, 0
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_LINES)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __call__(self, line: str) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            lost, self._lost = self._lost, 0
            try:
                if lost:
                    self._write(f"{lost} lines could not be written")
                self._write(line)
            except BaseException:  # rich ends the process if it can: SystemExit
                self._lost += lost + 1

    def close(self) -> None:
        """Write what is left, if it can be written soon."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
            self._thread.join(LOG_SECONDS)
