"""Lies of the prover about the argument itself, each a change of one place of the honest prover."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from foreseen import foreseen

import zkjax
from soundness.cheating import bump, messages, prove, rejected, trace_call, variables
from soundness.programs import SMALL
from zkjax.argument import layout, logup
from zkjax.argument.budget import Budget
from zkjax.argument.entropy import SeededEntropy
from zkjax.argument.party import Party
from zkjax.argument.transcript import ProverTranscript
from zkjax.errors import StatementError, VerificationError
from zkjax.field.scalar import Scalar
from zkjax.program.program import Program
from zkjax.program.tables import Table
from zkjax.program.trace import trace
from zkjax.proof import Proof
from zkjax.protocol import Setup
from zkjax.verify import verify_statement

# (3, 5) tensors leave padding on both axes; the product makes sumchecks, the rounding lookups.
X = np.arange(-7, 8, dtype=np.int8).reshape(3, 5)
Y = np.arange(3, 18, dtype=np.int8).reshape(3, 5)


def step(x, y, scale):
    a, b = x.astype(jnp.float64), y.astype(jnp.float64)
    small = zkjax.fixed.round(a * b * 0.125 * scale.astype(jnp.float64), 0, 12)
    return small.astype(jnp.int16), jnp.sum(small).astype(jnp.int32)


SCALE = np.uint8(3)


@cache
def call():
    args = (zkjax.seal(X, openings=1), zkjax.seal(Y, openings=1), SCALE)
    return trace_call(step, args, (True, False)), args


@cache
def honest():
    traced, args = call()
    return prove(traced, args)


def changed(proof: Proof, **changes) -> Proof:
    return Proof(replace(proof.claims, **changes), proof.body)


def test_the_honest_proof():
    traced, _ = call()
    verify_statement(traced.statement, honest()[1])


# The witness ---------------------------------------------------------------------------------


def test_a_sealed_value_out_of_its_dtype():
    """300 is committed as an int8: the range check of sealed inputs refuses it."""
    fn, _ = SMALL["compared"]
    traced = trace_call(fn, (zkjax.seal(np.array([44, 1], dtype=np.int8)),))
    large = zkjax.seal(np.array([300, 1], dtype=np.int16), openings=1)
    large.commitment = replace(large.commitment, dtypes=("int8",))
    _, proof = prove(traced, (large,))
    rejected(traced, proof, "linear test")


def test_a_rounding_out_of_its_range():
    """A result of 7 bits where 6 are declared."""

    def six_bits(x):
        return zkjax.fixed.round(x.astype(jnp.float64) * 0.5, 0, 6).astype(jnp.int16)

    sealed = zkjax.seal(np.array([127, 3], dtype=np.int8), openings=1)
    traced = trace_call(six_bits, (sealed,))
    _, proof = prove(traced, (sealed,))
    rejected(traced, proof, "linear test")


@pytest.mark.parametrize("by", [1.0, -1.0])
def test_a_wrong_multiplicity(by):
    """One row of one table is counted once more or less than it is looked up."""
    traced, args = call()
    honest_counts = Program.multiplicities

    def counts(program, values):
        out = honest_counts(program, values)
        out[0][0] += by
        return out

    with mock.patch("soundness.cheating.multiplicities", counts):
        _, proof = prove(traced, args)
    rejected(traced, proof, "linear test")


def test_a_multiplicity_moved_to_another_row():
    """The total is right, the rows are not."""
    traced, args = call()
    honest_counts = Program.multiplicities

    def counts(program, values):
        out = honest_counts(program, values)
        out[-1][:2] += [1.0, -1.0]
        return out

    with mock.patch("soundness.cheating.multiplicities", counts):
        _, proof = prove(traced, args)
    rejected(traced, proof, "linear test")


def test_a_product_off_by_one():
    """The elementwise product is wrong in one entry, all that follows is honest."""
    traced, args = call()
    products = variables(traced, "multiply")
    assert products
    for var in products:
        _, proof = prove(traced, args, {var: bump(7)})
        rejected(traced, proof, "linear test")


def test_a_sealed_output_that_is_not_the_computed_one():
    """The output tableau holds other numbers than the program's output variable."""
    traced, args = call()
    from zkjax import prove as library

    seal_outputs, run = library._seal_outputs, library._prove

    def sealed_wrongly(traced, outputs, *rest):
        return seal_outputs(traced, [outputs[0] + np.int16(1), *outputs[1:]], *rest)

    def proved_wrongly(setup, witness, outputs, *rest):
        return run(setup, witness, [outputs[0] + np.int16(1), *outputs[1:]], *rest)

    with (
        mock.patch.object(library, "_seal_outputs", sealed_wrongly),
        mock.patch.object(library, "_prove", proved_wrongly),
    ):
        _, proof = prove(traced, args)
    rejected(traced, proof, "linear test")


# The lookup argument -------------------------------------------------------------------------


def test_a_lookup_denominator_of_zero():
    """With challenges of one, row 0 of the first table and who looks it up are zero leaves: the
    root is 0 / 0 whatever else is looked up. Only that it has no inverse stops a wrong value.
    """
    traced, args = call()
    (rounding,) = variables(traced, "round")
    require = Party.require_zero

    def all_but_one(self, expression, name):
        if name != "lookup denominator is zero":
            require(self, expression, name)

    with foreseen("lookup challenge", "one"):
        _, proof = prove(traced, args, {rounding: bump(14)})
        rejected(traced, proof, "linear test")
        with mock.patch.object(Party, "require_zero", all_but_one):
            _, proof = prove(traced, args, {rounding: bump(14)})
            verify_statement(traced.statement, proof)


def test_a_wrong_inverse_of_the_root():
    """The prover sends something else for 1 / q."""
    traced, args = call()
    with mock.patch.object(Scalar, "inverse", lambda self: self):
        _, proof = prove(traced, args)
    rejected(traced, proof, "linear test")


def test_a_root_that_is_not_the_product():
    """The prover sends another root denominator with its true inverse."""
    traced, args = call()
    root = logup.Tree.root.fget
    lie = property(lambda tree: (root(tree)[0], root(tree)[1] + 1))
    with mock.patch.object(logup.Tree, "root", lie):
        _, proof = prove(traced, args)
    rejected(traced, proof, "linear test")


# Pads ----------------------------------------------------------------------------------------


def wrong_product_pad(offset: int):
    """The committed pad of the last product is d_x d_y + offset."""
    from zkjax import prove as library

    honest_array, calls = library.pad_array, []

    def pad_array(values, *rest):
        calls.append(0)
        if len(calls) == 3:  # x, y, then xy
            values = [*values[:-1], values[-1] + offset]
        return honest_array(values, *rest)

    return mock.patch.object(library, "pad_array", pad_array)


def scalar_product(x, y):
    return (x.astype(jnp.float64) * y.astype(jnp.float64)).astype(jnp.int16)


@cache
def scalar_call():
    args = tuple(zkjax.seal(np.int8(v), openings=1) for v in (5, 7))
    return trace_call(scalar_product, args), args


def test_a_wrong_product_pad_alone():
    """A product pad that is no product changes a constraint."""
    traced, args = scalar_call()
    with wrong_product_pad(1):
        _, proof = prove(traced, args)
    rejected(traced, proof, "linear test")


def test_a_wrong_product_pad_that_hides_a_wrong_product():
    """5 * 7 = 36: all linear constraints hold, only the product test sees it."""
    traced, args = scalar_call()
    with wrong_product_pad(1):
        out, proof = prove(traced, args, {variables(traced, "multiply")[0]: bump()})
    assert out == 36
    rejected(traced, proof, "product test")


# Padding -------------------------------------------------------------------------------------


def garbage(values: np.ndarray) -> np.ndarray:
    """``pad_values`` with sevens in the padding."""
    target = tuple(1 << log for log in layout.axis_logs(values.shape))
    widths = [(0, t - n) for t, n in zip(target, values.shape, strict=True)]
    return np.pad(values, widths, constant_values=7.0)


def test_garbage_in_padding_has_no_effect():
    """Padding of committed tensors is free: no claim sees it, a true statement stays proved."""
    traced, args = call()
    with mock.patch.object(layout, "pad_values", garbage):
        args = (zkjax.seal(X, openings=1), zkjax.seal(Y, openings=1), SCALE)
        outputs, proof = prove(traced, args)
    verify_statement(traced.statement, proof)
    assert outputs[1] == honest()[0][1]


def test_garbage_in_padding_does_not_enter_a_sum():
    """The sum over a padded axis is claimed with the padding included."""
    traced, args = call()
    (rounding,), (total,) = variables(traced, "round"), variables(traced, "sum")
    assert traced.statement.program.shape(rounding) == (3, 5)
    for extra in (7.0, 7.0 * (32 - 15)):
        with mock.patch.object(layout, "pad_values", garbage):
            args = (zkjax.seal(X, openings=1), zkjax.seal(Y, openings=1), SCALE)
            _, proof = prove(traced, args, {total: bump(0, extra)})
        rejected(traced, proof, "linear test")


def test_garbage_in_padding_does_not_enter_a_lookup():
    """Padding that is no row of any table does not fail a lookup, and hides no wrong entry."""
    traced, args = call()
    (rounding,) = variables(traced, "round")
    with mock.patch.object(layout, "pad_values", garbage):
        args = (zkjax.seal(X, openings=1), zkjax.seal(Y, openings=1), SCALE)
        _, proof = prove(traced, args, {rounding: bump(14)})
    rejected(traced, proof, "linear test")


def test_garbage_that_is_committed_but_not_proved():
    """A tableau whose padding differs from what the prover opens."""
    traced, args = call()
    honest_matrix = layout.Layout.matrix

    def matrix(self, tensors):
        with mock.patch.object(layout, "pad_values", garbage):
            return honest_matrix(self, tensors)

    with mock.patch.object(layout.Layout, "matrix", matrix):
        args = (zkjax.seal(X, openings=1), zkjax.seal(Y, openings=1), SCALE)
        _, proof = prove(traced, args)
    rejected(traced, proof, "linear test")


# Opening -------------------------------------------------------------------------------------


def test_a_codeword_that_is_none():
    """One row of the advice tableau is no codeword: a random place of every column is changed."""
    traced, args = call()
    from zkjax.argument.tableau import Tableau

    honest_columns = Tableau.columns

    def columns(self, indices):
        out = honest_columns(self, indices)
        out[:, 0] ^= np.uint64(1)
        return out

    with mock.patch.object(Tableau, "columns", columns):
        _, proof = prove(traced, args)
    rejected(traced, proof, "merkle path")


def test_a_committed_word_far_from_the_code():
    """The tree is built over words that are no codewords; only the proximity test can tell."""
    traced, args = call()
    from zkjax.argument import tableau

    honest_encode, calls = tableau.encode, []

    def encode(rows, log_length):
        out = honest_encode(rows, log_length)
        if not calls:  # the output's tableau comes first, then advice, masks, pads
            out = out.copy()
            out[0] = out[0][::-1]
        calls.append(0)
        return out

    with mock.patch.object(tableau, "encode", encode):
        _, proof = prove(traced, args)
    rejected(traced, proof, "proximity test")


def test_linear_masks_that_do_not_cancel():
    """The sum of the linear masks is committed before zeta is drawn, so it repairs no lie."""
    traced, args = call()
    from zkjax.argument import opening_prover

    honest_split = opening_prover.split_mu

    def split(parts, kappa, entropy):
        first, *rest = honest_split(parts, kappa, entropy)
        return [first + 1, *rest]

    with mock.patch.object(opening_prover, "split_mu", split):
        _, proof = prove(traced, args)
    rejected(traced, proof, "linear test")


INDICES = {
    "all the same": lambda i, n: np.full_like(i, i[0]),
    "one repeated": lambda i, n: np.sort(np.concatenate([i[:-1], i[:1]])),
    "one missing": lambda i, n: i[:-1],
    "moved by one": lambda i, n: np.sort((i + 1) % n),
    "the first ones": lambda i, n: np.arange(len(i)),
    "reversed": lambda i, n: i[::-1].copy(),
}


@pytest.mark.parametrize("name", INDICES)
def test_columns_of_the_prover_s_choice(name):
    """Repeated, missing, moved or reordered queries: the verifier draws its own."""
    traced, args = call()
    honest_indices = ProverTranscript.distinct_indices

    def indices(self, kind, count, bound):
        return INDICES[name](honest_indices(self, kind, count, bound), bound)

    with mock.patch.object(ProverTranscript, "distinct_indices", indices):
        _, proof = prove(traced, args)
    rejected(traced, proof, "merkle path")


def test_columns_of_another_proof():
    """Columns, nonces and path of one commitment come from another proof of the same statement."""
    traced, args = call()
    _, other = prove(traced, args, entropy=SeededEntropy(8))
    _, proof = honest()
    spans = [m for m in messages(traced, proof) if m[0] == "opened columns"]
    (_, start, size) = spans[0]
    body = proof.body[:start] + other.body[start : start + size] + proof.body[start + size :]
    rejected(traced, Proof(proof.claims, body), "merkle path")


def test_one_opened_column_copied_over_another():
    """A true column at a wrong place."""
    traced, _ = call()
    _, proof = honest()
    _, start, size = next(m for m in messages(traced, proof) if m[0] == "opened columns")
    _, _, nonces = next(m for m in messages(traced, proof) if m[0] == "nonces")
    step = size // (nonces // 32)
    body = bytearray(proof.body)
    body[start : start + step] = body[start + step : start + 2 * step]
    rejected(traced, Proof(proof.claims, bytes(body)), "merkle path")


RESPONSES = [
    "proximity response",
    "linear response",
    "pad proximity response",
    "pad linear response",
    "product response",
]


@pytest.mark.parametrize("kind", RESPONSES)
def test_a_response_of_the_wrong_length(kind):
    """Element by element too long or too short: what follows is read at the wrong place."""
    traced, _ = call()
    _, proof = honest()
    _, start, size = next(m for m in messages(traced, proof) if m[0] == kind)
    longer = proof.body[: start + size] + bytes(16) + proof.body[start + size :]
    shorter = proof.body[: start + size - 16] + proof.body[start + size :]
    for body in (longer, shorter):
        with pytest.raises(VerificationError) as caught:
            verify_statement(traced.statement, Proof(proof.claims, body))
        assert caught.value.check in {"merkle path", "canonical encoding"}


@pytest.mark.parametrize("kind", RESPONSES)
def test_a_response_changed_by_the_prover(kind):
    """The prover itself sends another polynomial; columns are opened honestly after it."""
    traced, args = call()
    honest_write = ProverTranscript.write_field

    def write(self, name, values):
        if name == kind:
            values = values.copy()
            values[0, 1] ^= np.uint64(1)
        honest_write(self, name, values)

    with mock.patch.object(ProverTranscript, "write_field", write):
        _, proof = prove(traced, args)
    expected = {
        "proximity response": "proximity test",
        "linear response": "linear test",
        "pad proximity response": "pad proximity test",
        "pad linear response": "pad linear test",
        "product response": "product test",
    }
    rejected(traced, proof, expected[kind])


def test_trailing_and_missing_bytes():
    """One byte more, one byte less, nothing, half."""
    traced, _ = call()
    _, proof = honest()
    body = proof.body
    for wrong in (body + b"\0", body[:-1], b"", body[: len(body) // 2]):
        rejected(traced, Proof(proof.claims, wrong), "proof length")


def test_a_number_that_is_not_canonical():
    """x + p instead of x in the first masked message."""
    traced, _ = call()
    _, proof = honest()
    _, start, _ = next(m for m in messages(traced, proof) if m[0] == "lookup root")
    body = proof.body[:start] + b"\xff" * 8 + proof.body[start + 8 :]
    rejected(traced, Proof(proof.claims, body), "canonical encoding")


# Replays -------------------------------------------------------------------------------------


def test_another_statement():
    """A proof of one function is presented for another with the same shape."""
    _, args = call()
    _, proof = honest()

    def other(x, y, scale):
        small, total = step(x, y, scale)
        return small, (2 * total.astype(jnp.float64)).astype(jnp.int32)

    wrong = trace_call(other, args, (True, False))
    rejected(wrong, proof, "claims")
    claims = replace(proof.claims, statement=wrong.statement.digest)
    rejected(wrong, Proof(claims, proof.body), "merkle path")


def test_a_table_changed_after_proving():
    """The statement's digest covers every entry of every table."""
    fn, x = SMALL["tabulated"]
    sealed = zkjax.seal(x, openings=1)
    traced = trace_call(fn, (sealed,))
    _, proof = prove(traced, (sealed,))
    program = traced.statement.program
    honest_tables = program.tables
    number = next(i for i, t in enumerate(honest_tables) if t.width == 3)
    columns = [c.copy() for c in honest_tables[number].columns]
    columns[1][-1] += 1
    wrong = [*honest_tables]
    wrong[number] = Table(honest_tables[number].name, tuple(columns))
    with mock.patch.object(program, "tables", wrong):
        rejected(traced, proof, "claims")


def test_other_public_values():
    """Public input or output replaced after proving."""
    traced, _ = call()
    _, proof = honest()
    ((i, scale),), ((o, total),) = proof.claims.inputs.items(), proof.claims.outputs.items()
    rejected(traced, changed(proof, inputs={i: scale + np.uint8(1)}), "merkle path")
    rejected(traced, changed(proof, outputs={o: total + np.int32(1)}), "merkle path")
    rejected(traced, changed(proof, outputs={o: total.astype(np.int64)}), "claims")
    rejected(traced, changed(proof, outputs={o: total.reshape(1)}), "claims")
    rejected(traced, changed(proof, outputs={}), "claims")
    rejected(traced, changed(proof, outputs={o: total, o + 1: total}), "claims")
    rejected(traced, changed(proof, inputs={}), "claims")


def test_swapped_commitments():
    """x and y have the same shape; their commitments change places."""
    traced, _ = call()
    _, proof = honest()
    x, y = proof.claims.input_commitments
    rejected(traced, changed(proof, input_commitments=[y, x]), "merkle path")
    rejected(traced, changed(proof, input_commitments=[x, x]), "merkle path")
    rejected(traced, changed(proof, input_commitments=[x]), "claims")
    rejected(traced, changed(proof, output_commitments=[]), "claims")


def test_swapped_by_the_prover():
    """The prover runs with x and y exchanged, the claims name them in the right order."""
    traced, args = call()
    _, proof = prove(traced, (args[1], args[0], args[2]))
    x, y = proof.claims.input_commitments
    rejected(traced, changed(proof, input_commitments=[y, x]), "merkle path")


def test_another_description_of_a_commitment():
    """Openings, shape, dtype and profile of a commitment are part of what is proved."""
    traced, _ = call()
    _, proof = honest()
    x, y = proof.claims.input_commitments

    def presented(**changes) -> Proof:
        return changed(proof, input_commitments=[replace(x, **changes), y])

    rejected(traced, presented(openings=2), {"merkle path", "proof length", "canonical encoding"})
    rejected(traced, presented(openings=0), "claims")
    rejected(traced, presented(shapes=((5, 3),)), "claims")
    rejected(traced, presented(dtypes=("uint8",)), "claims")
    rejected(traced, presented(profile="s128"), "claims")


def test_a_proof_of_the_weaker_profile():
    """A proof of profile s100 presented as one of s128, in the file and in the claims."""
    traced, _ = call()
    _, proof = honest()
    stronger = changed(
        proof,
        profile="s128",
        input_commitments=[replace(c, profile="s128") for c in proof.claims.input_commitments],
        output_commitments=[replace(c, profile="s128") for c in proof.claims.output_commitments],
    )
    rejected(traced, stronger, {"canonical encoding", "merkle path", "proof length"})
    rejected(traced, changed(proof, profile="s128"), "claims")
    rejected(traced, changed(proof, profile="s64"), "profile")
    with pytest.raises(VerificationError) as caught:
        Proof.decode(proof.encode(), stronger.claims)
    assert caught.value.check == "proof header"
    x, y, scale = call()[1]
    with pytest.raises(VerificationError) as caught:
        zkjax.verify(step, sealed_outputs=(True, False), profile="s128")(x, y, scale, proof=proof)
    assert caught.value.check == "profile"


def test_verify_compares_the_arguments():
    """``verify`` is told the public inputs and the commitments; the claims must agree with them."""
    traced, (x, y, scale) = call()
    _, proof = honest()
    for statement, options in (
        (step, {"sealed_outputs": (True, False)}),
        (traced.statement, {}),
    ):
        check = zkjax.verify(statement, **options)
        check(x.commitment, y.commitment, scale, proof=proof)
        for wrong in (
            (x.commitment, y.commitment, scale + np.uint8(1)),
            (y.commitment, x.commitment, scale),
            (x.commitment, x.commitment, scale),
        ):
            with pytest.raises(VerificationError) as caught:
                check(*wrong, proof=proof)
            assert caught.value.check == "claims"
    for wrong, said in (
        ((x.commitment, y.commitment), "too few"),
        ((x.commitment, y.commitment, scale, scale), "too many"),
        ((x.commitment, y.commitment, [[1], [1, 2]]), "no array of integers"),
    ):
        with pytest.raises(StatementError, match=said):
            check(*wrong, proof=proof)


def test_a_proof_below_its_profile():
    """Whatever the sizes of a proof add up to, the verifier asks for the bits of its profile."""
    traced, _ = call()
    _, proof = honest()
    with mock.patch.object(Setup, "budget", lambda self, *_: Budget(self.profile, {"columns": 99})):
        rejected(traced, proof, "soundness budget")


def test_a_statement_with_another_name_is_another_statement():
    """Names of arguments are part of the digest."""
    x = zkjax.Private({"a": X})
    y = zkjax.Private({"b": X})

    def fn(tree):
        return next(iter(tree.values())).astype(jnp.int32)

    assert trace(fn)(x).digest != trace(fn)(y).digest
