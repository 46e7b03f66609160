"""Attacks on the connection: real TLS and WebSockets on the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import ssl
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import websockets
from websockets.asyncio import server as ws_server
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.sync import client as ws_client
from websockets.uri import parse_uri

from adapter.common import (
    NONCE,
    ROOM,
    activations,
    committed,
    contributor,
    counting,
    drive,
    ends,
    local_deltas,
    sites,
)
from zkjax.errors import SessionError
from zkjax.proofs.adapter import credentials, frames, transport
from zkjax.proofs.adapter import server as server_module
from zkjax.proofs.adapter.accounts import Users
from zkjax.proofs.adapter.contributor import Contributor
from zkjax.proofs.adapter.credentials import make_certificate, server_context
from zkjax.proofs.adapter.leakage import Leakage
from zkjax.proofs.adapter.peer import Peer
from zkjax.proofs.adapter.record import Digest, Limits
from zkjax.proofs.adapter.server import serving
from zkjax.proofs.adapter.service import MAX_LINES, Log
from zkjax.proofs.adapter.transport import connect

TOKEN = "token-of-these-tests"
PATIENCE = 30.0  # how long a test waits for what must happen
SHORT = Limits(idle_seconds=0.5)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for another thread; fails if it never happens."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> dict[str, Path]:
    """Folders with a certificate: of the server, of someone else, and for another host."""
    root = tmp_path_factory.mktemp("certificates")
    make_certificate(root / "server")
    make_certificate(root / "stranger")
    make_certificate(root / "elsewhere", ("example.org",))
    return {p.name: p for p in root.iterdir()}


class Loop:
    """An asynchronous context manager, kept open in a thread of its own; ``port`` is its value."""

    def __init__(self, manager):
        self._manager, self._ready = manager, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    async def _run(self) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with self._manager as self.port:
                self._ready.set()
                await self._stop.wait()
        finally:
            self._ready.set()

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *_) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def tls_of(folder: Path) -> ssl.SSLContext:
    return server_context(folder / "certificate.pem", folder / "key.pem")


class Server(Loop):
    """A contributor's server, its report, and ways to talk to it."""

    def __init__(
        self,
        owner: Contributor,
        folder: Path,
        users: str | Users = TOKEN,
        token: str = TOKEN,
        **options,
    ):
        self.owner, self.lines, self.ca = owner, [], folder / "certificate.pem"
        self.token = token
        options = {"report": self.lines.append} | options
        super().__init__(serving(owner, users, tls_of(folder), **options))

    @property
    def url(self) -> str:
        return f"wss://127.0.0.1:{self.port}"

    def channel(self, token: str | None = None, limits: Limits | None = None):
        token = self.token if token is None else token
        return connect(self.url, token, ca=self.ca, limits=limits)

    def peer(self, name: str = "alice", limits: Limits | None = None) -> Peer:
        return Peer(self.channel(limits=limits), name, limits=limits)

    @contextlib.contextmanager
    def raw(self, **options) -> Iterator[ws_client.ClientConnection]:
        """A connection on which anything can be sent."""
        options = {"additional_headers": {"Authorization": f"Bearer {TOKEN}"}} | options
        context = ssl.create_default_context(cafile=str(self.ca))
        with ws_client.connect(
            self.url, ssl=context, compression=None, proxy=None, close_timeout=0.5, **options
        ) as connection:
            yield connection

    @contextlib.contextmanager
    def unread(self) -> Iterator[tuple[ssl.SSLSocket, ClientProtocol]]:
        """A connection whose answers nobody reads: the socket, and what makes frames for it."""
        protocol = ClientProtocol(parse_uri(self.url))
        request = protocol.connect()
        request.headers["Authorization"] = f"Bearer {TOKEN}"
        context = ssl.create_default_context(cafile=str(self.ca))
        with (
            socket.create_connection(("127.0.0.1", self.port), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            protocol.send_request(request)
            tls.sendall(b"".join(protocol.data_to_send()))
            while protocol.state is not State.OPEN:
                protocol.receive_data(tls.recv(1))  # not a byte more than the response
            yield tls, protocol

    def reported(self, text: str, times: int = 1) -> None:
        """Wait for lines with this text."""
        wait_until(lambda: sum(text in line for line in self.lines) >= times)

    def serves(self) -> None:
        """An honest user is answered, rightly."""
        peer = self.peer("bob")
        x = activations(16, 3, 8)
        told, expected = peer.deltas(1, "attention", x), local_deltas(0, 1, "attention", x)
        assert all(np.array_equal(told[t], expected[t]) for t in expected)
        peer.abandon()


@pytest.fixture
def serve(certificates):
    """Start servers; at the end of the test each has to serve still, and is stopped."""
    with contextlib.ExitStack() as stack:
        started: list[Server] = []

        def start(owner: Contributor | None = None, folder: str = "server") -> Server:
            server = Server(owner or contributor(), certificates[folder])
            started.append(stack.enter_context(server))
            return server

        yield start


def fake(handler, certificates, **options):
    """A contributor that does what ``handler(connection)`` does."""

    @contextlib.asynccontextmanager
    async def manager():
        options.setdefault("close_timeout", 0.2)
        async with ws_server.serve(
            handler, "127.0.0.1", 0, ssl=tls_of(certificates["server"]), **options
        ) as server:
            yield next(iter(server.sockets)).getsockname()[1]

    return Loop(manager())


def channel_to(server: Loop | Wire, certificates, limits: Limits | None = None):
    ca = certificates["server"] / "certificate.pem"
    return connect(f"wss://127.0.0.1:{server.port}", TOKEN, ca=ca, limits=limits)


@contextlib.contextmanager
def fails(*checks: str):
    """The block raises SessionError with one of these checks."""
    with pytest.raises(SessionError) as caught:
        yield
    assert caught.value.check in checks, caught.value


# Honest ---------------------------------------------------------------------------------------


def test_a_session(serve):
    """Over the wire the answers are those of the adapter, and the proof is accepted."""
    server = serve()
    peer = server.peer()
    for layer, group in sites(peer.manifest):
        x = activations(peer.manifest.inputs(group), 4, layer)
        told, expected = peer.deltas(layer, group, x), local_deltas(0, layer, group, x)
        assert all(np.array_equal(told[t], expected[t]) for t in expected)
    assert peer.finish().tokens == 4
    server.reported("proof accepted")
    server.serves()


class Wire:
    """A TCP proxy in front of a server; keeps all bytes of both directions."""

    def __init__(self, server: Loop):
        self._to, self.seen = server.port, bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._thread.join(PATIENCE)
        self._listener.close()

    def _run(self) -> None:
        user, _ = self._listener.accept()
        with user, socket.create_connection(("127.0.0.1", self._to)) as server:
            back = threading.Thread(target=self._copy, args=(server, user))
            back.start()
            self._copy(user, server)
            back.join(PATIENCE)

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.seen += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def test_who_listens_learns_nothing(serve, certificates):
    """Neither token nor activations nor answers nor the manifest go over the wire in the clear."""
    server, x = serve(), activations(16, 40)
    with Wire(server) as wire:
        channel = channel_to(wire, certificates)
        peer = Peer(channel, "alice")
        told = peer.deltas(0, "attention", x)
        peer.abandon()
    assert len(wire.seen) > x.nbytes + 4 * sum(d.size for d in told.values())
    rows = [x[0].tobytes(), *(d[0].astype("<i4").tobytes() for d in told.values())]
    for secret in (TOKEN.encode(), b"Bearer", b"ZKJA", peer.manifest.encode()[:40], *rows):
        assert secret not in wire.seen


def test_a_channel_that_is_closed(serve):
    """What is sent or awaited after the end fails by name, and closing twice is harmless."""
    peer = serve().peer()
    for _ in range(2):
        peer.abandon()
    seen: list[str] = []
    for call in (
        lambda: peer.deltas(0, "attention", activations(16)),
        lambda: peer.channel.send(b""),
        lambda: peer.channel.receive(0.1),
    ):
        try:
            call()
        except Exception as error:
            seen.append(getattr(error, "check", repr(error)))
    gc.collect()
    assert seen == ["closed", "disconnected", "disconnected"]


# Who may connect ------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["x", TOKEN[:-1], TOKEN + "x", TOKEN.upper()])
def test_wrong_token(serve, token):
    server = serve()
    with fails("token"):
        server.channel(token)
    server.reported("unknown token")
    assert not any(TOKEN in line or "opened" in line for line in server.lines)
    server.serves()


@pytest.mark.parametrize("token", ["", TOKEN + "\n", TOKEN.encode(), "\u00e9", None])
def test_a_token_that_is_none(serve, token):
    """It is refused before anything is sent, and not shown."""
    server = serve()
    with pytest.raises(SessionError) as caught:
        connect(server.url, token, ca=server.ca)
    assert caught.value.check == "token" and TOKEN not in str(caught.value)


HEADERS = {
    "none": {},
    "no scheme": {"Authorization": TOKEN},
    "basic": {"Authorization": f"Basic {TOKEN}"},
    "another header": {"X-Authorization": f"Bearer {TOKEN}"},
    "a long one": {"Authorization": "Bearer " + "x" * 4000},
}


@pytest.mark.parametrize("name", HEADERS)
def test_wrong_authorization(serve, name):
    server = serve()
    refused = pytest.raises(websockets.InvalidStatus)
    with refused as caught, server.raw(additional_headers=HEADERS[name]):
        pass
    assert caught.value.response.status_code == 401
    server.serves()


def http_status(server: Server, headers: bytes) -> int:
    """The status that an upgrade request with these raw header lines gets."""
    context = ssl.create_default_context(cafile=str(server.ca))
    with (
        socket.create_connection(("127.0.0.1", server.port), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            + headers
            + b"\r\n"
        )
        return int(tls.recv(100).split()[1])


def test_an_upgrade_request_by_hand(serve):
    server = serve()
    assert http_status(server, f"Authorization: Bearer {TOKEN}\r\n".encode()) == 101
    assert http_status(server, b"Authorization: Bearer x\r\n") == 401


def test_an_authorization_that_is_not_ascii(serve):
    server = serve()
    assert http_status(server, b"Authorization: Bearer \xff\xfe\r\n") in (400, 401)
    server.serves()


def test_two_authorizations(serve):
    server = serve()
    line = f"Authorization: Bearer {TOKEN}\r\n".encode()
    status = http_status(server, line + line)
    server.serves()
    assert status in (400, 401)


def test_no_session_tickets(certificates):
    """Tickets would wake the reading thread of a client while another writes its request. OpenSSL
    does not allow both at once: with ``websockets.sync`` one connection in 200 lost its request.
    """
    assert tls_of(certificates["server"]).num_tickets == 0


@pytest.mark.parametrize("ca", [None, "stranger"])
def test_certificate_not_trusted(serve, certificates, ca):
    server = serve()
    path = certificates[ca] / "certificate.pem" if ca else None
    with fails("certificate"):
        connect(server.url, TOKEN, ca=path)
    server.serves()


def test_certificate_of_another_host(serve, certificates):
    """The certificate is trusted, but it is not that of the address."""
    server = serve(folder="elsewhere")
    with fails("certificate"):
        connect(server.url, TOKEN, ca=certificates["elsewhere"] / "certificate.pem")
    assert not any("opened" in line for line in server.lines)


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_an_authority_that_cannot_be_read(serve, tmp_path, content):
    server = serve()
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with fails("certificate"):
        connect(server.url, TOKEN, ca=path)


def test_credentials_that_cannot_be_read(certificates, tmp_path):
    server, stranger = certificates["server"], certificates["stranger"]
    for pair in (
        (tmp_path / "none.pem", server / "key.pem"),
        (server / "certificate.pem", tmp_path / "none.pem"),
        (server / "certificate.pem", stranger / "key.pem"),
        (server / "key.pem", server / "certificate.pem"),
    ):
        with fails("certificate"):
            server_context(*pair)
    assert (server / "key.pem").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff", "tökén".encode(), b"a\nb"])
def test_a_token_file_that_cannot_be_used(tmp_path, content):
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with fails("token"):
        credentials.read_token(path)


def test_a_token_file_without_a_folder(tmp_path):
    with fails("token"):
        credentials.make_token(tmp_path / "none" / "token")


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\n", b"\xff"])
def test_a_certificate_whose_hosts_cannot_be_read(tmp_path, content):
    (tmp_path / "certificate.pem").write_bytes(content)
    with fails("certificate"):
        credentials.certificate_hosts(tmp_path / "certificate.pem")


def test_an_address_that_cannot_be_listened_on():
    """The port is taken, the host is not here; the error names the option."""
    with transport.listen("127.0.0.1", 0) as taken:
        for host, port in (("127.0.0.1", taken.getsockname()[1]), ("192.0.2.1", 0), ("no.test", 0)):
            with fails("address"):
                transport.listen(host, port)


def test_a_token_file_is_private_and_kept(tmp_path):
    path = tmp_path / "token"
    token = credentials.make_token(path)
    assert len(token) > 40 and path.stat().st_mode & 0o077 == 0
    assert credentials.make_token(path) == credentials.read_token(path) == token


def test_plain_connections_are_refused(serve):
    """The user speaks to no address without TLS, and the server to no user without."""
    server = serve()
    for scheme in ("ws", "http", "https", "WS", ""):
        with fails("url"):
            connect(server.url.replace("wss", scheme), TOKEN, ca=server.ca)
    address, headers = server.url.replace("wss", "ws"), {"Authorization": f"Bearer {TOKEN}"}
    with (
        pytest.raises((OSError, websockets.WebSocketException)),
        ws_client.connect(address, additional_headers=headers, proxy=None, open_timeout=PATIENCE),
    ):
        pass
    server.serves()


def test_old_tls_is_refused(serve):
    server = serve()
    context = ssl.create_default_context(cafile=str(server.ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", server.port), PATIENCE) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")
    server.serves()


def test_nobody_listens(certificates):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with fails("disconnected"):
            connect(f"wss://127.0.0.1:{port}", TOKEN, ca=certificates["server"] / "certificate.pem")


@pytest.mark.parametrize("url", ["wss://127.0.0.1:99999", "wss://[::", "wss://127.0.0.1:port"])
def test_an_address_that_is_none(url):
    with pytest.raises(SessionError):
        connect(url, TOKEN)


# What is sent ---------------------------------------------------------------------------------


def test_an_oversize_frame_from_the_user(serve):
    """More than a frame may hold: the connection ends before it is read to its end."""
    server = serve(contributor(limits=Limits(frame_bytes=1 << 20)))
    channel = server.channel()
    channel.send(frames.encode(frames.Hello(NONCE, "s100"), 0))
    channel.receive(PATIENCE)
    with fails("limit"):
        channel.send(bytes(2 << 20))
        channel.receive(PATIENCE)
    channel.close()
    server.reported("ended (message too big)")
    server.serves()


def test_an_oversize_frame_in_fragments(serve):
    """The limit is on the whole message, however it is cut."""
    server = serve(contributor(limits=Limits(frame_bytes=1 << 20)))
    with server.raw() as raw, pytest.raises(websockets.ConnectionClosed):
        raw.send(bytes(1 << 16) for _ in range(64))
        raw.recv(PATIENCE)
    server.reported("ended (message too big)")
    server.serves()


def test_an_oversize_frame_from_the_contributor(certificates):
    async def handler(connection):
        await connection.recv()
        await connection.send(bytes(2 << 20))
        await connection.wait_closed()

    limits = Limits(frame_bytes=1 << 20)
    with fake(handler, certificates) as server:
        with ends("limit"):
            Peer(channel_to(server, certificates, limits), "alice", limits=limits)
        channel = channel_to(server, certificates, limits)
        channel.send(b"?")
        with fails("limit"):  # the channel itself does not take it
            channel.receive(PATIENCE)
        channel.close()


def test_a_text_frame_from_the_user(serve):
    server = serve()
    with server.raw() as raw:
        raw.send("hello")
        with pytest.raises(websockets.ConnectionClosed):
            raw.recv(PATIENCE)
    server.reported("ended (frame: not binary)")
    server.serves()


@pytest.mark.parametrize("data", ["hello", b"\xff\xfe"])
def test_a_text_frame_from_the_contributor(certificates, data):
    async def handler(connection):
        await connection.recv()
        await connection.send(data, text=True)
        await connection.wait_closed()

    with fake(handler, certificates) as server, pytest.raises(SessionError) as caught:
        Peer(channel_to(server, certificates), "alice")
    assert caught.value.check in ("frame", "disconnected") and caught.value.party == "alice"


BAD_FIRST_FRAMES = {
    "empty": b"",
    "noise": random.Random(1).randbytes(300),
    "out of turn": frames.encode(frames.Done(), 0),
    "an offer": frames.encode(frames.Offer(NONCE, b"{}", b""), 0),
    "a later number": frames.encode(frames.Hello(NONCE, "s100"), 1),
    "a weaker profile": frames.encode(frames.Hello(NONCE, "s1"), 0),
}


@pytest.mark.parametrize("name", BAD_FIRST_FRAMES)
def test_a_bad_first_frame(serve, name):
    """The user hears the reason, the server ends this session alone."""
    server = serve()
    with server.raw() as raw:
        raw.send(BAD_FIRST_FRAMES[name])
        refusal = frames.decode(raw.recv(PATIENCE), 0, ROOM)
        assert isinstance(refusal, frames.Refusal)
        with pytest.raises(websockets.ConnectionClosed):
            raw.recv(PATIENCE)
    server.reported(f"ended ({refusal.check}")
    server.serves()


def test_a_flood_of_frames(serve):
    """Thousands of frames without waiting: the first bad one ends it."""
    server = serve()
    with server.raw() as raw, pytest.raises(websockets.ConnectionClosed):
        for _ in range(5000):
            raw.send(bytes(1000))
        raw.recv(PATIENCE)
        raw.recv(PATIENCE)
    server.reported("ended (")
    server.serves()


# Silence --------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["nothing", "hello", "half a message"])
def test_a_stalled_user(serve, told):
    """A user that stops speaking is dropped, and its place is free again."""
    server = serve(contributor(limits=Limits(idle_seconds=1.5, sessions=1)))
    with server.raw() as raw:
        if told == "hello":
            raw.send(frames.encode(frames.Hello(NONCE, "s100"), 0))
            raw.recv(PATIENCE)
        if told == "half a message":
            with raw.send_context():
                raw.protocol.send_binary(b"ZKJA", fin=False)
        server.reported("ended (idle")
        server.serves()


def test_a_user_that_does_not_read(serve):
    """Queries are sent, nothing is read: the server gives up sending."""
    server = serve(contributor(limits=Limits(idle_seconds=1.5, query_rows=5000)))
    with server.unread() as (tls, protocol):
        first = [frames.Hello(NONCE, "s100"), frames.Accept(committed()[1].digest)]
        queries = (frames.Query(0, "attention", activations(16, 5000, i)) for i in range(2000))
        tls.settimeout(2.0)
        with contextlib.suppress(OSError):
            for i, frame in enumerate((*first, *queries)):
                protocol.send_binary(frames.encode(frame, i))
                tls.sendall(b"".join(protocol.data_to_send()))
        server.reported("ended (idle")
        server.serves()


def test_a_user_that_sends_pings_and_does_not_read(serve):
    """Answers to pings wait at the server: two frames of them, and the connection ends."""
    server = serve(contributor(limits=Limits(frame_bytes=1 << 18)))
    ping = bytes([0x89, 0x80 | 125]) + bytes(4 + 125)  # masked by zeros
    with server.unread() as (tls, _):
        tls.settimeout(PATIENCE)
        with pytest.raises(OSError) as caught:
            for _ in range(500):
                tls.sendall(500 * ping)
        assert not isinstance(caught.value, TimeoutError)
        server.reported("ended (disconnected")


def test_a_user_that_proves_something_itself(serve):
    """Once all sites were asked, a user may be silent for as long as a proof takes."""
    server = serve(contributor(limits=Limits(idle_seconds=1.5)))
    peer = server.peer()
    for layer, group in sites(peer.manifest):
        peer.deltas(layer, group, activations(peer.manifest.inputs(group), 2))
    time.sleep(3.0)
    assert peer.finish().tokens == 2


def test_a_user_hears_that_it_was_silent_for_too_long(serve):
    server = serve(contributor(limits=Limits(idle_seconds=1.5)))
    peer = server.peer()
    peer.deltas(0, "attention", activations(16, 2))
    server.reported("ended (idle")
    with ends("refused", "idle: the user was silent"):
        peer.deltas(1, "attention", activations(16, 2))


def test_a_session_that_lasts_too_long(serve):
    """A user that keeps asking within the idle limit is stopped by the session limit."""
    server = serve(contributor(limits=Limits(session_seconds=3.0)))
    peer = server.peer()
    end = time.monotonic() + PATIENCE
    with ends("refused", "limit: the session has lasted too long"):
        while time.monotonic() < end:
            peer.deltas(0, "attention", activations(16, 1))
            time.sleep(0.05)
    server.reported("ended (limit")
    server.serves()


def test_connections_that_never_become_sessions(serve):
    """Sockets that are opened and left, before TLS and before HTTP, keep nobody out."""
    server = serve(contributor(limits=Limits(sessions=1)))
    with contextlib.ExitStack() as stack:
        for i in range(30):
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            if i % 3 == 1:
                plain.sendall(b"\x16\x03\x01")
            if i % 3 == 2:
                context = ssl.create_default_context(cafile=str(server.ca))
                tls = context.wrap_socket(plain, server_hostname="127.0.0.1")
                stack.enter_context(tls).sendall(b"GET / HTTP/1.1\r\n")
        server.serves()


def test_strangers_make_room_for_each_other(serve):
    """Idle connections without a token: of too many the oldest ends, users are let in, and stay."""
    with mock.patch.object(transport, "STRANGERS", 3), contextlib.ExitStack() as stack:
        server = serve(contributor(limits=Limits(sessions=2)))
        known = server.peer()
        address = ("127.0.0.1", server.port)
        taken = []
        for _ in range(8):
            taken.append(stack.enter_context(socket.create_connection(address, PATIENCE)))
        for old in taken[:5]:
            with contextlib.suppress(ConnectionResetError):
                assert old.recv(1) == b""
        for new in taken[5:]:
            new.settimeout(0.05)
            with pytest.raises(TimeoutError):
                new.recv(1)
        server.serves()
        known.deltas(0, "attention", activations(16))
        known.abandon()


async def silent(connection):
    await connection.wait_closed()


async def dribbling(connection):
    """The first fragment of a message that never ends."""

    async def pieces():
        for _ in range(10_000):
            yield b"ZKJA"
            await asyncio.sleep(0.1)

    await connection.recv()
    with contextlib.suppress(websockets.ConnectionClosed):
        await connection.send(pieces())


@pytest.mark.parametrize("handler", [silent, dribbling])
def test_a_stalled_contributor(certificates, handler):
    with fake(handler, certificates) as server, ends("idle"):
        Peer(channel_to(server, certificates), "alice", limits=SHORT)


def test_a_contributor_that_never_proves(serve):
    """The proof does not come in time: the user says so, and leaves."""
    owner = contributor()
    server, release = serve(owner), threading.Event()
    peer = server.peer(limits=Limits(proof_seconds=0.5))
    drive(peer)
    with (
        mock.patch.object(owner, "prove", lambda *_: release.wait(PATIENCE) and b""),
        ends("idle"),
    ):
        try:
            peer.finish()
        finally:
            release.set()
    server.serves()


def test_a_contributor_that_does_not_read(certificates):
    """The server answers the handshake and reads nothing more; a large query fills the buffers."""
    over = threading.Event()

    async def deaf(connection):
        connection.transport.pause_reading()
        while not over.is_set():
            await asyncio.sleep(0.05)
        connection.transport.abort()

    with fake(deaf, certificates, ping_interval=None) as server:
        channel = channel_to(server, certificates, SHORT)
        errors: list[Exception] = []

        def send() -> None:
            try:
                for _ in range(4):
                    channel.send(bytes(8 << 20))
            except SessionError as error:
                errors.append(error)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        sender.join(6.0)
        stuck = sender.is_alive()
        over.set()
        sender.join(PATIENCE)
        channel.close()
        assert not sender.is_alive()
    assert not stuck and errors[0].check == "idle"


def test_a_contributor_that_sends_unasked(certificates):
    """Frames come that nobody asked for; the user holds a few, not all of them.

    Both ends are in this process, and each holds about two frames for its part of TLS and of the
    socket: between four and five are held, about eight for a moment. A queue of the usual length
    at the user would hold another sixteen.
    """
    limits, sent, frames_sent = Limits(frame_bytes=1 << 20), [], 100

    async def handler(connection):
        frame = bytes(limits.frame_bytes)
        with contextlib.suppress(websockets.ConnectionClosed):
            for _ in range(frames_sent):
                await connection.send(frame)
                sent.append(1)
        await connection.wait_closed()

    with fake(handler, certificates) as server:
        tracemalloc.start()
        try:
            channel = channel_to(server, certificates, limits)
            before, count = time.monotonic(), -1
            while len(sent) != count or time.monotonic() < before + 1.0:
                count = len(sent)
                time.sleep(0.3)
            held, peak = (size / limits.frame_bytes for size in tracemalloc.get_traced_memory())
        finally:
            tracemalloc.stop()
        channel.close()
    assert held < 10 and peak < 16
    assert len(sent) < frames_sent


def test_a_contributor_that_sends_the_user_elsewhere(certificates):
    """A redirection does not hand the token to another server."""
    seen: list[str | None] = []

    def elsewhere(connection, request):
        response = connection.respond(302, "")
        response.headers["Location"] = f"wss://127.0.0.1:{other.port}"
        return response

    def watch(connection, request):
        seen.append(request.headers.get("Authorization"))
        return connection.respond(403, "")

    with (
        fake(silent, certificates, process_request=watch) as other,
        fake(silent, certificates, process_request=elsewhere) as first,
        fails("disconnected"),
    ):
        channel_to(first, certificates)
    assert not any(seen)


# Disconnections -------------------------------------------------------------------------------


def cut(channel) -> None:
    """The TCP connection ends without a word."""
    channel._loop.call_soon_threadsafe(channel._socket.transport.abort)
    channel.close()


@pytest.mark.parametrize("after", ["connect", "offer", "query"])
def test_a_user_that_disconnects(serve, after):
    server = serve(contributor(limits=Limits(sessions=1)))
    channel = server.channel()
    if after != "connect":
        peer = Peer(channel, "alice")
        if after == "query":
            peer.deltas(0, "attention", activations(16))
    cut(channel)
    server.reported("ended (disconnected)")
    server.serves()


def test_a_user_that_disconnects_while_its_proof_is_made(serve):
    """The proof is of no use any more; the next user gets its own."""
    owner = contributor()
    server, begun, release = serve(owner), threading.Event(), threading.Event()
    honest = owner.prove

    def prove(record, wanted):
        begun.set()
        assert release.wait(PATIENCE)
        return honest(record, wanted)

    peer = server.peer()
    drive(peer)
    with mock.patch.object(owner, "prove", prove):
        peer.channel.send(frames.encode(frames.Finish(peer._digest.value), peer._sent))
        assert begun.wait(PATIENCE)
        cut(peer.channel)
        server.serves()
        release.set()
        server.reported("ended (disconnected)")
    peer = server.peer("bob")
    drive(peer, seed=3)
    peer.finish()


def test_a_proof_that_takes_longer_than_a_session(serve):
    """The connection ends with the session's time, whatever the prover is at."""
    owner, release = contributor(limits=Limits(session_seconds=3.0)), threading.Event()
    server = serve(owner)
    peer = server.peer()
    drive(peer)
    with mock.patch.object(owner, "prove", lambda *_: release.wait(4 * PATIENCE) and b""):
        try:
            with ends("refused", "limit: the session has lasted too long"):
                peer.finish()
            server.reported("ended (limit")
        finally:
            release.set()
    server.serves()


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_contributor_that_disconnects(certificates, after):
    """The connection ends before the offer, or after so many frames of the user."""
    session = contributor().session()

    async def handler(connection):
        for _ in range(after):
            reply = session.receive(await connection.recv())
            if reply is not None:
                await connection.send(reply)
        connection.transport.abort()

    with fake(handler, certificates) as server, ends("disconnected"):
        drive(Peer(channel_to(server, certificates), "alice"))


def test_a_server_that_is_stopped(certificates, tmp_path):
    """Stopped while a session is open: the user is told, and what leaked is kept."""
    path = tmp_path / "leakage.json"
    owner = contributor(leakage=counting(1.0, path))
    with Server(owner, certificates["server"]) as server:
        peer = server.peer()
        peer.deltas(0, "attention", activations(16, 2))
    with ends("disconnected"):
        peer.deltas(0, "attention", activations(16, 2))
    assert Leakage(committed()[1], 1.0, path).dimension(0, "attention") == 2


def test_what_leaked_is_kept_when_a_user_leaves(serve, tmp_path):
    path = tmp_path / "leakage.json"
    server = serve(contributor(leakage=counting(0.5, path)))
    peer = server.peer()
    peer.deltas(0, "inner", activations(24, 5))
    cut(peer.channel)
    wait_until(path.exists)
    assert Leakage(committed()[1], 0.5, path).dimension(0, "inner") == 5
    peer = server.peer()
    with ends("refused", "leakage: "):
        peer.deltas(0, "inner", activations(24, 12, 6))
    server.reported("ended (leakage")


def test_one_site_that_is_counted_does_not_stop_the_others(serve, tmp_path):
    """While the directions of a query are counted at one site, others are answered."""
    owner = contributor(leakage=counting(1.0, tmp_path / "leakage.json"))
    server = serve(owner)
    slow, quick = server.peer("bob"), server.peer("carol")
    with owner.leakage._locks[0, "attention"]:
        query = frames.Query(0, "attention", activations(16))
        slow.channel.send(frames.encode(query, slow._sent))
        time.sleep(0.3)
        quick.deltas(1, "attention", activations(16))
        quick.deltas(0, "inner", activations(24))
        with fails("idle"):
            slow.channel.receive(0.2)
    assert slow.channel.receive(PATIENCE)
    for peer in (slow, quick):
        peer.abandon()


def test_a_query_of_many_equal_rows_is_refused(serve):
    """Rows are bounded, and a user splits what is longer."""
    server = serve(contributor(limits=Limits(query_rows=100)))
    peer = server.peer(limits=Limits(query_rows=100))
    assert len(peer.deltas(0, "attention", activations(16, 250))["q_proj"]) == 250
    peer.channel.send(frames.encode(frames.Query(0, "inner", activations(24, 101)), peer._sent))
    reply = frames.decode(peer.channel.receive(PATIENCE), peer._received, ROOM)
    assert isinstance(reply, frames.Refusal) and reply.check == "limit"
    peer.abandon()
    server.serves()


# What the owner keeps and hears -------------------------------------------------------------------


BROKEN_LOGS = {
    "raises": mock.Mock(side_effect=OSError(28, "No space left on device")),
    "is closed": mock.Mock(side_effect=BrokenPipeError),
    "ends the process": mock.Mock(side_effect=SystemExit(1)),  # as rich does
}


@pytest.mark.parametrize("name", BROKEN_LOGS)
def test_a_log_that_cannot_be_written(certificates, name):
    """Strangers and users come and go; every place is free again, and a proof is made."""
    owner = contributor(limits=Limits(sessions=2))
    with Server(owner, certificates["server"], report=BROKEN_LOGS[name]) as server:
        for _ in range(3):
            with fails("token"):
                server.channel("wrong")
            server.serves()
        peer = server.peer()
        drive(peer)
        peer.finish()
        wait_until(lambda: BROKEN_LOGS[name].call_count > 6)
        server.serves()


def test_a_log_that_nobody_reads(certificates):
    """A pipe is full: the writer waits for ever, and nobody else does."""
    release = threading.Event()
    owner = contributor(limits=Limits(sessions=1))
    with Server(
        owner, certificates["server"], report=lambda line: release.wait(PATIENCE)
    ) as server:
        for _ in range(3):
            server.serves()
            with fails("token"):
                server.channel("wrong")
        release.set()


def test_lines_that_were_lost_are_counted():
    written, gate, begun = [], threading.Event(), threading.Event()

    def write(line):
        begun.set()
        assert gate.wait(PATIENCE)
        written.append(line)

    log = Log(write)
    log("first")
    assert begun.wait(PATIENCE)
    for i in range(MAX_LINES + 7):
        log(str(i))
    gate.set()
    wait_until(lambda: len(written) == MAX_LINES + 2)
    log.close()
    assert written[1] == "7 lines could not be written"


def test_a_full_disk(serve, tmp_path):
    """Nothing can be written: every query is refused, and no place is lost; then there is room."""
    owner = contributor(leakage=counting(1.0, tmp_path / "leakage.json"), limits=Limits(sessions=2))
    server = serve(owner)
    before = (tmp_path / "leakage.json").read_bytes()
    full = mock.patch("os.write", side_effect=OSError(28, "No space left on device"))
    with full:
        for _ in range(5):
            peer = server.peer()
            with ends("refused", "internal"):
                peer.deltas(0, "attention", activations(16))
    server.reported("No space left on device", 5)
    assert (tmp_path / "leakage.json").read_bytes() == before
    peer = server.peer()
    drive(peer)
    peer.finish()


def test_a_session_that_cannot_be_kept(certificates, tmp_path):
    """The folder of records is gone: the owner hears of it, users are served."""
    (tmp_path / "file").write_text("")
    owner, keep = contributor(limits=Limits(sessions=1)), tmp_path / "file" / "kept"
    with Server(owner, certificates["server"], keep=keep) as server:
        for _ in range(2):
            peer = server.peer()
            drive(peer)
            peer.finish()
        server.reported("nothing could be written", 2)
        server.serves()


def test_nothing_of_a_session_is_held_after_it(serve):
    """What was asked and answered is let go at once, whoever still has the session."""
    owner, made = contributor(), []
    make = owner.session

    def session(account):
        made.append(make(account))
        return made[-1]

    with mock.patch.object(owner, "session", session):
        server = serve(owner)
        for end in ("leaves", "is refused"):
            peer = server.peer()
            peer.deltas(0, "attention", activations(16, 50))
            assert made[-1].record.size > 0
            if end == "leaves":
                peer.abandon()
            else:
                peer.channel.send(b"?")
            server.reported("ended (", len(made))
            assert made[-1].record.size == 0
            peer.channel.close()


# Proofs in turn -----------------------------------------------------------------------------------


def finish_raw(peer: Peer) -> None:
    """Ask for a proof and do not wait for it."""
    peer.channel.send(frames.encode(frames.Finish(peer.digest), peer._sent))


def test_proofs_are_made_in_order_and_everybody_is_told(serve):
    """The first is proved, the others hear how many are before them, fewer every time."""
    owner = contributor()
    server, gate = serve(owner), threading.Event()
    honest, order, told = owner.prove, [], {}

    def prove(record, wanted):
        order.append(record.session)
        assert gate.wait(PATIENCE)
        return honest(record, wanted)

    peers = [server.peer(f"user {i}") for i in range(5)]
    for i, peer in enumerate(peers):
        drive(peer, seed=i)
    digests = [peer.digest for peer in peers]
    errors: list[Exception] = []

    def finish(peer: Peer) -> None:
        peer.progress = lambda message: told.setdefault(peer.name, []).append(message)
        try:
            peer.finish()
        except Exception as error:
            errors.append(error)

    with mock.patch.object(owner, "prove", prove):
        users = []
        for i, peer in enumerate(peers):
            users.append(threading.Thread(target=finish, args=(peer,)))
            users[-1].start()
            wait_until(lambda peer=peer, i=i: bool(told.get(peer.name) if i else order))
        gate.set()
        for user in users:
            user.join(4 * PATIENCE)
    assert not errors and order == digests
    for i in range(1, 5):
        counts = [int(message.split()[0]) for message in told[f"user {i}"]]
        assert counts == sorted(set(counts), reverse=True) and counts[0] == i
    assert owner.sealed.remaining == 35


def test_users_that_left_cost_no_opening_and_no_time(serve):
    """Four users ask for a proof and go; the next one's is the first that is made."""
    owner = contributor()
    server, gate, begun = serve(owner), threading.Event(), []
    honest = owner.prove

    def prove(record, wanted):
        begun.append(record.session)
        assert gate.wait(PATIENCE)
        return honest(record, wanted)

    with mock.patch.object(owner, "prove", prove):
        gone = [server.peer(f"user {i}") for i in range(4)]
        for i, peer in enumerate(gone):
            drive(peer, seed=i)
            finish_raw(peer)
            wait_until(lambda: begun)
        for peer in gone:
            cut(peer.channel)
        server.reported("ended (disconnected)", 4)
        peer = server.peer("bob")
        drive(peer, seed=9)
        digest = peer.digest
        gate.set()
        peer.finish()
    assert begun == [gone[0].digest, digest]  # the first was under way when its user left
    assert owner.sealed.remaining == 39


def test_a_proof_stops_at_the_next_phase_when_its_user_leaves(serve):
    owner, phases, begun = contributor(), [], threading.Event()
    gate = threading.Event()

    def progress(name):
        phases.append(name)
        if name == "lookups":
            begun.set()
            assert gate.wait(PATIENCE)

    owner.progress = progress
    server = serve(owner)
    peer = server.peer()
    drive(peer)
    finish_raw(peer)
    assert begun.wait(PATIENCE)
    cut(peer.channel)
    server.reported("ended (disconnected)")
    gate.set()
    owner.progress = None
    peer = server.peer("bob")
    drive(peer)
    peer.finish()
    assert phases[-1] == "lookups" and owner.sealed.remaining == 39


@pytest.mark.parametrize("word", ["a query", "a refusal", "noise", "text"])
def test_a_user_that_speaks_while_its_proof_is_made(serve, word):
    """Whatever it says, that is the end: no proof is made for it, and no opening taken."""
    owner, gate, begun = contributor(), threading.Event(), threading.Event()
    server = serve(owner)

    def progress(name):
        begun.set()
        assert gate.wait(PATIENCE)

    owner.progress = progress
    peer = server.peer()
    drive(peer)
    finish_raw(peer)
    assert begun.wait(PATIENCE)
    said = {
        "a query": frames.encode(frames.Query(0, "inner", activations(24)), peer._sent + 1),
        "a refusal": frames.encode(frames.Refusal("bye", ""), peer._sent + 1),
        "noise": b"?",
        "text": "hello",
    }[word]
    peer.channel._wait(peer.channel._socket.send(said), PATIENCE)
    server.reported("ended (refused" if word == "a refusal" else "ended (frame")
    gate.set()
    owner.progress = None
    server.serves()
    assert owner.sealed.remaining == 40


class Silent:
    """A user on a connection that answers no pings."""

    def __init__(self, tls: ssl.SSLSocket, protocol: ClientProtocol):
        self.tls, self.protocol, self.digest, self.sent = tls, protocol, Digest(), 0
        tls.settimeout(PATIENCE)

    def say(self, frame: frames.Frame, answered: bool = False) -> None:
        data = frames.encode(frame, self.sent)
        self.sent += 1
        self.digest.update(data)
        self.protocol.send_binary(data)
        self.tls.sendall(b"".join(self.protocol.data_to_send()))
        while answered:
            self.protocol.receive_data(self.tls.recv(1 << 16))
            for event in self.protocol.events_received():
                if isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                    self.digest.update(bytes(event.data))
                    answered = False


def test_a_user_that_answers_no_ping_gets_no_proof(serve):
    """Its connection stands, but nobody is there: no opening is taken for it."""
    owner = contributor()
    server = serve(owner)
    with server.unread() as connection, mock.patch.object(server_module, "PONG_SECONDS", 0.5):
        user = Silent(*connection)
        user.say(frames.Hello(NONCE, "s100"), answered=True)
        user.say(frames.Accept(owner.manifest.digest))
        for layer, group in sites(owner.manifest):
            x = activations(owner.manifest.inputs(group))
            user.say(frames.Query(layer, group, x), answered=True)
        user.say(frames.Finish(user.digest.value))
        server.reported("ended (idle")
    server.serves()
    assert owner.sealed.remaining == 40


def test_a_contributor_that_makes_its_user_wait(certificates):
    """Places that do not fall end the session; it cannot be kept waiting for ever."""
    owner = contributor()

    async def handler(connection):
        session = owner.session()
        while not session.wants_proof:
            reply = session.receive(await connection.recv())
            if reply is not None:
                await connection.send(reply)
        for ahead in (5, 3, 3):
            await connection.send(session.waiting(ahead))
        await connection.wait_closed()

    with fake(handler, certificates) as server:
        peer = Peer(channel_to(server, certificates), "alice")
        drive(peer)
        with ends("frame", "3 proofs come first"):
            peer.finish()


# Many users -----------------------------------------------------------------------------------


def test_too_many_sessions(serve):
    server = serve(contributor(limits=Limits(sessions=2)))
    peers = [server.peer(name) for name in ("alice", "bob")]
    for _ in range(3):
        with fails("busy"):
            server.channel()
    with fails("token"):
        server.channel("wrong")
    server.reported("too many sessions", 3)
    peers[0].deltas(0, "attention", activations(16))
    peers[0].abandon()
    server.reported("ended (")
    server.serves()
    peers[1].abandon()


def test_busy_after_the_handshake(certificates):
    """Two users at the same moment, one place left: the second is told why it is sent away."""

    async def handler(connection):
        await connection.close(websockets.CloseCode.TRY_AGAIN_LATER, "busy")

    with fake(handler, certificates) as server, ends("busy"):
        Peer(channel_to(server, certificates), "alice")


def malicious(server: Server, stop: threading.Event) -> None:
    """Wrong tokens, noise, oversize frames, replays, cut connections, one after the other."""
    rng = random.Random(9)
    hello = frames.encode(frames.Hello(NONCE, "s100"), 0)
    accept = frames.encode(frames.Accept(committed()[1].digest), 1)
    query = frames.encode(frames.Query(0, "inner", activations(24, 50)), 2)
    attempts: list[list[bytes]] = [
        [rng.randbytes(1000)],
        [hello, hello],
        [hello, accept, query, query],
        [hello, accept, query[:-1]],
        [hello, accept, frames.encode(frames.Finish(NONCE), 2)],
        [hello, accept, frames.encode(frames.Query(0, "inner", activations(16)), 2)],
        [hello, bytes(3 << 20)],
        [hello, accept, query, frames.encode(frames.FinishSealed(NONCE, b"[]", b""), 3)],
    ]
    while not stop.is_set():
        with contextlib.suppress(SessionError):
            server.channel("wrong").close()
        for attempt in attempts:
            with contextlib.suppress(SessionError):
                channel = server.channel()
                for data in attempt:
                    channel.send(data)
                channel.receive(0.2)
                cut(channel)
            if stop.is_set():
                return


def test_sixteen_users(serve):
    """Fourteen honest users, one that stalls and one that attacks, all at once: the honest ones
    get the right deltas and verified proofs, and nothing of a session is kept after it.
    """
    owner = contributor(limits=Limits(frame_bytes=2 << 20, sessions=16, idle_seconds=PATIENCE))
    sessions: list[weakref.ref] = []
    make = owner.session

    def session(account):
        made = make(account)
        sessions.append(weakref.ref(made))
        return made

    errors: list[BaseException] = []
    done: list[str] = []

    def honest(i: int) -> None:
        try:
            peer = server.peer(f"user {i}")
            for layer, group in sites(peer.manifest):
                x = activations(peer.manifest.inputs(group), 2, 1000 * i + layer)
                told, expected = peer.deltas(layer, group, x), local_deltas(0, layer, group, x)
                assert all(np.array_equal(told[t], expected[t]) for t in expected)
            assert peer.finish().proof is not None
            done.append(peer.name)
        except BaseException as error:
            errors.append(error)

    with mock.patch.object(owner, "session", session), contextlib.ExitStack() as stack:
        server = serve(owner)
        stalled = stack.enter_context(server.raw())
        stalled.send(frames.encode(frames.Hello(NONCE, "s100"), 0))
        stop = threading.Event()
        attacker = threading.Thread(target=malicious, args=(server, stop))
        users = [threading.Thread(target=honest, args=(i,)) for i in range(14)]
        for thread in (attacker, *users):
            thread.start()
        for thread in users:
            thread.join(4 * PATIENCE)
        stop.set()
        attacker.join(PATIENCE)
        assert not errors, errors
        assert len(done) == 14 and len(set(done)) == 14
        stack.close()
        server.reported("proof accepted", 14)
        opened = sum(": opened" in line for line in server.lines)
        server.reported("ended (", opened - 14)
        assert opened > 15 and len(sessions) == opened
        server.serves()

        def forgotten() -> bool:
            gc.collect()
            return not any(made() for made in sessions)

        wait_until(forgotten)


def test_greedy_users_are_bounded(serve):
    """Sixteen users who each ask until they are refused: the server keeps what it says, no more."""
    frame, record = 1 << 20, 1 << 20
    limits = Limits(frame_bytes=frame, session_bytes=record, sessions=16)
    owner = contributor(limits=limits)
    server = serve(owner)
    x = np.zeros((1000, 24), np.int16)  # nothing new to learn, so the leakage limit does not help
    refused: list[str] = []
    holding = threading.Barrier(17)

    def greedy() -> None:
        peer = server.peer()
        sent = peer._sent
        for _ in range(100):
            peer.channel.send(frames.encode(frames.Query(0, "inner", x), sent))
            sent += 1
            if sent == 10:
                holding.wait(PATIENCE)  # all sessions are full or nearly so
            reply = frames.decode(peer.channel.receive(PATIENCE), sent - 2, ROOM)
            if isinstance(reply, frames.Refusal):
                refused.append(reply.check)
                break
        peer.abandon()

    tracemalloc.start()
    try:
        users = [threading.Thread(target=greedy) for _ in range(16)]
        for thread in users:
            thread.start()
        holding.wait(PATIENCE)
        for thread in users:
            thread.join(PATIENCE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused == ["limit"] * 16
    # a record each, and the frames that users and server have at hand
    assert peak < 16 * (record + 4 * frame)
    server.serves()
