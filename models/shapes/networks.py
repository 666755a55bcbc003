"""The networks of the embedded model, untrained: Stable Diffusion 1.5's block types at small widths."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ddimcache.models.shapes.latents import SCALING_FACTOR

TEXT_WIDTH = 64
UNET_WIDTHS = (32, 64, 80, 80)
AUTOENCODER_WIDTHS = (16, 32, 32, 64)
LATENT_CHANNELS = 4
LATENT_SIZE = 16  # 128 pixels, eight times down-sampled
# Large beside the latents, so that a normalisation over a group is ruled by it and keeps their amplitude.
_STEADY = 4.0
_GROUPS = 4  # in the autoencoder: of 4 channels where it is narrowest, one for each colour and one more


def new_autoencoder() -> AutoencoderKL:
    """Return the autoencoder: (B, 3, 128, 128) pictures in [-1, 1] to and from (B, 4, 16, 16) latents."""
    levels = len(AUTOENCODER_WIDTHS)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=AUTOENCODER_WIDTHS,
        layers_per_block=2,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=_GROUPS,
        sample_size=LATENT_SIZE * 8,
        scaling_factor=SCALING_FACTOR,
    )
    start_as_mosaic(autoencoder)
    return autoencoder


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return the text encoder: (B, 77) token ids to (B, 77, 64) hidden states."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet() -> UNet2DConditionModel:
    """Return the noise predictor: (B, 4, 16, 16) noisy latents, timesteps and (B, 77, 64) text to noise."""
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=UNET_WIDTHS,
        layers_per_block=2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,  # heads on every level, as diffusers names them in SD 1.5's configuration
        norm_num_groups=8,
    )
    start_as_copy(unet)
    return unet


@torch.no_grad()
def start_as_mosaic(autoencoder: Any) -> None:
    """Set a new autoencoder's first weights so that it averages cells' colours and paints cells with them.

    As in `start_as_copy`, channels (x, -x, steady, -steady) of each colour pass through all levels, so that
    the normalisations do not take away what a picture's colours are; training adds the outlines to them.
    """
    for name, module in autoencoder.named_modules():
        if name.endswith((".conv2", ".to_out.0")):
            width = module.weight.shape[0]
            module.weight.mul_(0.1)
            module.weight[_carriers(width)] = 0
            module.bias.zero_()
        elif name.endswith(".conv_shortcut"):
            _carry(module, 0, 1.0)
        elif ".upsamplers." in name and name.endswith(".conv"):
            _carry(module, 1, 1.0)
        elif ".downsamplers." in name and name.endswith(".conv"):
            _carry(module, slice(0, 2), 0.25)
    for half, inputs in ((autoencoder.encoder, 3), (autoencoder.decoder, LATENT_CHANNELS)):
        first, last = half.conv_in, half.conv_out
        width, final = first.weight.shape[0], last.weight.shape[1]
        # The last group's standard deviation, where its other channels are of unit variance.
        size = final // _GROUPS
        deviation = ((2 * _STEADY**2 + 1 + (size - 4)) / size) ** 0.5
        first.weight[_carriers(width)] = 0
        first.bias[_carriers(width)] = 0
        last.weight[:3] *= 0.1
        for colour in range(min(3, inputs)):
            start, end = colour * (width // _GROUPS), colour * size
            first.weight[start, colour, 1, 1] = 1
            first.weight[start + 1, colour, 1, 1] = -1
            first.bias[start + 2] = _STEADY
            first.bias[start + 3] = -_STEADY
            last.weight[colour, end : end + 4] = 0
            last.weight[colour, end, 1, 1] = deviation
            last.weight[colour, end + 1, 1, 1] = -deviation
            last.bias[colour] = 0
    for module in (autoencoder.quant_conv, autoencoder.post_quant_conv):
        module.weight[:] = torch.eye(module.weight.shape[0])[:, :, None, None]
        module.bias.zero_()


def _carriers(width: int) -> list[int]:
    """Return the channels that carry colours where a network is ``width`` channels wide."""
    return [colour * (width // _GROUPS) + place for colour in range(3) for place in range(4)]


def _carry(convolution: Any, taps: int | slice, share: float) -> None:
    """Let a convolution pass the carriers on, with ``share`` at the kernel's ``taps`` along both axes."""
    outputs, inputs = convolution.weight.shape[:2]
    into = _carriers(outputs)
    convolution.weight[into] = 0
    convolution.bias[into] = 0
    for target, source in zip(into, _carriers(inputs), strict=True):
        convolution.weight[target, source, taps, taps] = share


@torch.no_grad()
def start_as_copy(unet: Any) -> None:
    """Set a new UNet's first weights so that it returns its input, which is nearly all noise.

    At high noise the answer is the input less a few per cent, and those few per cent carry the picture.
    A network of random weights spends most of a short training on learning to copy that exactly.  Here
    channels (x, -x, steady, -steady) fill one normalisation group per latent channel of ``conv_in``'s
    output; they reach ``conv_out`` by the outermost skip connection, and SiLU(x) - SiLU(-x) = x.
    """
    width = unet.config.block_out_channels[0]
    group = width // unet.config.norm_num_groups
    if group != 4:
        raise ValueError(f"the copy needs groups of 4 channels, not {group}")
    for name, module in unet.named_modules():
        if name.endswith((".conv2", ".proj_out")):
            module.weight.mul_(0.1)
            module.bias.zero_()
    used = LATENT_CHANNELS * group
    unet.conv_in.weight[:used] = 0
    unet.conv_in.bias[:used] = 0
    last = unet.up_blocks[-1].resnets[-1]
    last.conv_shortcut.weight[:used] = 0
    last.conv_shortcut.bias[:used] = 0
    last.conv2.weight[:used] = 0
    projection = unet.up_blocks[-1].attentions[-1].proj_out
    projection.weight[:used] = 0
    unet.conv_out.weight.mul_(0.1)
    unet.conv_out.weight[:, :used] = 0
    unet.conv_out.bias.zero_()
    skipped = last.conv_shortcut.weight.shape[1] - width
    # The group's standard deviation over (x, -x, s, -s) with x of unit variance.
    deviation = ((1 + _STEADY**2) / 2) ** 0.5
    for latent in range(LATENT_CHANNELS):
        first = latent * group
        unet.conv_in.weight[first, latent, 1, 1] = 1
        unet.conv_in.weight[first + 1, latent, 1, 1] = -1
        unet.conv_in.bias[first + 2] = _STEADY
        unet.conv_in.bias[first + 3] = -_STEADY
        for channel in range(first, first + group):
            last.conv_shortcut.weight[channel, skipped + channel] = 1
        unet.conv_out.weight[latent, first, 1, 1] = deviation
        unet.conv_out.weight[latent, first + 1, 1, 1] = -deviation


def new_scheduler() -> DDIMScheduler:
    """Return Stable Diffusion's noise schedule for epsilon prediction with DDIM."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )
