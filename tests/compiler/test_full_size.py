"""Models of full size: compile time and memory, the arithmetic of a step, and its result."""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ddimcache.runtime.bundle import Bundle, open_bundle
from ddimcache.runtime.devices import parse_device
from ddimcache.runtime.image import ImageRequest
from ddimcache.runtime.session import Session
from ddimcache.runtime.tokenizer import Tokenizer
from tests.kit.family import stand_in
from tests.kit.launches import check_launches
from tests.kit.reference import SplitUNet, TorchPipeline, fake_quantise

pytestmark = [pytest.mark.opencl, pytest.mark.full, pytest.mark.timeout(7200)]

PROMPT = "a photograph of an astronaut riding a horse"
GIB = 1 << 30


def compile_in_a_process(model: Path, out: Path, *more: str) -> tuple[float, int]:
    """Seconds and peak bytes of ``ddimcache compile``, with int8 weights unless ``more`` says others."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "ddimcache.cli", "compile", str(model), "-o", str(out), *more]
    weights = () if "--weights" in more else ("--weights", "int8")
    subprocess.run([*command, "--target", "opencl", *weights, "--json"], check=True)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def start_latents(bundle: Bundle) -> np.ndarray:
    return np.random.default_rng(8).standard_normal(bundle.manifest.latents.shape).astype("float32")


def draw(bundle: Bundle) -> np.ndarray:
    """The latents after a full and a cached step."""
    session = Session(bundle, parse_device("opencl"))
    ids = Tokenizer(bundle.tokenizer).encode(PROMPT)
    size = bundle.manifest.image_size
    done = session.draw(ImageRequest(ids, ids, start_latents(bundle).tobytes(), 2, 2, 1.0, size=size))
    print(json.dumps(done.timings))
    session.close()
    gc.collect()
    return done.drawn.latents


def check_steps(ours: np.ndarray, bundle: Bundle, pipe: TorchPipeline, most: float) -> None:
    """Holds the latents after a full and a cached step against PyTorch with the same weights."""
    pipe.scheduler.set_timesteps(2)
    first, second = pipe.scheduler.timesteps.tolist()
    context, split = pipe.encode([PROMPT]), SplitUNet(pipe.unet, 0)
    current = torch.from_numpy(start_latents(bundle))
    noise, feature = split.full(current, first, context)
    current = pipe.scheduler.step(noise, first, current, return_dict=False)[0]
    noise = split.cached(current, second, context, feature)
    current = pipe.scheduler.step(noise, second, current, return_dict=False)[0]
    theirs = current.numpy()
    distance = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f"{bundle.manifest.image_size}: {distance:.1e} of the largest latent")
    assert distance < most


@pytest.mark.parametrize("preset", ["sd15", "sd21"])
def test_a_full_and_a_cached_step(preset: str, tmp_path: Path) -> None:
    model = stand_in(preset, "float16")
    seconds, peak = compile_in_a_process(model, tmp_path / "bundle")
    print(f"{preset}: compiled in {seconds:.0f} s, {peak / GIB:.1f} GiB at most")
    assert peak < 12 * GIB
    bundle = open_bundle(tmp_path / "bundle")
    if preset == "sd15":
        assert bundle.manifest.macs_full == pytest.approx(400.1e9, rel=0.002)
        assert bundle.manifest.macs_cached == pytest.approx(27.39e9, rel=0.002)
    # All 22 projections of the timestep, and keys and values of all 16 cross-attentions.
    time, prompt = bundle.manifest.conditions
    assert (time.shape, prompt.shape) == ((1, 20160), (1, 77, 24960))
    ours = draw(bundle)

    pipe = TorchPipeline.load(model)
    launches = check_launches(bundle, pipe)
    print("launches", json.dumps(launches))
    # At 96x96 and 48x48 norms are two launches, at 64x64 only; both models have 61 of them.
    assert launches["full"] <= {"sd15": 374, "sd21": 389}[preset]
    assert launches["cached"] <= 28
    assert launches["project_context"] == 1
    fake_quantise(pipe.unet)
    fake_quantise(pipe.text_encoder)
    check_steps(ours, bundle, pipe, 1e-4)


@pytest.mark.parametrize("preset", ["sd15", "sd21"])
def test_two_sizes_in_float32(preset: str, tmp_path: Path) -> None:
    """512x512 and 384x640 share their weights, and each is what PyTorch computes."""
    model = stand_in(preset, "float16")
    sizes = ("--size", "512x512,384x640", "--weights", "fp32")
    seconds, peak = compile_in_a_process(model, tmp_path / "bundle", *sizes)
    print(f"{preset}: two sizes in float32 compiled in {seconds:.0f} s, {peak / GIB:.1f} GiB at most")
    assert peak < 16 * GIB
    whole = open_bundle(tmp_path / "bundle")
    bundles = [whole.at(size) for size in ((512, 512), (384, 640))]
    if preset == "sd15":
        assert bundles[0].manifest.macs_full == pytest.approx(400.1e9, rel=0.002)
    all_ours = [draw(bundle) for bundle in bundles]
    pipe = TorchPipeline.load(model)
    check_launches(bundles[1], pipe)
    for ours, bundle in zip(all_ours, bundles, strict=True):
        check_steps(ours, bundle, pipe, 1e-4)
