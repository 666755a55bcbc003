"""Sets of pictures drawn for measuring: every prompt with its own seed, once for every setting.

A picture is a job of a pool: drawn on whichever device is free, kept as a file, and not drawn again by a
later run with the same bundle, prompt, seed and steps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddimcache.errors import DdimcacheError
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.image import ImageRequest, encode_png
from ddimcache.runtime.picture_files import is_kept, keep_picture
from ddimcache.runtime.pool import Job, Pool, Worker
from ddimcache.runtime.pool_devices import DeviceSource
from ddimcache.runtime.progress import Progress
from ddimcache.runtime.refresh import every
from ddimcache.runtime.result_log import ResultLog
from ddimcache.runtime.tokenizer import Tokenizer

RESULTS = "results.jsonl"
PICTURES = "pictures"


@dataclass(frozen=True)
class Commission:
    """What is drawn in every setting: prompt i with seed ``first_seed`` + i, at one guidance."""

    prompts: tuple[str, ...]
    first_seed: int
    guidance: float


@dataclass(frozen=True)
class Setting:
    """One way to draw: the kind of weights and the cut of a bundle, DDIM steps, and which of them are full.

    ``cache_interval`` is the n whose number of full steps this is; ``schedule`` how they are placed.
    """

    weights: str
    cut: int
    steps: int
    cache_interval: int
    schedule: str
    full_steps: tuple[int, ...]

    @classmethod
    def of_interval(cls, bundle: Bundle, steps: int, interval: int) -> Setting:
        """Return the setting of a bundle whose every ``interval``-th step is full."""
        manifest = bundle.manifest
        return cls(manifest.weights, manifest.cut, steps, interval, "uniform", every(steps, interval))

    @property
    def uncached(self) -> Setting:
        """The same without a cache."""
        return replace(self, cache_interval=1, schedule="uniform", full_steps=every(self.steps, 1))

    @property
    def title(self) -> str:
        """What people call it: ``int8, 50 steps, n = 5``."""
        parts = [self.weights, f"{self.steps} steps", f"n = {self.cache_interval}"]
        if self.schedule != "uniform":
            parts.append(self.schedule)
        if self.cut:
            parts.append(f"cut {self.cut}")
        return ", ".join(parts)


@dataclass(frozen=True)
class PictureSet:
    """The pictures of a setting in the order of the prompts: uint8 (N, H, W, 3), and their files.

    ``seconds`` is the median over the pictures of the time of all steps.
    """

    setting: Setting
    pixels: NDArray[np.uint8]
    files: tuple[Path, ...]
    seconds: float


def draw_sets(
    wanted: Sequence[tuple[Bundle, Setting]],
    commission: Commission,
    folder: Path,
    sources: Sequence[DeviceSource],
    progress: Progress,
) -> list[PictureSet]:
    """Draw what is not in ``folder`` yet, and return a set for each bundle with a setting.

    Raises :class:`DdimcacheError` when a picture could not be drawn; what was drawn stays in the folder.
    """
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    sets = [_jobs(bundle, setting, commission, folder / PICTURES) for bundle, setting in wanted]
    log = ResultLog(folder / RESULTS)
    try:
        # One bundle after another, since changing it costs a device time; within it all settings of a prompt
        # in turn, so that what else the machine does falls on all of them alike.
        order = list(dict.fromkeys(bundle.folder for bundle, _ in wanted))
        places = [order.index(bundle.folder) for bundle, _ in wanted]
        numbered = [
            (place, index, job)
            for place, jobs in zip(places, sets, strict=True)
            for index, job in enumerate(jobs)
        ]
        jobs = {job.identity: job for *_, job in sorted(numbered, key=lambda entry: entry[:2])}
        pool = Pool(sources)
        report = pool.run(jobs.values(), log, progress, lambda result: _is_whole(result, folder / PICTURES))
    finally:
        log.close()
    if report.failed:
        first = report.failed[0]
        raise DdimcacheError(
            f"{len(report.failed)} pictures could not be drawn, the first because of: {first.problem}",
            where=folder / RESULTS,
            remedy="run it again to try once more",
        )
    return [
        _loaded(setting, [report.results[job.identity] for job in jobs], folder / PICTURES)
        for (_, setting), jobs in zip(wanted, sets, strict=True)
    ]


def _jobs(bundle: Bundle, setting: Setting, commission: Commission, folder: Path) -> list[Job]:
    tokenizer = Tokenizer(bundle.tokenizer)
    negative_ids = tuple(tokenizer.encode(""))
    jobs = []
    for index, prompt in enumerate(commission.prompts):
        request = ImageRequest(
            tuple(tokenizer.encode(prompt)),
            negative_ids,
            commission.first_seed + index,
            setting.steps,
            setting.cache_interval,
            commission.guidance,
            setting.full_steps,
            size=bundle.manifest.image_size,
        )
        drawing = _Drawing(bundle, request, folder)
        jobs.append(Job(drawing.identity, drawing.draw))
    return jobs


class _Drawing:
    """One picture, drawn on whichever device."""

    def __init__(self, bundle: Bundle, request: ImageRequest, folder: Path) -> None:
        self._bundle = bundle
        self._request = request
        self._folder = folder
        what = [
            contents(bundle),
            request.ids,
            request.noise,
            request.steps,
            request.full_steps,
            request.guidance,
            # The first size of a bundle has no name of its own.
            *filter(None, [bundle.names.suffix]),
        ]
        self.identity = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]

    def draw(self, worker: Worker) -> dict[str, Any]:
        """Draw it, keep its file, and return file and times for the log."""
        done = worker.session(self._bundle).draw(self._request)
        kept = keep_picture(self._folder, f"{self.identity}.png", encode_png(done.drawn.pixels[0], {}))
        return {**kept, "seconds": done.timings["seconds"]["denoise"]}


def contents(bundle: Bundle) -> str:
    """Return a sha256 of the files that decide a bundle's pictures, which its notes on quality do not."""
    named = sorted(
        (name, entry.sha256)
        for name, entry in bundle.manifest.files.items()
        if "/" in name or name.endswith((".so", ".safetensors"))
    )
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def _is_whole(result: Any, folder: Path) -> bool:
    """Whether a result of an earlier run has its picture and its time."""
    seconds = result.get("seconds") if isinstance(result, dict) else None
    return isinstance(seconds, int | float) and seconds > 0 and is_kept(result, folder)


def _loaded(setting: Setting, results: Iterable[Any], folder: Path) -> PictureSet:
    found = list(results)
    files = tuple(folder / Path(result["image"]).name for result in found)
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    return PictureSet(setting, pixels, files, float(np.median([result["seconds"] for result in found])))
