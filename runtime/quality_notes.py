"""What was measured of a bundle's pictures and is kept in it: searched schedules, and a quality gate.

It is the file ``quality.json``, listed in the manifest like any other and absent until something is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ddimcache.errors import BundleError
from ddimcache.manifest import Size
from ddimcache.records import Limits, RecordProblem, from_json, loads
from ddimcache.runtime.bundle import Bundle

NOTES_NAME = "quality.json"
ScheduleName = Literal["uniform", "quadratic", "searched"]
Decibels = float | None
"""A peak signal-to-noise ratio; None where pictures are equal bit for bit."""


@dataclass(frozen=True)
class SearchedSchedule:
    """The best full steps found for a number of steps and a budget.

    ``psnr`` is that of calibration pictures to those without a cache, ``psnr_uniform`` that of as many full
    steps at even distances. ``budget`` is how many full steps cost as much as these where the cache cuts the
    UNet outermost, and its cached steps are the cheapest; 0 where no other cut was looked at, and the budget
    is the number of full steps.
    """

    steps: Size
    full_steps: tuple[Annotated[int, Limits(minimum=0)], ...]
    guidance: Annotated[float, Limits(minimum=0)]
    psnr: Decibels
    psnr_uniform: Decibels
    budget: Annotated[int, Limits(minimum=0)] = 0

    @property
    def key(self) -> tuple[int, int]:
        """What it is asked for by: steps, and the full steps that it stands for."""
        return self.steps, self.budget or len(self.full_steps)


@dataclass(frozen=True)
class MeasuredSetting:
    """How near pictures with a cache came to those without: the PSNR in dB."""

    steps: Size
    cache_interval: Size
    schedule: ScheduleName
    psnr: Decibels


@dataclass(frozen=True)
class QualityNotes:
    """All of it; ``least_psnr`` is the gate in dB: what was measured below it is not to be used."""

    schedules: tuple[SearchedSchedule, ...] = ()
    measured: tuple[MeasuredSetting, ...] = ()
    least_psnr: float | None = None

    def searched(self, steps: int, budget: int) -> tuple[int, ...] | None:
        """Return the searched schedule of so many steps at the cost of ``budget`` full ones, or None."""
        for found in self.schedules:
            if found.key == (steps, budget):
                return found.full_steps
        return None

    def is_below(self, steps: int, interval: int, schedule: str) -> bool:
        """Whether this was measured, and is below the gate."""
        return any(
            (each.steps, each.cache_interval, each.schedule) == (steps, interval, schedule)
            and self.least_psnr is not None
            and each.psnr is not None
            and each.psnr < self.least_psnr
            for each in self.measured
        )


def read_notes(bundle: Bundle) -> QualityNotes:
    """Return what a bundle's notes say, nothing where there are none.

    Raises :class:`BundleError` where the file holds something else.
    """
    if NOTES_NAME not in bundle.manifest.files:
        return QualityNotes()
    path = bundle.path(NOTES_NAME)
    try:
        notes = from_json(QualityNotes, loads(path.read_bytes()))
        for found in notes.schedules:
            steps = found.full_steps
            if not steps or steps[0] != 0 or list(steps) != sorted(set(steps)) or steps[-1] >= found.steps:
                raise RecordProblem("schedules", f"{list(steps)} are no full steps of {found.steps}")
            if found.budget > found.steps:
                raise RecordProblem(
                    "schedules", f"a budget of {found.budget} is more than {found.steps} steps"
                )
    except (OSError, RecordProblem) as error:
        remedy = "search again with `ddimcache schedule`, or compile the bundle again"
        raise BundleError(str(error), where=path, remedy=remedy) from error
    return notes
