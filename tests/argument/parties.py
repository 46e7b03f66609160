"""Run protocol code as planner, prover and verifier, and evaluate what they recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from reference import e_add, e_mul, e_sum, elements, embed

from zkjax.argument.entropy import SeededEntropy
from zkjax.argument.party import Expression, Functional, Party, Planner, Prover, Verifier
from zkjax.argument.transcript import ProverTranscript, VerifierTranscript
from zkjax.field.scalar import Scalar

LABEL = "protocol under test"


def rank_one(weights, values, kappa: int) -> tuple[int, ...]:
    """<w_1 (x) w_2 (x) ..., values> for an integer array, by visiting every entry."""
    vectors = [elements(w) for w in weights]

    def visit(part, axis: int):
        if axis == len(vectors):
            return embed(int(part), kappa)
        terms = (
            e_mul(w, visit(part[i], axis + 1)) for i, w in enumerate(vectors[axis][: len(part)])
        )
        return e_sum(terms, kappa)

    return visit(values, 0)


@dataclass
class Run:
    """One protocol run by all three parties."""

    prover: Prover
    verifier: Verifier
    planner: Planner
    pads: dict[str, list[Scalar]]
    tensors: dict[int, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    def leaf_value(self, leaf) -> tuple[int, ...]:
        if isinstance(leaf, Functional):
            return rank_one(leaf.weights, self.tensors[leaf.tensor], self.prover.kappa)
        kind, index = leaf
        return self.pads[kind][index].coefficients

    def meaning(self, expression: Expression, party: Party | None = None) -> tuple[int, ...]:
        """known part + coefficients times the true pads and functionals."""
        party = party or self.verifier
        one = Scalar.of(1, party.kappa)
        terms = party.tape.gradient([(expression, one)]).items()
        known = party.tape.combine([(expression, one)]).known.coefficients
        return e_add(known, *(e_mul(c.coefficients, self.leaf_value(leaf)) for leaf, c in terms))

    def violated(self) -> list[str]:
        """The names of the constraints that do not hold, in the verifier's view."""
        return [name for e, name in self.verifier.tape.constraints if any(self.meaning(e))]


def make_pads(kappa: int, singles: int, triples: int, seed: int = 1) -> dict[str, list[Scalar]]:
    entropy = SeededEntropy(seed)
    pads = {
        "single": entropy.scalars(singles, kappa),
        "x": entropy.scalars(triples, kappa),
        "y": entropy.scalars(triples, kappa),
    }
    pads["xy"] = [x * y for x, y in zip(pads["x"], pads["y"], strict=True)]
    return pads


def run_protocol(
    protocol: Callable[[Party, bool], Any], kappa: int, tensors: dict | None = None
) -> Run:
    """Run ``protocol(party, is_prover)`` three times; ``results`` are by party name.

    Checks on the way what must hold for every protocol: all parties use the same pads, record
    equally many constraints, agree on known parts, and every value is known + pads.
    """
    tensors = tensors or {}
    planner = Planner(kappa)
    results = {"planner": protocol(planner, False)}
    pads = make_pads(kappa, planner.singles, planner.triples)
    prover = Prover(
        ProverTranscript(LABEL, kappa),
        pads,
        lambda tensor, weights: Scalar(rank_one(weights, tensors[tensor], kappa)),
    )
    results["prover"] = protocol(prover, True)
    reader = VerifierTranscript(LABEL, kappa, prover.transcript.proof)
    verifier = Verifier(reader)
    results["verifier"] = protocol(verifier, False)
    reader.finish()
    run = Run(prover, verifier, planner, pads, tensors, results)
    for party in (planner, verifier):
        assert (party.singles, party.triples) == (prover.singles, prover.triples)
        assert party.messages == prover.messages
        names = [name for _, name in party.tape.constraints]
        assert names == [name for _, name in prover.tape.constraints]
    for (mine, _), (theirs, _) in zip(
        prover.tape.constraints, verifier.tape.constraints, strict=True
    ):
        assert mine.known == theirs.known
        assert run.meaning(mine, prover) == run.meaning(theirs)
        if mine.value is not None:
            assert mine.value.coefficients == run.meaning(mine, prover)
    assert prover.challenge("end") == verifier.challenge("end")
    return run
