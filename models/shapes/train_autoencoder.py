"""First stage: the autoencoder, on crops at first because they are cheap, then on whole pictures."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from ddimcache.models.shapes.drawing import drawings
from ddimcache.models.shapes.networks import new_autoencoder
from ddimcache.models.shapes.run_folder import Budget, RunFolder

_CROP = 64
_CROP_SHARE = 0.7
_KL_WEIGHT = 1e-4
_SAVE_SECONDS = 60.0


def to_tensor(pictures: np.ndarray) -> Tensor:
    """Turn uint8 (B, H, W, 3) pictures into float32 (B, 3, H, W) in [-1, 1], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(values: Tensor) -> np.ndarray:
    """Turn (B, 3, H, W) values in [-1, 1] into uint8 (B, H, W, 3) pictures."""
    scaled = ((values.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().numpy()


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return L1 + MSE + the L1 distance of both pictures' differences, which keeps edges sharp."""
    difference = output - target
    edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    return difference.abs().mean() + 2 * difference.square().mean() + 0.5 * edges


def _batch(pictures: np.ndarray, share: float, random: np.random.Generator) -> Tensor:
    if share >= _CROP_SHARE:
        return to_tensor(pictures[random.integers(len(pictures), size=6)])
    size = pictures.shape[1] - _CROP
    crops = np.empty((16, _CROP, _CROP, 3), np.uint8)
    for crop, index in zip(crops, random.integers(len(pictures), size=len(crops)), strict=True):
        # In steps of 8 pixels, the size of one latent cell, so that crops and pictures share one grid.
        y, x = random.integers(0, size // 8 + 1, size=2) * 8
        crop[:] = pictures[index, y : y + _CROP, x : x + _CROP]
    return to_tensor(crops)


@torch.no_grad()
def measure(autoencoder: AutoencoderKL, pictures: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the peak signal-to-noise ratio in dB of the reconstructions, and these as pictures."""
    autoencoder.eval()
    target = to_tensor(pictures)
    output = autoencoder.decode(autoencoder.encode(target).latent_dist.mode()).sample.clamp(-1, 1)
    autoencoder.train()
    error = (output - target).square().mean().item()
    return float(10 * np.log10(4 / error)), to_pictures(output)


def train(folder: RunFolder, minutes: float, picture_count: int, seed: int) -> AutoencoderKL:
    """Train the autoencoder for ``minutes``, going on from the folder's checkpoint; return it."""
    torch.manual_seed(seed)
    autoencoder = new_autoencoder().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    autoencoder.set_attn_processor(AttnProcessor())
    optimiser = torch.optim.AdamW(autoencoder.parameters(), lr=0, betas=(0.9, 0.98), weight_decay=1e-4)
    budget, step = Budget(minutes, 2e-3), 0
    state = folder.load("autoencoder")
    if state is not None:
        autoencoder.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        budget.spent, step = state["spent"], state["step"]
    if budget.share >= 1:
        return autoencoder.eval()
    pictures, _ = drawings(picture_count, seed)
    checks, _ = drawings(16, seed + 1, held_out=True)
    random = np.random.default_rng((seed, step))
    autoencoder.train()
    saved = budget.spent
    running = 0.0
    budget.skip()
    while budget.share < 1:
        target = _batch(pictures, budget.share, random)
        for group in optimiser.param_groups:
            group["lr"] = budget.rate()
        with torch.autocast("cpu", torch.bfloat16):
            posterior = autoencoder.encode(target).latent_dist
            output = autoencoder.decode(posterior.sample()).sample
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        loss = reconstruction_loss(output.float(), target) + _KL_WEIGHT * divergence
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        running = 0.95 * running + 0.05 * loss.item()
        budget.tick()
        if budget.spent - saved > _SAVE_SECONDS or budget.share >= 1:
            saved = budget.spent
            state = {
                "model": autoencoder.state_dict(),
                "optimiser": optimiser.state_dict(),
                "spent": budget.spent,
                "step": step,
            }
            folder.save("autoencoder", state)
            ratio, shown = measure(autoencoder, checks)
            folder.save_grid("autoencoder", np.concatenate([checks[:8], shown[:8]]), 8)
            values = {"loss": round(running, 5), "psnr_db": round(ratio, 2), "rate": round(budget.rate(), 6)}
            folder.log(stage="autoencoder", step=step, seconds=round(budget.spent, 1), **values)
    return autoencoder.eval()
