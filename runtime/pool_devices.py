"""Where the devices of a pool come from: addresses, a tracker, or a server started on this machine."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ddimcache.errors import DeviceError, RemoteError
from ddimcache.runtime.rpc import Address, RemoteDevice, connect
from ddimcache.runtime.tracker import TrackerAddress, list_devices, request_device

_PR_SET_PDEATHSIG = 1


class DeviceSource(Protocol):
    """Gives devices to the threads of a pool."""

    grows: bool
    """Whether :meth:`count` may rise."""

    def count(self) -> int:
        """Return how many devices there are."""

    def connect(self, seconds: float) -> RemoteDevice:
        """Wait for a free device; raises :class:`DdimcacheError` when there is none after some seconds."""

    def close(self) -> None:
        """Give back what belongs to the source."""


class OneServer:
    """The server at an address."""

    grows = False

    def __init__(self, address: Address) -> None:
        self._address = address

    def count(self) -> int:
        """One."""
        return 1

    def connect(self, seconds: float) -> RemoteDevice:
        """Connect, waiting while another client is at work."""
        return connect(self._address, patience=seconds)

    def close(self) -> None:
        """Nothing belongs to it."""


class TrackedDevices:
    """All devices that a tracker lists under a name."""

    grows = True

    def __init__(self, tracker: TrackerAddress, device_key: str) -> None:
        self._tracker = tracker
        self._device_key = device_key

    def count(self) -> int:
        """Return how many are registered, at least one: it may still come."""
        with suppress(RemoteError):
            listed = list_devices(self._tracker)
            return max(1, sum(device.device_key == self._device_key for device in listed))
        return 1

    def connect(self, seconds: float) -> RemoteDevice:
        """Ask the tracker for a free one, and for another where that one has just gone."""
        deadline = time.monotonic() + seconds
        while True:
            address = request_device(self._tracker, self._device_key, max(1.0, deadline - time.monotonic()))
            try:
                return connect(address, timeout=5.0)
            except RemoteError:
                if time.monotonic() >= deadline:
                    raise

    def close(self) -> None:
        """Nothing belongs to it."""


class LocalServer:
    """A device of this machine, behind a server of its own: a driver that crashes takes nothing else along.

    The server is started at the first :meth:`connect`, again when it has died, and ends with this process.
    Where several ``share`` a device, each has its share of the cores for CPU threads.
    """

    grows = False

    def __init__(self, device: str, share: int = 1) -> None:
        self._device = device
        self._share = share
        self._key = secrets.token_hex(16)
        self._store = tempfile.TemporaryDirectory(prefix="ddimcache-pool-")
        self._process: subprocess.Popen[str] | None = None
        self._port = 0
        self._lock = threading.Lock()

    def count(self) -> int:
        """One."""
        return 1

    def connect(self, seconds: float) -> RemoteDevice:
        """Start the server where it does not run, and connect."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
        return connect(Address("127.0.0.1", self._port, self._key), patience=seconds)

    def close(self) -> None:
        """End the server and remove what it was sent."""
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._process = None
        self._store.cleanup()

    def _threads(self) -> dict[str, str]:
        if self._share == 1:
            return {}
        threads = str(max(1, len(os.sched_getaffinity(0)) // self._share))
        # Of PoCL before and since version 4, and of TVM's own thread pool.
        return dict.fromkeys(("POCL_MAX_PTHREAD_COUNT", "POCL_CPU_MAX_CU_COUNT", "TVM_NUM_THREADS"), threads)

    def _start(self) -> None:
        command = [sys.executable, "-m", "ddimcache.cli", "serve", "--device", self._device, "--port", "0"]
        command += ["--store", str(Path(self._store.name) / "store"), "--json"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RUN_AND_DIE_WITH_PARENT, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self._threads(), "DDIMCACHE_KEY": self._key},
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        text = ""
        for line in self._process.stdout:
            text += line
            if line == "}\n":
                break
        try:
            self._port = int(json.loads(text)["port"])
        except ValueError as error:
            said = self._process.stderr.read().strip()
            raise DeviceError(said or "its server ended", where=f"device {self._device}") from error
        # What it logs from now on is of no use here, and must not fill the pipe.
        threading.Thread(target=self._process.stderr.read, daemon=True).start()


_RUN_AND_DIE_WITH_PARENT = (
    f"import ctypes, os, sys; ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGTERM)}); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
