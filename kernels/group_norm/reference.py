"""Plain GroupNorm."""

from __future__ import annotations

import numpy as np


def group_norm(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, epsilon: float
) -> np.ndarray:
    """GroupNorm of ``x`` [B, ..., C] over groups of its last axis, in float64."""
    batch, channels = x.shape[0], x.shape[-1]
    flat = x.astype(np.float64).reshape(batch, -1, groups, channels // groups)
    mean = flat.mean(axis=(1, 3), keepdims=True)
    deviation = np.sqrt(flat.var(axis=(1, 3), keepdims=True) + epsilon)
    return ((flat - mean) / deviation).reshape(x.shape) * weight + bias
