"""The processes that a server forks: one to try the device, then one a client.

A driver that crashes ends its own process. The parent knows of a child what comes through a pipe: a byte when
a call begins, another when it ends, and the end of the pipe when the process is gone, however it went.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ddimcache.errors import DdimcacheError, DeviceError
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.local_device import device_driver, device_name, open_device
from ddimcache.runtime.rpc_protocol import set_keepalive
from ddimcache.runtime.rpc_session_calls import SessionCalls

_ENDING_SIGNALS = {signal.SIGINT, signal.SIGTERM}
_BEGIN, _END = b"+", b"-"
_PR_SET_PDEATHSIG = 1


class Client:
    """A client at work, as the parent sees it: its process, its connection, and when it last was active."""

    def __init__(self, process: int, address: str, connection: socket.socket, pipe: int, work: Path) -> None:
        self.process = process
        self.address = address
        self.connection = connection
        self.pipe = pipe
        self._work = work
        self._calls = 0
        self._last = time.monotonic()
        self.left_at: float | None = None
        """When the connection's other end was closed."""

    @classmethod
    def start(
        cls, connection: socket.socket, address: str, calls: SessionCalls, work: Path, unused: list[int]
    ) -> Client:
        """Fork a process that answers a client's ``calls``; ``unused`` are handles of the parent alone."""
        # For both processes, before there are two: whether a socket waits is a property that they share.
        connection.settimeout(None)
        read_end, write_end = os.pipe()

        def serve() -> None:
            for handle in (*unused, read_end):
                os.close(handle)
            set_keepalive(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _answer(connection, calls, work, write_end)

        with signals_held():
            process = in_child(serve)
        os.close(write_end)
        os.set_blocking(read_end, False)
        return cls(process, address, connection.dup(), read_end, work)

    def read_pipe(self) -> bool:
        """Take in what the process has told; returns False when it is gone."""
        try:
            told = os.read(self.pipe, 4096)
        except BlockingIOError:
            return True
        self._calls += told.count(_BEGIN) - told.count(_END)
        self._last = time.monotonic()
        return bool(told)

    def idle_seconds(self) -> float:
        """How long nothing was computed, received or sent."""
        if self._calls > 0:
            return 0.0
        return min(time.monotonic() - self._last, _silent_seconds(self.connection))

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)

    def finish(self) -> int:
        """Wait for the process, give everything of it back, and return its exit code."""
        _, status = os.waitpid(self.process, 0)
        os.close(self.pipe)
        self.connection.close()
        shutil.rmtree(self._work, ignore_errors=True)
        return os.waitstatus_to_exitcode(status)


def _silent_seconds(connection: socket.socket) -> float:
    """How long no data has come or gone, by the system's own count; endless where it does not count."""
    with contextlib.suppress(OSError, AttributeError):
        counts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
        sent, received = (int.from_bytes(counts[at : at + 4], sys.byteorder) for at in (44, 52))
        return min(sent, received) / 1000
    return float("inf")


def _answer(connection: socket.socket, calls: SessionCalls, work: Path, pipe: int) -> None:
    from tvm.rpc import _ffi_api

    @contextlib.contextmanager
    def told() -> Iterator[None]:
        os.write(pipe, _BEGIN)
        try:
            yield
        finally:
            os.write(pipe, _END)

    _offer_uploads(work)
    calls.register(told)
    _ffi_api.ServerLoop(connection.detach())


def _offer_uploads(work: Path) -> None:
    """Let TVM's own clients ``upload`` and ``load_module`` too, in a folder that goes when they leave."""
    import tvm
    import tvm_ffi

    def path_of(name: str) -> str:
        path = (work / name).resolve()
        if not path.is_relative_to(work.resolve()):
            raise ValueError(f"{name!r} leads out of the folder for uploads")
        return str(path)

    os.chdir(work)
    tvm_ffi.register_global_func("tvm.rpc.server.workpath", path_of, override=True)
    tvm_ffi.register_global_func(
        "tvm.rpc.server.load_module", lambda name: tvm.runtime.load_module(path_of(name)), override=True
    )


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold interrupts back: Python drops one that comes while it forks, and the child is ours to end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process that never returns from here, and return its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        _die_with(parent)
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


def _die_with(parent: int) -> None:
    """Let the system kill this process when its parent is gone, so that the device never stays taken."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def try_device(device: DeviceSpec) -> tuple[str, str]:
    """Open the device in a child and return its name and its driver's: what a driver starts survives no fork.

    Raises :class:`DeviceError` when it does not open.
    """
    import tvm  # noqa: F401  (before forking, so that the children have it)

    read_end, write_end = os.pipe()

    def work() -> None:
        try:
            open_device(device, device.kind)
            answer = ("name", device_name(device), device_driver(device))
        except DdimcacheError as error:
            answer = ("error", error.what, error.remedy or "")
        os.write(write_end, json.dumps(answer).encode())

    with signals_held():
        child = in_child(work)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    if not answer:
        raise DeviceError("opening it crashed", where=f"device {device}", remedy="see `ddimcache doctor`")
    kind, text, more = json.loads(answer)
    if kind == "error":
        raise DeviceError(text, where=f"device {device}", remedy=more or None)
    return str(text), str(more)
