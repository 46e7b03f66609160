"""Channels carry whole frames between a user and a contributor."""

from __future__ import annotations

from typing import Protocol

from zkjax.errors import SessionError
from zkjax.proofs.adapter.contributor_session import ContributorSession


class Channel(Protocol):
    """The user's end. Every failure is a ``SessionError`` that names what happened."""

    def send(self, data: bytes) -> None:
        """Send one frame."""
        ...

    def receive(self, seconds: float) -> bytes:
        """The next frame; SessionError("idle") if none comes in time."""
        ...

    def close(self) -> None:
        """End the connection; never raises."""
        ...


class MemoryChannel:
    """A contributor in the same process: each frame is answered when it is sent."""

    def __init__(self, session: ContributorSession):
        self.session = session
        self._replies: list[bytes] = []

    def send(self, data: bytes) -> None:
        if self.session.closed:
            raise SessionError("disconnected", "the contributor has ended the session")
        reply = self.session.receive(data)
        if reply is not None:
            self._replies.append(reply)

    def receive(self, seconds: float) -> bytes:
        if not self._replies:
            raise SessionError("idle", "no answer")
        return self._replies.pop(0)

    def close(self) -> None:
        self.session.close()
