"""Text for a terminal of 80 columns and for pipes. What comes from files is printed without control
characters or markup.

Standard output is wrapped between words, so that digests, names and numbers stay whole; a line is
longer than ``WIDTH`` only when one word is. Messages on standard error are wrapped on a terminal,
and whole lines in a pipe.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

WIDTH = 80


def clean(text: object) -> str:
    """Printable characters only: names in a statement file are not to be trusted."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def line(text: str, style: str = "", error: bool = False) -> None:
    """A line of text; what does not fit goes below where its value began."""
    console = Console(stderr=error)
    text = clean(text)
    parts = [text] if error and not console.is_terminal else _wrapped(text)
    for part in parts or [""]:
        console.print(Text(part, style=style), soft_wrap=True)


def field(name: str, value: object) -> None:
    """A name and its value, one below the other with those of other fields."""
    line(f"  {name:<11} {value}")


def _wrapped(text: str, indent: int | None = None) -> list[str]:
    if indent is None:
        label = re.match(r"(\s*\S+(?: \S+)*\s{2,})\S|(\s*)", text)
        indent = label.end(1) if label and label[1] else len(label[2] if label else "") + 2
        indent = indent if indent < WIDTH // 2 and text[:1] == " " else 0
    return textwrap.wrap(
        text,
        WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def grid(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], right=()) -> None:
    """A table, columns listed in ``right`` aligned to the right.

    A cell is never broken: where one does not fit, the next ones go below it.
    """
    cells = [[clean(c) for c in row] for row in (columns, *rows)]
    widths = _widths(cells)
    console = Console()
    console.print()
    console.print(Text(title, style="bold"), soft_wrap=True)
    for row in filter(any, cells):
        for part in _laid_out(row, widths, right):
            console.print(Text(part, style="bold" if row is cells[0] else ""), soft_wrap=True)


def _laid_out(row: Sequence[str], widths: Sequence[int], right) -> list[str]:
    """The lines of a row: behind a cell that is wider than its column a new one begins."""
    lines, current, start = [], "", 0
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
        current = current.ljust(start) + (cell.rjust(width) if i in right else cell)
        start += width + 2
        if len(current) > start - 2:
            lines.append(current)
            current = ""
    return [part.rstrip() for part in (*lines, current) if part.strip()]


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    """Of the columns, so that they fit: the longest rows are left out until they do."""
    cells = sorted(cells, key=lambda row: sum(map(len, row)))
    while True:
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        if sum(widths) + 2 * (len(widths) - 1) <= WIDTH or len(cells) == 1:
            return widths
        cells = cells[:-1]


def size(count: int) -> str:
    """Bytes for a reader."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count} bytes"
