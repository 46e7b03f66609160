"""ZK-Ligero: proximity, linear and product tests over several tableaux at once.

Witness tableaux that share a code form a group: their rows count as rows of one tall tableau, with
one proximity response, one linear response and one set of column indices. The linear statement is

    sum over groups of <g (x) eq(r), V>  +  <a, pads>  +  known  =  0,

multiplied by a fresh zeta; g weighs rows, r is the common point inside a row. The coefficient W-1
of the linear response of a group is mu + its share of the sum, the pads' response sums to mu' plus
theirs over H, and all mu sum to zero, so that only the total is revealed. The mu are committed
before zeta is drawn, so a wrong total passes with probability 1/|E| only.

Masks of degree above k are sums of two rows of the code itself, M0 + X^s M1, and those rows are
part of the proximity test. So every word that a test uses is close to the code, and unique decoding
is all that soundness needs; the overlap of the two summands keeps the opened values of M0 and M1
uniform given their sum.

Here stand what both sides share and the verifier; the prover is ``opening_prover``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zkjax.argument import merkle
from zkjax.argument.budget import Profile, queries_for
from zkjax.argument.code import Code
from zkjax.argument.tableau import Tableau
from zkjax.argument.transcript import Transcript, VerifierTranscript
from zkjax.errors import VerificationError
from zkjax.field import extension as ext
from zkjax.field import goldilocks as gl
from zkjax.field import ntt
from zkjax.field.scalar import Scalar


@dataclass
class Member:
    """One tableau of a group: its name, root and number of rows; the prover also has the
    tableau.
    """

    name: str
    root: bytes
    rows: int
    tableau: Tableau | None = None


@dataclass
class Group:
    """Witness tableaux of one code, their masks, and the linear functional g (x) eq(point)."""

    code: Code
    members: list[Member]
    masks: Member
    weights: np.ndarray | None = None  # (kappa, rows of all members)
    point: np.ndarray | None = None  # (kappa, log_row), most significant first

    @property
    def rows(self) -> int:
        return sum(m.rows for m in self.members)


@dataclass
class Pads:
    """The pad tableau: ``rows`` E-valued rows, of which 3 * ``triples`` come first (x, y, xy)."""

    code: Code
    member: Member
    rows: int
    triples: int
    weights: np.ndarray | None = None  # (kappa, rows, W)


MASK_ROWS = 3  # E-rows of a mask tableau: proximity, and the two summands of the linear mask
PAD_MASK_ROWS = 5  # proximity, linear twice, product twice


@dataclass
class Challenges:
    """Random combiners of rows and products, and the linear test's zeta."""

    rows: list[np.ndarray]  # per group (kappa, rows + 2): members, then M0 and M1
    pad_rows: np.ndarray  # (kappa, R + 4)
    products: np.ndarray  # (kappa, triple rows)
    zeta: Scalar


def squeeze(transcript: Transcript, groups: Sequence[Group], pads: Pads) -> Challenges:
    """Draw them all.

    Rows that together are farther than e < (n - k + 1) / 2 from a code of length n have a
    combination within e with probability at most (e + 1) / |E|, for which n / |E| is counted. False
    products cancel with probability 1 / |E|, and the masks repair a false total for one zeta.
    """
    draw = transcript.challenge_vector
    return Challenges(
        [draw("row combiner", g.rows + MASK_ROWS - 1, g.code.length) for g in groups],
        draw("pad row combiner", pads.rows + PAD_MASK_ROWS - 1, pads.code.length),
        draw("product combiner", pads.triples, min(pads.triples, 1)),
        transcript.challenge("linear combiner", 1),
    )


def column_indices(transcript: Transcript, code: Code, profile: Profile) -> np.ndarray:
    return transcript.distinct_indices("columns", queries_for(code, profile), code.length)


def shifted_sum(first: np.ndarray, second: np.ndarray, shift: int) -> np.ndarray:
    """Coefficients of M0 + X^shift M1 for (kappa, k) rows."""
    kappa, k = first.shape
    total = np.zeros((kappa, k + shift), dtype=np.uint64)
    total[:, :k] = first
    total[:, shift:] = gl.add(total[:, shift:], second)
    return total


def shifted_sum_at(first: np.ndarray, second: np.ndarray, shift: int, z: np.ndarray) -> np.ndarray:
    """The same from values (kappa, t) at base points z."""
    return ext.add(first, ext.scale(second, gl.power(z, shift)))


def reversed_eq_at(point: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(kappa, t): the polynomial rev(eq(r)) at base points z, prod_b ((1 - r_b) z^(2^b) + r_b)."""
    kappa, w = point.shape
    result = ext.lift(np.ones_like(z), kappa)
    power = z
    one = ext.lift(np.ones(1, dtype=np.uint64), kappa)
    for b in reversed(range(w)):
        r = point[:, b : b + 1]
        factor = ext.add(gl.mul(np.broadcast_to(ext.sub(one, r), result.shape), power[None]), r)
        result = ext.mul(result, factor)
        power = gl.mul(power, power)
    return result


def linear_total(
    known: Scalar,
    zeta: Scalar,
    groups: Sequence[Group],
    responses: Sequence[np.ndarray],
    pads: Pads,
    pad_response: np.ndarray,
) -> Scalar:
    """What the linear test adds up, zero for a true statement: zeta known, the coefficient W-1 of
    each group's linear response (kappa, k + W - 1), and the sum of the pads' over H.
    """
    total = known * zeta
    for group, response in zip(groups, responses, strict=True):
        total = total + Scalar.from_array(response[:, group.code.row - 1])
    w = pads.code.row
    return total + Scalar.from_array(gl.sum_mod(pad_response[:, ::w])) * w


# Verifier -----------------------------------------------------------------------------------


def verify(
    transcript: VerifierTranscript,
    profile: Profile,
    groups: Sequence[Group],
    pads: Pads,
    known: Scalar,
) -> None:
    """Check everything ``prove`` wrote; ``known`` is the public part of the linear statement."""
    kappa = profile.kappa
    challenges = squeeze(transcript, groups, pads)
    responses = []
    for group in groups:
        code = group.code
        near = transcript.read_field("proximity response", (kappa, code.dimension))
        linear = transcript.read_field("linear response", (kappa, code.dimension + code.row - 1))
        responses.append((near, linear))
    k, w = pads.code.dimension, pads.code.row
    pad_near = transcript.read_field("pad proximity response", (kappa, k))
    pad_linear = transcript.read_field("pad linear response", (kappa, k + w - 1))
    cofactor = transcript.read_field("product response", (kappa, 2 * k - 1 - w))
    shares = [linear for _, linear in responses]
    total = linear_total(known, challenges.zeta, groups, shares, pads, pad_linear)
    opened = []
    for group in groups:
        indices = column_indices(transcript, group.code, profile)
        columns = [
            _read_columns(transcript, member, rows, group.code.log_length, indices)
            for member, rows in [
                *((m, m.rows) for m in group.members),
                (group.masks, MASK_ROWS * kappa),
            ]
        ]
        opened.append((ntt.domain(group.code.log_length)[indices], columns))
    indices = column_indices(transcript, pads.code, profile)
    pad_columns = _read_columns(
        transcript, pads.member, (pads.rows + PAD_MASK_ROWS) * kappa, pads.code.log_length, indices
    )
    transcript.finish()
    if total:
        raise VerificationError("linear test", "the constraints do not hold for the commitment")
    for group, u, response, (z, columns) in zip(
        groups, challenges.rows, responses, opened, strict=True
    ):
        _check_group(group, u, challenges.zeta, response, z, columns, kappa)
    z = ntt.domain(pads.code.log_length)[indices]
    _check_pads(pads, challenges, (pad_near, pad_linear, cofactor), z, pad_columns, kappa)


def _read_columns(transcript, member: Member, rows: int, log_length: int, indices) -> np.ndarray:
    columns = transcript.read_field("opened columns", (len(indices), rows))
    nonces = transcript.read("nonces", 32 * len(indices))
    where = [int(i) for i in indices]
    needed = len(merkle.missing_siblings(where, log_length))
    path = transcript.read("merkle path", 32 * needed)
    leaves = {
        index: merkle.leaf_digest(columns[i], nonces[32 * i : 32 * i + 32])
        for i, index in enumerate(where)
    }
    merkle.check_paths(member.root, log_length, leaves, path)
    return columns


def _dot_columns(weights: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """sum_i w_i column_i: (kappa, m) x (t, m) base -> (kappa, t)."""
    return gl.sum_mod(gl.mul(weights[:, None, :], columns[None]))


def _require_equal(name: str, left: np.ndarray, right: np.ndarray) -> None:
    if not np.array_equal(left, right):
        raise VerificationError(name, "a response disagrees with an opened column")


def _check_group(group: Group, u, zeta: Scalar, response, z, columns, kappa: int) -> None:
    near, linear = response
    tall = np.concatenate(columns[:-1], axis=1)
    masks = columns[-1].reshape(len(z), MASK_ROWS, kappa).transpose(1, 2, 0)
    expected = gl.add(masks[0], _dot_columns(u[:, : group.rows], tall))
    for i in (1, 2):
        expected = ext.add(expected, ext.mul(u[:, group.rows + i - 1][:, None], masks[i]))
    _require_equal("proximity test", ntt.evaluate(near, z), expected)
    weights = ext.mul(group.weights, zeta.array()[:, None])
    share = ext.mul(reversed_eq_at(group.point, z), _dot_columns(weights, tall))
    mask = shifted_sum_at(masks[1], masks[2], group.code.row - 1, z)
    _require_equal("linear test", ntt.evaluate(linear, z), gl.add(mask, share))


def _lagrange_on_h(log_row: int, z: np.ndarray) -> np.ndarray:
    """(t, W): l_j(z) = (z^W - 1) / W * omega^j / (z - omega^j), the basis on H at points off H."""
    w = 1 << log_row
    nodes = gl.powers(gl.root_of_unity(log_row), w)
    vanishing = gl.sub(gl.power(z, w), np.ones_like(z))
    factor = gl.mul(vanishing, np.uint64(pow(w, gl.P - 2, gl.P)))
    quotient = gl.mul(nodes[None], gl.inverse(gl.sub(z[:, None], nodes[None])))
    return gl.mul(factor[:, None], quotient)


def _check_pads(pads: Pads, challenges: Challenges, responses, z, columns, kappa: int) -> None:
    near, linear, cofactor = responses
    r, t = pads.rows, pads.triples
    values = columns.reshape(len(z), -1, kappa).transpose(2, 1, 0)  # (kappa, R + 5, points)
    k, w = pads.code.dimension, pads.code.row

    def weighted(weights, rows):
        return ext.sum_mod(ext.mul(weights[:, :, None], rows), axis=1)

    tested = np.concatenate([values[:, :r], values[:, r + 1 :]], axis=1)
    expected = ext.add(values[:, r], weighted(challenges.pad_rows, tested))
    _require_equal("pad proximity test", ntt.evaluate(near, z), expected)
    basis = _lagrange_on_h(pads.code.log_row, z)  # (points, W)
    weights = ext.mul(pads.weights, challenges.zeta.array()[:, None, None])
    expected = shifted_sum_at(values[:, r + 1], values[:, r + 2], w - 1, z)
    for i in range(r):
        a = gl.sum_mod(gl.mul(weights[:, i][:, None, :], basis[None]))
        expected = ext.add(expected, ext.mul(a, values[:, i]))
    _require_equal("pad linear test", ntt.evaluate(linear, z), expected)
    products = ext.sub(ext.mul(values[:, :t], values[:, t : 2 * t]), values[:, 2 * t : 3 * t])
    expected = weighted(challenges.products, products)
    vanishing = gl.sub(gl.power(z, w), np.ones_like(z))
    mask = shifted_sum_at(values[:, r + 3], values[:, r + 4], k - 1 - w, z)
    expected = ext.add(expected, ext.scale(mask, vanishing))
    _require_equal("product test", ext.scale(ntt.evaluate(cofactor, z), vanishing), expected)
