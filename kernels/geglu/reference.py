"""Plain GEGLU."""

from __future__ import annotations

import math

import numpy as np


def gelu(x: np.ndarray) -> np.ndarray:
    """``x Phi(x)`` in float64."""
    x = x.astype(np.float64)
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def geglu(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """``x`` [..., K] and ``weight`` [2 N, K], values first and gates after, to [..., N] in float64."""
    product = x.astype(np.float64) @ weight.astype(np.float64).T + bias.astype(np.float64)
    value, gate = np.split(product, 2, axis=-1)
    return value * gelu(gate)
