"""Slow references in Python integers, written from the definitions and not from the library.

A base-field element is an integer below P, an extension element a tuple of kappa integers.
Arrays of the library have shape (kappa, n); ``elements`` and ``array`` convert.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

P = 2**64 - 2**32 + 1
W = {2: 7, 3: 2}  # E = F[x] / (x^kappa - W)

EDGES = [
    0,
    1,
    2,
    7,
    2**31 - 1,
    2**31,
    2**32 - 2,
    2**32 - 1,
    2**32,
    2**32 + 1,
    2**48,
    2**63 - 2**31,
    2**63 - 1,
    2**63,
    2**63 + 1,
    (P - 1) // 2,
    (P + 1) // 2,
    P - 2**32,
    P - 2**32 + 1,
    P - 2,
    P - 1,
]

field_elements = st.one_of(st.sampled_from(EDGES), st.integers(0, P - 1))


def laws(examples: int = 40):
    """Settings of the property tests: repeatable, without clocks and without files."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


def extension_elements(kappa: int):
    """A hypothesis strategy for elements of E."""
    return st.tuples(*[field_elements] * kappa)


# Base field -----------------------------------------------------------------------------------


def uints(values) -> np.ndarray:
    """Python integers as a uint64 array."""
    return np.array(values, dtype=np.uint64)


def ints(a) -> list[int]:
    """A flat array as Python integers."""
    return [int(v) for v in np.asarray(a).reshape(-1)]


def random_field(rng, shape) -> np.ndarray:
    """Random canonical elements with some edge values among them."""
    values = rng.integers(0, P, size=shape, dtype=np.uint64)
    edges = rng.choice(uints(EDGES), size=shape)
    return np.where(rng.random(shape) < 0.2, edges, values)


def inv(a: int) -> int:
    """1 / a mod P, by Euclid."""
    return pow(a, -1, P)


def horner(coefficients, z: int) -> int:
    """sum_i c_i z^i."""
    total = 0
    for c in reversed(coefficients):
        total = (total * z + c) % P
    return total


def reverse_bits(i: int, bits: int) -> int:
    return int(format(i, f"0{bits}b")[::-1], 2) if bits else 0


# Polynomials over F, lowest coefficient first ----------------------------------------------------


def trim(a) -> list[int]:
    a = [c % P for c in a]
    while a and not a[-1]:
        a.pop()
    return a


def poly_mul(a, b) -> list[int]:
    out = [0] * (len(a) + len(b) - 1) if a and b else []
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            out[i + j] = (out[i + j] + x * y) % P
    return trim(out)


def poly_divmod(a, b) -> tuple[list[int], list[int]]:
    remainder, b = trim(a), trim(b)
    quotient = [0] * max(len(remainder) - len(b) + 1, 0)
    while len(remainder) >= len(b):
        shift = len(remainder) - len(b)
        q = remainder[-1] * inv(b[-1]) % P
        quotient[shift] = q
        remainder = trim(c - q * b[i - shift] if i >= shift else c for i, c in enumerate(remainder))
    return quotient, remainder


def poly_gcd(a, b) -> list[int]:
    a, b = trim(a), trim(b)
    while b:
        a, b = b, poly_divmod(a, b)[1]
    return a


def modulus(kappa: int) -> list[int]:
    """x^kappa - W."""
    return [-W[kappa] % P] + [0] * (kappa - 1) + [1]


# Extension -----------------------------------------------------------------------------------


def embed(v: int, kappa: int) -> tuple[int, ...]:
    return (v % P,) + (0,) * (kappa - 1)


def e_add(*terms) -> tuple[int, ...]:
    return tuple(sum(column) % P for column in zip(*terms, strict=True))


def e_neg(a) -> tuple[int, ...]:
    return tuple(-x % P for x in a)


def e_sub(a, b) -> tuple[int, ...]:
    return e_add(a, e_neg(b))


def e_mul(*factors) -> tuple[int, ...]:
    """Product by schoolbook multiplication and x^kappa = W."""
    first, *rest = factors
    kappa = len(first)
    for b in rest:
        out = [0] * kappa
        for i, x in enumerate(first):
            for j, y in enumerate(b):
                wrap, place = divmod(i + j, kappa)
                out[place] += x * y * W[kappa] ** wrap
        first = tuple(c % P for c in out)
    return first


def e_inv(a) -> tuple[int, ...]:
    """1 / a by the extended Euclidean algorithm on polynomials."""
    kappa = len(a)
    r0, r1, s0, s1 = modulus(kappa), trim(a), [], [1]
    while len(r1) > 1:
        q, r = poly_divmod(r0, r1)
        step = poly_mul(q, s1)
        size = max(len(s0), len(step))
        s = [(s0[i] if i < len(s0) else 0) - (step[i] if i < len(step) else 0) for i in range(size)]
        r0, r1, s0, s1 = r1, r, s1, trim(s)
    scale = inv(r1[0])
    return tuple((c * scale) % P for c in s1 + [0] * (kappa - len(s1)))


def e_sum(terms, kappa: int) -> tuple[int, ...]:
    return e_add(embed(0, kappa), *terms)


def elements(a) -> list[tuple[int, ...]]:
    """(kappa, n) -> n tuples."""
    return [tuple(int(c) for c in column) for column in np.asarray(a).T]


def element(a) -> tuple[int, ...]:
    """(kappa,) -> a tuple."""
    return tuple(int(c) for c in a)


def array(values, kappa: int) -> np.ndarray:
    """n tuples -> (kappa, n)."""
    return uints(list(values)).reshape(-1, kappa).T.copy()


# Multilinear ---------------------------------------------------------------------------------


def cube(n: int):
    """The vertices of {0,1}^n in the order of their indices, first coordinate most significant."""
    return list(product((0, 1), repeat=n))


def eq_weight(point, vertex, kappa: int) -> tuple[int, ...]:
    """prod_b (p_b if vertex_b else 1 - p_b)."""
    one = embed(1, kappa)
    return e_mul(one, *(p if bit else e_sub(one, p) for p, bit in zip(point, vertex, strict=True)))


def multilinear(values, point, kappa: int) -> tuple[int, ...]:
    """The extension of at most 2^n elements of E, continued by zeros, at ``point``."""
    vertices = cube(len(point))
    return e_sum(
        (e_mul(v, eq_weight(point, x, kappa)) for v, x in zip(values, vertices, strict=False)),
        kappa,
    )
