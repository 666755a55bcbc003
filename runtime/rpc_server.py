"""The server on the device: TVM's RPC on one port, a key, one client at a time, each in its own process.

TVM's RPC gives whoever is let in everything that this process may do: it has no notion of a user, and loads
code that it is sent. So the server listens on loopback unless told otherwise in so many words, has no default
key, and compares keys in constant time; the key crosses the network unencrypted.

The parent process accepts and shakes hands, waits for nobody, and never touches a device; a client gets a
forked child. The parent ends the child of a client that is gone, that keeps silent for too long, or that
does not read its answers, so that the device is free for the next one.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path

from ddimcache import __version__
from ddimcache.errors import DeviceError, UsageError
from ddimcache.records import to_json
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.local_device import host_triple
from ddimcache.runtime.rpc_child import Client, try_device
from ddimcache.runtime.rpc_handshake import Handshake
from ddimcache.runtime.rpc_protocol import PROTOCOL, ServerInfo, tvm_version
from ddimcache.runtime.rpc_proxy_link import ProxyLink
from ddimcache.runtime.rpc_session_calls import SessionCalls
from ddimcache.runtime.rpc_store import Store
from ddimcache.runtime.tracker import TrackerAddress
from ddimcache.runtime.tracker_registration import Registration

logger = logging.getLogger(__name__)

_DANGER = "TVM's RPC lets whoever knows the key run any code here, over an unencrypted connection"
_MOST_HANDSHAKES = 64
_LEAVING_SECONDS = 1.0
_TICK_SECONDS = 0.5
_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR


def is_loopback(host: str, option: str = "--host") -> bool:
    """Whether every address of a host name stays on this machine; raises :class:`UsageError` for no host."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{host!r} is no address of a machine", where=option) from error
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


def check_reach(host: str, option: str, beyond_loopback: bool, danger: str) -> None:
    """Raise :class:`UsageError` for a host that other machines reach where that was not allowed."""
    if not is_loopback(host, option) and not beyond_loopback:
        raise UsageError(
            f"{host} can be reached from other machines, and {danger}",
            where=option,
            remedy="listen on 127.0.0.1 and forward the port (`adb forward`, `ssh -L`), or add "
            "--allow-other-machines on a network you trust",
        )


def listen(host: str, port: int, *, beyond_loopback: bool, danger: str) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises :class:`UsageError` for a bad address, or one that other machines reach where that is not allowed
    (``danger`` says what they could do then), :class:`DeviceError` when the port is taken.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"{port} is outside 0 … 65535", where="--port")
    check_reach(host, "--host", beyond_loopback, danger)
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(16)
    except OSError as error:
        listener.close()
        remedy = "choose another --port, 0 for any that is free"
        raise DeviceError(
            f"cannot listen: {error.strerror}", where=f"{host}:{port}", remedy=remedy
        ) from error
    return listener


class Server:
    """Listens; :meth:`serve` answers until it is interrupted.

    Parameters
    ----------
    host, port : where to listen; port 0 takes a free one, which :attr:`port` then says.
    key : what a client must know.
    device : a local device, tried once in a child process before anybody may connect.
    store : folder for what clients send; it is this server's alone while it runs.
    beyond_loopback : allow a host that other machines reach.
    store_bytes : how large the store may become; None: as large as the disk.
    idle_seconds : after this time without a call, a client is sent away.
    memory_budget : most bytes that a client's session may have on the device; None: all of it.
    tracker : a tracker to register with, and the name of the device there.
    proxy : (host, port) of a proxy where clients may come who cannot reach this server.
    reached_at : (host, port) by which clients of the tracker reach this server; None: as the tracker sees it.

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
        store_bytes: int | None = None,
        idle_seconds: float = 600.0,
        memory_budget: int | None = None,
        tracker: tuple[TrackerAddress, str] | None = None,
        reached_at: tuple[str, int] | None = None,
        proxy: tuple[str, int] | None = None,
    ) -> None:
        check_key(key)
        if proxy is not None:
            check_reach(proxy[0], "--proxy", beyond_loopback, _DANGER)
        if not idle_seconds > 0:
            raise UsageError(f"{idle_seconds:g} is no time", where="--idle-seconds")
        self._listener = listen(host, port, beyond_loopback=beyond_loopback, danger=_DANGER)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._key = key
        self._device = device
        self._idle_seconds = idle_seconds
        self._memory_budget = memory_budget
        self._client: Client | None = None
        self._handshakes: dict[int, Handshake] = {}
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        try:
            self._store = Store(store, store_bytes)
            self._store.claim()
            self._device_name, self._driver = try_device(device)
        except BaseException:
            self._listener.close()
            raise
        self._registration: Registration | None = None
        if tracker is not None:
            place = reached_at or (None, self.port)
            facts = to_json(self._info())
            self._registration = Registration(*tracker, place, facts, self._watch, self._forget)
        self._link: ProxyLink | None = None
        if proxy is not None:
            hello = self._info().greeting(key)
            self._link = ProxyLink(proxy, hello, self._watch, self._forget, self._arrive)

    def serve(self) -> None:
        """Answer clients until the process is interrupted or terminated; the client at work is ended then."""
        self._watch(self._listener.fileno(), select.POLLIN, self._accept)
        try:
            while True:
                ready = [(handle, self._handlers[handle]) for handle, _ in self._wait()]
                for handle, handler in ready:
                    # An earlier one of the same round may have ended what this one was about.
                    if self._handlers.get(handle) is handler:
                        handler()
                self._end_what_is_late()
                if self._registration is not None:
                    self._registration.tick(busy=self._client is not None)
                if self._link is not None:
                    self._link.tick(busy=self._client is not None)
        finally:
            self._listener.close()
            if self._registration is not None:
                self._registration.close()
            if self._link is not None:
                self._link.close()
            for handshake in list(self._handshakes.values()):
                self._drop(handshake)
            if self._client is not None:
                self._client.kill()
                self._client.finish()

    def _watch(self, handle: int, events: int, handler: Callable[[], None]) -> None:
        self._poll.register(handle, events)
        self._handlers[handle] = handler

    def _forget(self, handle: int) -> None:
        if self._handlers.pop(handle, None) is not None:
            self._poll.unregister(handle)

    def _wait(self) -> list[tuple[int, int]]:
        """Wait for the next event or deadline."""
        now = time.monotonic()
        times = [_TICK_SECONDS]
        times += [handshake.deadline - now for handshake in self._handshakes.values()]
        if self._client is not None:
            times.append(self._idle_seconds - self._client.idle_seconds())
            if self._client.left_at is not None:
                times.append(self._client.left_at + _LEAVING_SECONDS - now)
        return self._poll.poll(max(0.02, min(times)) * 1000)

    def _accept(self) -> None:
        try:
            connection, address = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # too many open files: those that are open will end
            logger.warning("cannot accept: %s", error)
            time.sleep(0.1)
            return
        if len(self._handshakes) >= _MOST_HANDSHAKES:
            self._drop(next(iter(self._handshakes.values())), "too many shake hands at once")
        handshake = Handshake(connection, f"{address[0]}:{address[1]}")
        self._handshakes[connection.fileno()] = handshake
        self._watch(connection.fileno(), select.POLLIN, lambda: self._shake_hands(handshake))

    def _drop(self, handshake: Handshake, reason: str | None = None) -> None:
        if reason is not None:
            logger.info("%s: no handshake: %s", handshake.address, reason)
        self._forget(handshake.connection.fileno())
        self._handshakes.pop(handshake.connection.fileno())
        handshake.connection.close()

    def _shake_hands(self, handshake: Handshake) -> None:
        try:
            words = handshake.read()
            if words is not None:
                self._welcome(handshake, *words)
                self._drop(handshake)
        except (OSError, UnicodeError) as error:
            self._drop(handshake, str(error))

    def _welcome(self, handshake: Handshake, key: str, is_probe: bool) -> None:
        from tvm.rpc import base

        match_key = self._registration.match_key if self._registration is not None else None
        by_tracker = match_key is not None and hmac.compare_digest(
            key.encode(), f"client:{match_key}".encode()
        )
        if not by_tracker and not hmac.compare_digest(key.encode(), f"client:{self._key}".encode()):
            logger.warning("%s: refused, the key is wrong", handshake.address)
            handshake.answer(base.RPC_CODE_MISMATCH)
        elif is_probe:
            handshake.answer(base.RPC_CODE_SUCCESS, self._info().greeting().encode())
        elif self._client is not None:
            logger.warning("%s: refused, another client is at work", handshake.address)
            handshake.answer(base.RPC_CODE_DUPLICATE)
        else:
            handshake.answer(base.RPC_CODE_SUCCESS, self._info().greeting().encode())
            if by_tracker and self._registration is not None:
                self._registration.use_match_key()
            self._begin(handshake)

    def _arrive(self, handshake: Handshake, key: str, is_probe: bool) -> None:
        """Take a client that a proxy has joined with this server; both have had their answers from it."""
        if not hmac.compare_digest(key.encode(), f"client:{self._key}".encode()):
            logger.warning("%s: refused, the key is wrong", handshake.address)
        elif not is_probe and self._client is None:
            self._begin(handshake)

    def _begin(self, handshake: Handshake) -> None:
        # The child closes what is the parent's: otherwise those who leave would not be seen to have left.
        others = [handle for handle in self._handlers if handle != handshake.connection.fileno()]
        work = self._store.work_folder()
        calls = SessionCalls(self._store, self._device, self._memory_budget, self._driver, work)
        client = Client.start(handshake.connection, handshake.address, calls, work, others)
        self._client = client
        logger.info("%s: connected, process %d", client.address, client.process)
        self._watch(client.pipe, select.POLLIN, self._hear)
        self._watch(client.connection.fileno(), _GONE & ~select.POLLERR, self._note_that_it_left)

    def _hear(self) -> None:
        assert self._client is not None
        if not self._client.read_pipe():
            self._reap()

    def _note_that_it_left(self) -> None:
        """Give the client's process a moment to see for itself that nobody waits for its answer."""
        assert self._client is not None
        self._client.left_at = time.monotonic()
        self._forget(self._client.connection.fileno())

    def _reap(self) -> None:
        client = self._client
        assert client is not None
        self._forget(client.pipe)
        self._forget(client.connection.fileno())
        self._client = None
        code = client.finish()
        logger.info("process %d: client gone%s", client.process, f", exit code {code}" if code else "")

    def _end_what_is_late(self) -> None:
        now = time.monotonic()
        for handshake in [each for each in self._handshakes.values() if each.deadline <= now]:
            self._drop(handshake, "not finished in time")
        client = self._client
        if client is None:
            return
        if client.left_at is not None and client.left_at + _LEAVING_SECONDS <= now:
            logger.info("process %d: ended, its client has left", client.process)
        elif client.idle_seconds() >= self._idle_seconds:
            logger.warning("%s: sent away after %g s without a call", client.address, self._idle_seconds)
        else:
            return
        client.kill()
        self._reap()

    def _info(self) -> ServerInfo:
        return ServerInfo(
            protocol=PROTOCOL,
            ddimcache=__version__,
            tvm=tvm_version(),
            device=str(self._device),
            device_name=self._device_name,
            kind=self._device.kind,
            host=host_triple(),
            busy=self._client is not None,
        )
