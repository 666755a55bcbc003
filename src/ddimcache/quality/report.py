"""The figures of sets of pictures: against the uncompressed model, against real drawings, and in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ddimcache.quality.metrics import frechet_distance, psnr, ssim
from ddimcache.quality.pictures import Commission, PictureSet, Setting

if TYPE_CHECKING:
    from ddimcache.models.shapes.grammar import Scene
    from ddimcache.models.shapes.judge import Judge

_REAL_SEED = 1


class Measured:
    """What pictures are held against.

    Parameters
    ----------
    sets : all picture sets of a run. The uncompressed model's are those without a cache and with the weights
        named by ``reference_weights``.
    commission : their prompts. Where each is a caption of the embedded model's grammar and the pictures have
        its size, they are judged; otherwise only pictures are compared with pictures.
    real_pictures : drawings, about so many, of the same captions that the Fréchet distance is taken to.

    Raises :class:`DdimcacheError` when the judge fails its exam.
    """

    def __init__(
        self,
        sets: Sequence[PictureSet],
        commission: Commission,
        reference_weights: str = "fp32",
        real_pictures: int = 2048,
    ) -> None:
        self._sets = sets
        self._reference_weights = reference_weights
        self._scenes = _scenes(commission, sets[0].pixels)
        self._judge: Judge | None = None
        self._real: NDArray[np.float64] | None = None
        if self._scenes is not None:
            from ddimcache.models.shapes.judge import Judge, real_drawings

            self._judge = Judge()
            each = max(1, real_pictures // len(self._scenes))
            self._real = self._judge.features(real_drawings(self._scenes, each, _REAL_SEED))

    def about(self) -> dict[str, Any]:
        """Return the judge's exam, and the distance of as many fresh real drawings as there are pictures."""
        if self._judge is None or self._scenes is None or self._real is None:
            return {"judge": None, "frechet_distance_of_real": None}
        from ddimcache.models.shapes.judge import real_drawings

        fresh = self._judge.features(real_drawings(self._scenes, 1, _REAL_SEED + 1))
        return {"judge": self._judge.exam, "frechet_distance_of_real": frechet_distance(fresh, self._real)}

    def row(self, pictures: PictureSet) -> dict[str, Any]:
        """Return the figures of one set; None where there is nothing to measure against."""
        setting = pictures.setting
        uncompressed = self._find(
            lambda other: (
                other.weights == self._reference_weights
                and other.steps == setting.steps
                and len(other.full_steps) == other.steps
            )
        )
        uncached = self._find(lambda other: other == setting.uncached)
        speedup = uncached.seconds / pictures.seconds if uncached is not None else None
        return {
            "weights": setting.weights,
            "cut": setting.cut,
            "steps": setting.steps,
            "cache_interval": setting.cache_interval,
            "schedule": setting.schedule,
            "full_steps": list(setting.full_steps),
            "cached_steps": setting.steps - len(setting.full_steps),
            **self._judged(pictures),
            **_compared("uncompressed", pictures, uncompressed),
            **_compared("uncached", pictures, uncached),
            "seconds": pictures.seconds,
            "speedup": speedup,
            "efficiency": None if speedup is None else speedup / setting.cache_interval,
        }

    def _judged(self, pictures: PictureSet) -> dict[str, Any]:
        if self._judge is None or self._scenes is None or self._real is None:
            return {"frechet_distance": None, "accuracy": None}
        read = asdict(self._judge.read(pictures.pixels, self._scenes))
        distance = None
        if len(pictures.pixels) > 1:
            distance = frechet_distance(self._judge.features(pictures.pixels), self._real)
        told = self._judge.classify(pictures.pixels, self._scenes)
        return {
            "frechet_distance": distance,
            **read,
            "classifier_accuracy": told.accuracy,
            "classifier_all_right": told.all_right,
        }

    def _find(self, fits: Any) -> PictureSet | None:
        return next((other for other in self._sets if fits(other.setting)), None)


def _scenes(commission: Commission, pixels: NDArray[np.uint8]) -> list[Scene] | None:
    from ddimcache.models.shapes.drawing import PICTURE_SIZE
    from ddimcache.models.shapes.grammar import parse

    if pixels.shape[1:3] != (PICTURE_SIZE, PICTURE_SIZE):
        return None
    try:
        return [parse(prompt) for prompt in commission.prompts]
    except ValueError:
        return None


def _compared(name: str, pictures: PictureSet, other: PictureSet | None) -> dict[str, Any]:
    if other is None:
        return {f"psnr_to_{name}": None, f"ssim_to_{name}": None}
    return {
        f"psnr_to_{name}": psnr(pictures.pixels, other.pixels),
        f"ssim_to_{name}": ssim(pictures.pixels, other.pixels),
    }


HEADING = (
    "setting",
    "Fréchet",
    "accuracy",
    "wholly right",
    "PSNR to fp32, n = 1",
    "SSIM",
    "PSNR to n = 1",
    "s",
    "S",
    "E",
)


_REAL_MODELS = {"clip_score": ("CLIP", "{:.2f}"), "inception_fid": ("FID", "{:.2f}")}


def heading(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Return the names of a table's columns; those of CLIP and Inception where they were measured."""
    return (*HEADING, *(name for key, (name, _) in _REAL_MODELS.items() if _is_measured(key, rows)))


def table_row(setting: Setting, row: dict[str, Any]) -> list[str]:
    """Return a row's cells under `heading`; a set that equals what it is held against has a PSNR of ∞."""
    return [
        setting.title,
        _number(row["frechet_distance"], "{:.2f}"),
        _number(row["accuracy"], "{:.1%}"),
        _number(row.get("all_right"), "{:.1%}"),
        _decibels(row, "uncompressed"),
        _number(row["ssim_to_uncompressed"], "{:.4f}"),
        _decibels(row, "uncached"),
        _number(row["seconds"], "{:.3f}"),
        _number(row["speedup"], "{:.2f}"),
        _number(row["efficiency"], "{:.2f}"),
        *(_number(row[key], form) for key, (_, form) in _REAL_MODELS.items() if _is_measured(key, [row])),
    ]


def _is_measured(key: str, rows: Sequence[dict[str, Any]]) -> bool:
    return any(row.get(key) is not None for row in rows)


def _decibels(row: dict[str, Any], name: str) -> str:
    if row[f"psnr_to_{name}"] is None:
        return "–" if row[f"ssim_to_{name}"] is None else "∞"
    return f"{row[f'psnr_to_{name}']:.1f}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
