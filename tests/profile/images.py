"""An image that was never drawn: a timeline in whole microseconds over the lists of the fake bundle."""

from __future__ import annotations

from typing import Any

import numpy as np

from ddimcache.launches import Launch, LaunchLists
from ddimcache.profile import report
from ddimcache.profile.match import Call, Image, TimedCopy, TimedLaunch
from ddimcache.runtime.peaks import Peaks
from ddimcache.runtime.profiler import Timeline

PEAKS = Peaks(1, "fake", "1.0", {"float32": 100.0}, 10.0, "2026-11-20")


def launch(kernel: str, layer: str, flops: int = 1000, moved: int = 1000) -> Launch:
    return Launch(kernel, layer, flops // 2, flops, moved, 0, (4,), "float32")


LISTS = {
    "text_encoder": LaunchLists({"encode": (launch("embed", "embeddings"),)}),
    "unet": LaunchLists(
        {
            "full": (
                launch("conv", "conv_in"),
                launch("norm", "down_blocks.0.norm"),
                launch("conv", "conv_out"),
            ),
            "cached": (launch("conv", "conv_in"), launch("conv", "conv_out")),
            "next_step": (launch("next_step", "sampler", 0, 4),),
            "guide_and_step": (launch("guide_and_step", "sampler"),),
            "step": (launch("step", "sampler"),),
        }
    ),
    "vae_decoder": LaunchLists({"decode": (launch("decode_all", "decoder"),)}),
}


def timeline(calls: list[Call], between: int = 1000, took: int = 2000) -> Timeline:
    """What a device would say: every launch takes ``took`` ns, ``between`` ns after the one before."""
    names: dict[str, int] = {}
    rows, now = [], 5000
    rows.append((names.setdefault("copy host to device", 0), now, now, now + 500))
    now += 500 + between
    for call in calls:
        for one in LISTS[call.component].functions[call.function]:
            name = names.setdefault(f"{one.kernel}_kernel", len(names))
            rows.append((name, now - 10, now, now + took))
            now += took + between
    return Timeline(tuple(names), np.asarray(rows, np.int64))


def facts(kernel: str = "conv", layer: str = "down_blocks.0.conv1", count: int = 1) -> dict[str, Any]:
    """What ``profile --json`` prints, of ``count`` kernels in as many layers."""
    launches = tuple(
        TimedLaunch(
            0,
            launch(f"{kernel}{number}", f"{layer}.{number}", 1000 * (number + 1)),
            number * 30,
            number * 30 + 20,
        )
        for number in range(count)
    )
    image = Image((Call("unet", "full", 0),), launches, (TimedCopy("copy host to device", 0, 5),))
    return {
        "model": kernel,
        "device": "opencl",
        "device_name": "fake",
        "driver": "1.0",
        "prompt": "a </script> circle",
        "weights": "int8",
        "size": [64, 64],
        "batch": 1,
        "cut": 0,
        "dtype": "float32",
        "steps": 1,
        "full_steps": 1,
        "cached_steps": 0,
        "unet_calls_a_step": 1,
        "peak_bytes": 12345,
        "peaks": {"gflops": PEAKS.gflops, "gbytes": PEAKS.gbytes},
        "seconds": report.device_seconds(image),
        "functions": report.functions(image),
        "kernels": report.kernels(image, PEAKS, "float32"),
        "layers": report.layers(image),
    }
