"""The shapes of the stand-ins: configurations of published models, and small ones for tests.

A preset holds each component's configuration file as it is written. ``sd15`` and ``sd21`` are those of Stable
Diffusion 1.5 and 2.1, ``sd15-inpaint`` that of 1.5 for inpainting; the ``tiny`` ones have the same structure
at widths that compile in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_VERSION = "0.42.1"


@dataclass(frozen=True)
class Preset:
    """One model's configuration files, and the padding token of its tokenizer (``!`` in 2.x)."""

    text_encoder: dict[str, Any]
    unet: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    pad_token: str = "<|endoftext|>"

    @property
    def pipeline(self) -> str:
        """The class of diffusers that the whole is."""
        inpaints = self.unet["in_channels"] > self.unet["out_channels"]
        return "StableDiffusionInpaintPipeline" if inpaints else "StableDiffusionPipeline"


def text_encoder(
    width: int,
    layers: int,
    heads: int,
    vocab_size: int = 49408,
    length: int = 77,
    activation: str = "quick_gelu",
    projection: int | None = None,
) -> dict[str, Any]:
    """Return the configuration of a CLIP text encoder, ``width`` channels and ``layers`` layers."""
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": activation,
        "hidden_size": width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4 * width,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": length,
        "model_type": "clip_text_model",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "projection_dim": projection or width,
        "vocab_size": vocab_size,
    }


def unet(
    widths: tuple[int, ...],
    heads: int | list[int],
    cross_attention_dim: int,
    sample_size: int | list[int],
    attends: tuple[bool, ...] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Return the configuration of a UNet.

    Parameters
    ----------
    widths : channels of each level, outermost first.
    heads : number of attention heads, one for all levels or one each.
    cross_attention_dim : channels of the text embedding.
    sample_size : height and width of the latents.
    attends : whether a level has attention; by default all but the innermost.
    changes : other keys of ``UNet2DConditionModel``.
    """
    attends = attends or (*(True for _ in widths[1:]), len(widths) == 1)
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": _VERSION,
        "act_fn": "silu",
        "attention_head_dim": heads,
        "block_out_channels": list(widths),
        "center_input_sample": False,
        "cross_attention_dim": cross_attention_dim,
        "down_block_types": ["CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": sample_size,
        "up_block_types": ["CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)],
        **changes,
    }


def vae(widths: tuple[int, ...], sample_size: int, **changes: Any) -> dict[str, Any]:
    """Return the configuration of a VAE; ``sample_size`` is the picture's side in pixels."""
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": _VERSION,
        "act_fn": "silu",
        "block_out_channels": list(widths),
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": sample_size,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        **changes,
    }


def scheduler(name: str, **changes: Any) -> dict[str, Any]:
    """Return the configuration of the scheduler class ``name`` with Stable Diffusion's noise schedule."""
    return {
        "_class_name": name,
        "_diffusers_version": _VERSION,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        **changes,
    }


_TINY_VOCABULARY = 1024

PRESETS: dict[str, Preset] = {
    "sd15": Preset(
        text_encoder(width=768, layers=12, heads=12),
        unet((320, 640, 1280, 1280), heads=8, cross_attention_dim=768, sample_size=64),
        vae((128, 256, 512, 512), sample_size=512),
        scheduler("PNDMScheduler"),
    ),
    # The published text encoder is OpenCLIP's with its last of 24 layers left out.
    "sd21": Preset(
        text_encoder(width=1024, layers=23, heads=16, activation="gelu", projection=512),
        unet(
            (320, 640, 1280, 1280),
            heads=[5, 10, 20, 20],
            cross_attention_dim=1024,
            sample_size=96,
            dual_cross_attention=False,
            num_class_embeds=None,
            only_cross_attention=False,
            upcast_attention=True,
            use_linear_projection=True,
        ),
        vae((128, 256, 512, 512), sample_size=768),
        scheduler("DDIMScheduler", prediction_type="v_prediction"),
        pad_token="!",
    ),
    "sd15-inpaint": Preset(
        text_encoder(width=768, layers=12, heads=12),
        unet((320, 640, 1280, 1280), heads=8, cross_attention_dim=768, sample_size=64, in_channels=9),
        vae((128, 256, 512, 512), sample_size=512),
        scheduler("DDIMScheduler"),
    ),
    "tiny-sd15": Preset(
        text_encoder(width=32, layers=2, heads=4, vocab_size=_TINY_VOCABULARY),
        unet((32, 64), heads=4, cross_attention_dim=32, sample_size=16, norm_num_groups=8),
        vae((32, 64), sample_size=32, norm_num_groups=8, layers_per_block=1),
        scheduler("PNDMScheduler"),
    ),
    # Latents, a mask, and the latents of the masked picture.
    "tiny-inpaint": Preset(
        text_encoder(width=32, layers=2, heads=4, vocab_size=_TINY_VOCABULARY),
        unet((32, 64), heads=4, cross_attention_dim=32, sample_size=16, norm_num_groups=8, in_channels=9),
        vae((32, 64), sample_size=32, norm_num_groups=8, layers_per_block=1),
        scheduler("DDIMScheduler"),
    ),
    "tiny-sd21": Preset(
        text_encoder(width=64, layers=2, heads=2, vocab_size=_TINY_VOCABULARY, activation="gelu"),
        unet(
            (32, 64),
            heads=[2, 4],
            cross_attention_dim=64,
            sample_size=16,
            norm_num_groups=8,
            upcast_attention=True,
            use_linear_projection=True,
        ),
        vae((32, 64), sample_size=32, norm_num_groups=8, layers_per_block=1),
        scheduler("DDIMScheduler", prediction_type="v_prediction", timestep_spacing="trailing"),
        pad_token="!",
    ),
    # Fewer blocks, as BK-SDM (Kim et al., ECCV 2024): one layer a block and no middle.
    "tiny-bk": Preset(
        text_encoder(width=32, layers=2, heads=2, vocab_size=_TINY_VOCABULARY),
        unet(
            (32, 48, 64),
            heads=4,
            cross_attention_dim=32,
            sample_size=8,
            attends=(True, True, True),
            layers_per_block=1,
            mid_block_type=None,
            norm_num_groups=16,
        ),
        vae((32, 32), sample_size=16, norm_num_groups=16, layers_per_block=1),
        scheduler("DDIMScheduler"),
    ),
    # Numbers that no tile divides: widths, heads, sides, lengths and layers.
    "tiny-odd": Preset(
        text_encoder(width=36, layers=1, heads=3, vocab_size=777, length=31),
        unet(
            (36, 60),
            heads=[3, 5],
            cross_attention_dim=36,
            sample_size=[12, 20],
            attends=(True, True),
            layers_per_block=[1, 2],
            transformer_layers_per_block=[1, 2],
            norm_num_groups=6,
        ),
        vae((24, 36), sample_size=24, norm_num_groups=6, layers_per_block=2, scaling_factor=0.5),
        scheduler("EulerDiscreteScheduler", timestep_spacing="linspace"),
    ),
}
