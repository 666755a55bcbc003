"""The tracker: TVM's own, which lists and lends devices only to those who know the key.

It sends no code and runs none; what it gives out lets a client into a server. It listens on loopback unless
told otherwise, for the key crosses the network unencrypted.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
import struct
from collections.abc import Callable
from typing import Any

from ddimcache.errors import UsageError
from ddimcache.runtime.rpc_protocol import set_keepalive
from ddimcache.runtime.tracker import name_of

logger = logging.getLogger(__name__)

_MOST_CONNECTIONS = 512
_GREETING_SECONDS = 10


def make_tracker(listener: socket.socket, key: str) -> Callable[[], None]:
    """Return a function that answers on a listening socket until the process is interrupted.

    Raises :class:`UsageError` where the package that TVM's tracker is made with is missing.
    """
    try:
        from tvm.rpc import tracker as tvm_tracker
    except ImportError as error:
        remedy = "pip install 'ddimcache[tracker]'"
        raise UsageError("package tornado is missing", where="tracker", remedy=remedy) from error
    tvm_tracker.logger.setLevel(logging.ERROR)
    asyncio.set_event_loop(asyncio.new_event_loop())
    run: Callable[[], None] = _tracker_class(tvm_tracker, key)(listener, stop_key=None).run
    return run


def _tracker_class(tvm_tracker: Any, key: str) -> Callable[..., Any]:
    from tvm.rpc.base import RPC_TRACKER_MAGIC, TrackerCode

    magic = struct.pack("<i", RPC_TRACKER_MAGIC)
    prefix = name_of(key, "")

    def is_ours(name: object) -> bool:
        return isinstance(name, str) and hmac.compare_digest(name[: len(prefix)].encode(), prefix.encode())

    class Connection(tvm_tracker.TCPEventHandler):
        """One server or client. TVM's handler trusts whoever connects; this one asks for the key."""

        def __init__(self, tracker: Any, connection: socket.socket, address: tuple[Any, ...]) -> None:
            super().__init__(tracker, connection, address)
            set_keepalive(connection)
            self._greeting: bytes | None = b""
            self._ioloop.call_later(_GREETING_SECONDS, self._expect_greeting)

        def _expect_greeting(self) -> None:
            if self._greeting is not None:
                self.close()

        def on_message(self, message: bytes) -> None:
            try:
                if self._greeting is not None:
                    self._greeting += message
                    if len(self._greeting) < len(magic):
                        return
                    message = self._greeting[len(magic) :]
                    if not self._greeting.startswith(magic):
                        logger.info("%s: speaks something else", self.name())
                        self.close()
                        return
                    self._greeting, self._init_req_nbytes = None, 0
                    self.write_message(magic)
                if message:
                    super().on_message(message)
            except Exception as error:  # whatever it sent, the tracker goes on without it
                logger.info("%s: sent what cannot be read: %s", self.name(), error)
                self.close()

        def call_handler(self, args: Any) -> None:
            if not self._may(args):
                logger.warning("%s: refused", self.name())
                self.ret_value([TrackerCode.FAIL, None])
                self.signal_close()
                return
            super().call_handler(args)

        def _may(self, args: Any) -> bool:
            code = args[0]
            if code == TrackerCode.PUT:
                port, match_key = args[2]
                is_match_key = isinstance(match_key, str) and match_key.rpartition(":")[0] == args[1]
                return is_ours(args[1]) and type(port) is int and is_match_key
            if code == TrackerCode.REQUEST:
                return is_ours(args[1]) and type(args[3]) is int
            if code == TrackerCode.UPDATE_INFO:
                server, colon, name = args[1]["key"].partition(":")
                return bool(server == "server" and colon and is_ours(name) and len(args[1]["addr"]) == 2)
            if code == TrackerCode.SUMMARY:
                return len(args) > 1 and is_ours(f"{args[1]}/")
            return code in (TrackerCode.PING, TrackerCode.GET_PENDING_MATCHKEYS)

    class Tracker(tvm_tracker.TrackerServerHandler):
        """Accepts, whatever happens, and lists names without the key."""

        def _on_event(self, _: object) -> None:
            while True:
                try:
                    connection, address = self._sock.accept()
                except BlockingIOError:
                    return
                except OSError as error:
                    logger.warning("cannot accept: %s", error)
                    return
                if len(self._connections) >= _MOST_CONNECTIONS:
                    connection.close()
                else:
                    Connection(self, connection, address)

        def summary(self) -> dict[str, Any]:
            found = super().summary()
            queues = {name.removeprefix(prefix): queue for name, queue in found["queue_info"].items()}
            servers = [
                {**entry, "key": entry["key"].replace(prefix, "", 1)} for entry in found["server_info"]
            ]
            return {"queue_info": queues, "server_info": servers}

    return Tracker
