"""Verification: NumPy and hashlib, no JAX. Any bad input ends in ``VerificationError``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from zkjax._arguments import checked
from zkjax._callable import make_callable, positional
from zkjax.argument import opening
from zkjax.argument.budget import PROFILES, Budget, profile_named
from zkjax.argument.opening import Member
from zkjax.argument.party import Verifier
from zkjax.argument.transcript import VerifierTranscript
from zkjax.errors import OptionError, StatementError, VerificationError
from zkjax.program.statement import Statement
from zkjax.proof import VERSION, Claims, Commitment, Proof
from zkjax.protocol import Setup, make_groups
from zkjax.ranges import range_claims, range_statement


def verify_statement(statement: Statement, proof: Proof) -> Budget:
    """Check a proof of a statement against its claims.

    Returns:
      the soundness budget of this proof.
    Raises:
      VerificationError: naming the check that failed.
    """
    with _refused_if_malformed():
        return _verify(statement, proof)


@contextlib.contextmanager
def _refused_if_malformed():
    """Whatever fails inside is a refusal: objects made in memory may hold anything."""
    try:
        yield
    except VerificationError:
        raise
    except Exception as error:
        raise VerificationError("malformed input", f"{type(error).__name__}: {error}") from error


def _verify(statement: Statement, proof: Proof) -> Budget:
    claims = proof.claims
    if claims.profile not in PROFILES:
        raise VerificationError("profile", f"unknown profile {claims.profile!r}")
    setup = Setup(statement, claims)
    setup.require_length(proof.body)
    for ports, commitment in zip(
        statement.group_ports(statement.program.inputs).values(),
        claims.input_commitments,
        strict=True,
    ):
        if any(p.ranged for p in ports):
            verify_ranges(commitment)
    kappa = setup.profile.kappa
    transcript = VerifierTranscript(VERSION, kappa, proof.body)
    setup.absorb_header(transcript)
    members = []
    for tableau in setup.tableaux:
        if tableau.commitment is None:
            root = transcript.read("advice commitment", 32)
        else:
            root = tableau.commitment.root
        members.append(Member(tableau.name, root, tableau.layout.rows))
    masks = [
        Member("masks", transcript.read("mask commitment", 32), opening.MASK_ROWS * kappa)
        for _ in setup.codes
    ]
    pad_member = Member("pads", transcript.read("pad commitment", 32), 0)
    transcript.slow_down()
    party = Verifier(transcript)
    linear = setup.reduce(party)
    counts = party.singles, party.triples
    groups = make_groups(setup, members, masks)
    pads = setup.pads(counts, pad_member)
    setup.fill_weights(linear, groups, pads, counts)
    budget = setup.budget(party, pads)
    budget.check()
    opening.verify(transcript, setup.profile, groups, pads, linear.known)
    return budget


@lru_cache(maxsize=256)
def _ranges_hold(commitment: Commitment, range_proof: bytes) -> bool:
    """Remembers the range proofs that verified; a failing one raises each time."""
    claims = range_claims(commitment)
    verify_statement(range_statement(commitment), Proof(claims, range_proof))
    return True


def verify_ranges(commitment: Commitment) -> None:
    """Check the range proof that a commitment carries; VerificationError if it has none."""
    if commitment.range_proof is None:
        raise VerificationError("range proof", f"the commitment {commitment} has none")
    try:
        _ranges_hold(commitment, commitment.range_proof)
    except VerificationError as error:
        raise VerificationError("range proof", str(error)) from error


def require_profile(name: str, least: str) -> None:
    """VerificationError unless the profile ``name`` gives the security of ``least``."""
    if name not in PROFILES or PROFILES[name].bits < profile_named(least).bits:
        raise VerificationError("profile", f"the proof is of profile {name!r}, asked for {least!r}")


@checked
def verify(
    statement: Statement | Callable,
    *,
    sealed_outputs: Any = False,
    profile: str = "s100",
    context: bytes = b"",
) -> Callable[..., Any]:
    """The verifying counterpart of ``zkjax.prove``.

    ``verify(step)(*args, proof=proof)`` checks ``proof`` for these arguments: plain arrays where
    ``prove`` had public ones, a ``Commitment`` (or a ``Sealed`` value) where it had sealed ones.

    Args:
      statement: the function, or a ``Statement`` (then JAX is not needed).
      sealed_outputs: as given to ``prove``; only used with a function.
      profile: the least security accepted.
      context: what the prover must have bound the proof to.
    Returns:
      A function of the arguments and ``proof=`` that returns the proved outputs (public arrays and
      commitments, in the function's structure; a flat list for a statement) and raises
      ``VerificationError`` otherwise.
    """

    def check(*args, proof: Proof, **keywords):
        if isinstance(statement, Statement):
            if keywords:
                raise OptionError("the arguments of a statement have no names; give them in order")
            checked, unflatten = statement, list
            arrays, commitments = bind_arguments(statement, args)
        else:
            from zkjax.program.trace import trace_call

            args = positional(statement, args, keywords)
            traced = trace_call(statement, args, sealed_outputs)
            checked, unflatten = traced.statement, traced.unflatten_outputs
            arrays, commitments = traced.public_inputs(args)
        with _refused_if_malformed():
            claims = proof.claims
            require_profile(claims.profile, profile)
            _require_arguments(checked, claims, arrays, commitments)
            if claims.context != context:
                raise VerificationError("claims", "the proof is bound to another context")
            _verify(checked, proof)
            return unflatten(claimed_outputs(checked, claims))

    return check


def _require_arguments(
    statement: Statement, claims: Claims, arrays: dict[int, np.ndarray], commitments: list
) -> None:
    """The proof must be about the verifier's own arguments."""
    for index, value in arrays.items():
        claimed = claims.inputs.get(index)
        if claimed is None or not np.array_equal(claimed, value):
            name = statement.program.inputs[index].name
            raise VerificationError("claims", f"the public input {name} differs")
    if list(commitments) != list(claims.input_commitments):
        raise VerificationError("claims", "the proof is about other commitments")


def claimed_outputs(statement: Statement, claims: Claims) -> list[Any]:
    """One entry an output port: the public array, or the commitment it is part of."""
    return [
        claims.output_commitments[port.group] if port.sealed else claims.outputs[i]
        for i, port in enumerate(statement.program.outputs)
    ]


def bind_arguments(statement: Statement, args) -> tuple[dict[int, np.ndarray], list[Commitment]]:
    """Match flat arguments (arrays and commitments, in port order) with a statement's inputs."""
    arrays: dict[int, np.ndarray] = {}
    commitments: list[Commitment] = []
    rest = list(args)
    seen: set[int] = set()
    for index, port in enumerate(statement.program.inputs):
        if port.sealed and port.group in seen:
            continue
        if not rest:
            raise StatementError("too few arguments for this statement")
        value = rest.pop(0)
        if port.sealed:
            seen.add(port.group)
            commitments.append(getattr(value, "commitment", value))
        else:
            try:
                arrays[index] = np.asarray(value)
            except ValueError as error:
                raise StatementError(
                    f"argument {port.name or index} is no array of integers: {error}"
                ) from error
    if rest:
        raise StatementError("too many arguments for this statement")
    return arrays, commitments


make_callable(__name__)
