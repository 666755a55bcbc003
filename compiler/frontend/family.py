"""Which models belong to the family: Stable Diffusion 1.x and 2.x, of any width, depth and number of heads.

Each function checks one component's configuration and returns nothing; what is not refused here, the stages
after the frontend have to be able to compile.
"""

from __future__ import annotations

import math

from ddimcache.compiler.frontend.component_config import DEEPEST, ConfigReader

DOWN_BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D")
UP_BLOCKS = ("CrossAttnUpBlock2D", "UpBlock2D")
MID_BLOCK = "UNetMidBlock2DCrossAttn"
# The schedulers that diffusers declares interchangeable for Stable Diffusion, less the two of EDM, whose
# networks want another input scaling, and that of models with an LCM-LoRA merged into them.
SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")

_UNET_DEFAULTS_ONLY = {
    "center_input_sample": False,
    "only_cross_attention": False,
    "dual_cross_attention": False,
    "downsample_padding": 1,
    "reverse_transformer_layers_per_block": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "num_attention_heads": None,
    "class_embed_type": None,
    "num_class_embeds": None,
    "projection_class_embeddings_input_dim": None,
    "class_embeddings_concat": False,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "cross_attention_norm": None,
}
_VAE_DEFAULTS_ONLY = {"latents_mean": None, "latents_std": None}


def check_unet(config: ConfigReader) -> None:
    """Refuse a ``UNet2DConditionModel`` that is not one of Stable Diffusion 1.x or 2.x.

    Raises
    ------
    FrontendError : names the key, its value and what is supported.
    """
    if config.values.get("time_cond_proj_dim") is not None:
        raise config.wrong(
            "time_cond_proj_dim",
            "the width of an embedded guidance scale, which latent consistency models take; only None is "
            "supported",
            remedy="use a model with LCM's LoRA merged into its UNet, and --sampler lcm",
        )
    config.default_only(_UNET_DEFAULTS_ONLY)
    config.one_of("mid_block_only_cross_attention", (None, False))
    down = config.names("down_block_types", DOWN_BLOCKS)
    up = config.names("up_block_types", UP_BLOCKS)
    mid = config.one_of("mid_block_type", (MID_BLOCK, None))
    levels = len(down)
    if len(up) != levels:
        raise config.wrong("up_block_types", f"a list of {len(up)}, but `down_block_types` has {levels}")
    widths = config.per_level("block_out_channels", levels, single=False)
    heads = config.per_level("attention_head_dim", levels)
    config.per_level("layers_per_block", levels, DEEPEST)
    config.per_level("transformer_layers_per_block", levels, DEEPEST)
    cross = config.per_level("cross_attention_dim", levels)
    if len(set(cross)) != 1:
        raise config.wrong(
            "cross_attention_dim", "of different widths; only one width for all levels is supported"
        )
    groups = config.whole("norm_num_groups")
    config.divides("norm_num_groups", groups, "block_out_channels", widths)
    attends = [name.startswith("CrossAttn") for name in down]
    for level, name in enumerate(reversed(up)):
        attends[level] |= name.startswith("CrossAttn")
    attends[-1] |= mid is not None
    if not any(attends):
        raise config.wrong(
            "down_block_types", "and no other block has cross-attention: the prompt is never read"
        )
    for width, count, has_attention in zip(widths, heads, attends, strict=True):
        if has_attention:
            config.divides("attention_head_dim", count, "block_out_channels", (width,))
    # The sine and cosine halves of the timestep embedding are as wide as the first level.
    if widths[0] % 2:
        raise config.wrong("block_out_channels", f"with an odd first width {widths[0]}")
    config.one_of("act_fn", ("silu", "swish"))
    config.number("norm_eps", above=0)
    config.number("mid_block_scale_factor", above=0)
    config.number("freq_shift")
    config.flag("flip_sin_to_cos")
    config.flag("use_linear_projection")
    config.flag("upcast_attention")
    if config.values.get("time_embedding_dim") is not None:
        config.whole("time_embedding_dim")
    check_sample_size(config)
    latent_channels = config.whole("out_channels", maximum=64)
    if config.whole("in_channels", maximum=129) not in (latent_channels, 2 * latent_channels + 1):
        raise config.wrong(
            "in_channels",
            f"but `out_channels` is {latent_channels}; of the models that take an image beside the noise "
            f"only those for inpainting are supported, with {2 * latent_channels + 1} channels in (depth and "
            "editing models are not)",
        )


def check_sample_size(config: ConfigReader) -> tuple[int, int]:
    """Return the default height and width: of the UNet in latents, of the VAE in pixels.

    Raises
    ------
    FrontendError : it is neither a positive whole number nor two of them.
    """
    value = config.values.get("sample_size")
    pair = [value, value] if type(value) is int else value
    if (
        not isinstance(pair, list | tuple)
        or len(pair) != 2
        or not all(type(side) is int and 1 <= side <= 16384 for side in pair)
    ):
        raise config.wrong("sample_size", "not a whole number from 1 to 16384, or two of them")
    return pair[0], pair[1]


def check_vae(config: ConfigReader) -> None:
    """Refuse an ``AutoencoderKL`` that is not one of Stable Diffusion 1.x or 2.x.

    Raises
    ------
    FrontendError : names the key, its value and what is supported.
    """
    config.default_only(_VAE_DEFAULTS_ONLY)
    down = config.names("down_block_types", ("DownEncoderBlock2D",))
    up = config.names("up_block_types", ("UpDecoderBlock2D",))
    if len(up) != len(down):
        raise config.wrong("up_block_types", f"a list of {len(up)}, but `down_block_types` has {len(down)}")
    widths = config.per_level("block_out_channels", len(down), single=False)
    config.divides("norm_num_groups", config.whole("norm_num_groups"), "block_out_channels", widths)
    config.whole("layers_per_block", maximum=DEEPEST)
    config.whole("latent_channels", maximum=64)
    for key in ("in_channels", "out_channels"):
        if config.whole(key) != 3:
            raise config.wrong(key, "but pictures have 3 channels")
    config.one_of("act_fn", ("silu", "swish"))
    config.number("scaling_factor", above=0)
    check_sample_size(config)
    # StableDiffusionPipeline divides by the scaling factor and adds no shift.
    if config.values.get("shift_factor") is not None and config.number("shift_factor") != 0:
        raise config.wrong(
            "shift_factor", "which StableDiffusionPipeline never applies; only null is supported"
        )
    for key in ("use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"):
        config.flag(key)


def check_text_encoder(config: ConfigReader) -> None:
    """Refuse a text encoder that is not CLIP's.

    Raises
    ------
    FrontendError : names the key, its value and what is supported.
    """
    config.one_of("model_type", ("clip_text_model",))
    width = config.whole("hidden_size")
    heads = config.whole("num_attention_heads")
    config.divides("num_attention_heads", heads, "hidden_size", (width,))
    config.whole("intermediate_size")
    config.whole("num_hidden_layers", maximum=DEEPEST)
    config.whole("vocab_size", maximum=1 << 24)
    config.whole("max_position_embeddings", minimum=3)
    config.one_of("hidden_act", ("quick_gelu", "gelu"))
    config.number("layer_norm_eps", above=0)
    if config.values.get("use_attention_mask"):
        raise config.wrong("use_attention_mask", "which is not supported; only false is")


def check_scheduler(config: ConfigReader) -> None:
    """Refuse a noise schedule that ``DDIMScheduler`` cannot run, or not with latents.

    Raises
    ------
    FrontendError : names the key, its value and what is supported.
    """
    training_steps = config.whole("num_train_timesteps", maximum=100_000)
    betas = config.values.get("trained_betas")
    if betas is None:
        config.one_of("beta_schedule", BETA_SCHEDULES)
        for key in ("beta_start", "beta_end"):
            if config.number(key, above=0) >= 1:
                raise config.wrong(key, "not below 1")
    else:
        if not isinstance(betas, list | tuple) or len(betas) != training_steps:
            raise config.wrong(
                "trained_betas", f"not a list of {training_steps} numbers (`num_train_timesteps`)"
            )
        for beta in betas:
            if type(beta) not in (int, float) or not math.isfinite(beta) or not 0 <= beta < 1:
                raise config.wrong("trained_betas", f"with {beta!r}, which is not a number from 0 to below 1")
    config.one_of("prediction_type", PREDICTION_TYPES)
    config.one_of("timestep_spacing", TIMESTEP_SPACINGS)
    config.whole("steps_offset", minimum=0, maximum=training_steps)
    if config.flag("thresholding"):
        raise config.wrong("thresholding", "which is meant for pixels, not latents; only false is supported")
    config.flag("set_alpha_to_one")
    config.flag("rescale_betas_zero_snr")
    config.flag("clip_sample")
    config.number("clip_sample_range", above=0)
