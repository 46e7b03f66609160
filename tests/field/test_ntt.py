"""Transforms and evaluation against sums written out."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from reference import P, elements, horner, ints, inv, random_field, reverse_bits, uints

from zkjax._compat import x64
from zkjax.field import goldilocks as gl
from zkjax.field import ntt

sizes = pytest.mark.parametrize("log_n", range(7))


def omega(log_n: int) -> int:
    return pow(7, (P - 1) >> log_n, P)


def naive_transform(coefficients, log_n: int) -> list[int]:
    """Values at omega^i, i in natural order."""
    return [horner(coefficients, pow(omega(log_n), i, P)) for i in range(1 << log_n)]


@pytest.mark.parametrize(
    ("device", "log_n"), [*(("numpy", k) for k in range(7)), ("jax", 0), ("jax", 1), ("jax", 5)]
)
def test_ntt_is_the_bit_reversed_transform(device, log_n, rng):
    n = 1 << log_n
    rows = random_field(rng, (2, n))
    with x64():
        transform = jax.jit(ntt.ntt) if device == "jax" else ntt.ntt
        got = np.asarray(transform(rows, ntt.twiddles(log_n)))
    for row, values in zip(rows, got, strict=True):
        expected = naive_transform(ints(row), log_n)
        assert ints(values) == [expected[reverse_bits(j, log_n)] for j in range(n)]


def test_ntt_of_edge_values():
    row = uints([P - 1] * 16)
    assert ints(ntt.ntt(row, ntt.twiddles(4))) == [(P - 1) * 16 % P] + [0] * 15


@sizes
def test_inverse_ntt(log_n, rng):
    coefficients = random_field(rng, (3, 1 << log_n))
    values = [naive_transform(ints(row), log_n) for row in coefficients]
    assert np.array_equal(ntt.inverse_ntt(uints(values)), coefficients)


@sizes
def test_tables(log_n):
    n = 1 << log_n
    order = ntt.bit_reversal(log_n)
    assert ints(order) == [reverse_bits(i, log_n) for i in range(n)]
    assert ints(ntt.twiddles(log_n)) == [pow(omega(log_n), i, P) for i in range(max(1, n // 2))]
    points = ints(ntt.domain(log_n))
    assert points == [7 * pow(omega(log_n), reverse_bits(i, log_n), P) % P for i in range(n)]
    assert len(set(points)) == n


def test_domain_avoids_every_subgroup():
    """The coset 7 <omega> meets no subgroup of two-power order: no division by zero there."""
    assert all(pow(z, 1 << 32, P) != 1 for z in ints(ntt.domain(6)))


def test_cached_tables_cannot_be_changed():
    for make in (ntt.twiddles, ntt.domain):
        make.cache_clear()
        table = make(4)
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 0


@pytest.mark.parametrize("kappa", [2, 3])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 16, 17, 31, 33])
def test_evaluate(kappa, k, rng):
    coefficients = random_field(rng, (kappa, k))
    points = np.concatenate([uints([0, 1, P - 1]), random_field(rng, 4)])
    got = ntt.evaluate(coefficients, points)
    for row, values in zip(coefficients, got, strict=True):
        assert ints(values) == [horner(ints(row), z) for z in ints(points)]


def test_evaluate_on_the_domain_is_the_shifted_transform(rng):
    coefficients = random_field(rng, (2, 8))
    shifted = gl.mul(coefficients, gl.powers(7, 8))
    got = ntt.evaluate(coefficients, ntt.domain(3))
    assert np.array_equal(got, ntt.ntt(shifted, ntt.twiddles(3)))


def test_lagrange_interpolation_inverts_the_transform(rng):
    """Two ways to the same polynomial: inverse_ntt, and Lagrange's formula at one more point."""
    values, z, n = ints(random_field(rng, 8)), 123456789, 8
    nodes = [pow(omega(3), i, P) for i in range(n)]
    total = 0
    for i, v in enumerate(values):
        term = v
        for j, node in enumerate(nodes):
            if j != i:
                term = term * (z - node) * inv((nodes[i] - node) % P) % P
        total += term
    coefficients = ntt.inverse_ntt(uints([values]))
    assert horner([c[0] for c in elements(coefficients)], z) == total % P
