"""How many proofs may still open a commitment.

Every proof shows columns of what it opens and uses up blinding, so a commitment is opened no more
often than it was made for. The count belongs to the commitment, not to the place where its values
lie: its file is named after the commitment's digest. It only ever falls.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from zkjax import state
from zkjax.drafts import Draft
from zkjax.errors import SealError

KEPT, RECEIVED = ".openings", ".received"  # by its owner; by whom it was shared with
MAX_DIGITS = 10

_changing = threading.RLock()
_received: dict[str, Openings] = {}


class Openings:
    """A counter in memory, and in all files where it is kept; the least of them counts.

    Args:
      digest: hex digest of the commitment.
      left: openings left.
    """

    def __init__(self, digest: str, left: int):
        self.digest, self.left = digest, left
        self.files: dict[Path, int | None] = {}  # and what a missing file means

    def __deepcopy__(self, memo) -> Openings:
        return self

    def __reduce__(self):
        raise SealError("a pickled sealed value would have openings of its own; use save and load")

    @property
    def remaining(self) -> int:
        """Openings left; SealError if a file is missing or damaged."""
        kept = [_count(path, state.read(path), none) for path, none in self.files.items()]
        return min([self.left, *kept])

    def file_in(self, folder: Path) -> Path:
        """Where the owner keeps this counter, beside the sealed value."""
        return folder / f"{self.digest}{KEPT}"

    def resume(self, folder: Path) -> None:
        """Count in the file that must be in this folder; SealError if it is not."""
        self.files[self.file_in(folder)] = None
        _ = self.remaining

    @contextlib.contextmanager
    def starting(self, folder: Path) -> Iterator[None]:
        """Start a file in this folder around the writing of what it counts for. It is there first,
        and gone if that fails.
        """
        file = self.file_in(folder)
        with _changing:
            with Draft(file, str(self.remaining).encode(), private=True) as draft:
                try:
                    draft.create()
                except FileExistsError:
                    raise SealError(
                        f"{folder} counts openings of this commitment already"
                    ) from None
            try:
                yield
            except BaseException:
                file.unlink()
                raise
            self.files[file] = None


def received(digest: str, folder: Path | None) -> Openings:
    """The one opening that the secrets of a commitment give, however often they are received.

    It is counted in this process, and in ``folder`` if there is one, from the moment it is used.
    """
    with _changing:
        counter = _received.setdefault(digest, Openings(digest, 1))
        if folder is not None:
            counter.files[folder.resolve() / f"{digest}{RECEIVED}"] = 1
        return counter


def require(counters: Sequence[Openings]) -> None:
    """SealError unless one opening is left for every mention of a counter; none is taken."""
    for counter, count in Counter(counters).items():
        if counter.remaining < count:
            raise _used_up(counter)


def take(counters: Sequence[Openings]) -> None:
    """Take one opening for every mention of a counter: all of them or, with SealError, none."""
    with _changing:
        wanted = Counter(counters)
        falls: Counter[Path] = Counter()
        for counter, count in wanted.items():
            if counter.left < count:
                raise _used_up(counter)
            falls.update(dict.fromkeys(counter.files, count))
        owners = {path: counter for counter in wanted for path in counter.files}
        try:
            state.change({p: _lowered(p, owners[p], count) for p, count in falls.items()})
        except OSError as error:
            raise SealError(f"openings cannot be counted, so none is given: {error}") from error
        for counter, count in wanted.items():
            counter.left -= count


def _lowered(path: Path, counter: Openings, by: int) -> Callable[[bytes | None], bytes]:
    def following(data: bytes | None) -> bytes:
        left = _count(path, data, counter.files[path]) - by
        if left < 0:
            raise _used_up(counter)
        return str(left).encode()

    return following


def _count(path: Path, data: bytes | None, none: int | None) -> int:
    if data is None and none is not None:
        return none
    if data is None or not data.isdigit() or len(data) > MAX_DIGITS:
        raise SealError(f"{path} is missing or damaged: refusing to open")
    return int(data)


def _used_up(counter: Openings) -> SealError:
    return SealError(
        f"the sealed value {counter.digest} has no openings left; another proof would reveal "
        "private data. Seal it again with openings=N for N proofs"
    )
