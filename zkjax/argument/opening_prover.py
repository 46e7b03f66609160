"""The prover of ``opening``: masks, responses, opened columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zkjax.argument.budget import Profile
from zkjax.argument.code import Code, combine_rows
from zkjax.argument.entropy import Entropy
from zkjax.argument.opening import (
    MASK_ROWS,
    PAD_MASK_ROWS,
    Challenges,
    Group,
    Member,
    Pads,
    column_indices,
    linear_total,
    shifted_sum,
    squeeze,
)
from zkjax.argument.tableau import blind_interpolated
from zkjax.argument.transcript import ProverTranscript
from zkjax.errors import WitnessError
from zkjax.field import extension as ext
from zkjax.field import goldilocks as gl
from zkjax.field import ntt
from zkjax.field.multilinear import eq_vector
from zkjax.field.scalar import Scalar


def group_masks(code: Code, mu: Scalar, entropy: Entropy) -> np.ndarray:
    """(3 kappa, k): the proximity mask, then M0, M1 with coefficient W-1 of M0 + X^(W-1) M1 =
    mu.
    """
    rows = entropy.field((MASK_ROWS, mu.kappa, code.dimension))
    rows[1, :, code.row - 1] = gl.sub(mu.array(), rows[2, :, 0])
    return rows.reshape(MASK_ROWS * mu.kappa, -1)


def pad_tableau_rows(values: np.ndarray, code: Code, mu: Scalar, entropy: Entropy) -> np.ndarray:
    """All F-rows of the pad tableau: pads (kappa, R, W) -> ((R + 5) kappa, k) coefficients.

    The last five E-rows are masks: proximity; L0, L1, where L0 + X^(W-1) L1 sums to mu over H; S0,
    S1 of the product mask (X^W - 1) (S0 + X^(k-1-W) S1). E-row i occupies F-rows kappa i to
    kappa i + kappa - 1.
    """
    kappa, r, w = values.shape
    k = code.dimension
    rows = entropy.field((r + PAD_MASK_ROWS, kappa, k))
    flat = blind_interpolated(values.transpose(1, 0, 2).reshape(r * kappa, w), code, entropy)
    rows[:r] = flat.reshape(r, kappa, k)
    # The sum over H of X^j is W for j = 0 mod W and 0 otherwise; set coefficient 0 to reach mu.
    rows[r + 1, :, 0] = 0
    others = gl.sum_mod(shifted_sum(rows[r + 1], rows[r + 2], w - 1)[:, ::w])
    inverse_w = np.uint64(pow(w, gl.P - 2, gl.P))
    rows[r + 1, :, 0] = gl.sub(gl.mul(mu.array(), inverse_w), others)
    return rows.reshape((r + PAD_MASK_ROWS) * kappa, k)


def split_mu(parts: int, kappa: int, entropy: Entropy) -> list[Scalar]:
    """Random elements of E that sum to zero."""
    head = entropy.scalars(parts - 1, kappa)
    return [*head, -sum(head, Scalar.of(0, kappa))]


def _ext_rows(rows: np.ndarray, kappa: int) -> np.ndarray:
    """(R kappa, k) F-rows of an E-valued tableau -> (kappa, R, k)."""
    return rows.reshape(-1, kappa, rows.shape[1]).transpose(1, 0, 2)


def reversed_eq(point: np.ndarray) -> np.ndarray:
    """(kappa, W): rev(eq(r))_s = eq(r)_{W-1-s}, the weights of the linear test."""
    return eq_vector(point)[:, ::-1]


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Product of polynomials over E given by coefficients (kappa, .), by transforms."""
    kappa = a.shape[0]
    size = a.shape[1] + b.shape[1] - 1
    log_n = max(1, (size - 1).bit_length())
    table = ntt.twiddles(log_n)

    def values(p):
        room = np.zeros((kappa, 1 << log_n), dtype=np.uint64)
        room[:, : p.shape[1]] = p
        return ntt.ntt(room, table)

    product = ext.mul(values(a), values(b))[:, ntt.bit_reversal(log_n)]
    return ntt.inverse_ntt(product)[:, :size]


def prove(
    transcript: ProverTranscript,
    profile: Profile,
    groups: Sequence[Group],
    pads: Pads,
    known: Scalar,
) -> None:
    """Write responses, indices' columns, nonces and paths; ``known`` as in ``opening.verify``.

    Raises:
      WitnessError: the linear statement is false for these rows. The proof would be refused, and
        its total, which is not zero then, is a linear equation in private values.
    """
    kappa = profile.kappa
    challenges = squeeze(transcript, groups, pads)
    zeta = challenges.zeta.array()[:, None]
    shares = []
    for group, u in zip(groups, challenges.rows, strict=True):
        code = group.code
        weights = np.concatenate([u[:, : group.rows], ext.mul(group.weights, zeta)])
        total = np.zeros((2 * kappa, code.dimension), dtype=np.uint64)
        start = 0
        for member in group.members:
            part = weights[:, start : start + member.rows]
            total = gl.add(total, combine_rows(part, member.tableau.rows))
            start += member.rows
        masks = group.masks.tableau.rows.reshape(MASK_ROWS, kappa, -1)
        near = gl.add(total[:kappa], masks[0])
        for i in (1, 2):
            near = ext.add(near, ext.mul(u[:, group.rows + i - 1][:, None], masks[i]))
        mask = shifted_sum(masks[1], masks[2], code.row - 1)
        linear = gl.add(_multiply(reversed_eq(group.point), total[kappa:]), mask)
        transcript.write_field("proximity response", near)
        transcript.write_field("linear response", linear)
        shares.append(linear)
    pad_share = _prove_pads(transcript, kappa, pads, challenges)
    require_true(linear_total(known, challenges.zeta, groups, shares, pads, pad_share))
    for group in groups:
        indices = column_indices(transcript, group.code, profile)
        for member in [*group.members, group.masks]:
            _write_columns(transcript, member, indices)
    _write_columns(transcript, pads.member, column_indices(transcript, pads.code, profile))


def require_true(total: Scalar) -> None:
    """WitnessError unless the linear test will pass."""
    if total:
        raise WitnessError(
            "the values do not satisfy the statement, or are not those that were committed; no "
            "proof was given out and no opening taken"
        )


def _prove_pads(transcript, kappa: int, pads: Pads, challenges: Challenges) -> np.ndarray:
    """Write the pads' responses; the linear one, (kappa, k + W - 1)."""
    code, r, t = pads.code, pads.rows, pads.triples
    rows = _ext_rows(pads.member.tableau.rows, kappa)  # (kappa, R + 5, k)
    k, w = code.dimension, code.row
    near = rows[:, r]
    linear = shifted_sum(rows[:, r + 1], rows[:, r + 2], w - 1)
    for i in range(PAD_MASK_ROWS - 1):
        near = ext.add(near, ext.mul(challenges.pad_rows[:, r + i][:, None], rows[:, r + 1 + i]))
    zeta = challenges.zeta.array()[:, None, None]
    weights = ntt.inverse_ntt(ext.mul(pads.weights, zeta))  # A_i, coefficients
    for i in range(r):
        near = ext.add(near, ext.mul(challenges.pad_rows[:, i : i + 1], rows[:, i]))
        linear = ext.add(linear, _multiply(weights[:, i], rows[:, i]))
    quad = np.zeros((kappa, 2 * k - 1), dtype=np.uint64)
    for i in range(t):
        rho = challenges.products[:, i : i + 1]
        product = _multiply(rows[:, i], rows[:, t + i])
        product[:, :k] = ext.sub(product[:, :k], rows[:, 2 * t + i])
        quad = ext.add(quad, ext.mul(rho, product))
    # Exact division by X^W - 1: c_j = c_{j-W} - q_j.
    cofactor = np.zeros((kappa, 2 * k - 1 - w), dtype=np.uint64)
    for j in range(0, cofactor.shape[1], w):
        part = quad[:, j : min(j + w, cofactor.shape[1])]
        before = cofactor[:, j - w : j - w + part.shape[1]] if j else np.zeros_like(part)
        cofactor[:, j : j + part.shape[1]] = gl.sub(before, part)
    cofactor = ext.add(cofactor, shifted_sum(rows[:, r + 3], rows[:, r + 4], k - 1 - w))
    transcript.write_field("pad proximity response", near)
    transcript.write_field("pad linear response", linear)
    transcript.write_field("product response", cofactor)
    return linear


def _write_columns(transcript, member: Member, indices: np.ndarray) -> None:
    transcript.write_field("opened columns", member.tableau.columns(indices))
    transcript.write("nonces", member.tableau.nonces[indices].tobytes())
    transcript.write("merkle path", member.tableau.path(indices))
