"""Third stage: the UNet, on latents and caption states that are computed once and kept.

Three choices make a short training on a CPU suffice:

* Latents are scaled to a third of the usual spread (`latents.SCALING_FACTOR`).  Flat-coloured pictures
  have strong means, and with Stable Diffusion's noise schedule these can be read even from the noisiest
  latents; the UNet would then take the colours from there and not from the caption, and paint anything
  when it starts from pure noise.
* The loss of a timestep is weighted so that not knowing the picture costs the same at each of them.
  Plain epsilon loss all but ignores high noise, where the caption decides what is drawn.
* The network starts as a copy of its input (`networks.start_as_copy`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ddimcache.models.shapes.drawing import drawings_with_cells
from ddimcache.models.shapes.latents import SCALING_FACTOR, latents_of_cells
from ddimcache.models.shapes.networks import new_scheduler, new_unet
from ddimcache.models.shapes.run_folder import Budget, RunFolder
from ddimcache.models.shapes.tokenizer import MAXIMUM_TOKENS

_BATCH = 16
_EMPTY_SHARE = 0.1
_WEIGHT_LIMIT = 1000.0
_AVERAGE_DECAY = 0.998
_RARITY_POWER = 1 / 3
_NOISE_POWER = 0.75  # below 1: high noise, where the caption is heeded, comes more often
_SAVE_SECONDS = 90.0
_PEAK_RATE = 1e-3
_PREVIEW_SECONDS = 400.0
_PREVIEW_STEPS, _PREVIEW_GUIDANCE = 12, 3.0


@torch.no_grad()
def encode_captions(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Return the text encoder's float32 states (captions, 77, 64)."""
    states = []
    for start in range(0, len(captions), 64):
        tokens = tokenizer(
            captions[start : start + 64],
            padding="max_length",
            max_length=MAXIMUM_TOKENS,
            truncation=True,
            return_tensors="pt",
        )
        states.append(encoder(tokens.input_ids).last_hidden_state.float())
    return torch.cat(states)


def prepare(
    folder: RunFolder, encoder: CLIPTextModel, tokenizer: CLIPTokenizer, picture_count: int, seed: int
) -> dict[str, Any]:
    """Return the training data, from the folder where it was kept: scaled latents, their captions' states.

    The last row of ``states`` is that of the empty caption, which guidance subtracts.
    """
    data = folder.load("latents")
    if data is not None:
        return data
    chunks, indices = [], []
    captions: dict[str, int] = {}
    chunk = 2000
    for start in range(0, picture_count, chunk):
        _, cells, scenes = drawings_with_cells(min(chunk, picture_count - start), seed + 1000 + start)
        chunks.append(latents_of_cells(cells) * SCALING_FACTOR)
        indices += [captions.setdefault(scene.caption(), len(captions)) for scene in scenes]
    latents = torch.cat(chunks)
    data = {
        "latents": latents,
        "deviation": latents.std().item(),
        "caption": torch.tensor(indices),
        "states": encode_captions(encoder, tokenizer, [*captions, ""]),
    }
    folder.save("latents", data)
    values = {"captions": len(captions), "deviation": round(data["deviation"], 4)}
    folder.log(stage="latents", pictures=picture_count, **values)
    return data


def _state(unet: UNet2DConditionModel, average: list[Tensor], **others: Any) -> dict[str, Any]:
    names = [name for name, _ in unet.named_parameters()]
    return {"model": unet.state_dict(), "average": dict(zip(names, average, strict=True)), **others}


def averaged(folder: RunFolder) -> UNet2DConditionModel:
    """Return the UNet with the running average of its weights, from the folder's checkpoint."""
    state = folder.load("unet")
    if state is None:
        raise FileNotFoundError(f"no UNet checkpoint in {folder.path}; run the stage 'unet' first")
    unet = new_unet()
    unet.load_state_dict(state["average"])
    return unet.eval()


class TrainingAttention:
    """Attention without a mask that leaves its weights in bfloat16: a third of the usual time on a CPU."""

    def __call__(
        self,
        attention: Any,
        states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Return what ``attention``, a diffusers Attention, gives for (B, N, C) states and (B, M, D) text."""
        source = states if encoder_hidden_states is None else encoder_hidden_states
        query = attention.head_to_batch_dim(attention.to_q(states))
        key = attention.head_to_batch_dim(attention.to_k(source))
        value = attention.head_to_batch_dim(attention.to_v(source))
        with torch.autocast("cpu", enabled=False):
            weights = torch.bmm(query * attention.scale, key.transpose(1, 2)).softmax(-1)
            mixed = torch.bmm(weights, value)
        return attention.to_out[0](attention.batch_to_head_dim(mixed))


class _Sampler:
    """Draws training batches from the prepared data."""

    def __init__(self, data: dict[str, Any], seed: int):
        self._data = data
        self._random = torch.Generator().manual_seed(seed)
        self._alphas = new_scheduler().alphas_cumprod
        # Scenes of two things have far more captions, and more to learn, than those of one: show them more.
        self._rarity = torch.bincount(data["caption"])[data["caption"]].float() ** -_RARITY_POWER
        variance = (1 - self._alphas) / self._alphas
        data_variance = data["deviation"] ** 2
        self._weights = ((variance + data_variance) / data_variance).clamp(max=_WEIGHT_LIMIT)

    def batch(self, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return noisy latents, timesteps, caption states, the noise and the loss's weights (B, 1, 1, 1)."""
        rows = torch.multinomial(self._rarity, size, replacement=True, generator=self._random)
        captions = self._data["caption"][rows]
        empty = torch.rand(size, generator=self._random) < _EMPTY_SHARE
        captions = torch.where(empty, len(self._data["states"]) - 1, captions)
        # One timestep in each of `size` parts of the schedule makes the loss less erratic.
        parts = (torch.arange(size) + torch.rand(size, generator=self._random)) / size
        steps = (parts**_NOISE_POWER * len(self._alphas)).long()
        alphas = self._alphas[steps].view(-1, 1, 1, 1)
        clean = self._data["latents"][rows]
        noise = torch.randn(clean.shape, generator=self._random)
        noisy = alphas.sqrt() * clean + (1 - alphas).sqrt() * noise
        return noisy, steps, self._data["states"][captions], noise, self._weights[steps].view(-1, 1, 1, 1)


@torch.no_grad()
def sample_cells(unet: UNet2DConditionModel, states: Tensor, empty: Tensor, seed: int) -> np.ndarray:
    """Return the cells' colours that DDIM finds for captions, uint8 (B, 16, 16, 3), without the decoder.

    ``states`` are the captions' text states (B, 77, 64), ``empty`` those of the empty caption (77, 64).
    """
    scheduler = new_scheduler()
    scheduler.set_timesteps(_PREVIEW_STEPS)
    latents = torch.randn((len(states), 4, 16, 16), generator=torch.Generator().manual_seed(seed))
    both = torch.cat([empty.expand_as(states), states])
    for timestep in scheduler.timesteps:
        without, told = unet(torch.cat([latents, latents]), timestep, both).sample.chunk(2)
        noise = without + _PREVIEW_GUIDANCE * (told - without)
        latents = scheduler.step(noise, timestep, latents, return_dict=False)[0]
    colours = (latents[:, :3] / SCALING_FACTOR + 1) * 127.5
    return colours.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _save_preview(folder: RunFolder, data: dict[str, Any], seed: int) -> None:
    cells = sample_cells(averaged(folder), data["states"][:16], data["states"][-1], seed)
    folder.save_grid("unet", cells.repeat(4, axis=1).repeat(4, axis=2), 8)


def train(folder: RunFolder, data: dict[str, Any], minutes: float, seed: int) -> None:
    """Train the UNet for ``minutes``, going on from the folder's checkpoint."""
    torch.manual_seed(seed)
    unet: Any = new_unet()
    unet.set_attn_processor(TrainingAttention())
    parameters = list(unet.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=0, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    budget, step = Budget(minutes, _PEAK_RATE), 0
    average = [parameter.detach().clone() for parameter in parameters]
    state = folder.load("unet")
    if state is not None:
        unet.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average = list(state["average"].values())
        budget.spent, step = state["spent"], state["step"]
    sampler = _Sampler(data, seed + step)
    saved, shown, first_step, running = budget.spent, budget.spent, step, 0.0
    unet.train()
    budget.skip()
    while budget.share < 1:
        noisy, steps, states, noise, weights = sampler.batch(_BATCH)
        for group in optimiser.param_groups:
            group["lr"] = budget.rate()
        with torch.autocast("cpu", torch.bfloat16):
            output = unet(noisy, steps, states, return_dict=False)[0]
        losses = (weights * (output.float() - noise).square()).mean(dim=(1, 2, 3))
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        decay = min(_AVERAGE_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [parameter.detach() for parameter in parameters], 1 - decay)
        step += 1
        # Batches run from low to high noise; the halves tell details and content apart.
        halves = losses.detach().view(2, -1).mean(1).numpy()
        running = halves if step == first_step + 1 else 0.98 * running + 0.02 * halves
        budget.tick()
        if budget.spent - saved > _SAVE_SECONDS or budget.share >= 1:
            saved = budget.spent
            optimiser_state = optimiser.state_dict()
            state = _state(unet, average, optimiser=optimiser_state, spent=saved, step=step)
            folder.save("unet", state)
            values = {"low_noise": round(float(running[0]), 5), "high_noise": round(float(running[1]), 5)}
            folder.log(
                stage="unet", step=step, seconds=round(saved, 1), **values, rate=round(budget.rate(), 7)
            )
            if saved - shown > _PREVIEW_SECONDS or budget.share >= 1:
                shown = saved
                _save_preview(folder, data, seed)
