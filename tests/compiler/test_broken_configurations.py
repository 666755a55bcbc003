"""A configuration that is not supported is refused in one kind of error, with its file and the reason."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
from ddimcache.compiler.frontend.scheduler import sampler_constants
from ddimcache.errors import FrontendError
from tests.kit.damage import (
    INDEX,
    SCHEDULER_CONFIG,
    TEXT_CONFIG,
    UNET,
    UNET_CONFIG,
    VAE_CONFIG,
    Change,
    remove,
    rename,
    replace_folder_by_file,
    set_keys,
    write,
)
from tests.kit.family import copy_stand_in, load_everything

pytestmark = pytest.mark.host


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_stand_in("tiny-sd15", tmp_path / "model")


# name -> how to break the folder, the file that the message has to name, and the reason it has to give
BREAKAGES: dict[str, tuple[Change, str, str]] = {
    "index missing": (
        remove(INDEX),
        INDEX,
        "file is missing, so the folder is no",
    ),
    "index not JSON": (write(INDEX, b"{"), INDEX, "is not JSON"),
    "index not text": (write(INDEX, b"\xff\xfe\x00"), INDEX, "is not JSON"),
    "index a list": (
        write(INDEX, b"[1]"),
        INDEX,
        "holds a list, not a JSON object",
    ),
    "index nested without end": (
        write(INDEX, b"[" * 200_000),
        INDEX,
        "is not JSON",
    ),
    "SDXL": (
        set_keys(INDEX, _class_name="StableDiffusionXLPipeline"),
        INDEX,
        "`_class_name` is 'StableDiffusionXLPipeline', which is not supported",
    ),
    "Flux": (set_keys(INDEX, _class_name="FluxPipeline"), INDEX, "'FluxPipeline'"),
    "no class": (set_keys(INDEX, _class_name=None), INDEX, "`_class_name` is None"),
    "another UNet class": (
        set_keys(INDEX, unet=["diffusers", "UNetMotionModel"]),
        INDEX,
        "`unet` is ['diffusers', 'UNetMotionModel'], which is not supported; UNet2DConditionModel is",
    ),
    "component not there": (
        set_keys(INDEX, vae=[None, None]),
        INDEX,
        "`vae` is [None, None], which is not supported",
    ),
    "component folder missing": (rename("vae", "vae2"), "vae", "folder is missing"),
    "component folder a file": (replace_folder_by_file("vae"), "vae", "folder is missing"),
    "UNet config missing": (remove(UNET_CONFIG), UNET_CONFIG, "file is missing"),
    "VAE config missing": (remove(VAE_CONFIG), VAE_CONFIG, "file is missing"),
    "text encoder config missing": (
        remove(TEXT_CONFIG),
        TEXT_CONFIG,
        "file is missing",
    ),
    "scheduler config missing": (
        remove(SCHEDULER_CONFIG),
        SCHEDULER_CONFIG,
        "file is missing",
    ),
    "UNet of another class": (
        set_keys(UNET_CONFIG, _class_name="UNet3DConditionModel"),
        UNET_CONFIG,
        "'UNet3DConditionModel'",
    ),
    "unknown block": (
        set_keys(UNET_CONFIG, down_block_types=["CrossAttnDownBlock2D", "AttnDownBlock2D"]),
        UNET_CONFIG,
        "unknown block type 'AttnDownBlock2D'",
    ),
    "block not a name": (
        set_keys(UNET_CONFIG, up_block_types=[["UpBlock2D"], "UpBlock2D"]),
        UNET_CONFIG,
        "unknown block type ['UpBlock2D']",
    ),
    "unknown middle": (
        set_keys(UNET_CONFIG, mid_block_type="UNetMidBlock2DSimpleCrossAttn"),
        UNET_CONFIG,
        "`mid_block_type` is 'UNetMidBlock2DSimpleCrossAttn'",
    ),
    "blocks of unequal number": (
        set_keys(UNET_CONFIG, up_block_types=["UpBlock2D"]),
        UNET_CONFIG,
        "`up_block_types` is ['UpBlock2D'], a list of 1, but `down_block_types` has 2",
    ),
    "widths of unequal number": (
        set_keys(UNET_CONFIG, block_out_channels=[32, 64, 64]),
        UNET_CONFIG,
        "a list of 3 for 2 block types",
    ),
    "a width that is text": (
        set_keys(UNET_CONFIG, block_out_channels=[32, "64"]),
        UNET_CONFIG,
        "`block_out_channels` is [32, '64'], with '64', which is not a whole number",
    ),
    "a negative width": (
        set_keys(UNET_CONFIG, block_out_channels=[32, -64]),
        UNET_CONFIG,
        "with -64, which is not a whole number",
    ),
    "a width beyond memory": (
        set_keys(UNET_CONFIG, block_out_channels=[32, 10**30]),
        UNET_CONFIG,
        "which is not a whole number from 1 to",
    ),
    "groups that do not divide": (
        set_keys(UNET_CONFIG, norm_num_groups=5),
        UNET_CONFIG,
        "`norm_num_groups` is 5, which does not divide 32 in `block_out_channels`",
    ),
    "no groups": (
        set_keys(UNET_CONFIG, norm_num_groups=None),
        UNET_CONFIG,
        "`norm_num_groups` is None",
    ),
    "heads that do not divide": (
        set_keys(UNET_CONFIG, attention_head_dim=[4, 6]),
        UNET_CONFIG,
        "which does not divide 64 in `block_out_channels`",
    ),
    "layers as text": (
        set_keys(UNET_CONFIG, layers_per_block="2"),
        UNET_CONFIG,
        "`layers_per_block` is '2', not a whole number",
    ),
    "layers true": (
        set_keys(UNET_CONFIG, layers_per_block=True),
        UNET_CONFIG,
        "`layers_per_block`",
    ),
    "layers without end": (
        set_keys(UNET_CONFIG, layers_per_block=10**6),
        UNET_CONFIG,
        "from 1 to 128",
    ),
    "class embedding": (
        set_keys(UNET_CONFIG, class_embed_type="projection"),
        UNET_CONFIG,
        "`class_embed_type` is 'projection', a variant that is not supported",
    ),
    "addition embedding": (
        set_keys(UNET_CONFIG, addition_embed_type="text_time"),
        UNET_CONFIG,
        "`addition_embed_type` is 'text_time'",
    ),
    "dual cross attention": (
        set_keys(UNET_CONFIG, dual_cross_attention=True),
        UNET_CONFIG,
        "`dual_cross_attention` is True",
    ),
    "no self-attention": (
        set_keys(UNET_CONFIG, only_cross_attention=True),
        UNET_CONFIG,
        "`only_cross_attention` is True",
    ),
    "guidance embedding of a consistency model": (
        set_keys(UNET_CONFIG, time_cond_proj_dim=256),
        UNET_CONFIG,
        "`time_cond_proj_dim` is 256",
    ),
    "depth": (
        set_keys(UNET_CONFIG, in_channels=5),
        UNET_CONFIG,
        "`in_channels` is 5, but `out_channels` is 4; of the models that take an image beside the noise only "
        "those for inpainting are supported, with 9 channels in",
    ),
    "editing": (
        set_keys(UNET_CONFIG, in_channels=8),
        UNET_CONFIG,
        "`in_channels` is 8, but `out_channels` is 4",
    ),
    "inpainting with other weights": (
        set_keys(UNET_CONFIG, in_channels=9),
        UNET,
        "conv_in.weight",
    ),
    "activation": (set_keys(UNET_CONFIG, act_fn="mish"), UNET_CONFIG, "`act_fn` is 'mish'"),
    "no sample size": (
        set_keys(UNET_CONFIG, sample_size=None),
        UNET_CONFIG,
        "`sample_size` is None",
    ),
    "epsilon not a number": (
        set_keys(UNET_CONFIG, norm_eps="1e-5"),
        UNET_CONFIG,
        "`norm_eps` is '1e-5', not a number above 0",
    ),
    "epsilon NaN": (set_keys(UNET_CONFIG, norm_eps=float("nan")), UNET_CONFIG, "`norm_eps` is nan"),
    "nothing attends": (
        set_keys(
            UNET_CONFIG,
            down_block_types=["DownBlock2D"] * 2,
            up_block_types=["UpBlock2D"] * 2,
            mid_block_type=None,
        ),
        UNET_CONFIG,
        "the prompt is never read",
    ),
    "text width": (
        set_keys(UNET_CONFIG, cross_attention_dim=64),
        TEXT_CONFIG,
        "`hidden_size` is 32, but `cross_attention_dim`",
    ),
    "latent channels": (
        set_keys(VAE_CONFIG, latent_channels=16),
        VAE_CONFIG,
        "`latent_channels` is 16, but `out_channels`",
    ),
    "VAE block": (
        set_keys(VAE_CONFIG, up_block_types=["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]),
        VAE_CONFIG,
        "unknown block type 'AttnUpDecoderBlock2D'",
    ),
    "scaling factor": (set_keys(VAE_CONFIG, scaling_factor=0), VAE_CONFIG, "`scaling_factor` is 0"),
    "shift factor": (set_keys(VAE_CONFIG, shift_factor=0.1), VAE_CONFIG, "`shift_factor` is 0.1"),
    "another text encoder": (
        set_keys(TEXT_CONFIG, model_type="t5"),
        TEXT_CONFIG,
        "`model_type` is 't5'",
    ),
    "text heads": (
        set_keys(TEXT_CONFIG, num_attention_heads=5),
        TEXT_CONFIG,
        "`num_attention_heads` is 5, which does not divide 32",
    ),
    "text activation": (
        set_keys(TEXT_CONFIG, hidden_act="relu"),
        TEXT_CONFIG,
        "`hidden_act` is 'relu'",
    ),
    "unknown scheduler": (
        set_keys(INDEX, scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]),
        INDEX,
        "`scheduler` is ['diffusers', 'FlowMatchEulerDiscreteScheduler']",
    ),
    "another scheduler in its file": (
        set_keys(SCHEDULER_CONFIG, _class_name="EDMEulerScheduler"),
        SCHEDULER_CONFIG,
        "'EDMEulerScheduler'",
    ),
    "prediction type": (
        set_keys(SCHEDULER_CONFIG, prediction_type="flow"),
        SCHEDULER_CONFIG,
        "`prediction_type` is 'flow'",
    ),
    "beta schedule": (
        set_keys(SCHEDULER_CONFIG, beta_schedule="sigmoid"),
        SCHEDULER_CONFIG,
        "`beta_schedule` is 'sigmoid'",
    ),
    "thresholding": (
        set_keys(SCHEDULER_CONFIG, thresholding=True),
        SCHEDULER_CONFIG,
        "`thresholding` is True, which is meant for pixels",
    ),
    "spacing": (
        set_keys(SCHEDULER_CONFIG, timestep_spacing="log"),
        SCHEDULER_CONFIG,
        "`timestep_spacing` is 'log'",
    ),
    "too few trained betas": (
        set_keys(SCHEDULER_CONFIG, trained_betas=[0.1] * 7),
        SCHEDULER_CONFIG,
        "not a list of 1000 numbers",
    ),
    "beta of one": (
        set_keys(SCHEDULER_CONFIG, beta_end=1.0),
        SCHEDULER_CONFIG,
        "`beta_end` is 1.0, not below 1",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_broken_configuration_is_refused_with_file_and_reason(name: str, folder: Path) -> None:
    change, file, reason = BREAKAGES[name]
    change(folder)
    with pytest.raises(FrontendError) as caught:
        load_everything(folder)
    assert caught.value.where == str(folder / file)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(str(folder / file))


@pytest.mark.parametrize(
    ("path", "reason"),
    [("nowhere", "folder is missing"), ("file.ckpt", "is a file, not the folder"), ("", "no diff")],
)
def test_a_path_that_is_no_pipeline_is_refused(path: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file.ckpt").write_bytes(b"\x80\x02")
    with pytest.raises(FrontendError, match=reason):
        load_pipeline_folder(tmp_path / path)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_configuration_says_no_other_error_escapes(data, folder: Path) -> None:
    """Put any JSON at any key: the folder loads, or is refused."""
    name = data.draw(
        st.sampled_from(
            [
                UNET_CONFIG,
                VAE_CONFIG,
                TEXT_CONFIG,
                SCHEDULER_CONFIG,
            ]
        )
    )
    before = (folder / name).read_text()
    scalars = st.none() | st.booleans() | st.integers(-3, 40) | st.floats(-1, 2) | st.text(max_size=3)
    value = data.draw(scalars | st.lists(scalars, max_size=3) | st.just({}), label="value")
    key = data.draw(st.sampled_from(sorted(json.loads(before))), label="key")
    refusal = None
    try:
        set_keys(name, **{key: value})(folder)
        sampler_constants(load_pipeline_folder(folder))
    except FrontendError as error:
        refusal = str(error)
    finally:
        (folder / name).write_text(before)
    assert refusal is None or str(folder) in refusal
