"""A trial of tuning on a device of this process: a kernel is checked, then timed in turns with a rival.

What comes of it is an :class:`Outcome`, whatever went wrong: it crosses processes and lasts in files.
"""

from __future__ import annotations

import contextlib
import math
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ddimcache.records import Limits

HOPELESS = 3
"""So many times the rival's time is not worth a second look."""

WAITING = 1.25
"""So many times as long by the clock as by processor time, in ratios to the rival, is threads that wait."""

_BLOCK_SECONDS, _MOST_CALLS = 0.01, 20
_OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "Cannot allocate memory", "failed to map segment")

Status = Literal["good", "wrong", "refused", "failed", "crashed", "hung", "memory"]
"""``good``: right and timed; ``wrong``: its answer is not the reference's; ``refused``: the schedule, the
compiler or the device's limits do not take it; ``failed``: an error of the device or the driver; ``crashed``,
``hung``, ``memory``: the process ended by itself, was ended after its time, or asked for too much memory."""

Seconds = Annotated[float, Limits(minimum=0, maximum=1e6)]


@dataclass(frozen=True)
class Outcome:
    """What came of a trial. Times are medians of a launch; ``error`` is a share of the largest number;
    ``origin`` names the device that ran it in the manifest of the records' folder."""

    status: Status
    seconds: Seconds | None = None
    rival_seconds: Seconds | None = None
    error: Annotated[float, Limits(minimum=0)] | None = None
    message: Annotated[str, Limits(maximum=1000)] = ""
    origin: Annotated[str, Limits(maximum=40)] = ""

    @property
    def ratio(self) -> float | None:
        """Its time over the rival's."""
        if self.status != "good" or self.seconds is None or not self.rival_seconds:
            return None
        return self.seconds / self.rival_seconds


class Prepared:
    """A kernel with its arguments on ``device`` and room for its result.

    ``function`` takes ``arguments`` and then its result, of ``shape`` and ``dtype``. Equal arrays that are
    one object are one buffer, as in models. Raises what the device raises.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Sequence[NDArray[Any]],
        shape: Sequence[int],
        dtype: str,
        device: Any,
    ) -> None:
        import tvm

        uploaded = {id(array): tvm.runtime.tensor(array, device) for array in arguments}
        self._tensors = [uploaded[id(array)] for array in arguments]
        # What is not written shows.
        self._out = tvm.runtime.tensor(np.full(tuple(shape), np.nan, dtype), device)
        self._function = function

    def call(self) -> None:
        """Enqueue it once."""
        self._function(*self._tensors, self._out)

    def answer(self) -> NDArray[np.float64]:
        """Wait, and return the result."""
        return self._out.numpy().astype(np.float64)


def check_and_time(
    candidate: Callable[[], Prepared],
    rival: Callable[[], Prepared],
    right: NDArray[Any],
    tolerance: float,
    sync: Callable[[], None],
    repeats: int,
    cpu: bool,
) -> Outcome:
    """The outcome of ``candidate``: run once and compared with ``right``, and only then timed.

    ``tolerance`` is the largest difference that is right, as a share of the largest number of ``right``;
    ``rival`` is prepared when it is needed; ``sync`` waits for the device; ``cpu`` says that it is this
    machine's processor. An error of the device is an outcome.
    """
    try:
        own = candidate()
        own.call()
        answer = own.answer().reshape(right.shape)
        distance = float(np.abs(answer - right).max() / max(np.abs(right).max(), 1e-30))
        if not distance <= tolerance:  # a NaN is wrong as well
            known = distance if math.isfinite(distance) else None
            return Outcome("wrong", error=known, message=f"{distance:.3g} of the largest number away")
        other = rival()
        other.call()
        seconds, rival_seconds = interleaved(own.call, other.call, sync, repeats, cpu)
        return Outcome("good", seconds, rival_seconds, distance)
    except RuntimeError as error:
        return outcome_of_error(error)


def interleaved(
    candidate: Callable[[], None],
    rival: Callable[[], None],
    sync: Callable[[], None],
    repeats: int,
    cpu: bool,
) -> tuple[float, float]:
    """Seconds of a call of both, timed in turns; the rival's are a median, ours follow by the ratios' median.

    On a ``cpu`` the ratio is of processor time, which other work on the machine does not stretch, unless the
    clock says that threads wait for each other.
    """

    def seconds(call: Callable[[], None], count: int) -> tuple[float, float]:
        start, busy = time.perf_counter(), time.process_time()
        for _ in range(count):
            call()
        sync()
        return (time.perf_counter() - start) / count, (time.process_time() - busy) / count

    sync()
    (first, _), (other, _) = seconds(candidate, 1), seconds(rival, 1)
    if first > HOPELESS * other:
        (first, _), (other, _) = seconds(candidate, 1), seconds(rival, 1)
        if first > HOPELESS * other:
            return first, other
    count = max(1, min(_MOST_CALLS, math.ceil(_BLOCK_SECONDS / max(min(first, other), 1e-9))))
    pairs = [(seconds(candidate, count), seconds(rival, count)) for _ in range(repeats)]
    # The machine's other work hits both of a turn.
    clock, busy = (
        statistics.median(ours[kind] / max(theirs[kind], 1e-9) for ours, theirs in pairs) for kind in (0, 1)
    )
    ratio = busy if cpu and clock < WAITING * busy else clock
    rival_seconds = statistics.median(theirs[0] for _, theirs in pairs)
    return rival_seconds * ratio, rival_seconds


def outcome_of_error(error: BaseException) -> Outcome:
    """The outcome of a trial in which a device, its driver or the loader raised ``error``."""
    signs = (*_OUT_OF_MEMORY, "OUT_OF", "ALLOCATION", "cannot allocate memory")
    kind: Status = "memory" if any(sign in str(error) for sign in signs) else "failed"
    return Outcome(kind, message=last_line(error))


def outcome_of_end(status: int, log: bytes, reason: str = "") -> Outcome:
    """The outcome of a trial whose process ended without one: ``status`` as ``subprocess`` gives it, ``log``
    what it wrote last, ``reason`` what to say in place of the status."""
    reason = reason or f"ended with {status}"
    if status < 0:
        with contextlib.suppress(ValueError):
            reason = f"ended by {signal.Signals(-status).name}"
    text = log[-2000:].decode(errors="replace")
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
    kind: Status = "memory" if any(sign in text for sign in _OUT_OF_MEMORY) else "crashed"
    return Outcome(kind, message=f"{reason}; {last}"[:500])


def last_line(error: BaseException) -> str:
    """An error's class and the last line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:500]
