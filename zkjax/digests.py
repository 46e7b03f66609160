"""Digests as names: what one party publishes and another compares."""

from __future__ import annotations

import contextlib

from zkjax.errors import OptionError

BYTES = 32


def read_digest(name: str | bytes) -> bytes:
    """A digest as it was given: bytes, or hexadecimal digits, perhaps after ``0x``.

    Raises:
      OptionError: it is none, for instance a part of one or an unset variable. Something that pins
        must never be taken for nothing.
    """
    digest = b""
    with contextlib.suppress(ValueError):
        digest = name if isinstance(name, bytes) else bytes.fromhex(name.lower().removeprefix("0x"))
    if len(digest) != BYTES:
        raise OptionError(f"{name!r} is no digest of {2 * BYTES} hexadecimal digits")
    return digest
