"""The image decoder: latents in, 8-bit pictures out."""

from __future__ import annotations

from typing import Any

import torch

from ddimcache.compiler.frontend.importer import TORCH_DTYPES, ImportedComponent, import_component


class _Decoder(torch.nn.Module):
    """Scaling, decoder, and rounding to 8 bits exactly as diffusers' image processor does it."""

    def __init__(self, vae: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.decoder = vae.decoder
        self.post_quant_conv = vae.post_quant_conv
        self.scaling = float(vae.config.scaling_factor)
        self.shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
        self.dtype = dtype

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        hidden = (latents / self.scaling + self.shift).to(self.dtype)
        if self.post_quant_conv is not None:
            hidden = self.post_quant_conv(hidden)
        image = self.decoder(hidden).to(torch.float32)
        image = (image * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0
        return torch.round(image).permute(0, 2, 3, 1).to(torch.uint8)


def import_vae_decoder(
    vae: Any, batch: int, latent_height: int, latent_width: int, dtype: str
) -> ImportedComponent:
    """``main(latents [B,C,h,w] float32) -> image [B, 8h, 8w, 3] uint8`` for diffusers' ``AutoencoderKL``."""
    torch_dtype = TORCH_DTYPES[dtype]
    torch.nn.Module.to(vae, torch_dtype)
    latents = torch.zeros(batch, vae.config.latent_channels, latent_height, latent_width)
    return import_component("vae_decoder", _Decoder(vae, torch_dtype), (latents,))
