"""A server's way to clients who cannot reach it: a connection to TVM's proxy, which waits there for one.

The proxy (``python -m tvm.exec.rpc_proxy``) joins a server and a client that both came to it with the same
key, and hands each the other's half of the handshake. Nothing here waits: the server's loop calls it when
something has come or time has passed, so a proxy that hangs, dies or comes back later disturbs nobody.
"""

from __future__ import annotations

import logging
import select
import socket
import struct
import time
from collections.abc import Callable

from ddimcache.runtime.rpc_handshake import Handshake
from ddimcache.runtime.rpc_protocol import set_keepalive

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 2.0
_CONNECT_SECONDS = 10.0


class ProxyLink:
    """One connection to a proxy at a time, for as long as the device is free.

    Parameters
    ----------
    proxy : (host, port) where it listens.
    hello : the server's half of the handshake, whose first word is ``server:KEY``.
    watch, forget : tell the server's loop to call a function when a socket is ready, and no longer.
    arrived : is given the client that came: its connection, and what :meth:`Handshake.read` says of it.
    """

    def __init__(
        self,
        proxy: tuple[str, int],
        hello: str,
        watch: Callable[[int, int, Callable[[], None]], None],
        forget: Callable[[int], None],
        arrived: Callable[[Handshake, str, bool], None],
    ) -> None:
        self._proxy = proxy
        self._hello = hello.encode()
        self._watch, self._forget = watch, forget
        self._arrived = arrived
        self._handshake: Handshake | None = None
        self._is_connected = False
        self._retry_at = self._give_up_at = 0.0
        self._was_lost = False

    def __str__(self) -> str:
        return f"proxy {self._proxy[0]}:{self._proxy[1]}"

    def tick(self, busy: bool) -> None:
        """Do what is due; to be called at least once a second."""
        now = time.monotonic()
        if busy:
            self.close()
        elif self._handshake is None:
            if now >= self._retry_at:
                self._connect()
        elif not self._is_connected and now >= self._give_up_at:
            self._lose("does not answer")

    def close(self) -> None:
        """Leave the proxy."""
        if self._handshake is not None:
            self._forget(self._handshake.connection.fileno())
            self._handshake.connection.close()
            self._handshake = None
        self._is_connected = False

    def _connect(self) -> None:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(*self._proxy, type=socket.SOCK_STREAM)[0]
            connection = socket.socket(family, kind, protocol)
            self._handshake = Handshake(connection, str(self))
            set_keepalive(connection)
            connection.connect_ex(address)
        except OSError as error:
            self._lose(str(error))
            return
        self._give_up_at = time.monotonic() + _CONNECT_SECONDS
        self._watch(connection.fileno(), select.POLLOUT, self._connected)

    def _connected(self) -> None:
        from tvm.rpc.base import RPC_MAGIC

        assert self._handshake is not None
        connection = self._handshake.connection
        problem = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            self._lose(f"cannot be reached: error {problem}")
            return
        try:
            connection.sendall(struct.pack("<ii", RPC_MAGIC, len(self._hello)) + self._hello)
        except OSError as error:
            self._lose(str(error))
            return
        self._is_connected = True
        self._forget(connection.fileno())
        self._watch(connection.fileno(), select.POLLIN, self._receive)

    def _receive(self) -> None:
        # What the proxy says of a client has the form of a client's own handshake.
        assert self._handshake is not None
        try:
            words = self._handshake.read()
        except (OSError, UnicodeError) as error:
            self._lose(f"sent this server away: {error}")
            return
        if words is None:
            return
        if self._was_lost:
            logger.info("%s: reached again", self)
        self._was_lost = False
        handshake, self._handshake = self._handshake, None
        self._is_connected = False
        self._forget(handshake.connection.fileno())
        try:
            self._arrived(handshake, *words)
        finally:
            handshake.connection.close()

    def _lose(self, reason: str) -> None:
        if not self._was_lost:
            logger.warning("%s: lost: %s; it is tried again and again", self, reason)
        self._was_lost = True
        self.close()
        self._retry_at = time.monotonic() + _RETRY_SECONDS
