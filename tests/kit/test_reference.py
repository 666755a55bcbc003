"""The reference is only worth something where it is the published pipeline: diffusers, and DeepCache."""

import numpy as np
import pytest
import torch
from DeepCache import DeepCacheSDHelper
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from ddimcache.models.stand_in import write_stand_in
from ddimcache.models.stand_in_presets import PRESETS
from tests.kit.family import TINY, family_members, single_thread, stand_in
from tests.kit.reference import (
    SplitUNet,
    TorchPipeline,
    diffusers_pipeline,
    fake_quantise,
    round_to_int8,
    sample,
)

pytestmark = pytest.mark.host
one_thread = pytest.fixture(scope="module", autouse=True)(single_thread)


def _inputs(unet: UNet2DConditionModel, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    latents = torch.randn(batch, unet.config.in_channels, height, width, generator=generator)
    width = unet.config.cross_attention_dim
    width = width if isinstance(width, int) else width[0]
    return latents, torch.randn(batch, 11, width, generator=generator)


def _noise(pipe: TorchPipeline) -> torch.Tensor:
    return _inputs(pipe.unet, batch=1)[0]


@pytest.fixture(scope="module", params=TINY)
def unet(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(stand_in(request.param) / "unet").eval()


def test_full_is_diffusers_forward_for_every_cut(unet: UNet2DConditionModel) -> None:
    latents, context = _inputs(unet)
    with torch.no_grad():
        expected = unet(latents, 500, context).sample
    for cut in range(SplitUNet(unet, 0).skips):
        prediction, feature = SplitUNet(unet, cut).full(latents, 500, context)
        torch.testing.assert_close(prediction, expected, rtol=1e-5, atol=1e-5)
        assert feature.shape[0] == latents.shape[0]


def test_cached_with_a_fresh_feature_is_full_and_with_a_stale_one_is_not(unet: UNet2DConditionModel) -> None:
    latents, context = _inputs(unet)
    for cut in range(SplitUNet(unet, 0).skips):
        split = SplitUNet(unet, cut)
        prediction, fresh = split.full(latents, 500, context)
        torch.testing.assert_close(
            split.cached(latents, 500, context, fresh), prediction, rtol=1e-5, atol=1e-5
        )
        stale = split.full(-latents, 900, context)[1]
        assert (split.cached(latents, 500, context, stale) - prediction).abs().max() > 1e-3


def test_feature_at_cut_0_is_the_input_of_the_last_layer(unet: UNet2DConditionModel) -> None:
    latents, context = _inputs(unet)
    seen: list[torch.Tensor] = []
    last = unet.up_blocks[-1].resnets[-1]
    hook = last.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        unet(latents, 500, context)
    hook.remove()
    feature = SplitUNet(unet, 0).full(latents, 500, context)[1]
    torch.testing.assert_close(feature, seen[0][:, : feature.shape[1]], rtol=1e-5, atol=1e-5)


def test_skip_connections_of_stable_diffusion_number_twelve() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    assert SplitUNet(unet, 11).skips == 12
    with pytest.raises(ValueError, match="cut 12 is not one of the 12"):
        SplitUNet(unet, 12)


@pytest.mark.parametrize(
    ("cut", "kept"),
    # Cut 0 is DDIMCache's: only its 31.6 G multiply-accumulates reproduce Table 3. At cut 2 the whole
    # outermost level is kept. Cut 1 keeps one down layer and the two up layers that meet skips 1 and 0.
    [(0, 31.6), (1, 90.1), (2, 152.7), (11, 395.6)],
)
def test_work_left_on_a_cached_step_of_stable_diffusion(cut: int, kept: float) -> None:
    with torch.device("meta"):
        split = SplitUNet(UNet2DConditionModel.from_config(PRESETS["sd15"].unet), cut)
        latents, context = torch.empty(1, 4, 64, 64), torch.empty(1, 77, 768)
    with FlopCounterMode(display=False) as full:
        feature = split.full(latents, 1, context)[1]
    with FlopCounterMode(display=False) as cached:
        split.cached(latents, 1, context, feature)
    assert full.get_total_flops() / 2e9 == pytest.approx(401.6, abs=0.05)
    assert cached.get_total_flops() / 2e9 == pytest.approx(kept, abs=0.05)


@settings(max_examples=15, deadline=None)
@given(preset=family_members(), data=st.data())
def test_full_and_cached_agree_on_random_members(preset, data) -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(preset.unet).eval()
    latents, context = _inputs(unet, batch=1)
    split = SplitUNet(unet, 0)
    split = SplitUNet(unet, data.draw(st.integers(0, split.skips - 1), label="cut"))
    with torch.no_grad():
        expected = unet(latents, 7, context).sample
    prediction, feature = split.full(latents, 7, context)
    torch.testing.assert_close(prediction, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(split.cached(latents, 7, context, feature), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", TINY)
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_without_cache_sample_is_diffusers_pipeline(preset: str, guidance: float) -> None:
    published = diffusers_pipeline(stand_in(preset))
    pipe = TorchPipeline.of(published)
    noise = _noise(pipe)
    ours = sample(pipe, "a red circle", noise, 4, guidance, negative_prompt="blurry")
    arguments = {
        "prompt": "a red circle",
        "negative_prompt": "blurry",
        "num_inference_steps": 4,
        "guidance_scale": guidance,
        "latents": noise,
    }
    theirs = published(**arguments, output_type="latent").images
    torch.testing.assert_close(ours.latents, theirs, rtol=1e-4, atol=1e-4)
    picture = np.asarray(published(**arguments, output_type="pil").images[0])
    assert np.abs(ours.image.astype(int) - picture.astype(int)).max() <= 1
    assert (ours.full_steps, ours.cached_steps) == (4, 0)


@settings(max_examples=8, deadline=None)
@given(preset=family_members())
def test_without_cache_sample_is_diffusers_pipeline_on_random_members(preset, tmp_path_factory) -> None:
    folder = write_stand_in(preset, tmp_path_factory.mktemp("member") / "model", dtype="float32")
    published = diffusers_pipeline(folder)
    pipe = TorchPipeline.of(published)
    noise = _noise(pipe)
    ours = sample(pipe, "a red circle", noise, 3)
    theirs = published("a red circle", num_inference_steps=3, latents=noise, output_type="latent").images
    largest = theirs.abs().max().item()
    torch.testing.assert_close(ours.latents, theirs, rtol=1e-4, atol=1e-4 * max(largest, 1))


@pytest.mark.parametrize("preset", ["tiny-sd15", "tiny-sd21"])
@pytest.mark.parametrize("cut", range(6))
def test_with_cache_sample_is_deepcache(preset: str, cut: int) -> None:
    """Branch k of the package is our cut k where up blocks have three layers, as the package assumes."""
    published = diffusers_pipeline(stand_in(preset))
    pipe = TorchPipeline.of(published)
    noise = _noise(pipe)
    ours = sample(pipe, "a blue star", noise, 5, cache_interval=3, cut=cut)
    helper = DeepCacheSDHelper(pipe=published)
    helper.set_params(cache_interval=3, cache_branch_id=cut)
    helper.enable()
    try:
        theirs = published(
            prompt="a blue star", num_inference_steps=5, latents=noise, output_type="latent"
        ).images
    finally:
        helper.disable()
    torch.testing.assert_close(ours.latents, theirs, rtol=1e-4, atol=1e-4)
    assert (ours.full_steps, ours.cached_steps) == (2, 3)
    if cut == 0:
        without = sample(pipe, "a blue star", noise, 5)
        assert (ours.latents - without.latents).abs().max() > 1e-3


def test_rounding_is_symmetric_per_channel_and_half_to_even() -> None:
    weight = torch.tensor([[127.0, 0.5, 1.5, -2.5], [0.0, 0.0, 0.0, 0.0], [-1.0, 1.0, 0.5, 0.25]])
    quantised, scale = round_to_int8(weight)
    assert quantised.tolist() == [[127, 0, 2, -2], [0, 0, 0, 0], [-127, 127, 64, 32]]
    assert scale.tolist() == pytest.approx([1.0, 1.0, 1 / 127])


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 5), columns=st.integers(1, 40), seed=st.integers(0, 999))
def test_rounding_is_off_by_half_a_step_at_most(rows: int, columns: int, seed: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    quantised, scale = round_to_int8(weight)
    error = (quantised.float() * scale[:, None] - weight).abs()
    assert (error <= scale[:, None] * 0.5001).all()
    assert quantised.abs().amax(dim=1).eq(127).all()


def test_fake_quantise_rounds_the_layers_asked_for_and_no_others() -> None:
    unet = UNet2DConditionModel.from_pretrained(stand_in("tiny-bk") / "unet")
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    rounded = fake_quantise(unet, lambda name, layer: name != "conv_in" and ".attn" not in name)
    assert "conv_out" not in rounded  # one of the few that keep float16
    assert torch.equal(unet.conv_out.weight, before["conv_out.weight"].half().float())
    assert torch.equal(unet.conv_in.weight, before["conv_in.weight"])
    for name, tensor in unet.state_dict().items():
        if name == "conv_out.weight":
            continue
        changed = not torch.equal(tensor, before[name])
        assert changed == (name.removesuffix(".weight") in rounded and name.endswith(".weight")), name
        if changed:
            levels = len(torch.unique(tensor.flatten(1)[0]))
            assert levels <= 255
