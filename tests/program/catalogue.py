"""What users write, and what each line of it gives: proved, or refused with which cure.

``FUNCTIONS`` is the one list. ``test_functions.py`` checks every line of it, and this module run as
a script writes ``docs/functions.md`` from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from zkjax import fixed
from zkjax.program.tables import Table

X = np.array([[3, -7, 11, 2], [-5, 13, -128, 127], [1, 0, 6, -9]], np.int8)
K = np.array([1, 3, 0], np.uint8)
KEYS = np.arange(-128, 128)
PAGE = Path(__file__).parents[2] / "docs" / "functions.md"


@dataclass(frozen=True)
class Line:
    """An expression of x (stored integers), v (the same as numbers), k (indices below 4).

    Attributes:
      cure: what its error says, if it is refused.
      real: what it is compared with besides itself as JAX runs it, and ``within`` which error.
    """

    written: str
    cure: str = ""
    real: str = ""
    within: float = 0.0

    def function(self, expression: str = "") -> Callable:
        """Of x and k, with stored results."""
        code = compile(expression or self.written, f"<{self.written}>", "eval")

        def fn(x, k):
            scope = {**names(), "x": x, "k": k, "v": fixed.decode(x, 4)}
            return jax.tree.map(stored, eval(code, scope))

        return fn


@cache
def names() -> dict[str, Any]:
    """What the expressions may use."""
    mesh = jax.make_mesh((1,), ("d",))
    return {
        "P": PartitionSpec,
        "cubes": Table("cubes", (KEYS, KEYS**3, 3 * KEYS**2)),
        "fixed": fixed,
        "jax": jax,
        "jnp": jnp,
        "lax": lax,
        "mesh": mesh,
        "nn": nn,
        "np": np,
        "one_device": NamedSharding(mesh, PartitionSpec()),
        "optax": optax,
    }


def stored(y) -> jax.Array:
    """A result as integers: numbers with 16 fraction bits."""
    y = jnp.asarray(y)
    if y.dtype != jnp.float64:
        return y
    return (fixed.round(y, 16, 40) * 2.0**16).astype(jnp.int64)


FUNCTIONS: dict[str, list[Line]] = {
    "Arithmetic of numbers": [
        Line(
            "v + 1.5",
        ),
        Line(
            "v - v[0]",
        ),
        Line(
            "-v",
        ),
        Line(
            "v * v",
        ),
        Line(
            "v * 0.5",
        ),
        Line(
            "v * 0.1",
            "write zkjax.fixed.constant(value, fraction=...) to round it on purpose",
        ),
        Line(
            "v * fixed.constant(0.1, 16)",
        ),
        Line(
            "v**2",
        ),
        Line(
            "v**3",
        ),
        Line(
            "v**0.5",
            "constant whole exponents are products; tabulate others: zkjax.fixed.table(lambda "
            "x: x**0.7, fraction, out_fraction, low=0, high=8)",
        ),
        Line(
            "v**-1",
            "use zkjax.fixed.reciprocal or zkjax.fixed.divide",
        ),
        Line(
            "jnp.power(v, 2.0)",
        ),
        Line(
            "v / 4.0",
        ),
        Line(
            "v / 3.0",
            "multiply by zkjax.fixed.constant(1 / 3.0, fraction=...) and round",
        ),
        Line(
            "v / v",
            "use zkjax.fixed.divide(x, y, fraction=...)",
        ),
        Line(
            "1.0 / v",
            "use zkjax.fixed.divide(x, y, fraction=...)",
        ),
        Line(
            "v / np.array([1.0, 2.0, 4.0, 8.0])",
        ),
        Line(
            "v // 1.0",
            "integers are divided by one constant, numbers by powers of two: jnp.floor(x * "
            "2.0**-n); zkjax.fixed.divide(x, y, fraction=0) divides by data",
        ),
        Line(
            "v % 0.75",
        ),
        Line(
            "jnp.fmod(v, 0.75)",
        ),
        Line(
            "v % v",
            "by one constant it can, and zkjax.fixed.divide(x, y, fraction=...) divides by data",
        ),
        Line(
            "jnp.square(v)",
        ),
        Line(
            "jnp.reciprocal(v)",
            "use zkjax.fixed.reciprocal or zkjax.fixed.divide",
        ),
        Line(
            "jnp.abs(v)",
        ),
        Line(
            "jnp.sign(v)",
        ),
        Line(
            "jnp.floor(v)",
        ),
        Line(
            "jnp.ceil(v)",
        ),
        Line(
            "jnp.trunc(v)",
        ),
        Line(
            "jnp.round(v)",
            "use zkjax.fixed.round(x, 0), which rounds ties up",
        ),
        Line(
            "jnp.modf(v)",
        ),
        Line(
            "jnp.maximum(v, 0.5)",
        ),
        Line(
            "jnp.minimum(v, v[0])",
        ),
        Line(
            "jnp.fmax(v, 0.5)",
        ),
        Line(
            "jnp.clip(v, -1.0, 1.0)",
        ),
        Line(
            "jnp.clip(v, -0.1, 0.1)",
            "write zkjax.fixed.constant(value, fraction=...) to round it on purpose",
        ),
        Line(
            "jnp.heaviside(v, 0.5)",
        ),
        Line(
            "jnp.copysign(v, -1.0)",
        ),
        Line(
            "jnp.ldexp(v, 2)",
            "multiply by 2.0**n instead",
        ),
        Line(
            "jnp.hypot(v, 1.0)",
            "multiply x by zkjax.fixed.rsqrt(x, fraction=...), for sqrt(x) = x / sqrt(x)",
        ),
        Line(
            "jnp.sqrt(v * v)",
            "multiply x by zkjax.fixed.rsqrt(x, fraction=...), for sqrt(x) = x / sqrt(x)",
        ),
        Line(
            "jnp.cbrt(v)",
            "a function of one number can be tabulated: zkjax.fixed.table(function, fraction, "
            "out_fraction); docs/functions.md lists what is proved",
        ),
        Line(
            "lax.rsqrt(v * v + 1.0)",
            "use zkjax.fixed.rsqrt",
        ),
        Line(
            "jnp.nan_to_num(v)",
        ),
    ],
    "Integers and bits": [
        Line(
            "x + x",
            "zkjax.fixed.decode the integers first and encode the result",
        ),
        Line(
            "x.astype(jnp.int16) * 2",
        ),
        Line(
            "x.astype(jnp.int16) // 3",
        ),
        Line(
            "x.astype(jnp.int16) % 3",
        ),
        Line(
            "x.astype(jnp.int16) // -4",
        ),
        Line(
            "jnp.divmod(x.astype(jnp.int16), 5)",
        ),
        Line(
            "jnp.fmod(x.astype(jnp.int16), 7)",
        ),
        Line(
            "x.astype(jnp.int16) // k[:, None]",
            "integers are divided by one constant, numbers by powers of two: jnp.floor(x * "
            "2.0**-n); zkjax.fixed.divide(x, y, fraction=0) divides by data",
        ),
        Line(
            "x / 4",
            "keep float64 (dtype=jnp.float64), and read integers with zkjax.fixed.decode",
        ),
        Line(
            "x & 3",
            "x % 2**n is the low n bits of x, x // 2**n the others, -1 - x is ~x",
        ),
        Line(
            "x | 1",
            "x % 2**n is the low n bits of x, x // 2**n the others, -1 - x is ~x",
        ),
        Line(
            "~x",
            "x % 2**n is the low n bits of x, x // 2**n the others, -1 - x is ~x",
        ),
        Line(
            "x << 1",
            "x // 2**n and x % 2**n are proved; zkjax.fixed.decode(x, fraction=n) moves the "
            "point without any cost",
        ),
        Line(
            "x >> 1",
            "x // 2**n and x % 2**n are proved; zkjax.fixed.decode(x, fraction=n) moves the "
            "point without any cost",
        ),
        Line(
            "-(x.astype(jnp.int16))",
        ),
        Line(
            "jnp.abs(x.astype(jnp.int16))",
        ),
        Line(
            "jnp.gcd(x, 6)",
            "compute it outside the function and pass it in",
        ),
        Line(
            "jnp.bitwise_count(x)",
            "compute it outside the function and pass it in",
        ),
        Line(
            "x.astype(jnp.int32)",
        ),
        Line(
            "x.astype(jnp.float64)",
        ),
        Line(
            "x.astype(jnp.float32)",
            "keep float64 (dtype=jnp.float64), and read integers with zkjax.fixed.decode",
        ),
        Line(
            "v.astype(jnp.int32)",
            "use zkjax.fixed.encode(x, fraction=...)",
        ),
        Line(
            "v.astype(jnp.bfloat16)",
            "keep float64 (dtype=jnp.float64), and read integers with zkjax.fixed.decode",
        ),
        Line(
            "x.astype(bool)",
            "write x != 0 instead of a conversion to bool",
        ),
        Line(
            "lax.bitcast_convert_type(x, jnp.uint8)",
            "x // 2**n and x % 2**n are proved; zkjax.fixed.decode(x, fraction=n) moves the "
            "point without any cost",
        ),
        Line(
            "v + 1j",
            "keep float64 (dtype=jnp.float64), and read integers with zkjax.fixed.decode",
        ),
    ],
    "Comparisons and choices": [
        Line(
            "v > 0.0",
        ),
        Line(
            "v >= v[0]",
        ),
        Line(
            "v == 0.5",
        ),
        Line(
            "v != v.T.reshape(3, 4)",
        ),
        Line(
            "jnp.isclose(v, 0.5)",
            "compare jnp.abs(x - y) with a constant: zkjax.fixed.constant(1e-3, fraction=12)",
        ),
        Line(
            "(v > 0.0) & (v < 1.0)",
        ),
        Line(
            "(v > 0.0) | (x == 3)",
        ),
        Line(
            "(v > 0.0) ^ (v < 1.0)",
        ),
        Line(
            "~(v > 0.0)",
        ),
        Line(
            "jnp.logical_and(v > 0.0, x > 1)",
        ),
        Line(
            "jnp.logical_not(x > 1)",
        ),
        Line(
            "jnp.any(v > 1.0)",
        ),
        Line(
            "jnp.all(v > -9.0, axis=1)",
        ),
        Line(
            "jnp.count_nonzero(v > 0.0)",
        ),
        Line(
            "jnp.where(v > 0.0, v, 0.0)",
        ),
        Line(
            "jnp.select([v > 1.0, v > 0.0], [v, 2.0 * v], -v)",
        ),
        Line(
            "jnp.piecewise(v, [v < 0.0], [lambda u: -u, lambda u: u])",
        ),
        Line(
            "lax.select(v > 0.0, v, -v)",
        ),
        Line(
            "jnp.isnan(v)",
        ),
        Line(
            "jnp.isnan(v[0, 0])",
        ),
        Line(
            "jnp.isfinite(v)",
        ),
        Line(
            "jnp.isinf(v)",
        ),
        Line(
            "jnp.array_equal(v, v)",
        ),
        Line(
            "jnp.isin(x, np.array([1, 2]))",
        ),
        Line(
            "jnp.signbit(v)",
            "compare with x < 0.0",
        ),
        Line(
            "v if v[0, 0] > 0 else -v",
            "choose with jnp.where, jax.lax.cond, & and |",
        ),
    ],
    "Sums, products and extremes": [
        Line(
            "jnp.sum(v)",
        ),
        Line(
            "jnp.sum(v, axis=1, keepdims=True)",
        ),
        Line(
            "jnp.sum(v, where=v > 0.0)",
        ),
        Line(
            "jnp.mean(v, axis=1)",
        ),
        Line(
            "jnp.mean(v, axis=0)",
            "use jnp.sum(x) times zkjax.fixed.constant(1 / n, fraction=16), and "
            "zkjax.fixed.round it; a power of two of elements needs nothing",
        ),
        Line(
            "jnp.average(v, axis=1, weights=np.array([0.5, 0.25, 0.125, 0.125]))",
        ),
        Line(
            "jnp.var(v, axis=1)",
        ),
        Line(
            "jnp.std(v, axis=1)",
            "take squares with x * x, their mean with zkjax.fixed.constant(1 / n, fraction=16),"
            " and zkjax.fixed.round after each product; the inverse root is zkjax.fixed.rsqrt",
        ),
        Line(
            "jnp.prod(v, axis=0)",
        ),
        Line(
            "jnp.cumsum(v, axis=0)",
        ),
        Line(
            "jnp.cumprod(v, axis=0)",
        ),
        Line(
            "lax.cummax(v, axis=1)",
        ),
        Line(
            "lax.cummin(x, axis=1, reverse=True)",
        ),
        Line(
            "lax.cumlogsumexp(v, axis=1)",
            "write it as jax.lax.scan over the axis, or with jnp.sum, jnp.prod, jnp.max",
        ),
        Line(
            "jnp.max(v, axis=1)",
        ),
        Line(
            "jnp.min(v)",
        ),
        Line(
            "jnp.max(x)",
        ),
        Line(
            "jnp.max(v, axis=1, initial=0.0)",
        ),
        Line(
            "jnp.ptp(v, axis=1)",
        ),
        Line(
            "jnp.argmax(v, axis=1)",
        ),
        Line(
            "jnp.argmin(x, axis=0)",
        ),
        Line(
            "jnp.argmax(v)",
        ),
        Line(
            "jnp.nansum(v)",
        ),
        Line(
            "jnp.nanmax(v)",
        ),
        Line(
            "jnp.median(v, axis=1)",
        ),
        Line(
            "jnp.quantile(v, 0.5, axis=1)",
        ),
        Line(
            "lax.reduce(v, 0.0, lax.add, (0,))",
        ),
        Line(
            "lax.reduce(v, -8.0, lax.max, (1,))",
            "write it as jax.lax.scan over the axis, or with jnp.sum, jnp.prod, jnp.max",
        ),
        Line(
            "lax.reduce(v, 1.0, lambda a, b: a * b + 1.0, (1,))",
            "write it as jax.lax.scan over the axis, or with jnp.sum, jnp.prod, jnp.max",
        ),
        Line(
            "jax.nn.logsumexp(v, axis=1)",
            "use zkjax.fixed.exp (for x <= 0) or zkjax.fixed.softmax, which is a table lookup",
        ),
        Line(
            "jnp.linalg.norm(v)",
            "multiply x by zkjax.fixed.rsqrt(x, fraction=...), for sqrt(x) = x / sqrt(x)",
        ),
        Line(
            "jnp.linalg.norm(v, ord=1)",
        ),
        Line(
            "jnp.linalg.norm(v, ord=np.inf)",
        ),
    ],
    "Matrix products": [
        Line(
            "v @ v.T",
        ),
        Line(
            "jnp.dot(v, v[0])",
        ),
        Line(
            "jnp.vdot(v, v)",
        ),
        Line(
            "jnp.inner(v, v)",
        ),
        Line(
            "jnp.outer(v[0], v[1])",
        ),
        Line(
            "jnp.tensordot(v, v, axes=2)",
        ),
        Line(
            "jnp.einsum('ij,kj->ik', v, v)",
        ),
        Line(
            "jnp.einsum('ij,kj,kl->il', v, v, fixed.round(v, 2, 8))",
        ),
        Line(
            "jnp.kron(v[:2, :2], v[:2, :2])",
        ),
        Line(
            "jnp.cross(v[0, :3], v[1, :3])",
        ),
        Line(
            "jnp.convolve(v[0], v[1, :2])",
        ),
        Line(
            "jnp.correlate(v[0], v[1, :2])",
        ),
        Line(
            "lax.conv(v.reshape(1, 1, 3, 4), v[:2, :2].reshape(1, 1, 2, 2), (1, 1), 'SAME')",
        ),
        Line(
            "lax.conv_general_dilated(v.reshape(1, 3, 4), v[:, :3].reshape(3, 1, 3), (2,), [(2,"
            " 1)], (1,), (2,), feature_group_count=3)",
        ),
        Line(
            "lax.conv_transpose(v.reshape(1, 4, 3), v[:2, :3].reshape(2, 3, 1), (2,), 'SAME')",
        ),
        Line(
            "jnp.trace(v[:, :3])",
        ),
        Line(
            "jnp.linalg.matrix_power(fixed.round(v[:2, :2], 2, 8), 2)",
        ),
        Line(
            "jnp.linalg.multi_dot([v, v.T, fixed.round(v, 2, 8)])",
        ),
        Line(
            "x.astype(jnp.int32) @ x.astype(jnp.int32).T",
        ),
        Line(
            "jnp.matmul(x, x.T)",
            "zkjax.fixed.decode the integers first and encode the result",
        ),
        Line(
            "jnp.linalg.inv(v[:2, :2])",
            "compute it outside and pass the result in; that A @ X equals B is a product, "
            "which the function can return or compare",
        ),
        Line(
            "jnp.linalg.solve(v[:2, :2], v[:2, 0])",
            "compute it outside and pass the result in; that A @ X equals B is a product, "
            "which the function can return or compare",
        ),
        Line(
            "jnp.linalg.det(v[:2, :2])",
        ),
        Line(
            "jnp.linalg.cholesky(v[:2, :2])",
            "compute it outside and pass the result in; that A @ X equals B is a product, "
            "which the function can return or compare",
        ),
        Line(
            "jnp.linalg.qr(v)[0]",
            "compute it outside and pass the result in; that A @ X equals B is a product, "
            "which the function can return or compare",
        ),
        Line(
            "jnp.linalg.svd(v)[1]",
            "compute it outside and pass the result in; that A @ X equals B is a product, "
            "which the function can return or compare",
        ),
        Line(
            "jnp.linalg.eigh(v[:2, :2])[0]",
            "compute it outside and pass the result in; that A @ X equals B is a product, "
            "which the function can return or compare",
        ),
        Line(
            "jnp.linalg.pinv(v)",
            "compute it outside and pass the result in; that A @ X equals B is a product, "
            "which the function can return or compare",
        ),
        Line(
            "jax.scipy.linalg.solve_triangular(v[:2, :2], v[:2, 0])",
            "compute it outside and pass the result in; that A @ X equals B is a product, "
            "which the function can return or compare",
        ),
        Line(
            "jnp.fft.fft(v[0]).real",
            "a Fourier transform is a product with a constant matrix; write real and imaginary "
            "parts as two matrix products, zkjax.fixed.constant(cosines, fraction) @ x",
        ),
    ],
    "Shapes": [
        Line(
            "v.reshape(4, 3)",
        ),
        Line(
            "jnp.ravel(v)",
        ),
        Line(
            "v.T",
        ),
        Line(
            "jnp.swapaxes(v, 0, 1)",
        ),
        Line(
            "jnp.moveaxis(v, 0, 1)",
        ),
        Line(
            "v[None]",
        ),
        Line(
            "jnp.expand_dims(v, 1)",
        ),
        Line(
            "jnp.squeeze(v[:1])",
        ),
        Line(
            "jnp.concatenate([v, v[:1] * 2.0])",
        ),
        Line(
            "jnp.concatenate([v[:0], v])",
        ),
        Line(
            "jnp.stack([v, -v], axis=1)",
        ),
        Line(
            "jnp.hstack([v, v])",
        ),
        Line(
            "jnp.vstack([v, v[0]])",
        ),
        Line(
            "jnp.split(v, 2, axis=1)",
        ),
        Line(
            "jnp.split(v, [0, 2])[1]",
        ),
        Line(
            "jnp.array_split(v, 2)",
        ),
        Line(
            "jnp.tile(v, (2, 1))",
        ),
        Line(
            "jnp.repeat(v, 2, axis=1)",
        ),
        Line(
            "jnp.pad(v, 1)",
        ),
        Line(
            "jnp.pad(v, 1, constant_values=0.25)",
        ),
        Line(
            "jnp.pad(v, 1, mode='edge')",
        ),
        Line(
            "jnp.pad(v, 1, mode='reflect')",
        ),
        Line(
            "jnp.pad(v, 1, mode='wrap')",
        ),
        Line(
            "jnp.pad(v, 1, mode='mean')",
            "multiply by zkjax.fixed.constant(1 / 3.0, fraction=...) and round",
        ),
        Line(
            "lax.pad(v, 0.0, [(-1, 2, 1), (1, -1, 0)])",
        ),
        Line(
            "jnp.flip(v, 1)",
        ),
        Line(
            "jnp.roll(v, 1, axis=1)",
        ),
        Line(
            "jnp.rot90(v)",
        ),
        Line(
            "jnp.broadcast_to(v[0], (2, 4))",
        ),
        Line(
            "jnp.diag(v[0])",
        ),
        Line(
            "jnp.diagonal(v)",
        ),
        Line(
            "jnp.tril(v)",
        ),
        Line(
            "jnp.triu(v)",
        ),
        Line(
            "jnp.diff(v, axis=1)",
        ),
        Line(
            "jnp.append(v[0], v[1])",
        ),
        Line(
            "jnp.insert(v[0], 1, 0.5)",
        ),
        Line(
            "jnp.delete(v[0], 1)",
        ),
        Line(
            "jnp.meshgrid(v[0], v[1])",
        ),
        Line(
            "jnp.block([[v, v], [v, v]])",
        ),
        Line(
            "jnp.zeros((2, 2)) + v[0, 0]",
        ),
        Line(
            "jnp.arange(4) * v",
        ),
        Line(
            "jnp.full_like(v, 0.5)",
        ),
        Line(
            "jnp.eye(3, 4) * v",
        ),
        Line(
            "jnp.gradient(v, axis=1)",
        ),
        Line(
            "jax.image.resize(v, (6, 8), 'nearest')",
        ),
        Line(
            "jax.image.resize(v, (6, 8), 'linear')",
        ),
    ],
    "Indexing": [
        Line(
            "v[1]",
        ),
        Line(
            "v[1:, ::2]",
        ),
        Line(
            "v[-1, ::-1]",
        ),
        Line(
            "v[np.array([2, 0, 2])]",
        ),
        Line(
            "v[np.array([2, 0]), np.array([1, 3])]",
        ),
        Line(
            "v[np.array([True, False, True])]",
        ),
        Line(
            "jnp.take(v, np.array([1, 3]), axis=1)",
        ),
        Line(
            "jnp.take_along_axis(v, np.array([[0], [3], [1]]), axis=1)",
        ),
        Line(
            "v[k[0]]",
            "select rows with zkjax.fixed.embed(table, index), or entries with "
            "jnp.sum(zkjax.fixed.onehot(index, n) * x, axis=-1); constants and loop counters "
            "may index",
        ),
        Line(
            "jnp.take(v, k, axis=1)",
            "select rows with zkjax.fixed.embed(table, index), or entries with "
            "jnp.sum(zkjax.fixed.onehot(index, n) * x, axis=-1); constants and loop counters "
            "may index",
        ),
        Line(
            "v[v > 0.0]",
            "use jnp.where",
        ),
        Line(
            "v.at[1].set(0.5)",
        ),
        Line(
            "v.at[1, 2].add(v[0, 0])",
        ),
        Line(
            "v.at[np.array([0, 0])].add(v[:2])",
        ),
        Line(
            "v.at[1].multiply(2.0)",
            "take what is there with x[index], compute the new values, and use x.at[index].set",
        ),
        Line(
            "v.at[1].max(0.0)",
            "take what is there with x[index], compute the new values, and use x.at[index].set",
        ),
        Line(
            "v.at[1].get()",
        ),
        Line(
            "v.at[k].set(0.5)",
            "choose with jnp.where(zkjax.fixed.onehot(index, n) == 1, update, x)",
        ),
        Line(
            "v.at[k].add(0.5)",
            "use zkjax.fixed.onehot(index, n).T @ updates",
        ),
        Line(
            "lax.dynamic_slice(v, (1, 0), (2, 2))",
        ),
        Line(
            "lax.dynamic_slice(v, (k[0], np.uint8(0)), (1, 4))",
            "select rows with zkjax.fixed.embed(table, index), or entries with "
            "jnp.sum(zkjax.fixed.onehot(index, n) * x, axis=-1); constants and loop counters "
            "may index",
        ),
        Line(
            "lax.dynamic_update_slice(v, v[:1], (1, 0))",
        ),
        Line(
            "lax.dynamic_update_slice(v, v[:1], (k[0], np.uint8(0)))",
            "choose with jnp.where(zkjax.fixed.onehot(index, n) == 1, update, x)",
        ),
        Line(
            "jax.ops.segment_sum(v, np.array([0, 1, 0]), num_segments=2)",
        ),
        Line(
            "jax.ops.segment_sum(v, k, num_segments=4)",
            "use zkjax.fixed.onehot(index, n).T @ updates",
        ),
        Line(
            "jax.ops.segment_max(v, np.array([0, 1, 0]), num_segments=2)",
            "take what is there with x[index], compute the new values, and use x.at[index].set",
        ),
        Line(
            "jax.nn.one_hot(k, 4, dtype=jnp.float64)",
        ),
        Line(
            "jnp.choose(np.array([0, 1, 0, 1]), [v[0], v[1]], mode='clip')",
        ),
        Line(
            "jnp.sort(v, axis=1)",
        ),
        Line(
            "jnp.argsort(x, axis=1)",
        ),
        Line(
            "jnp.sort(jnp.tile(v, (1, 20)), axis=1)",
            "its derivative has no rule; zkjax.fixed.onehot(jnp.argsort(x), n) @ x is sorted "
            "and has one",
        ),
        Line(
            "lax.top_k(x, 2)",
        ),
        Line(
            "lax.top_k(v, 2)[0]",
        ),
        Line(
            "lax.top_k(v, 2)",
            cure="take those of integers, zkjax.fixed.encode(x, fraction=...), or use jnp.argsort",
        ),
        Line(
            "lax.sort((x, v), num_keys=1)",
        ),
        Line(
            "lax.sort((x, v), num_keys=2)",
            "its derivative has no rule; zkjax.fixed.onehot(jnp.argsort(x), n) @ x is sorted "
            "and has one",
        ),
        Line(
            "jnp.partition(v, 2, axis=1)",
        ),
        Line(
            "jnp.searchsorted(np.array([0.0, 1.0]), v[0])",
            "compute it outside the function and pass it in; of at most 32 elements, jnp.sort "
            "and jnp.argsort are proved",
        ),
        Line(
            "jnp.digitize(v[0], np.array([0.0, 1.0]))",
            "compute it outside the function and pass it in; of at most 32 elements, jnp.sort "
            "and jnp.argsort are proved",
        ),
        Line(
            "jnp.bincount(k, length=4)",
            "use zkjax.fixed.onehot(index, n).T @ updates",
        ),
        Line(
            "jnp.histogram(v, bins=np.array([-8.0, 0.0, 8.0]))[0]",
            "compute it outside the function and pass it in; of at most 32 elements, jnp.sort "
            "and jnp.argsort are proved",
        ),
        Line(
            "jnp.unique(x)",
            "use jax.numpy, and sizes that are constant (arguments of the function are traced)",
        ),
        Line(
            "jnp.nonzero(x)[0]",
            "use jax.numpy, and sizes that are constant (arguments of the function are traced)",
        ),
        Line(
            "jnp.nonzero(x, size=2)[0]",
            "use zkjax.fixed.onehot(index, n).T @ updates",
        ),
        Line(
            "jnp.interp(v, np.array([0.0, 1.0]), np.array([0.0, 2.0]))",
            "tabulate it: zkjax.fixed.table(lambda x: np.interp(x, xp, fp), fraction, "
            "out_fraction)",
        ),
    ],
    "Loops and branches": [
        Line(
            "lax.cond(v[0, 0] > 0.0, lambda u: u, lambda u: -u, v)",
        ),
        Line(
            "lax.cond(True, lambda u: u, lambda u: -u, v)",
        ),
        Line(
            "lax.switch(1, [lambda u: u, lambda u: -u], v)",
        ),
        Line(
            "lax.switch(k[0], [lambda u: u, lambda u: -u, lambda u: 2.0 * u], v)",
        ),
        Line(
            "lax.scan(lambda c, r: (fixed.round(c * 0.5 + r, 4, 16), c), v[0], v)",
        ),
        Line(
            "lax.scan(lambda c, r: (c * 0.5 + r, c), v[0], v)",
            "round it inside the body with zkjax.fixed.round",
        ),
        Line(
            "lax.scan(lambda c, r: (c + r, None), v[0], v, reverse=True)[0]",
        ),
        Line(
            "lax.fori_loop(0, 3, lambda i, c: c + v[i], v[0])",
        ),
        Line(
            "lax.fori_loop(0, 3, lambda i, c: c.at[i].set(v[2 - i]), v)",
        ),
        Line(
            "lax.fori_loop(np.uint8(0), k[0], lambda i, c: c + v[0], v[0])",
            "use jax.lax.scan, or fori_loop with constant bounds; how often a loop runs is "
            "part of the statement. To stop early, keep the carry: jnp.where(done, carry, new)",
        ),
        Line(
            "lax.while_loop(lambda c: c[0] < 3.0, lambda c: c + 1.0, v[0])",
            "use jax.lax.scan, or fori_loop with constant bounds; how often a loop runs is "
            "part of the statement. To stop early, keep the carry: jnp.where(done, carry, new)",
        ),
        Line(
            "lax.map(lambda r: r * r, v)",
        ),
        Line(
            "lax.associative_scan(jnp.add, v, axis=1)",
        ),
        Line(
            "jax.vmap(lambda r: jnp.sum(r * r))(v)",
        ),
        Line(
            "jax.vmap(lambda a, b: a @ b, in_axes=(0, None))(v, v.T)",
        ),
        Line(
            "jax.jit(lambda u: u * u)(v)",
        ),
        Line(
            "jax.checkpoint(lambda u: u * u)(v)",
        ),
        Line(
            "jnp.vectorize(lambda a: a * a)(v)",
        ),
        Line(
            "jnp.apply_along_axis(jnp.sum, 1, v)",
        ),
        Line(
            "lax.stop_gradient(v)",
        ),
        Line(
            "jax.named_scope('here')(lambda u: u * 2.0)(v)",
        ),
        Line(
            "lax.optimization_barrier(v)",
        ),
        Line(
            'jax.debug.print("{}", v) or v',
        ),
        Line(
            "jax.pure_callback(lambda u: u, jax.ShapeDtypeStruct((3, 4), v.dtype), v)",
            "no proof covers what runs outside JAX; compute it before and pass it in",
        ),
        Line(
            "lax.with_sharding_constraint(v, one_device)",
        ),
        Line(
            "jax.shard_map(lambda u: lax.psum(u, 'd'), mesh=mesh, out_specs=P())(v)",
        ),
    ],
    "Derivatives": [
        Line(
            "jax.grad(lambda u: jnp.sum(u * u))(v)",
        ),
        Line(
            "jax.value_and_grad(lambda u: jnp.sum(u[0] * u[1]))(v)",
        ),
        Line(
            "(lambda y, pull: pull(y))(*jax.vjp(lambda u: u * u, v))",
        ),
        Line(
            "jax.jacrev(lambda u: u * u)(v[0])",
        ),
        Line(
            "jax.jacfwd(lambda u: u * u)(v[0])",
        ),
        Line(
            "jax.jvp(lambda u: u * u, (v,), (v,))",
        ),
        Line(
            "jax.hessian(lambda u: jnp.sum(u * u * u))(v[0])",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(fixed.round(u * u, 4, 16)))(v)",
        ),
        Line(
            "jax.jvp(lambda u: fixed.round(u * u, 4, 16), (v,), (v,))",
            "forward-mode derivatives (jax.jvp, linearize, jacfwd, hessian) do not go through "
            "functions of zkjax.fixed that round their cotangents; use jax.grad, jax.vjp or "
            "jax.jacrev",
        ),
        Line(
            "jax.hessian(lambda u: jnp.sum(fixed.round(u * u, 4, 16)))(v[0])",
            "use jax.grad, jax.vjp or jax.jacrev",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(jnp.maximum(u, 0.5)))(v)",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(jnp.minimum(u, u[::-1]) * u))(v)",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(jnp.clip(u, -1.0, 1.0)))(v)",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(jnp.abs(u)))(v)",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(jax.nn.relu(u)))(v)",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(jnp.where(u > 0.0, u * u, u)))(v)",
        ),
        Line(
            "jax.grad(lambda u: jnp.max(u))(v)",
            "use zkjax.fixed.max(x, bits), whose derivative gives every maximal entry the full "
            "cotangent",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(fixed.max(u)))(v)",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(jnp.sort(u, axis=1)[:, 0]))(v)",
            "its derivative has no rule; zkjax.fixed.onehot(jnp.argsort(x), n) @ x is sorted "
            "and has one",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(jnp.cumsum(u, axis=1) ** 2))(v)",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(jnp.cumprod(u, axis=0)))(v)",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(jnp.prod(u, axis=0)))(v)",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(u[np.array([2, 0, 2])] ** 2))(v)",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(u @ u.T))(v)",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(lax.conv(u.reshape(1, 1, 3, 4), u[:2, :2].reshape(1, 1,"
            " 2, 2), (1, 1), 'SAME')))(v)",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(nn.max_pool(u.reshape(1, 3, 4, 1), (2, 2))))(v)",
            "maxima over windows are proved inside the edges (padding='VALID') and without a "
            "derivative; for one pool with nn.avg_pool, or take zkjax.fixed.max over windows "
            "that constants select",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(lax.fori_loop(0, 3, lambda i, c: c + fixed.round(u[i] "
            "* u[i], 4, 16), u[0])))(v)",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(u / 3.0))(v)",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(jnp.tanh(u)))(v)",
            "use zkjax.fixed.tanh, which is a table lookup",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(fixed.tanh(u, 4)))(v)",
            real="jax.grad(lambda u: jnp.sum(jnp.tanh(u)))(v)",
            within=2 ** (-15),
        ),
        Line(
            "jax.jvp(lambda u: fixed.tanh(u, 4), (v,), (v,))",
        ),
        Line(
            "jax.grad(lambda u: jnp.sum(fixed.lookup(u, cubes, 4, (0, 0))[0]))(v)",
            "table 'cubes' has no derivative: zkjax.fixed.table(function, ..., derivative=...) "
            "gives it one, and jax.lax.stop_gradient(x) takes x as a constant",
        ),
    ],
    "Functions of one number": [
        Line(
            "jnp.exp(v)",
            "use zkjax.fixed.exp (for x <= 0) or zkjax.fixed.softmax, which is a table lookup",
        ),
        Line(
            "jnp.exp2(v)",
            "a function of one number can be tabulated: zkjax.fixed.table(function, fraction, "
            "out_fraction); docs/functions.md lists what is proved",
        ),
        Line(
            "jnp.expm1(v)",
            "a function of one number can be tabulated: zkjax.fixed.table(function, fraction, "
            "out_fraction); docs/functions.md lists what is proved",
        ),
        Line(
            "jnp.log(v)",
            "use zkjax.fixed.log, which is a table lookup",
        ),
        Line(
            "jnp.log1p(v)",
            "a function of one number can be tabulated: zkjax.fixed.table(function, fraction, "
            "out_fraction); docs/functions.md lists what is proved",
        ),
        Line(
            "jnp.log2(v)",
            "use zkjax.fixed.log, which is a table lookup",
        ),
        Line(
            "jnp.sin(v)",
            "tables of cos and sin by position are constants, so compute them outside the "
            "function; of data, zkjax.fixed.table(np.sin, fraction, out_fraction)",
        ),
        Line(
            "jnp.cos(v)",
            "tables of cos and sin by position are constants, so compute them outside the "
            "function; of data, zkjax.fixed.table(np.sin, fraction, out_fraction)",
        ),
        Line(
            "jnp.tan(v)",
            "a function of one number can be tabulated: zkjax.fixed.table(function, fraction, "
            "out_fraction); docs/functions.md lists what is proved",
        ),
        Line(
            "jnp.arctan(v)",
            "a function of one number can be tabulated: zkjax.fixed.table(function, fraction, "
            "out_fraction); docs/functions.md lists what is proved",
        ),
        Line(
            "jnp.arctan2(v, 1.0)",
            "a function of one number can be tabulated: zkjax.fixed.table(function, fraction, "
            "out_fraction); docs/functions.md lists what is proved",
        ),
        Line(
            "jnp.tanh(v)",
            "use zkjax.fixed.tanh, which is a table lookup",
        ),
        Line(
            "jnp.sinh(v)",
            "a function of one number can be tabulated: zkjax.fixed.table(function, fraction, "
            "out_fraction); docs/functions.md lists what is proved",
        ),
        Line(
            "jnp.sinc(v)",
            "tabulate it: zkjax.fixed.table(a NumPy version of it, fraction, out_fraction, "
            "derivative=...)",
        ),
        Line(
            "jnp.logaddexp(v, 0.0)",
            "use zkjax.fixed.exp (for x <= 0) or zkjax.fixed.softmax, which is a table lookup",
        ),
        Line(
            "jax.scipy.special.erf(v)",
            "tabulate it: zkjax.fixed.table(a NumPy version of it, fraction, out_fraction, "
            "derivative=...)",
        ),
        Line(
            "jax.scipy.special.gammaln(v)",
            "a function of one number can be tabulated: zkjax.fixed.table(function, fraction, "
            "out_fraction); docs/functions.md lists what is proved",
        ),
        Line(
            "jax.scipy.special.expit(v)",
            "use zkjax.fixed.sigmoid, which is a table lookup",
        ),
        Line(
            "jax.scipy.special.logit(v)",
            "use zkjax.fixed.divide(x, y, fraction=...)",
        ),
        Line(
            "jax.scipy.special.xlogy(v, v)",
            "use zkjax.fixed.log, which is a table lookup",
        ),
    ],
    "Activations": [
        Line(
            "jax.nn.relu(v)",
        ),
        Line(
            "jax.nn.relu6(v)",
        ),
        Line(
            "jax.nn.leaky_relu(v, 0.25)",
        ),
        Line(
            "jax.nn.leaky_relu(v)",
            "write zkjax.fixed.constant(value, fraction=...) to round it on purpose",
        ),
        Line(
            "jax.nn.hard_tanh(v)",
        ),
        Line(
            "jax.nn.hard_sigmoid(v)",
            "tabulate it: zkjax.fixed.table(a NumPy version of it, fraction, out_fraction, "
            "derivative=...)",
        ),
        Line(
            "jax.nn.hard_swish(v)",
            "tabulate it: zkjax.fixed.table(a NumPy version of it, fraction, out_fraction, "
            "derivative=...)",
        ),
        Line(
            "jax.nn.elu(v)",
            "tabulate it: zkjax.fixed.table(a NumPy version of it, fraction, out_fraction, "
            "derivative=...)",
        ),
        Line(
            "jax.nn.selu(v)",
            "tabulate it: zkjax.fixed.table(a NumPy version of it, fraction, out_fraction, "
            "derivative=...)",
        ),
        Line(
            "jax.nn.gelu(v)",
            "use zkjax.fixed.gelu, which is a table lookup",
        ),
        Line(
            "jax.nn.silu(v)",
            "use zkjax.fixed.silu, which is a table lookup",
        ),
        Line(
            "jax.nn.sigmoid(v)",
            "use zkjax.fixed.sigmoid, which is a table lookup",
        ),
        Line(
            "jax.nn.log_sigmoid(v)",
            "tabulate it: zkjax.fixed.table(a NumPy version of it, fraction, out_fraction, "
            "derivative=...)",
        ),
        Line(
            "jax.nn.softplus(v)",
            "tabulate it: zkjax.fixed.table(a NumPy version of it, fraction, out_fraction, "
            "derivative=...)",
        ),
        Line(
            "jax.nn.soft_sign(v)",
            "tabulate it: zkjax.fixed.table(a NumPy version of it, fraction, out_fraction, "
            "derivative=...)",
        ),
        Line(
            "jax.nn.squareplus(v)",
            "tabulate it: zkjax.fixed.table(a NumPy version of it, fraction, out_fraction, "
            "derivative=...)",
        ),
        Line(
            "jax.nn.mish(v)",
            "tabulate it: zkjax.fixed.table(a NumPy version of it, fraction, out_fraction, "
            "derivative=...)",
        ),
        Line(
            "jax.nn.glu(v)",
            "use zkjax.fixed.sigmoid(x[..., n:]) times x[..., :n], which is a table lookup",
        ),
        Line(
            "jax.nn.softmax(v)",
            "use zkjax.fixed.softmax(x, mask)",
        ),
        Line(
            "jax.nn.log_softmax(v)",
            "use zkjax.fixed.cross_entropy(logits, target), or zkjax.fixed.log of "
            "zkjax.fixed.softmax",
        ),
        Line(
            "jax.nn.standardize(v)",
            "take squares with x * x, their mean with zkjax.fixed.constant(1 / n, fraction=16),"
            " and zkjax.fixed.round after each product; the inverse root is zkjax.fixed.rsqrt",
        ),
        Line(
            "jax.nn.dot_product_attention(v.reshape(1, 3, 1, 4), v.reshape(1, 3, 1, 4), "
            "v.reshape(1, 3, 1, 4))",
            "use zkjax.fixed.softmax(x, mask)",
        ),
    ],
    "Flax and Optax": [
        Line(
            "nn.Dense(4, param_dtype=jnp.float64).apply({'params': {'kernel': v.T @ v, 'bias': "
            "v[0]}}, v)",
        ),
        Line(
            "nn.Conv(1, (2,), param_dtype=jnp.float64).apply({'params': {'kernel': "
            "v[:2].reshape(2, 4, 1), 'bias': v[0, :1]}}, v)",
        ),
        Line(
            "nn.Embed(3, 4, param_dtype=jnp.float64).apply({'params': {'embedding': v}}, k[:2])",
            "select rows with zkjax.fixed.embed(table, index), or entries with "
            "jnp.sum(zkjax.fixed.onehot(index, n) * x, axis=-1); constants and loop counters "
            "may index",
        ),
        Line(
            "nn.LayerNorm(param_dtype=jnp.float64).apply({'params': {'scale': v[0], 'bias': "
            "v[0]}}, v)",
            "take squares with x * x, their mean with zkjax.fixed.constant(1 / n, fraction=16),"
            " and zkjax.fixed.round after each product; the inverse root is zkjax.fixed.rsqrt",
        ),
        Line(
            "nn.RMSNorm(param_dtype=jnp.float64).apply({'params': {'scale': v[0]}}, v)",
            "take squares with x * x, their mean with zkjax.fixed.constant(1 / n, fraction=16),"
            " and zkjax.fixed.round after each product; the inverse root is zkjax.fixed.rsqrt",
        ),
        Line(
            "nn.Dropout(0.5, deterministic=True).apply({}, v)",
        ),
        Line(
            "nn.Dropout(0.5, deterministic=False).apply({}, v, rngs={'dropout': "
            "jax.random.key(0)})",
            "draw the numbers outside and pass them in",
        ),
        Line(
            "nn.avg_pool(v.reshape(1, 3, 4, 1), (2, 2))",
        ),
        Line(
            "nn.avg_pool(v.reshape(1, 3, 4, 1), (3, 1))",
            "use jnp.sum(x) times zkjax.fixed.constant(1 / n, fraction=16), and "
            "zkjax.fixed.round it; a power of two of elements needs nothing",
        ),
        Line(
            "nn.max_pool(v.reshape(1, 3, 4, 1), (2, 2))",
        ),
        Line(
            "nn.max_pool(v.reshape(1, 3, 4, 1), (2, 2), padding='SAME')",
            "maxima over windows are proved inside the edges (padding='VALID') and without a "
            "derivative; for one pool with nn.avg_pool, or take zkjax.fixed.max over windows "
            "that constants select",
        ),
        Line(
            "optax.sgd(0.125).update(v, optax.sgd(0.125).init(v))[0]",
        ),
        Line(
            "optax.sgd(0.125, momentum=0.5).update(v, optax.sgd(0.125, momentum=0.5).init(v))[0]",
        ),
        Line(
            "optax.sgd(0.1).update(v, optax.sgd(0.1).init(v))[0]",
            "write zkjax.fixed.constant(value, fraction=...) to round it on purpose",
        ),
        Line(
            "optax.adam(0.125).update(v, optax.adam(0.125).init(v))[0]",
            "zkjax.models.optimizers.scale_by_adam is the same in fixed point",
        ),
        Line(
            "optax.adamw(0.125).update(v, optax.adamw(0.125).init(v), v)[0]",
            "zkjax.models.optimizers.scale_by_adam is the same in fixed point",
        ),
        Line(
            "optax.rmsprop(0.125).update(v, optax.rmsprop(0.125).init(v))[0]",
            "use zkjax.models.optimizers.scale_by_adam, or write the update with zkjax.fixed.sqrt",
        ),
        Line(
            "optax.lion(0.125, b1=0.5, b2=0.5, weight_decay=0.0).update(v, optax.lion(0.125, "
            "b1=0.5, b2=0.5).init(v), v)[0]",
        ),
        Line(
            "optax.clip(1.0).update(v, optax.clip(1.0).init(v))[0]",
        ),
        Line(
            "optax.clip_by_global_norm(1.0).update(v, optax.clip_by_global_norm(1.0).init(v))[0]",
            "zkjax.models.optimizers.clip_by_global_norm is the same in fixed point",
        ),
        Line(
            "optax.trace(0.5, nesterov=True).update(v, optax.TraceState(v * 0.5))",
        ),
        Line(
            "optax.ema(0.5, debias=False).update(v, optax.EmaState(x.ravel()[0].astype(jnp.uint8)"
            ".astype(jnp.int32), v * 0.5))",
        ),
        Line(
            "optax.ema(0.5).update(v, optax.EmaState(x.ravel()[0].astype(jnp.int32), v * 0.5))[0]",
            "keep the count in a uint16",
        ),
        Line(
            "optax.add_decayed_weights(0.125).update(v, optax.EmptyState(), v * 0.5)[0]",
        ),
        Line(
            "optax.adadelta(0.125).update(v, optax.adadelta(0.125).init(v), v)[0]",
            "use zkjax.models.optimizers.scale_by_adam, or write the update with zkjax.fixed.sqrt",
        ),
        Line(
            "optax.scale_by_schedule(lambda count: -0.5).update(v, "
            "optax.ScaleByScheduleState(k[0].astype(jnp.uint8).astype(jnp.int32)))[0]",
        ),
        Line(
            "optax.apply_updates(v, v)",
        ),
        Line(
            "optax.l2_loss(v, v * v)",
        ),
        Line(
            "optax.huber_loss(v, v * 0.5)",
        ),
        Line(
            "optax.hinge_loss(v, jnp.sign(v))",
        ),
        Line(
            "optax.sigmoid_binary_cross_entropy(v, v)",
            "tabulate it: zkjax.fixed.table(a NumPy version of it, fraction, out_fraction, "
            "derivative=...)",
        ),
        Line(
            "optax.softmax_cross_entropy(v, v)",
            "use zkjax.fixed.cross_entropy(logits, target), or zkjax.fixed.log of "
            "zkjax.fixed.softmax",
        ),
        Line(
            "optax.softmax_cross_entropy_with_integer_labels(v, k)",
            "use zkjax.fixed.cross_entropy(logits, target), or zkjax.fixed.log of "
            "zkjax.fixed.softmax",
        ),
        Line(
            "optax.cosine_similarity(v, v)",
            "multiply x by zkjax.fixed.rsqrt(x, fraction=...), for sqrt(x) = x / sqrt(x)",
        ),
    ],
    "Random numbers": [
        Line(
            "jax.random.normal(jax.random.key(0), (3, 4)) * v",
            "draw the numbers outside and pass them in",
        ),
        Line(
            "jax.random.uniform(jax.random.PRNGKey(0), (3, 4)) * v",
            "draw the numbers outside and pass them in",
        ),
        Line(
            "jax.random.permutation(jax.random.key(0), v)",
            "draw the numbers outside and pass them in",
        ),
        Line(
            "jax.random.bernoulli(jax.random.key(0), 0.5, (3, 4)) * v",
            "draw the numbers outside and pass them in",
        ),
    ],
    "zkjax.fixed": [
        Line(
            "fixed.decode(x, 4)",
        ),
        Line(
            "fixed.encode(v, 2)",
        ),
        Line(
            "fixed.round(v * v, 4, 16)",
            real="v * v",
            within=2 ** (-5),
        ),
        Line(
            "fixed.constant(0.1, 12) * v",
            real="0.1 * v",
            within=2 ** (-10),
        ),
        Line(
            "fixed.exp(-jnp.abs(v), 4)",
            real="jnp.exp(-jnp.abs(v))",
            within=2 ** (-14),
        ),
        Line(
            "fixed.log(jnp.abs(v) + 0.5, 4, 12)",
            real="jnp.log(jnp.abs(v) + 0.5)",
            within=2 ** (-13),
        ),
        Line(
            "fixed.sigmoid(v, 4)",
            real="jax.nn.sigmoid(v)",
            within=2 ** (-15),
        ),
        Line(
            "fixed.silu(v, 4)",
            real="jax.nn.silu(v)",
            within=2 ** (-13),
        ),
        Line(
            "fixed.tanh(v, 4)",
            real="jnp.tanh(v)",
            within=2 ** (-15),
        ),
        Line(
            "fixed.gelu(v, 4)",
            real="jax.nn.gelu(v)",
            within=2 ** (-13),
        ),
        Line(
            "fixed.gelu(v, 4, approximate=False)",
            real="jax.nn.gelu(v, approximate=False)",
            within=2 ** (-13),
        ),
        Line(
            "fixed.relu(v)",
            real="jax.nn.relu(v)",
            within=0,
        ),
        Line(
            "fixed.table(np.arctan, 4, 12)(v)",
            real="jnp.arctan(v)",
            within=2 ** (-13),
        ),
        Line(
            "fixed.lookup(v, cubes, 4, (0, 0))",
        ),
        Line(
            "fixed.divide(v, jnp.abs(v) + 1.0, 12)",
            real="v / (jnp.abs(v) + 1.0)",
            within=2 ** (-12),
        ),
        Line(
            "fixed.reciprocal(jnp.abs(v) + 1.0, 12)",
            real="1.0 / (jnp.abs(v) + 1.0)",
            within=2 ** (-12),
        ),
        Line(
            "fixed.rsqrt(jnp.abs(v) + 1.0, 12)",
            real="lax.rsqrt(jnp.abs(v) + 1.0)",
            within=2 ** (-12),
        ),
        Line(
            "fixed.rms_normalize(v, 0.25, (4, 16), (12, 16), (12, 16))",
            real="v * lax.rsqrt(jnp.mean(v * v, axis=-1, keepdims=True) + 0.25)",
            within=2**-8,
        ),
        Line(
            "fixed.sqrt(jnp.abs(v), 4, 12)",
            real="jnp.sqrt(jnp.abs(v))",
            within=2.0**-9,
        ),
        Line(
            "fixed.inverse_rms(v, 4, 0.25, (12, 16))",
            real="lax.rsqrt(jnp.mean(v * v, axis=-1, keepdims=True) + 0.25)",
            within=2**-11,
        ),
        Line(
            "fixed.round_value(v * v, 4, 16)",
        ),
        Line(
            "fixed.round_cotangent(v, 4, 16)",
        ),
        Line(
            "fixed.significant(0.1, 8) * v",
        ),
        Line(
            "fixed.max(v)",
            real="jnp.max(v, axis=-1)",
            within=0,
        ),
        Line(
            "fixed.argmax(v)",
            real="jnp.argmax(v, axis=-1)",
            within=0,
        ),
        Line(
            "fixed.softmax(v, None, 4)",
            real="jax.nn.softmax(v)",
            within=2**-5,
        ),
        Line(
            "fixed.cross_entropy(v, k, 4)",
            real="optax.softmax_cross_entropy_with_integer_labels(v, k)",
            within=2 ** (-10),
        ),
        Line(
            "fixed.onehot(k, 4)",
            real="jax.nn.one_hot(k, 4, dtype=jnp.float64)",
            within=0,
        ),
        Line(
            "fixed.embed(v.T, k)",
            real="v.T[k]",
            within=0,
        ),
    ],
}

HEAD = """# Functions

What is proved of what people write, and what the others are told to write instead. In these lines
`x` is an array of stored integers, `v = fixed.decode(x, fraction=4)` are the same as numbers, and
`k` is an array of indices that depend on data. *Proved* means: the program gives bit for bit what
JAX computes. A test checks every line (`tests/program/test_functions.py`); this page is written by
`python tests/program/catalogue.py`.

Numbers are exact, so a function that rounds is one of `zkjax.fixed`; its error is given here for
these operands, and for the whole domain in its docstring. A function of one number that is not here
can be tabulated with `fixed.table`.
"""


def page() -> str:
    """docs/functions.md."""
    parts = [HEAD]
    for section, lines in FUNCTIONS.items():
        parts.append(f"\n## {section}\n\n| written | gives |\n|---|---|\n")
        for line in lines:
            gives = f"refused: {line.cure}" if line.cure else "proved"
            if line.real:
                gives += (
                    f"; within {line.within:.2g} of `{line.real}`"
                    if line.within
                    else (f"; equal to `{line.real}`")
                )
            written = line.written.replace("|", "\\|")
            parts.append(f"| `{written}` | {gives.replace('|', chr(92) + '|')} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
