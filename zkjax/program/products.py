"""Claims on products, and claims that meet, reduced to claims on operands by sumchecks.

A variable can only be reduced when all claims on it are known. Those of equal level, counted from
the results, are therefore reduced together, in one sumcheck a level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from zkjax.argument.layout import axis_logs, padded_log
from zkjax.argument.party import Expression, Weights
from zkjax.argument.rounds import ProductRounds
from zkjax.argument.sumcheck import RoundProver, idle_factor, point_array, sumcheck
from zkjax.argument.tensor_claims import Job, TensorRounds
from zkjax.field import dense
from zkjax.field import extension as ext
from zkjax.field import goldilocks as gl
from zkjax.field.multilinear import Point
from zkjax.field.scalar import Scalar
from zkjax.program.functionals import inner_product, ones, padded_kron, table_sum
from zkjax.program.onehot import onehot_job, reduce_onehot
from zkjax.program.ops import ContractAxes, Op
from zkjax.program.resolver import Claim, Node, Resolver


@dataclass
class Instance:
    """One product sumcheck: W(x) X(x) Y(x), with how to finish it at a point."""

    var: int
    num_vars: int
    weight: Callable[[Point], Scalar]
    factors: Sequence[tuple[int, Callable[..., Weights]]]  # operand and its weights at a point
    meeting: bool = False  # of claims on ``var``, which is its only factor


def reduce_products(resolver: Resolver) -> None:
    """Reduce all claims, level by level."""
    level = -1
    while resolver.claims:
        before, level = level, min(resolver.claims)
        if level <= before:
            raise RuntimeError("internal: a claim came after its level was reduced")
        reduce_level(resolver, resolver.claims.pop(level))


def reduce_level(resolver: Resolver, claims: dict[Node, list[Claim]]) -> None:
    """One sumcheck for all claims of a level."""
    party, program, kappa = resolver.party, resolver.program, resolver.kappa
    combiner, power = party.challenge("claim combiner"), resolver.one
    instances: list[Instance] = []
    onehots: list[tuple[int, list]] = []
    claim_parts = []
    rounds = ProductRounds(3, kappa)
    jobs: list[Job] = []
    for var, met in sorted(claims):
        op = program.ops[var]
        combined = []
        for claim in claims[Node(var, met)]:
            power = power * combiner
            combined.append((power, claim))
            claim_parts.append((claim[1], power))
        weighted = [(weights, c) for c, (weights, _) in combined]
        value = resolver.claimed_value(combined)
        if met and op.kind == "onehot":
            onehots.append((var, weighted))
            if resolver.witness is not None:
                jobs.append(onehot_job(resolver, var, op, weighted, value))
            continue
        build = PRODUCTS[op.kind] if met else meeting_instance
        for instance, tables in build(resolver, var, op, weighted):
            if resolver.witness is not None:
                ready = tables()
                claim = table_sum(ready)
                rounds.add(len(instances), instance.num_vars, claim, lambda t=ready: t)
            instances.append(instance)
    sizes = [i.num_vars for i in instances]
    sizes += [padded_log(program.shape(v)) for v, _ in onehots]
    num_vars = max(sizes)
    tensors = TensorRounds(jobs, kappa)
    provers: list[RoundProver] = [rounds, tensors] if resolver.witness is not None else []
    claim = party.tape.combine(claim_parts)
    point, final = sumcheck(party, claim, num_vars, 3, provers, "product round")
    at = Point(point_array(point, kappa))
    finals = rounds.finals() if resolver.witness is not None else {}
    onehot_finals = tensors.finals() if provers else {}
    total = [(final, resolver.one)]
    for index, instance in enumerate(instances):
        local = at.last(instance.num_vars)
        weight = instance.weight(local) * idle_factor(point, instance.num_vars, kappa)
        product = finish_product(resolver, instance, local, finals.get(index))
        total.append((product, -weight))
    evaluations = []
    for var, weighted in onehots:
        size = padded_log(program.shape(var))
        local = at.last(size)
        eq = local.weights(program.shape(var))
        weight = combined_weight_at(weighted, eq, kappa) * idle_factor(point, size, kappa)
        sent = party.send("onehot claim", 1, lambda v=var: [onehot_finals[v]])[0]
        total.append((sent, -weight))
        evaluations.append((var, local, sent))
    party.require_zero(party.tape.combine(total), "product sumcheck")
    for evaluation in evaluations:
        reduce_onehot(resolver, *evaluation)


def meeting_instance(resolver: Resolver, var: int, op: Op, weighted):
    """sum W X over the elements: any number of claims become one."""
    logs, kappa = axis_logs(op.shape), resolver.kappa

    def tables():
        operand = resolver.padded_values(var)
        return np.stack(
            [
                combined_weight(weighted, logs),
                ext.lift(operand, kappa),
                ones(operand.size, kappa),
            ]
        )

    def eq(local):
        return local.weights(op.shape)

    def weight_at(local):
        return combined_weight_at(weighted, eq(local), kappa)

    yield Instance(var, sum(logs), weight_at, [(var, eq)], meeting=True), tables


def combined_weight(weighted, logs) -> np.ndarray:
    """sum_j c_j w_j, padded and flat."""
    total = None
    for weights, c in weighted:
        term = padded_kron(weights, logs, c)
        total = term if total is None else ext.add(total, term)
    return total


def combined_weight_at(weighted, eq: Weights, kappa: int) -> Scalar:
    """sum_j c_j <w_j, eq>."""
    return sum((c * inner_product(w, eq) for w, c in weighted), Scalar.of(0, kappa))


def multiply_instance(resolver: Resolver, var: int, op: Op, weighted):
    """sum W X Y over the elements: all claims on a product share one sumcheck."""
    logs, kappa = axis_logs(op.shape), resolver.kappa

    def tables():
        operands = [ext.lift(resolver.padded_values(i), kappa) for i in op.inputs]
        return np.stack([combined_weight(weighted, logs), *operands])

    def eq(local):
        return local.weights(op.shape)

    def weight_at(local):
        return combined_weight_at(weighted, eq(local), kappa)

    yield Instance(var, sum(logs), weight_at, [(i, eq) for i in op.inputs]), tables


def contract_instances(resolver: Resolver, var: int, op: Op, weighted):
    """sum W X Y over the batch and summed axes, one sumcheck a claim: the free axes are contracted
    with the claim's weights beforehand (Thaler's matrix product).
    """
    x, y = op.inputs
    shapes = resolver.program.shape(x), resolver.program.shape(y)
    axes = ContractAxes.of(op, len(shapes[0]), len(shapes[1]))
    batch = [shapes[0][a] for a, _ in axes.batch]
    inner = batch + [shapes[0][a] for a, _ in axes.summed]
    logs = axis_logs(tuple(inner))
    nb = len(batch)
    x_order = [a for a, _ in axes.batch + axes.summed]
    y_order = [b for _, b in axes.batch + axes.summed]
    for weights, c in weighted:
        wx = dict(zip(axes.x_free, weights[nb:], strict=False))
        wy = dict(zip(axes.y_free, weights[nb + len(axes.x_free) :], strict=True))

        def tables(weights=weights, c=c, wx=wx, wy=wy):
            full = [ones(1 << log, resolver.kappa) for log in logs[nb:]]
            weight = padded_kron((*weights[:nb], *full), logs, c)
            left = _partial(resolver, x, wx, x_order)
            right = _partial(resolver, y, wy, y_order)
            return np.stack([weight, left, right])

        def weight_at(local, weights=weights, c=c):
            eq = local.weights(tuple(inner))
            return c * inner_product(weights[:nb], eq[:nb])

        def operand(local, free, order, rank):
            eq = local.weights(tuple(inner))
            out = [free.get(a) for a in range(rank)]
            for position, axis in enumerate(order):
                out[axis] = eq[position]
            return tuple(out)

        factors = [
            (x, lambda p, f=wx: operand(p, f, x_order, len(shapes[0]))),
            (y, lambda p, f=wy: operand(p, f, y_order, len(shapes[1]))),
        ]
        yield Instance(var, sum(logs), weight_at, factors), tables


def _partial(
    resolver: Resolver, var: int, free: dict[int, np.ndarray], order: list[int]
) -> np.ndarray:
    """Contract the free axes, order the rest, pad, flatten: (kappa, 2^n)."""
    values = resolver.witness.values[var]
    kept = [a for a in range(values.ndim) if a not in free]
    if free:
        bound = int(np.abs(values).max(initial=0))
        result = dense.contract(values, free, bound)
    else:
        result = ext.lift(gl.from_signed(values), resolver.kappa)
    permutation = [0] + [1 + kept.index(a) for a in order]
    result = np.transpose(result, permutation)
    widths = [(0, 0)] + [
        (0, (1 << log) - n)
        for n, log in zip(result.shape[1:], axis_logs(result.shape[1:]), strict=True)
    ]
    return np.pad(result, widths).reshape(resolver.kappa, -1)


def reshape_instance(resolver: Resolver, var: int, op: Op, weighted):
    """A functional that does not split along the operand's axes: sum W X with a dense W."""
    (in_shape,) = op.params
    logs, kappa = axis_logs(in_shape), resolver.kappa

    def dense_weight():
        total = None
        for weights, c in weighted:
            term = ext.mul(dense.kron(list(weights), kappa), c.array()[:, None])
            total = term if total is None else ext.add(total, term)
        return total.reshape(kappa, *in_shape)

    def tables():
        widths = [(0, 0)] + [(0, (1 << g) - n) for n, g in zip(in_shape, logs, strict=True)]
        weight = np.pad(dense_weight(), widths).reshape(kappa, -1)
        operand = resolver.padded_values(op.inputs[0])
        return np.stack([weight, ext.lift(operand, kappa), ones(operand.size, kappa)])

    def weight_at(local):
        eq = local.weights(in_shape)
        flat = dense_weight().reshape(kappa, -1)
        return Scalar.from_array(ext.dot(flat, dense.kron(list(eq), kappa)))

    def eq(local):
        return local.weights(in_shape)

    yield Instance(var, sum(logs), weight_at, [(op.inputs[0], eq)]), tables


def finish_product(resolver: Resolver, instance: Instance, local: Point, finals) -> Expression:
    """The product of the factors' values at the point, each tied to its variable."""
    party = resolver.party
    if len(instance.factors) == 1:
        var, weights = instance.factors[0]
        met = var if instance.meeting else None
        return resolver.resolve([(var, weights(local), resolver.one)], met)
    (x, x_weights), (y, y_weights) = instance.factors
    if resolver.public_only[x] or resolver.public_only[y]:
        if not resolver.public_only[x]:
            x, y, x_weights, y_weights = y, x, y_weights, x_weights
        scale = resolver.public_functional(x, x_weights(local))
        return resolver.resolve([(y, y_weights(local), resolver.one)]) * scale
    left, right, product = party.send_product("factors", lambda: (finals[1], finals[2]))
    party.require_zero(left - resolver.resolve([(x, x_weights(local), resolver.one)]), "factor")
    party.require_zero(right - resolver.resolve([(y, y_weights(local), resolver.one)]), "factor")
    return product


PRODUCTS = {
    "multiply": multiply_instance,
    "contract": contract_instances,
    "reshape": reshape_instance,
}
