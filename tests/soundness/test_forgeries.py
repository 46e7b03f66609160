"""Attempts to prove what is not true by means of the statement itself: bounds, liveness, meaning.

The verifier's arithmetic is not touched here. Each test builds a function whose statement, or whose
reduction, might say less than the function, and then tries to use the gap.
"""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zkjax
from soundness.cheating import evaluate, prove, rejected, trace_call, variables
from zkjax import fixed
from zkjax._compat import x64
from zkjax.argument.entropy import SeededEntropy
from zkjax.errors import OverflowBoundError, TraceError, ValueRangeError, VerificationError
from zkjax.field import goldilocks as gl
from zkjax.field.goldilocks import P
from zkjax.field.scalar import Scalar
from zkjax.program import products
from zkjax.program.builder import Builder
from zkjax.program.resolver import Resolver
from zkjax.program.tracer import PRIMITIVES, Sym, Tracer
from zkjax.verify import verify_statement


def balanced(value: int) -> int:
    """The representative of a residue in (-p/2, p/2)."""
    value %= P
    return value - P if value > P // 2 else value


def test_wrap_around_in_a_scan_whose_other_carry_gains_fraction_bits():
    """65536^6 = -1 mod p: a carry that is multiplied six times must not be traced as small.

    The first carry enters with 0 fraction bits and leaves with 1, so the body is traced again. The
    bounds of the second carry must not survive from the first attempt.
    """

    def grow(x):
        start = x.astype(jnp.float64)

        def body(carry, _):
            a, b = carry
            return (a + 0.5, b * 65536.0), None

        (_, last), _ = jax.lax.scan(body, (jnp.zeros_like(start), start), None, length=6)
        return last.astype(jnp.int8)

    x = np.array([1], dtype=np.int8)
    with pytest.raises(OverflowBoundError, match="'carry' may reach 56 bits"):
        traced = trace_call(grow, (x,))
        wrapped = np.array([[balanced(65536 ** (i + 1))] for i in range(6)], dtype=np.float64)
        carry = variables(traced, "carry")[-1]
        outputs, proof = prove(traced, (x,), {carry: lambda v: wrapped})
        assert outputs.tolist() == [-1]
        verify_statement(traced.statement, proof)


def public_times_private(x, y):
    return (x.reshape(6).astype(jnp.float64) * y.astype(jnp.float64)).astype(jnp.int32)


X = np.arange(1, 7, dtype=np.int16).reshape(2, 3)
Y = np.arange(10, 16, dtype=np.int16)


def test_a_reshaped_public_factor_can_be_proved():
    """A public factor whose reshape does not split still has its true value in the product."""
    sealed = zkjax.seal(Y, openings=1)
    product, proof = zkjax.prove(public_times_private)(X, sealed)
    assert product.tolist() == (X.reshape(6) * Y).tolist()
    zkjax.verify(public_times_private)(X, sealed, proof=proof)


def test_claims_on_a_reshape_that_does_not_split():
    """Two of one reshape are proved by one sumcheck, and each of them counts."""

    def both_ways(x):
        v = x.astype(jnp.float64)
        bent = (v * v).reshape(3, 4).astype(jnp.int16)
        return bent, bent[::-1, ::-1]

    sealed = zkjax.seal(np.arange(12, dtype=np.int8).reshape(4, 3), openings=1)
    traced = trace_call(both_ways, (sealed,))
    claimed, build = [], products.reshape_instance

    def instance(resolver, var, op, weighted):
        claimed.append(len(weighted))
        return build(resolver, var, op, weighted)

    with mock.patch.dict(products.PRODUCTS, reshape=instance):
        _, proof = prove(traced, (sealed,))
        verify_statement(traced.statement, proof)
    assert set(claimed) == {2}


class ChosenPads(SeededEntropy):
    """Pads as the prover likes them: ``chosen`` maps the number of a single pad to its value."""

    def __init__(self, chosen: dict[int, Scalar]):
        super().__init__(3)
        self._chosen, self._first = chosen, True

    def scalars(self, n: int, kappa: int) -> list[Scalar]:
        out = super().scalars(n, kappa)
        if self._first:
            for index, value in self._chosen.items():
                out[index] = value
        self._first = False
        return out


def test_a_chosen_pad_does_not_shift_a_public_factor():
    """A public factor must enter a product as it is, not as a message masked by a chosen pad.

    The liar claims (x - 1) y for x y, pads what it sends with the constant 1, and runs the product
    sumcheck with x - 1. No message is about x, so no pad can take the 1 back.
    """
    sealed = zkjax.seal(Y, openings=4)
    traced = trace_call(public_times_private, (X, sealed))
    (product,), (reshape,) = variables(traced, "multiply"), variables(traced, "reshape")
    pads: dict[int, int] = {}
    honest_claim, honest_instance = Resolver._claim, products.multiply_instance

    def claim(self, var, weights, met):
        before = self.party.singles
        result = honest_claim(self, var, weights, met)
        pads.update(dict.fromkeys(range(before, self.party.singles), var))
        return result

    def instance(self, var, op, weighted):
        for made, tables in honest_instance(self, var, op, weighted):

            def shifted(tables=tables):
                out = tables()
                row = out[1 + op.inputs.index(reshape), 0]
                row[:] = gl.sub(row, np.ones_like(row))
                return out

            yield made, shifted

    with mock.patch.object(Resolver, "_claim", claim):
        prove(traced, (X, sealed))
    assert set(pads.values()) == {product}  # the factors are sent by none
    lie = {product: lambda v: (X.reshape(6) - 1.0) * Y}
    chosen = dict.fromkeys(pads, Scalar.of(1, 2))
    _, proof = prove(traced, (X, sealed), entropy=ChosenPads(chosen))
    verify_statement(traced.statement, proof)
    with mock.patch.dict(products.PRODUCTS, multiply=instance):
        outputs, proof = prove(traced, (X, sealed), lie, entropy=ChosenPads(chosen))
    assert outputs.tolist() == ((X.reshape(6) - 1) * Y).tolist()
    rejected(traced, proof, "linear test")


def test_the_range_of_an_exact_round_is_checked():
    """``fixed.round`` keeps its range if it drops no bits and its result is only added to."""

    def shift(x):
        return (fixed.round(x.astype(jnp.float64) * 3.0, 0, 8) + 1.0).astype(jnp.int32)

    sealed = zkjax.seal(np.array([1000], dtype=np.int16))
    with pytest.raises(ValueRangeError, match=r"fixed\.round"):
        zkjax.prove(shift)(sealed)


def test_the_range_of_a_sealed_output_is_its_dtype():
    """-4 is not a uint8: the prover refuses it instead of sealing something else."""

    def negative(x):
        return (x.astype(jnp.float64) - 5.0).astype(jnp.uint8)

    sealed = zkjax.seal(np.array([1], dtype=np.int8))
    with pytest.raises(ValueRangeError, match="conversion to uint8"):
        zkjax.prove(negative, sealed_outputs=True)(sealed)


def test_a_sealed_output_fits_its_type_whatever_its_rule_promised():
    """A rule with a mistake gives -x for an unsigned x: it is not believed. Where nobody asked,
    the output gets a lookup, and a prover that commits to -x as uint8 is refused.
    """

    def mistaken(t, eqn, x):
        return [Sym(t.builder.affine([(x.var, -1)]), 0)]

    sealed = zkjax.seal(np.array([3, 4], dtype=np.uint8))
    refused = pytest.raises(OverflowBoundError, match="'rev' in uint8 may wrap around")
    with mock.patch.dict(PRIMITIVES, rev=mistaken), refused:
        trace_call(lambda x: x[::-1], (sealed,), True)
    unchecked = mock.patch.object(Tracer, "_check_meaning", lambda *args: None)
    with mock.patch.dict(PRIMITIVES, rev=mistaken), unchecked:
        traced = trace_call(lambda x: x[::-1], (sealed,), True)
    honest = zkjax.prove._seal_outputs

    def signed(traced, outputs, *rest):
        outputs[0] = outputs[0].astype(np.int8)  # -3 and -4 again
        (made,) = honest(traced, outputs, *rest)
        made.commitment = replace(made.commitment, dtypes=("uint8",))
        return [made]

    with mock.patch.object(zkjax.prove, "_seal_outputs", signed):
        _, proof = prove(traced, (sealed,))
    rejected(traced, proof)


def test_claims_of_outputs_outside_their_type():
    """They do not wrap around to a value that was proved."""
    values = np.arange(3, dtype=np.int32)
    traced = trace_call(lambda x: x, (values,))
    assert traced.claims((values,), "s100", [values.astype(np.int64)]).outputs[0].dtype == np.int32
    for by in (2**32, -(2**32), 2**31):
        with pytest.raises(VerificationError, match="an output does not fit int32"):
            traced.claims((values,), "s100", [values.astype(np.int64) + by])


def of32(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


BYTES = np.array([100], dtype=np.int8)
LEAST = np.array([-(2**15), 5], dtype=np.int16)

MEANINGS = {
    "bitwise and": (lambda x: x & 3, of32(5, 6)),
    "bitwise or": (lambda x: x | 3, of32(5, 6)),
    "bitwise not": (lambda x: ~x, of32(5, 6)),
    "conversion to bool": (lambda x: jnp.where(x.astype(bool), 1, 0).astype(jnp.int32), of32(5, 0)),
    "integer division": (lambda x: jax.lax.div(x, jnp.int32(4)), of32(5, 8)),
    "int8 addition": (lambda x: (x + x).astype(jnp.int32), BYTES),
    "int8 dot": (lambda x: jnp.dot(x, x).astype(jnp.int32), BYTES),
    "conversion to int8": (lambda x: x.astype(jnp.int8).astype(jnp.int32), of32(300)),
    "negation of unsigned": (lambda x: (-x).astype(jnp.int32), np.array([1], dtype=np.uint8)),
    "negation of the least": (lambda x: (-x).astype(jnp.int32), LEAST),
    "absolute value of the least": (lambda x: jnp.abs(x).astype(jnp.int32), LEAST),
    "square of the least": (lambda x: jnp.square(x).astype(jnp.int32), LEAST),
    "difference with the least": (lambda x: (np.int16(0) - x).astype(jnp.int32), LEAST),
    "negation in a scan": (
        lambda x: jax.lax.scan(lambda c, _: (-c, None), x, None, length=3)[0].astype(jnp.int32),
        LEAST,
    ),
    "the least, moved": (lambda x: jnp.concatenate([x[::-1], x]).astype(jnp.int32), LEAST),
    "ravel in Fortran order": (lambda x: jnp.ravel(x, order="F"), of32(*range(6)).reshape(2, 3)),
    "select among three": (
        lambda x: (lambda i: jax.lax.select_n(i, i, i + 1, i + 5))(x.astype(jnp.int32)),
        np.array([2, 1, 0], dtype=np.int8),
    ),
    "reduce_precision": (
        lambda x: jax.lax.reduce_precision(x.astype(jnp.float64), 5, 2).astype(jnp.int32),
        of32(1001),
    ),
    "a product of booleans": (lambda x: jnp.dot(x > 0, x > 0).astype(jnp.int32), of32(1, 2, 3)),
    "a choice by a product of booleans": (
        lambda x: jnp.where(jnp.dot(x > 0, x > 0), 10, 3).astype(jnp.int32),
        of32(1, 2, 3),
    ),
    "select by an integer": (
        lambda x: jax.lax.select_n(x, jnp.full_like(x, 10), jnp.full_like(x, 13)),
        of32(0, 1, 2, -1),
    ),
    "a user's reduction": (
        lambda x: jax.lax.reduce(x, np.int32(1), lambda a, b: a * b + a, (0,)),
        np.array([1, 2, 3], dtype=np.int32),
    ),
    "a window": (
        lambda x: jax.lax.reduce_window(
            x, np.int32(0), lambda a, b: a + b + a * 0, (2,), (1,), "VALID"
        ),
        of32(1, 2, 3),
    ),
    "an index out of bounds": (
        lambda x: x.at[np.array([5])].get(mode="fill", fill_value=0),
        of32(1, 2, 3),
    ),
}

COMPUTED = {
    "integer division",
    "the least, moved",
    "ravel in Fortran order",
    "select among three",
}  # all others are refused


@pytest.mark.parametrize("name", MEANINGS)
def test_a_statement_means_its_function(name):
    """Either a function is refused, or the program computes what JAX computes."""
    fn, x = MEANINGS[name]
    try:
        traced = trace_call(fn, (x,))
    except TraceError:
        assert name not in COMPUTED
        return
    with x64():
        expected = np.asarray(jax.jit(fn)(x))
    program = traced.statement.program
    try:
        value = program.evaluate([x])[program.outputs[0].var]
    except ValueRangeError:
        assert name not in COMPUTED
        return
    assert name in COMPUTED
    assert value.tolist() == expected.tolist()


SQUARE = of32(300, 1, 2, -400).reshape(2, 2)
NEGATIVE = np.array([[-5, 1], [2, -100]], dtype=np.int8)

# Range checks between operations that are merged with each other.
KEPT = {
    "unsigned between transposes": (lambda x: x.T.astype(jnp.uint8).T.astype(jnp.int32), NEGATIVE),
    "unsigned between reshapes": (
        lambda x: x.reshape(4).astype(jnp.uint8).reshape(2, 2).astype(jnp.int32),
        NEGATIVE,
    ),
    "unsigned between new axes": (
        lambda x: x[:, None].astype(jnp.uint8)[:, 0].astype(jnp.int32),
        NEGATIVE,
    ),
    "int8 between transposes": (
        lambda x: x.T.astype(jnp.int8).astype(jnp.float64).T.astype(jnp.int32),
        SQUARE,
    ),
    "encoding between transposes": (
        lambda x: fixed.encode(
            fixed.decode(fixed.encode(x.T.astype(jnp.float64), 0, jnp.int8), 0).T, 0
        ),
        SQUARE,
    ),
    "round between reshapes": (
        lambda x: (
            fixed.round(x.astype(jnp.float64).reshape(4, 1), 0, 4).reshape(2, 2).astype(jnp.int32)
        ),
        SQUARE,
    ),
    "one class": (lambda x: (fixed.onehot(x, 1)[..., 0] * 2.0 + 3.0).astype(jnp.int32), of32(5, 0)),
    "a table of one row": (
        lambda x: (fixed.embed(np.array([[7.0]]), x)[..., 0] + 1.0).astype(jnp.int32),
        of32(5, 0),
    ),
    "double negation": (
        lambda x: (-(-x.astype(jnp.float64)).astype(jnp.int8).astype(jnp.float64)).astype(
            jnp.int32
        ),
        SQUARE,
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_range_check_is_not_lost_when_its_owner_is_merged_away(name):
    """The value stands between two operations that become one; its check must stay."""
    fn, x = KEPT[name]
    sealed = zkjax.seal(x, openings=1)
    traced = trace_call(fn, (sealed,))
    _, proof = prove(traced, (sealed,))
    rejected(traced, proof, "linear test")


def test_what_was_taken_is_below_what_was_not():
    """The second largest is another entry, also of numbers that no honest run gets to: formats
    allow a quotient times its divisor more than the 52 bits that are declared of it.
    """

    def alike(x, d):
        v, w = fixed.decode(x, 0), fixed.decode(d, 0)
        first, second = jax.lax.top_k(fixed.divide(v, w, 28, 44) * w, 2)[0]
        return first == second

    x, d = of32(3 * 2**23, -3 * 2**23), np.array([2**15, 2**15], dtype=np.uint16)
    sealed = zkjax.seal(x, openings=4)
    with pytest.raises(ValueRangeError, match="fixed point holds 52"):
        zkjax.prove(alike)(sealed, d)
    traced = trace_call(alike, (sealed, d))
    program, output = traced.statement.program, traced.statement.program.outputs[0].var
    assert not evaluate(program, [x, d])[output]
    second = variables(traced, "argmax_bit")[-1]
    values = evaluate(program, [x, d], changes={second: lambda v: 0 * v})
    assert values[output]
    with pytest.raises(ValueRangeError, match="'top_k'"):
        program._check_lookups(values)


def test_an_owner_that_may_be_merged_away_is_refused():
    builder = Builder()
    var = builder.input(0, (2, 3), "int8", "x")
    moved = builder.transpose(var, (1, 0))
    for owner in (moved, builder.reshape(var, (6,)), builder.affine([(var, 2)])):
        with pytest.raises(RuntimeError, match="alias it"):
            builder.range_check(var, 8, owner)
        with pytest.raises(RuntimeError, match="alias it"):
            builder.require_zero(var, owner)
        builder.range_check(var, 8, builder.alias(owner))


def test_what_is_rolled_back_says_nothing_about_earlier_variables():
    """A scan's body is traced again: bounds and intervals from the first attempt are forgotten."""
    builder = Builder()
    x = builder.input(0, (2,), "int32", "x")
    y = builder.add("round", [x], (2,), 1 << 15, 4)
    builder.signed_range_check(y, 16, y)
    before = builder.mark()
    builder.signed_range_check(builder.add("round", [x], (2,), 1 << 7, 4), 8, y)
    assert builder.within(y, -(2**7), 2**7 - 1) and builder.bounds[y] == 1 << 7
    builder.rollback(before)
    assert not builder.within(y, -(2**7), 2**7 - 1) and builder.bounds[y] == 1 << 15
    assert builder.within(y, -(2**15), 2**15 - 1)


def test_what_is_rolled_back_leaves_nothing_behind():
    """A variable gets its number again: what was said of the one before is not said of it. And a
    constant from before is not one that was met again in between.
    """
    builder = Builder()
    x = builder.input(0, (3,), "int32", "x")
    known = builder.constant(np.array([1, 2, 4]))
    before = builder.mark()
    builder.constant(np.array([3, 5, 6]))
    assert builder.constant(np.array([1, 2, 4])) == known
    carry = builder.add("carry", (), (2, 3), 1 << 10, 0)
    builder.growth[carry] = x, 1, 0
    builder.rollback(before)
    assert not builder.growth and set(builder.notes) == {x, known}
    other = builder.constant(np.array([7, 8, 1]))
    values = [builder.constants[builder.ops[v].params[0]].tolist() for v in (known, other)]
    assert values == [[1, 2, 4], [7, 8, 1]]


EMPTY = {
    "nothing committed": lambda x: (x.astype(jnp.float64) + 1.0).astype(jnp.int32),
    "a public product": lambda x: (x.astype(jnp.float64) * x).astype(jnp.int32),
    "a constant": lambda x: jnp.int32(3),
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_program_without_advice(name):
    """A program that commits to nothing is proved."""
    fn, x = EMPTY[name], np.array([1, 2], dtype=np.int16)
    outputs, proof = zkjax.prove(fn)(x)
    with x64():
        assert np.array_equal(outputs, jax.jit(fn)(x))
    assert np.array_equal(zkjax.verify(fn)(x, proof=proof), outputs)
    ((o, value),) = proof.claims.outputs.items()
    wrong = replace(proof.claims, outputs={o: value + np.int32(1)})
    with pytest.raises(VerificationError, match=r"linear test|merkle path|output"):
        zkjax.verify(fn)(x, proof=zkjax.Proof(wrong, proof.body))


CORNERS = {
    "scalar": (lambda x: (x.astype(jnp.float64) * x).astype(jnp.int32), np.int16(7)),
    "no outputs": (lambda x: (), np.array([1, 2], dtype=np.int16)),
    "the input itself": (lambda x: x, np.array([1, 2], dtype=np.int16)),
    "one class": (lambda x: fixed.onehot(x, 1).astype(jnp.int32), np.array([0, 0], dtype=np.int16)),
    "maximum of one": (
        lambda x: fixed.max(x.astype(jnp.float64)).astype(jnp.int32),
        np.array([[5], [6]], dtype=np.int16),
    ),
}


@pytest.mark.parametrize("name", CORNERS)
def test_corner_shapes(name):
    """Scalars, axes of one and aliases are proved."""
    fn, x = CORNERS[name]
    sealed = zkjax.seal(x)
    out, proof = zkjax.prove(fn)(sealed)
    zkjax.verify(fn)(sealed, proof=proof)
    with x64():
        expected = jax.jit(fn)(np.asarray(x))
    for mine, theirs in zip(jax.tree.leaves(out), jax.tree.leaves(expected), strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.astype(jnp.int32),
        lambda x: (x.astype(jnp.float64) * x).astype(jnp.int32),
        lambda x: jnp.sum(x.astype(jnp.float64), axis=0).astype(jnp.int32),
    ],
    ids=["itself", "a product", "a sum of nothing"],
)
@pytest.mark.parametrize("shape", [(0,), (0, 3)], ids=str)
def test_an_empty_array_is_refused(fn, shape):
    sealed = zkjax.seal(np.zeros(shape, dtype=np.int16))
    with pytest.raises(TraceError, match="is empty; there is nothing to prove"):
        zkjax.prove(fn)(sealed)


def test_one_commitment_as_two_arguments():
    """The same sealed value twice: both uses are bound to it, and two openings are spent."""

    def difference(x, y):
        return (x.astype(jnp.float64) - y.astype(jnp.float64)).astype(jnp.int32)

    sealed = zkjax.seal(Y, openings=2)
    out, proof = zkjax.prove(difference)(sealed, sealed)
    assert not out.any() and sealed.remaining == 0
    zkjax.verify(difference)(sealed, sealed, proof=proof)
    other = zkjax.seal(Y + 1, openings=2)
    with pytest.raises(VerificationError, match="about other commitments"):
        zkjax.verify(difference)(sealed, other, proof=proof)
    for given in ((sealed, other), (other, sealed)):
        told = replace(proof.claims, input_commitments=[x.commitment for x in given])
        with pytest.raises(VerificationError, match="merkle path"):
            zkjax.verify(difference)(*given, proof=zkjax.Proof(told, proof.body))


def test_equal_expressions_with_other_constants_do_not_merge():
    """Programs that differ in one constant, dtype, name or shape have different digests."""

    def make(constant):
        return lambda x: (x * constant).astype(jnp.int32)

    x = np.array([3, 4], dtype=np.int16)
    weights = [np.array([1, 2]), np.array([2, 1]), np.array([1, 3]), np.array([-1, 2])]
    digests = {trace_call(make(w), (x,)).statement.digest for w in weights}
    digests.add(trace_call(make(weights[0]), (x.astype(np.int8),)).statement.digest)
    digests.add(trace_call(make(weights[0]), (zkjax.Private(x),)).statement.digest)
    assert len(digests) == 6


def test_all_bounds_hold_for_the_witness():
    """The statement's own ranges contain the honest values of a program with every hint."""
    from soundness.programs import every_hint, every_hint_input

    x = every_hint_input()
    traced = trace_call(every_hint, (x,))
    values = evaluate(
        traced.statement.program, jax.tree.leaves(x), traced.run(jax.tree.leaves(x))[1]
    )
    assert max(np.abs(v).max(initial=0) for v in values) < P / 2
