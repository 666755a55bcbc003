"""First stage: the autoencoder, whose two halves learn apart from each other.

The decoder draws pictures from the prescribed latents (`latents`), the encoder computes these from pictures.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from ddimcache.models.shapes.drawing import drawings_with_cells
from ddimcache.models.shapes.latents import latents_of_cells
from ddimcache.models.shapes.networks import new_autoencoder
from ddimcache.models.shapes.run_folder import Budget, RunFolder

_BATCH = 4
_PEAK_RATE = 1.5e-3
# The decoder learns from latents with this much noise, as those that it is given later are not exact.
_LATENT_NOISE = 0.03
# The encoder's posterior is given this logarithm of the variance, small enough not to be seen.
_LOG_VARIANCE = -7.0
_SAVE_SECONDS = 60.0


def to_tensor(pictures: np.ndarray) -> Tensor:
    """Turn uint8 (B, H, W, 3) pictures into float32 (B, 3, H, W) in [-1, 1]."""
    return (
        torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
    )


def to_pictures(values: Tensor) -> np.ndarray:
    """Turn (B, 3, H, W) values in [-1, 1] into uint8 (B, H, W, 3) pictures."""
    scaled = ((values.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().numpy()


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return L1 + MSE + the L1 distance of both pictures' differences, which keeps edges sharp."""
    difference = output - target
    edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    return difference.abs().mean() + 2 * difference.square().mean() + 0.5 * edges


@torch.no_grad()
def measure(
    autoencoder: AutoencoderKL, pictures: np.ndarray, latents: Tensor
) -> tuple[float, float, np.ndarray]:
    """Return two peak signal-to-noise ratios in dB, and the decoded prescribed latents as pictures.

    The first is that of the decoded prescribed latents, the second that of the encoded and decoded pictures.
    """
    autoencoder.eval()
    target = to_tensor(pictures)
    drawn = autoencoder.decode(latents).sample.clamp(-1, 1)
    restored = autoencoder.decode(autoencoder.encode(target).latent_dist.mode()).sample.clamp(-1, 1)
    autoencoder.train()
    ratios = [
        10 * float(np.log10(4 / (output - target).square().mean().item())) for output in (drawn, restored)
    ]
    return ratios[0], ratios[1], to_pictures(drawn)


def train(folder: RunFolder, minutes: float, picture_count: int, seed: int) -> AutoencoderKL:
    """Train the autoencoder for ``minutes``, going on from the folder's checkpoint; return it."""
    torch.manual_seed(seed)
    autoencoder = new_autoencoder()
    autoencoder.set_attn_processor(AttnProcessor())
    optimiser = torch.optim.AdamW(autoencoder.parameters(), lr=0, betas=(0.9, 0.98), weight_decay=1e-4)
    budget, step = Budget(minutes, _PEAK_RATE), 0
    state = folder.load("autoencoder")
    if state is not None:
        autoencoder.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        budget.spent, step = state["spent"], state["step"]
    if budget.share >= 1:
        return autoencoder.eval()
    pictures, cells, _ = drawings_with_cells(picture_count, seed)
    latents = latents_of_cells(cells)
    checks, check_cells, _ = drawings_with_cells(16, seed + 1, held_out=True)
    random = np.random.default_rng((seed, step))
    autoencoder.train()
    saved, running = budget.spent, np.zeros(2)
    budget.skip()
    while budget.share < 1:
        rows = random.integers(len(pictures), size=_BATCH)
        target, wanted = to_tensor(pictures[rows]), latents[rows]
        for group in optimiser.param_groups:
            group["lr"] = budget.rate()
        with torch.autocast("cpu", torch.bfloat16):
            output = autoencoder.decode(wanted + _LATENT_NOISE * torch.randn_like(wanted)).sample
            posterior = autoencoder.encode(target).latent_dist
        drawing_loss = reconstruction_loss(output.float(), target)
        encoding_loss = (posterior.mean.float() - wanted).abs().mean()
        spread_loss = (posterior.logvar.float() - _LOG_VARIANCE).square().mean()
        (drawing_loss + encoding_loss + 0.001 * spread_loss).backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.decoder.parameters(), 1.0)
        torch.nn.utils.clip_grad_norm_(autoencoder.encoder.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        running = 0.95 * running + 0.05 * np.array([drawing_loss.item(), encoding_loss.item()])
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
            drawn, restored, shown = measure(autoencoder, checks, latents_of_cells(check_cells))
            folder.save_grid("autoencoder", np.concatenate([checks[:8], shown[:8]]), 8)
            folder.log(
                stage="autoencoder",
                step=step,
                seconds=round(budget.spent, 1),
                drawing_loss=round(float(running[0]), 5),
                encoding_loss=round(float(running[1]), 5),
                decoder_psnr_db=round(drawn, 2),
                psnr_db=round(restored, 2),
                rate=round(budget.rate(), 7),
            )
    return autoencoder.eval()
