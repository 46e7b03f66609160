"""The extensions against polynomials over Python integers, on NumPy and JAX arrays."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    EDGES,
    P,
    W,
    array,
    e_add,
    e_inv,
    e_mul,
    e_neg,
    e_sub,
    e_sum,
    element,
    elements,
    embed,
    extension_elements,
    laws,
    modulus,
    poly_divmod,
    poly_gcd,
    poly_mul,
    random_field,
    uints,
)

from zkjax._compat import x64
from zkjax.field import extension as ext
from zkjax.field.scalar import Scalar

kappas = pytest.mark.parametrize("kappa", [2, 3])


def samples(rng, kappa: int, n: int = 60):
    edge = [embed(v, kappa) for v in EDGES] + [(v,) * kappa for v in EDGES]
    return edge + elements(random_field(rng, (kappa, n)))


@kappas
def test_modulus_is_irreducible(kappa):
    """A polynomial of degree 2 or 3 is irreducible if it has no root: gcd(x^p - x, f) = 1."""
    assert ext.NON_RESIDUE[kappa] == W[kappa]
    f = modulus(kappa)
    result, base, e = [1], [0, 1], P
    while e:
        if e & 1:
            result = poly_divmod(poly_mul(result, base), f)[1]
        base = poly_divmod(poly_mul(base, base), f)[1]
        e >>= 1
    difference = result + [0] * (2 - len(result))
    difference[1] -= 1
    assert len(poly_gcd(f, difference)) == 1


def test_non_residues():
    assert pow(7, (P - 1) // 2, P) == P - 1
    assert (P - 1) % 3 == 0 and pow(2, (P - 1) // 3, P) != 1


@kappas
@pytest.mark.parametrize("device", ["numpy", "jax"])
def test_arithmetic(kappa, device, rng):
    left = samples(rng, kappa)
    right = left[7:] + left[:7]
    a, b = array(left, kappa), array(right, kappa)
    with x64():
        if device == "jax":
            a, b = jnp.asarray(a), jnp.asarray(b)
        results = [ext.add(a, b), ext.sub(a, b), ext.neg(a), ext.mul(a, b)]
        scaled = ext.scale(a, b[0])
        lifted = ext.lift(b[0], kappa)
        total = ext.sum_mod(a)
    pairs = list(zip(left, right, strict=True))
    assert elements(results[0]) == [e_add(x, y) for x, y in pairs]
    assert elements(results[1]) == [e_sub(x, y) for x, y in pairs]
    assert elements(results[2]) == [e_neg(x) for x in left]
    assert elements(results[3]) == [e_mul(x, y) for x, y in pairs]
    assert elements(scaled) == [e_mul(x, embed(y[0], kappa)) for x, y in pairs]
    assert elements(lifted) == [embed(y[0], kappa) for y in right]
    assert element(total) == e_sum(left, kappa)


@kappas
def test_mul_broadcasts_behind_the_leading_axis(kappa, rng):
    a, b = random_field(rng, (kappa, 4, 1)), random_field(rng, (kappa, 1, 3))
    got = ext.mul(a, b)
    assert got.shape == (kappa, 4, 3)
    for i in range(4):
        for j in range(3):
            assert element(got[:, i, j]) == e_mul(element(a[:, i, 0]), element(b[:, 0, j]))


@kappas
def test_single_elements_and_dot(kappa, rng):
    a, b = random_field(rng, (kappa, 9)), random_field(rng, (kappa, 9))
    assert element(ext.mul(a[:, 0], b[:, 0])) == e_mul(element(a[:, 0]), element(b[:, 0]))
    products = (e_mul(x, y) for x, y in zip(elements(a), elements(b), strict=True))
    assert element(ext.dot(a, b)) == e_sum(products, kappa)


@kappas
@pytest.mark.parametrize("block", [1, 3, 4, 9, 10])
def test_long_vectors_are_worked_on_in_blocks(kappa, block, rng, monkeypatch):
    """No element is left out or counted twice, wherever a block ends."""
    monkeypatch.setattr(ext, "BLOCK", block)
    a, b = random_field(rng, (kappa, 9)), random_field(rng, (kappa, 9))
    products = [e_mul(x, y) for x, y in zip(elements(a), elements(b), strict=True)]
    assert element(ext.dot(a, b)) == e_sum(products, kappa)
    assert element(ext.dot(a[:, :0], b[:, :0])) == embed(0, kappa)
    rows = np.concatenate(list(ext.outer(a, b[:, :4])), axis=1)
    assert rows.shape == (kappa, 9, 4)
    pairs = [e_mul(x, y) for x in elements(a) for y in elements(b)[:4]]
    assert elements(rows.reshape(kappa, -1)) == pairs


def test_sum_over_the_coefficients_is_refused():
    with pytest.raises(ValueError, match="coefficients"):
        ext.sum_mod(np.zeros((2, 3), dtype=np.uint64), axis=0)


@kappas
def test_scalar_matches_polynomials(kappa, rng):
    values = samples(rng, kappa, 20)
    for a, b in zip(values, values[5:] + values[:5], strict=True):
        x, y = Scalar(a), Scalar(b)
        assert (x + y).coefficients == e_add(a, b)
        assert (x - y).coefficients == e_sub(a, b)
        assert (x * y).coefficients == e_mul(a, b)
        assert (-x).coefficients == e_neg(a)
        assert (x**5).coefficients == e_mul(a, a, a, a, a)
        if any(a):
            assert x.inverse().coefficients == e_inv(a)


@kappas
def test_scalar_with_integers_and_arrays(kappa):
    x = Scalar(range(3, 3 + kappa))
    one = embed(1, kappa)
    assert (x + 5).coefficients == (5 + x).coefficients == e_add(x.coefficients, embed(5, kappa))
    assert (x - 5).coefficients == e_sub(x.coefficients, embed(5, kappa))
    assert (5 - x).coefficients == e_sub(embed(5, kappa), x.coefficients)
    assert (x * -1).coefficients == (-1 * x).coefficients == e_neg(x.coefficients)
    assert (x**0).coefficients == one
    assert Scalar.of(-1, kappa) == -1 and Scalar.of(P, kappa) == 0
    assert Scalar.of(4, kappa).kappa == kappa
    assert Scalar.from_array(x.array()) == x and hash(Scalar.from_array(x.array())) == hash(x)
    assert x != Scalar(range(4, 4 + kappa)) and x != 3
    assert bool(x) and not Scalar.of(0, kappa) and bool(Scalar([0] * (kappa - 1) + [1]))
    with pytest.raises(ZeroDivisionError):
        Scalar.of(0, kappa).inverse()


@laws()
@given(st.sampled_from([2, 3]).flatmap(lambda k: st.tuples(*[extension_elements(k)] * 3)))
def test_field_laws(values):
    a, b, c = values
    kappa = len(a)
    x, y, z = (uints(v)[:, None] for v in values)
    assert elements(ext.mul(x, y)) == [e_mul(a, b)]
    assert elements(ext.mul(x, ext.add(y, z))) == [e_add(e_mul(a, b), e_mul(a, c))]
    assert elements(ext.mul(ext.mul(x, y), z)) == elements(ext.mul(x, ext.mul(y, z)))
    if any(a):
        assert (Scalar(a) * Scalar(a).inverse()).coefficients == embed(1, kappa)
        assert e_mul(a, e_inv(a)) == embed(1, kappa)
