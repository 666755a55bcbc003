"""Plain LayerNorm."""

from __future__ import annotations

import numpy as np


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    """LayerNorm of ``x`` [..., C] over its last axis, in float64."""
    wide = x.astype(np.float64)
    mean = wide.mean(axis=-1, keepdims=True)
    return (wide - mean) / np.sqrt(wide.var(axis=-1, keepdims=True) + epsilon) * weight + bias
