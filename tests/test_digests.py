"""A digest that pins something is a whole digest, in any of its forms, or is refused."""

from __future__ import annotations

import pytest

from zkjax.digests import read_digest
from zkjax.errors import OptionError

DIGEST = bytes(range(32))


@pytest.mark.parametrize(
    "given", [DIGEST, DIGEST.hex(), DIGEST.hex().upper(), f"0x{DIGEST.hex()}"], ids=str
)
def test_a_digest_in_any_form(given):
    assert read_digest(given) == DIGEST


@pytest.mark.parametrize(
    "given",
    ["", "0x", b"", DIGEST[:31], DIGEST + b"\0", DIGEST.hex()[:-2], DIGEST.hex() + "00", "x" * 64],
    ids=str,
)
def test_what_is_no_digest_pins_nothing(given):
    with pytest.raises(OptionError, match="is no digest of 64 hexadecimal digits"):
        read_digest(given)
