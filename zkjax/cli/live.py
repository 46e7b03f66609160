"""How far a command is, on standard error: a live line on a terminal, otherwise one line in all."""

from __future__ import annotations

import time
from contextvars import ContextVar

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from zkjax.cli.text import clean
from zkjax.progress import Stage

running = ContextVar("running", default="zkjax")  # the name of the command


class _Left(ProgressColumn):
    """Seconds since the start, and until the end; both go on while a stage takes its time."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        text = f"{task.elapsed or 0:.0f} s"
        if "end" in task.fields:
            left = task.fields["end"] - time.monotonic()
            text += f", about {left:.0f} s left" if left > 0.5 else ", nearly done"
        return Text(text)


class Phases:
    """A callback for whatever tells its progress, as a context manager.

    It takes names of stages: a ``Stage`` also says how many there are and what time is left.
    """

    def __init__(self):
        self._title = running.get()
        self._console = Console(stderr=True)
        self._start = time.monotonic()
        self._said = False
        self._progress = None
        if self._console.is_terminal:
            column = Column(no_wrap=True, overflow="ellipsis", ratio=1)
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}", table_column=column),
                TextColumn("{task.fields[count]}"),
                _Left(table_column=Column(no_wrap=True)),
            )
            self._progress = Progress(*columns, console=self._console, transient=True, expand=True)
            self._task = self._progress.add_task(escape(self._title), total=None, count="")

    def __enter__(self) -> Phases:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, kind, *exception) -> None:
        if self._progress:
            self._progress.stop()
        elif self._said:
            end = "stopped" if kind else "done"
            print(f" {end} after {time.monotonic() - self._start:.1f} s", file=self._console.file)

    def __call__(self, stage: str) -> None:
        if self._progress:
            fields: dict = {}
            if isinstance(stage, Stage):
                fields = {
                    "count": f"{stage.number} of {stage.of}",
                    "end": time.monotonic() + stage.left,
                }
            self._progress.update(self._task, description=escape(clean(stage)), **fields)
        elif not self._said:
            self._said = True
            about = f", about {stage.left:.0f} s" if isinstance(stage, Stage) else ""
            print(f"{self._title}: running{about} ...", end="", file=self._console.file, flush=True)
