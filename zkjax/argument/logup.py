"""LogUp-GKR: every looked-up tuple is a row of its table (2023/1284, 2022/1530).

Statement: sum over leaves n_i / d_i = 0, where a looker leaf is 1 / (alpha - f), a table leaf
-m / (alpha - f) with m its multiplicity, and padding 0 / 1. The leaves of all lookers and tables
form one binary tree of fractions, n = n0 d1 + n1 d0, d = d0 d1, the children of a node differing
in the most significant bit. With m = n1 + lambda d1, one layer is the sumcheck of

    n + lambda d = sum_x eq(r, x) (n0(x) d1(x) + d0(x) m(x)),

whose four final values are sent before the branch coordinate is drawn. The root denominator is
witness dependent; it is sent padded and shown to be nonzero by its inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from zkjax.argument.kernels import used
from zkjax.argument.party import Expression, Party
from zkjax.argument.sumcheck import point_array, sumcheck
from zkjax.field import extension as ext
from zkjax.field.multilinear import eq_vector
from zkjax.field.scalar import Scalar

KIND = "lookup layer"


@dataclass(frozen=True)
class Slot:
    """An aligned power-of-two block of leaves: ``size`` = 2^log leaves from ``offset``."""

    offset: int
    log: int


def layout(logs: Sequence[int]) -> tuple[list[Slot], int]:
    """Place blocks of the given log sizes, largest first: the slots and the log of the tree."""
    slots: list[Slot] = [Slot(0, 0)] * len(logs)
    offset = 0
    for i in sorted(range(len(logs)), key=lambda i: (-logs[i], i)):
        slots[i] = Slot(offset, logs[i])
        offset += 1 << logs[i]
    return slots, max(offset - 1, 1).bit_length()


class Tree:
    """The prover's layers: layer k has 2^k fractions, the last layer is the leaves."""

    def __init__(self, numerators: np.ndarray, denominators: np.ndarray):
        """numerators (kappa, 2^k), denominators (kappa, 2^k)."""
        from zkjax._compat import x64

        combine = _kernels()[0]
        self.layers = [(numerators, denominators)]
        with x64():
            while self.layers[0][1].shape[1] > 1:
                n, d = self.layers[0]
                if d.shape[1] <= 512:
                    self.layers.insert(0, combine_fractions(np.asarray(n), np.asarray(d)))
                else:
                    used("fractions", d.shape)
                    self.layers.insert(0, combine(n, d))

    @property
    def root(self) -> tuple[Scalar, Scalar]:
        n, d = self.layers[0]
        return Scalar.from_array(np.asarray(n)[:, 0]), Scalar.from_array(np.asarray(d)[:, 0])

    def rounds(self, depth: int, point: list[Scalar], lam: Scalar) -> _LayerRounds:
        """The prover of the sumcheck from layer ``depth`` to layer ``depth + 1``; frees the
        latter.
        """
        layer = self.layers[depth + 1]
        self.layers[depth + 1] = (None, None)
        return _LayerRounds(*layer, point, lam)


def combine_fractions(n, d):
    """(n0 d1 + n1 d0, d0 d1) over the two halves."""
    half = d.shape[1] // 2
    n0, n1, d0, d1 = n[:, :half], n[:, half:], d[:, :half], d[:, half:]
    return ext.add(ext.mul(n0, d1), ext.mul(n1, d0)), ext.mul(d0, d1)


@cache
def _kernels():
    import jax
    import jax.numpy as jnp

    def tables(n, d, lam, eq_high, eq_low):
        half = d.shape[1] // 2
        kappa = d.shape[0]
        eq = ext.mul(eq_high[:, :, None], eq_low[:, None, :]).reshape(kappa, half)
        m = ext.add(n[:, half:], ext.mul(d[:, half:], lam[:, None]))
        return jnp.stack([eq, n[:, :half], d[:, half:], d[:, :half], m])

    return jax.jit(combine_fractions), jax.jit(tables)


class _LayerRounds:
    def __init__(self, n, d, point: list[Scalar], lam: Scalar):
        from zkjax._compat import x64
        from zkjax.argument.rounds import Table

        kappa = lam.kappa
        split = len(point) // 2
        high = eq_vector(point_array(point[:split], kappa))
        low = eq_vector(point_array(point[split:], kappa))
        used("layer", d.shape)
        with x64():
            tables = _kernels()[1](n, d, lam.array(), high, low)
            self._table = Table(np.asarray(tables) if tables.shape[-1] < 1024 else tables)
        self._table.rule = "fraction"

    def message(self, remaining: int, degree: int) -> Sequence[Scalar]:
        return self._table.message(degree)

    def bind(self, r: Scalar) -> None:
        self._table.bind(r)

    def finals(self) -> list[Scalar]:
        """n0, d1, d0, m at the point."""
        values = self._table.values()
        return [Scalar.from_array(values[f, :, 0]) for f in range(1, 5)]


def reduce_tree(
    party: Party, log_size: int, tree: Tree | None
) -> tuple[list[Scalar], Expression, Expression]:
    """Reduce "the fractions sum to zero, no denominator is zero" to one claim about the leaves.

    Returns:
      the leaf point (most significant first), the claimed numerator and denominator there.
    """

    def root_pair():
        q = tree.root[1]
        return q, q.inverse() if q else q

    q, _, unit = party.send_product("lookup root", root_pair)
    party.require_zero(unit - 1, "lookup denominator is zero")
    numerator, denominator = party.constant(0), q
    point: list[Scalar] = []
    for depth in range(log_size):
        lam = party.challenge("lookup combiner", 1)
        claim = party.tape.combine([(numerator, 1), (denominator, lam)])
        rounds = tree.rounds(depth, point, lam) if tree else None
        new_point, final = sumcheck(party, claim, depth, 3, [rounds] if rounds else [], KIND)
        finals = rounds.finals() if rounds else None
        n0, d1, first = party.send_product(KIND, lambda f=finals: (f[0], f[1]))
        d0, m, second = party.send_product(KIND, lambda f=finals: (f[2], f[3]))
        eq = eq_at(point, new_point, party.kappa)
        party.require_zero(
            party.tape.combine([(final, 1), (first, -eq), (second, -eq)]), "lookup layer"
        )
        rho = party.challenge("lookup branch", 1)
        one_minus = 1 - rho
        numerator = party.tape.combine([(n0, one_minus), (m, rho), (d1, -(lam * rho))])
        denominator = party.tape.combine([(d0, one_minus), (d1, rho)])
        point = [rho, *new_point]
    return point, numerator, denominator


def eq_at(a: Sequence[Scalar], b: Sequence[Scalar], kappa: int) -> Scalar:
    """eq(a, b) = prod (a b + (1 - a)(1 - b)) for two points."""
    result = Scalar.of(1, kappa)
    for x, y in zip(a, b, strict=True):
        xy = x * y
        result = result * (1 - x - y + xy + xy)
    return result


def slot_weight(slot: Slot, point: Sequence[Scalar], kappa: int) -> Scalar:
    """eq of the high coordinates of ``point`` with the position of an aligned block."""
    high = point[: len(point) - slot.log]
    block = slot.offset >> slot.log
    bits = [Scalar.of((block >> (len(high) - 1 - i)) & 1, kappa) for i in range(len(high))]
    return eq_at(high, bits, kappa)


def fingerprint_powers(beta: Scalar, width: int) -> list[Scalar]:
    """1, beta, ..., beta^width; the last one multiplies the table's tag."""
    out = [Scalar.of(1, beta.kappa)]
    for _ in range(width):
        out.append(out[-1] * beta)
    return out


def fingerprints(columns: Sequence[np.ndarray], tag: int, beta: Scalar) -> np.ndarray:
    """f = v_1 + beta v_2 + ... + beta^w tag for base-field columns (n,): (kappa, n)."""
    powers = fingerprint_powers(beta, len(columns))
    total = ext.lift(columns[0], beta.kappa)
    for column, power in zip(columns[1:], powers[1:], strict=False):
        total = ext.add(total, ext.scale(power.array()[:, None], column))
    return ext.add(total, (powers[-1] * tag).array()[:, None])
