"""All constraints of a run become one linear statement about the rows of the tableaux.

A random combination of the constraints is an affine form in pads plus rank-one functionals of
committed tensors. One sumcheck over all slots of all tableaux turns the functionals into the value
of every slot at one point, so the commitment is opened by a single linear test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zkjax.argument.layout import Layout, Slot, axis_logs, padded_log
from zkjax.argument.party import Functional, Party
from zkjax.argument.sumcheck import idle_factor, point_array, sumcheck
from zkjax.argument.tensor_claims import DenseMatrix, Job, TensorRounds, split_axes
from zkjax.argument.vectors import Vectors
from zkjax.field import dense
from zkjax.field import extension as ext
from zkjax.field.multilinear import Point, eq_vector
from zkjax.field.scalar import Scalar


@dataclass
class Committed:
    """A tableau as this module sees it: its layout, the numbers of its tensors, their values."""

    layout: Layout
    tensors: tuple[int, ...]
    values: Sequence[np.ndarray] | None = None


@dataclass
class LinearStatement:
    """sum_T <g_T (x) eq(point_T), V_T> + sum pads coefficient * pad + known = 0."""

    row_weights: list[np.ndarray]  # per tableau (kappa, rows)
    points: list[np.ndarray]  # per tableau (kappa, log_row)
    pads: dict[tuple[str, int], Scalar]
    known: Scalar


Claims = dict[int, list[tuple[Scalar, tuple]]]


def close(party: Party, tableaux: Sequence[Committed]) -> LinearStatement:
    """Combine all constraints of ``party`` and reduce them; the same code for both sides."""
    kappa = party.kappa
    constraints = party.tape.constraints
    alpha = party.challenge("constraint combiner", len(constraints))
    power, roots = Scalar.of(1, kappa), []
    for expression, _ in constraints:
        power = power * alpha
        roots.append((expression, power))
    claims: Claims = {}
    for leaf, coefficient in party.tape.gradient(roots).items():
        if isinstance(leaf, Functional) and coefficient:
            claims.setdefault(leaf.tensor, []).append((coefficient, leaf.weights))
    claim = party.tape.combine([(e, -c) for e, c in roots])
    slots = [(i, slot) for i, t in enumerate(tableaux) for slot in t.layout.slots]
    num_vars = max((slot.log for _, slot in slots), default=0)
    provers = []
    if all(t.values is not None for t in tableaux):
        jobs = [
            _job(key, slot, tableaux[i], claims, party.vectors, kappa)
            for key, (i, slot) in enumerate(slots)
            if _claimed(slot, tableaux[i], claims)
        ]
        provers = [TensorRounds(jobs, kappa)]
    point, final = sumcheck(party, claim, num_vars, 2, provers, "opening round")
    at = Point(point_array(point, kappa))
    weights = [np.zeros((kappa, t.layout.rows), dtype=np.uint64) for t in tableaux]
    inner: dict = {}
    for i, slot in slots:
        tableau = tableaux[i]
        if not _claimed(slot, tableau, claims):
            continue
        local = at.last(slot.log)
        share = _slot_weight(slot, tableau, claims, local, inner, party.vectors)
        share = share * idle_factor(point, slot.log, kappa)
        high = slot.log - tableau.layout.code.log_row
        rows = eq_vector(local.coordinates[:, :high], slot.rows)
        weights[i][:, slot.row : slot.row + slot.rows] = ext.mul(rows, share.array()[:, None])
    points = [at.last(t.layout.code.log_row).coordinates for t in tableaux]
    pads = {
        leaf: -c
        for leaf, c in party.tape.gradient([(final, Scalar.of(1, kappa))]).items()
        if isinstance(leaf, tuple)
    }
    return LinearStatement(weights, points, pads, -final.known)


def _claimed(slot: Slot, tableau: Committed, claims: Claims) -> bool:
    return any(tableau.tensors[t] in claims for t, _ in slot.tensors)


def _is_single(slot: Slot, tableau: Committed) -> bool:
    index = slot.tensors[0][0]
    return len(slot.tensors) == 1 and padded_log(tableau.layout.shapes[index]) == slot.log


def _slot_weight(
    slot: Slot, tableau: Committed, claims: Claims, local: Point, cache: dict, vectors: Vectors
) -> Scalar:
    """The combined weight function of a slot at its point: sum_j c_j prod_axis <w, eq>."""
    kappa = local.coordinates.shape[0]
    total = Scalar.of(0, kappa)
    for index, offset in slot.tensors:
        shape = tableau.layout.shapes[index]
        log = padded_log(shape)
        place = eq_vector_at(local.coordinates[:, : slot.log - log], offset >> log)
        eqs = local.last(log).weights(shape)
        for c, weights in claims.get(tableau.tensors[index], ()):
            value = c * place
            for w, eq in zip(weights, eqs, strict=True):
                key = vectors.name(w), vectors.name(eq)
                if key not in cache:
                    cache[key] = Scalar.from_array(ext.dot(w, eq))
                value = value * cache[key]
            total = total + value
    return total


def eq_vector_at(point: np.ndarray, index: int) -> Scalar:
    """eq(point, index): the weight of one vertex."""
    kappa, n = point.shape
    result = Scalar.of(1, kappa)
    for b in range(n):
        r = Scalar.from_array(point[:, b])
        result = result * (r if (index >> (n - 1 - b)) & 1 else 1 - r)
    return result


def _job(
    key: int, slot: Slot, tableau: Committed, claims: Claims, vectors: Vectors, kappa: int
) -> Job:
    values = tableau.layout.slot_values(slot, tableau.values)
    bound = int(np.abs(values).max(initial=0))
    if _is_single(slot, tableau):
        index = slot.tensors[0][0]
        logs = axis_logs(tableau.layout.shapes[index])
        mine = claims[tableau.tensors[index]]
        split = split_axes(logs, len(mine))
        low_log = sum(logs[split:])
        lows: dict = {}
        jobs = []
        for c, weights in mine:
            padded = [dense.pad_to(w, 1 << g) for w, g in zip(weights, logs, strict=True)]
            low_key = vectors.names(weights[split:])
            low = lows.setdefault(low_key, dense.kron(padded[split:], kappa))
            jobs.append((c, dense.kron(padded[:split], kappa), low))
        high_log = slot.log - low_log
    else:
        total = np.zeros((kappa, 1 << slot.log), dtype=np.uint64)
        for index, offset in slot.tensors:
            logs = axis_logs(tableau.layout.shapes[index])
            size = 1 << sum(logs)
            for c, weights in claims.get(tableau.tensors[index], ()):
                padded = [dense.pad_to(w, 1 << g) for w, g in zip(weights, logs, strict=True)]
                part = ext.mul(dense.kron(padded, kappa), c.array()[:, None])
                where = slice(offset, offset + size)
                total[:, where] = ext.add(total[:, where], part)
        one = Scalar.of(1, kappa)
        high_log, low_log = 0, slot.log
        jobs = [(one, one.array()[:, None], total)]
    value = Scalar.of(0, kappa)
    if high_log == 0:
        for c, high, low in jobs:
            table = dense.matvec(values.reshape(1, -1), low, bound)
            value = value + c * Scalar.from_array(high[:, 0]) * Scalar.from_array(table[:, 0])
    return Job(key, high_log, low_log, DenseMatrix(values, high_log, low_log, bound), jobs, value)
