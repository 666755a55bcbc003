"""The profile of a device behind ``ddimcache serve``."""

from __future__ import annotations

from typing import Any

from ddimcache.errors import RemoteError
from ddimcache.records import RecordProblem, from_json
from ddimcache.runtime.peaks import Peaks
from ddimcache.runtime.profiler import Timeline
from ddimcache.runtime.rpc import RemoteDevice


class RemoteProfiler:
    """The methods of :class:`~ddimcache.runtime.profiler.LocalProfiler`, run by the server."""

    def __init__(self, device: RemoteDevice) -> None:
        self._device = device

    def start(self) -> None:
        """Begin to time every command over there."""
        self._device.call("profile_start", {})

    def stop(self) -> Timeline:
        """End it, and return what ran since."""
        names, body = self._device.call("profile_stop", {})
        return Timeline.of_bytes(names, body)

    def peaks(self, again: bool) -> tuple[Peaks, bool]:
        """Return the device's limits, measured and kept over there, and whether they had been kept."""
        result, _ = self._device.call("peaks", {"again": again})
        try:
            return from_json(Peaks, result["peaks"]), bool(result["kept"])
        except (RecordProblem, KeyError, TypeError) as error:
            raise RemoteError(
                f"sent limits of the device that cannot be read: {error}", where=str(self._device.address)
            ) from error

    def memory(self) -> dict[str, Any]:
        """Return what is in use by kind over there."""
        result, _ = self._device.call("memory", {})
        return dict(result)
