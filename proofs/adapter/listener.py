"""A listening socket with a limit on open connections, whether or not they have shown a token."""

from __future__ import annotations

import socket
import weakref

from zkjax.errors import SessionError
from zkjax.proofs.adapter.limits import Limits

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
