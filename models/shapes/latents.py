"""What the latents of the embedded model mean: they are prescribed, not left to the autoencoder.

Left alone, a small autoencoder of flat-coloured pictures puts the colours on one line, at distances that
depend on the background, because its normalisations see little else; a UNet then mixes the colours up.
Here three channels are a cell's mean colour and the fourth is how much of the cell things cover.  The
encoder learns to compute them, the decoder to draw from them, and the UNet needs neither for its training.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Multiplies the autoencoder's latents before noise is added (`scaling_factor` in its configuration).
SCALING_FACTOR = 0.5
_COVER_OFFSET = 0.4


def latents_of_cells(cells: np.ndarray) -> Tensor:
    """Return the unscaled latents, float32 (B, 4, 16, 16), of (B, 16, 16, 4) colours and covers."""
    values = torch.from_numpy(cells).permute(0, 3, 1, 2) * 2
    offsets = torch.tensor([1.0, 1.0, 1.0, _COVER_OFFSET]).view(1, 4, 1, 1)
    return (values - offsets).contiguous()
