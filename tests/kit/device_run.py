"""Runs a compiled bundle the way ``generate`` does, to be compared with PyTorch in ``reference``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddimcache.compiler.build import compile_pipeline
from ddimcache.compiler.options import CompileOptions
from ddimcache.runtime.bundle import Bundle, open_bundle
from ddimcache.runtime.devices import parse_device
from ddimcache.runtime.image import ImageRequest
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.session import Session
from ddimcache.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class DeviceSample:
    """The end of the loop on the device: latents float32 [B, C, h, w] and pictures uint8 [B, H, W, 3]."""

    latents: np.ndarray
    images: np.ndarray
    timings: dict


def sizes_of(sizes: Sequence[tuple[int, int]]) -> dict[str, object]:
    """The options of a compilation for these sizes (width, height) in pixels, the first one first."""
    (width, height), *more = sizes
    return {"width": width, "height": height, "more_sizes": tuple(more)}


def compile_to(model: Path, out: Path, **options: object) -> Bundle:
    """Compiles ``model`` into ``out`` and opens the bundle."""
    compile_pipeline(model, out, CompileOptions(**options), SilentProgress())  # type: ignore[arg-type]
    return open_bundle(out)


def run(
    bundle: Bundle,
    prompt: str,
    latents: np.ndarray | int,
    steps: int = 50,
    guidance: float = 7.5,
    cache_interval: int = 1,
    negative_prompt: str = "",
    sampler: str = "ddim",
    image: bytes = b"",
    strength: float = 0.8,
    mask: bytes = b"",
) -> DeviceSample:
    """Draws one batch on the bundle's device from ``latents``: float32 [B, C, h, w], or a seed.

    Of a bundle of several sizes it is that of ``bundle``, the first or what :meth:`Bundle.at` shows.
    """
    session = Session(bundle, parse_device(bundle.manifest.device_kind))
    try:
        tokenizer = Tokenizer(bundle.tokenizer)
        ids, negative_ids = tokenizer.encode(prompt), tokenizer.encode(negative_prompt)
        noise = latents if isinstance(latents, int) else latents.astype("<f4").tobytes()
        numbers = (steps, cache_interval, guidance)
        more = {"sampler": sampler, "image": image, "strength": strength, "mask": mask}
        more["size"] = bundle.manifest.image_size
        done = session.draw(ImageRequest(ids, negative_ids, noise, *numbers, **more))  # type: ignore[arg-type]
        assert done.picture is not None
        return DeviceSample(done.picture.latents, done.picture.pixels, done.timings)
    finally:
        session.close()


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference relative to the range of ``theirs``."""
    return float(np.abs(ours - theirs).max() / (theirs.max() - theirs.min()))


def psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Peak signal to noise ratio of two 8-bit pictures in dB; infinite when they are equal."""
    error = np.mean((ours.astype(np.float64) - theirs.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))
