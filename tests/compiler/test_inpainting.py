"""A part of a picture that is drawn anew is that of diffusers, whether the UNet is given the mask or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from ddimcache.errors import UsageError
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.image import read_mask
from ddimcache.runtime.noise import noise
from tests.compiler.test_image_to_image import PROMPT, SCHEDULERS, picture_of
from tests.kit.device_run import compile_to, distance, psnr, run, sizes_of
from tests.kit.family import single_thread, stand_in
from tests.kit.reference import Kept, TorchPipeline, diffusers_pipeline, sample
from tests.kit.shared_bundles import compiled

PLACES = (
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint",
    "diffusers.models.autoencoders.vae",
    "diffusers.schedulers.scheduling_lcm",
)

WIDE = (48, 16)

one_thread = pytest.fixture(autouse=True, scope="module")(single_thread)


@pytest.fixture(scope="module")
def plain() -> tuple[Path, Bundle]:
    """A model that knows nothing of masks."""
    model = stand_in("tiny-sd15")
    return model, compiled(model, target="opencl", weights="fp32", image_to_image=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    """A model that was made for it, at two sizes; its encoder comes without being asked for."""
    folder = tmp_path_factory.mktemp("made") / "bundle"
    model, sizes = stand_in("tiny-inpaint"), sizes_of([(32, 32), WIDE])
    return model, compile_to(model, folder, target="opencl", weights="fp32", **sizes).at(None)


def mask_of(bundle: Bundle) -> Image.Image:
    """Return a mask of the bundle's size, some of whose parts are grey."""
    width, height = bundle.manifest.image_size
    pixels = np.zeros((height, width), "uint8")
    pixels[height // 3 :, width // 4 : -2] = 255
    pixels[: height // 3, : width // 2] = np.linspace(90, 170, width // 2)
    return Image.fromarray(pixels)


def draws(seed: int, bundle: Bundle, count: int, order: list[int]) -> list[torch.Tensor]:
    """Return the seed's numbers in the order in which diffusers draws them."""
    numbers = noise(seed, (count, *bundle.manifest.latents.shape))
    return [torch.from_numpy(numbers[index]) for index in order]


def published(
    model: Path, sampler: str, rows: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch, **call: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return latents and pictures of diffusers' pipeline, which is given ``rows`` as its noise."""
    for place in PLACES:
        monkeypatch.setattr(f"{place}.randn_tensor", lambda *_, **__: rows.pop(0))
    base = diffusers_pipeline(model)
    config = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    kind, more = SCHEDULERS[sampler]
    scheduler = kind.from_config(config | {"steps_offset": 1, "clip_sample": False}, **more)
    pipe = StableDiffusionInpaintPipeline(
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
    latents = pipe(prompt=PROMPT, output_type="latent", **call).images
    assert rows == []
    with torch.no_grad():
        return latents.numpy(), TorchPipeline.of(pipe).decode(latents)


@pytest.mark.opencl
@pytest.mark.parametrize(
    ("sampler", "steps", "strength"),
    [
        ("ddim", 20, 0.6),
        ("ddim", 7, 1.0),
        ("euler", 12, 0.75),
        ("euler", 6, 1.0),
        ("dpm++2m-karras", 10, 1.0),
        ("lcm", 4, 0.8),
    ],
)
def test_a_model_without_a_mask_keeps_what_the_pipeline_keeps(
    plain: tuple[Path, Bundle], sampler: str, steps: int, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, bundle = plain
    taken, guidance = int(steps * strength), 3.0
    picture, mask = picture_of(bundle), mask_of(bundle)
    ours = run(
        bundle,
        PROMPT,
        11,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
        image=picture.tobytes(),
        strength=strength,
        mask=mask.tobytes(),
    )
    # First the picture's encoder, then the latents, then what the masked picture draws and nobody uses.
    adding = taken if sampler == "lcm" else 1
    rows = draws(11, bundle, adding + 1, [adding, 0, adding, *range(1, adding)])
    latents, expected = published(
        model,
        sampler,
        rows,
        monkeypatch,
        image=picture,
        mask_image=mask,
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=guidance,
    )
    assert distance(ours.latents, latents) < 1e-4
    assert psnr(ours.images, expected) > 45


@pytest.mark.opencl
@pytest.mark.parametrize(
    ("sampler", "steps", "strength"),
    [
        ("ddim", 20, 0.6),
        ("ddim", 7, 1.0),
        ("euler", 6, 1.0),
        ("dpm++2m-karras", 10, 0.75),
        ("lcm", 4, 0.8),
    ],
)
def test_a_model_that_is_given_the_mask_fills_in_what_the_pipeline_fills_in(
    made: tuple[Path, Bundle], sampler: str, steps: int, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, bundle = made
    taken, guidance = int(steps * strength), 3.0
    picture, mask = picture_of(bundle), mask_of(bundle)
    ours = run(
        bundle,
        PROMPT,
        11,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
        image=picture.tobytes(),
        strength=strength,
        mask=mask.tobytes(),
    )
    # The picture's encoder where the latents begin with it, the latents, the masked picture's encoder.
    adding = taken if sampler == "lcm" else 1
    begins = [adding] if strength < 1 else []
    rows = draws(11, bundle, adding + 2, [*begins, 0, adding + 1, *range(1, adding)])
    latents, expected = published(
        model,
        sampler,
        rows,
        monkeypatch,
        image=picture,
        mask_image=mask,
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=guidance,
    )
    assert distance(ours.latents, latents) < 1e-4
    assert psnr(ours.images, expected) > 45


@torch.no_grad()
def encoded(pipe: TorchPipeline, picture: Image.Image, hole: np.ndarray, drawn: np.ndarray) -> torch.Tensor:
    """Return the latents of a picture that is grey in a hole [H, W], of the sample that ``drawn`` makes."""
    pixels = (
        torch.from_numpy(np.asarray(picture) / np.float32(127.5) - 1) * torch.from_numpy(~hole)[..., None]
    )
    found = pipe.vae.encode(pixels.permute(2, 0, 1)[None]).latent_dist
    return (found.mean + found.std * torch.from_numpy(drawn)) * pipe.vae.config.scaling_factor


@pytest.mark.opencl
@pytest.mark.parametrize(("form", "size"), [("plain", None), ("made", None), ("made", WIDE)])
def test_the_cache_keeps_what_the_reference_keeps(
    form: str, size: tuple[int, int] | None, request: pytest.FixtureRequest
) -> None:
    model, bundle = request.getfixturevalue(form)
    bundle = bundle.at(size)
    picture, mask = picture_of(bundle), mask_of(bundle)
    ours = run(
        bundle,
        PROMPT,
        5,
        steps=10,
        cache_interval=3,
        image=picture.tobytes(),
        strength=1.0,
        mask=mask.tobytes(),
    )
    assert (ours.timings["full_steps"], ours.timings["cached_steps"]) == (4, 6)
    pipe = TorchPipeline.load(model)
    first, of_picture, of_masked = noise(5, (3, *bundle.manifest.latents.shape))
    white = np.asarray(mask) >= 128
    width, height = bundle.manifest.latent_size
    cells = torch.from_numpy(white[:: mask.height // height, :: mask.width // width].astype("float32"))
    assert 0 < cells.sum() < width * height
    more: dict[str, Any] = {}
    if form == "plain":
        latents = encoded(pipe, picture, np.zeros_like(white), of_picture)
        more["kept"] = Kept(latents, torch.from_numpy(first), cells)
    else:
        latents = encoded(pipe, picture, white, of_masked)
        more["surroundings"] = torch.cat([cells[None, None], latents], dim=1)
    theirs = sample(pipe, PROMPT, first, steps=10, cache_interval=3, **more)
    assert distance(ours.latents, theirs.latents.numpy()) < 1e-4


@pytest.mark.opencl
def test_mask_and_masked_picture_are_convolved_once_an_image(
    made: tuple[Path, Bundle], plain: tuple[Path, Bundle]
) -> None:
    manifest = made[1].manifest
    assert manifest.inpaints
    assert manifest.takes_images
    unet, (width, height) = manifest.components["unet"], manifest.latent_size
    assert set(unet.functions) == {
        "embed_time",
        "project_context",
        "project_surroundings",
        "full",
        "cached",
    }
    # Five channels of nine, and no more remain in a step than of a model without them.
    assert manifest.macs_once["project_surroundings"] == 9 * 5 * 32 * width * height
    assert manifest.macs_saved_cached >= manifest.macs_once["project_surroundings"]
    # A step does and launches what that of a model without a mask does: the sum is fused.
    other = plain[1].manifest
    assert (manifest.macs_full, manifest.macs_cached) == (other.macs_full, other.macs_cached)
    for function in ("full", "cached"):
        counts = [
            sum(kernel.calls.get(function, 0) for kernel in each.components["unet"].kernels)
            for each in (manifest, other)
        ]
        assert counts[0] == counts[1]


@pytest.mark.opencl
def test_a_model_that_fills_in_draws_nothing_without_a_mask(made: tuple[Path, Bundle]) -> None:
    for image in (b"", picture_of(made[1]).tobytes()):
        with pytest.raises(
            UsageError, match="--mask: the model fills in a part of a picture; give a picture"
        ):
            run(made[1], PROMPT, 3, steps=4, image=image)


@pytest.mark.opencl
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": b""}, "--mask: says where a picture is drawn anew, and there is none; give --image"),
        ({"mask": bytes(10)}, "--mask: 10 bytes, a mask of this size has 1024"),
        ({"mask": bytes(1024)}, "--mask: leaves nothing to draw; make white"),
        ({"mask": b"\x7f" * 1024}, "--mask: leaves nothing to draw; make white"),
        (
            {"mask": b"\x00\xff" * 512},
            "--mask: leaves nothing to draw; make white what is to be drawn anew, ",
        ),
        ({"strength": 0.2}, "--strength: it leaves none of 4 steps"),
    ],
)
def test_a_wrong_request_is_refused(plain: tuple[Path, Bundle], change: dict, message: str) -> None:
    _, bundle = plain
    request = {"latents": 3, "steps": 4, "image": picture_of(bundle).tobytes(), "mask": b"\xff" * 1024}
    with pytest.raises(UsageError) as caught:
        run(bundle, PROMPT, **(request | change))
    assert message in str(caught.value)


def modes() -> dict[str, Image.Image]:
    """Return one mask in many modes, of a size of its own."""
    grey = np.zeros((50, 90), "uint8")
    grey[10:40, 20:70] = 255
    grey[:, :9] = 128
    mask = Image.fromarray(grey)
    deep = Image.fromarray(grey.astype("uint16") * 257)
    assert deep.mode == "I;16"
    clear = mask.convert("RGBA")
    clear.putalpha(3)
    return {
        "L": mask,
        "RGB": mask.convert("RGB"),
        "RGBA": clear,
        "LA": mask.convert("LA"),
        "P": mask.convert("P"),
        "CMYK": mask.convert("RGB").convert("CMYK"),
        "I;16": deep,
    }


@pytest.mark.host
@pytest.mark.parametrize("mode", modes())
def test_a_mask_of_any_mode_and_size_is_read_as_the_pipeline_reads_it(mode: str, tmp_path: Path) -> None:
    from diffusers.image_processor import VaeImageProcessor

    file = tmp_path / ("mask.tif" if mode == "CMYK" else "mask.png")
    modes()[mode].save(file)
    size = (48, 32)
    found = np.frombuffer(read_mask(file, "--mask", size), "uint8").reshape(32, 48)
    processor = VaeImageProcessor(do_normalize=False, do_binarize=True, do_convert_grayscale=True)
    theirs = processor.preprocess(modes()["L"], height=32, width=48)[0, 0].numpy()
    np.testing.assert_array_equal(found >= 128, theirs == 1)


@pytest.mark.host
def test_mask_files_that_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    Image.new("L", (20, 20), 127).save(file)
    with pytest.raises(UsageError, match=r"--mask: .*mask.png is nowhere white, so nothing would be drawn"):
        read_mask(file, "--mask", (32, 32))
    Image.fromarray(np.zeros((8, 8), "float32")).save(tmp_path / "mask.tif")
    with pytest.raises(
        UsageError, match=r"--mask: .*mask.tif has numbers of 32 bits for its pixels; save it"
    ):
        read_mask(tmp_path / "mask.tif", "--mask", (32, 32))


@pytest.mark.host
@pytest.mark.full
def test_both_halves_of_the_first_layer_keep_float16_on_a_phone(tmp_path: Path) -> None:
    bundle = compile_to(stand_in("tiny-inpaint"), tmp_path / "phone", target="adreno-740", weights="int8")
    unet = bundle.manifest.components["unet"]
    [projected] = unet.functions["project_surroundings"].outputs
    width, height = bundle.manifest.latent_size
    assert (projected.shape, projected.dtype) == ((1, height, width, 32), "float16")
    assert projected in unet.functions["full"].inputs
    assert projected in unet.functions["cached"].inputs
    # Nine channels at once would be too many for what keeps the first layer from int8.
    dtypes = {weight.name: weight.dtype for weight in unet.weights if "conv_in" in weight.name}
    assert set(dtypes.values()) <= {"float16", "float32"}
    assert sum("weight+" in name for name in dtypes) == 2
    assert "int8" in {weight.dtype for weight in unet.weights}
