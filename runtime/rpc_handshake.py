"""The server's half of TVM's handshake, for many connections at once and without waiting for any of them."""

from __future__ import annotations

import socket
import struct
import time

from ddimcache.runtime.rpc_protocol import LONGEST_KEY, PROBE

HANDSHAKE_SECONDS = 5.0
"""For all of it: one letter now and then does not keep a connection open."""


class Handshake:
    """What has come of a connection's first message: TVM's magic number, a length, a key and options."""

    def __init__(self, connection: socket.socket, address: str) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.address = address
        self.deadline = time.monotonic() + HANDSHAKE_SECONDS
        self._content = b""

    def read(self) -> tuple[str, bool] | None:
        """Take in what has come; returns the key and whether it is a probe, None while some is missing.

        Raises OSError for one that was closed or speaks another protocol, UnicodeError for a key of no text.
        Not a byte behind the handshake is read: the rest belongs to TVM.
        """
        from tvm.rpc import base

        while (missing := self._missing()) > 0:
            try:
                piece = self.connection.recv(missing)
            except BlockingIOError:
                return None
            if not piece:
                raise OSError("the connection was closed")
            self._content += piece
            magic = struct.pack("<i", base.RPC_MAGIC)
            if not magic.startswith(self._content[:4]) and not self._content.startswith(magic):
                raise OSError("not a client of TVM's RPC")
        words = self._content[8:].decode().split()
        return (words[0], PROBE in words[1:]) if words else ("", False)

    def answer(self, code: int, greeting: bytes | None = None) -> None:
        """Send TVM's code, and the greeting behind it; raises OSError."""
        tail = b"" if greeting is None else struct.pack("<i", len(greeting)) + greeting
        self.connection.sendall(struct.pack("<i", code) + tail)

    def _missing(self) -> int:
        if len(self._content) < 8:
            return 8 - len(self._content)
        [length] = struct.unpack_from("<i", self._content, 4)
        if not 0 <= length <= LONGEST_KEY:
            raise OSError("not a client of TVM's RPC")
        return int(8 + length - len(self._content))
