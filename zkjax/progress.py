"""How far a long call is: stages with a clock, and an estimate of the time left.

Whoever runs a long call gives it a callback, ``progress``. It is called with a ``Stage``, a string
that also says how far the call is: ``zkjax.prove(fn, progress=print)`` prints their names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class Stage(str):
    """The name of what is done now.

    Attributes:
      number, of: this is stage ``number`` of ``of``, from 1.
      elapsed: seconds since the call began.
      left: an estimate of the seconds until it ends.
    """

    number: int
    of: int
    elapsed: float
    left: float

    def __new__(cls, name: str, number: int, of: int, elapsed: float, left: float) -> Stage:
        self = super().__new__(cls, name)
        self.number, self.of, self.elapsed, self.left = number, of, elapsed, left
        return self

    def __getnewargs__(self):
        return str(self), self.number, self.of, self.elapsed, self.left


Progress = Callable[[Stage], None]
TRUST = 1.0  # seconds for which a guess counts as much as what was measured


class Course:
    """The stages of one call, in order, and the seconds that each has taken.

    Args:
      expected: for each stage the seconds that it takes on some machine; how much slower this one
        is shows after a few stages.
    """

    def __init__(
        self,
        expected: Mapping[str, float],
        progress: Progress | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.seconds: dict[str, float] = {}
        self._expected = dict(expected)
        self._progress, self._clock = progress, clock
        self._name, self._fraction = "", 0.0
        self._begin = self._start = clock()

    def expect(self, expected: Mapping[str, float]) -> None:
        """Better guesses for stages that have not begun."""
        self._expected |= expected

    def start(self, name: str) -> None:
        """The stage before is over, and ``name`` begins."""
        if name == self._name:
            return
        self.stop()
        self._expected.setdefault(name, 0.0)
        self._name, self._fraction, self._start = name, 0.0, self._clock()
        self._tell(name, self._left())

    def part(self, done: int, of: int, detail: str, fraction: float | None = None) -> None:
        """``done`` of ``of`` parts of this stage are over, a ``fraction`` of its time.

        Parts take equally long where no fraction is given.
        """
        self._fraction = done / of if fraction is None else fraction
        self._tell(f"{self._name} {done} of {of}: {detail}", self._left())

    def inner(self, stage: Stage) -> None:
        """A callback for a call that is the whole of this stage and tells its own."""
        self._tell(f"{self._name}: {stage}", stage.left + self._left(after=True))

    def stop(self) -> None:
        """The stage is over."""
        if self._name:
            elapsed = self._clock() - self._start
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + elapsed
        self._name = ""

    def _left(self, after: bool = False) -> float:
        """Seconds until the end; ``after``: without those of this stage."""
        expected = sum(self._expected[name] for name in self.seconds)
        measured = sum(self.seconds.values())
        ahead = sum(s for name, s in self._expected.items() if name not in self.seconds)
        if self._name:
            ahead -= self._expected[self._name] * (1.0 if after else self._fraction)
        return max(ahead, 0.0) * (measured + TRUST) / (expected + TRUST)

    def _tell(self, text: str, left: float) -> None:
        if self._progress:
            names = list(self._expected)
            number = names.index(self._name) + 1
            elapsed = self._clock() - self._begin
            self._progress(Stage(text, number, len(names), elapsed, left))
