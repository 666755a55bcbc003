"""How a server keeps a tracker informed: what it is, whether it is free, and what lets a client in.

It never waits: the server's loop calls it when something has come or time has passed, so a tracker that
hangs, dies or comes back later disturbs nobody.
"""

from __future__ import annotations

import json
import logging
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ddimcache.runtime.rpc_protocol import set_keepalive
from ddimcache.runtime.tracker import LARGEST_MESSAGE, TrackerAddress, name_of, new_match_key

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 2.0
_ANSWER_SECONDS = 10.0
_ASK_SECONDS = 2.0
_UNUSED_SECONDS = 6.0


class Registration:
    """A server's entry with a tracker.

    Parameters
    ----------
    tracker : where it listens, and its key.
    device_key : the name that clients ask for.
    reached_at : (host, port) that clients connect to; host None: the address that the tracker sees.
    facts : what the list of devices shows beside it, as JSON values.
    watch, forget : tell the server's loop to call a function when a socket is ready, and no longer.
    """

    def __init__(
        self,
        tracker: TrackerAddress,
        device_key: str,
        reached_at: tuple[str | None, int],
        facts: dict[str, Any],
        watch: Callable[[int, int, Callable[[], None]], None],
        forget: Callable[[int], None],
    ) -> None:
        self._tracker = tracker
        self._name = name_of(tracker.key, device_key)
        self._host, self._port = reached_at
        self._facts = facts
        self._watch, self._forget = watch, forget
        self._socket: socket.socket | None = None
        self._retry_at = 0.0
        self._was_lost = False
        self._start_over()

    def _start_over(self) -> None:
        self.match_key: str | None = None
        """What a client that the tracker sends must know; None when none can come."""
        self._received = b""
        self._is_greeted = False
        self._answers: deque[tuple[float, Callable[[Any], None]]] = deque()
        self._told_busy: bool | None = None
        self._asked_at = self._seen_at = 0.0

    def tick(self, busy: bool) -> None:
        """Do what is due; to be called at least once a second."""
        now = time.monotonic()
        if self._socket is None:
            if now >= self._retry_at:
                self._connect()
        elif self._answers and now - self._answers[0][0] > _ANSWER_SECONDS:
            self._lose("does not answer")
        elif self._is_greeted and not self._answers:
            self._tell(busy, now)

    def use_match_key(self) -> None:
        """The match key has let a client in, and lets in no other."""
        self.match_key = None

    def close(self) -> None:
        """Leave the tracker's list."""
        if self._socket is not None:
            self._forget(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _tell(self, busy: bool, now: float) -> None:
        from tvm.rpc.base import TrackerCode

        if busy and self.match_key is not None:
            # Somebody came by the server's own key: a tracker forgets a match key only with its connection.
            self.close()
            self._start_over()
            self._connect()
        elif busy != self._told_busy:
            self._told_busy = busy
            entry = {"key": f"server:{self._name}", "addr": [self._host, self._port], "busy": busy}
            self._send([TrackerCode.UPDATE_INFO, {**self._facts, **entry}], self._expect_success)
        elif not busy and self.match_key is None:
            self.match_key = new_match_key(self._name)
            self._asked_at = self._seen_at = now
            place = [self._port, self.match_key]
            self._send([TrackerCode.PUT, self._name, place, self._host], self._expect_success)
        elif not busy and now - self._asked_at >= _ASK_SECONDS:
            self._asked_at = now
            self._send([TrackerCode.GET_PENDING_MATCHKEYS], self._note_pending)

    def _note_pending(self, pending: Any) -> None:
        """Take a new match key when the present one was given to a client that has not come."""
        now = time.monotonic()
        if isinstance(pending, list) and self.match_key in pending:
            self._seen_at = now
        elif now - self._seen_at > _UNUSED_SECONDS:
            self.match_key = None

    def _expect_success(self, answer: Any) -> None:
        if answer != 0:
            self._lose("refuses this server; both need the same --key")

    def _connect(self) -> None:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self._tracker.host, self._tracker.port, type=socket.SOCK_STREAM
            )[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setblocking(False)
            set_keepalive(self._socket)
            self._socket.connect_ex(address)
        except OSError as error:
            self._lose(str(error))
            return
        self._answers.append((time.monotonic(), lambda _: None))
        self._watch(self._socket.fileno(), select.POLLOUT, self._connected)

    def _connected(self) -> None:
        from tvm.rpc.base import RPC_TRACKER_MAGIC

        assert self._socket is not None
        problem = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            self._lose(f"cannot be reached: error {problem}")
            return
        self._forget(self._socket.fileno())
        self._watch(self._socket.fileno(), select.POLLIN, self._receive)
        self._put(struct.pack("<i", RPC_TRACKER_MAGIC))

    def _send(self, message: list[Any], answer: Callable[[Any], None]) -> None:
        self._answers.append((time.monotonic(), answer))
        content = json.dumps(message).encode()
        self._put(struct.pack("<i", len(content)) + content)

    def _put(self, content: bytes) -> None:
        assert self._socket is not None
        try:
            # A few hundred bytes, answered one at a time: they fit, or the tracker has stopped reading.
            if self._socket.send(content) != len(content):
                raise OSError("it does not read")
        except OSError as error:
            self._lose(str(error))

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            piece = self._socket.recv(65536)
            if not piece:
                raise OSError("it has ended")
            self._received += piece
            self._read()
        except (OSError, ValueError) as error:
            self._lose(str(error))

    def _read(self) -> None:
        from tvm.rpc.base import RPC_TRACKER_MAGIC

        while self._socket is not None and len(self._received) >= 4:
            [length] = struct.unpack("<i", self._received[:4])
            if not self._is_greeted:
                if length != RPC_TRACKER_MAGIC:
                    raise ValueError("it is no tracker")
                self._is_greeted = True
                self._received = self._received[4:]
                self._answers.popleft()
                if self._was_lost:
                    logger.info("%s: reached again", self._tracker)
                self._was_lost = False
                continue
            if not 0 < length <= LARGEST_MESSAGE or not self._answers:
                raise ValueError("it sends what nobody asked for")
            if len(self._received) < 4 + length:
                return
            answer = json.loads(self._received[4 : 4 + length])
            self._received = self._received[4 + length :]
            self._answers.popleft()[1](answer)

    def _lose(self, reason: str) -> None:
        if not self._was_lost:
            logger.warning("%s: lost: %s; it is tried again and again", self._tracker, reason)
        self._was_lost = True
        self.close()
        self._start_over()
        self._retry_at = time.monotonic() + _RETRY_SECONDS
