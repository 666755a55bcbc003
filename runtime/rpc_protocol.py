"""What client and server of a remote session say to each other over TVM's RPC.

The server registers global functions ``ddimcache.session.<method>``. Each takes one message and returns one;
a message is the length of a JSON object (four bytes, little-endian), the object, and raw bytes behind it. The
object of a reply is either ``{"result": …}`` or ``{"error": {"kind", "what", "where", "remedy"}}``, so that
an expected error arrives as what it was raised.

A connection begins with TVM's handshake. The server's half of it carries :class:`ServerInfo` as JSON behind
``server:ddimcache``; a client that adds :data:`PROBE` to its key gets that answer and no session. A proxy
hands on both halves; behind it the server's is ``server:KEY`` and the same JSON.
"""

from __future__ import annotations

import importlib.metadata
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

from ddimcache import errors
from ddimcache.errors import DdimcacheError, RemoteError
from ddimcache.records import RecordProblem, from_json, loads, to_json

PROTOCOL = 10
PREFIX = "ddimcache.session."
PROBE = "-ddimcache-probe"
GREETING = "server:"
LONGEST_KEY = 1024
CHUNK_BYTES = 4 << 20
"""Files are sent in pieces of this size."""


@dataclass(frozen=True)
class ServerInfo:
    """What a server says of itself before a session begins.

    ``kind``, ``host`` and ``device_name``, the driver's name of the device, are for choosing what to compile
    for; ``busy`` is whether a client is at work.
    """

    protocol: int
    ddimcache: str
    tvm: str
    device: str
    device_name: str
    kind: str
    host: str
    busy: bool

    def greeting(self, name: str = "ddimcache") -> str:
        """Return the server's half of the handshake; a proxy looks for the key where the ``name`` is."""
        return f"{GREETING}{name} {json.dumps(to_json(self))}"

    @classmethod
    def of_greeting(cls, text: str) -> ServerInfo | None:
        """Read a greeting; None when it is not from a server of ours."""
        if not text.startswith(GREETING):
            return None
        try:
            return from_json(cls, loads(text.partition(" ")[2]))
        except RecordProblem:
            return None


def set_keepalive(connection: socket.socket) -> None:
    """Let the system give up a connection whose other end died without a word a minute ago."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def tvm_version() -> str:
    """Return the version of TVM without importing it."""
    return importlib.metadata.version("apache-tvm")


def pack(head: dict[str, Any], body: bytes = b"") -> bytes:
    """Return the bytes of a message."""
    text = json.dumps(head, allow_nan=False).encode()
    return struct.pack("<I", len(text)) + text + body


def unpack(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Return object and raw bytes of a message; raises :class:`RemoteError` when it is torn."""
    try:
        [length] = struct.unpack_from("<I", message)
        head = loads(message[4 : 4 + length])
    except (struct.error, RecordProblem) as error:
        raise RemoteError(f"sent a message that cannot be read: {error}") from error
    if len(message) < 4 + length or not isinstance(head, dict):
        raise RemoteError("sent a torn message")
    return head, message[4 + length :]


def error_reply(error: DdimcacheError) -> bytes:
    """Return the reply that raises ``error`` at the client."""
    fields = {"what": error.what, "where": error.where, "remedy": error.remedy}
    return pack({"error": {"kind": type(error).__name__, **fields}})


def read_reply(message: bytes) -> tuple[Any, bytes]:
    """Return result and raw bytes of a reply, or raise the error that it carries."""
    head, body = unpack(message)
    if "error" in head:
        error = head["error"]
        kind = getattr(errors, str(error.get("kind")), None)
        if not (isinstance(kind, type) and issubclass(kind, DdimcacheError)):
            kind = RemoteError
        raise kind(str(error.get("what")), where=error.get("where"), remedy=error.get("remedy"))
    return head.get("result"), body
