"""A device's timeline, its limits and its memory, here or behind RPC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ddimcache.errors import DeviceError, RemoteError
from ddimcache.records import to_json
from ddimcache.runtime import devices
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.local_device import device_failures
from ddimcache.runtime.peaks import Peaks, device_peaks


@dataclass(frozen=True)
class Timeline:
    """Commands in the order in which they were enqueued.

    ``commands`` is int64 [N, 4]: index into ``names``, and queued, start and end in nanoseconds on the
    device's clock.
    """

    names: tuple[str, ...]
    commands: NDArray[np.int64]

    @classmethod
    def of_commands(cls, commands: Sequence[devices.Command]) -> Timeline:
        """Return the timeline of a profile of this machine."""
        numbers: dict[str, int] = {}
        rows = [
            (numbers.setdefault(entry.kernel, len(numbers)), entry.queued, entry.start, entry.end)
            for entry in commands
        ]
        return cls(tuple(numbers), np.asarray(rows, np.int64).reshape(-1, 4))

    def to_bytes(self) -> bytes:
        """Return ``commands`` as little-endian row-major bytes."""
        return self.commands.astype("<i8").tobytes()

    @classmethod
    def of_bytes(cls, names: Sequence[Any], body: bytes) -> Timeline:
        """Read what a server sent; raises :class:`RemoteError` when it is no timeline."""
        if len(body) % 32 or not all(isinstance(name, str) for name in names):
            raise RemoteError("sent a timeline that cannot be read")
        commands = np.frombuffer(body, "<i8").astype(np.int64).reshape(-1, 4)
        if len(commands) and not (commands[:, 0].min() >= 0 and commands[:, 0].max() < len(names)):
            raise RemoteError("sent a timeline whose commands have no name")
        return cls(tuple(names), commands)


class Profiler(Protocol):
    """What is asked of a device, wherever it is."""

    def start(self) -> None:
        """Begin to time every command."""

    def stop(self) -> Timeline:
        """End it, and return what ran since."""

    def peaks(self, again: bool) -> tuple[Peaks, bool]:
        """Return the device's limits and whether they were kept from before; ``again`` measures anew."""

    def memory(self) -> dict[str, Any]:
        """Return what is in use by kind, with the keys of :class:`~ddimcache.runtime.devices.MemoryUse`."""


class LocalProfiler:
    """The profile of a device of this machine, which is ``opencl``.

    Raises :class:`DeviceError` for another kind: only commands of OpenCL carry times.
    """

    def __init__(self, device: DeviceSpec) -> None:
        if device.kind != "opencl":
            raise DeviceError(
                "kernels are timed by events of OpenCL, which this device has not",
                where=f"device {device}",
                remedy="compile the model with --target opencl",
            )
        self._device = device

    def start(self) -> None:
        """Begin to time every command."""
        with device_failures(self._device):
            devices.profile_start(self._device.index)

    def stop(self) -> Timeline:
        """End it, and return what ran since."""
        with device_failures(self._device):
            return Timeline.of_commands(devices.profile_stop_timeline(self._device.index))

    def peaks(self, again: bool) -> tuple[Peaks, bool]:
        """Return the device's limits and whether they were kept from before."""
        with device_failures(self._device):
            return device_peaks(self._device.index, again)

    def memory(self) -> dict[str, Any]:
        """Return what is in use by kind."""
        with device_failures(self._device):
            return dict(to_json(devices.memory_use(self._device.index)))
