"""The lookups of a program: one LogUp tree over all lookers and tables.

Its two leaf claims, on the numerators and the denominators, are linear equations in multilinear
evaluations of the looked-up variables.
"""

from __future__ import annotations

import numpy as np

from zkjax.argument import logup
from zkjax.argument.layout import pad_values, padded_log
from zkjax.argument.sumcheck import point_array
from zkjax.field import extension as ext
from zkjax.field import goldilocks as gl
from zkjax.field.multilinear import Point, identity_at, indicator_at
from zkjax.field.scalar import Scalar
from zkjax.program.functionals import functional_value, indicator, negated_fingerprint
from zkjax.program.resolver import Resolver
from zkjax.program.tables import Table


def reduce_lookups(resolver: Resolver, grinding: int) -> None:
    """Prove every lookup of the program; claims on looked-up variables are left to ``resolver``."""
    if not resolver.program.lookups:
        return
    program, party, kappa = resolver.program, resolver.party, resolver.kappa
    logs = [padded_log(program.shape(r.vars[0])) for r in program.lookups]
    logs += [(t.rows - 1).bit_length() for t in program.tables]
    blocks, log_size = logup.place_blocks(logs)
    party.grind(grinding)
    alpha, beta = party.challenges("lookup challenge", 2)
    tree = None
    if resolver.witness is not None:
        tree = logup.Tree(*leaves(resolver, blocks, log_size, alpha, beta))
    point, numerator, denominator = logup.reduce_tree(party, log_size, tree)
    leaf = Point(point_array(point, kappa))
    numerator_terms, known = [(numerator, resolver.one)], Scalar.of(0, kappa)
    denominator_known, terms = resolver.one, []
    cache: dict = {}
    count = len(program.lookups)
    for relation, block in zip(program.lookups, blocks[:count], strict=True):
        shape = program.shape(relation.vars[0])
        local = leaf.last(block.log)
        if shape not in cache:
            cache[shape] = local.weights(shape), indicator(local.coordinates, shape)
        weights, inside = cache[shape]
        share = logup.block_weight(block, point, kappa)
        known = known - share * inside
        powers = logup.fingerprint_powers(beta, len(relation.vars))
        tag = powers[-1] * (relation.table + 1)
        denominator_known = denominator_known + share * inside * (alpha - 1 - tag)
        for var, power in zip(relation.vars, powers, strict=False):
            terms.append((var, weights, -(share * power)))
    for t, (table, block) in enumerate(zip(program.tables, blocks[count:], strict=True)):
        local = leaf.last(block.log)
        share = logup.block_weight(block, point, kappa)
        weights = local.weights((table.rows,))
        multiplicity = party.functional(resolver.ids["multiplicity"][t], weights)
        numerator_terms.append((multiplicity, share))
        inside = Scalar.from_array(indicator_at(local.coordinates, table.rows))
        powers = logup.fingerprint_powers(beta, table.width)
        row = powers[-1] * (t + 1) * inside
        row = row + _keys_at(resolver, table, local, inside)
        for column, power in zip(table.columns[1:], powers[1:], strict=False):
            value = functional_value(column.astype(np.float64), weights, kappa)
            row = row + power * value
        denominator_known = denominator_known + share * (inside * (alpha - 1) - row)
    party.require_zero(party.tape.combine(numerator_terms) + known, "lookup numerator")
    resolved = resolver.resolve(terms)
    party.require_zero(denominator - resolved - denominator_known, "lookup denominator")


def _keys_at(resolver: Resolver, table: Table, local: Point, inside: Scalar) -> Scalar:
    """The extension of a table's first column, consecutive integers, at a point."""
    low = int(table.columns[0][0])
    if table.rows == 1 << len(local):
        return Scalar.from_array(identity_at(local.coordinates)) + inside * low
    weights = local.weights((table.rows,))
    return functional_value(table.columns[0].astype(np.float64), weights, resolver.kappa)


def leaves(resolver: Resolver, blocks, log_size: int, alpha: Scalar, beta: Scalar):
    """Numerators and denominators of all leaves, (kappa, 2^log_size) each."""
    program, kappa = resolver.program, resolver.kappa
    numerators = np.zeros((kappa, 1 << log_size), dtype=np.uint64)
    denominators = np.zeros((kappa, 1 << log_size), dtype=np.uint64)
    denominators[0] = 1
    count = len(program.lookups)
    for relation, block in zip(program.lookups, blocks[:count], strict=True):
        shape = program.shape(relation.vars[0])
        where = slice(block.offset, block.offset + (1 << block.log))
        numerator = pad_values(np.ones(shape)).reshape(-1)
        fields = [resolver.padded_values(v) for v in relation.vars]
        f = negated_fingerprint(fields, relation.table + 1, alpha, beta)
        if padded_log(shape) and int(np.prod(shape)) != 1 << block.log:
            unit = ext.lift(np.ones(1 << block.log, dtype=np.uint64), kappa)
            f = np.where(numerator[None] != 0, f, unit)
        numerators[0, where] = numerator.astype(np.uint64)
        denominators[:, where] = f
    for t, (table, block) in enumerate(zip(program.tables, blocks[count:], strict=True)):
        where = slice(block.offset, block.offset + table.rows)
        counts = gl.from_signed(resolver.witness.multiplicities[t])
        numerators[0, where] = gl.neg(counts)
        fields = [gl.from_signed(c) for c in table.columns]
        denominators[:, where] = negated_fingerprint(fields, t + 1, alpha, beta)
    return numerators, denominators
