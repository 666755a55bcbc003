"""Launches recorded once and replayed: what the loop on the device is made of, for Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ddimcache.runtime.devices import call_plugin


@dataclass(frozen=True)
class RecordingSummary:
    """What a recording holds."""

    method: str
    """How its launches are replayed: ``command-buffer``, ``recordable-queue`` or ``plain``, one by one."""
    launches: int
    copies: int
    calls: int
    """How often one replay calls the driver."""


class Recording:
    """What :func:`record` returns.

    It keeps kernels and buffers: a buffer stays in use while the recording lives, also after its tensor was
    freed. Contents of buffers may change between replays.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def replay(self) -> None:
        """Enqueue everything once more, without waiting; in order with other launches.

        Raises:
            RuntimeError: the driver refused a command, or this thread is making a recording.
        """
        self._handle.replay()

    def update(self, launch: int, argument: int, value: Any) -> None:
        """Give a launch another argument from the next replay on.

        Args:
            launch: its number among the launches, from 0; copies do not count.
            argument: the argument's number in the kernel, from 0.
            value: a number, or a tensor on the same device.

        Raises:
            IndexError: there is no such launch or argument.
            TypeError: a number for a buffer, or the other way round.
            ValueError: a tensor of another device, or one that does not start where its buffer does.
        """
        self._handle.update(launch, argument, value)

    def summary(self) -> RecordingSummary:
        """Say what was recorded, and how it is replayed."""
        return RecordingSummary(**json.loads(self._handle.describe()))


def record(function: Callable[[], object], index: int = 0) -> Recording:
    """Call ``function`` and record the launches and copies that this thread makes on ``opencl:<index>``.

    They do not run until the recording is replayed. Memory may be allocated meanwhile. ``DDIMCACHE_REPLAY``
    chooses how launches are replayed (``docs/opencl-runtime.md``).

    Raises:
        RuntimeError: in ``function``, a copy from or to the host, a launch on another device or another
            recording; at the end, ``DDIMCACHE_REPLAY`` is ``off`` or names what the device does not have.
        ValueError: ``DDIMCACHE_REPLAY`` has a value that is not known, or there is no such device.
    """
    return Recording(call_plugin("record", index, function))


def replay_allowed() -> bool:
    """Whether recordings can be made: not where ``DDIMCACHE_REPLAY`` is ``off``.

    Raises:
        ValueError: ``DDIMCACHE_REPLAY`` has a value that is not known.
    """
    return bool(call_plugin("replay_allowed"))
