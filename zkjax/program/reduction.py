"""From "this program was executed" to linear claims on committed tensors, written once for both
sides.

1. Lookups: one LogUp tree over all lookers and tables; its leaf claims are two linear equations in
   multilinear evaluations of the looked-up variables.
2. Zero relations and outputs: a random evaluation of each.
3. Claims travel from outputs to inputs. ``resolve`` pulls a functional through linear operations;
   where it meets a product, its value is sent (padded) and becomes a claim; products of equal
   depth are reduced together in one sumcheck.

What remains are linear constraints over pads and functionals of committed tensors.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from zkjax.argument import logup
from zkjax.argument.layout import axis_logs, pad_values, padded_log
from zkjax.argument.party import Expression, Party, Weights
from zkjax.argument.rounds import ProductRounds
from zkjax.argument.sumcheck import RoundProver, idle_factor, point_array, sumcheck
from zkjax.argument.tensor_claims import Job, TensorRounds
from zkjax.field import dense
from zkjax.field import extension as ext
from zkjax.field import goldilocks as gl
from zkjax.field.multilinear import Point, identity_at, indicator_at
from zkjax.field.scalar import Scalar
from zkjax.program.functionals import (
    OnehotMatrix,
    functional_value,
    indicator,
    inner_product,
    negated_fingerprint,
    ones,
    padded_kron,
    table_sum,
)
from zkjax.program.ops import RULES, ContractAxes, NotRankOne, Op
from zkjax.program.program import Program


@dataclass
class Witness:
    """What only the prover has: values of all variables and the multiplicities of the tables."""

    values: list[np.ndarray]
    multiplicities: list[np.ndarray]


def tensor_ids(program: Program) -> dict[str, dict[int, int]]:
    """Numbers of committed tensors: variables keep theirs, then multiplicities, then sealed
    outputs.
    """
    base = len(program.ops)
    after = base + len(program.tables)
    return {
        "multiplicity": {t: base + t for t in range(len(program.tables))},
        "output": {i: after + i for i, p in enumerate(program.outputs) if p.sealed},
    }


def product_levels(program: Program) -> dict[int, int]:
    """For every variable the number of product reductions a claim on it may have to wait for."""
    level = [0] * len(program.ops)
    for var in reversed(range(len(program.ops))):
        op = program.ops[var]
        step = 1 if RULES[op.kind].cls == "product" or op.kind == "reshape" else 0
        for i in op.inputs:
            level[i] = max(level[i], level[var] + step)
    return dict(enumerate(level))


@dataclass
class _Instance:
    """One product sumcheck: W(x) X(x) Y(x), with how to finish it at a point."""

    var: int
    num_vars: int
    weight: Callable[[Point], Scalar]
    factors: Sequence[tuple[int, Callable[..., Weights]]]  # operand and its weights at a point


@dataclass
class Reduction:
    """State of one run of the three steps, in order; ``witness`` is None for the verifier and the
    planner.
    """

    program: Program
    party: Party
    public: dict[int, np.ndarray]
    public_outputs: dict[int, np.ndarray]
    witness: Witness | None = None
    claims: dict[int, list[tuple[Weights, Expression]]] = field(default_factory=dict)
    _sent: dict = field(default_factory=dict)

    def __post_init__(self):
        self.kappa = self.party.kappa
        self.one = Scalar.of(1, self.kappa)
        self.ids = tensor_ids(self.program)
        ops = self.program.ops
        self.committed = {
            v
            for v, op in enumerate(ops)
            if RULES[op.kind].cls == "advice" or (op.kind == "input" and v not in self.public)
        }
        self._public_only = []
        for v, op in enumerate(ops):
            linear = RULES[op.kind].cls == "linear"
            known = v in self.public or (linear and all(self._public_only[i] for i in op.inputs))
            self._public_only.append(known)

    # Functionals ----------------------------------------------------------------------------

    def _value(self, var: int, weights: Weights) -> Scalar:
        values = self.witness.values[var]
        return functional_value(values, weights, self.kappa)

    def resolve(self, terms) -> Expression:
        """sum of c <w, var> as an expression; claims on products are sent on the way."""
        pending: dict[int, dict] = defaultdict(dict)
        heap: list[int] = []

        def push(var: int, weights: Weights, c: Scalar):
            if var not in pending:
                heapq.heappush(heap, -var)
            key = tuple(map(id, weights))
            entry = pending[var].get(key)
            pending[var][key] = (weights, c if entry is None else entry[1] + c)

        for var, weights, c in terms:
            push(var, weights, c)
        known, parts = Scalar.of(0, self.kappa), []
        while heap:
            var = -heapq.heappop(heap)
            op = self.program.ops[var]
            for weights, c in pending.pop(var).values():
                if self._public_only[var]:
                    known = known + c * self._public_functional(var, weights)
                elif var in self.committed:
                    parts.append((self.party.functional(var, weights), c))
                elif RULES[op.kind].cls == "linear":
                    try:
                        pulled = RULES[op.kind].pull(op, weights, self.one)
                    except NotRankOne:
                        parts.append((self._claim(var, weights), c))
                        continue
                    for operand, inner, k in pulled:
                        if operand is None:
                            known = known + c * k
                        else:
                            push(op.inputs[operand], inner, c * k)
                else:
                    parts.append((self._claim(var, weights), c))
        return self.party.tape.combine([*parts, (self.party.constant(known), 1)])

    def _public_functional(self, var: int, weights: Weights) -> Scalar:
        """<w, var> for a linear function of public values, evaluated here without any message."""
        if var in self.public:
            return functional_value(self.public[var], weights, self.kappa)
        op = self.program.ops[var]
        try:
            pulled = RULES[op.kind].pull(op, weights, self.one)
        except NotRankOne:
            operands = [self._public_value(i) for i in op.inputs]
            return functional_value(RULES[op.kind].evaluate(op, *operands), weights, self.kappa)
        total = Scalar.of(0, self.kappa)
        for operand, inner, c in pulled:
            part = self.one
            if operand is not None:
                part = self._public_functional(op.inputs[operand], inner)
            total = total + c * part
        return total

    def _public_value(self, var: int) -> np.ndarray:
        """The value of a linear function of public values."""
        if var in self.public:
            return self.public[var]
        op = self.program.ops[var]
        return RULES[op.kind].evaluate(op, *(self._public_value(i) for i in op.inputs))

    def _claim(self, var: int, weights: Weights) -> Expression:
        """The (padded) value of a functional of a product, which a later level must justify."""
        key = (var, *map(id, weights))
        if key not in self._sent:
            sent = self.party.send("claim", 1, lambda: [self._value(var, weights)])[0]
            self.claims.setdefault(var, []).append((weights, sent))
            self._sent[key] = sent
        return self._sent[key]

    # 1. Lookups -----------------------------------------------------------------------------

    def lookups(self, grinding: int) -> None:
        """Step 1; nothing to do for a program without lookups."""
        if not self.program.lookups:
            return
        program, party, kappa = self.program, self.party, self.kappa
        blocks = [padded_log(program.shape(r.vars[0])) for r in program.lookups]
        blocks += [max(t.rows - 1, 0).bit_length() for t in program.tables]
        slots, log_size = logup.layout(blocks)
        party.grind(grinding)
        alpha, beta = party.challenges("lookup challenge", 2)
        tree = None
        if self.witness is not None:
            tree = logup.Tree(*self._leaves(slots, log_size, alpha, beta))
        point, numerator, denominator = logup.reduce_tree(party, log_size, tree)
        leaf = Point(point_array(point, kappa))
        numerator_terms, known = [(numerator, self.one)], Scalar.of(0, kappa)
        denominator_known, terms = self.one, []
        cache: dict = {}
        count = len(program.lookups)
        for relation, slot in zip(program.lookups, slots[:count], strict=True):
            shape = program.shape(relation.vars[0])
            local = leaf.last(slot.log)
            if shape not in cache:
                cache[shape] = local.weights(shape), indicator(local.coordinates, shape)
            weights, inside = cache[shape]
            share = logup.slot_weight(slot, point, kappa)
            known = known - share * inside
            powers = logup.fingerprint_powers(beta, len(relation.vars))
            tag = powers[-1] * (relation.table + 1)
            denominator_known = denominator_known + share * inside * (alpha - 1 - tag)
            for var, power in zip(relation.vars, powers, strict=False):
                terms.append((var, weights, -(share * power)))
        for t, (table, slot) in enumerate(zip(program.tables, slots[count:], strict=True)):
            local = leaf.last(slot.log)
            share = logup.slot_weight(slot, point, kappa)
            weights = local.weights((table.rows,))
            multiplicity = party.functional(self.ids["multiplicity"][t], weights)
            numerator_terms.append((multiplicity, share))
            inside = Scalar.from_array(indicator_at(local.coordinates, table.rows))
            powers = logup.fingerprint_powers(beta, table.width)
            row = powers[-1] * (t + 1) * inside
            row = row + self._keys_at(table, local, inside)
            for column, power in zip(table.columns[1:], powers[1:], strict=False):
                value = functional_value(column.astype(np.float64), weights, kappa)
                row = row + power * value
            denominator_known = denominator_known + share * (inside * (alpha - 1) - row)
        party.require_zero(party.tape.combine(numerator_terms) + known, "lookup numerator")
        resolved = self.resolve(terms)
        party.require_zero(denominator - resolved - denominator_known, "lookup denominator")

    def _keys_at(self, table, local: Point, inside: Scalar) -> Scalar:
        low = int(table.columns[0][0])
        if table.rows == 1 << len(local):
            return Scalar.from_array(identity_at(local.coordinates)) + inside * low
        weights = local.weights((table.rows,))
        return functional_value(table.columns[0].astype(np.float64), weights, self.kappa)

    def _leaves(self, slots, log_size: int, alpha: Scalar, beta: Scalar):
        """Numerators and denominators of all leaves, (kappa, 2^log_size) each."""
        program, kappa = self.program, self.kappa
        numerators = np.zeros((kappa, 1 << log_size), dtype=np.uint64)
        denominators = np.zeros((kappa, 1 << log_size), dtype=np.uint64)
        denominators[0] = 1
        count = len(program.lookups)
        for relation, slot in zip(program.lookups, slots[:count], strict=True):
            shape = program.shape(relation.vars[0])
            columns = [self.witness.values[v] for v in relation.vars]
            where = slice(slot.offset, slot.offset + (1 << slot.log))
            numerator = pad_values(np.ones(shape)).reshape(-1)
            fields = [gl.from_signed(pad_values(c).reshape(-1)) for c in columns]
            f = negated_fingerprint(fields, relation.table + 1, alpha, beta)
            if padded_log(shape) and int(np.prod(shape)) != 1 << slot.log:
                unit = ext.lift(np.ones(1 << slot.log, dtype=np.uint64), kappa)
                f = np.where(numerator[None] != 0, f, unit)
            numerators[0, where] = numerator.astype(np.uint64)
            denominators[:, where] = f
        for t, (table, slot) in enumerate(zip(program.tables, slots[count:], strict=True)):
            where = slice(slot.offset, slot.offset + table.rows)
            counts = gl.from_signed(self.witness.multiplicities[t])
            numerators[0, where] = gl.neg(counts)
            fields = [gl.from_signed(c) for c in table.columns]
            denominators[:, where] = negated_fingerprint(fields, t + 1, alpha, beta)
        return numerators, denominators

    # 2. Zeros and outputs -------------------------------------------------------------------

    def outputs_and_zeros(self) -> None:
        """Step 2: a random combination of random evaluations: zero relations, public and sealed
        outputs.
        """
        program, party = self.program, self.party
        cache: dict = {}
        combiner = party.challenge("zero combiner")
        power, terms, parts = self.one, [], []
        known = Scalar.of(0, self.kappa)

        def weights_for(shape) -> Weights:
            if shape not in cache:
                vector = party.challenges("zero point", padded_log(shape))
                cache[shape] = Point(point_array(vector, self.kappa)).weights(shape)
            return cache[shape]

        for var in program.zeros:
            power = power * combiner
            terms.append((var, weights_for(program.shape(var)), power))
        for i, port in enumerate(program.outputs):
            power = power * combiner
            weights = weights_for(program.shape(port.var))
            terms.append((port.var, weights, power))
            if port.sealed:
                parts.append((party.functional(self.ids["output"][i], weights), -power))
            else:
                value = functional_value(self.public_outputs[i], weights, self.kappa)
                known = known - power * value
        total = party.tape.combine([(self.resolve(terms), 1), *parts]) + known
        party.require_zero(total, "outputs and zero relations")

    # 3. Products ----------------------------------------------------------------------------

    def products(self) -> None:
        """Step 3: reduce claims on products, level by level."""
        levels, reduced = product_levels(self.program), set()
        depth = max(levels.values(), default=0)
        for level in range(depth + 1):
            atoms = sorted(v for v in self.claims if levels[v] == level)
            if atoms:
                self._reduce_level(atoms)
                reduced.update(atoms)
        if reduced != set(self.claims):
            raise RuntimeError("internal: a claim on a product was not reduced")

    def _reduce_level(self, atoms: list[int]) -> None:
        party, program, kappa = self.party, self.program, self.kappa
        combiner, power = party.challenge("claim combiner"), self.one
        instances: list[_Instance] = []
        onehots: list[tuple[int, list]] = []
        claim_parts = []
        rounds = ProductRounds(3, kappa)
        jobs: list[Job] = []
        for var in atoms:
            op = program.ops[var]
            weighted = []
            for weights, expression in self.claims[var]:
                power = power * combiner
                weighted.append((weights, power))
                claim_parts.append((expression, power))
            value = self._claimed_value(var, weighted)
            if op.kind == "onehot":
                onehots.append((var, weighted))
                if self.witness is not None:
                    jobs.append(self._onehot_job(var, op, weighted, value))
                continue
            build = {
                "multiply": self._multiply_instance,
                "contract": self._contract_instances,
                "reshape": self._reshape_instance,
            }[op.kind]
            for instance, tables in build(var, op, weighted):
                if self.witness is not None:
                    ready = tables()
                    claim = table_sum(ready)
                    rounds.add(len(instances), instance.num_vars, claim, lambda t=ready: t)
                instances.append(instance)
        sizes = [i.num_vars for i in instances]
        sizes += [padded_log(program.shape(v)) for v, _ in onehots]
        num_vars = max(sizes)
        tensors = TensorRounds(jobs, kappa)
        provers: list[RoundProver] = [rounds, tensors] if self.witness is not None else []
        claim = party.tape.combine(claim_parts)
        point, final = sumcheck(party, claim, num_vars, 3, provers, "product round")
        at = Point(point_array(point, kappa))
        finals = rounds.finals() if self.witness is not None else {}
        onehot_finals = tensors.finals() if provers else {}
        total = [(final, self.one)]
        for index, instance in enumerate(instances):
            local = at.last(instance.num_vars)
            weight = instance.weight(local) * idle_factor(point, instance.num_vars, kappa)
            product = self._finish_product(instance, local, finals.get(index))
            total.append((product, -weight))
        evaluations = []
        for var, weighted in onehots:
            size = padded_log(program.shape(var))
            local = at.last(size)
            eq = local.weights(program.shape(var))
            weight = sum((c * inner_product(w, eq) for w, c in weighted), Scalar.of(0, kappa))
            weight = weight * idle_factor(point, size, kappa)
            sent = party.send("onehot claim", 1, lambda v=var: [onehot_finals[v]])[0]
            total.append((sent, -weight))
            evaluations.append((var, local, sent))
        party.require_zero(party.tape.combine(total), "product sumcheck")
        for evaluation in evaluations:
            self._reduce_onehot(*evaluation)

    def _claimed_value(self, var: int, weighted) -> Scalar | None:
        if self.witness is None:
            return None
        zero = Scalar.of(0, self.kappa)
        return sum(
            (e.value * c for (_, c), (_, e) in zip(weighted, self.claims[var], strict=True)), zero
        )

    def _multiply_instance(self, var: int, op: Op, weighted):
        logs = axis_logs(op.shape)

        def tables():
            weight = None
            for weights, c in weighted:
                term = padded_kron(weights, logs, c)
                weight = term if weight is None else ext.add(weight, term)
            operands = [
                ext.lift(gl.from_signed(pad_values(self.witness.values[i]).reshape(-1)), self.kappa)
                for i in op.inputs
            ]
            return np.stack([weight, *operands])

        def weight_at(local):
            eq = local.weights(op.shape)
            return sum((c * inner_product(w, eq) for w, c in weighted), Scalar.of(0, self.kappa))

        def eq(local):
            return local.weights(op.shape)

        yield _Instance(var, sum(logs), weight_at, [(i, eq) for i in op.inputs]), tables

    def _contract_instances(self, var: int, op: Op, weighted):
        x, y = op.inputs
        shapes = self.program.shape(x), self.program.shape(y)
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
                full = [ones(1 << log, self.kappa) for log in logs[nb:]]
                weight = padded_kron((*weights[:nb], *full), logs, c)
                left = self._partial(x, wx, x_order)
                right = self._partial(y, wy, y_order)
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
            yield _Instance(var, sum(logs), weight_at, factors), tables

    def _partial(self, var: int, free: dict[int, np.ndarray], order: list[int]) -> np.ndarray:
        """Contract the free axes, order the rest, pad, flatten: (kappa, 2^n)."""
        values = self.witness.values[var]
        kept = [a for a in range(values.ndim) if a not in free]
        if free:
            bound = int(np.abs(values).max(initial=0))
            result = dense.contract(values, free, bound)
        else:
            result = ext.lift(gl.from_signed(values), self.kappa)
        permutation = [0] + [1 + kept.index(a) for a in order]
        result = np.transpose(result, permutation)
        widths = [(0, 0)] + [
            (0, (1 << log) - n)
            for n, log in zip(result.shape[1:], axis_logs(result.shape[1:]), strict=True)
        ]
        return np.pad(result, widths).reshape(self.kappa, -1)

    def _reshape_instance(self, var: int, op: Op, weighted):
        (in_shape,) = op.params
        logs = axis_logs(in_shape)

        def dense_weight():
            total = None
            for weights, c in weighted:
                term = ext.mul(dense.kron(list(weights), self.kappa), c.array()[:, None])
                total = term if total is None else ext.add(total, term)
            return total.reshape(self.kappa, *in_shape)

        def tables():
            widths = [(0, 0)] + [(0, (1 << g) - n) for n, g in zip(in_shape, logs, strict=True)]
            weight = np.pad(dense_weight(), widths).reshape(self.kappa, -1)
            operand = gl.from_signed(pad_values(self.witness.values[op.inputs[0]]).reshape(-1))
            return np.stack([weight, ext.lift(operand, self.kappa), ones(operand.size, self.kappa)])

        def weight_at(local):
            eq = local.weights(in_shape)
            return Scalar.from_array(
                ext.dot(dense_weight().reshape(self.kappa, -1), dense.kron(list(eq), self.kappa))
            )

        def eq(local):
            return local.weights(in_shape)

        yield _Instance(var, sum(logs), weight_at, [(op.inputs[0], eq)]), tables

    def _finish_product(self, instance: _Instance, local: Point, finals) -> Expression:
        """The product of the factors' values at the point, each tied to its variable."""
        party = self.party
        if len(instance.factors) == 1:
            var, weights = instance.factors[0]
            return self.resolve([(var, weights(local), self.one)])
        (x, x_weights), (y, y_weights) = instance.factors
        if self._public_only[x] or self._public_only[y]:
            if not self._public_only[x]:
                x, y, x_weights, y_weights = y, x, y_weights, x_weights
            scale = self._public_functional(x, x_weights(local))
            return self.resolve([(y, y_weights(local), self.one)]) * scale
        left, right, product = party.send_product("factors", lambda: (finals[1], finals[2]))
        party.require_zero(left - self.resolve([(x, x_weights(local), self.one)]), "factor")
        party.require_zero(right - self.resolve([(y, y_weights(local), self.one)]), "factor")
        return product

    # Onehot ---------------------------------------------------------------------------------

    def _onehot_job(self, var: int, op: Op, weighted, value: Scalar) -> Job:
        logs = axis_logs(op.shape)
        high_logs, low = logs[:-1], logs[-1]
        index = np.argmax(self.witness.values[var], axis=-1)
        claims, lows = [], {}
        for weights, c in weighted:
            last = lows.setdefault(id(weights[-1]), dense.pad_to(weights[-1], 1 << low))
            claims.append((c, padded_kron(weights[:-1], high_logs, self.one), last))
        matrix = OnehotMatrix(index, high_logs, low)
        return Job(var, sum(high_logs), low, matrix, claims, value)

    def _reduce_onehot(self, var: int, local: Point, claim: Expression) -> None:
        """claim = sum_t eq(r, t) prod_b (bit_b(t) s_b + (1 - bit_b(t)) (1 - s_b)) over the indices
        t.
        """
        party, kappa, op = self.party, self.kappa, self.program.ops[var]
        shape = op.shape[:-1]
        logs = axis_logs(shape)
        size = sum(logs)
        bits = op.inputs
        eq_index = local.weights(shape)
        last = size + len(bits) - 1
        digits = [Scalar.from_array(local.coordinates[:, last - b]) for b in range(len(bits))]
        degree = len(bits) + 1
        provers = []
        if self.witness is not None:
            tables = [padded_kron(eq_index, logs, self.one)]
            for b, s in zip(bits, digits, strict=True):
                v = gl.from_signed(pad_values(self.witness.values[b]).reshape(-1))
                scaled = gl.mul((2 * s - 1).array()[:, None], v[None])
                tables.append(ext.add(scaled, (1 - s).array()[:, None]))
            rounds = ProductRounds(degree, kappa)
            rounds.add(var, size, claim.value, lambda: np.stack(tables))
            provers = [rounds]
        point, final = sumcheck(party, claim, size, degree, provers, "onehot round")
        eq = Point(point_array(point, kappa)).weights(shape)
        product = None
        for b, s in zip(bits, digits, strict=True):
            value = self.resolve([(b, eq, self.one)])
            factor = party.tape.combine([(value, 2 * s - 1), (party.constant(1), 1 - s)])
            product = (
                factor if product is None else party.multiply("onehot factor", product, factor)
            )
        party.require_zero(
            party.tape.combine([(final, 1), (product, -inner_product(eq_index, eq))]),
            "onehot sumcheck",
        )
