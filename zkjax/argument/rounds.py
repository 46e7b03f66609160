"""The prover's rounds of product sumchecks: sum_x prod_f T_f(x), many instances in one kernel.

All unbound instances of a batch live in one table of shape (factors, kappa, N * I), the I instances
interleaved behind the N = 2^remaining values of the unbound variables. Binding the most significant
variable then folds the table in halves whatever I is, and an instance with fewer variables joins by
concatenation when its turn comes. A table is held in ``pieces``, the last of which has a moving
end, so the number of compiled kernels does not depend on its size.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from zkjax.argument.kernels import Kernel, Use
from zkjax.argument.pieces import SMALL, cut, halves, joined, recut, widths
from zkjax.field import extension as ext
from zkjax.field.scalar import Scalar

COLUMNS = 1 << 10  # partial sums that a kernel leaves to the host


def _message() -> Callable:
    import jax
    import jax.numpy as jnp
    from jax import lax

    def column_sums(values):
        """(kappa, n) -> (2, kappa, <= 1024): sums of the 32-bit halves, finished on the host."""
        kappa, n = values.shape
        blocks = values.reshape(kappa, -1, min(n, COLUMNS))
        low = (blocks & np.uint64(0xFFFFFFFF)).sum(axis=1)
        return jnp.stack([low, (blocks >> np.uint64(32)).sum(axis=1)])

    # The barrier keeps XLA from recomputing a value in every fusion that reads it: three to five
    # times faster on CPU.
    once = lax.optimization_barrier

    def product(tables):
        value = tables[0]
        for t in tables[1:]:
            value = once(ext.mul(value, t))
        return value

    def fraction_sum(tables):
        """eq (n0 d1 + d0 m): a layer of the lookup tree, see ``logup``."""
        eq, n0, d1, d0, m = tables
        return ext.mul(eq, once(ext.add(ext.mul(n0, d1), ext.mul(d0, m))))

    combine = {"product": product, "fraction": fraction_sum}
    add, sub = jax.vmap(ext.add), jax.vmap(ext.sub)  # of every factor

    def message(total, low, high, degree, rule):
        """``total`` plus what a pair of pieces gives at 0, 2, ..., degree.

        The points are a loop: unrolled, they take as many times longer to compile.
        """
        step = sub(high, low)

        def at(values, first):
            sums = column_sums(combine[rule](list(values)))
            return add(jnp.where(first, high, values), step), sums

        return total + lax.scan(at, low, jnp.arange(degree) == 0)[1]

    return message


def _fold() -> Callable:
    import jax

    add, sub = jax.vmap(ext.add), jax.vmap(ext.sub)

    def fold(low, high, r):
        return add(low, jax.vmap(lambda x: ext.mul(x, r[:, None]))(sub(high, low)))

    return fold


def _split() -> Callable:
    import jax.numpy as jnp
    from jax import lax

    def split(tables, half):
        """The first ``half`` lanes and the next, each in a piece that is zero behind them."""
        inside = jnp.arange(tables.shape[-1]) < half
        padded = jnp.concatenate([tables, jnp.zeros_like(tables)], axis=-1)
        high = lax.dynamic_slice_in_dim(padded, half, tables.shape[-1], axis=-1)
        return jnp.where(inside, tables, np.uint64(0)), jnp.where(inside, high, np.uint64(0))

    return split


MESSAGE = Kernel("message", _message, static=("degree", "rule"))
FOLD = Kernel("fold", _fold)
SPLIT = Kernel("split", _split)


def uses(factors: int, kappa: int, degree: int, size: int, rule: str = "product") -> list[Use]:
    """The kernels for tables of up to ``size`` values a factor."""
    found = []
    for width in widths(size):
        piece, r = ((factors, kappa, width), "uint64"), ((kappa,), "uint64")
        total = ((degree, 2, kappa, min(width, COLUMNS)), "uint64")
        static = (("degree", degree), ("rule", rule))
        found += [Use(MESSAGE, (total, piece, piece), static), Use(FOLD, (piece, piece, r))]
        if width == SMALL:
            found.append(Use(SPLIT, (piece, ((), "int64"))))
    return found


def finish_sums(columns) -> np.ndarray:
    """(points, 2, kappa, m) half sums from the kernel -> (points, kappa) field elements."""
    from zkjax.field import goldilocks as gl

    totals = np.asarray(columns)
    low = gl.sum_mod(totals[:, 0] % np.uint64(gl.P))
    high = gl.sum_mod(totals[:, 1] % np.uint64(gl.P))
    return gl.add(low, gl.mul(high, np.uint64(1 << 32)))


class Table:
    """(factors, kappa, size) extension values on the device, bound from the top.

    Args:
      pieces: as ``pieces.cut`` gives them.
      size: a power of two.
    """

    def __init__(self, pieces: Sequence[Any], size: int, rule: str = "product"):
        self._pieces, self.size, self.rule = list(pieces), size, rule
        self._pairs: list[tuple[Any, Any]] = []

    @classmethod
    def of(cls, values: np.ndarray, rule: str = "product") -> Table:
        return cls(cut(values), values.shape[-1], rule)

    def _halves(self) -> list[tuple[Any, Any]]:
        """The pairs of pieces whose lanes are the two halves; a message and a fold share them."""
        if not self._pairs:
            if len(self._pieces) > 1:
                self._pairs = halves(self._pieces)
            else:
                self._pairs = [SPLIT(self._pieces[0], np.int64(self.size // 2))]
        return self._pairs

    def message(self, degree: int) -> list[Scalar]:
        """g(0), g(2), ..., g(degree) summed over all pairs."""
        _, kappa, width = self._pieces[0].shape
        total = np.zeros((degree, 2, kappa, min(width, COLUMNS)), dtype=np.uint64)
        for low, high in self._halves():
            total = MESSAGE(total, low, high, degree=degree, rule=self.rule)
        return [Scalar.from_array(v) for v in finish_sums(total)]

    def bind(self, r: Scalar) -> None:
        """Fix the most significant variable."""
        folded = [FOLD(low, high, r.array()) for low, high in self._halves()]
        self.size //= 2
        self._pieces, self._pairs = recut(folded), []

    def values(self) -> np.ndarray:
        return joined(self._pieces)[..., : self.size]


class _Waiting(NamedTuple):
    key: Hashable
    claim: Scalar
    tables: Callable[[], np.ndarray]
    scale: Scalar | None


class ProductRounds:
    """Instances of sum_x prod_f T_f(x) in one batch; they stop when ``end`` variables remain."""

    def __init__(self, factors: int, kappa: int, end: int = 0):
        self.factors, self.kappa, self.end = factors, kappa, end
        self._waiting: dict[int, list[_Waiting]] = {}
        self._order: list[Hashable] = []
        self._table: Table | None = None
        self._columns = 1
        self.zero = Scalar.of(0, kappa)
        self._scale = Scalar.of(1, kappa)
        self._remaining = end

    def add(
        self,
        key: Hashable,
        num_vars: int,
        claim: Scalar,
        tables: Callable[[], np.ndarray],
        scale: Scalar | None = None,
    ) -> None:
        """Add an instance; ``tables`` gives (factors, kappa, 2^(num_vars - end)) when it joins.

        Its first factor is multiplied by ``scale``, by default the idle factor so far.
        """
        self._waiting.setdefault(num_vars, []).append(_Waiting(key, claim, tables, scale))

    def _join(self, remaining: int) -> None:
        entering = self._waiting.pop(remaining, None)
        if not entering:
            return
        n = 1 << (remaining - self.end)
        parts = []
        if self._table is not None:
            old = self._table.values().reshape(self.factors, self.kappa, n, -1)
            parts.append(old[..., : len(self._order)])
        for new in entering:
            values = new.tables()
            scale = self._scale if new.scale is None else new.scale
            if scale != 1:
                values[0] = ext.mul(values[0], scale.array()[:, None])
            parts.append(values.reshape(self.factors, self.kappa, n, 1))
            self._order.append(new.key)
        count = len(self._order)
        self._columns = 1 << (count - 1).bit_length()
        if self._columns > count:
            shape = (self.factors, self.kappa, n, self._columns - count)
            parts.append(np.zeros(shape, dtype=np.uint64))
        together = np.concatenate(parts, axis=-1)
        self._table = Table.of(together.reshape(self.factors, self.kappa, n * self._columns))

    def message(self, remaining: int, degree: int) -> Sequence[Scalar]:
        zero = self.zero
        totals = [zero] * degree
        if remaining > self.end:
            self._join(remaining)
            idle = zero
            for instances in self._waiting.values():
                for waiting in instances:
                    idle = idle + waiting.claim
            idle = idle * self._scale
            # An idle instance contributes claim * (1 - X): values 1, -1, -2, ... at 0, 2, 3, ...
            totals = [idle * (1 if x == 0 else 1 - x) for x in (0, *range(2, degree + 1))]
            if self._table is not None:
                totals = [a + b for a, b in zip(totals, self._table.message(degree), strict=True)]
        self._remaining = remaining
        return totals

    def bind(self, r: Scalar) -> None:
        if self._remaining > self.end:
            if self._table is not None:
                self._table.bind(r)
            self._scale = self._scale * (1 - r)

    def finals(self) -> dict[Hashable, list[Scalar]]:
        """For each instance the values of its factors at the final point (without the idle factor
        in all factors but the first)."""
        if self._waiting.get(self.end):
            self._join(self.end)
        if self._table is None:
            return {}
        values = self._table.values()
        return {
            key: [Scalar.from_array(values[f, :, i]) for f in range(self.factors)]
            for i, key in enumerate(self._order)
        }
