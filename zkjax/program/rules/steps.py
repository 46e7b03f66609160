"""Indexing inside a scan by what is known at each step, as by a loop counter.

All steps of a scan are one array with the step as an axis, one for each scan around a line, in
front; and bounds of carries are found by induction over the steps. So what is taken from a carry,
or put into it, has to stay within its step: here every operation acts on all axes of (*steps,
elements) but the last position by position.
"""

from __future__ import annotations

import math

import numpy as np

from zkjax.program.rules.comparison import choose
from zkjax.program.rules.contraction import contract
from zkjax.program.tracer import Sym, Tracer

Steps = tuple[int, ...]


def blocks(chosen: np.ndarray, lead: Steps, inside: int) -> np.ndarray | None:
    """(*lead, elements) numbers within a step, if every step takes from its own elements alone."""
    steps = math.prod(lead)
    if chosen.size % steps or not chosen.size:
        return None
    rows = chosen.reshape(steps, -1).astype(np.int64)
    local = rows - inside * np.arange(steps)[:, None]
    return local.reshape(*lead, -1) if local.min() >= 0 and local.max() < inside else None


def is_same(table: np.ndarray) -> bool:
    """Whether it is the same at all steps."""
    rows = table.reshape(-1, table.shape[-1])
    return bool((rows == rows[0]).all())


def size_of(table: np.ndarray, inside: int) -> int:
    """Entries of the matrix that ``picked`` needs."""
    return 0 if is_same(table) else table.size * inside


def picked(t: Tracer, x: Sym, table: np.ndarray) -> Sym:
    """y[l, j] = x[l, table[l, j]], l over all steps."""
    b = t.builder
    *lead, inside = b.shape(x.var)
    count, r = table.shape[-1], len(lead)
    batch = [(a, a) for a in range(r)]
    if is_same(table):
        index = tuple(map(int, table.reshape(-1, count)[0]))
        shape = (*lead, inside)
        return Sym(
            b.add("take", [x.var], table.shape, b.bounds[x.var], r, index, shape), x.fraction
        )
    first = table[..., 0]
    rows = inside % count == 0 and not (first % count).any()
    if rows and (table == first[..., None] + np.arange(count)).all():  # choose among whole rows
        split = Sym(b.reshape(x.var, (*lead, inside // count, count)), x.fraction)
        return contract(t, _hot(t, first // count, inside // count), split, batch, [(r, r)])
    return contract(t, _hot(t, table, inside), x, batch, [(r + 1, r)])


def _hot(t: Tracer, index: np.ndarray, n: int) -> Sym:
    """[index == j] on a new last axis, of constants; bounds know that it has one 1 a row."""
    b = t.builder
    if n == 1:
        return t.sym(np.ones((*index.shape, 1)))
    bits = [b.constant((index >> i) & 1) for i in range((n - 1).bit_length())]
    return Sym(b.add("onehot", bits, (*index.shape, n), 1, n), 0)


def spread_over(t: Tracer, u: Sym, table: np.ndarray, mask: np.ndarray) -> Sym:
    """u[l, table[l, j]] where the mask is, anything elsewhere; by a selection that is the same at
    all steps if there is one.
    """
    count = table.shape[-1]
    flat, inside = table.reshape(-1, count), mask.reshape(-1, count)
    row = np.where(inside.any(axis=0), flat[np.argmax(inside, axis=0), np.arange(count)], 0)
    same = np.broadcast_to(row, table.shape)
    return picked(t, u, same if (table == row)[mask].all() else np.where(mask, table, 0))


def put(t: Tracer, x: Sym, u: Sym, table: np.ndarray, mask: np.ndarray) -> Sym:
    """u[l, table[l, j]] where the mask is, x[l, j] elsewhere."""
    placed = spread_over(t, u, table, mask)
    bit = Sym(t.builder.constant(mask.astype(np.int64)), 0)
    return choose(t, bit, placed, x, mask.shape)


def added(t: Tracer, x: Sym, u: Sym, weights: np.ndarray) -> Sym:
    """x[l, j] + sum_i weights[l, i, j] u[l, i]."""
    b = t.builder
    mask = np.asarray(weights.any(axis=-2))
    if np.isin(weights, (0, 1)).all() and weights.sum(axis=-2).max() <= 1:
        placed = spread_over(t, u, np.argmax(weights, axis=-2), mask)
        bit = b.constant(mask.astype(np.int64))
        moved = Sym(b.multiply(bit, placed.var), placed.fraction)
    else:
        r = weights.ndim - 2
        batch = [(a, a) for a in range(r)]
        moved = contract(t, u, t.sym(weights.astype(np.float64)), batch, [(r, r)])
    return t.add([(x, 1), (moved, 1)])
