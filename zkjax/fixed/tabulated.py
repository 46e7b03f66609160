"""Functions by tables: of your own with ``table``, and tanh and gelu.

Both derivatives, forward and backward, are products with a column of the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.interpreters import ad

from zkjax._arguments import checked
from zkjax.errors import OptionError
from zkjax.fixed.functions import lookup
from zkjax.fixed.primitives import lookup_p
from zkjax.fixed.types import Array, TableFraction
from zkjax.program.tables import MAX_ROWS, Table, function_table

SIGNED = 1 << 15  # keys of 16 bits with a sign

RealFunction = Callable[[np.ndarray], Any]


def _no_derivative(primals, tangents, *, table, **params):
    raise OptionError(
        f"table {table.name!r} has no derivative: zkjax.fixed.table(function, ..., derivative=...) "
        "gives it one, and jax.lax.stop_gradient(x) takes x as a constant"
    )


ad.primitive_jvps[lookup_p] = _no_derivative


def differentiable(table: Table, fraction: int, out_fraction: int) -> Callable[[Any], jax.Array]:
    """The function that a table with columns (key, value, derivative) holds."""

    @jax.custom_jvp
    def apply(x):
        return lookup(x, table, fraction, (out_fraction, out_fraction))[0]

    @apply.defjvp
    def _(primals, tangents):
        y, slope = lookup(primals[0], table, fraction, (out_fraction, out_fraction))
        return y, slope * tangents[0]

    return apply


def _column(function: RealFunction, x: np.ndarray, fraction: int, what: str) -> np.ndarray:
    """floor(f(x) 2^fraction + 1/2)."""
    try:
        values = np.asarray(function(x), dtype=np.float64)
    except Exception as error:
        raise OptionError(
            f"{what} of fixed.table fails on an array of {x.size:,} float64 numbers: {error}; give "
            "one of NumPy's functions, or wrap yours in np.vectorize"
        ) from error
    if values.shape != x.shape:
        raise OptionError(
            f"{what} of fixed.table gives shape {values.shape} for {x.shape}; it is applied to "
            "each element (np.vectorize makes such a function)"
        )
    bad = ~np.isfinite(values)
    if bad.any():
        raise OptionError(
            f"{what} of fixed.table is {values[bad][0]} at {x[bad][0]}; choose low= and high= so "
            "that it is finite between them"
        )
    return np.floor(values * 2.0**fraction + 0.5)


@checked
def table(
    function: RealFunction,
    fraction: TableFraction,
    out_fraction: TableFraction,
    *,
    low: float | None = None,
    high: float | None = None,
    derivative: RealFunction | None = None,
    name: str = "",
) -> Callable[[Any], jax.Array]:
    """A function of your own as a table with one row for each x of ``fraction`` fraction bits with
    low <= x < high: one lookup for each element when it is proved.

    >>> import numpy as np
    >>> from zkjax import fixed
    >>> softplus = fixed.table(
    ...     lambda x: np.log1p(np.exp(x)), 8, 12, low=-16, high=16,
    ...     derivative=lambda x: 1 / (1 + np.exp(-x)),
    ... )
    >>> print(softplus(np.array([0.0, 2.5])))
    [0.69311523 2.57885742]

    The table is part of the statement. It is rounded from the float64 values that ``function``
    gives here: on a machine whose functions differ in the last bit a row close to a tie may round
    otherwise, and then the digests differ.

    Args:
      function: float64 array -> array of the same shape, NumPy; called once, here.
      fraction: the most fraction bits of x.
      out_fraction: fraction bits of the result and of its derivative.
      low, high: the range of x (default -2^(15 - fraction) and 2^(15 - fraction), 16 bits). A table
        costs its rows once in a proof, whatever is looked up in it.
      derivative: its derivative, in the same way; without it the result is not differentiable.
      name: for messages.
    Returns:
      x -> y, within 2^-(out_fraction + 1) of the values of ``function``. x outside is refused when
      proving.
    Raises:
      OptionError: a number is missing or infinite, or the table is too large.
    """
    unit = 2.0**-fraction
    bounds = -SIGNED * unit if low is None else low, SIGNED * unit if high is None else high
    if not all(map(math.isfinite, bounds)) or bounds[0] >= bounds[1]:
        raise OptionError(f"low={bounds[0]}, high={bounds[1]}; low is a number below high")
    first, last = math.ceil(bounds[0] / unit), math.ceil(bounds[1] / unit)
    if not 1 <= last - first <= MAX_ROWS:
        raise OptionError(
            f"fixed.table from {bounds[0]} to {bounds[1]} with {fraction} fraction bits has "
            f"{last - first:,} rows, and 1 to {MAX_ROWS:,} are possible; narrow low= and high= or "
            "lower fraction="
        )
    keys = np.arange(first, last, dtype=np.int64)
    columns = [keys, _column(function, keys * unit, out_fraction, "the function")]
    if derivative is not None:
        columns.append(_column(derivative, keys * unit, out_fraction, "the derivative"))
    made = Table(name or getattr(function, "__name__", "fixed.table"), tuple(columns))
    if derivative is not None:
        return differentiable(made, fraction, out_fraction)
    return lambda x: lookup(x, made, fraction, (out_fraction,))[0]


# tanh and gelu ------------------------------------------------------------------------------------


def _tanh_exact(x: Decimal) -> Decimal:
    return 1 - 2 / ((2 * x).exp() + 1)


@cache
def tanh_table(fraction: int, out_fraction: int) -> Table:
    """tanh and its derivative on 16-bit signed keys."""
    functions: list = [
        (np.tanh, _tanh_exact, out_fraction),
        (lambda x: np.cosh(np.minimum(np.abs(x), 300.0)) ** -2.0, _tanh_slope_exact, out_fraction),
    ]
    name = f"tanh, {fraction} to {out_fraction} bits"
    return function_table(name, -SIGNED, 2 * SIGNED, fraction, functions)


def _tanh_slope_exact(x: Decimal) -> Decimal:
    return 4 / (x.exp() + (-x).exp()) ** 2


@checked
def tanh(x: Array, fraction: TableFraction = 12, out_fraction: TableFraction = 14) -> jax.Array:
    """tanh x for -2^(15 - fraction) <= x < 2^(15 - fraction), x with at most ``fraction`` fraction
    bits.

    Within 2^-(out_fraction + 1) of the real function, correctly rounded; so is its derivative.

    >>> from zkjax import fixed
    >>> float(fixed.tanh(0.5))
    0.4620...
    """
    return differentiable(tanh_table(fraction, out_fraction), fraction, out_fraction)(x)


PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628621")
SLOPE, CUBIC = math.sqrt(2 / math.pi), 0.044715


def _density(x: Decimal) -> Decimal:
    return (-x * x / 2).exp() / (2 * PI).sqrt()


def _tail(x: Decimal) -> Decimal:
    """1 - Phi(x) for x >= 0: by its Taylor series, or its continued fraction where x is large."""
    if x > 6:
        below = x
        for n in range(120, 0, -1):
            below = x + n / below
        return _density(x) / below
    with localcontext() as context:
        context.prec = 80
        term = total = x
        n = 0
        while abs(term) > Decimal("1e-75"):
            n += 1
            term = -term * x * x * (2 * n - 1) / (2 * n * (2 * n + 1))
            total += term
        return Decimal("0.5") - total / (2 * PI).sqrt()


def _phi(x: Decimal) -> Decimal:
    return _tail(-x) if x < 0 else 1 - _tail(x)


def _phi_float(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.vectorize(math.erfc)(-x / math.sqrt(2.0))


def _near(x: np.ndarray) -> np.ndarray:
    """tanh(sqrt(2 / pi) (x + 0.044715 x^3))."""
    return np.tanh(SLOPE * (x + CUBIC * x**3))


def _near_slope(x: np.ndarray) -> np.ndarray:
    inner, t = SLOPE * (1 + 3 * CUBIC * x**2), _near(x)
    square = np.cosh(np.minimum(np.abs(SLOPE * (x + CUBIC * x**3)), 300.0)) ** -2.0
    return 0.5 * (1 + t) + 0.5 * x * square * inner


def _inner_exact(x: Decimal) -> Decimal:
    return (2 / PI).sqrt() * (x + Decimal("0.044715") * x**3)


def _near_slope_exact(x: Decimal) -> Decimal:
    inner = _inner_exact(x)
    change = (2 / PI).sqrt() * (1 + 3 * Decimal("0.044715") * x * x)
    return (1 + _tanh_exact(inner)) / 2 + x * _tanh_slope_exact(inner) * change / 2


@cache
def gelu_table(fraction: int, out_fraction: int, approximate: bool) -> Table:
    """gelu and its derivative on 16-bit signed keys."""
    if approximate:
        functions: list = [
            (
                lambda x: 0.5 * x * (1 + _near(x)),
                lambda x: x * (1 + _tanh_exact(_inner_exact(x))) / 2,
                out_fraction,
            ),
            (_near_slope, _near_slope_exact, out_fraction),
        ]
    else:
        functions = [
            (lambda x: x * _phi_float(x), lambda x: x * _phi(x), out_fraction),
            (
                lambda x: _phi_float(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
                lambda x: _phi(x) + x * _density(x),
                out_fraction,
            ),
        ]
    kind = "gelu by tanh" if approximate else "gelu"
    name = f"{kind}, {fraction} to {out_fraction} bits"
    return function_table(name, -SIGNED, 2 * SIGNED, fraction, functions)


@checked
def gelu(
    x: Array,
    fraction: TableFraction = 12,
    out_fraction: TableFraction = 12,
    approximate: bool = True,
) -> jax.Array:
    """x Phi(x) for -2^(15 - fraction) <= x < 2^(15 - fraction), x with at most ``fraction``
    fraction bits; with ``approximate``, as in ``jax.nn.gelu``, x (1 + tanh(sqrt(2 / pi) (x +
    0.044715 x^3))) / 2.

    Within 2^-(out_fraction + 1) of the real function, correctly rounded; so is its derivative.

    >>> from zkjax import fixed
    >>> float(fixed.gelu(1.0)), float(fixed.gelu(1.0, approximate=False))
    (0.841..., 0.841...)
    """
    table = gelu_table(fraction, out_fraction, approximate)
    return differentiable(table, fraction, out_fraction)(x)
