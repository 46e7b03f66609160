"""The flow of one proof, shared by prover and verifier: what is absorbed, committed and in which
order.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from zkjax import work
from zkjax.argument.budget import (
    Budget,
    Profile,
    choose_code,
    grinding_bits,
    profile_named,
    queries_for,
)
from zkjax.argument.closing import Committed, LinearStatement, close
from zkjax.argument.code import Code
from zkjax.argument.layout import Layout, choose_log_row, padded_log
from zkjax.argument.merkle import NONCE
from zkjax.argument.opening import MASK_ROWS, Group, Member, Pads, squeeze
from zkjax.argument.party import Party, Planner, pad_rows
from zkjax.argument.transcript import Transcript
from zkjax.errors import OverflowBoundError, VerificationError
from zkjax.program.dtypes import PUBLIC_RANGES
from zkjax.program.meetings import MOST
from zkjax.program.reduction import reduce_program
from zkjax.program.resolver import Resolver, Witness, tensor_ids
from zkjax.program.statement import Statement
from zkjax.proof import Claims, Commitment


class Plan(NamedTuple):
    """What a proof will consist of."""

    singles: int  # pads of single values
    triples: int  # pads of products
    messages: int
    challenges: frozenset[tuple[str, int]]  # kinds and degrees


@dataclass
class TableauPlan:
    """One witness tableau of a proof: whose it is, its layout, the numbers of its tensors."""

    name: str
    layout: Layout
    tensors: tuple[int, ...]
    commitment: Commitment | None = None


class Setup:
    """Everything both sides derive from a statement, claims and nothing else."""

    def __init__(self, statement: Statement, claims: Claims):
        self.statement, self.claims = statement, claims
        self.program = statement.program
        self.profile: Profile = profile_named(claims.profile)
        check_claims(statement, claims)
        try:
            statement.require_proven()
        except OverflowBoundError as error:
            raise VerificationError("bounds", str(error)) from error
        self.public = {
            v: self.program.constants[op.params[0]]
            for v, op in enumerate(self.program.ops)
            if op.kind == "constant"
        }
        for index, value in claims.inputs.items():
            self.public[self.program.inputs[index].var] = value
        self.outputs = {i: v.astype(np.float64) for i, v in claims.outputs.items()}
        self.tableaux = self._tableaux()

    def _tableaux(self) -> list[TableauPlan]:
        program, claims, ids = self.program, self.claims, tensor_ids(self.program)
        plans = []
        advice = program.advice
        shapes = [program.shape(v) for v in advice] + [(t.rows,) for t in program.tables]
        if shapes:
            elements = sum(1 << padded_log(s) for s in shapes)
            code = choose_code(choose_log_row(elements), 1, self.profile)
            tensors = (*advice, *ids["multiplicity"].values())
            plans.append(TableauPlan("advice", Layout(tuple(shapes), code), tensors))
        groups = self.statement.group_ports(program.inputs)
        for ports, commitment in zip(groups.values(), claims.input_commitments, strict=True):
            tensors = tuple(p.var for p in ports)
            plans.append(TableauPlan("input", commitment.layout, tensors, commitment))
        numbers = {id(p): i for i, p in enumerate(program.outputs)}
        groups = self.statement.group_ports(program.outputs)
        for ports, commitment in zip(groups.values(), claims.output_commitments, strict=True):
            tensors = tuple(ids["output"][numbers[id(p)]] for p in ports)
            plans.append(TableauPlan("output", commitment.layout, tensors, commitment))
        return plans

    @property
    def codes(self) -> list[Code]:
        """The distinct codes of the witness tableaux, in order of first use."""
        return list(dict.fromkeys(t.layout.code for t in self.tableaux))

    @property
    def grinding(self) -> int:
        leaves, width = self.lookup_size()
        return grinding_bits(leaves, width, self.profile) if leaves else 0

    def lookup_size(self) -> tuple[int, int]:
        """Leaves of the lookup tree before rounding up, and the widest table."""
        program = self.program
        if not program.lookups:
            return 0, 0
        leaves = sum(1 << padded_log(program.shape(r.vars[0])) for r in program.lookups)
        leaves += sum(1 << (t.rows - 1).bit_length() for t in program.tables)
        return leaves, max(t.width for t in program.tables)

    @property
    def least_bytes(self) -> int:
        """What every proof of these claims is longer than, without its messages: roots, responses
        and opened columns of the witness tableaux and their masks.
        """
        kappa = self.profile.kappa
        total = 32 * (1 + len(self.codes))
        for code in self.codes:
            opened = queries_for(code, self.profile)
            total += 8 * kappa * (2 * code.dimension + code.row - 1)
            total += opened * (8 * MASK_ROWS * kappa + NONCE)
        for tableau in self.tableaux:
            opened = queries_for(tableau.layout.code, self.profile)
            total += opened * (8 * tableau.layout.rows + NONCE)
        return total

    def require_length(self, body: bytes) -> None:
        """Refuse a proof that is too short for its claims, before anything is computed for it."""
        if len(body) < self.least_bytes:
            raise VerificationError(
                "proof length", f"{len(body):,} bytes; it needs more than {self.least_bytes:,}"
            )

    @property
    def most_work(self) -> int:
        """Elements of E that the reduction may cost the verifier (see ``zkjax.work``): so many for
        each byte of the proof, 8 for each public value or entry of a table, and for each operand as
        many steps as claims may pass it before they meet, with vectors of a length that costs
        as much as the step.
        """
        values = [*self.public.values(), *self.outputs.values()]
        values += [column for table in self.program.tables for column in table.columns]
        operands = sum(len(op.inputs) for op in self.program.ops)
        given = work.RATIO * self.least_bytes + 8 * sum(v.size for v in values)
        return work.FREE + given + 4 * MOST * work.STEP * operands

    def absorb_header(self, transcript: Transcript) -> None:
        """Version, profile, statement digest, context, public values and given commitments."""
        claims = self.claims
        transcript.absorb("profile", claims.profile.encode())
        transcript.absorb("statement", self.statement.digest)
        transcript.absorb("context", claims.context)
        for kind, arrays in (("input", claims.inputs), ("output", claims.outputs)):
            for index, value in sorted(arrays.items()):
                shape = json.dumps([index, value.dtype.name, list(value.shape)])
                transcript.absorb(f"public {kind} type", shape.encode())
                data = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
                transcript.absorb(f"public {kind}", hashlib.blake2s(data.data).digest())
        for kind, commitments in (
            ("input", claims.input_commitments),
            ("output", claims.output_commitments),
        ):
            for commitment in commitments:
                transcript.absorb(f"{kind} commitment", commitment.encode())

    def reduce(
        self,
        party: Party,
        witness: Witness | None = None,
        values: dict | None = None,
        phase=lambda name: None,
    ) -> LinearStatement:
        """Run the interactive part up to the linear statement; identical for all parties."""
        program = self.program
        # The prover has planned this run before, and was refused if it costs a verifier too much.
        with work.bounded(self.most_work if witness is None else None):
            relations = sum(len(r.vars) for r in program.lookups) + len(program.zeros)
            work.charge(work.STEP * (len(program.ops) + relations))
            resolver = Resolver(program, party, self.public, witness)
            reduce_program(resolver, self.outputs, self.grinding, phase)
            phase("closing")
            committed = [
                Committed(t.layout, t.tensors, [values[i] for i in t.tensors] if values else None)
                for t in self.tableaux
            ]
            return close(party, committed)

    def plan(self) -> Plan:
        """A dry run, remembered with the statement."""
        key = (self.profile.name, *(t.layout.code for t in self.tableaux))
        if key not in self.statement.plans:
            planner = Planner(self.profile.kappa)
            self.reduce(planner)
            drawn = {
                (kind, degree)
                for kind, degrees in planner.transcript.squeezed.items()
                for degree in degrees
                if degree is not None
            }
            counts = planner.singles, planner.triples, planner.messages
            self.statement.plans[key] = Plan(*counts, frozenset(drawn))
        return self.statement.plans[key]

    def pad_code(self, counts: tuple[int, int]) -> Code:
        # W >= the number of queries: the product mask's two summands must overlap that much.
        singles, triples = counts
        return choose_code(max(8, choose_log_row(singles + 3 * triples)), 1, self.profile)

    def pads(self, counts: tuple[int, int], member: Member) -> Pads:
        code = self.pad_code(counts)
        rows = pad_rows(counts, code.row)
        total = rows["single"][0] + rows["single"][1]
        return Pads(code, member, total, rows["x"][1])

    def fill_weights(
        self, linear: LinearStatement, groups: list[Group], pads: Pads, counts
    ) -> None:
        """Hand the linear statement to the groups and the pad tableau."""
        kappa = self.profile.kappa
        for group in groups:
            mine = [i for i, t in enumerate(self.tableaux) if t.layout.code == group.code]
            group.weights = np.concatenate([linear.row_weights[i] for i in mine], axis=1)
            group.point = linear.points[mine[0]]
        width = pads.code.row
        starts = {kind: row * width for kind, (row, _) in pad_rows(counts, width).items()}
        flat = np.zeros((pads.rows * width, kappa), dtype=np.uint64)
        for (kind, index), coefficient in linear.pads.items():
            flat[starts[kind] + index] = coefficient.coefficients
        pads.weights = flat.T.reshape(kappa, pads.rows, width)

    def budget(self, party: Party, pads: Pads) -> Budget:
        """The error of every challenge, from the sizes of this proof.

        ``party`` has run the reduction. What the opening will draw is known beforehand.
        """
        budget, program = Budget(self.profile), self.program
        opened = Transcript("budget", self.profile.kappa)
        squeeze(opened, [Group(code, [], Member("masks", b"", 0)) for code in self.codes], pads)
        squeezed = {**party.transcript.squeezed, **opened.squeezed}
        for code in (*self.codes, pads.code):
            budget.query_term(code, queries_for(code, self.profile))
        leaves, width = self.lookup_size()
        if leaves:
            budget.field_term("lookup challenge", leaves * (width + 1), self.grinding)
        given = {
            # Powers 1, 2, .. of a combiner: the degree is the number of things combined.
            "zero combiner": len(program.zeros) + len(program.outputs),
            "claim combiner": party.sent["claim"],
            # Linear in each coordinate.
            "zero point": len(squeezed.get("zero point", ())),
        }
        budget.challenges(squeezed, given)
        return budget


def check_claims(statement: Statement, claims: Claims) -> None:
    """Claims must fit the statement: digest, shapes, dtypes, ranges, commitments, profile."""

    def require(condition: bool, detail: str) -> None:
        if not condition:
            raise VerificationError("claims", detail)

    program = statement.program
    require(claims.statement == statement.digest, "they are about another statement")
    for kind, ports, arrays in (
        ("input", program.inputs, claims.inputs),
        ("output", program.outputs, claims.outputs),
    ):
        public = {i for i, p in enumerate(ports) if not p.sealed}
        require(set(arrays) == public, f"public {kind}s do not match the statement")
        for i, value in arrays.items():
            port, name = ports[i], ports[i].name
            require(value.dtype.name == port.dtype, f"{kind} {name} is not {port.dtype}")
            require(value.shape == program.shape(port.var), f"{kind} {name}: wrong shape")
            low, high = PUBLIC_RANGES[port.dtype]
            inside = not value.size or (value.min() >= low and value.max() <= high)
            require(bool(inside), f"{kind} {name}: out of range")
    for kind, ports, commitments in (
        ("input", program.inputs, claims.input_commitments),
        ("output", program.outputs, claims.output_commitments),
    ):
        groups = statement.group_ports(ports)
        require(len(groups) == len(commitments), f"number of {kind} commitments")
        for members, commitment in zip(groups.values(), commitments, strict=True):
            shapes = tuple(program.shape(p.var) for p in members)
            require(commitment.shapes == shapes, f"an {kind} commitment has other shapes")
            dtypes = tuple(p.dtype for p in members)
            require(commitment.dtypes == dtypes, f"an {kind} commitment has other dtypes")
            require(commitment.profile == claims.profile, f"an {kind} commitment's profile")
            proved = commitment.range_proof is not None or not any(p.ranged for p in members)
            require(proved, f"an {kind} commitment lacks its range proof")
            require(1 <= commitment.openings <= 1 << 16, f"an {kind} commitment's openings")


def make_groups(setup: Setup, members: list[Member], masks: list[Member]) -> list[Group]:
    """Group the tableaux by code."""
    groups = []
    for code, mask in zip(setup.codes, masks, strict=True):
        mine = [m for m, t in zip(members, setup.tableaux, strict=True) if t.layout.code == code]
        groups.append(Group(code, mine, mask))
    return groups
