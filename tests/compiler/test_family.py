"""Compiled members of the family compute what PyTorch computes, at every cut, with and without the cache."""

from __future__ import annotations

import functools
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddimcache.errors import UsageError
from ddimcache.models.stand_in import write_stand_in
from ddimcache.models.stand_in_presets import Preset, scheduler, text_encoder, unet, vae
from ddimcache.runtime.bundle import Bundle
from tests.kit.damage import UNET_CONFIG, set_keys
from tests.kit.device_run import compile_to, distance, psnr, run
from tests.kit.family import family_members, single_thread, stand_in
from tests.kit.launches import check_launches
from tests.kit.reference import SplitUNet, TorchPipeline, fake_quantise, sample

pytestmark = pytest.mark.host
one_thread = pytest.fixture(scope="module", autouse=True)(single_thread)

PROMPT = "a large red circle on white"
STEPS = 3
# Model, cut and weights of the default tier: the outermost cut, one in the middle, and the innermost of a
# UNet without a middle block, where the feature is the skip connection itself.
CHOSEN = [("tiny-sd15", 0, "fp32"), ("tiny-odd", 2, "int8"), ("tiny-bk", 5, "int8-g32")]
EVERY_CUT = [(preset, cut, "fp32") for preset in ("tiny-sd15", "tiny-sd21") for cut in range(6)]


@functools.cache
def reference(model: Path, weights: str) -> TorchPipeline:
    """The model in PyTorch, every convolution and linear layer rounded where the weights are int8."""
    pipe = TorchPipeline.load(model)
    kind, _, group = weights.partition("-g")
    if kind == "int8":
        for network in (pipe.text_encoder, pipe.unet, pipe.vae):
            assert fake_quantise(network, group=int(group or 0))
    return pipe


def noise(bundle: Bundle, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(bundle.manifest.latents.shape).astype("float32")


def compare(bundle: Bundle, pipe: TorchPipeline, cut: int, interval: int, guidance: float) -> None:
    """Hold latents and picture of a short loop against PyTorch."""
    latents = noise(bundle, seed=interval)
    numbers = {"steps": STEPS, "guidance": guidance, "cache_interval": interval, "negative_prompt": "blue"}
    ours = run(bundle, PROMPT, latents, **numbers)
    theirs = sample(pipe, PROMPT, latents, cut=cut, **numbers)
    assert (ours.timings["full_steps"], ours.timings["cached_steps"]) == (
        theirs.full_steps,
        theirs.cached_steps,
    )
    assert distance(ours.latents, theirs.latents.numpy()) < 1e-4
    assert psnr(ours.images[0], theirs.image) > 50


def in_full(case: tuple[str, int, str]) -> object:
    return pytest.param(case, marks=[pytest.mark.full, pytest.mark.timeout(7200)])


@pytest.fixture(
    scope="module",
    params=[
        CHOSEN[0],
        in_full(CHOSEN[1]),
        CHOSEN[2],
        *(in_full(case) for case in EVERY_CUT if case not in CHOSEN),
    ],
    ids=lambda case: f"{case[0]}-cut{case[1]}-{case[2]}",
)
def member(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """A compiled member: bundle, PyTorch's side and cut."""
    preset, cut, weights = request.param
    model = stand_in(preset)
    out = tmp_path_factory.mktemp("family") / "bundle"
    bundle = compile_to(model, out, target="llvm", weights=weights, cut=cut)
    return bundle, reference(model, weights), cut


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("interval", [1, 2])
def test_latents_and_pictures_are_those_of_torch(member: tuple, interval: int, guidance: float) -> None:
    compare(*member, interval, guidance)


def test_chosen_cuts_are_the_ends_and_one_between() -> None:
    skips = {preset: SplitUNet(reference(stand_in(preset), "fp32").unet, 0).skips for preset, _, _ in CHOSEN}
    outermost, middle, innermost = (cut / (skips[preset] - 1) for preset, cut, _ in CHOSEN)
    assert outermost == 0 < middle < 1 == innermost


def test_the_bundle_knows_how_many_cuts_there_are(member: tuple) -> None:
    bundle, pipe, cut = member
    assert (bundle.manifest.cut, bundle.manifest.cuts) == (cut, SplitUNet(pipe.unet, 0).skips)


def test_every_launch_has_a_layer(member: tuple) -> None:
    bundle, pipe, _ = member
    check_launches(bundle, pipe)


def test_guidance_of_one_and_below_is_none(member: tuple) -> None:
    bundle = member[0]
    numbers = {"steps": 3, "cache_interval": 2}
    latents = noise(bundle, 1)
    first, second, third = (
        run(bundle, PROMPT, latents, guidance=guidance, **numbers).latents for guidance in (0.0, 1.0, 1.5)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(second, third)


@pytest.mark.full
def test_a_narrow_level_other_heads_and_no_middle_at_a_wide_size(tmp_path: Path) -> None:
    """Three levels of 1, 5 and 2 heads, the outermost of 8 channels, whose layers int8 leaves in float16."""
    preset = Preset(
        text_encoder(width=12, layers=1, heads=3, vocab_size=600),
        unet(
            (8, 40, 24),
            [1, 5, 2],
            12,
            [24, 96],
            (True, False, True),
            layers_per_block=[1, 2, 1],
            mid_block_type=None,
            norm_num_groups=4,
            use_linear_projection=True,
        ),
        vae((8, 12), sample_size=192, norm_num_groups=4, layers_per_block=1),
        scheduler("DDIMScheduler"),
    )
    model = write_stand_in(preset, tmp_path / "model", dtype="float32")
    pipe = reference(model, "int8")
    cut = SplitUNet(pipe.unet, 0).skips - 2
    bundle = compile_to(model, tmp_path / "bundle", target="llvm", weights="int8", cut=cut)
    assert bundle.manifest.latent_size == (96, 24)
    compare(bundle, pipe, cut, 2, 7.5)


@pytest.mark.full
@pytest.mark.timeout(7200)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(preset=family_members(), data=st.data())
def test_random_members_compute_what_torch_computes(preset: Preset, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        model = write_stand_in(preset, Path(scratch) / "model", dtype="float32")
        pipe = TorchPipeline.load(model)
        cut = data.draw(st.integers(0, SplitUNet(pipe.unet, 0).skips - 1), label="cut")
        bundle = compile_to(model, Path(scratch) / "bundle", target="llvm", weights="fp32", cut=cut)
        for interval, guidance in itertools.product((1, 2), (1.0, 7.5)):
            compare(bundle, pipe, cut, interval, guidance)


def test_cut_beyond_the_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this UNet has no cut 6; it has 6, from 0 "):
        compile_to(stand_in("tiny-bk"), tmp_path / "bundle", target="llvm", cut=6)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("width", "height", "named"), [(24, 32, "width"), (32, 40, "height")])
def test_size_that_cannot_be_halved_is_refused(tmp_path: Path, width: int, height: int, named: str) -> None:
    preset = Preset(
        text_encoder(width=8, layers=1, heads=1, vocab_size=600),
        unet((8, 8, 8), heads=1, cross_attention_dim=8, sample_size=8, norm_num_groups=4),
        vae((8, 8, 8), sample_size=32, norm_num_groups=4, layers_per_block=1),
        scheduler("DDIMScheduler"),
    )
    model = write_stand_in(preset, tmp_path / "model")
    # Two halvings of latents that are a quarter of the picture.
    with pytest.raises(UsageError, match=rf"--size: {named} \d+ is not a multiple of 16"):
        compile_to(model, tmp_path / "bundle", target="llvm", width=width, height=height)
    set_keys(UNET_CONFIG, sample_size=[height // 4, width // 4])(model)
    with pytest.raises(UsageError, match=rf"`sample_size` of .*config.json: {named} \d+ is not a multiple"):
        compile_to(model, tmp_path / "bundle", target="llvm")
    assert not (tmp_path / "bundle").exists()
