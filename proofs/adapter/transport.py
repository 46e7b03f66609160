"""The user's end of the connection: WebSockets over TLS 1.3 with a pre-shared token."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import weakref
from collections.abc import Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import websockets
from websockets.asyncio import client as ws_client

from zkjax.errors import SessionError
from zkjax.proofs.adapter.credentials import usable_token
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

STRANGERS = 256  # connections beyond those of sessions: a stranger costs 256 KiB, for 10 s at most


class Listener(socket.socket):
    """Accepts connections and closes at once those beyond ``most``.

    An event loop sets memory for TLS aside for every connection it accepts. So what is too much has
    to be turned away here, before the loop sees it.
    """

    most: int
    _open: weakref.WeakSet[socket.socket]

    def accept(self):
        while True:
            connection, address = super().accept()
            if sum(known.fileno() >= 0 for known in self._open) < self.most:
                self._open.add(connection)
                return connection, address
            connection.close()


def listen(host: str, port: int, limits: Limits) -> Listener:
    """A listener on the first address of ``host``, for the sessions of ``limits`` and strangers.

    Raises:
      SessionError: "address": the host has no address here, or the port is taken.
    """
    try:
        plain = _bound(host, port)
    except OSError as error:
        detail = f"cannot listen on {host}, port {port} ({error.strerror}); --port names another"
        raise SessionError("address", detail) from error
    listener = Listener(fileno=plain.detach())
    listener.most, listener._open = limits.sessions + STRANGERS, weakref.WeakSet()
    return listener


def _bound(host: str, port: int) -> socket.socket:
    family, *_, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server(address, family=family)
