"""The contributor's server: many sessions over WebSockets, TLS 1.3 and pre-shared tokens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import ssl
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import websockets
from websockets.asyncio import server as ws_server

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

QUERY_THREADS = 16  # most of them wait for the same write of counts
LARGE = 1 << 16  # bytes of a query that waits for other large ones
LEFT_SECONDS, MOST_LEFT = 0.25, 8  # a proof waits 0.25 s 2^n if its user left n in a row before
PONG_SECONDS = 2.0  # in which a user whose turn it is has to show that it is there
SWITCH_SECONDS = 0.001  # between threads: the loop shall not wait for those that compute
QUIET = logging.getLogger("zkjax.adapter")  # what strangers make go wrong is no news
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False


class Server:
    """Sessions with users, one proof at a time. Used by ``serving``.

    Args:
      keep: a folder for the records of proved sessions.
      report: takes a line for the owner.
    """

    def __init__(
        self,
        contributor: Contributor,
        users: Users,
        keep: Path | None,
        report: Callable[[str], None],
    ):
        self.contributor, self.users, self.keep, self.report = contributor, users, keep, report
        self.line = Line()
        self._open = Counter[str]()  # sessions of each user
        self._left = Counter[str]()  # proofs in a row that each did not wait for
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
        scheme, _, token = "".join(request.headers.get_all("Authorization")).partition(" ")
        try:
            name = self.users.named(token) if scheme == "Bearer" else None
            cause = "unknown token"
        except (OSError, ZkjaxError) as error:
            name, cause = None, str(error)
        if name is None:
            self._count_stranger(cause)
            return connection.respond(HTTPStatus.UNAUTHORIZED, "unknown token\n")
        if full := self._full(name):
            self.report(f"refused a connection of {name}: {full}")
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "busy\n")
        connection.username = name
        return None

    def _count_stranger(self, cause: str) -> None:
        """Report strangers once a second at most: many of them shall not fill the disk."""
        self._strangers += 1
        if (now := time.monotonic()) >= self._quiet_until:
            many = "a connection" if self._strangers == 1 else f"{self._strangers} connections"
            self.report(f"refused {many}: {cause}")
            self._strangers, self._quiet_until = 0, now + 1.0

    def _full(self, name: str) -> str:
        """Why this user can have no other session now."""
        if self._open.total() >= self.contributor.limits.sessions:
            return "too many sessions"
        own = self.users.grant(name).sessions
        return "" if own is None or self._open[name] < own else "too many sessions of this user"

    @contextlib.contextmanager
    def _place(self, name: str) -> Iterator[bool]:
        """A place for a session while the context is open, if there is one."""
        if self._full(name):
            yield False
            return
        self._open[name] += 1
        try:
            yield True
        finally:
            self._open[name] -= 1

    async def handle(self, connection: ws_server.ServerConnection) -> None:
        """One connection, from the first frame to the last."""
        name = str(connection.username)
        with self._place(name) as free:
            if not free:
                await connection.close(websockets.CloseCode.TRY_AGAIN_LATER, "busy")
                return
            number = secrets.token_hex(8)
            self.report(f"session {number}: opened by {name}")
            ended = await self._session(connection, name, number)
        self.report(f"session {number}: {ended}")

    async def _session(self, connection: ws_server.ServerConnection, name: str, number: str) -> str:
        """One session, and what is kept of it; how it ended."""
        try:
            account = Account(self.users, name, self.contributor.leakage)
            session = self.contributor.session(account)
        except Exception as error:
            return _failed(error)
        try:
            ended = await self._served(connection, session)
        except websockets.ConnectionClosed:
            ended = "ended (disconnected)"
        except SessionError as error:
            ended = f"ended ({error})"
        except Exception as error:  # nothing that happens in one session is about another
            ended = _failed(error)
        finally:
            session.close()
        try:
            known = await self._run(self._queries, self._concluded, session, number)
            return f"{ended}; at most {100 * known:.0f} % of a site's adapter may be known"
        except Exception as error:
            return f"{ended}; nothing could be written ({error})"
        finally:
            session.forget()

    async def _served(
        self, connection: ws_server.ServerConnection, session: ContributorSession
    ) -> str:
        """Answer frames until the session ends; how it ended."""
        limits = self.contributor.limits
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
        name, waited = str(connection.username), False
        try:
            await asyncio.wait({proof, word}, return_when=asyncio.FIRST_COMPLETED)
            if proof.done():
                reply, waited = proof.result(), True
                return reply
            data = word.result()  # or ConnectionClosed
            return session.interrupt(data if isinstance(data, bytes) else b"")
        finally:
            self._left[name] = 0 if waited else min(self._left[name] + 1, MOST_LEFT)
            if not proof.done():
                session.close()
            for task in (proof, word):
                task.cancel()
                self._ending.add(task)
                task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task) -> None:
        self._ending.discard(task)
        if not task.cancelled():
            _ = task.exception()  # of no interest any more

    async def _proof_in_turn(
        self, connection: ws_server.ServerConnection, session: ContributorSession
    ) -> bytes | None:
        limits = self.contributor.limits
        if (left := self._left[connection.username]) and not self.users.shared:
            await asyncio.sleep(LEFT_SECONDS * 2**left)

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

    def _concluded(self, session: ContributorSession, number: str) -> float:
        """Keep a proved session; the largest share that may be known of a site."""
        if self.keep is not None and session.record.proof is not None:
            session.record.save(self.keep / number)
        return self.contributor.leakage.worst()

    def _run(self, pool: ThreadPoolExecutor, call: Callable, *args) -> asyncio.Future:
        return asyncio.get_running_loop().run_in_executor(pool, call, *args)


def _failed(error: Exception) -> str:
    return f"failed ({type(error).__name__}: {error})"


@contextlib.asynccontextmanager
async def serving(
    contributor: Contributor,
    users: str | Users,
    tls: ssl.SSLContext,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    keep: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> AsyncIterator[int]:
    """Serve sessions while the context is open; gives the port.

    Args:
      users: who may connect, or a token that all of them share.
      keep: a folder for the records of proved sessions.
      report: called with lines for the owner, in a thread of its own; what it raises is ignored.
    """
    limits = contributor.limits
    listener = listen(host, port)
    log = Log(report)
    known = users if isinstance(users, Users) else Users(shared=users)
    server = Server(contributor, known, keep, log)

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
            max_size=limits.frame_bytes,
            create_connection=bounded(ws_server.ServerConnection, limits.frame_bytes),
            logger=QUIET,
            **TRANSPORT,
        ):
            yield listener.getsockname()[1]
    finally:
        server.close()
        log.close()


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
