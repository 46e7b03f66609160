"""add, sub, mul, neg, scaling by constants, powers, conversions."""

from __future__ import annotations

import numpy as np

from zkjax.errors import ScaleError, UnsupportedPrimitiveError
from zkjax.program.builder import distinct
from zkjax.program.dtypes import DTYPE_RANGES
from zkjax.program.hints import hint
from zkjax.program.tracer import Sym, Tracer, dyadic, primitive

MOST_FACTORS = 64  # of a power


@primitive("add", "add_any")
def _add(t: Tracer, eqn, x, y):
    return [t.add([(x, 1), (y, 1)])]


@primitive("sub")
def _sub(t: Tracer, eqn, x, y):
    return [t.add([(x, 1), (y, -1)])]


@primitive("neg")
def _neg(t: Tracer, eqn, x):
    return [t.add([(x, -1)])]


def uniform(value) -> float | int | None:
    """The number that all entries of a constant are, if they are one; as it is, for a float64 may
    be another number than a large integer.
    """
    if not isinstance(value, np.ndarray) or not value.size:
        return None
    entries = distinct(value)
    first = entries.flat[0]
    return first.item() if np.all(entries == first) else None


def scale(t: Tracer, x: Sym, constant: float | int) -> Sym:
    """x times one dyadic number; powers of two move the point and cost nothing."""
    k, fraction = dyadic(np.asarray(constant), t.where)
    k = int(k)
    if k == 0:
        return Sym(t.builder.affine([(x.var, 0)]), x.fraction)
    shift = (k & -k).bit_length() - 1
    k, fraction = k >> shift, fraction - shift
    total = x.fraction + fraction
    if total < 0:
        k, total = k << -total, 0
    return Sym(t.builder.affine([(x.var, k)]), total)


@primitive("mul")
def _mul(t: Tracer, eqn, x, y):
    if isinstance(x, np.ndarray):
        x, y = y, x
    shape = eqn.outvars[0].aval.shape
    x = t.spread(x, shape)
    if (factor := uniform(y)) is not None:
        return [scale(t, x, factor)]
    y = t.spread(y, shape)
    return [Sym(t.builder.multiply(x.var, y.var), x.fraction + y.fraction)]


@primitive("square")
def _square(t: Tracer, eqn, x):
    return [Sym(t.builder.multiply(x.var, x.var), 2 * x.fraction)]


@primitive("pow")
def _pow(t: Tracer, eqn, x, y):
    """By a constant whole number."""
    number = uniform(y)
    whole = number is not None and np.isfinite(number) and number == np.floor(number)
    if not isinstance(x, Sym) or not whole:
        raise t.unsupported(eqn)
    return [power(t, t.spread(x, eqn.outvars[0].aval.shape), int(number))]


@primitive("integer_pow")
def _integer_pow(t: Tracer, eqn, x):
    return [power(t, x, eqn.params["y"])]


def power(t: Tracer, x: Sym, exponent: int) -> Sym:
    """x to a constant exponent, by so many products."""
    if exponent == 0:
        return t.sym(np.ones(t.builder.shape(x.var)))
    if exponent < 0:
        raise ScaleError(
            "negative powers are not exact; use zkjax.fixed.reciprocal or zkjax.fixed.divide",
            t.where,
        )
    if exponent > MOST_FACTORS:
        raise ScaleError(
            f"a power of {exponent:,} is that many products; round between, or tabulate it: "
            "zkjax.fixed.table(lambda x: x**n, fraction, out_fraction)",
            t.where,
        )
    result = x
    for _ in range(exponent - 1):
        result = Sym(t.builder.multiply(result.var, x.var), result.fraction + x.fraction)
    return result


def fitted(t: Tracer, x: Sym, dtype: str, unsigned_source: bool = False) -> Sym:
    """x, which fits the integer type: with a range check now, unless an honest run can't leave it;
    then ``bounds`` has to show that no run can.
    """
    b = t.builder
    low, high = DTYPE_RANGES.get(dtype, (0, -1))
    if high < low:
        raise UnsupportedPrimitiveError(
            f"{dtype} cannot be proved; use integers of at most 32 bits", t.where
        )
    unsigned = unsigned_source and b.bounds[x.var] <= high
    if not unsigned and not b.within(x.var, low, high):
        x = Sym(b.alias(x.var, low, high), x.fraction)
        shifted = b.affine([(x.var, 1)], -low, bound=high - low)
        note = f"conversion to {dtype} at {t.where}"
        b.range_check(shifted, (high - low).bit_length(), x.var, note)
    b.rely(x.var, low, high, f"conversion to {dtype}", check=True)
    return x


@primitive("convert_element_type")
def _convert(t: Tracer, eqn, x):
    old, new = eqn.invars[0].aval.dtype, np.dtype(eqn.params["new_dtype"])
    if new == np.float64 or new == old:
        return [x]
    if new == np.int64 and x.fraction == 0:
        t.builder.rely(x.var, -(2**63), 2**63 - 1, "conversion to int64")
        return [x]
    if new.kind == "b":
        raise UnsupportedPrimitiveError("write x != 0 instead of a conversion to bool", t.where)
    if new.kind in "iu":
        if x.fraction != 0:
            raise ScaleError(
                f"conversion to {new} of a value with {x.fraction} fraction bits drops them; "
                "use zkjax.fixed.encode(x, fraction=...)",
                t.where,
            )
        return [fitted(t, x, new.name, unsigned_source=old.kind in "ub")]
    raise ScaleError(
        f"{new} does not hold fixed-point values exactly; keep float64 (dtype=jnp.float64), and "
        "read integers with zkjax.fixed.decode",
        t.where,
    )


@primitive("copy", "copy_p", "name", "optimization_barrier", "stop_gradient")
def _identity(t: Tracer, eqn, *xs):
    return list(xs)


hint(
    "constant whole exponents are products; tabulate others: zkjax.fixed.table(lambda x: x**0.7, "
    "fraction, out_fraction, low=0, high=8)",
    "pow",
    "jnp.power",
    "jnp.float_power",
)
hint(
    "x // 2**n and x % 2**n are proved; zkjax.fixed.decode(x, fraction=n) moves the point without "
    "any cost",
    "shift_left",
    "shift_right_logical",
    "shift_right_arithmetic",
    "population_count",
    "clz",
    "bitcast_convert_type",
    "reduce_xor",
)
hint(
    "multiply by 2.0**n instead",
    "jnp.ldexp",
)
hint("compare with x < 0.0", "jnp.signbit")
hint(
    "compare jnp.abs(x - y) with a constant: zkjax.fixed.constant(1e-3, fraction=12)",
    "jnp.isclose",
    "jnp.allclose",
)
hint(
    "integers are divided by one constant, numbers by powers of two: jnp.floor(x * 2.0**-n); "
    "zkjax.fixed.divide(x, y, fraction=0) divides by data",
    "'//'",
    "jnp.floor_divide",
)
hint(
    "compute it outside the function and pass it in",
    "jnp.gcd",
    "jnp.lcm",
    "jnp.bitwise_count",
)
hint(
    "write it as jax.lax.scan over the axis, or with jnp.sum, jnp.prod, jnp.max",
    "reduce",
    "cumlogsumexp",
)
hint(
    "complex numbers are pairs of numbers: carry real and imaginary parts yourself",
    "complex",
    "real",
    "imag",
    "conj",
)
hint(
    "use jnp.sum(x) times zkjax.fixed.constant(1 / n, fraction=16), and zkjax.fixed.round it; a "
    "power of two of elements needs nothing",
    "jnp.mean",
    "jnp.average",
    "jnp.nanmean",
    "nn.avg_pool",
)
hint(
    "take squares with x * x, their mean with zkjax.fixed.constant(1 / n, fraction=16), and "
    "zkjax.fixed.round after each product; the inverse root is zkjax.fixed.rsqrt",
    "jnp.var",
    "jnp.std",
    "jax.nn.standardize",
    "nn.LayerNorm",
    "nn.RMSNorm",
    "nn.BatchNorm",
    "nn.GroupNorm",
    "nnx.LayerNorm",
    "nnx.RMSNorm",
    "nnx.BatchNorm",
)
