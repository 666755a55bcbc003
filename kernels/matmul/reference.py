"""Plain matrix product."""

from __future__ import annotations

import numpy as np


def matmul(x: np.ndarray, weight: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
    """``x`` [..., K] times ``weight`` [N, K] transposed, in float64; ``scale`` [N] multiplies channels."""
    product = x.astype(np.float64) @ weight.astype(np.float64).T
    return product if scale is None else product * scale.astype(np.float64)
