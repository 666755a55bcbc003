"""Plain matrix product, and plain rounding of activations."""

from __future__ import annotations

import numpy as np


def matmul(x: np.ndarray, weight: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
    """``x`` [..., K] times ``weight`` [N, K] transposed, in float64; ``scale`` [N] multiplies channels."""
    product = x.astype(np.float64) @ weight.astype(np.float64).T
    return product if scale is None else product * scale.astype(np.float64)


def rounded_rows(x: np.ndarray) -> np.ndarray:
    """``x`` [..., K] float32 with the numbers of each row as whole multiples, to 127, of one step."""
    steps = np.maximum(np.abs(x).max(axis=-1, keepdims=True), np.float32(1e-30)) / np.float32(127)
    return np.rint(x / steps) * steps
