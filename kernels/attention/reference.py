"""Plain attention."""

from __future__ import annotations

import numpy as np


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, bias: np.ndarray | None = None
) -> np.ndarray:
    """Attention over [B, T, H, D] arrays in float64, with all scores in memory.

    ``bias`` [keys, queries] is added to the scores of every batch and head.
    """
    q, k, v = (operand.astype(np.float64).transpose(0, 2, 1, 3) for operand in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) * scale
    if bias is not None:
        scores = scores + bias.T.astype(np.float64)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (scores / scores.sum(axis=-1, keepdims=True) @ v).transpose(0, 2, 1, 3)
