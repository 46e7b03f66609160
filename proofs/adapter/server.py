"""The contributor's server: many sessions over WebSockets, TLS 1.3 and pre-shared tokens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import signal
import ssl
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, NamedTuple

import websockets
from websockets.asyncio import server as ws_server

from zkjax._arguments import typed
from zkjax._marks import Between, NewPath, Secret
from zkjax.errors import SessionError, ZkjaxError
from zkjax.proofs.adapter.accounts import Account, Users
from zkjax.proofs.adapter.contributor import Contributor
from zkjax.proofs.adapter.contributor_session import ContributorSession
from zkjax.proofs.adapter.service import Line, Log
from zkjax.proofs.adapter.transport import (
    CLOSE_SECONDS,
    OPEN_SECONDS,
    TRANSPORT,
    bounded,
    listen,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of an adapter
QUERY_THREADS = 16  # most of them wait for the same write of counts
LARGE = 1 << 16  # bytes of a query that waits for other large ones
FAULT_SECONDS, MOST_FAULTS = 0.25, 7  # a user waits 0.25 s 2^n after n faults in a row
FAULTS = ("commitments", "frame", "limit", "manifest", "query", "record", "sequence")
CLOSED = (
    websockets.CloseCode.PROTOCOL_ERROR,
    websockets.CloseCode.INVALID_DATA,
    websockets.CloseCode.MESSAGE_TOO_BIG,
)  # by this side, for what the peer sent
PONG_SECONDS = 2.0  # in which a user whose turn it is has to show that it is there
SWITCH_SECONDS = 0.001  # between threads: the loop shall not wait for those that compute
QUIET = logging.getLogger("zkjax.adapter")  # what strangers make go wrong is no news
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False


class Served(NamedTuple):
    """An adapter by the name in its address, and who may ask about it."""

    name: str
    contributor: Contributor
    users: Users

    @property
    def told(self) -> str:
        return f" about {self.name}" if self.name else ""


def asked_about(connection: ws_server.ServerConnection) -> Served:
    """The adapter of an admitted connection."""
    return connection.served  # type: ignore[attr-defined]


class Server:
    """Sessions with users about several adapters, one proof at a time. Used by ``serving``.

    Args:
      keep: a folder for the records of proved sessions.
      report: takes a line for the owner.
    """

    def __init__(
        self, adapters: Sequence[Served], keep: Path | None, report: Callable[[str], None]
    ):
        self.keep, self.report = keep, report
        self._adapters = {served.name: served for served in adapters}
        self._most = max(served.contributor.limits.sessions for served in adapters)
        self.line = Line()
        self._open = Counter[tuple[str, str]]()  # sessions of each user of an adapter
        self._faults = Counter[tuple[str, str]]()  # of each, in a row: refusals, proofs left
        self._strangers, self._quiet_until = 0, 0.0
        self._queries = ThreadPoolExecutor(QUERY_THREADS, "query")
        self._large = ThreadPoolExecutor(1, "large")
        self._proofs = ThreadPoolExecutor(1, "proof")
        self._ending: set[asyncio.Task] = set()  # proofs that nobody waits for any more

    def close(self) -> None:
        for pool in (self._queries, self._large, self._proofs):
            pool.shutdown(wait=False, cancel_futures=True)

    def admit(self, connection: ws_server.ServerConnection, request) -> object:
        """The answer to a stranger; None for a user with a free place."""
        served = self._addressed(request.path)
        if served is None:
            self._count_stranger("unknown adapter")
            return connection.respond(HTTPStatus.NOT_FOUND, "unknown adapter\n")
        scheme, _, token = "".join(request.headers.get_all("Authorization")).partition(" ")
        try:
            name = served.users.named(token) if scheme == "Bearer" else None
            cause = "unknown token"
        except (OSError, ZkjaxError) as error:
            name, cause = None, str(error)
        if name is None:
            self._count_stranger(cause)
            return connection.respond(HTTPStatus.UNAUTHORIZED, "unknown token\n")
        if full := self._full(served, name):
            self.report(f"refused a connection of {name}{served.told}: {full}")
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "busy\n")
        connection.username = name
        connection.served = served  # type: ignore[attr-defined]
        return None

    def _addressed(self, path: str) -> Served | None:
        """The adapter of a path; an only one needs no name."""
        name = path.partition("?")[0].strip("/")
        if not name and len(self._adapters) == 1:
            return next(iter(self._adapters.values()))
        return self._adapters.get(name)

    def _count_stranger(self, cause: str) -> None:
        """Report strangers once a second at most: many of them shall not fill the disk."""
        self._strangers += 1
        if (now := time.monotonic()) >= self._quiet_until:
            many = "a connection" if self._strangers == 1 else f"{self._strangers} connections"
            self.report(f"refused {many}: {cause}")
            self._strangers, self._quiet_until = 0, now + 1.0

    def _full(self, served: Served, name: str) -> str:
        """Why this user can have no other session now."""
        if self._open.total() >= self._most:
            return "too many sessions"
        own, had = served.users.grant(name).sessions, self._open[served.name, name]
        return "" if own is None or had < own else "too many sessions of this user"

    @contextlib.contextmanager
    def _place(self, served: Served, name: str) -> Iterator[bool]:
        """A place for a session while the context is open, if there is one."""
        if self._full(served, name):
            yield False
            return
        self._open[served.name, name] += 1
        try:
            yield True
        finally:
            self._open[served.name, name] -= 1

    async def handle(self, connection: ws_server.ServerConnection) -> None:
        """One connection, from the first frame to the last."""
        name, served = str(connection.username), asked_about(connection)
        with self._place(served, name) as free:
            if not free:
                await connection.close(websockets.CloseCode.TRY_AGAIN_LATER, "busy")
                return
            number = secrets.token_hex(8)
            self.report(f"session {number}: opened by {name}{served.told}")
            ended = await self._session(connection, served, name, number)
        self.report(f"session {number}: {ended}")

    async def _session(
        self, connection: ws_server.ServerConnection, served: Served, name: str, number: str
    ) -> str:
        """One session, and what is kept of it; how it ended."""
        try:
            account = Account(served.users, name, served.contributor.leakage)
            session = served.contributor.session(account)
        except Exception as error:
            return _failed(error)
        try:
            if penalty := self._penalty(served, name):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(connection.wait_closed(), penalty)
            ended = await self._served(connection, session)
        except websockets.ConnectionClosed as error:
            ended = "ended (disconnected)"
            if error.sent is not None and error.sent.code in CLOSED and not error.rcvd_then_sent:
                cause = websockets.CloseCode(error.sent.code).name.lower()
                ended = f"ended ({cause.replace('_', ' ')})"
                self._fault(served, name)
        except SessionError as error:
            ended = f"ended ({error})"
        except Exception as error:  # nothing that happens in one session is about another
            ended = _failed(error)
        finally:
            session.close()
            if session.error is not None and session.error.check in FAULTS:
                self._fault(served, name)
        try:
            known = await self._run(self._queries, self._concluded, served, session, number)
            return f"{ended}; at most {100 * known:.0f} % of a site's adapter may be known"
        except Exception as error:
            return f"{ended}; nothing could be written ({error})"
        finally:
            session.forget()

    async def _served(
        self, connection: ws_server.ServerConnection, session: ContributorSession
    ) -> str:
        """Answer frames until the session ends; how it ended."""
        limits = session.contributor.limits
        try:
            async with asyncio.timeout(limits.session_seconds) as whole:
                while not session.closed:
                    # A user that has asked everything may be proving something itself now.
                    patience = limits.proof_seconds if session.complete else limits.idle_seconds
                    data = await asyncio.wait_for(connection.recv(), patience)
                    if not isinstance(data, bytes):
                        raise SessionError("frame", "not binary")
                    pool = self._large if len(data) > LARGE else self._queries
                    reply = await self._run(pool, session.receive, data)
                    if session.wants_proof:
                        reply = await self._proof(connection, session)
                    if reply is not None:
                        await asyncio.wait_for(connection.send(reply), limits.idle_seconds)
        except TimeoutError:
            error = (
                SessionError("limit", "the session has lasted too long")
                if whole.expired()
                else SessionError("idle", "the user was silent for too long")
            )
            with contextlib.suppress(TimeoutError, websockets.ConnectionClosed):
                farewell = connection.send(session.refuse(error))
                await asyncio.wait_for(farewell, CLOSE_SECONDS)
            return f"ended ({error})"
        return "proof accepted" if session.accepted else f"ended ({session.error})"

    async def _proof(
        self, connection: ws_server.ServerConnection, session: ContributorSession
    ) -> bytes | None:
        """The proof, when its turn has come; nothing for a user that leaves or speaks meanwhile."""
        proof = asyncio.create_task(self._proof_in_turn(connection, session))
        word = asyncio.create_task(connection.recv())
        served, name, waited = asked_about(connection), str(connection.username), False
        try:
            await asyncio.wait({proof, word}, return_when=asyncio.FIRST_COMPLETED)
            if proof.done():
                reply, waited = proof.result(), True
                return reply
            data = word.result()  # or ConnectionClosed
            return session.interrupt(data if isinstance(data, bytes) else b"")
        finally:
            error = session.error
            if waited and error is None:
                self._faults.pop((served.name, name), None)
            elif not waited and (error is None or error.check not in FAULTS):
                self._fault(served, name)  # a refusal by the user is a way to leave, too
            if not proof.done():
                session.close()
            for task in (proof, word):
                task.cancel()
                self._ending.add(task)
                task.add_done_callback(self._forget)

    def _fault(self, served: Served, name: str) -> None:
        """This user was refused something, or did not wait for its proof."""
        self._faults[served.name, name] += 1

    def _penalty(self, served: Served, name: str) -> float:
        """Seconds that a session or a proof of this user waits: others come first."""
        faults = min(self._faults[served.name, name], MOST_FAULTS)
        return FAULT_SECONDS * 2**faults if faults and not served.users.shared else 0.0

    def _forget(self, task: asyncio.Task) -> None:
        self._ending.discard(task)
        if not task.cancelled():
            _ = task.exception()  # of no interest any more

    async def _proof_in_turn(
        self, connection: ws_server.ServerConnection, session: ContributorSession
    ) -> bytes | None:
        limits = session.contributor.limits
        await asyncio.sleep(self._penalty(asked_about(connection), str(connection.username)))

        async def told(ahead: int) -> None:
            await asyncio.wait_for(connection.send(session.waiting(ahead)), limits.idle_seconds)

        async with self.line.turn(told):
            # Only for one who is there: an opening is taken for it, and others wait.
            await asyncio.wait_for(await connection.ping(), PONG_SECONDS)
            work = self._run(self._proofs, session.prove)
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                session.close()
                await asyncio.wait({work})  # it ends with its phase; then it's the next one's turn
                raise

    def _concluded(self, served: Served, session: ContributorSession, number: str) -> float:
        """Keep a proved session; the largest share that may be known of a site."""
        if self.keep is not None and session.record.proof is not None:
            session.record.save(self.keep / served.name / number)
        return served.contributor.leakage.worst()

    def _run(self, pool: ThreadPoolExecutor, call: Callable, *args) -> asyncio.Future:
        return asyncio.get_running_loop().run_in_executor(pool, call, *args)


def _failed(error: Exception) -> str:
    return f"failed ({type(error).__name__}: {error})"


@typed
@contextlib.asynccontextmanager
async def serving(
    contributor: Contributor | Mapping[str, Contributor],
    users: Annotated[str | Users | Mapping[str, str | Users], Secret()],
    tls: ssl.SSLContext,
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Between(0, 65535)] = 0,
    keep: NewPath | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> AsyncIterator[int]:
    """Serve sessions while the context is open; gives the port.

    Args:
      contributor: an adapter, or several by the names in their addresses, wss://host:port/name.
      users: who may connect, or a token that all of them share; for each adapter, or for all.
      keep: a folder for the records of proved sessions.
      report: called with lines for the owner, in a thread of its own; what it raises is ignored.
    """
    several = contributor if isinstance(contributor, Mapping) else {"": contributor}
    if isinstance(users, Mapping) and set(users) != set(several):
        raise SessionError(
            "options", f"users of {sorted(users)}, adapters are {sorted(several)}; name the same"
        )
    adapters = []
    for name, owner in several.items():
        if name and not NAME.fullmatch(name):
            raise SessionError("options", f"{name!r} is no name for an address: {NAME.pattern}")
        known = users[name] if isinstance(users, Mapping) else users
        adapters.append(
            Served(name, owner, Users(shared=known) if isinstance(known, str) else known)
        )
    if not adapters:
        raise SessionError("options", "there is no adapter to serve")
    frame_bytes = max(owner.limits.frame_bytes for owner in several.values())
    listener = listen(host, port)
    log = Log(report)
    server = Server(adapters, None if keep is None else Path(keep), log)

    def admit(connection, request):
        answer = server.admit(connection, request)
        if answer is None:
            listener.trust(connection.remote_address)
        return answer

    try:
        async with ws_server.serve(
            server.handle,
            sock=listener,
            ssl=tls,
            process_request=admit,
            ssl_handshake_timeout=OPEN_SECONDS,
            max_size=frame_bytes,
            create_connection=bounded(ws_server.ServerConnection, frame_bytes),
            logger=QUIET,
            **TRANSPORT,
        ):
            yield listener.getsockname()[1]
    finally:
        server.close()
        log.close()


@typed
def serve(
    served: contextlib.AbstractAsyncContextManager[int],
    ready: Callable[[int], None] = lambda port: None,
) -> None:
    """Keep what ``serving`` gave open until interrupted; ``ready`` is called with the port."""

    async def forever() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        loop.set_exception_handler(lambda loop, context: None)  # of connections, all handled
        async with served as port:
            ready(port)
            await stop.wait()

    sys.setswitchinterval(SWITCH_SECONDS)
    asyncio.run(forever())
