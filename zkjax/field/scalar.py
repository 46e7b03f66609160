"""Single extension elements on the host, as immutable Python integers.

Verifier logic works on a few thousand single values; Python integers are faster there than
one-element arrays, and they are the independent reference for the array code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from zkjax.field.extension import NON_RESIDUE
from zkjax.field.goldilocks import P


class Scalar:
    """An element of F[x]/(x^kappa - w): ``coefficients`` is a tuple of kappa integers < p."""

    __slots__ = ("coefficients",)

    def __init__(self, coefficients: Iterable[int]):
        self.coefficients = tuple(coefficients)

    @classmethod
    def of(cls, value: int, kappa: int) -> Scalar:
        """Embed an integer (reduced mod p)."""
        return cls((value % P,) + (0,) * (kappa - 1))

    @classmethod
    def from_array(cls, a) -> Scalar:
        """From a (kappa,) uint64 array."""
        return cls(int(c) for c in np.asarray(a))

    def array(self) -> np.ndarray:
        """As a (kappa,) uint64 array."""
        return np.array(self.coefficients, dtype=np.uint64)

    @property
    def kappa(self) -> int:
        return len(self.coefficients)

    def _coerce(self, other) -> tuple[int, ...]:
        if isinstance(other, Scalar):
            return other.coefficients
        return (int(other) % P,) + (0,) * (len(self.coefficients) - 1)

    def __add__(self, other) -> Scalar:
        return Scalar(
            [(x + y) % P for x, y in zip(self.coefficients, self._coerce(other), strict=True)]
        )

    __radd__ = __add__

    def __sub__(self, other) -> Scalar:
        return Scalar(
            [(x - y) % P for x, y in zip(self.coefficients, self._coerce(other), strict=True)]
        )

    def __rsub__(self, other) -> Scalar:
        return (-self) + other

    def __neg__(self) -> Scalar:
        return Scalar([-x % P for x in self.coefficients])

    def __mul__(self, other) -> Scalar:
        a, b = self.coefficients, self._coerce(other)
        w = NON_RESIDUE[len(a)]
        if len(a) == 2:
            return Scalar(((a[0] * b[0] + w * a[1] * b[1]) % P, (a[0] * b[1] + a[1] * b[0]) % P))
        return Scalar(
            (
                (a[0] * b[0] + w * (a[1] * b[2] + a[2] * b[1])) % P,
                (a[0] * b[1] + a[1] * b[0] + w * a[2] * b[2]) % P,
                (a[0] * b[2] + a[1] * b[1] + a[2] * b[0]) % P,
            )
        )

    __rmul__ = __mul__

    def __pow__(self, exponent: int) -> Scalar:
        result, base = Scalar.of(1, self.kappa), self
        while exponent:
            if exponent & 1:
                result = result * base
            base = base * base
            exponent >>= 1
        return result

    def inverse(self) -> Scalar:
        """1 / self by Fermat in E; raises ZeroDivisionError for zero."""
        if not self:
            raise ZeroDivisionError("zero has no inverse")
        return self ** (P**self.kappa - 2)

    def __bool__(self) -> bool:
        return any(self.coefficients)

    def __eq__(self, other) -> bool:
        return self.coefficients == self._coerce(other)

    def __hash__(self) -> int:
        return hash(self.coefficients)

    def __repr__(self) -> str:
        return f"Scalar({list(self.coefficients)})"


def stack(values: Sequence[Scalar]) -> np.ndarray:
    """A sequence of n scalars as a (kappa, n) array."""
    return np.array([v.coefficients for v in values], dtype=np.uint64).T.copy()
