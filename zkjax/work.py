"""A bound on what a statement can make its verifier do.

The messages of a proof are few even where the vectors behind them are long: a statement of some
hundred bytes can broadcast a number to 2^26 places, or split a claim into 2^40 claims. So what the
reduction computes is counted, in elements of E, before it is computed. A thing that is done once is
counted as ``STEP`` elements, about what Python itself costs.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar

from zkjax.errors import VerificationError

STEP = 1 << 8
FREE = 1 << 20  # elements that any statement may cost
RATIO = 1 << 4  # elements for each byte that a proof cannot do without

_left: ContextVar[list[int] | None] = ContextVar("elements left", default=None)


@contextlib.contextmanager
def bounded(elements: int | None):
    """Inside, ``charge`` raises once more than so many elements were charged; None: no bound."""
    token = _left.set(None if elements is None else [elements])
    try:
        yield
    finally:
        _left.reset(token)


def charge(elements: int) -> None:
    """Count elements that are about to be computed.

    Raises:
      VerificationError: the statement costs more than its bound.
    """
    left = _left.get()
    if left is None:
        return
    left[0] -= elements
    if left[0] < 0:
        raise VerificationError(
            "work",
            "verifying the statement takes more than is allowed for the size of its proof and its "
            "public values; make long axes shorter, or sums of moved parts fewer",
        )
