"""Every sampler draws the picture that diffusers draws with its own scheduler."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, LCMScheduler

from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.noise import noise
from tests.kit.device_run import distance, psnr, run
from tests.kit.family import single_thread, stand_in
from tests.kit.reference import TorchPipeline, diffusers_pipeline, sample
from tests.kit.shared_bundles import compiled

PROMPT = "a large red circle on white"
SOLVER = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
KARRAS = {"use_karras_sigmas": True}
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "euler": (EulerDiscreteScheduler, {}),
    "euler-karras": (EulerDiscreteScheduler, KARRAS),
    "dpm++2m": (DPMSolverMultistepScheduler, SOLVER),
    "dpm++2m-karras": (DPMSolverMultistepScheduler, SOLVER | KARRAS),
    "lcm": (LCMScheduler, {}),
}

one_thread = pytest.fixture(autouse=True, scope="module")(single_thread)


@pytest.fixture(scope="module", params=["tiny-sd15", "tiny-sd21"])
def bundle(request: pytest.FixtureRequest) -> tuple[Path, Bundle]:
    """A model that predicts noise and one that predicts velocity, with float32 weights."""
    model = stand_in(request.param)
    return model, compiled(model, target="opencl", weights="fp32")


def scheduler_of(model: Path, sampler: str) -> Any:
    """Make diffusers' scheduler of the model's configuration, as its pipeline corrects it."""
    config = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    kind, more = SCHEDULERS[sampler]
    return kind.from_config(config | {"steps_offset": 1}, **more)


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, tuple[int, ...]], np.ndarray]:
    """Let LCM's scheduler take the noise that ours takes: a function of seed and shape gives the first."""
    rows: list[torch.Tensor] = []

    def begin(seed: int, steps: int, shape: tuple[int, ...]) -> np.ndarray:
        first, *others = noise(seed, (steps, *shape))
        rows[:] = map(torch.from_numpy, others)
        return first

    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: rows.pop(0))
    return begin


@pytest.mark.opencl
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_the_picture_is_that_of_the_pipeline(bundle, sampler: str, same_noise) -> None:
    model, compiled = bundle
    steps, guidance = (4, 1.5) if sampler == "lcm" else (20, 7.5)
    latents = same_noise(11, steps, compiled.manifest.latents.shape)
    ours = run(compiled, PROMPT, 11, steps=steps, guidance=guidance, sampler=sampler)
    pipe = diffusers_pipeline(model)
    pipe.scheduler = scheduler_of(model, sampler)
    width, height = compiled.manifest.image_size
    theirs = pipe(
        prompt=PROMPT,
        latents=torch.from_numpy(latents),
        num_inference_steps=steps,
        guidance_scale=guidance,
        height=height,
        width=width,
        output_type="latent",
    ).images.numpy()
    assert distance(ours.latents, theirs) < 1e-4
    with torch.no_grad():
        picture = TorchPipeline.of(pipe).decode(torch.from_numpy(theirs))
    assert psnr(ours.images, picture) > 45
    assert ours.timings["full_steps"] == steps


@pytest.mark.opencl
@pytest.mark.parametrize("sampler", ["euler", "dpm++2m-karras"])
def test_the_cache_serves_other_samplers(bundle, sampler: str, same_noise) -> None:
    model, compiled = bundle
    latents = same_noise(3, 1, compiled.manifest.latents.shape)
    ours = run(compiled, PROMPT, 3, steps=20, cache_interval=3, sampler=sampler)
    reference = dataclasses.replace(TorchPipeline.load(model), scheduler=scheduler_of(model, sampler))
    theirs = sample(reference, PROMPT, latents, steps=20, cache_interval=3)
    assert (ours.timings["full_steps"], ours.timings["cached_steps"]) == (7, 13)
    assert distance(ours.latents, theirs.latents.numpy()) < 1e-4
