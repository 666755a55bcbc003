"""Profiles one image on one device, here or behind RPC."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ddimcache.errors import UsageError
from ddimcache.manifest import Manifest
from ddimcache.profile import report
from ddimcache.profile.match import Image, expected_calls, match
from ddimcache.runtime.bundle import Bundle, open_bundle
from ddimcache.runtime.image import ImageRequest, ImageSession, MemoryChoice, run_image
from ddimcache.runtime.peaks import Peaks
from ddimcache.runtime.profiler import Profiler
from ddimcache.runtime.progress import Progress
from ddimcache.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Wish:
    """The image that is profiled, and whether the device's limits are measured although they are kept.

    ``size`` is (width, height) in pixels, None for the bundle's first.
    """

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    cache_interval: int
    guidance: float
    measure_again: bool = False
    size: tuple[int, int] | None = None


class ProfiledDevice(Protocol):
    """What a profile needs of a device."""

    @property
    def name(self) -> str:
        """What people call it."""

    def profiler(self) -> Profiler:
        """Return what times its commands; raises :class:`DeviceError` where nothing can."""

    def open(self, bundle: Bundle, progress: Progress, memory: MemoryChoice, /) -> ImageSession:
        """Load a bundle."""


def open_profiled(folder: Path, size: tuple[int, int] | None = None) -> Bundle:
    """Open a bundle whose kernels carry times, at one of its picture sizes.

    Raises :class:`BundleError` and :class:`UsageError`.
    """
    opened = open_bundle(folder).at(size)
    if opened.manifest.device_kind != "opencl":
        raise UsageError(
            f"{folder} was compiled for {opened.manifest.device_kind}, whose kernels nobody times",
            where="BUNDLE",
            remedy="compile the model with --target opencl",
        )
    return opened


def measure(
    bundle: Bundle,
    device: ProfiledDevice,
    wish: Wish,
    bars: Progress,
    tell: Callable[[str], object] = lambda line: None,
) -> tuple[dict[str, Any], Image]:
    """Draw an image to warm up and one on which every command is timed; ``bundle`` is at the wish's size.

    Returns what ``profile --json`` prints but for the folder's name, and the image; ``tell`` is told what
    begins. Raises :class:`BundleError` where the device ran other kernels than the bundle lists.
    """
    tokenizer = Tokenizer(bundle.tokenizer)
    ids, negative_ids = map(tokenizer.encode, (wish.prompt, wish.negative_prompt))
    numbers = (wish.seed, wish.steps, wish.cache_interval, wish.guidance)
    request = ImageRequest(ids, negative_ids, *numbers, size=bundle.manifest.image_size)
    profiler = device.profiler()
    tell("measuring the device's limits, unless they are kept")
    peaks, kept = profiler.peaks(wish.measure_again)
    session = device.open(bundle, bars, MemoryChoice())
    try:
        # Never as many as are profiled: what is computed once a schedule would be there already.
        steps = 3 if request.steps == 2 else 2
        interval = 1 if request.cache_interval == 1 else 2
        tell(f"warming up: an image of {steps} steps")
        run_image(session, dataclasses.replace(request, steps=steps, cache_interval=interval), bars)
        tell(f"profiling: an image of {request.steps} step{'s' * (request.steps > 1)}")
        profiler.start()
        try:
            run_image(session, request, bars)
        finally:
            timeline = profiler.stop()
        memory, peak_bytes = profiler.memory(), session.peak_bytes
    finally:
        session.close()
    once = bundle.manifest.components["unet"].functions
    in_one_call = bundle.manifest.guides_in_one_call
    calls = expected_calls(request.steps, request.cache_interval, request.guidance > 1, once, in_one_call)
    image = match(timeline, calls, bundle)
    return {
        "model": bundle.manifest.model,
        "device": device.name,
        "device_name": peaks.device,
        "driver": peaks.driver,
        "prompt": wish.prompt,
        "negative_prompt": wish.negative_prompt,
        "seed": wish.seed,
        **_facts(bundle.manifest, request, image, peaks),
        "peaks": {
            "gflops": peaks.gflops,
            "gbytes": peaks.gbytes,
            "measured": peaks.measured,
            "kept": kept,
        },
        "memory": memory,
        "peak_bytes": peak_bytes,
    }, image


def _facts(manifest: Manifest, request: ImageRequest, image: Image, peaks: Peaks) -> dict[str, Any]:
    full = -(-request.steps // request.cache_interval)
    dtype = manifest.context.dtype
    return {
        "weights": manifest.weights,
        "size": list(manifest.image_size),
        "batch": manifest.batch,
        "cut": manifest.cut,
        "dtype": dtype,
        "steps": request.steps,
        "cache_interval": request.cache_interval,
        "guidance": request.guidance,
        "full_steps": full,
        "cached_steps": request.steps - full,
        "unet_calls_a_step": 2 if request.guidance > 1 and not manifest.guides_in_one_call else 1,
        "seconds": report.device_seconds(image),
        "functions": report.functions(image),
        "kernels": report.kernels(image, peaks, dtype),
        "layers": report.layers(image),
    }
