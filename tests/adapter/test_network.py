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
from websockets.protocol import State
from websockets.sync import client as ws_client
from websockets.uri import parse_uri

from adapter.common import (
    NONCE,
    ROOM,
    activations,
    committed,
    contributor,
    drive,
    ends,
    local_deltas,
    sites,
)
from zkjax.errors import SessionError
from zkjax.proofs.adapter import credentials, frames, transport
from zkjax.proofs.adapter.contributor import Contributor
from zkjax.proofs.adapter.credentials import make_certificate, server_context
from zkjax.proofs.adapter.leakage import Leakage
from zkjax.proofs.adapter.peer import Peer
from zkjax.proofs.adapter.record import Limits
from zkjax.proofs.adapter.server import serving
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

    def __init__(self, owner: Contributor, folder: Path, token: str = TOKEN):
        self.owner, self.lines, self.ca = owner, [], folder / "certificate.pem"
        super().__init__(serving(owner, token, tls_of(folder), report=self.lines.append))

    @property
    def url(self) -> str:
        return f"wss://127.0.0.1:{self.port}"

    def channel(self, token: str = TOKEN, limits: Limits | None = None):
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
    server.reported("wrong token")
    assert not any(TOKEN in line or "opened" in line for line in server.lines)
    server.serves()


@pytest.mark.parametrize("token", ["", TOKEN + "\n", TOKEN.encode(), "\u00e9", None])
def test_a_token_that_is_none(serve, token):
    """It is refused before anything is sent, and not shown."""
    with pytest.raises(SessionError) as caught:
        serve().channel(token)
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
    with transport.listen("127.0.0.1", 0, Limits()) as taken:
        for host, port in (("127.0.0.1", taken.getsockname()[1]), ("192.0.2.1", 0), ("no.test", 0)):
            with fails("address"):
                transport.listen(host, port, Limits())


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
    server.reported("ended (disconnected)")
    server.serves()


def test_an_oversize_frame_in_fragments(serve):
    """The limit is on the whole message, however it is cut."""
    server = serve(contributor(limits=Limits(frame_bytes=1 << 20)))
    with server.raw() as raw, pytest.raises(websockets.ConnectionClosed):
        raw.send(bytes(1 << 16) for _ in range(64))
        raw.recv(PATIENCE)
    server.reported("ended (disconnected)")
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
    server = serve(contributor(limits=Limits(idle_seconds=1.5)))
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
    with pytest.raises(SessionError):
        while time.monotonic() < end:
            peer.deltas(0, "attention", activations(16, 1))
            time.sleep(0.05)
    server.reported("ended (")
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


def test_more_connections_than_the_server_takes(serve):
    """Those beyond are closed at once; when others have gone, users are served again."""
    with mock.patch.object(transport, "STRANGERS", 3):
        server = serve(contributor(limits=Limits(sessions=1)))
    address = ("127.0.0.1", server.port)
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_connection(address)) for _ in range(4)]
        for _ in range(20):
            more = stack.enter_context(socket.create_connection(address, PATIENCE))
            with contextlib.suppress(ConnectionResetError):
                assert more.recv(1) == b""
        with fails("disconnected"):
            server.channel()
        for plain in taken:
            plain.settimeout(0.05)
            with pytest.raises(TimeoutError):
                plain.recv(1)

    def admitted() -> bool:
        with contextlib.suppress(SessionError):
            server.channel().close()
            return True
        return False

    wait_until(admitted)


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
        mock.patch.object(owner, "prove", lambda record: release.wait(PATIENCE) and b""),
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

    def prove(record):
        begun.set()
        assert release.wait(PATIENCE)
        return honest(record)

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
    with mock.patch.object(owner, "prove", lambda record: release.wait(4 * PATIENCE) and b""):
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
    owner = contributor(leakage=Leakage(committed()[1], 1.0, path))
    with Server(owner, certificates["server"]) as server:
        peer = server.peer()
        peer.deltas(0, "attention", activations(16, 2))
    with ends("disconnected"):
        peer.deltas(0, "attention", activations(16, 2))
    assert Leakage(committed()[1], 1.0, path).dimension(0, "attention") == 2


def test_what_leaked_is_kept_when_a_user_leaves(serve, tmp_path):
    path = tmp_path / "leakage.json"
    server = serve(contributor(leakage=Leakage(committed()[1], 0.5, path)))
    peer = server.peer()
    peer.deltas(0, "inner", activations(24, 5))
    cut(peer.channel)
    wait_until(path.exists)
    assert Leakage(committed()[1], 0.5, path).dimension(0, "inner") == 5
    peer = server.peer()
    with ends("refused", "leakage: "):
        peer.deltas(0, "inner", activations(24, 12, 6))
    server.reported("ended (leakage")


def test_counts_that_cannot_be_written_are_reported(serve):
    """The disk is full: the owner must hear of it, its counts are gone after a restart."""
    owner = contributor()
    server = serve(owner)
    with mock.patch.object(owner.leakage, "save", side_effect=OSError("no space left")):
        peer = server.peer()
        peer.deltas(0, "attention", activations(16))
        peer.abandon()
        server.reported("no space left")
    server.serves()


def test_counting_for_one_user_does_not_stop_the_others(serve, tmp_path):
    """While the directions of a large query are counted, another user leaves and a third asks."""
    owner = contributor(leakage=Leakage(committed()[1], 1.0, tmp_path / "leakage.json"))
    server = serve(owner)
    leaving, asking = server.peer("bob"), server.channel()
    with owner.leakage._lock:
        leaving.channel.send(frames.encode(frames.Refusal("bye", ""), leaving._sent))
        time.sleep(0.5)
        asking.send(frames.encode(frames.Hello(NONCE, "s100"), 0))
        try:
            answered = bool(asking.receive(PATIENCE))
        except SessionError:
            answered = False
    leaving.channel.close()
    asking.close()
    assert answered


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

    def session():
        made = make()
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
