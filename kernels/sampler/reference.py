"""What the sampler's kernels compute, in plain numpy, float64."""

from __future__ import annotations

import numpy as np


def keep_picture(
    latents: np.ndarray, picture: np.ndarray, noise: np.ndarray, mask: np.ndarray, shares: tuple[float, float]
) -> np.ndarray:
    """Return the latents [B, C, h, w] with those of a picture where ``mask`` [h, w] is 0.

    ``shares`` are of the picture and of its noise.
    """
    kept = shares[0] * picture.astype("float64") + shares[1] * noise.astype("float64")
    return np.where(mask == 0, kept, latents.astype("float64"))


def guide_and_step(
    latents: np.ndarray,
    uncond: np.ndarray,
    cond: np.ndarray,
    history: np.ndarray,
    noise: np.ndarray,
    row: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the next latents and the picture that the step predicts, [B, C, h, w] like all that it is given.

    ``row`` are the numbers of the step, as the kernel's table has them.
    """
    p, q, r, s, clip, a, b, guidance, c, d, *_ = row.astype("float64")
    x, without = latents.astype("float64"), uncond.astype("float64")
    m = without + guidance * (cond - without)
    picture = np.clip(p * x + q * m, -clip, clip)
    return a * picture + b * (r * x + s * m) + c * history + d * noise, picture
