"""The base field against Python integers and zk_dtypes, on NumPy and JAX arrays."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import zk_dtypes
from hypothesis import given
from hypothesis import strategies as st
from reference import EDGES, P, field_elements, ints, laws, random_field, uints

from zkjax._compat import x64
from zkjax.field import goldilocks as gl

PAIRS = [(a, b) for a in EDGES for b in EDGES]
LEFT, RIGHT = (uints(column) for column in zip(*PAIRS, strict=True))


@pytest.fixture(params=["numpy", "jax"])
def device(request):
    """A function that moves a NumPy array to the device under test, inside the 64-bit scope."""
    if request.param == "numpy":
        yield np.asarray
    else:
        with x64():
            yield jnp.asarray


def same(result, expected) -> None:
    assert np.asarray(result).dtype == np.uint64
    assert ints(result) == list(expected)


def test_constants():
    assert gl.P == P == 0xFFFFFFFF00000001
    assert (P - 1) % 2**gl.TWO_ADICITY == 0 and (P - 1) >> gl.TWO_ADICITY == 2**32 - 1
    assert (P - 1) // 2**32 == 3 * 5 * 17 * 257 * 65537
    for q in (2, 3, 5, 17, 257, 65537):
        assert pow(gl.GENERATOR, (P - 1) // q, P) != 1


def test_array_namespace():
    assert gl.array_namespace(np.ones(1)) is np
    assert gl.array_namespace(jnp.ones(1)) is jnp


def test_edge_pairs(device):
    a, b = device(LEFT), device(RIGHT)
    same(gl.add(a, b), [(x + y) % P for x, y in PAIRS])
    same(gl.sub(a, b), [(x - y) % P for x, y in PAIRS])
    same(gl.mul(a, b), [x * y % P for x, y in PAIRS])


def test_random_pairs(device, rng):
    x, y = random_field(rng, 500), random_field(rng, 500)
    a, b = device(x), device(y)
    pairs = list(zip(ints(x), ints(y), strict=True))
    same(gl.add(a, b), [(x + y) % P for x, y in pairs])
    same(gl.sub(a, b), [(x - y) % P for x, y in pairs])
    same(gl.mul(a, b), [x * y % P for x, y in pairs])


def test_unary_edges(device):
    a = device(uints(EDGES))
    same(gl.neg(a), [-x % P for x in EDGES])
    same(gl.inverse(a), [pow(x, P - 2, P) for x in EDGES])
    for e in (0, 1, 2, 3, 64, 65537):
        same(gl.power(a, e), [pow(x, e, P) for x in EDGES])


@pytest.mark.parametrize("c", [0, 1, 2, 7, 2**16, 2**31 - 1])
def test_mul_small(device, c):
    same(gl.mul_small(device(uints(EDGES)), c), [x * c % P for x in EDGES])


def test_sum_mod(device, rng):
    top = np.full((3, 1000), P - 1, dtype=np.uint64)
    same(gl.sum_mod(device(top)), [1000 * (P - 1) % P] * 3)
    mixed = random_field(rng, (5, 7))
    same(gl.sum_mod(device(mixed), axis=0), [sum(ints(c)) % P for c in mixed.T])
    same(gl.sum_mod(device(mixed), axis=1), [sum(ints(c)) % P for c in mixed])
    same(gl.sum_mod(device(np.zeros((2, 0), dtype=np.uint64))), [0, 0])
    zeros = uints([[1, P - 1, 0], [P - 1, P - 1, 2], [2**63, 2**63, 2 * P - 2**64]])
    same(gl.sum_mod(device(zeros)), [0, 0, 0])  # not p, which is no canonical zero


SIGNED = [0, 1, -1, 2**31, -(2**31), 2**52, -(2**52), 2**62, -(2**62), (P - 1) // 2, -(P - 1) // 2]


def test_signed(device):
    embedded = gl.from_signed(device(np.array(SIGNED, dtype=np.int64)))
    same(embedded, [v % P for v in SIGNED])
    back = np.asarray(gl.to_signed(embedded))
    assert back.dtype == np.int64 and ints(back) == SIGNED


def test_signed_from_float():
    values = [0.0, 1.0, -1.0, 2.0**52 + 1, -(2.0**52) - 1, 2.0**53 - 1, 1 - 2.0**53]
    same(gl.from_signed(np.array(values)), [int(v) % P for v in values])


def test_is_canonical():
    assert gl.is_canonical(uints([0, P - 1])) and gl.is_canonical(uints([]))
    for bad in (P, P + 1, 2**64 - 1):
        assert not gl.is_canonical(uints([0, bad, 1]))


@pytest.mark.parametrize("log_order", range(33))
def test_root_of_unity_is_primitive(log_order):
    root = gl.root_of_unity(log_order)
    assert pow(root, 1 << log_order, P) == 1
    assert log_order == 0 or pow(root, 1 << (log_order - 1), P) == P - 1


def test_roots_form_a_tower_and_stop_at_the_two_adicity():
    assert all(gl.root_of_unity(k) == gl.root_of_unity(k + 1) ** 2 % P for k in range(32))
    for bad in (-1, 33):
        with pytest.raises(ValueError, match="no root of unity"):
            gl.root_of_unity(bad)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 8, 13])
@pytest.mark.parametrize("base", [0, 1, 7, P - 1, P + 5, 2**63 + 12345])
def test_powers(n, base):
    same(gl.powers(base, n), [pow(base, i, P) for i in range(n)])


def test_zk_dtypes_agrees(rng):
    x = np.concatenate([LEFT, random_field(rng, 300)])
    y = np.concatenate([RIGHT, random_field(rng, 300)])
    a, b = x.astype(zk_dtypes.goldilocks), y.astype(zk_dtypes.goldilocks)
    same(gl.add(x, y), ints((a + b).astype(np.uint64)))
    same(gl.sub(x, y), ints((a - b).astype(np.uint64)))
    same(gl.mul(x, y), ints((a * b).astype(np.uint64)))
    same(gl.neg(x), ints((-a).astype(np.uint64)))
    nonzero = x[x != 0]
    one = np.ones_like(nonzero).astype(zk_dtypes.goldilocks)
    quotient = (one / nonzero.astype(zk_dtypes.goldilocks)).astype(np.uint64)
    same(gl.inverse(nonzero), ints(quotient))


@laws()
@given(field_elements, field_elements, field_elements)
def test_ring_laws(a, b, c):
    x, y, z = uints([a]), uints([b]), uints([c])
    same(gl.mul(x, y), ints(gl.mul(y, x)))
    same(gl.mul(gl.mul(x, y), z), ints(gl.mul(x, gl.mul(y, z))))
    same(gl.mul(x, gl.add(y, z)), ints(gl.add(gl.mul(x, y), gl.mul(x, z))))
    same(gl.sub(x, y), ints(gl.add(x, gl.neg(y))))
    same(gl.add(gl.sub(x, y), y), [a])
    same(gl.mul(x, gl.inverse(x)), [1 if a else 0])


@laws()
@given(field_elements, st.integers(0, 2**31 - 1))
def test_mul_small_is_mul(a, c):
    same(gl.mul_small(uints([a]), c), [a * c % P])


@laws()
@given(st.integers(-(P - 1) // 2, (P - 1) // 2))
def test_signed_round_trip(v):
    embedded = gl.from_signed(np.array([v], dtype=np.int64))
    same(embedded, [v % P])
    assert ints(gl.to_signed(embedded)) == [v]


@laws()
@given(st.lists(field_elements, max_size=50))
def test_sum_mod_of_lists(values):
    same(gl.sum_mod(uints(values)[None]), [sum(values) % P])
