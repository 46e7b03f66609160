"""Every function of ``zkjax.fixed`` on the whole of its domain, within its stated error."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import zkjax
from zkjax import fixed
from zkjax._compat import x64
from zkjax.errors import OptionError, ValueRangeError
from zkjax.fixed.roots import sqrt_table
from zkjax.fixed.softmax import _exp_fraction
from zkjax.program.tables import Table, step_table


@pytest.fixture(autouse=True)
def double_precision():
    with x64():
        yield


def sigmoid(x):
    return np.exp(-np.logaddexp(0.0, -x))


SIGNED = np.arange(-(1 << 15), 1 << 15)


@pytest.mark.parametrize("fraction", [4, 8, 12, 14])
def test_tabulated_functions_on_all_of_their_keys(fraction):
    unit = 2.0**-fraction
    x = SIGNED * unit
    below = -np.arange(1 << 16) * unit
    positive = np.arange(1, 1 << 16) * unit
    for got, real, bits in (
        (fixed.exp(below, fraction), np.exp(below), 13),
        (fixed.silu(x, fraction, 12), x * sigmoid(x), 12),
        (fixed.sigmoid(x, fraction, 14), sigmoid(x), 14),
        (fixed.log(positive, fraction, 16), np.log(positive), 16),
    ):
        assert np.abs(np.asarray(got) - real).max() <= 2.0 ** -(bits + 1) * (1 + 1e-9)


def test_round_is_to_the_nearest_with_ties_up(rng):
    x = rng.integers(-(1 << 40), 1 << 40, 20000) * 2.0**-20
    x[:64] = (np.arange(64) - 32) * 2.0**-7
    assert np.array_equal(fixed.round(x, 6, 40), np.floor(x * 64 + 0.5) / 64)


def test_divide_is_the_floor(rng):
    n = rng.integers(-(1 << 20), 1 << 20, 20000)
    d = np.concatenate([np.arange(1, 10001), rng.integers(1, 1 << 20, 10000)])
    got = np.asarray(fixed.divide(n * 2.0**-8, d * 2.0**-8, 16, 40)) * 2**16
    assert np.array_equal(got, [(int(a) << 16) // int(b) for a, b in zip(n, d, strict=True)])


def test_rsqrt_is_the_floor_over_all_magnitudes(rng):
    k = np.concatenate([np.arange(1, 4097), 2 ** np.arange(0, 30), rng.integers(1, 1 << 30, 20000)])
    x = k * 2.0**-14
    y = np.asarray(fixed.rsqrt(x, 12, 20)) * 2.0**12  # y^2 x 2^14 <= 2^38 < (y + 1)^2 x 2^14
    for i, j in zip(k.astype(object), y.astype(np.int64).astype(object), strict=True):
        assert i * j * j <= 1 << 38 < i * (j + 1) * (j + 1)


@pytest.mark.parametrize(
    ("fraction", "out_fraction", "bits"), [(24, 16, 52), (55, 33, 52), (1, 22, 31), (0, 4, 3)]
)
def test_sqrt_over_all_magnitudes(fraction, out_fraction, bits, rng):
    """Every octave, the ends of rows, and 0, which is exact."""
    firsts = sqrt_table(fraction, out_fraction, bits).columns[1]
    inside = np.floor(2.0 ** rng.uniform(0, bits, 20000))
    k = np.concatenate([firsts, firsts[1:] - 1, inside, [2.0**bits - 1]])
    real = np.sqrt(k * 2.0**-fraction)
    got = np.asarray(fixed.sqrt(k * 2.0**-fraction, fraction, out_fraction, bits))
    assert np.all(np.abs(got - real) <= real * 2.0**-11 + 2.0 ** -(out_fraction + 1))
    assert got[0] == 0


def hardest(n: int, fraction: int) -> np.ndarray:
    """Logits whose exponentials all round the same way, as far as possible."""
    keys = np.arange(1 << 12)
    bits = _exp_fraction(n)
    exact = np.exp(-keys * 2.0**-fraction) * 2.0**bits
    error = np.floor(exact + 0.5) - exact
    return np.array([-np.argmax(error), -np.argmin(error)])[:, None].repeat(n, axis=1)


def inputs(n: int, fraction: int, rng) -> np.ndarray:
    """Rows of n logits: equal, peaked, random, and with the largest errors of their sum; as far
    apart as the domain allows.
    """
    widest = (1 << 16) - 2 - int(np.ceil(np.log(n) * 2**fraction))
    rows = [np.zeros(n), np.where(np.arange(n) == 0, 0, -widest), *hardest(n, fraction)]
    rows += [rng.integers(-s, s + 1, n) for s in (1, 64, 2000, 1 << 14)]
    x = np.stack(rows)
    x[:, 0] = np.maximum(x[:, 0], 0)
    return np.maximum(x, x.max(axis=-1, keepdims=True) - widest) * 2.0**-fraction


SIZES = [1, 2, 3, 16, 100, 256, 1000, 4096, 16384, 49152, 128256]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("fraction", [8, 9, 10, 12])
def test_softmax_for_any_number_of_entries(n, fraction, rng):
    x = inputs(n, fraction, rng)
    real = np.exp(x - x.max(axis=-1, keepdims=True))
    real /= real.sum(axis=-1, keepdims=True)
    got = np.asarray(fixed.softmax(x, None, fraction, 16))
    allowed = real * (2.0 ** -(fraction + 1) + 2.0**-10) + 2.0**-17
    assert np.all(np.abs(got - real) <= allowed)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("fraction", [8, 9, 10, 12])
def test_cross_entropy_for_any_number_of_classes(n, fraction, rng):
    x = inputs(n, fraction, rng)
    largest = x.max(axis=-1)
    real = np.log(np.exp(x - largest[:, None]).sum(axis=-1)) + largest
    for target in (0, n - 1):
        got = fixed.cross_entropy(x, np.full(len(x), target, np.int32), fraction)
        assert np.abs(np.asarray(got) - (real - x[:, target])).max() <= 2.0**-11 + 2.0**-13


@pytest.mark.parametrize("size", [64, 96, 576, 4096])
@pytest.mark.parametrize("eps", [2.0**-14, 1e-5, 1e-6, 0.0])
def test_the_inverse_rms_over_all_magnitudes(size, eps, rng):
    """Mean squares from 2^-30 to 2^40, in units of the last bit that suits them."""
    for log_rms in range(-15, 20):
        unit = 2.0 ** (log_rms - 8)
        in_fraction = 8 - log_rms
        x = np.floor(rng.normal(size=(3, size)) * 2.0**log_rms / unit) * unit
        real = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
        form = fixed.Format(12 + log_rms + 1, 16)  # 1 / rms has some 13 bits
        if eps * 4.0**-log_rms > 1:
            form = fixed.Format(int(13 + np.ceil(np.log2(eps) / 2)), 16)
        got = np.asarray(fixed.inverse_rms(x, in_fraction, eps, form))
        assert np.all(np.abs(got - real) <= real * 2.0**-12 + 2.0 ** -(form.fraction + 1))


def test_one_channel_ten_thousand_times_the_others(rng):
    x = np.floor(rng.normal(size=(4, 96)) * 2**12) * 2.0**-12
    x[:, 17] *= 1e4
    x = np.floor(x * 2**12) * 2.0**-12
    got = fixed.rms_normalize(x, 1e-5, (8, 26), (22, 24), (14, 20), (20, 24))
    inverse = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5)
    allowed = np.abs(x) * (inverse * 2.0**-12 + 2.0**-23) + 2.0**-15
    assert np.all(np.abs(np.asarray(got) - x * inverse) <= allowed)


def test_tables_that_are_no_step_functions_are_refused():
    """With overlapping intervals a number would lie in two rows, and either could be proved."""
    rows = np.arange(2)
    for firsts, lasts in (([0, 0], [10, 10]), ([0, 5], [4, 4]), ([0, 7], [4, 9]), ([0, 4], [4, 9])):
        table = Table("t", (rows, np.array(firsts), np.array(lasts), rows))
        with pytest.raises(OptionError, match="do not follow each other"):
            fixed.locate(np.ones(1), table, 0, (0,))
    with pytest.raises(OptionError, match="no columns of intervals"):
        fixed.locate(np.ones(1), Table("t", (rows, rows)), 0, ())
    steps = step_table("t", np.array([0, 3]), 9, rows)
    for fractions in ((), (0, 0)):
        with pytest.raises(OptionError, match="has 1 columns of values"):
            fixed.locate(np.ones(1), steps, 0, fractions)
    with pytest.raises(OptionError, match="not in order"):
        step_table("t", np.array([3, 0]), 9, rows)


def test_what_is_outside_the_domain_is_refused():
    for function in (fixed.softmax, lambda x, _, f: fixed.cross_entropy(x, np.zeros(1, int), f)):
        with pytest.raises(OptionError, match="no domain"):
            function(np.zeros((1, 2)), None, 17)
    with pytest.raises(OptionError, match="not negative"):
        fixed.inverse_rms(np.ones((1, 4)), 4, -1.0, fixed.Format(12, 20))
    with pytest.raises(OptionError, match="between"):
        fixed.scale(np.ones(1), 1e30, 8)
    with pytest.raises(OptionError, match="more than 46 bits"):
        fixed.sqrt(np.ones(1), 0, 24)
    with pytest.raises(OptionError, match="131,073"):
        fixed.softmax(np.zeros((1, (1 << 17) + 1)))
    with pytest.raises(OptionError, match="holds nothing"):
        fixed.inverse_rms(np.ones((1, 4)), 4, 1.0, fixed.Format(60, 20))


# name: (a function that leaves its range, an argument, what the error says)
OUTSIDE = {
    "round": (lambda x: fixed.round(fixed.decode(x, 0), 0, 8), 200, "fixed.round"),
    "exp": (lambda x: fixed.exp(fixed.decode(x, 0), 12), 1, "exp"),
    "silu": (lambda x: fixed.silu(fixed.decode(x, 0), 12), 8, "silu"),
    "log": (lambda x: fixed.log(fixed.decode(x, 0), 8), 0, "log"),
    "divide": (lambda x: fixed.divide(fixed.decode(x, 0), fixed.decode(x, 0), 4), 0, "positive"),
    "quotient": (lambda x: fixed.divide(fixed.decode(x, 0), 1.0, 12, 12), 1, "fixed.divide"),
    "rsqrt": (lambda x: fixed.rsqrt(fixed.decode(x, 0), 12), 0, "positive"),
    "sqrt": (lambda x: fixed.sqrt(fixed.decode(x, 0), 0, 4), -1, "square root"),
    "sqrt of few bits": (lambda x: fixed.sqrt(fixed.decode(x, 0), 0, 4, 5), 32, "square root"),
    "onehot": (lambda x: fixed.onehot(x, 5), 5, "onehot"),
    "norm": (
        lambda x: fixed.inverse_rms(fixed.decode(x, 0)[None], 0, 0.0, (8, 9)),
        0,
        "inverse rms",
    ),
    "softmax": (lambda x: fixed.softmax(fixed.decode(x, 0) * np.arange(2.0)), 16, "exp"),
    "encode": (lambda x: fixed.encode(fixed.decode(x, 0), 0, jnp.uint8), -1, "uint8"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_running_without_a_proof_refuses_what_a_proof_refuses(name):
    fn, argument, what = OUTSIDE[name]
    with pytest.raises(ValueRangeError, match=what) as caught:
        zkjax.provable(fn)(np.array([argument], np.int16))
    assert "test_domains.py" in str(caught.value)
