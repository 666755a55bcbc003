"""A picture that begins with another one is that of diffusers, for every sampler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
)
from PIL import Image

from ddimcache.errors import UsageError
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.noise import noise
from tests.kit.device_run import distance, psnr, run
from tests.kit.family import single_thread, stand_in
from tests.kit.reference import TorchPipeline, diffusers_pipeline
from tests.kit.shared_bundles import compiled

PROMPT = "a large red circle on white"
SOLVER = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "dpm++2m-karras": (DPMSolverMultistepScheduler, SOLVER | {"use_karras_sigmas": True}),
    "lcm": (LCMScheduler, {}),
}
MODEL = "tiny-sd15"
PLACES = (
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img",
    "diffusers.models.autoencoders.vae",
    "diffusers.schedulers.scheduling_lcm",
)

one_thread = pytest.fixture(autouse=True, scope="module")(single_thread)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return compiled(stand_in(MODEL), target="opencl", weights="fp32", image_to_image=True)


def picture_of(bundle: Bundle) -> Image.Image:
    """Return a picture of the bundle's size."""
    width, height = bundle.manifest.image_size
    pixels = np.random.default_rng(4).integers(0, 256, (height, width, 3), "uint8")
    return Image.fromarray(pixels)


@pytest.mark.opencl
@pytest.mark.parametrize(
    ("sampler", "steps", "strength"),
    [
        ("ddim", 20, 0.6),
        ("ddim", 5, 1.0),
        ("euler", 20, 0.35),
        ("dpm++2m-karras", 10, 0.75),
        ("lcm", 4, 0.8),
    ],
)
def test_the_latents_are_those_of_the_pipeline(
    bundle: Bundle, sampler: str, steps: int, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, guidance, picture = int(steps * strength), 3.0, picture_of(bundle)
    ours = run(
        bundle,
        PROMPT,
        11,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
        image=picture.tobytes(),
        strength=strength,
    )
    assert ours.timings["full_steps"] == taken
    # The encoder's numbers are the last of ours, and the first that diffusers draws.
    count = 1 + (taken if sampler == "lcm" else 1)
    *drawn, posterior = map(torch.from_numpy, noise(11, (count, *bundle.manifest.latents.shape)))
    rows = [posterior, *drawn]
    for place in PLACES:
        monkeypatch.setattr(f"{place}.randn_tensor", lambda *_, **__: rows.pop(0))
    base = diffusers_pipeline(stand_in(MODEL))
    config = json.loads((stand_in(MODEL) / "scheduler" / "scheduler_config.json").read_text())
    kind, more = SCHEDULERS[sampler]
    scheduler = kind.from_config(config | {"steps_offset": 1, "clip_sample": False}, **more)
    pipe = StableDiffusionImg2ImgPipeline(
        base.vae,
        base.text_encoder,
        base.tokenizer,
        base.unet,
        scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        prompt=PROMPT,
        image=picture,
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="latent",
    ).images.numpy()
    assert rows == []
    assert distance(ours.latents, theirs) < 1e-4
    with torch.no_grad():
        expected = TorchPipeline.of(pipe).decode(torch.from_numpy(theirs))
    assert psnr(ours.images, expected) > 45


@pytest.mark.opencl
def test_a_bundle_with_an_encoder_draws_from_noise_as_without_one(bundle: Bundle, tmp_path: Path) -> None:
    plain = compiled(stand_in(MODEL), target="opencl", weights="fp32")
    assert not plain.manifest.takes_images
    assert not (plain.folder / "vae_encoder.so").exists()
    first = run(bundle, PROMPT, 3, steps=4)
    assert run(plain, PROMPT, 3, steps=4).latents.tobytes() == first.latents.tobytes()
    with pytest.raises(
        UsageError, match=r"--image: the bundle has no image encoder; compile .* --image-to-im"
    ):
        run(plain, PROMPT, 3, steps=4, image=picture_of(bundle).tobytes())


@pytest.mark.opencl
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strength": 0.0}, "--strength: 0 is no share of the steps"),
        ({"strength": 1.5}, "--strength: 1.5 is no share of the steps"),
        ({"strength": float("nan")}, "--strength: nan is no share of the steps"),
        ({"strength": 0.2}, "--strength: it leaves none of 4 steps"),
        ({"image": bytes(10)}, "--image: 10 bytes, a picture of this size has 3072"),
        (
            {"latents": np.zeros((1, 4, 16, 16), "float32")},
            "initial latents: a picture is drawn on with noise",
        ),
    ],
)
def test_a_wrong_request_is_refused(bundle: Bundle, change: dict, message: str) -> None:
    request = {"latents": 3, "steps": 4, "image": picture_of(bundle).tobytes()} | change
    with pytest.raises(UsageError) as caught:
        run(bundle, PROMPT, **request)
    assert message in str(caught.value)
