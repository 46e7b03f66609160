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

import numpy as np

from zkjax.argument import rounds
from zkjax.argument.kernels import Kernel, Use
from zkjax.argument.party import Expression, Party
from zkjax.argument.pieces import SMALL, cut, halves, joined, recut, widths
from zkjax.argument.rounds import Table
from zkjax.argument.sumcheck import point_array, sumcheck
from zkjax.field import extension as ext
from zkjax.field.goldilocks import array_namespace
from zkjax.field.multilinear import eq_vector
from zkjax.field.scalar import Scalar

KIND = "lookup layer"


@dataclass(frozen=True)
class Block:
    """An aligned power-of-two block of leaves: ``size`` = 2^log leaves from ``offset``."""

    offset: int
    log: int


def place_blocks(logs: Sequence[int]) -> tuple[list[Block], int]:
    """Place blocks of the given log sizes, largest first: the blocks and the log of the tree."""
    blocks: list[Block] = [Block(0, 0)] * len(logs)
    offset = 0
    for i in sorted(range(len(logs)), key=lambda i: (-logs[i], i)):
        blocks[i] = Block(offset, logs[i])
        offset += 1 << logs[i]
    return blocks, max(offset - 1, 1).bit_length()


class Tree:
    """The prover's layers: layer k has 2^k fractions, the last layer is the leaves.

    A layer is a list of ``pieces`` of shape (2, kappa, lanes), numerators and denominators; one of
    at most ``SMALL`` fractions is a single array on the host.
    """

    def __init__(self, numerators: np.ndarray, denominators: np.ndarray):
        """numerators (kappa, 2^k), denominators (kappa, 2^k)."""
        self.layers: list[list] = [_cut(np.stack([numerators, denominators]))]
        while self.layers[0][0].shape[-1] > 1:
            self.layers.insert(0, _layer_above(self.layers[0]))

    def layer(self, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Numerators and denominators of a layer, (kappa, 2^depth) each."""
        n, d = joined(self.layers[depth])
        return n, d

    @property
    def root(self) -> tuple[Scalar, Scalar]:
        n, d = self.layer(0)
        return Scalar.from_array(n[:, 0]), Scalar.from_array(d[:, 0])

    def rounds(self, depth: int, point: list[Scalar], lam: Scalar) -> _LayerRounds:
        """The prover of the sumcheck from layer ``depth`` to layer ``depth + 1``; frees the
        latter.
        """
        layer = self.layers[depth + 1]
        self.layers[depth + 1] = []
        return _LayerRounds(layer, point, lam)


def _cut(layer: np.ndarray) -> list:
    return [layer] if layer.shape[-1] <= SMALL else cut(layer)


def _layer_above(layer: list) -> list:
    if len(layer) == 1:
        return [combine_fractions(*np.split(layer[0], 2, axis=-1))]
    above = [FRACTIONS(low, high) for low, high in halves(layer)]
    return _cut(np.asarray(above[0])) if len(above) == 1 else above


def combine_fractions(low, high):
    """(n0 d1 + n1 d0, d0 d1) of (2, kappa, lanes) fractions n0 / d0 and n1 / d1."""
    (n0, d0), (n1, d1) = low, high
    numerator = ext.add(ext.mul(n0, d1), ext.mul(n1, d0))
    return array_namespace(low).stack([numerator, ext.mul(d0, d1)])


def layer_tables(low, high, lam, eq):
    """eq, n0, d1, d0, m = n1 + lambda d1: the factors of a layer's sumcheck, (5, kappa, lanes)."""
    (n0, d0), (n1, d1) = low, high
    m = ext.add(n1, ext.mul(d1, lam[:, None]))
    return array_namespace(low).stack([eq, n0, d1, d0, m])


def piece_tables(low, high, lam, place, eq):
    """``layer_tables`` of a piece: eq(point) is that of its place times that of its lanes."""
    return layer_tables(low, high, lam, ext.mul(eq, place[:, None]))


FRACTIONS = Kernel("fractions", lambda: combine_fractions)
LAYER = Kernel("layer", lambda: piece_tables)


def uses(log_size: int, kappa: int) -> list[Use]:
    """The kernels for a tree of 2^log_size leaves."""
    found = rounds.uses(5, kappa, 3, 1 << max(log_size - 1, 0), "fraction")
    for width in widths(1 << log_size):
        if width < 1 << log_size:
            piece, element = ((2, kappa, width), "uint64"), ((kappa,), "uint64")
            eq = ((kappa, width), "uint64")
            found += [
                Use(FRACTIONS, (piece, piece)),
                Use(LAYER, (piece, piece, element, element, eq)),
            ]
    return found


class _LayerRounds:
    def __init__(self, layer: list, point: list[Scalar], lam: Scalar):
        coordinates = point_array(point, lam.kappa)
        size = 1 << len(point)
        if len(layer) == 1:
            low, high = np.split(layer[0], 2, axis=-1)
            tables = layer_tables(low, high, lam.array(), eq_vector(coordinates))
            self._table = Table.of(tables, "fraction")
        else:
            self._table = Table(_device_tables(layer, coordinates, lam), size, "fraction")

    def message(self, remaining: int, degree: int) -> Sequence[Scalar]:
        return self._table.message(degree)

    def bind(self, r: Scalar) -> None:
        self._table.bind(r)

    def finals(self) -> list[Scalar]:
        """n0, d1, d0, m at the point."""
        values = self._table.values()
        return [Scalar.from_array(values[f, :, 0]) for f in range(1, 5)]


def _device_tables(layer: list, coordinates: np.ndarray, lam: Scalar) -> list:
    """``layer_tables`` for a layer of several pieces."""
    inside = layer[0].shape[-1].bit_length() - 1  # variables of a piece
    split = coordinates.shape[1] - inside
    places, eq = eq_vector(coordinates[:, :split]), eq_vector(coordinates[:, split:])
    pairs = enumerate(halves(layer))
    return recut([LAYER(low, high, lam.array(), places[:, i], eq) for i, (low, high) in pairs])


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
        party.part(depth, log_size, "layers", 2.0 ** (depth - log_size))
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


def block_weight(block: Block, point: Sequence[Scalar], kappa: int) -> Scalar:
    """eq of the high coordinates of ``point`` with the position of an aligned block."""
    high = point[: len(point) - block.log]
    index = block.offset >> block.log
    bits = [Scalar.of((index >> (len(high) - 1 - i)) & 1, kappa) for i in range(len(high))]
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
