"""Plain convolution."""

from __future__ import annotations

import numpy as np


def conv2d(x: np.ndarray, weight: np.ndarray, strides: tuple[int, int]) -> np.ndarray:
    """Convolves padded ``x`` [B, H, W, C] with ``weight`` [O, KH, KW, C], in float64: [B, H', W', O]."""
    _, kernel_height, kernel_width, _ = weight.shape
    windows = np.lib.stride_tricks.sliding_window_view(
        x.astype(np.float64), (kernel_height, kernel_width), axis=(1, 2)
    )[:, :: strides[0], :: strides[1]]
    taps = [(y, x) for y in range(kernel_height) for x in range(kernel_width)]
    return sum(windows[..., y, x] @ weight[:, y, x].T.astype(np.float64) for y, x in taps)  # type: ignore[return-value]
