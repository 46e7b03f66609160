"""Sumcheck over padded messages, for batches of instances of different sizes.

Statement: claim = sum_i sum_{x in {0,1}^{n_i}} g_i(x). An instance with n_i < n variables is read
as g_i(x) prod_{j < n - n_i} (1 - x_j) on the n-variable cube, so all instances share one challenge
stream, the sum is unchanged, and a small instance ends at the last n_i challenges with the factor
``idle_factor``. A round sends g(0), g(2), ..., g(d); g(1) is implied by the claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Protocol

import numpy as np

from zkjax.argument.party import Expression, Party
from zkjax.field.goldilocks import P
from zkjax.field.scalar import Scalar


class RoundProver(Protocol):
    """The prover's half of some instances of a batch."""

    def message(self, remaining: int, degree: int) -> Sequence[Scalar]:
        """g(0), g(2), ..., g(degree) of the round in which ``remaining`` variables are unbound."""
        ...

    def bind(self, r: Scalar) -> None:
        """Bind the current variable to r."""
        ...


@cache
def _lagrange_denominators(degree: int) -> tuple[int, ...]:
    out = []
    for j in range(degree + 1):
        d = 1
        for k in range(degree + 1):
            if k != j:
                d = d * (j - k) % P
        out.append(pow(d, P - 2, P))
    return tuple(out)


def lagrange(r: Scalar, degree: int) -> list[Scalar]:
    """L_j(r) for the nodes 0, 1, ..., degree."""
    prefix = [Scalar.of(1, r.kappa)]
    for k in range(degree):
        prefix.append(prefix[-1] * (r - k))
    suffix = [Scalar.of(1, r.kappa)]
    for k in range(degree, 0, -1):
        suffix.append(suffix[-1] * (r - k))
    suffix.reverse()
    denominators = _lagrange_denominators(degree)
    return [prefix[j] * suffix[j] * denominators[j] for j in range(degree + 1)]


def sumcheck(
    party: Party,
    claim: Expression,
    num_vars: int,
    degree: int,
    provers: Sequence[RoundProver],
    kind: str,
) -> tuple[list[Scalar], Expression]:
    """Reduce ``claim`` to a claim at a random point.

    Returns:
      the point (num_vars challenges, most significant variable first) and the final claim.
    """
    point: list[Scalar] = []
    for done in range(num_vars):
        remaining = num_vars - done

        def message(remaining=remaining):
            totals = [p.message(remaining, degree) for p in provers]
            return [sum(column[1:], column[0]) for column in zip(*totals, strict=True)]

        sent = party.send(kind, degree, message)
        at_one = claim - sent[0]
        r = party.challenge(kind, degree)
        basis = lagrange(r, degree)
        nodes = [sent[0], at_one, *sent[1:]]
        claim = party.tape.combine(list(zip(nodes, basis, strict=True)))
        point.append(r)
        for prover in provers:
            prover.bind(r)
    return point, claim


def idle_factor(point: Sequence[Scalar], num_vars: int, kappa: int) -> Scalar:
    """prod (1 - r_j) over the coordinates an instance with ``num_vars`` variables does not use."""
    factor = Scalar.of(1, kappa)
    for r in point[: len(point) - num_vars]:
        factor = factor * (1 - r)
    return factor


def point_array(point: Sequence[Scalar], kappa: int) -> np.ndarray:
    """A point as a (kappa, n) array."""
    return np.array([r.coefficients for r in point], dtype=np.uint64).reshape(-1, kappa).T.copy()
