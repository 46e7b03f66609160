"""The prover's rounds of product sumchecks: sum_x prod_f T_f(x), many instances in one kernel.

All unbound instances of a batch live in one table of shape (factors, kappa, N * I), the I instances
interleaved behind the N = 2^remaining values of the unbound variables. Binding the most significant
variable then folds the table in halves whatever I is, an instance with fewer variables joins by
concatenation when its turn comes, and the number of compiled kernels grows with log2 of the
largest table only. Tables below ``SMALL`` live in a buffer of that size with a moving end, so that
one kernel serves all small sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from zkjax.argument.kernels import used
from zkjax.field import extension as ext
from zkjax.field.scalar import Scalar

SMALL = 1 << 10


@cache
def kernels():
    """Compiled kernels; JAX is imported here, when a prover first needs it."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    def fold_halves(low, high, r):
        return ext.add(low, ext.mul(ext.sub(high, low), r[:, None]))

    def column_sums(values):
        """(kappa, n) -> (2, kappa, <= 1024): sums of the 32-bit halves, finished on the host."""
        kappa, n = values.shape
        blocks = values.reshape(kappa, -1, min(n, 1024))
        low = (blocks & np.uint64(0xFFFFFFFF)).sum(axis=1)
        return jnp.stack([low, (blocks >> np.uint64(32)).sum(axis=1)])

    def evaluations(low, high, degree, combine):
        step = [ext.sub(b, a) for a, b in zip(low, high, strict=True)]
        out = [column_sums(combine(low))]
        current = high
        for _ in range(degree - 1):
            current = [ext.add(c, d) for c, d in zip(current, step, strict=True)]
            out.append(column_sums(combine(current)))
        return jnp.stack(out)

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

    def halves(tables, half):
        size = tables.shape[-1] // 2
        if half is None:
            return tables[..., :size], tables[..., size:]
        inside = jnp.arange(size) < half
        low = jnp.where(inside, tables[..., :size], np.uint64(0))
        padded = jnp.concatenate([tables, jnp.zeros_like(tables[..., :size])], axis=-1)
        high = lax.dynamic_slice_in_dim(padded, half, size, axis=-1)
        return low, jnp.where(inside, high, np.uint64(0))

    def message(tables, half, degree, rule):
        low, high = halves(tables, half)
        return evaluations(list(low), list(high), degree, combine[rule])

    def fold(tables, half, r):
        low, high = halves(tables, half)
        folded = jax.vmap(lambda a, b: fold_halves(a, b, r))(low, high)
        if half is None:
            return folded
        return jnp.concatenate([folded, jnp.zeros_like(folded)], axis=-1)

    return (
        jax.jit(message, static_argnames=("degree", "rule")),
        jax.jit(fold),
    )


def finish_sums(columns) -> np.ndarray:
    """(points, 2, kappa, m) half sums from the kernel -> (points, kappa) field elements."""
    from zkjax.field import goldilocks as gl

    totals = np.asarray(columns)
    low = gl.sum_mod(totals[:, 0] % np.uint64(gl.P))
    high = gl.sum_mod(totals[:, 1] % np.uint64(gl.P))
    return gl.add(low, gl.mul(high, np.uint64(1 << 32)))


class Table:
    """(factors, kappa, size) extension values on the device, bound from the top."""

    def __init__(self, values: np.ndarray, rule: str = "product"):
        self.size = values.shape[-1]
        self.rule = rule
        if self.size < SMALL:
            room = np.zeros((*values.shape[:2], SMALL), dtype=np.uint64)
            room[..., : self.size] = values
            values = room
        self.buffer = values

    def _half(self):
        if self.buffer.shape[-1] > SMALL:
            return None
        return np.int64(self.size // 2)

    def message(self, degree: int) -> list[Scalar]:
        """g(0), g(2), ..., g(degree) summed over all pairs."""
        from zkjax._compat import x64

        used("message", self.buffer.shape, degree, self.rule)
        with x64():
            columns = kernels()[0](self.buffer, self._half(), degree=degree, rule=self.rule)
            return [Scalar.from_array(v) for v in finish_sums(columns)]

    def bind(self, r: Scalar) -> None:
        from zkjax._compat import x64

        used("fold", self.buffer.shape)
        with x64():
            self.buffer = kernels()[1](self.buffer, self._half(), r.array())
        self.size //= 2

    def values(self) -> np.ndarray:
        return np.asarray(self.buffer)[..., : self.size]


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
        joined = np.concatenate(parts, axis=-1)
        self._table = Table(joined.reshape(self.factors, self.kappa, n * self._columns))

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
