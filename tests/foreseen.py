"""Challenges that a prover can foresee, to show which lie each of them stops.

A test of a challenge makes the lie that works exactly if the prover knows the challenge. The lie is
accepted while ``foreseen`` holds and refused otherwise, so it is this challenge that stops it.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np

from zkjax.argument.transcript import Transcript
from zkjax.field.scalar import Scalar

HOW = ("one", "equal")


@contextmanager
def foreseen(kind: str, how: str = "one", only: int | None = None):
    """All challenges of a kind are one, or equal to the first of them, on both sides.

    ``only``: just the one with this number.
    """
    challenge, vector = Transcript.challenge, Transcript.challenge_vector

    def first(self, value):
        return self.__dict__.setdefault("first", {}).setdefault(kind, value)

    def one_challenge(self, name, degree=None):
        value, number = challenge(self, name, degree), len(self.squeezed[name]) - 1
        if name != kind or only not in (None, number):
            return value
        return Scalar.of(1, self.kappa) if how == "one" else first(self, value)

    def one_vector(self, name, n, degree=None):
        values = vector(self, name, n, degree)
        if name != kind or not n:
            return values
        head = Scalar.of(1, self.kappa).array() if how == "one" else first(self, values[:, 0])
        return np.repeat(head[:, None], n, axis=1)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Transcript, "challenge", one_challenge))
        stack.enter_context(mock.patch.object(Transcript, "challenge_vector", one_vector))
        yield
