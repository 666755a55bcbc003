"""Plain PyTorch that the compiler and the runtime are held against.

Nothing here is shared with the product: the UNet's blocks are called one after another, the noise schedule is
diffusers', and the loop is written out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer


class SplitUNet:
    """A UNet cut in two at skip connection ``cut``.

    Skip connections are counted in the order in which the down path makes them: 0 is the output of
    ``conv_in``, then one for every layer and every downsampler. The up path takes them back in reverse, so
    skip 0 meets the last layer. The cached feature is what the up path has reached just before it meets skip
    ``cut``: everything that leads to it is left out on a cached step, and of the down path only what leads to
    skips 0 … ``cut`` remains.
    """

    def __init__(self, unet: UNet2DConditionModel, cut: int) -> None:
        self.unet = unet
        self.cut = cut
        self.skips = 1 + sum(
            len(block.resnets) + (1 if block.downsamplers else 0) for block in unet.down_blocks
        )
        if not 0 <= cut < self.skips:
            raise ValueError(f"cut {cut} is not one of the {self.skips} skip connections")

    @torch.no_grad()
    def full(
        self, latents: torch.Tensor, timestep: float, context: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the whole network.

        Parameters
        ----------
        latents : [B, C, h, w].
        timestep : of the schedule.
        context : the text embedding [B, length, width].

        Returns
        -------
        The prediction [B, C, h, w] and the feature to keep [B, channels, h', w'].
        """
        embedding = self._embed(latents, timestep)
        hidden, skips = self._down(latents, embedding, context, self.skips)
        if self.unet.mid_block is not None:
            hidden = self.unet.mid_block(hidden, embedding, encoder_hidden_states=context)
        return self._up(hidden, skips, embedding, context)

    @torch.no_grad()
    def cached(
        self, latents: torch.Tensor, timestep: float, context: torch.Tensor, feature: torch.Tensor
    ) -> torch.Tensor:
        """Run what lies outside the cut, with the feature of an earlier step; returns the prediction."""
        embedding = self._embed(latents, timestep)
        _, skips = self._down(latents, embedding, context, self.cut + 1)
        return self._up(feature, skips, embedding, context)[0]

    def _embed(self, latents: torch.Tensor, timestep: float) -> torch.Tensor:
        timesteps = torch.full((latents.shape[0],), float(timestep), device=latents.device)
        return self.unet.time_embedding(self.unet.time_proj(timesteps).to(latents.dtype))

    def _down(
        self, latents: torch.Tensor, embedding: torch.Tensor, context: torch.Tensor, wanted: int
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Run the down path until ``wanted`` skips are made."""
        hidden = self.unet.conv_in(latents)
        skips = [hidden]
        for block in self.unet.down_blocks:
            for layer, resnet in enumerate(block.resnets):
                if len(skips) == wanted:
                    return hidden, skips
                hidden = _layer(block, layer, resnet, hidden, embedding, context)
                skips.append(hidden)
            if block.downsamplers:
                if len(skips) == wanted:
                    return hidden, skips
                hidden = block.downsamplers[0](hidden)
                skips.append(hidden)
        return hidden, skips

    def _up(
        self, hidden: torch.Tensor, skips: list[torch.Tensor], embedding: torch.Tensor, context: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the up path from the layer that meets the last of ``skips``."""
        position = self.skips
        feature = hidden
        for block in self.unet.up_blocks:
            for layer, resnet in enumerate(block.resnets):
                position -= 1
                if position >= len(skips):
                    continue
                if position == self.cut:
                    feature = hidden
                joined = torch.cat([hidden, skips[position]], dim=1)
                hidden = _layer(block, layer, resnet, joined, embedding, context)
            if block.upsamplers and position <= len(skips) - 1:
                size = skips[position - 1].shape[-2:]
                doubled = (2 * hidden.shape[-2], 2 * hidden.shape[-1])
                hidden = block.upsamplers[0](hidden, None if size == doubled else size)
        hidden = self.unet.conv_norm_out(hidden)
        return self.unet.conv_out(nn.functional.silu(hidden)), feature


def _layer(
    block: nn.Module,
    layer: int,
    resnet: nn.Module,
    hidden: torch.Tensor,
    embedding: torch.Tensor,
    context: torch.Tensor,
) -> torch.Tensor:
    hidden = resnet(hidden, embedding)
    if getattr(block, "has_cross_attention", False):
        hidden = block.attentions[layer](hidden, encoder_hidden_states=context, return_dict=False)[0]
    return hidden


def diffusers_pipeline(folder: str | Path) -> StableDiffusionPipeline:
    """Load ``folder`` as diffusers does, in float32, with its noise schedule run by DDIM."""
    scheduler = DDIMScheduler.from_pretrained(Path(folder) / "scheduler")
    pipe = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, scheduler=scheduler, safety_checker=None, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@dataclass
class TorchPipeline:
    """The networks of a pipeline folder as diffusers and transformers load them, in float32."""

    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler
    max_length: int

    @classmethod
    def load(cls, folder: str | Path) -> TorchPipeline:
        """Load ``folder`` with the libraries' own readers and the corrections that they make."""
        return cls.of(diffusers_pipeline(folder))

    @classmethod
    def of(cls, pipe: StableDiffusionPipeline) -> TorchPipeline:
        """Take the networks of a loaded pipeline, whose scheduler has to be DDIM's."""
        length = pipe.text_encoder.config.max_position_embeddings
        return cls(pipe.text_encoder, pipe.unet, pipe.vae, pipe.tokenizer, pipe.scheduler, length)

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Return the text embeddings [len(prompts), length, width]."""
        ids = self.tokenizer(prompts, padding="max_length", max_length=self.max_length, truncation=True)
        return self.text_encoder(torch.tensor(ids.input_ids))[0]

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Return the pictures uint8 [B, H, W, 3] of the latents [B, C, h, w]."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        pictures = self.vae.decode(scaled, return_dict=False)[0].float()
        pictures = (pictures / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        return (pictures.numpy() * 255).round().astype(np.uint8)


@dataclass(frozen=True)
class Sample:
    """The end of the loop: latents float32 [1, C, h, w], picture uint8 [H, W, 3], and what ran."""

    latents: torch.Tensor
    image: np.ndarray
    full_steps: int
    cached_steps: int


@dataclass(frozen=True)
class Kept:
    """What a mask [h, w] keeps where it is 0: a picture's latents, and their noise [1, C, h, w]."""

    picture: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor


@torch.no_grad()
def sample(
    pipe: TorchPipeline,
    prompt: str,
    latents: np.ndarray | torch.Tensor,
    steps: int = 50,
    guidance: float = 7.5,
    cache_interval: int = 1,
    cut: int = 0,
    negative_prompt: str = "",
    surroundings: torch.Tensor | None = None,
    kept: Kept | None = None,
) -> Sample:
    """Run the loop of the pipe's sampler with the cache, as StableDiffusionPipeline does where there is none.

    Networks compute in the type that they have; what is between their calls is float32.

    Parameters
    ----------
    latents : initial noise of unit variance [1, C, h, w].
    cache_interval : on every step whose index it divides the whole UNet runs.
    cut : see :class:`SplitUNet`.
    guidance : of classifier-free guidance; there is none at 1 or below, and the UNet then runs at batch 1.
    surroundings : more channels of the UNet's input, [1, S, h, w].
    kept : takes the place of the latents after each step where its mask is 0.
    """
    guided = guidance > 1
    context = pipe.encode([negative_prompt, prompt] if guided else [prompt])
    split = SplitUNet(pipe.unet, cut)
    pipe.scheduler.set_timesteps(steps)
    current = torch.as_tensor(latents, dtype=torch.float32) * pipe.scheduler.init_noise_sigma
    feature = None
    full_steps = 0
    for index, timestep in enumerate(pipe.scheduler.timesteps):
        scaled = pipe.scheduler.scale_model_input(current, timestep)
        if surroundings is not None:
            scaled = torch.cat([scaled, surroundings], dim=1)
        batch = (torch.cat([scaled] * 2) if guided else scaled).to(pipe.unet.dtype)
        if index % cache_interval == 0:
            prediction, feature = split.full(batch, timestep, context)
            full_steps += 1
        else:
            assert feature is not None
            prediction = split.cached(batch, timestep, context, feature)
        prediction = prediction.float()
        if guided:
            without, with_prompt = prediction.chunk(2)
            prediction = without + guidance * (with_prompt - without)
        current = pipe.scheduler.step(prediction, timestep, current, return_dict=False)[0]
        if kept is not None:
            hidden = kept.picture
            if index + 1 < len(pipe.scheduler.timesteps):
                following = pipe.scheduler.timesteps[index + 1 : index + 2]
                hidden = pipe.scheduler.add_noise(kept.picture, kept.noise, following)
            current = torch.where(kept.mask == 1, current, hidden)
    return Sample(current, pipe.decode(current)[0], full_steps, steps - full_steps)


def round_to_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a weight [out, …] to int8, symmetrically and one scale an output channel.

    ``scale = max|w| / 127`` over everything but the first axis, ``q = round(w / scale)`` with halves to the
    even number; a channel of zeros has scale 1.

    Returns
    -------
    The int8 weight, and the float32 scales [out].
    """
    flat = weight.detach().float().flatten(1)
    scale = flat.abs().amax(dim=1) / 127
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    rounded = torch.round(flat / scale[:, None]).clamp(-127, 127)
    return rounded.to(torch.int8).reshape(weight.shape), scale


def keep_groups_of_int8(weight: torch.Tensor, most: int) -> torch.Tensor:
    """Return what int8 keeps of a weight [out, in, …] with a scale for every few neighbours along ``in``.

    Groups are of equal size, a multiple of 4 and at most ``most``, as large as can be; where they would be
    less than a quarter of that, an output channel has one scale.
    """
    channels = weight.shape[1]
    most = min(most, channels)
    size = max((size for size in range(4, most + 1, 4) if channels % size == 0), default=0)
    if size < most / 4:
        quantised, scale = round_to_int8(weight)
        return quantised.float() * scale.reshape(-1, *[1] * (weight.ndim - 1))
    parts = []
    for part in weight.float().split(size, dim=1):
        scale = part.abs().amax(dim=1, keepdim=True) / 127
        scale[scale == 0] = 1
        parts.append(torch.round(part / scale).clamp(-127, 127) * scale)
    return torch.cat(parts, dim=1)


@torch.no_grad()
def fake_quantise(
    module: nn.Module,
    predicate: Callable[[str, nn.Module], bool] = lambda name, layer: True,
    group: int = 0,
) -> list[str]:
    """Replace, in place, weights of convolutions, linear layers and the table of tokens by what int8 keeps.

    Those with at most 8 channels in or out are rounded to float16 instead. The table has a scale a row.

    Parameters
    ----------
    predicate : says by name and module whether a layer is rounded.
    group : most input channels that share a scale; 0 for one scale an output channel.

    Returns
    -------
    The names of the layers that were rounded to int8.
    """
    rounded = []
    for name, layer in module.named_modules():
        table = isinstance(layer, nn.Embedding) and "token" in name
        if (table or isinstance(layer, nn.Conv2d | nn.Linear)) and predicate(name, layer):
            # A model's first and last layers: those with few channels on one side.
            if min(layer.weight.shape[:2]) <= 8:
                layer.weight.copy_(layer.weight.half())
                continue
            if group and not table:
                layer.weight.copy_(keep_groups_of_int8(layer.weight, group))
                rounded.append(name)
                continue
            quantised, scale = round_to_int8(layer.weight)
            layer.weight.copy_(quantised.float() * scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
            rounded.append(name)
    return rounded
