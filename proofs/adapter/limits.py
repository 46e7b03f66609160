"""What one session may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a session, the same on both sides; the server adds ``sessions``.

    Attributes:
      frame_bytes: the largest frame that is read.
      session_bytes: activations and deltas that the record of one session may hold.
      idle_seconds: how long a peer may be silent, or not read.
      proof_seconds: how long a user waits for a proof.
      session_seconds: the longest session.
      sessions: sessions at a time.
    """

    frame_bytes: int = 32 << 20
    session_bytes: int = 128 << 20
    idle_seconds: float = 60.0
    proof_seconds: float = 900.0
    session_seconds: float = 3600.0
    sessions: int = 32
