"""Plain attention."""

from __future__ import annotations

import numpy as np


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, bias: np.ndarray | None = None
) -> np.ndarray:
    """Attention over [B, T, H, D] arrays in float64, with all scores in memory.

    ``bias`` [keys, queries] is added to the scores of every batch and head.
    """
    scores = np.einsum("bqhd,bkhd->bhqk", q.astype(np.float64), k.astype(np.float64)) * scale
    if bias is not None:
        scores = scores + bias.T.astype(np.float64)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", scores / scores.sum(axis=-1, keepdims=True), v.astype(np.float64))
