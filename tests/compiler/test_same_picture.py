"""The compiled pipeline draws the picture that diffusers draws, with and without the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ddimcache.runtime.bundle import Bundle
from tests.kit.device_run import compile_to, distance, psnr, run
from tests.kit.family import stand_in
from tests.kit.launches import check_launches
from tests.kit.reference import TorchPipeline, diffusers_pipeline, sample
from tests.kit.shared_bundles import compiled

SHAPES = Path(__file__).parents[2] / "models" / "shapes" / "weights"
PROMPT = "a large red circle on white"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The embedded model with float32 weights on the OpenCL device."""
    return compile_to(SHAPES, tmp_path_factory.mktemp("shapes") / "bundle", target="opencl", weights="fp32")


@pytest.fixture(scope="module")
def shapes_reference() -> TorchPipeline:
    return TorchPipeline.load(SHAPES)


def noise(bundle: Bundle, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(bundle.manifest.latents.shape).astype("float32")


@pytest.mark.opencl
def test_fifty_guided_steps_equal_diffusers(shapes: Bundle) -> None:
    latents = noise(shapes, 11)
    ours = run(shapes, PROMPT, latents, steps=50, guidance=7.5)
    import torch

    pipe = diffusers_pipeline(SHAPES)
    arguments = {
        "prompt": PROMPT,
        "latents": torch.from_numpy(latents),
        "num_inference_steps": 50,
        "guidance_scale": 7.5,
        "height": shapes.manifest.image_size[1],
        "width": shapes.manifest.image_size[0],
    }
    theirs = pipe(**arguments, output_type="latent").images.numpy()
    picture = pipe(**arguments, output_type="np").images[0]
    assert distance(ours.latents, theirs) < 1e-3
    assert psnr(ours.images[0], (picture * 255).round().astype(np.uint8)) > 45


@pytest.mark.opencl
@pytest.mark.parametrize("interval", [2, 3, 5, 10])
def test_the_cache_is_the_published_one(
    shapes: Bundle, shapes_reference: TorchPipeline, interval: int
) -> None:
    latents = noise(shapes, interval)
    ours = run(shapes, PROMPT, latents, steps=20, cache_interval=interval)
    theirs = sample(shapes_reference, PROMPT, latents, steps=20, cache_interval=interval)
    assert ours.timings["full_steps"] == theirs.full_steps
    assert ours.timings["cached_steps"] == theirs.cached_steps
    assert distance(ours.latents, theirs.latents.numpy()) < 1e-3
    assert psnr(ours.images[0], theirs.image) > 45


@pytest.mark.opencl
def test_every_launch_has_a_layer(shapes: Bundle, shapes_reference: TorchPipeline) -> None:
    counts = check_launches(shapes, shapes_reference)
    assert counts["cached"] < counts["full"]
    attention = "up_blocks.3.attentions.2.transformer_blocks.0.attn2"
    cached = [launch for launch in shapes.launches("unet").functions["cached"] if launch.layer == attention]
    # Keys and values are there; query and output are layers of their own.
    assert [launch.kernel.rstrip("0123456789") for launch in cached] == ["attention"]
    assert counts["project_context"] == 1


@pytest.mark.opencl
def test_velocity_prediction_and_linear_projections() -> None:
    model = stand_in("tiny-sd21")
    bundle = compiled(model, target="opencl", weights="fp32")
    assert bundle.manifest.sampler.prediction_type == "v_prediction"
    latents = noise(bundle, 5)
    ours = run(bundle, PROMPT, latents, steps=20, guidance=7.5)
    theirs = sample(TorchPipeline.load(model), PROMPT, latents, steps=20, guidance=7.5)
    assert distance(ours.latents, theirs.latents.numpy()) < 1e-3
    assert psnr(ours.images[0], theirs.image) > 45
