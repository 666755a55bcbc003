"""What a trial is asked for and what comes of it, as data that crosses processes and lasts in files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ddimcache.kernels.workload import Workload
from ddimcache.manifest import Count, Size
from ddimcache.records import Limits
from ddimcache.runtime.trial import Outcome
from ddimcache.schedules.tuning_records import Method

Word = Annotated[str, Limits(minimum=1, maximum=100)]
Choices = Annotated[dict[str, int], Limits(maximum=32)]


@dataclass(frozen=True)
class Request:
    """A trial: ``decisions`` about a workload, in turns with those of ``rival``.

    ``inputs`` names an ``.npz`` file with the operands and ``expected``; ``place`` is a local device
    (``opencl:0``) or ``lab``; ``repeats`` are rounds of turns, ``memory`` bytes of address space, 0 for any.

    Where ``place`` is ``build``, the candidate is only built, for ``host``, into the folder ``out``, and no
    rival is looked at; where it is ``module``, so is the scheduled module that ``inputs`` names.
    """

    workload: Annotated[str, Limits(maximum=100)]
    target: Word
    place: Word
    decisions: Choices
    rival: Choices
    inputs: str
    repeats: Size
    memory: Count
    host: str = ""
    out: str = ""


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
