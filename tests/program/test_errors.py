"""The likeliest mistakes, and the message each gets: what, where, and what to change."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zkjax
from zkjax import errors, fixed
from zkjax.program.program import Port
from zkjax.prove import compare_with_jax

X = np.arange(-4, 4, dtype=np.int16)


def traced(fn, *args):
    return zkjax.trace(fn)(*(args or (X,)))


CASES = [
    (
        lambda x: fixed.encode(jnp.exp(fixed.decode(x, 8)), 8),
        errors.UnsupportedPrimitiveError,
        "jnp.exp cannot be proved; use zkjax.fixed.exp",
    ),
    (
        lambda x: fixed.encode(fixed.decode(x, 8) / 3.0, 8),
        errors.ScaleError,
        "division by 3.0 is not exact",
    ),
    (
        lambda x: fixed.encode((x > 0).astype(jnp.float64) ** 10**9, 8),
        errors.ScaleError,
        "a power of 1,000,000,000 is that many products",
    ),
    (
        lambda x: fixed.encode(fixed.decode(x, 0) ** jnp.inf, 0),
        errors.UnsupportedPrimitiveError,
        "constant whole exponents are products",
    ),
    (  # a float64 would be 2^53
        lambda x: jax.lax.div(x.astype(jnp.int64), jnp.int64(2**53 + 1)).astype(jnp.int32),
        errors.ScaleError,
        "a constant integer exceeds 2^52",
    ),
    (  # by a value that is small, but not shown to be 1 or 2
        lambda x: fixed.encode(fixed.decode(x, 8) / (x > 0).astype(jnp.float64), 8),
        errors.OverflowBoundError,
        "division is not exact",
    ),
    (
        lambda x: fixed.encode(fixed.decode(x, 8) * 0.1, 8),
        errors.ScaleError,
        "no short binary form",
    ),
    *(
        (
            lambda x, number=number: fixed.encode(fixed.decode(x, 8) + number, 8),
            errors.ScaleError,
            "a constant is infinite or not a number",
        )
        for number in (np.nan, np.inf)
    ),
    (
        lambda x: fixed.decode(x, 8).astype(jnp.int32),
        errors.ScaleError,
        "use zkjax.fixed.encode",
    ),
    (
        lambda x: fixed.encode(fixed.decode(x, 8) ** 5, 8),
        errors.OverflowBoundError,
        "may reach 76 bits; fixed point holds 61",
    ),
    (
        lambda x: fixed.encode(fixed.decode(x, 8).astype(jnp.float32), 8),
        errors.ScaleError,
        "float32 does not hold fixed-point values exactly",
    ),
    (lambda x: fixed.decode(x, 8), errors.TraceError, "return zkjax.fixed.encode"),
    (
        lambda x: fixed.encode(fixed.decode(x, 8)[x[0].astype(jnp.int32)], 8),
        errors.UnsupportedPrimitiveError,
        "onehot",
    ),
    (
        lambda x: fixed.encode(
            jax.lax.while_loop(lambda v: v[0] < 3, lambda v: v * 2, fixed.decode(x, 8)), 8
        ),
        errors.UnsupportedPrimitiveError,
        "lax.while_loop (it uses 'while') cannot be proved; use jax.lax.scan",
    ),
    (
        lambda x: fixed.encode(
            jax.lax.scan(lambda c, _: (c * 0.5, None), fixed.decode(x, 8), None, length=3)[0], 8
        ),
        errors.ScaleError,
        "round it inside the body",
    ),
    (
        lambda x: fixed.encode(
            jax.lax.scan(lambda c, _: (c * 3, None), fixed.decode(x, 8), None, length=60)[0], 8
        ),
        errors.OverflowBoundError,
        "the carry of a scan has no bound; round it inside the body",
    ),
]


@pytest.mark.parametrize(("fn", "error", "message"), CASES)
def test_trace_errors_say_what_and_where(fn, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        traced(fn)
    if error is not errors.TraceError:
        assert "test_errors.py:" in str(caught.value)


def test_a_value_out_of_range_names_the_line_and_the_range():
    def narrow(x):
        return fixed.encode(fixed.round(fixed.decode(x, 4) * 100, 4, 8), 4)

    with pytest.raises(errors.ValueRangeError, match=r"fixed.round.*test_errors.py.*saw \[") as e:
        zkjax.prove(narrow)(zkjax.seal(X))
    assert "raise `bits` or lower `fraction`" in str(e.value)


def test_floating_point_arguments_are_refused_with_advice():
    with pytest.raises(errors.StatementError, match=re.escape("zkjax.fixed.quantize")):
        traced(lambda x: x, np.ones(3))
    with pytest.raises(errors.SealError, match=re.escape("zkjax.fixed.quantize")):
        zkjax.seal(np.ones(3))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_stored(number):
    for store in (fixed.quantize, fixed.constant):
        with pytest.raises(errors.ValueRangeError, match="infinite or not a number"):
            store([0.5, number], 8)


def test_quantize_refuses_what_does_not_fit():
    with pytest.raises(errors.ValueRangeError, match="do not fit int8 with 4 fraction bits"):
        fixed.quantize([9.0], 4, "int8")


def test_a_sealed_outputs_prefix_that_does_not_fit():
    with pytest.raises(errors.StatementError, match="not a pytree prefix"):
        zkjax.trace(lambda x: (x, x), sealed_outputs=(True, False, True))(X)


def test_an_index_out_of_range_is_refused():
    def pick(table, i):
        return fixed.encode(fixed.embed(fixed.decode(table, 4), i), 4)

    with pytest.raises(errors.ValueRangeError, match="onehot"):
        zkjax.prove(pick)(zkjax.seal(X), zkjax.seal(np.uint8(9)))


def test_sealed_values_of_another_profile_are_refused():
    with pytest.raises(errors.SealError, match=r"'s128'.*'s100'"):
        zkjax.prove(lambda x: x)(zkjax.seal(X, profile="s128"))


def test_spent_sealed_values_are_refused():
    sealed = zkjax.seal(X, openings=1)
    prove = zkjax.prove(lambda x: fixed.encode(jnp.sum(fixed.decode(x, 4)), 4))
    prove(sealed)
    with pytest.raises(errors.SealError, match="no openings left"):
        prove(sealed)


def test_arguments_may_be_given_by_name():
    def scaled(x, *, by=1):
        return x

    def fn(x, y):
        return fixed.encode(fixed.decode(x, 2) + fixed.decode(y, 2), 2)

    x, y = np.array([1], np.int8), np.array([5], np.int8)
    sealed = zkjax.seal(x)
    digest = zkjax.trace(fn)(sealed, y).digest
    assert zkjax.trace(fn)(y=y, x=sealed).digest == zkjax.trace(fn)(sealed, y=y).digest == digest
    out, proof = zkjax.prove(fn)(sealed, y=y)
    assert zkjax.verify(fn)(y=y, x=sealed.commitment, proof=proof) == out == 6
    assert zkjax.provable(fn)(y=y, x=x) == 6
    statement = zkjax.trace(fn)(sealed, y)
    assert len(repr(statement)) < 80
    for said, call in {
        "missing a required argument: 'y'": lambda: zkjax.prove(fn)(sealed, z=y),
        "by can't be given in order": lambda: zkjax.provable(scaled)(x, by=x),
        "the arguments of a statement have no names": lambda: zkjax.verify(statement)(
            sealed.commitment, y=y, proof=proof
        ),
    }.items():
        with pytest.raises(errors.OptionError, match=said):
            call()


def test_a_program_that_computes_something_else_is_not_proved():
    """A rule that is wrong for some function is noticed when that function is proved."""
    ports = [Port(0, "int16", -1, "total"), Port(1, "int16", -1, "")]
    compare_with_jax(ports, [X, X], [X, X])
    for wrong, name in (([X + 1, X], "total"), ([X, X[:1]], "0")):
        with pytest.raises(errors.TraceError, match=f"output {name} .* from what JAX computes"):
            compare_with_jax(ports, wrong, [X, X])
