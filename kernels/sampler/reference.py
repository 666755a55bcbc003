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
