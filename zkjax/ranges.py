"""Range proofs that stay with a commitment.

A proof has to know that its sealed inputs fit their integer types. Checking that inside every proof
costs a lookup an element. For values that enter many proofs (a base model, an adapter) it is done
once: the statement "the committed values fit their dtypes" is proved when they are sealed, and the
proof travels with the commitment. Statements about such a commitment leave the check out and mark
the input as ``ranged``; their verifier checks the range proof too.
"""

from __future__ import annotations

from functools import lru_cache

from zkjax.errors import StatementError
from zkjax.program.builder import Builder
from zkjax.program.dtypes import DTYPE_RANGES
from zkjax.program.normal_form import normal_form
from zkjax.program.program import Port
from zkjax.program.statement import Statement
from zkjax.proof import Claims, Commitment


def range_statement(commitment: Commitment) -> Statement:
    """ "Every committed value fits its dtype", for a commitment's shapes and dtypes."""
    return _range_statement(commitment.shapes, commitment.dtypes)


@lru_cache(maxsize=64)
def _range_statement(shapes, dtypes) -> Statement:
    builder, ports = Builder(), []
    for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True)):
        if dtype not in DTYPE_RANGES:
            raise StatementError(f"a commitment holds {dtype}")
        var = builder.input(i, shape, dtype, str(i))
        builder.input_range_check(var, dtype, str(i))
        ports.append(Port(var, dtype, 0, str(i)))
    return Statement(normal_form(builder, ports, [])[0])


def range_claims(commitment: Commitment) -> Claims:
    """What a range proof is about: one commitment, no public values."""
    digest = range_statement(commitment).digest
    return Claims(digest, commitment.profile, {}, {}, [commitment], [])
