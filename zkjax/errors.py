"""Every exception a user of zkjax can meet, each naming what to change."""

from __future__ import annotations


class ZkjaxError(Exception):
    """Base class of all errors raised on purpose by zkjax."""


class VerificationError(ZkjaxError):
    """A proof was rejected.

    Attributes:
      check: the name of the check that failed, for example ``"merkle"`` or ``"linear test"``.
      detail: what was seen.
    """

    def __init__(self, check: str, detail: str = ""):
        super().__init__(f"{check}: {detail}" if detail else check)
        self.check = check
        self.detail = detail


class TraceError(ZkjaxError):
    """A function cannot be turned into a statement.

    Attributes:
      message: what is the matter, and what to write instead.
      where: the user's source line.
      context: of what operands, in which function.
    """

    def __init__(self, message: str, where: str = "", context: str = ""):
        super().__init__(message)
        self.message, self.where, self.context = message, where, context

    def __str__(self) -> str:
        lines = [self.message]
        lines += [f"  at {self.where}"] if self.where else []
        lines += [f"  in {self.context}"] if self.context else []
        return "\n".join(lines)


class UnsupportedPrimitiveError(TraceError):
    """The function uses a JAX primitive that has no proving rule."""


class ScaleError(TraceError):
    """The number of fraction bits of a value cannot be inferred or is inconsistent."""


class OverflowBoundError(TraceError):
    """A value might exceed what fixed point holds exactly; it must be rounded earlier."""


class ValueRangeError(ZkjaxError):
    """A value left its declared range while the witness was computed."""


class OptionError(ZkjaxError, ValueError):
    """An option has a value that it cannot have."""


class SealError(ZkjaxError):
    """A sealed value cannot be opened: wrong shape, or no openings left."""


class WitnessError(ZkjaxError):
    """The prover's values do not satisfy the statement, or are not those of the commitments. No
    proof was given out and no opening taken.
    """


class CalibrationError(ZkjaxError):
    """A calibration is of another model or version, or no calibration."""


class StatementError(ZkjaxError):
    """A statement or claims file is malformed, or arguments do not fit the statement."""


class SessionError(ZkjaxError):
    """A session between two parties ended early.

    Attributes:
      check: what was violated, for example ``"sequence"``, ``"token"``, ``"idle"``, ``"limit"``,
        ``"leakage"`` or ``"refused"`` (the peer ended the session).
      detail: what was seen, or what to change.
      party: the peer it concerns, if several are connected.
    """

    def __init__(self, check: str, detail: str = "", party: str = ""):
        text = f"{check}: {detail}" if detail else check
        super().__init__(f"{party}: {text}" if party else text)
        self.check, self.detail, self.party = check, detail, party


class CheckpointError(ZkjaxError):
    """A directory of weights is not what this version reads; names the file and the key."""
