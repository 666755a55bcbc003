"""The networks of the embedded model, untrained: Stable Diffusion 1.5's block types at small widths."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TEXT_WIDTH = 64
UNET_WIDTHS = (32, 64, 80, 80)
AUTOENCODER_WIDTHS = (16, 32, 32, 64)
LATENT_CHANNELS = 4
LATENT_SIZE = 16  # 128 pixels, eight times down-sampled
# Large beside the latents, so that a normalisation over a group is ruled by it and keeps their amplitude.
_STEADY = 4.0


def new_autoencoder() -> AutoencoderKL:
    """Return the autoencoder: (B, 3, 128, 128) pictures in [-1, 1] to and from (B, 4, 16, 16) latents."""
    levels = len(AUTOENCODER_WIDTHS)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=AUTOENCODER_WIDTHS,
        layers_per_block=2,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=LATENT_SIZE * 8,
    )


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
def start_as_copy(unet: UNet2DConditionModel) -> None:
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
