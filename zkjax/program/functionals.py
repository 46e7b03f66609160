"""Numerical helpers of the reduction: values of functionals, weight tables, lookup leaves."""

from __future__ import annotations

from functools import reduce

import numpy as np

from zkjax.argument import logup
from zkjax.argument.layout import axis_logs
from zkjax.argument.party import Weights
from zkjax.field import dense
from zkjax.field import extension as ext
from zkjax.field import goldilocks as gl
from zkjax.field.multilinear import indicator_at
from zkjax.field.scalar import Scalar
from zkjax.work import charge


class OnehotMatrix:
    """The matrix [index_t == j] for ``TensorRounds``, kept as its indices."""

    def __init__(self, index: np.ndarray, high_logs, low: int):
        positions = np.arange(1 << sum(high_logs)).reshape([1 << log for log in high_logs])
        self._where = positions[tuple(slice(0, n) for n in index.shape)].reshape(-1)
        self._index, self._size, self._low = index.reshape(-1), positions.size, low

    def right(self, low: np.ndarray) -> np.ndarray:
        out = np.zeros((low.shape[0], self._size), dtype=np.uint64)
        out[:, self._where] = low[:, self._index]
        return out

    def left(self, high: np.ndarray) -> np.ndarray:
        values = high[:, self._where]
        halves = []
        for part in (values & np.uint64(0xFFFFFFFF), values >> np.uint64(32)):
            total = np.zeros((high.shape[0], 1 << self._low), dtype=np.uint64)
            for k in range(high.shape[0]):
                np.add.at(total[k], self._index, part[k])
            halves.append(total)
        return gl.add(halves[0], gl.mul(halves[1], np.uint64(1 << 32)))


def functional_value(values: np.ndarray, weights: Weights, kappa: int) -> Scalar:
    """<w_1 (x) ... (x) w_k, values> for float64 integers."""
    if not weights:
        return Scalar.of(int(values), kappa)
    charge(values.size)
    bound = int(np.abs(values).max(initial=0))
    return Scalar.from_array(dense.contract(values, dict(enumerate(weights)), bound))


def inner_product(a: Weights, b: Weights) -> Scalar:
    """prod_axis <a_axis, b_axis>."""
    values = [Scalar.from_array(ext.dot(x, y)) for x, y in zip(a, b, strict=True)]
    return reduce(lambda x, y: x * y, values) if values else 1  # type: ignore[return-value]


def indicator(local: np.ndarray, shape) -> Scalar:
    """The extension of "inside the logical shape" at a point of the padded shape."""
    result, start = Scalar.of(1, local.shape[0]), 0
    for n, log in zip(shape, axis_logs(shape), strict=True):
        result = result * Scalar.from_array(indicator_at(local[:, start : start + log], n))
        start += log
    return result


def ones(n: int, kappa: int) -> np.ndarray:
    return ext.lift(np.ones(n, dtype=np.uint64), kappa)


def padded_kron(weights: Weights, logs, c: Scalar) -> np.ndarray:
    padded = [dense.pad_to(w, 1 << log) for w, log in zip(weights, logs, strict=True)]
    if not padded:
        return c.array()[:, None]
    padded[0] = ext.mul(padded[0], c.array()[:, None])
    return dense.kron(padded, c.kappa)


def table_sum(tables: np.ndarray) -> Scalar:
    product = reduce(ext.mul, tables)
    return Scalar.from_array(ext.sum_mod(product))


def negated_fingerprint(columns, tag: int, alpha: Scalar, beta: Scalar) -> np.ndarray:
    """alpha - v_1 - beta v_2 - ... - beta^w tag: (kappa, n)."""
    powers = logup.fingerprint_powers(beta, len(columns))
    base = (alpha - powers[-1] * tag).array()[:, None]
    total = np.broadcast_to(base, (base.shape[0], len(columns[0]))).copy()
    total[0] = gl.sub(total[0], columns[0])
    for column, power in zip(columns[1:], powers[1:], strict=False):
        total = ext.sub(total, gl.mul(power.array()[:, None], column[None]))
    return total
