"""The protocol over WebSockets with TLS and a pre-shared token."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hmac
import ipaddress
import secrets
import signal
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import websockets
from websockets.asyncio import client as ws_client
from websockets.asyncio import server as ws_server
from zkjax.proofs.adapter.contributor import Contributor, ContributorSession
from zkjax.proofs.adapter.limits import Limits

from zkjax.errors import SessionError
from zkjax.files import write_atomically

OPEN_SECONDS = 10.0
PING_SECONDS = 20.0
CLOSE_SECONDS = 2.0
QUERY_THREADS = 4
BUSY = "the contributor serves no more sessions now"
Report = Callable[[str], None]


# The user's side ------------------------------------------------------------------------------


class WebSocketChannel:
    """A connection to a contributor's server.

    It lives in an event loop of its own, in one thread, because a TLS connection cannot be read and
    written by two threads at once.
    """

    def __init__(self, url: str, options: dict, idle_seconds: float):
        self._idle_seconds = idle_seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._stack = contextlib.AsyncExitStack()
        try:
            connection = ws_client.connect(url, **options)
            self._socket = self._wait(self._stack.enter_async_context(connection), None)
        except BaseException:
            self.close()
            raise

    def _wait(self, step: Coroutine, seconds: float | None) -> Any:
        """The result of a coroutine in the connection's loop; failures are SessionErrors."""
        if self._loop.is_closed():
            step.close()
            raise SessionError("disconnected", "the connection is closed")
        with _named_failures():
            timed = asyncio.wait_for(step, seconds)
            return asyncio.run_coroutine_threadsafe(timed, self._loop).result()

    def send(self, data: bytes) -> None:
        self._wait(self._socket.send(data), self._idle_seconds)

    def receive(self, seconds: float) -> bytes:
        data = self._wait(self._socket.recv(), seconds)
        if not isinstance(data, bytes):
            raise SessionError("frame", "not binary")
        return data

    def close(self) -> None:
        if self._loop.is_closed():
            return
        with contextlib.suppress(SessionError):
            self._wait(self._stack.aclose(), 2 * CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def connect(
    url: str, token: str, *, ca: str | Path | None = None, limits: Limits | None = None
) -> WebSocketChannel:
    """A channel to ``wss://host:port``.

    Args:
      token: what the contributor gave to its users.
      ca: a PEM file with the contributor's certificate, if no public authority signed it.
    Raises:
      SessionError: "certificate", "token", "busy", "idle" or "disconnected".
    """
    if not url.startswith("wss://"):
        raise SessionError("url", f"{url} is not a wss:// address; only TLS is spoken")
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context = ssl.create_default_context(cafile=str(ca))
        except (OSError, ssl.SSLError) as error:
            raise SessionError("certificate", f"{ca} cannot be read ({error})") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    limits = limits or Limits()
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise SessionError("url", f"{url}: {error}") from None
    options = {
        "ssl": context,
        "additional_headers": {"Authorization": f"Bearer {token}"},
        "compression": None,
        "open_timeout": OPEN_SECONDS,
        "ping_interval": PING_SECONDS,
        "ping_timeout": PING_SECONDS,
        "close_timeout": CLOSE_SECONDS,
        "max_size": limits.frame_bytes,
        "max_queue": 1,
        "proxy": None,
    }
    return WebSocketChannel(url, options, limits.idle_seconds)


@contextlib.contextmanager
def _named_failures():
    """Failures of the transport as session errors."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        hint = "name the contributor's certificate (ca, --ca) if it has signed its own"
        raise SessionError("certificate", f"{error.verify_message}; {hint}") from error
    except ssl.SSLError as error:
        raise SessionError("certificate", f"TLS failed ({error.reason})") from error
    except websockets.InvalidStatus as error:
        status = error.response.status_code
        if status == HTTPStatus.UNAUTHORIZED:
            raise SessionError("token", "the contributor does not know this token") from None
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            raise SessionError("busy", BUSY) from None
        raise SessionError("disconnected", f"HTTP status {status}") from None
    except websockets.ConnectionClosed as error:
        if error.sent is not None and error.sent.code == websockets.CloseCode.MESSAGE_TOO_BIG:
            raise SessionError("limit", "the peer sent a frame that is too large") from None
        if error.rcvd is not None and error.rcvd.code == websockets.CloseCode.MESSAGE_TOO_BIG:
            raise SessionError("limit", "the peer takes no frame of this size") from None
        if error.rcvd is not None and error.rcvd.code == websockets.CloseCode.TRY_AGAIN_LATER:
            raise SessionError("busy", BUSY) from None
        raise SessionError("disconnected", "the connection was lost") from None
    except TimeoutError:
        raise SessionError("idle", "the peer was silent for too long") from None
    except (OSError, websockets.WebSocketException) as error:
        raise SessionError("disconnected", f"{error or type(error).__name__}") from error


# The contributor's side -----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(
    contributor: Contributor,
    token: str,
    tls: ssl.SSLContext,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    keep: Path | None = None,
    report: Report = lambda line: None,
) -> AsyncIterator[int]:
    """Serve sessions while the context is open; gives the port. Proved sessions are kept in
    ``keep``.
    """
    limits = contributor.limits
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
            async with asyncio.timeout(limits.session_seconds):
                while not session.closed:
                    data = await asyncio.wait_for(connection.recv(), limits.idle_seconds)
                    if not isinstance(data, bytes):
                        raise SessionError("frame", "not binary")
                    pool = proofs if session.expects_proof(data) else queries
                    reply = await loop.run_in_executor(pool, session.receive, data)
                    if reply is not None:
                        await asyncio.wait_for(connection.send(reply), limits.idle_seconds)
            ended = "proof accepted" if session.accepted else f"ended ({session.error})"
        except TimeoutError:
            ended = "ended (idle: the user was silent for too long)"
        except websockets.ConnectionClosed:
            ended = "ended (disconnected)"
        except SessionError as error:
            ended = f"ended ({error})"
        finally:
            session.close()
            active -= 1
        try:
            known = await loop.run_in_executor(queries, conclude, session, number)
            ended += f"; at most {100 * known:.0f} % of a site's directions are known"
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
            host,
            port,
            ssl=tls,
            process_request=admit,
            compression=None,
            open_timeout=OPEN_SECONDS,
            ssl_handshake_timeout=OPEN_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            close_timeout=CLOSE_SECONDS,
            max_size=limits.frame_bytes,
            max_queue=1,
        ) as server:
            yield next(iter(server.sockets)).getsockname()[1]
    finally:
        queries.shutdown(wait=False, cancel_futures=True)
        proofs.shutdown(wait=False, cancel_futures=True)


def serve(
    contributor: Contributor,
    token: str,
    tls: ssl.SSLContext,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    keep: Path | None = None,
    report: Report = print,
    ready: Callable[[int], None] = lambda port: None,
) -> None:
    """Serve until interrupted; ``ready`` is called with the port."""

    async def forever() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with serving(
            contributor, token, tls, host=host, port=port, report=report, keep=keep
        ) as bound:
            ready(bound)
            await stop.wait()

    asyncio.run(forever())


# Credentials ----------------------------------------------------------------------------------


def server_context(certificate: str | Path, key: str | Path) -> ssl.SSLContext:
    """TLS 1.3 with this certificate; SessionError("certificate") if the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # sessions are not resumed
    try:
        context.load_cert_chain(str(certificate), str(key))
    except (OSError, ssl.SSLError) as error:
        raise SessionError("certificate", f"{certificate} and {key}: {error}") from error
    return context


def make_token(path: Path) -> str:
    """The token in a file, which is made if it is missing."""
    if not path.exists():
        write_atomically(path, secrets.token_urlsafe(32).encode(), private=True)
    return read_token(path)


def read_token(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SessionError("token", f"{path} cannot be read ({error})") from error
    if not token or not token.isascii() or not token.isprintable():
        raise SessionError("token", f"{path} holds no usable token")
    return token


def make_certificate(folder: Path, hosts: tuple[str, ...] = ("localhost", "127.0.0.1")) -> None:
    """Write a self-signed ``certificate.pem`` and its ``key.pem``, valid for a year."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hosts[0])])
    now = datetime.datetime.now(datetime.UTC)
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName([_alternative(h) for h in hosts]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomically(folder / "key.pem", private, private=True)
    write_atomically(folder / "certificate.pem", certificate.public_bytes(pem))


def _alternative(host: str):
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
