"""The product behind a table look-up by index: the matrix [index_t == j] from the index's bits."""

from __future__ import annotations

import numpy as np

from zkjax.argument.layout import axis_logs
from zkjax.argument.party import Expression
from zkjax.argument.rounds import ProductRounds
from zkjax.argument.sumcheck import point_array, sumcheck
from zkjax.argument.tensor_claims import Job
from zkjax.field import dense
from zkjax.field import extension as ext
from zkjax.field import goldilocks as gl
from zkjax.field.multilinear import Point
from zkjax.field.scalar import Scalar
from zkjax.program.functionals import OnehotMatrix, inner_product, padded_kron
from zkjax.program.ops import Op
from zkjax.program.resolver import Resolver


def onehot_job(resolver: Resolver, var: int, op: Op, weighted, value: Scalar) -> Job:
    """The prover's part of a claim on the matrix, which is never expanded."""
    logs = axis_logs(op.shape)
    high_logs, low = logs[:-1], logs[-1]
    index = np.argmax(resolver.witness.values[var], axis=-1)
    claims, lows = [], {}
    for weights, c in weighted:
        name = resolver.party.vectors.name(weights[-1])
        last = lows.setdefault(name, dense.pad_to(weights[-1], 1 << low))
        claims.append((c, padded_kron(weights[:-1], high_logs, resolver.one), last))
    matrix = OnehotMatrix(index, high_logs, low)
    return Job(var, sum(high_logs), low, matrix, claims, value)


def reduce_onehot(resolver: Resolver, var: int, local: Point, claim: Expression) -> None:
    """claim = sum_t eq(r, t) prod_b (bit_b(t) s_b + (1 - bit_b(t)) (1 - s_b)) over the indices
    t.
    """
    party, kappa, op = resolver.party, resolver.kappa, resolver.program.ops[var]
    shape = op.shape[:-1]
    logs = axis_logs(shape)
    size = sum(logs)
    bits = op.inputs
    eq_index = local.weights(shape)
    last = size + len(bits) - 1
    digits = [Scalar.from_array(local.coordinates[:, last - b]) for b in range(len(bits))]
    degree = len(bits) + 1
    provers = []
    if resolver.witness is not None:
        tables = [padded_kron(eq_index, logs, resolver.one)]
        for b, s in zip(bits, digits, strict=True):
            v = resolver.padded_values(b)
            scaled = gl.mul((2 * s - 1).array()[:, None], v[None])
            tables.append(ext.add(scaled, (1 - s).array()[:, None]))
        rounds = ProductRounds(degree, kappa)
        rounds.add(var, size, claim.value, lambda: np.stack(tables))
        provers = [rounds]
    point, final = sumcheck(party, claim, size, degree, provers, "onehot round")
    eq = Point(point_array(point, kappa)).weights(shape)
    product = None
    for b, s in zip(bits, digits, strict=True):
        value = resolver.resolve([(b, eq, resolver.one)])
        factor = party.tape.combine([(value, 2 * s - 1), (party.constant(1), 1 - s)])
        product = factor if product is None else party.multiply("onehot factor", product, factor)
    party.require_zero(
        party.tape.combine([(final, 1), (product, -inner_product(eq_index, eq))]),
        "onehot sumcheck",
    )
