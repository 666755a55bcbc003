"""The server on the device: TVM's RPC on one port, a key, one client at a time, each in its own process.

TVM's RPC gives whoever is let in everything that this process may do: it has no notion of a user, and loads
code that it is sent. So the server listens on loopback unless told otherwise in so many words, has no default
key, and compares keys in constant time; the key crosses the network unencrypted.

The parent process accepts and shakes hands and never touches a device; a client gets a forked child, so a
client that vanishes or a driver that crashes ends that child and nothing else.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import logging
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from ddimcache import __version__
from ddimcache.errors import DdimcacheError, DeviceError, UsageError
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.local_device import device_name, host_triple, open_device
from ddimcache.runtime.rpc_protocol import (
    LONGEST_KEY,
    PROBE,
    PROTOCOL,
    ServerInfo,
    set_keepalive,
    tvm_version,
)
from ddimcache.runtime.rpc_session_calls import SessionCalls
from ddimcache.runtime.rpc_store import Store

logger = logging.getLogger(__name__)

_HANDSHAKE_SECONDS = 5
_ENDING_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def is_loopback(host: str) -> bool:
    """Whether every address of a host name stays on this machine; raises :class:`UsageError` for no host."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{host!r} is no address of a machine", where="--host") from error
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def check_key(key: str) -> None:
    """Raise :class:`UsageError` for a key that cannot be a part of ``rpc://host:port/key``."""
    if not key:
        raise UsageError(
            "is empty", where="--key", remedy="choose one; clients give it in rpc://host:port/KEY"
        )
    if (
        not key.isascii()
        or not key.isprintable()
        or any(letter in " /?#%" for letter in key)
        or len(key) > 200
    ):
        raise UsageError(
            "takes up to 200 ASCII letters, none of them a space or one of / ? # %", where="--key"
        )


class Server:
    """Listens; :meth:`serve` answers until it is interrupted.

    Parameters
    ----------
    host, port : where to listen; port 0 takes a free one, which :attr:`port` then says.
    key : what a client must know.
    device : a local device, tried once in a child process before anybody may connect.
    store : folder for what clients send.
    beyond_loopback : allow a host that other machines reach.

    Raises :class:`UsageError` for a bad address, key or folder, :class:`DeviceError` when the device does not
    open or the port is taken.
    """

    def __init__(
        self,
        host: str,
        port: int,
        key: str,
        device: DeviceSpec,
        store: Path,
        *,
        beyond_loopback: bool = False,
    ) -> None:
        check_key(key)
        if not 0 <= port <= 65535:
            raise UsageError(f"{port} is outside 0 … 65535", where="--port")
        if not is_loopback(host) and not beyond_loopback:
            raise UsageError(
                f"{host} can be reached from other machines, and TVM's RPC lets whoever knows the key run "
                "any code here, over an unencrypted connection",
                where="--host",
                remedy="listen on 127.0.0.1 and forward the port (`adb forward`, `ssh -L`), or add "
                "--allow-other-machines on a network you trust",
            )
        self._key = key
        self._device = device
        self._store = Store(store)
        self._child: int | None = None
        self._device_name = _try_device(device)
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind((host, port))
            self._listener.listen(8)
        except OSError as error:
            self._listener.close()
            remedy = "choose another --port, 0 for any that is free"
            raise DeviceError(
                f"cannot listen: {error.strerror}", where=f"{host}:{port}", remedy=remedy
            ) from error
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Answer clients until the process is interrupted or terminated; the client at work is ended then."""
        try:
            while True:
                ready, _, _ = select.select([self._listener], [], [], 1.0)
                self._reap()
                if ready:
                    connection, address = self._listener.accept()
                    with connection:
                        self._welcome(connection, f"{address[0]}:{address[1]}")
        finally:
            self._listener.close()
            if self._child is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._child, signal.SIGKILL)
                os.waitpid(self._child, 0)

    def _welcome(self, connection: socket.socket, address: str) -> None:
        from tvm.rpc import base

        connection.settimeout(_HANDSHAKE_SECONDS)
        try:
            key, options = _read_handshake(connection, base.RPC_MAGIC)
            if not hmac.compare_digest(key.encode(), f"client:{self._key}".encode()):
                connection.sendall(struct.pack("<i", base.RPC_CODE_MISMATCH))
                logger.warning("%s: refused, the key is wrong", address)
                return
            probe = PROBE in options
            if self._child is not None and not probe:
                connection.sendall(struct.pack("<i", base.RPC_CODE_DUPLICATE))
                logger.warning("%s: refused, another client is at work", address)
                return
            greeting = self._info().greeting().encode()
            connection.sendall(struct.pack("<ii", base.RPC_MAGIC, len(greeting)) + greeting)
        except (OSError, struct.error, UnicodeError) as error:
            logger.info("%s: no handshake: %s", address, error)
            return
        if not probe:
            with _signals_held():
                self._child = self._fork(connection)
            logger.info("%s: connected, process %d", address, self._child)

    def _info(self) -> ServerInfo:
        return ServerInfo(
            protocol=PROTOCOL,
            ddimcache=__version__,
            tvm=tvm_version(),
            device=str(self._device),
            device_name=self._device_name,
            kind=self._device.kind,
            host=host_triple(),
            busy=self._child is not None,
        )

    def _fork(self, connection: socket.socket) -> int:
        def work() -> None:
            from tvm.rpc import _ffi_api

            self._listener.close()
            connection.settimeout(None)
            set_keepalive(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            SessionCalls(self._store, self._device).register()
            _ffi_api.ServerLoop(connection.detach())

        return _in_child(work)

    def _reap(self) -> None:
        if self._child is None:
            return
        ended, status = os.waitpid(self._child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            logger.info("process %d: client gone%s", ended, f", exit code {code}" if code else "")
            self._child = None


def _read_handshake(connection: socket.socket, magic: int) -> tuple[str, list[str]]:
    """Return key and options of a client; raises OSError for one that speaks another protocol."""
    found, length = struct.unpack("<ii", _receive(connection, 8))
    if found != magic or not 0 <= length <= LONGEST_KEY:
        raise OSError("not a client of TVM's RPC")
    words = _receive(connection, length).decode().split()
    return (words[0], words[1:]) if words else ("", [])


def _receive(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        piece = connection.recv(count - len(content))
        if not piece:
            raise OSError("the connection was closed")
        content += piece
    return content


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold interrupts back: Python drops one that comes while it forks, and the child is ours to end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process that never returns from here, and return its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING_SIGNALS)
        work()
        code = 0
    except BaseException as error:
        print(f"ddimcache serve, process {os.getpid()}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _try_device(device: DeviceSpec) -> str:
    """Open the device in a child and return its name: what a driver starts survives no fork.

    Raises :class:`DeviceError` when it does not open.
    """
    import tvm  # noqa: F401  (before forking, so that the children have it)

    read_end, write_end = os.pipe()

    def work() -> None:
        try:
            open_device(device, device.kind)
            answer = ("name", device_name(device), "")
        except DdimcacheError as error:
            answer = ("error", error.what, error.remedy or "")
        os.write(write_end, json.dumps(answer).encode())

    with _signals_held():
        child = _in_child(work)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    if not answer:
        raise DeviceError("opening it crashed", where=f"device {device}", remedy="see `ddimcache doctor`")
    kind, text, remedy = json.loads(answer)
    if kind == "error":
        raise DeviceError(text, where=f"device {device}", remedy=remedy or None)
    return str(text)
