"""The UNet: latents, timestep, context and perhaps surroundings in, predicted noise out."""

from __future__ import annotations

from typing import Any

import torch

from ddimcache.compiler.frontend.importer import TORCH_DTYPES, ImportedComponent, import_component


class _UNet(torch.nn.Module):
    """float32 at both ends, whatever the network computes in: the sampler's arithmetic is float32."""

    def __init__(self, unet: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.unet = unet
        self.dtype = dtype

    def forward(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        *surroundings: torch.Tensor,
    ) -> torch.Tensor:
        sample = latents.to(self.dtype)
        if surroundings:
            sample = torch.cat([sample, *(each.to(self.dtype) for each in surroundings)], dim=1)
        noise = self.unet(sample, timestep, context, return_dict=False)[0]
        return noise.to(torch.float32)


def import_unet(
    unet: Any, batch: int, latent_height: int, latent_width: int, tokens: int, dtype: str
) -> ImportedComponent:
    """``main(latents [B,C,h,w], timestep [1], context [B,L,D]) -> noise [B,C,h,w]``, all float32 but context.

    ``unet`` is a diffusers ``UNet2DConditionModel``; it is converted to ``dtype`` in place. Where it takes
    more channels than it predicts, they are a fourth input, surroundings [B,S,h,w] float32.
    """
    torch_dtype = TORCH_DTYPES[dtype]
    torch.nn.Module.to(unet, torch_dtype)
    config = unet.config
    channels = config.out_channels
    width = config.cross_attention_dim
    # Of a list, all are the same (`family.check_unet`).
    width = width if isinstance(width, int) else width[0]
    inputs = [
        torch.zeros(batch, channels, latent_height, latent_width),
        torch.zeros(1),
        torch.zeros(batch, tokens, width, dtype=torch_dtype),
    ]
    if config.in_channels > channels:
        inputs.append(torch.zeros(batch, config.in_channels - channels, latent_height, latent_width))
    return import_component("unet", _UNet(unet, torch_dtype), tuple(inputs))
