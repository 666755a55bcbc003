"""The image decoder of a bundle beside PyTorch's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddimcache.bench import turns
from ddimcache.bench.answer import NO_TIME
from ddimcache.bench.torch_unet import round_weights
from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
from ddimcache.errors import DeviceError
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.component import LoadedComponent
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.local_device import device_failures, open_device
from ddimcache.runtime.noise import noise
from ddimcache.runtime.progress import Progress

MOST_LEVELS = 2
"""A pixel that is further than so many of 255 levels from PyTorch's is wrong, and the decoder not timed."""

_SEED = 0


@dataclass(frozen=True)
class DecoderMeasurement:
    """Median seconds of a picture, ours and PyTorch's, and the largest difference in levels of 255."""

    seconds: float
    torch_seconds: float
    levels: int


class TorchDecoder:
    """diffusers' decoder in float32 and eager mode, its weights rounded as the bundle's are."""

    def __init__(self, model: Path, bundle: Bundle) -> None:
        self._vae: Any = load_pipeline_folder(model).load_vae()
        round_weights(self._vae, bundle.manifest.weights)

    def __call__(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return pictures [B, H, W, 3] uint8 of latents [B, C, h, w] float32."""
        with torch.inference_mode():
            image = self._vae.decode(torch.from_numpy(latents) / self._vae.config.scaling_factor).sample
            levels = (image * 127.5 + 127.5).clamp(0, 255).round().to(torch.uint8)
            return levels.permute(0, 2, 3, 1).numpy()


def measure(
    bundle: Bundle, spec: DeviceSpec, model: Path, *, repeats: int, threads: int, progress: Progress
) -> DecoderMeasurement:
    """Hold a picture of random latents against PyTorch's, then time both in turns.

    Parameters
    ----------
    bundle, spec : what runs, and the local device.
    model : the diffusers folder that the bundle was compiled from.
    repeats : how often each is timed.
    threads : of PyTorch.

    Raises :class:`DeviceError` where a pixel is further than :data:`MOST_LEVELS` from PyTorch's.
    """
    import tvm

    device = open_device(spec, bundle.manifest.device_kind)
    latents = noise(_SEED, bundle.manifest.latents.shape)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with progress.stage("bench", total=2 + repeats) as stage:
            theirs = TorchDecoder(model, bundle)
            expected = theirs(latents)
            stage.advance(1, "PyTorch")
            with device_failures(spec):
                component = LoadedComponent(bundle, "vae_decoder", spec)
                placed = tvm.runtime.tensor(latents, device)

            def ours() -> NDArray[np.uint8]:
                with device_failures(spec):
                    return component.call("decode", placed).numpy()

            levels = int(np.abs(ours().astype(int) - expected).max())
            if levels > MOST_LEVELS:
                raise DeviceError(
                    f"a pixel is {levels} of 255 levels away from PyTorch's, at most {MOST_LEVELS} is right",
                    where=f"device {spec}",
                    remedy=NO_TIME,
                )
            stage.advance(1, "check")
            calls = {"ours": ours, "torch": lambda: theirs(latents)}
            seconds = turns.medians(calls, repeats, turns.STEPS, lambda: stage.advance(1, "timed calls"))
    finally:
        torch.set_num_threads(before)
    return DecoderMeasurement(seconds["ours"], seconds["torch"], levels)
