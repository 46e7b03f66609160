"""The contributor's server: many sessions over WebSockets, TLS 1.3 and a pre-shared token."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import websockets
from websockets.asyncio import server as ws_server

from zkjax.errors import SessionError
from zkjax.proofs.adapter.contributor import Contributor
from zkjax.proofs.adapter.contributor_session import ContributorSession
from zkjax.proofs.adapter.transport import CLOSE_SECONDS, OPEN_SECONDS, TRANSPORT, bounded, listen

QUERY_THREADS = 4


@contextlib.asynccontextmanager
async def serving(
    contributor: Contributor,
    token: str,
    tls: ssl.SSLContext,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    keep: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> AsyncIterator[int]:
    """Serve sessions while the context is open; gives the port. Proved sessions are kept in
    ``keep``.
    """
    limits = contributor.limits
    listener = listen(host, port, limits)
    queries = ThreadPoolExecutor(QUERY_THREADS, "query")
    proofs = ThreadPoolExecutor(1, "proof")
    active = 0

    def admit(connection, request):
        given = "".join(request.headers.get_all("Authorization"))
        if not hmac.compare_digest(
            given.encode("utf-8", "surrogateescape"), f"Bearer {token}".encode()
        ):
            report("refused a connection: wrong token")
            return connection.respond(HTTPStatus.UNAUTHORIZED, "unknown token\n")
        if active >= limits.sessions:
            report("refused a connection: too many sessions")
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "busy\n")
        return None

    async def handle(connection: ws_server.ServerConnection) -> None:
        nonlocal active
        if active >= limits.sessions:
            await connection.close(websockets.CloseCode.TRY_AGAIN_LATER, "busy")
            return
        active += 1
        session = contributor.session()
        number = secrets.token_hex(8)
        report(f"session {number}: opened")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limits.session_seconds) as whole:
                while not session.closed:
                    # A user that has asked everything may be proving something itself now.
                    patience = limits.proof_seconds if session.complete else limits.idle_seconds
                    data = await asyncio.wait_for(connection.recv(), patience)
                    if not isinstance(data, bytes):
                        raise SessionError("frame", "not binary")
                    pool = proofs if session.expects_proof(data) else queries
                    reply = await loop.run_in_executor(pool, session.receive, data)
                    if reply is not None:
                        await asyncio.wait_for(connection.send(reply), limits.idle_seconds)
            ended = "proof accepted" if session.accepted else f"ended ({session.error})"
        except TimeoutError:
            error = (
                SessionError("limit", "the session has lasted too long")
                if whole.expired()
                else SessionError("idle", "the user was silent for too long")
            )
            ended = f"ended ({error})"
            with contextlib.suppress(TimeoutError, websockets.ConnectionClosed):
                farewell = connection.send(session.refuse(error))
                await asyncio.wait_for(farewell, CLOSE_SECONDS)
        except websockets.ConnectionClosed:
            ended = "ended (disconnected)"
        except SessionError as error:
            ended = f"ended ({error})"
        finally:
            session.close()
            active -= 1
        try:
            known = await loop.run_in_executor(queries, conclude, session, number)
            ended += f"; at most {100 * known:.0f} % of a site's adapter may be known"
        except OSError as error:
            ended += f"; nothing could be written ({error})"
        report(f"session {number}: {ended}")

    def conclude(session: ContributorSession, number: str) -> float:
        """Write what is kept of a session; the largest share that is known of a site."""
        contributor.leakage.save()
        if keep is not None and session.record.proof is not None:
            session.record.save(keep / number)
        return contributor.leakage.worst()

    try:
        async with ws_server.serve(
            handle,
            sock=listener,
            ssl=tls,
            process_request=admit,
            ssl_handshake_timeout=OPEN_SECONDS,
            max_size=limits.frame_bytes,
            create_connection=bounded(ws_server.ServerConnection, limits.frame_bytes),
            **TRANSPORT,
        ):
            yield listener.getsockname()[1]
    finally:
        queries.shutdown(wait=False, cancel_futures=True)
        proofs.shutdown(wait=False, cancel_futures=True)


def serve(
    served: contextlib.AbstractAsyncContextManager[int],
    ready: Callable[[int], None] = lambda port: None,
) -> None:
    """Keep what ``serving`` gave open until interrupted; ``ready`` is called with the port."""

    async def forever() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with served as port:
            ready(port)
            await stop.wait()

    asyncio.run(forever())
