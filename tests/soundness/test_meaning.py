"""A statement means its function: hand-made corners, and random programs the builder merges."""

from __future__ import annotations

import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import io_callback

import zkjax
from soundness.cheating import bump, evaluate, trace_call
from zkjax import fixed
from zkjax._compat import x64
from zkjax.program.dtypes import DTYPE_RANGES, PUBLIC_RANGES
from zkjax.program.normal_form import normal_form

DTYPES = [jnp.int8, jnp.uint8, jnp.int16, jnp.uint16, jnp.int32, jnp.uint32]


def holds(program, values) -> bool:
    """Every relation of a program: lookups, zeros, and the ranges of its outputs."""
    for lookup in program.lookups:
        table, key = program.tables[lookup.table], values[lookup.vars[0]]
        row = key - table.columns[0][0]
        if row.min() < 0 or row.max() >= table.rows:
            return False
        for column, var in zip(table.columns[1:], lookup.vars[1:], strict=True):
            if not np.array_equal(column[row.astype(np.int64)], values[var]):
                return False
    for port in program.outputs:
        low, high = (DTYPE_RANGES if port.sealed else PUBLIC_RANGES)[port.dtype]
        if values[port.var].min() < low or values[port.var].max() > high:
            return False
    return not any(values[var].any() for var in program.zeros)


def outputs(program, values) -> list:
    return [values[p.var].tolist() for p in program.outputs]


def traced_with_bounds(fn, inputs, sealed_outputs):
    """A traced call, and the bound of every variable, which no relation may leave open."""
    bounds = {}

    def kept(builder, *ports):
        builder.notes = {var: str(var) for var in range(len(builder.ops))}
        program, carries = normal_form(builder, *ports)
        bounds.update({var: builder.bounds[int(note)] for var, note in program.notes.items()})
        return program, carries

    with mock.patch("zkjax.program.trace.normal_form", kept):
        # A function of its own, so that it is not remembered from before.
        args = [zkjax.Private(x) for x in inputs]
        return trace_call(lambda *xs: fn(*xs), args, sealed_outputs), bounds


def compare(fn, *inputs, rng, sealed_outputs=False) -> str:
    """Values that satisfy all relations are what JAX computes and within the bounds that the
    builder relied on, also if one hint is changed.
    """
    try:
        traced, bounds = traced_with_bounds(fn, inputs, sealed_outputs)
    except zkjax.ZkjaxError:
        return "refused"

    def means(values) -> bool:
        within = all(np.abs(values[var]).max() <= bound for var, bound in bounds.items())
        return within and outputs(program, values) == expected

    with x64():
        expected = [np.asarray(y).tolist() for y in jax.tree.leaves(jax.jit(fn)(*inputs))]
    program, carries = traced.statement.program, traced.run(inputs)[1]
    with np.errstate(all="ignore"):
        values = evaluate(program, inputs, carries)
    if not holds(program, values):
        return "out of range"
    assert means(values)
    for var in program.advice:
        by = float(rng.choice([-1, 1]) * 2 ** rng.choice([0, rng.integers(40)]))
        change = {var: bump(rng.integers(values[var].size), by)}
        with np.errstate(all="ignore"):
            changed = evaluate(program, inputs, carries, change)
        assert not holds(program, changed) or means(changed)
    return "equal"


def real(x):
    return x.astype(jnp.float64)


def i32(x):
    return x.astype(jnp.int32)


def rounded_and_back(x):
    """The remainder of a round is small; with the rounded value added again it is any value."""
    v, bit = real(x), x > 0
    y = fixed.round(v * 0.25, 0, 4)
    rest = v * 0.25 + 0.5 * real(bit) + 0.5 * real(~bit) - y
    return i32(((rest + y) * 8.0).astype(jnp.int8))


def divided_and_back(x):
    """The same for the remainder of a division."""
    d = real(x[1] > 0) + 1.0
    product = fixed.divide(real(x[0]), d, 0, 4) * d
    return i32((2.0 * (real(x[0]) - product) + 2.0 * product).astype(jnp.int8))


def chosen_and_back(x):
    """A remainder plus bit times quotient, where the bit is the denominator: any value again."""
    bit = x[0] > 0
    quotient = fixed.divide(3.0 * real(x[1]), real(bit), 0, 4)
    rest = 3.0 * real(x[1]) - real(bit) * quotient
    return i32(jnp.where(bit, rest + quotient, rest).astype(jnp.int8))


def premise(use):
    """A conversion needs no check of its own: the rounded value has 5 bits. Then that cancels."""

    def fn(x):
        y = fixed.round(0.5 * real(x), 0, 5)
        return i32(use(y) + (real(x) - 2.0 * y))

    return fn


def zero_times_infinity(x):
    """Of 1 bit the squares stay small; of more JAX says that zero times infinity is no number."""
    z = fixed.round(0.5 * real(x), 0, 1)
    for _ in range(8):
        z = z * z
    return i32(0.0 * z >= 0.0)


def divided_premise(x):
    y = fixed.divide(real(x), real(x > -999) + 0.0, 0, 5)
    return i32(real(y.astype(jnp.int8)) + (real(x) - y))


def inexact(y):
    """Exact below 2^52, which holds while y has 5 bits."""
    large = (2.0**47 + 1.0) * y
    return (large + 2.0 * y) - large


def narrowed_rounding(x):
    """The check of a rounding that drops nothing bounds what follows; then that cancels."""
    s, bit = real(x)[:2], x[:2] > 0
    same = fixed.round(s, 0, 6) + 32.0 * real(bit) + 32.0 * real(~bit)
    return i32(real(same.astype(jnp.int8)) - s)


def three_loops(which):
    """The innermost carry depends on the loops of these axes only."""

    def fn(x):
        def outer(a, p):
            def middle(b, q):
                step = sum((real(v) for v, used in zip((p, q), which, strict=True) if used), 0.0)
                c, _ = lax.scan(lambda c, r: (c + step + real(r), None), 0.0, x[0])
                return b + c, None

            return a + lax.scan(middle, 0.0, x[:, 1])[0], None

        return i32(lax.scan(outer, 0.0, x[:, 0])[0])

    return fn


def dot_into(dtype, of):
    """A dot product whose type is not that of its operands."""
    return lambda x: i32(4 * real(lax.dot(of(x[0]), of(x[1]), preferred_element_type=dtype)))


def loop(body, start=0.0):
    """The last carry of a scan over the first row, and its double, within 32 bits."""

    def fn(x):
        last, _ = lax.scan(lambda c, y: (body(c, y), None), jnp.float64(start), x[0])
        return i32(last), i32(2.0 * last)

    return fn


def growing_then_bounded(x):
    """A carry that doubles while it is small and then no longer, as far as bounds can tell."""

    def body(c, y):
        high = fixed.round(c * 2.0**-8, 0, 8)
        low = c - 256.0 * high + 128.0 * real(y > 0) + 128.0 * real(y <= 0)
        return 2.0 * low + 511.0 * high + real(y > 0), None

    most = 2.0**31 - 1
    last, _ = lax.scan(body, -257.0, x)
    return i32(real(i32(last + (most - 65099.0))) - most)


# The bits that take the carry of ``growing_then_bounded`` to 65408.
CLIMB = np.array(list("00000000000000000000000000000000010000010110000001"), dtype=np.int8)


def inner_loop(x):
    """The inner carry starts from a constant: it is the same in every outer step."""

    def row(y):
        return i32(y[:3]) + lax.scan(lambda c, _: (c + 1, c), 0, None, length=3)[1]

    return lax.map(row, x)


def on_one_device(fn):
    """In a mesh of one device, whose axis is "i"."""

    def sharded(x):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("i",))
        spec = jax.sharding.PartitionSpec()
        return jax.shard_map(fn, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(x)

    return sharded


@jax.custom_batching.custom_vmap
def doubled(x):
    return x * 2.0


@doubled.def_vmap
def _(size, batched, x):
    """Another function, which JAX applies under vmap alone."""
    return x * 4.0, batched[0]


CALLS = itertools.count()


def called():
    return np.float64(next(CALLS))


HELD: list = []  # a reference
NUMBER = jax.ShapeDtypeStruct((), np.float64)


@pytest.fixture(autouse=True, scope="module")
def held():
    HELD.append(jax.new_ref(jnp.zeros(3)))


def branch(index):
    """One of three branches, by a constant that JAX does not clip here."""

    def fn(x):
        cases = [lambda v: v, lambda v: v * 2.0, lambda v: v * 4.0]
        made = jax.make_jaxpr(lambda i, v: lax.switch(i, cases, v))(0, real(x))
        (eqn,) = (e for e in made.eqns if e.primitive.name == "cond")
        return i32(eqn.primitive.bind(np.int32(index), real(x), **eqn.params)[0])

    return fn


X, TABLE = np.array([1, -1, 2], dtype=np.int8), np.arange(12, dtype=np.int8).reshape(3, 4) - 6
LARGE = np.array([[4097, 0], [4097, 1]], dtype=np.int16)

CASES = {
    "a remainder and its round": (rounded_and_back, LARGE),
    "a remainder and its quotient": (divided_and_back, LARGE),
    "a remainder and its quotient by a choice": (chosen_and_back, LARGE.T[::-1]),
    "a premise that cancels": (premise(lambda y: 2.0 * real(y.astype(jnp.int8))), LARGE),
    "a premise of exactness": (premise(inexact), LARGE),
    "a premise of no wrapping": (premise(lambda y: real(i32(y).astype(jnp.int8) * 2)), LARGE),
    "a premise times zero": (zero_times_infinity, LARGE),
    "a premise of a quotient": (divided_premise, LARGE),
    "a conversion minus its operand": (
        lambda x: i32(real(x)[:1].astype(jnp.int8) - real(x)[:1] + 5.0),
        LARGE,
    ),
    "a conversion of a product": (
        lambda x: i32(3.0 * real((real(x) * real(x)).astype(jnp.int8)) - 3.0 * real(x) * real(x)),
        LARGE,
    ),
    "a rounding that drops nothing": (narrowed_rounding, LARGE.reshape(4)),
    "a scalar of each row times a constant": (
        lambda x: i32(jax.vmap(lambda row: jnp.sum(row[0] * jnp.full(3, 2.0)))(real(x))),
        TABLE,
    ),
    "a column divided by a constant": (
        lambda x: i32(jnp.sum(lax.div(real(x)[:, :1], jnp.full((1, 4), 0.5)), 1)),
        TABLE,
    ),
    "three loops": (three_loops((1, 1)), TABLE),
    "three loops, the outer two": (three_loops((1, 0)), TABLE),
    "three loops, the inner two": (three_loops((0, 1)), TABLE),
    "three loops, one of them": (three_loops((0, 0)), TABLE),
    "a maximum of integers": (lambda x: i32(fixed.max(x) + fixed.max(x)), TABLE),
    "an empty constant": (lambda x: i32(jnp.concatenate([real(x), jnp.zeros(0)])), X),
    "another byte order": (lambda x: i32(x), X.astype(">i2")),
    "the upper half of an unsigned type": (
        lambda x: fixed.encode(real(x) * 0.5, 0, jnp.uint8),
        np.array([400, 3], dtype=np.int16),
    ),
    "exclusive or": (lambda x: i32((x > 0) ^ (x > 1)), TABLE),
    "any and all": (
        lambda x: (i32(jnp.any(x > 2, 1)), i32(jnp.all(x < 2, 0)), i32(jnp.all(x < 9))),
        TABLE,
    ),
    "a gradient at a class": (
        lambda x: i32(jax.grad(lambda v: jnp.sum(fixed.onehot(v, 3) + v[..., None]))(real(x))),
        X % 3,
    ),
    "a name": (lambda x: i32(checkpoint_name(real(x), "here")), TABLE),
    "a carry that doubles and then does not": (growing_then_bounded, CLIMB),
    "a carry that grows": (loop(lambda c, y: c + real(y)), TABLE),
    "a carry in Horner's scheme": (loop(lambda c, y: 3.0 * c + real(y)), TABLE),
    "the length of a streak": (loop(lambda c, y: jnp.where(y > -5, c + 1.0, 0.0)), TABLE),
    "the largest and one more": (loop(lambda c, y: jnp.maximum(c, real(y)) + 1.0), TABLE),
    "a sum in an inner loop": (
        lambda x: lax.fori_loop(
            0, 3, lambda i, c: lax.fori_loop(0, 4, lambda j, d: d + i * j, c), i32(x[0, 0])
        ),
        TABLE,
    ),
    "a sum of rows and columns": (
        lambda x: i32(
            lax.scan(
                lambda c, row: (lax.scan(lambda d, y: (d + y, None), c, row)[0], None),
                jnp.float64(0),
                real(x),
            )[0]
        ),
        TABLE,
    ),
    "a constant of 64 bits": (
        lambda x: i32(lax.dot(x, x, preferred_element_type=jnp.uint64) < np.uint64(2**64 - 1)),
        np.array([1, 0, 3], dtype=np.uint8),
    ),
    "the least of 64 bits": (
        lambda x: jnp.where(x > 0, jnp.int64(-(2**63)), 0).astype(jnp.int8),
        X,
    ),
    "a narrower type, reversed": (
        lambda x: i32(x.astype(jnp.int8)[::-1]),
        LARGE % 9,
    ),
    "one of two conversions is not used": (
        lambda x: (x.astype(jnp.uint8), i32(x.astype(jnp.uint16)))[1],
        LARGE,
    ),
    "a conversion that is not used": (lambda x: (x.astype(jnp.int8), i32(x * 1.0))[1], LARGE),
    "a float32": (lambda x: i32(jnp.where(x > 0, jnp.float32(4097), 1) ** 2), X),
    "a bfloat16": (lambda x: i32(jnp.where(x > 0, jnp.bfloat16(47), 1) ** 2), X),
    "an int4": (lambda x: i32(jnp.where(x > 0, jnp.int4(7), 1) + jnp.int4(2)), X),
    "the size of a complex": (lambda x: i32(jnp.abs(jnp.where(x > 0, 3 + 4j, 5.0))), X),
    "dot into float32": (dot_into(jnp.float32, real), LARGE),
    "dot of halves into int32": (dot_into(jnp.int32, lambda x: real(x) / 2), TABLE),
    "negative dot into uint32": (dot_into(jnp.uint32, lambda x: x), TABLE[::2]),
    "more classes than int8 has": (lambda x: i32(fixed.onehot(x, 300)), X[::2]),
    "underflow": (lambda x: i32((real(x > 0) * 2.0**-50) ** 24 > 0), X),
    "and with a literal": (lambda x: i32((x > 0) & True), X),
    "a constant table": (lambda x: jnp.take(jnp.arange(3), i32(x > 0), mode="clip"), X),
    "cropped by more than its length": (lambda x: lax.pad(x, np.int8(0), [(-4, 5, 0)]), X),
    "cropped and padded": (lambda x: lax.pad(x, np.int8(0), [(-1, 1, 0), (2, -3, 0)]), TABLE),
    "an inner loop of its own": (inner_loop, TABLE),
    "a round to no bits": (lambda x: i32(fixed.round(real(x) * 0.5, 0, 0)), X),
    "random bits": (lambda x: real(x) + jax.random.bits(jax.random.PRNGKey(0), (3,)), X),
    "a slice that starts outside": (lambda x: lax.dynamic_slice(x, (5, -9), (2, 2)), TABLE),
    "comparisons of mixed types": (lambda x: (x > 0.5) | (x > np.uint32(3)), TABLE),
    "bool arithmetic": (lambda x: i32(((x > 0) + (x < 3)) * (x > 1) * 3), TABLE),
    "stacks": (lambda x: jnp.stack([x, x * 0 + 3, x[::-1]], 1).astype(jnp.int32), TABLE),
    "tiles": (lambda x: i32(jnp.tile(real(x), (2, 1, 3))), TABLE),
    "a power of zero": (lambda x: i32(lax.integer_pow(real(x), 0)), X),
    "nothing is sent": (on_one_device(lambda x: lax.ppermute(i32(x), "i", [])), X),
    "sent to itself": (on_one_device(lambda x: lax.ppermute(i32(x), "i", [(0, 0)])), X),
    "a product in float32": (
        lambda x: i32(jnp.matmul(real(x), jnp.full((2, 2), 2.0**15 + 1), precision="F32_F32_F32")),
        LARGE,
    ),
    "a product in bfloat16": (
        lambda x: i32(jnp.matmul(real(x), jnp.full((2, 2), 257.0), precision="BF16_BF16_F32")),
        LARGE,
    ),
    "a convolution in bfloat16": (
        lambda x: i32(
            jnp.convolve(real(x).reshape(-1), jnp.array([257.0, 1.0]), precision="BF16_BF16_F32")
        ),
        LARGE,
    ),
    "a product of the highest precision": (
        lambda x: i32(jnp.matmul(real(x), jnp.full((2, 2), 2.0**15 + 1), precision="highest")),
        LARGE,
    ),
    "a rule for vmap in a loop": (lambda x: i32(lax.map(doubled, real(x))), X),
    "a callback of constants": (lambda x: i32(real(x) + io_callback(called, NUMBER)), X),
    "a pure callback of constants": (
        lambda x: i32(real(x) + jax.pure_callback(called, NUMBER)),
        X,
    ),
    "random numbers of constants": (
        lambda x: i32(real(x) + jnp.floor(lax.rng_uniform(0.0, 2.0**20, (3,)))),
        X,
    ),
    "a callback in a loop": (
        lambda x: i32(lax.map(lambda v: io_callback(called, NUMBER) + v, real(x))),
        X,
    ),
    "a pure callback in a loop": (
        lambda x: i32(
            lax.fori_loop(0, 3, lambda i, v: v + jax.pure_callback(called, NUMBER, i), real(x))
        ),
        X,
    ),
    "a product of signed and unsigned": (
        lambda x: lax.dot(i32(real(x)), x.astype(jnp.uint32), preferred_element_type=jnp.uint32),
        X,
    ),
    "a reference from outside": (lambda x: i32(real(x) + HELD[0][...]), X),
    "a reference": (lambda x: i32(real(x) + jax.new_ref(jnp.zeros(3))[...]), X),
    "a branch before the first": (branch(-1), X),
    "a branch after the last": (branch(3), X),
    "equal to constants": (lambda x: i32(lax.eq(jnp.array([1.0, 2, 3]), real(x))), X),
    "unequal to constants": (lambda x: i32(lax.ne(jnp.array([1.0, 2, 3]), real(x))), X),
    "to the power of infinity": (lambda x: i32(real(x) ** jnp.inf), X),
    "the least number": (lambda x: i32(real(x) > 5e-324), X),
    "the places of zeros of both signs": (
        lambda x: lax.top_k(real(x) * np.array([-1.0, 1.0, -1.0]), 2)[1],
        0 * X,
    ),
    "the largest of zeros of both signs": (
        lambda x: i32(lax.top_k(real(x) * np.array([-1.0, 1.0, -1.0]), 2)[0]),
        0 * X,
    ),
    "a kept carry": (lambda x: lax.scan(lambda c, y: (c, (c, y)), x[0], x), TABLE),
}


@pytest.mark.parametrize("name", CASES)
def test_a_corner_means_what_jax_means(name):
    compare(*CASES[name], rng=np.random.default_rng(1))


@pytest.mark.parametrize("bits", [63, 64, 100])
def test_a_maximum_wider_than_the_field(bits):
    """Every difference would be within 64 bits mod p, and so every entry the maximum."""
    with pytest.raises(zkjax.ZkjaxError, match="bits"):
        trace_call(lambda x: i32(fixed.max(real(x), bits)), (TABLE,))


PROVED = [
    *("stacks", "tiles", "a power of zero", "and with a literal"),
    *("a carry that grows", "a carry in Horner's scheme", "the length of a streak"),
    *("the largest and one more", "a sum in an inner loop", "a sum of rows and columns"),
    *("three loops", "three loops, the outer two", "three loops, the inner two"),
    *("three loops, one of them", "a maximum of integers", "a name"),
    *("a scalar of each row times a constant", "a column divided by a constant"),
    *("the upper half of an unsigned type", "exclusive or", "any and all"),
    *("a gradient at a class", "a narrower type, reversed", "a conversion that is not used"),
    *("one of two conversions is not used", "sent to itself", "equal to constants"),
    *("unequal to constants", "a product of the highest precision"),
    "the largest of zeros of both signs",
]


@pytest.mark.parametrize("name", PROVED)
def test_these_are_proved_and_not_refused(name):
    assert compare(*CASES[name], rng=np.random.default_rng(1)) == "equal"


def kept(r, a, b):
    """A hint is cancelled by sums that the builder merges, then the value is converted."""
    s, bit = float(r.choice([1, 2, 4, 8])), a > 0
    if r.integers(2):
        hint = fixed.round(a / s, 0, int(r.integers(1, 9))) * s
    else:
        hint = fixed.divide(a, real(bit) + 1, 0, int(r.integers(2, 9))) * (real(bit) + 1)
    offset, m = r.choice([0.0, 0.5, 1.0]) * s, float(r.choice([1, 2, 3]))
    return m * (a - hint + offset * real(bit) + offset * real(~bit)) + m * hint


STEPS = [
    *(kept, kept),
    lambda r, a, b: real(a.T.astype(DTYPES[r.integers(6)])[::-1].astype(DTYPES[r.integers(6)])),
    lambda r, a, b: lax.scan(lambda c, y: (jnp.abs(y) - c, c), a[0], a, reverse=a.ndim > 1)[1],
    lambda r, a, b: a + r.choice([-2.0, -1.0, 1.0, 4.0]) * b,
    lambda r, a, b: a * r.choice([0.0, -1.0, 2.0, 3.0]),
    lambda r, a, b: a + r.choice([1.0, 128.0, -128.0]) * (real(a > b) + real(a <= b)),
    lambda r, a, b: jnp.transpose(a, r.permutation(a.ndim)),
    lambda r, a, b: a.reshape([(-1,), (1, -1), (-1, 1)][r.integers(3)]),
    lambda r, a, b: jnp.concatenate([a, b], -1)[..., :: int(r.integers(1, 3))],
    lambda r, a, b: lax.dynamic_slice(a, r.integers(-2, 3, a.ndim), np.minimum(2, a.shape)),
    lambda r, a, b: jnp.take(a, r.integers(-a.shape[0], a.shape[0], 2), 0, mode="wrap"),
    lambda r, a, b: jnp.where([a > b, a == b, ~(a >= 0)][r.integers(3)], a, b),
    lambda r, a, b: jnp.clip(a, r.choice([-128.0, 0.0]), r.choice([-8.0, 127.0])),
    lambda r, a, b: a * [a, b][r.integers(2)],
    lambda r, a, b: jnp.tensordot(a, b, ((0,), (0,))),
    lambda r, a, b: jnp.sum(a, r.integers(a.ndim), keepdims=True),
    lambda r, a, b: fixed.round(a * 0.5, 0, int(r.integers(2, 12))),
    lambda r, a, b: real(fixed.encode(a, 0, DTYPES[r.integers(6)])),
    lambda r, a, b: fixed.max(a, int(r.integers(4, 20)))[..., None],
    lambda r, a, b: fixed.embed(np.arange(3.0)[:, None] - 1, jnp.clip(a, 0.0, 2.0))[..., 0],
    lambda r, a, b: fixed.exp(-jnp.clip(a, 0.0, 15.0)) * 2.0**13,
    lambda r, a, b: fixed.rsqrt(jnp.abs(a) + 1.0, 3, 6) * 8.0,
]


def random_function(seed: int):
    """A few steps, each on one of the latest values; sometimes the same step again."""

    def fn(x, y):
        r, values, call = np.random.default_rng(seed), [real(x) + real(y), real(x)], None
        for _ in range(r.integers(3, 9)):
            if call is None or r.integers(6):
                a = values[-1 - min(r.geometric(0.5), len(values)) + 1]
                b = values[r.integers(len(values))]
                b = b if b.shape == a.shape else jnp.broadcast_to(jnp.sum(b), a.shape)
                call = STEPS[r.integers(len(STEPS))], int(r.integers(2**30)), a, b
            step, inner, a, b = call
            made = step(np.random.default_rng(inner), a, b)
            values += [made] if made.ndim in (1, 2, 3) and made.size < 40 else []
        return [v.astype(DTYPES[r.integers(4, 6)]) for v in values[-1:-3:-1]]

    return fn


@pytest.mark.parametrize("start", range(0, 150, 25))
def test_random_programs_mean_what_jax_means(start):
    """Most of them are within range, so something is compared."""
    seen = []
    for seed in range(start, start + 25):
        r = np.random.default_rng(seed + 2**20)
        w, dtypes = r.choice([4, 100, 2**15]), r.choice([np.int8, np.int16, np.uint8, bool], 2)
        x, y = (r.integers(-w, w, (2, 2)).astype(d) for d in dtypes)
        seen.append(compare(random_function(seed), x, y, rng=r, sealed_outputs=seed % 2 > 0))
    assert seen.count("equal") > 5
