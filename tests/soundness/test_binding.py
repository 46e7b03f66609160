"""Provers that run the protocol honestly on values that are not the committed ones.

Every sumcheck and every layer of the lookup tree is right here; only the last equation, which ties
the final values to the commitment, is violated. Each proof would pass without that one constraint.
"""

from __future__ import annotations

from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

import zkjax
from soundness.cheating import prove, rejected, trace_call, variables
from zkjax import fixed
from zkjax.field import goldilocks as gl
from zkjax.program import lookups, products
from zkjax.program.program import Program
from zkjax.program.resolver import Witness

X = np.arange(-12, 12, dtype=np.int16).reshape(4, 6)


def rounded(x):
    return fixed.encode(fixed.round(fixed.decode(x, 6), 3, 8), 3)


def test_a_lookup_tree_over_other_values():
    """Committed values leave their range, the tree is built over the honest ones."""
    traced = trace_call(rounded, (zkjax.seal(X),))
    program = traced.statement.program
    honest = program.evaluate([X])
    counts = program.multiplicities(honest)
    leaves = lookups.leaves

    def other_leaves(self, *args):
        mine, self.witness = self.witness, Witness(honest, counts)
        try:
            return leaves(self, *args)
        finally:
            self.witness = mine

    (target,) = variables(traced, "round")
    with (
        mock.patch.object(lookups, "leaves", other_leaves),
        mock.patch("soundness.cheating.multiplicities", lambda program, values: counts),
    ):
        outputs, proof = prove(traced, (zkjax.seal(X),), {target: lambda y: y + 1})
    assert outputs.tolist() != honest[program.outputs[0].var].tolist()
    rejected(traced, proof, "linear test")


def test_lookers_left_out_of_the_tree():
    """A value outside its table gets numerator 0, as if it had never been looked up."""
    traced = trace_call(rounded, (zkjax.seal(X),))
    leaves = lookups.leaves

    def without_strays(self, slots, log_size, alpha, beta):
        numerators, denominators = leaves(self, slots, log_size, alpha, beta)
        program: Program = self.program
        for relation, slot in zip(program.lookups, slots, strict=False):
            values = self.witness.values[relation.vars[0]]
            table = program.tables[relation.table]
            low, high = table.columns[0][0], table.columns[0][-1]
            padded = np.zeros([1 << (n - 1).bit_length() for n in values.shape], dtype=bool)
            padded[tuple(slice(0, n) for n in values.shape)] = (values < low) | (values > high)
            numerators[0, slot.offset + np.flatnonzero(padded.reshape(-1))] = 0
        return numerators, denominators

    (target,) = variables(traced, "round")
    with mock.patch.object(lookups, "leaves", without_strays):
        _, proof = prove(traced, (zkjax.seal(X),), {target: lambda y: y + 1})
    rejected(traced, proof, "linear test")


@pytest.mark.parametrize("place", [0, 1])
def test_a_product_of_other_factors(place):
    """The product sumcheck runs over x + 1 in place of the committed x, for either factor x."""

    def times(x, y):
        return fixed.encode(fixed.decode(x, 0) * fixed.decode(y, 0), 0)

    args = zkjax.seal(X), zkjax.seal(np.arange(24, dtype=np.int16).reshape(4, 6))
    traced = trace_call(times, args)
    (product,) = variables(traced, "multiply")
    instance = products.multiply_instance

    def shifted(self, var, op, weighted):
        for made, tables in instance(self, var, op, weighted):

            def other(tables=tables, op=op):
                out = tables()
                moved = np.zeros((4, 8))
                moved[:, :6] = self.witness.values[op.inputs[place]] + 1
                out[1 + place, 0] = gl.from_signed(moved.reshape(-1))
                return out

            yield made, other

    values = traced.statement.program.evaluate([a.leaves[0] for a in args])
    op = traced.statement.program.ops[product]
    lie = (values[op.inputs[place]] + 1) * values[op.inputs[1 - place]]
    with mock.patch.dict(products.PRODUCTS, multiply=shifted):
        outputs, proof = prove(traced, args, {product: lambda z: lie})
    assert np.array_equal(outputs, jnp.asarray(lie))
    rejected(traced, proof, "linear test")


def test_a_onehot_of_other_bits():
    """The onehot sumcheck runs over the bits of index + 1 in place of the committed ones."""

    def pick(table, index):
        return fixed.encode(fixed.embed(fixed.decode(table, 0), index), 0)

    index = np.array([0, 2, 4, 6], dtype=np.uint8)
    args = zkjax.seal(np.arange(32, dtype=np.int16).reshape(8, 4)), zkjax.seal(index)
    traced = trace_call(pick, args)
    (onehot,) = variables(traced, "onehot")
    honest = products.reduce_onehot

    def other_bits(self, var, *rest):
        mine = self.witness
        if mine is None:
            return honest(self, var, *rest)
        values = list(mine.values)
        for place, bit in enumerate(self.program.ops[var].inputs):
            values[bit] = ((index + 1) >> place & 1).astype(np.float64)
        self.witness = Witness(values, mine.multiplicities)
        try:
            return honest(self, var, *rest)
        finally:
            self.witness = mine

    lie = (index[:, None] + 1 == np.arange(8)).astype(np.float64)
    with mock.patch.object(products, "reduce_onehot", other_bits):
        outputs, proof = prove(traced, args, {onehot: lambda h: lie})
    assert outputs[:, 0].tolist() == [4, 12, 20, 28]
    rejected(traced, proof, "linear test")
