"""The devices behind RPC that run trials: each runs one at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ddimcache.errors import DdimcacheError, RemoteError
from ddimcache.runtime.pool_devices import DeviceSource
from ddimcache.runtime.rpc import RemoteDevice

MOST_FAILURES = 5
"""So many times in a row a device may be lost, or not be had: half a minute for one that starts again."""

_CONNECT_SECONDS = 20.0
_LOOK_AGAIN_SECONDS = 5.0


@dataclass(frozen=True)
class FarDevice:
    """A connected device, with its driver as the server says it."""

    device: RemoteDevice
    driver: str


class _Slot:
    """A device that a source gives, connected or not."""

    def __init__(self, source: DeviceSource) -> None:
        self.source = source
        self.connected: FarDevice | None = None
        self.failures = 0
        self.not_before = 0.0


class FarDevices:
    """Lends the devices of ``sources`` to threads. :meth:`lend` one, then :meth:`close`.

    ``accept`` is told each device when it is connected, and raises :class:`UsageError` for one that is not
    wanted. A device that is lost is asked for again after ``delay`` seconds, twice as many the next time.
    """

    def __init__(
        self,
        sources: Sequence[DeviceSource],
        accept: Callable[[FarDevice], None] = lambda _: None,
        delay: float = 2.0,
    ) -> None:
        self.accept = accept
        self.patience = MOST_FAILURES
        """Failures in a row after which a device is given up."""
        self._sources, self._delay = sources, delay
        self._changed = threading.Condition()
        self._idle: list[_Slot] = []
        self._lent: list[_Slot] = []
        self._looked_at = -_LOOK_AGAIN_SECONDS
        self._is_over = False
        self.problem = "there is no device"
        """What went wrong last."""

    @property
    def width(self) -> int:
        """How many devices there are, at least 1."""
        with self._changed:
            self._look()
            return max(1, len(self._idle) + len(self._lent))

    @contextmanager
    def lend(self) -> Iterator[FarDevice]:
        """A connected device, which is asked for again next time where it was closed inside.

        Raises :class:`RemoteError` when no device is left.
        """
        slot = self._take()
        try:
            assert slot.connected is not None
            yield slot.connected
        finally:
            with self._changed:
                self._lent.remove(slot)
                self._idle.append(slot)
                if slot.connected is not None and self._is_over:
                    slot.connected.device.close()
                if slot.connected is not None and not slot.connected.device.is_open:
                    slot.connected = None
                self._changed.notify_all()

    def note_good(self, lent: FarDevice) -> None:
        """Says that a trial went through on a device."""
        for slot in self._lent:
            if slot.connected is lent:
                slot.failures = 0

    def note_problem(self, lent: FarDevice, problem: str) -> None:
        """Says that a device was lost, or refused its work; it is left alone for a while."""
        with self._changed:
            for slot in self._lent:
                if slot.connected is lent:
                    self._fail(slot, f"{lent.device.address}: {problem}")

    def close(self) -> None:
        """Gives every device back; those who wait for one, or use one, get an error."""
        with self._changed:
            self._is_over = True
            slots = [*self._idle, *self._lent]
            self._changed.notify_all()
        for slot in slots:
            if slot.connected is not None:
                # Of one that is in use, the connection is cut: whoever uses it closes it.
                if slot in self._lent:
                    slot.connected.device.abort()
                else:
                    slot.connected.device.close()
        for source in self._sources:
            source.close()

    def _fail(self, slot: _Slot, problem: str) -> None:
        slot.failures += 1
        slot.not_before = time.monotonic() + self._delay * 2 ** (slot.failures - 1)
        self.problem = problem

    def _look(self) -> None:
        """Has a slot for each device of a source, also for those that came later."""
        if time.monotonic() - self._looked_at < _LOOK_AGAIN_SECONDS:
            return
        self._looked_at = time.monotonic()
        slots = [*self._idle, *self._lent]
        for source in self._sources:
            mine = [slot for slot in slots if slot.source is source and slot.failures < self.patience]
            if source.grows or not any(slot.source is source for slot in slots):
                self._idle += [_Slot(source) for _ in range(source.count() - len(mine))]

    def _take(self) -> _Slot:
        while True:
            with self._changed:
                slot = self._free()
                self._idle.remove(slot)
                self._lent.append(slot)
            if slot.connected is not None:
                return slot
            try:
                slot.connected = self._connect(slot)
                return slot
            except DdimcacheError as error:
                with self._changed:
                    self._fail(slot, str(error))
                    self._lent.remove(slot)
                    self._idle.append(slot)
                    self._changed.notify_all()

    def _free(self) -> _Slot:
        """Waits for a slot that may be tried, a connected one before others."""
        while True:
            if self._is_over:
                raise RemoteError("was stopped", where="tune")
            self._look()
            usable = [slot for slot in self._idle if slot.failures < self.patience]
            if not usable and not self._lent:
                raise RemoteError(
                    f"no device is left: {self.problem}",
                    where="tune",
                    remedy="what was tried is kept; the same command goes on",
                )
            now = time.monotonic()
            ready = [slot for slot in usable if slot.not_before <= now]
            if ready:
                return min(ready, key=lambda slot: (slot.connected is None, slot.failures))
            self._changed.wait(0.2)

    def _connect(self, slot: _Slot) -> FarDevice:
        device = slot.source.connect(_CONNECT_SECONDS)
        try:
            facts, _ = device.call("describe", {})
            driver = facts.get("driver") if isinstance(facts, dict) else None
            if not isinstance(driver, str):
                raise RemoteError("sent a description that cannot be read", where=str(device.address))
            found = FarDevice(device, driver)
            self.accept(found)
            if self._is_over:
                raise RemoteError("was stopped", where="tune")
            return found
        except BaseException:
            device.close()
            raise
