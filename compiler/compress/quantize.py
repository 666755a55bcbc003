"""Symmetric int8 rounding per output channel."""

from __future__ import annotations

import numpy as np

LARGEST = 127
"""The largest magnitude of an int8 weight; -128 is not used, so that a channel's range is symmetric."""


FEW_CHANNELS = 8
"""Layers with at most so many channels on one side are a model's first and last ones, between its image or
latents and its features: a few thousand numbers, of which nearly all that rounding costs comes (`ddimcache
quality --quant-report int8`)."""


def is_sensitive(outputs: int, inputs: int) -> bool:
    """Whether a layer with these channels keeps its weights in fp16 where others get int8."""
    return min(outputs, inputs) <= FEW_CHANNELS


def channel_scale(weight: np.ndarray) -> np.ndarray:
    """The scale [O] float32 of every output channel of ``weight`` [O, ...]: its largest magnitude over 127.

    A channel of zeros has scale 1.
    """
    peak = np.abs(weight.astype(np.float32)).reshape(weight.shape[0], -1).max(axis=1)
    scale = (peak / LARGEST).astype(np.float32)
    return np.where(scale > 0, scale, np.float32(1))


def quantize(weight: np.ndarray) -> np.ndarray:
    """``weight`` [O, ...] as int8: divided by its channel's scale and rounded, halves to even."""
    scale = channel_scale(weight).reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight.astype(np.float32) / scale), -LARGEST, LARGEST).astype(np.int8)


def dequantize(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The float32 weights that ``quantize`` stands for."""
    return weight.astype(np.float32) * scale.reshape(-1, *[1] * (weight.ndim - 1))
