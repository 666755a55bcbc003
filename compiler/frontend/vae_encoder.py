"""The image encoder: 8-bit pictures in, latents out."""

from __future__ import annotations

from typing import Any

import torch

from ddimcache.compiler.frontend.importer import TORCH_DTYPES, ImportedComponent, import_component


class _Encoder(torch.nn.Module):
    """What diffusers' image processor does, the encoder, a sample of its distribution, and scaling.

    The hole of a masked picture is grey, the middle between black and white.
    """

    def __init__(self, vae: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv
        self.scaling = float(vae.config.scaling_factor)
        self.dtype = dtype

    def forward(self, picture: torch.Tensor, hole: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        image = picture.to(torch.float32).permute(0, 3, 1, 2) / 255.0 * 2.0 - 1.0
        image = image * (1.0 - hole.to(torch.float32)).unsqueeze(1)
        hidden = self.encoder(image.to(self.dtype))
        if self.quant_conv is not None:
            hidden = self.quant_conv(hidden)
        mean, log_variance = hidden.to(torch.float32).chunk(2, dim=1)
        deviation = torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))
        return (mean + deviation * noise) * self.scaling


def import_vae_encoder(
    vae: Any, batch: int, latent_height: int, latent_width: int, scale: int, dtype: str
) -> ImportedComponent:
    """``main(picture [B,H,W,3], hole [B,H,W], noise [B,C,h,w]) -> latents [B,C,h,w]`` of ``AutoencoderKL``.

    Picture and hole are uint8, and the hole is 1 where the picture is not looked at; noise and latents are
    float32. H is ``scale`` times h.
    """
    torch_dtype = TORCH_DTYPES[dtype]
    torch.nn.Module.to(vae, torch_dtype)
    hole = torch.zeros(batch, latent_height * scale, latent_width * scale, dtype=torch.uint8)
    picture = torch.zeros(*hole.shape, 3, dtype=torch.uint8)
    noise = torch.zeros(batch, vae.config.latent_channels, latent_height, latent_width)
    return import_component("vae_encoder", _Encoder(vae, torch_dtype), (picture, hole, noise))
