"""Users with a token each: what they may ask for, and how much of it they have had.

What the owner grants lies in one file, which a running server reads again when it has changed. What
users have had is counted in the ledger of the adapter, with the same write as the answers.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from zkjax import state, wire
from zkjax._arguments import checked, typed
from zkjax._marks import Between, NewPath, Secret
from zkjax.errors import OptionError, SessionError, StatementError
from zkjax.models.config import Checked
from zkjax.proofs.adapter.leakage import Asking, Leakage
from zkjax.proofs.adapter.ledger import Beyond

__all__ = ["Grant", "Users", "grant", "revoke"]

USERS = "users.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
REFUSALS = 4  # queries beyond what may be learned, after which a token is closed
MAX_COUNT = 1 << 40


Count = Annotated[int, Between(0, MAX_COUNT)]


@dataclass(frozen=True)
class Grant(Checked):
    """What one user may have. None: no limit of its own.

    Attributes:
      token: digest (hex) of its token; empty if it was revoked.
      sessions: at a time.
      proofs: that may be begun, in all.
      tokens: of text, through all sites of the adapter, in all.
      refusals: queries beyond what may be learned, in all; each tells the user a little about what
        others have asked.
    """

    token: str
    sessions: Count | None = None
    proofs: Count | None = None
    tokens: Count | None = None
    refusals: Count | None = None


class Account:
    """One user of a session."""

    def __init__(self, users: Users, name: str, leakage: Leakage):
        self.name, self._users = name, users
        self._ledger, self._sites = leakage.ledger, len(leakage.sites)
        self._token = users.grant(name).token

    @property
    def grant(self) -> Grant:
        """What this user may have now; SessionError("token") if its token was revoked meanwhile."""
        grant = self._users.grant(self.name)
        if grant.token != self._token:
            raise SessionError("token", "it was revoked")
        return grant

    @contextlib.contextmanager
    def asking(self, rows: int) -> Iterator[Asking]:
        """Count a query of so many activations, with the entry of its site; SessionError("quota")
        if it is beyond what was granted. A query that is refused because it would tell too much is
        counted as well: its refusal tells something.
        """
        grant, counted, refused = self.grant, self._key("rows"), self._key("refusals")
        if grant.refusals is not None and self._ledger[refused] >= grant.refusals:
            raise SessionError("quota", "too many queries beyond what users may learn")
        most = {} if grant.tokens is None else {counted: grant.tokens * self._sites}
        try:
            yield Asking({counted: rows}, most)
        except Beyond:
            raise SessionError("quota", f"{grant.tokens} tokens were granted") from None
        except SessionError as error:
            if error.check == "leakage":
                self._ledger.count({counted: rows, refused: 1})
            raise

    def count_proof(self) -> None:
        """Count one that is begun, whether or not its user waits for its end; SessionError("quota")
        if it is beyond what was granted.
        """
        proofs, counted = self.grant.proofs, self._key("proofs")
        try:
            self._ledger.count({counted: 1}, {} if proofs is None else {counted: proofs})
        except Beyond:
            raise SessionError("quota", f"{proofs} proofs were granted") from None

    def had(self) -> dict[str, int]:
        """Tokens of text, proofs and refusals so far."""
        rows = self._ledger[self._key("rows")]
        return {
            "tokens": -(-rows // self._sites),
            "proofs": self._ledger[self._key("proofs")],
            "refusals": self._ledger[self._key("refusals")],
        }

    def _key(self, what: str) -> str:
        return _key(self.name, what)


class Users:
    """The users of a file that ``grant`` writes, or all who know one token.

    Args:
      path: the file.
      shared: a token of everybody, in place of the file; it is counted and has no limits.

    Attributes:
      shared: whether one token is that of everybody.
    """

    @typed
    def __init__(self, path: NewPath | None = None, shared: Annotated[str | None, Secret()] = None):
        self._path = None if path is None else Path(path)
        self._mark, self.shared = None, shared is not None
        self._grants = {} if shared is None else {"everybody": Grant(_digest(shared))}
        _ = self.grants()

    def grants(self) -> dict[str, Grant]:
        """All grants as they are now; StatementError if the file is damaged."""
        if self._path is not None:
            mark = _mark(self._path)
            if mark != self._mark:
                self._grants, self._mark = _decoded(state.read(self._path)), mark
        return self._grants

    @typed
    def grant(self, name: str) -> Grant:
        """That of one user; one who is not there has no token."""
        return self.grants().get(name, Grant(""))

    @typed
    def named(self, token: str) -> str | None:
        """Who has this token. Takes as long for a wrong one."""
        given, found = _digest(token), None
        for name, grant in self.grants().items():
            if hmac.compare_digest(given, grant.token):
                found = name
        return found


@typed
def grant(path: NewPath, name: str, limits: Grant, leakage: Leakage) -> str:
    """Give a user a token, and these limits in all; one that it had is no longer valid.

    Args:
      limits: its ``token`` and ``refusals`` are replaced.
      leakage: the counts, with those of this user so far.
    """
    if not NAME.fullmatch(name):
        raise OptionError(f"{name!r} is no name: letters, digits, '.', '_' and '-', at most 64")
    token = secrets.token_urlsafe(32)
    refused = leakage.ledger[_key(name, "refusals")]
    entry = replace(limits, token=_digest(token), refusals=refused + REFUSALS)
    state.change({Path(path): lambda saved: _encoded(_decoded(saved) | {name: entry})})
    return token


@checked
def revoke(path: NewPath, name: str) -> None:
    """Make a user's token invalid; its running sessions end with their next frame."""

    def following(saved: bytes | None) -> bytes:
        grants = _decoded(saved)
        if name not in grants:
            raise OptionError(f"{name!r} is no user; users are {', '.join(grants) or 'none'}")
        return _encoded(grants | {name: replace(grants[name], token="")})

    state.change({Path(path): following})


def _key(name: str, what: str) -> str:
    return f"user {name} {what}"


def _digest(token: str) -> str:
    data = token.encode("utf-8", "surrogateescape")
    return hashlib.blake2s(data, person=b"zkj.tokn").hexdigest()


def _mark(path: Path) -> Any:
    """Changes with the file, which is replaced whole."""
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_ino, told.st_mtime_ns, told.st_size


_COUNT = wire.integer(0, MAX_COUNT)
_GRANT = wire.record(
    {"token": wire.text(64)}, {f.name: _COUNT for f in fields(Grant) if f.name != "token"}
)


def _decoded(saved: bytes | None) -> dict[str, Grant]:
    if saved is None:
        return {}
    told = wire.parse(saved, USERS, state.MAX_BYTES)
    if type(told) is not dict or not all(NAME.fullmatch(name) for name in told):
        raise StatementError(f"{USERS}: not an object of users")
    return {name: Grant(**_GRANT(value, f"{USERS}, {name}")) for name, value in told.items()}


def _encoded(grants: dict[str, Grant]) -> bytes:
    told = {
        name: {f.name: v for f in fields(Grant) if (v := getattr(grant, f.name)) is not None}
        for name, grant in grants.items()
    }
    return json.dumps(told, indent=1, sort_keys=True).encode()
