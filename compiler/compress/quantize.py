"""Symmetric int8 rounding: with one scale an output channel, or one for every group of its input channels.

Weights are [O, ..., C] here, output channels first and input channels last. A group is of neighbouring input
channels at one place of a convolution's kernel, so that of ``int8-g64`` has at most 64 numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

LARGEST = 127
"""The largest magnitude of an int8 weight; -128 is not used, so that a range is symmetric."""

GROUP_MULTIPLE = 4
"""Groups are multiples of it: kernels read four input channels at a time."""


FEW_CHANNELS = 8
"""Layers with at most so many channels on one side are a model's first and last ones, between its image or
latents and its features: a few thousand numbers, of which nearly all that rounding costs comes (`ddimcache
quality --quant-report int8`)."""


def is_sensitive(outputs: int, inputs: int) -> bool:
    """Whether a layer with these channels keeps its weights in fp16 where others get int8."""
    return min(outputs, inputs) <= FEW_CHANNELS


def most_of_group(kind: str) -> int:
    """The most input channels of a group of the weights ``kind``: 64 of ``int8-g64``, 0 of ``int8``."""
    _, _, group = kind.partition("-g")
    return int(group or 0)


def group_of(shape: Iterable[int], most: int) -> int:
    """Input channels of a group for weights of ``shape`` [O, ..., C]; 0 for one scale an output channel.

    Groups are of equal size, the largest up to ``most`` that divides C. There are none where ``most`` is 0,
    where they would be smaller than a quarter of ``most``, or where one would be all of an output channel.
    """
    _, *taps, channels = shape
    sizes = range(GROUP_MULTIPLE, min(most, channels) + 1, GROUP_MULTIPLE)
    group = max((size for size in sizes if channels % size == 0), default=0)
    whole = group == channels and all(tap == 1 for tap in taps)
    return 0 if whole or group * 4 < min(most, channels) else group


def channel_scale(weight: np.ndarray) -> np.ndarray:
    """The scale [O] float32 of every output channel of ``weight`` [O, ...]: its largest magnitude over 127.

    A channel of zeros has scale 1.
    """
    return _scale(np.abs(weight.astype(np.float32)).reshape(weight.shape[0], -1).max(axis=1))


def group_scale(weight: np.ndarray, group: int) -> np.ndarray:
    """The scale [O, ..., C / group] float32 of every group of ``weight`` [O, ..., C], as `channel_scale`."""
    parts = weight.reshape(*weight.shape[:-1], weight.shape[-1] // group, group)
    return _scale(np.abs(parts.astype(np.float32)).max(axis=-1))


def _scale(peak: np.ndarray) -> np.ndarray:
    scale = (peak / LARGEST).astype(np.float32)
    return np.where(scale > 0, scale, np.float32(1))


def scale_of(weight: np.ndarray, group: int = 0) -> np.ndarray:
    """`group_scale` of ``weight``, or its `channel_scale` where ``group`` is 0."""
    return group_scale(weight, group) if group else channel_scale(weight)


def quantize(weight: np.ndarray, group: int = 0) -> np.ndarray:
    """``weight`` [O, ..., C] as int8: divided by its channel's or group's scale, rounded, halves to even."""
    scale = _spread(scale_of(weight, group), weight.shape)
    return np.clip(np.rint(weight.astype(np.float32) / scale), -LARGEST, LARGEST).astype(np.int8)


def dequantize(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The float32 weights that int8 ``weight`` with ``scale``, of channels or of groups, stands for."""
    return weight.astype(np.float32) * _spread(scale, weight.shape)


def _spread(scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if scale.ndim == 1:
        return scale.reshape(-1, *[1] * (len(shape) - 1))
    return np.repeat(scale, shape[-1] // scale.shape[-1], axis=-1)


def stored_values(weight: np.ndarray, kind: str, table: bool = False) -> np.ndarray:
    """What is left, in float32, of a layer's ``weight`` [O, C, ...] in a bundle of ``kind``.

    Input channels are second, as in PyTorch. ``kind`` is a ``WeightsKind``; sensitive layers keep fp16 where
    others get int8. Of a ``table`` rows are looked up, and each has one scale.
    """
    if kind == "fp32":
        return weight.astype(np.float32)
    if kind == "fp16" or is_sensitive(*weight.shape[:2]):
        return weight.astype(np.float16).astype(np.float32)
    last = np.ascontiguousarray(np.moveaxis(weight, 1, -1))
    group = 0 if table else group_of(last.shape, most_of_group(kind))
    return np.ascontiguousarray(np.moveaxis(dequantize(quantize(last, group), scale_of(last, group)), -1, 1))
