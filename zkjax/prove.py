"""``zkjax.prove``: a transformation that runs a function and proves the run."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from zkjax._arguments import checked
from zkjax._callable import make_callable, positional
from zkjax._compat import enable_kernel_cache
from zkjax.argument import kernels, opening_prover
from zkjax.argument.budget import profile_named
from zkjax.argument.entropy import Entropy
from zkjax.argument.opening import MASK_ROWS, Member
from zkjax.argument.party import Prover, pad_array, pad_rows
from zkjax.argument.tableau import Tableau, blind
from zkjax.argument.transcript import ProverTranscript
from zkjax.errors import OptionError, SealError, TraceError
from zkjax.kernel_plan import needed
from zkjax.openings import require, take
from zkjax.program.functionals import functional_value
from zkjax.program.program import Port
from zkjax.program.resolver import Witness, tensor_ids
from zkjax.program.trace import Traced, trace_call
from zkjax.progress import Course, Progress
from zkjax.proof import MAX_OPENINGS, VERSION, Claims, Proof
from zkjax.protocol import Setup, make_groups
from zkjax.ranges import range_claims, range_statement
from zkjax.sealed import DEFAULT_OPENINGS, Sealed, immutable, seal_arrays

# Seconds of each stage of a proof, for a guess of the time left; refined when its sizes are known.
STAGES = {
    "trace": 0.6,
    "witness": 1.0,
    "seal": 0.1,
    "plan": 0.2,
    "kernels": 5.0,
    "commit": 0.4,
    "pads": 0.3,
    "lookups": 1.5,
    "sumchecks": 1.5,
    "closing": 1.0,
    "opening": 0.2,
}


@checked
def prove(
    fn: Callable,
    *,
    sealed_outputs: Any = False,
    profile: str = "s100",
    openings: int = DEFAULT_OPENINGS,
    context: bytes = b"",
    progress: Progress | None = None,
    _entropy: Entropy | None = None,
) -> Callable[..., tuple[Any, Proof]]:
    """Transform ``fn`` into a function that also returns a zero-knowledge proof of its run.

    Like ``jax.value_and_grad``: ``outputs, proof = prove(fn)(*args)``. Arguments are pytrees of
    integer arrays (public) or ``Sealed`` values (private). ``fn`` is a pure JAX function written
    with ``zkjax.fixed``.

    Args:
      sealed_outputs: a pytree prefix of the outputs, True where they come back ``Sealed``. Every
        True is one commitment, which a later proof can take as an argument.
      profile: ``"s100"`` (default) or ``"s128"`` bits of soundness; sealed arguments must match.
      openings: proofs that each sealed output may enter later.
      context: bytes that the proof is bound to, and that the verifier must name.
      progress: called with each ``zkjax.progress.Stage``: a string, with how far the proof is.
    Returns:
      A function of ``fn``'s arguments; see ``zkjax.verify`` for the other side.
    Raises (when called):
      TraceError: ``fn`` cannot be proved as written; the message names the source line.
      ValueRangeError: a value left its declared range.
      SealError: a sealed argument has no openings left.
      WitnessError: the proof would not be accepted.

    An opening of each sealed argument is taken when the proof is complete and checked, right before
    it is returned. Whatever is raised before that costs none.

    >>> import numpy as np
    >>> import zkjax
    >>> from zkjax import fixed
    >>> def square(x):
    ...     v = fixed.decode(x, fraction=4)
    ...     return fixed.encode(v * v, fraction=8)
    >>> x = zkjax.seal(np.array([16, -8], np.int16))
    >>> outputs, proof = zkjax.prove(square)(x)
    >>> print(outputs, zkjax.verify(square)(x.commitment, proof=proof))
    [256  64] [256  64]
    """

    def run(*args, **keywords) -> tuple[Any, Proof]:
        args = positional(fn, args, keywords)
        course = Course(STAGES, progress)
        enable_kernel_cache()
        _require_options(args, profile, openings)
        course.start("trace")
        traced = trace_call(fn, args, sealed_outputs)
        return prove_traced(traced, args, profile, openings, course, _entropy or Entropy(), context)

    return run


def prove_traced(
    traced: Traced,
    args,
    profile: str,
    openings: int,
    course: Course,
    entropy: Entropy,
    context: bytes = b"",
) -> tuple[Any, Proof]:
    """Prove one call of a traced function."""
    program = traced.statement.program
    sealed = [a for a in args if isinstance(a, Sealed)]
    leaves = jax.tree_util.tree_leaves([a.tree if isinstance(a, Sealed) else a for a in args])
    inputs = [immutable(x) for x in leaves]
    course.start("witness")
    expected, carries = traced.run(inputs)
    values = program.evaluate(inputs, carries)
    witness = Witness(values, program.multiplicities(values))
    outputs = [np.asarray(values[p.var]).astype(np.int64).astype(p.dtype) for p in program.outputs]
    compare_with_jax(program.outputs, outputs, expected)
    course.start("seal")
    sealed_out = _seal_outputs(traced, outputs, openings, profile, entropy)
    claims = Claims(
        traced.statement.digest,
        profile,
        {i: x for i, x in enumerate(inputs) if not program.inputs[i].sealed},
        {i: immutable(x) for i, x in enumerate(outputs) if not program.outputs[i].sealed},
        [s.commitment for s in sealed],
        [s.commitment for s in sealed_out],
        context,
    )
    setup = Setup(traced.statement, claims)
    body, report = _prove(setup, witness, outputs, sealed, sealed_out, course, entropy)
    result = []
    for i, port in enumerate(program.outputs):
        result.append(sealed_out[port.group] if port.sealed else outputs[i])
    result, proof = _with_sealed(traced, result), Proof(claims, body, report)
    take([s.counter for s in (*sealed, *sealed_out)])
    return result, proof


def _require_options(args, profile: str, openings: int) -> None:
    """Refuse, before any work, what no proof can come of."""
    profile_named(profile)
    if type(openings) is not int or not 1 <= openings < MAX_OPENINGS:
        raise OptionError(f"openings is a number from 1 to {MAX_OPENINGS - 1:,}, not {openings}")
    sealed = [a for a in args if isinstance(a, Sealed)]
    for s in sealed:
        if s.commitment.profile != profile:
            raise SealError(
                f"a sealed argument has profile {s.commitment.profile!r}, the proof {profile!r}"
            )
    require([s.counter for s in sealed])


def prove_ranges(
    sealed: Sealed, *, progress: Progress | None = None, _entropy: Entropy | None = None
) -> dict:
    """Attach a range proof to a sealed value; takes one opening. Returns the proof's report.

    Later proofs about it no longer look up each of its elements. See ``zkjax.ranges``.
    """
    course = Course(STAGES, progress)
    require([sealed.counter])
    course.start("witness")
    commitment = sealed.commitment
    statement = range_statement(commitment)
    values = statement.program.evaluate(sealed.leaves)
    witness = Witness(values, statement.program.multiplicities(values))
    setup = Setup(statement, range_claims(commitment))
    body, report = _prove(setup, witness, [], [sealed], [], course, _entropy or Entropy())
    take([sealed.counter])
    sealed.commitment = replace(commitment, range_proof=body)
    return report


def compare_with_jax(ports: list[Port], outputs, expected) -> None:
    """A self-check of the proving rules: the program must compute what the function computes."""
    for port, ours, theirs in zip(ports, outputs, expected, strict=True):
        if not np.array_equal(ours, theirs):
            raise TraceError(
                f"output {port.name or '0'} of the traced program differs from what JAX computes. "
                "Where a value on the way passes 2^52 of its last fraction bits, float64 rounds: "
                "round its operands first. Otherwise please report this function as a bug"
            )


def _with_sealed(traced: Traced, leaves: list[Any]) -> Any:
    """The output pytree, every subtree that ``sealed_outputs`` marks replaced by its ``Sealed``."""
    full = traced.out_tree.unflatten(range(len(leaves)))

    def pick(sealed: bool, tree: Any) -> Any:
        inside: list[int] = jax.tree_util.tree_leaves(tree)
        structure: Any = jax.tree_util.tree_structure(tree)
        if sealed and inside:
            return leaves[inside[0]].with_structure(structure)
        return structure.unflatten([leaves[i] for i in inside])

    return jax.tree_util.tree_map(pick, traced.sealed_prefix, full)


def expected_seconds(setup: Setup) -> dict[str, float]:
    """What the stages after the plan take on two cores, roughly, from the sizes of the proof."""
    elements = sum(t.layout.elements for t in setup.tableaux)
    rounds = setup.plan().messages
    return {
        "commit": 2e-7 * elements,
        "lookups": 2.5e-7 * setup.lookup_size()[0],
        "sumchecks": 8e-4 * rounds + 2e-7 * elements,
        "closing": 2e-4 * rounds + 2e-7 * elements,
    }


def _seal_outputs(traced: Traced, outputs, openings, profile, entropy) -> list[Sealed]:
    groups = traced.statement.group_ports(traced.statement.program.outputs)
    sealed = []
    for group in groups:
        arrays = [
            x
            for x, p in zip(outputs, traced.statement.program.outputs, strict=True)
            if p.group == group
        ]
        treedef = jax.tree_util.tree_structure(list(arrays))
        # The proof that makes the value opens it too; ``openings`` are those that remain.
        sealed.append(seal_arrays(arrays, treedef, openings + 1, profile, entropy))
    return sealed


def _prove(
    setup: Setup, witness: Witness, outputs, sealed, sealed_out, course: Course, entropy: Entropy
) -> tuple[bytes, dict]:
    profile, program = setup.profile, setup.program
    kappa = profile.kappa
    ids = tensor_ids(program)
    tensors = dict(enumerate(witness.values))
    tensors |= {i: witness.multiplicities[t] for t, i in ids["multiplicity"].items()}
    tensors |= {i: outputs[o].astype(np.float64) for o, i in ids["output"].items()}
    course.start("plan")
    singles, triples = counts = setup.plan()[:2]
    uses = needed(setup)
    course.expect(expected_seconds(setup) | {"kernels": 0.2 * kernels.missing(uses)})
    course.start("kernels")
    kernels.compile_ahead(uses, lambda name, done, of: course.part(done, of, name))
    course.start("commit")
    transcript = ProverTranscript(VERSION, kappa)
    setup.absorb_header(transcript)
    given = iter([*sealed, *sealed_out])
    members = []
    for tableau in setup.tableaux:
        layout = tableau.layout
        if tableau.commitment is None:
            rows = blind(layout.matrix([tensors[i] for i in tableau.tensors]), layout.code, entropy)
            committed = Tableau.fresh(rows, layout.code.log_length, entropy)
            transcript.write("advice commitment", committed.root)
        else:
            committed = next(given).tableau
        members.append(Member(tableau.name, committed.root, layout.rows, committed))
    course.start("pads")
    pads = {
        "single": entropy.scalars(singles, kappa),
        "x": entropy.scalars(triples, kappa),
        "y": entropy.scalars(triples, kappa),
    }
    pads["xy"] = [x * y for x, y in zip(pads["x"], pads["y"], strict=True)]
    mus = opening_prover.split_mu(len(setup.codes) + 1, kappa, entropy)
    masks = []
    for code, mu in zip(setup.codes, mus, strict=False):
        rows = opening_prover.group_masks(code, mu, entropy)
        mask = Tableau.fresh(rows, code.log_length, entropy)
        transcript.write("mask commitment", mask.root)
        masks.append(Member("masks", mask.root, MASK_ROWS * kappa, mask))
    pad_code = setup.pad_code(counts)
    pad_values = np.concatenate(
        [
            pad_array(pads[kind], rows, pad_code.row, kappa)
            for kind, (_, rows) in pad_rows(counts, pad_code.row).items()
        ],
        axis=1,
    )
    rows = opening_prover.pad_tableau_rows(pad_values, pad_code, mus[-1], entropy)
    pad_tableau = Tableau.fresh(rows, pad_code.log_length, entropy)
    transcript.write("pad commitment", pad_tableau.root)
    course.start("lookups")
    transcript.slow_down()
    party = Prover(
        transcript,
        pads,
        lambda tensor, w: functional_value(tensors[tensor], w, kappa),
        course.part,
    )
    linear = setup.reduce(party, witness, tensors, course.start)
    course.start("opening")
    groups = make_groups(setup, members, masks)
    pad_plan = setup.pads(counts, Member("pads", pad_tableau.root, 0, pad_tableau))
    setup.fill_weights(linear, groups, pad_plan, counts)
    budget = setup.budget(party, pad_plan)
    budget.check()
    opening_prover.prove(transcript, profile, groups, pad_plan, linear.known)
    course.stop()
    leaves, _ = setup.lookup_size()
    report = {
        "phases": course.seconds,
        "prove_seconds": sum(course.seconds.values()),
        "proof_bytes": len(transcript.proof) + 16,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "lookups": leaves,
        "committed_elements": sum(t.layout.elements for t in setup.tableaux),
        "messages": party.messages,
        "kernels": kernels.count(),
        "soundness_bits": budget.bits,
        "inventory": transcript.inventory,
        "operations": len(program.ops),
    }
    return transcript.proof, report


make_callable(__name__)
