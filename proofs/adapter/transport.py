"""Both ends of the connection: WebSockets over TLS 1.3 with pre-shared tokens."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import websockets
from websockets.asyncio import client as ws_client

from zkjax._arguments import typed
from zkjax._marks import Itself
from zkjax.errors import SessionError
from zkjax.proofs.adapter.credentials import read_certificate, usable_token
from zkjax.proofs.adapter.record import Limits

# Of both ends. One frame waits at most: larger queues would hold memory for a peer that only sends.
OPEN_SECONDS = 10.0
PING_SECONDS = 20.0
CLOSE_SECONDS = 2.0
TRANSPORT: dict[str, Any] = {
    "compression": None,
    "open_timeout": OPEN_SECONDS,
    "ping_interval": PING_SECONDS,
    "ping_timeout": PING_SECONDS,
    "close_timeout": CLOSE_SECONDS,
    "max_queue": 1,
}
BUSY = "the contributor serves no more sessions now"


def bounded(kind: type, frame_bytes: int) -> type:
    """Connections that end when more than two frames wait to be read by the peer.

    A peer that sends pings and does not read would otherwise fill this side's memory with answers,
    behind which the pings that could find it out wait as well.
    """

    class Bounded(kind):  # type: ignore[valid-type, misc]
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.transport.get_write_buffer_size() > 2 * frame_bytes:
                self.transport.abort()

    return Bounded


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


@typed
def connect(
    url: str,
    token: Annotated[str, Itself()],
    *,
    ca: str | Path | None = None,
    limits: Limits | None = None,
) -> WebSocketChannel:
    """A channel to ``wss://host:port``, or ``wss://host:port/name`` where several are served.

    Args:
      token: what the contributor gave to its users.
      ca: a PEM file with the contributor's certificate, if no public authority signed it.
    Raises:
      SessionError: "certificate", "token", "busy", "idle" or "disconnected".
    """
    require_address(url)
    context = ssl.create_default_context()
    if ca is not None:
        try:
            trusted = read_certificate(Path(ca)).decode("ascii")
            context = ssl.create_default_context(cadata=trusted)
        except (ValueError, ssl.SSLError) as error:
            raise SessionError("certificate", f"{ca} cannot be read ({error})") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    limits = limits or Limits()
    usable_token(token)
    options = TRANSPORT | {
        "ssl": context,
        "additional_headers": {"Authorization": f"Bearer {token}"},
        "max_size": limits.frame_bytes,
        "create_connection": bounded(ws_client.ClientConnection, limits.frame_bytes),
        "proxy": None,
    }
    try:
        return WebSocketChannel(url, options, limits.idle_seconds)
    except SessionError as error:
        detail = error.detail
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            detail += _certificate_hint(error.__cause__, ca)
        raise SessionError(error.check, detail, url) from error


def require_address(url: str) -> None:
    """SessionError("url") unless this is ``wss://host:port``."""
    if not url.startswith("wss://"):
        raise SessionError("url", f"{url} is not a wss:// address; only TLS is spoken")
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise SessionError("url", f"{url}: {error}") from None
    if not named or not url.isascii() or not url.isprintable():
        raise SessionError("url", f"{url} is not an address like wss://host:port")


def _certificate_hint(error: ssl.SSLCertVerificationError, ca: str | Path | None) -> str:
    if "mismatch" in error.verify_message:
        return "; the contributor must serve with --name and the host of this address"
    if ca is None:
        return "; name the contributor's certificate (ca, --ca) if it has signed its own"
    return f"; {ca} is not the certificate of this server"


@contextlib.contextmanager
def _named_failures():
    """Failures of the transport as session errors."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise SessionError("certificate", error.verify_message.rstrip(".")) from error
    except (ssl.SSLEOFError, ConnectionResetError):
        detail = "the contributor closed the connection; it may have too many"
        raise SessionError("disconnected", detail) from None
    except ssl.SSLError as error:
        raise SessionError("certificate", f"TLS failed ({error.reason})") from error
    except websockets.InvalidStatus as error:
        status = error.response.status_code
        if status == HTTPStatus.UNAUTHORIZED:
            raise SessionError("token", "the contributor does not know this token") from None
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            raise SessionError("busy", BUSY) from None
        if status == HTTPStatus.NOT_FOUND:
            detail = "there is no adapter of this name; the address is wss://host:port/name"
            raise SessionError("url", detail) from None
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
    except ConnectionRefusedError as error:
        detail = "nothing listens there; is zkjax adapter serve running on this port?"
        raise SessionError("disconnected", detail) from error
    except (OSError, websockets.WebSocketException) as error:
        raise SessionError("disconnected", f"{error or type(error).__name__}") from error


# The contributor's end -----------------------------------------------------------------------

STRANGERS = 256  # connections without a token: each costs 256 KiB, for 10 s at most


class Listener(socket.socket):
    """Accepts connections; of more than ``STRANGERS`` that have shown no token the oldest ends.

    An event loop sets memory for TLS aside for every connection it accepts. So what is too much has
    to go here, before the loop sees it. Who has a token shows it within a moment; those who wait
    idle only make room for each other.
    """

    _strangers: dict[Any, socket.socket]  # by address, the oldest first

    def accept(self):
        connection, address = super().accept()
        gone = [a for a, known in self._strangers.items() if known.fileno() < 0]
        for a in gone:
            del self._strangers[a]
        while len(self._strangers) >= STRANGERS:
            oldest = self._strangers.pop(next(iter(self._strangers)))
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)  # the loop sees its end, and closes it
        self._strangers[address] = connection
        return connection, address

    def trust(self, address: Any) -> None:
        """The peer with this address is no stranger."""
        self._strangers.pop(address, None)


def listen(host: str, port: int) -> Listener:
    """A listener on the first address of ``host``.

    Raises:
      SessionError: "address": the host has no address here, or the port is taken.
    """
    try:
        plain = _bound(host, port)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        detail = f"cannot listen on {host}, port {port} ({reason}); --port names another"
        raise SessionError("address", detail) from error
    listener = Listener(fileno=plain.detach())
    listener._strangers = {}
    return listener


def _bound(host: str, port: int) -> socket.socket:
    family, *_, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server(address, family=family)
