"""A proof is bound to its context; a commitment has a name that no other has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import zkjax
from zkjax import fixed
from zkjax.errors import VerificationError

X = np.arange(4, dtype=np.int16)


def double(x):
    return fixed.encode(fixed.decode(x, 4) * 2.0, 4)


@pytest.fixture(scope="module")
def proved():
    sealed = zkjax.seal(X)
    return sealed.commitment, zkjax.prove(double, context=b"offer 7")(sealed)[1]


def test_the_context_that_was_proved(proved):
    commitment, proof = proved
    zkjax.verify(double, context=b"offer 7")(commitment, proof=proof)
    told = zkjax.Claims.from_json(proof.claims.to_json())
    assert told.context == b"offer 7"


@pytest.mark.parametrize("context", [b"", b"offer 8", b"offer 7\0"])
def test_another_context(proved, context):
    """The verifier names another one; or the claims are changed to name it too."""
    commitment, proof = proved
    with pytest.raises(VerificationError, match="another context"):
        zkjax.verify(double, context=context)(commitment, proof=proof)
    changed = zkjax.Proof(replace(proof.claims, context=context), proof.body)
    with pytest.raises(VerificationError) as caught:
        zkjax.verify(double, context=context)(commitment, proof=changed)
    assert caught.value.check == "merkle path"


def test_the_name_of_a_commitment():
    """Its digest covers everything that decides how the committed rows are read."""
    c = zkjax.seal(X.reshape(2, 2)).commitment
    others = [
        replace(c, root=bytes(32)),
        replace(c, shapes=((4, 1),)),
        replace(c, dtypes=("uint16",)),
        replace(c, openings=c.openings + 1),
        replace(c, profile="s128"),
    ]
    assert len({c.digest, *(other.digest for other in others)}) == len(others) + 1
    assert replace(c, range_proof=b"proof").digest == c.digest
    assert str(c) == c.digest.hex()
