"""What a trial is asked for and what comes of it, as data that crosses processes and lasts in files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ddimcache.kernels.workload import Workload
from ddimcache.manifest import Count, Size
from ddimcache.records import Limits
from ddimcache.schedules.tuning_records import Method

Status = Literal["good", "wrong", "refused", "failed", "crashed", "hung", "memory"]
"""``good``: right and timed; ``wrong``: its answer is not the reference's; ``refused``: the schedule, the
compiler or the device's limits do not take it; ``failed``: an error of the device or the driver; ``crashed``,
``hung``, ``memory``: the process ended by itself, was ended after its time, or asked for too much memory."""

Word = Annotated[str, Limits(minimum=1, maximum=100)]
Seconds = Annotated[float, Limits(minimum=0, maximum=1e6)]
Message = Annotated[str, Limits(maximum=1000)]
Choices = Annotated[dict[str, int], Limits(maximum=32)]


@dataclass(frozen=True)
class Request:
    """A trial: ``decisions`` about a workload, in turns with those of ``rival``.

    ``inputs`` names an ``.npz`` file with the operands and ``expected``; ``place`` is a local device
    (``opencl:0``) or ``lab``; ``repeats`` are rounds of turns, ``memory`` bytes of address space, 0 for any.
    """

    workload: Word
    target: Word
    place: Word
    decisions: Choices
    rival: Choices
    inputs: str
    repeats: Size
    memory: Count


@dataclass(frozen=True)
class Outcome:
    """What came of a trial. Times are medians of a launch; ``error`` is a share of the largest number."""

    status: Status
    seconds: Seconds | None = None
    rival_seconds: Seconds | None = None
    error: Annotated[float, Limits(minimum=0)] | None = None
    message: Message = ""

    @property
    def ratio(self) -> float | None:
        """Its time over the rival's."""
        if self.status != "good" or self.seconds is None or not self.rival_seconds:
            return None
        return self.seconds / self.rival_seconds


@dataclass(frozen=True)
class Trial:
    """A trial as it is kept: what it was about, against whom, and its outcome.

    One that ``confirms`` is the longer run against the defaults that a win needs, and no further candidate.
    """

    op: Word
    shape: Annotated[tuple[Size, ...], Limits(minimum=1, maximum=16)]
    dtype: Word
    weights: Word
    device: Word
    method: Method
    version: Count
    decisions: Choices
    rival: Choices
    outcome: Outcome
    tool: Word
    confirms: bool = False

    @property
    def workload(self) -> Workload:
        """What the trial is about."""
        return Workload(self.op, self.shape, self.dtype, self.weights)
