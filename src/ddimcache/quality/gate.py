"""The gate behind a compilation: a bundle whose pictures are worse than asked for is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddimcache.errors import DdimcacheError, UsageError
from ddimcache.quality.pictures import Commission, Setting, draw_sets
from ddimcache.quality.report import Measured
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.pool_devices import DeviceSource
from ddimcache.runtime.progress import Progress
from ddimcache.runtime.quality_notes import MeasuredSetting


@dataclass(frozen=True)
class Gate:
    """What is asked of pictures with a cache: PSNR in dB, and accuracy as a share; None asks nothing.

    The PSNR is to pictures of the model with float32 weights and without a cache.
    """

    least_psnr: float | None
    least_accuracy: float | None
    steps: int
    cache_interval: int


@dataclass(frozen=True)
class Costs:
    """Rows of ``Measured``: the uncompressed model, the bundle without a cache, the bundle with one."""

    uncompressed: dict[str, Any]
    uncached: dict[str, Any]
    cached: dict[str, Any]

    def measured(self, gate: Gate) -> MeasuredSetting:
        """Return what is kept of it in the bundle."""
        psnr = self.cached["psnr_to_uncached"]
        return MeasuredSetting(gate.steps, gate.cache_interval, "uniform", psnr)


def measure(
    candidate: Bundle,
    reference: Bundle,
    gate: Gate,
    commission: Commission,
    folder: Path,
    sources: Sequence[DeviceSource],
    progress: Progress,
) -> Costs:
    """Draw with both bundles and return the figures; raises as :func:`draw_sets` and :class:`Measured`."""
    wanted = [
        (reference, Setting.of_interval(reference, gate.steps, 1)),
        (candidate, Setting.of_interval(candidate, gate.steps, 1)),
        (candidate, Setting.of_interval(candidate, gate.steps, gate.cache_interval)),
    ]
    sets = draw_sets(wanted, commission, folder, sources, progress)
    measured = Measured(sets, commission)
    return Costs(*map(measured.row, sets))


def check_can_judge(gate: Gate, candidate: Bundle) -> None:
    """Raise :class:`UsageError` where accuracy is asked of pictures that nobody here can judge."""
    from ddimcache.models.shapes.drawing import PICTURE_SIZE

    if gate.least_accuracy is not None and candidate.manifest.image_size != (PICTURE_SIZE, PICTURE_SIZE):
        raise UsageError(
            "pictures of this model cannot be judged",
            where="--min-accuracy",
            remedy="ask for --min-psnr; accuracy is told of captions and pictures of the embedded model",
        )


def check(costs: Costs, gate: Gate, weights: str) -> None:
    """Raise :class:`DdimcacheError` where the pictures are worse than asked, saying what costs how much."""
    psnr = costs.cached["psnr_to_uncompressed"]
    if gate.least_psnr is not None and psnr is not None and psnr < gate.least_psnr:
        raise DdimcacheError(
            f"the pictures have {psnr:.1f} dB to those of the uncompressed model, below {gate.least_psnr:g}: "
            f"{weights} weights alone leave {_decibels(costs.uncached['psnr_to_uncompressed'])}, "
            f"a cache interval of {gate.cache_interval} at {gate.steps} steps alone "
            f"{_decibels(costs.cached['psnr_to_uncached'])}",
            where="--min-psnr",
            remedy=_remedy(costs),
        )
    accuracy = costs.cached["accuracy"]
    if gate.least_accuracy is None:
        return
    assert accuracy is not None, "the bundle was not looked at before its pictures were drawn"
    if accuracy < gate.least_accuracy:
        before, without = costs.uncompressed["accuracy"], costs.uncached["accuracy"]
        raise DdimcacheError(
            f"the pictures have {accuracy:.1%} of what was asked right, below {gate.least_accuracy:.1%}: "
            f"the uncompressed model has {before:.1%}, with {weights} weights {without:.1%}, and a cache "
            f"interval of {gate.cache_interval} at {gate.steps} steps makes that {accuracy:.1%}",
            where="--min-accuracy",
            remedy=_remedy(costs),
        )


def _remedy(costs: Costs) -> str:
    by_weights, by_cache = costs.uncached["psnr_to_uncompressed"], costs.cached["psnr_to_uncached"]
    if by_weights is not None and (by_cache is None or by_weights < by_cache):
        return "take --weights fp16 or fp32; no bundle was written"
    return "take a smaller --cache-interval; no bundle was written"


def _decibels(value: float | None) -> str:
    return "equal pictures" if value is None else f"{value:.1f} dB"
