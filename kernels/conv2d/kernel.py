"""Convolution over NHWC with packed weights.

Weights lie in panels of ``P`` output channels, ``[ceil(O / P), KH, KW, C, P]``. The input comes padded:
padding joins the element-wise kernel before it, where it is a store at another place, instead of a
test at every multiply-add here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te

from ddimcache.kernels.tags import FAMILY
from ddimcache.kernels.tiling import wide


def pack(weight: np.ndarray, width: int) -> np.ndarray:
    """Packs ``weight`` [O, KH, KW, C] into [ceil(O / width), KH, KW, C, width], zeros in the last panel."""
    channels = weight.shape[0]
    panels = -(-channels // width)
    padded = np.zeros((panels * width, *weight.shape[1:]), weight.dtype)
    padded[:channels] = weight
    return np.ascontiguousarray(padded.reshape(panels, width, *weight.shape[1:]).transpose(0, 2, 3, 4, 1))


def conv2d(
    x: te.Tensor,
    weight: te.Tensor,
    scale: te.Tensor | None,
    channels: int,
    strides: tuple[int, int],
    dtype: str,
) -> te.Tensor:
    """Convolves padded ``x`` [B, H, W, C] with packed ``weight``, giving [B, H', W', O] in ``dtype``.

    Accumulates in float32; ``scale`` [O] float32 multiplies the sums of int8 weights.
    """
    batch, height, width, depth = (int(value) for value in x.shape)
    _, kernel_height, kernel_width, _, panel = (int(value) for value in weight.shape)
    out_height = (height - kernel_height) // strides[0] + 1
    out_width = (width - kernel_width) // strides[1] + 1
    dy = te.reduce_axis((0, wide([kernel_height])[0]), "dy")
    dx = te.reduce_axis((0, wide([kernel_width])[0]), "dx")
    c = te.reduce_axis((0, wide([depth])[0]), "c")
    # Whole panels, as in ``matmul``.
    shape = wide([batch, out_height, out_width, int(weight.shape[0]) * panel])

    def product(b: Any, row: Any, column: Any, o: Any) -> Any:
        value = x[b, row * strides[0] + dy, column * strides[1] + dx, c].astype("float32")
        factor = weight[o // panel, dy, dx, c, o % panel].astype("float32")
        return te.sum(value * factor, axis=[dy, dx, c])

    total = te.compute(shape, product, name="conv2d", attrs={FAMILY: "conv2d"})
    if scale is None and dtype == "float32" and int(shape[-1]) == channels:
        return total

    def finish(b: Any, row: Any, column: Any, o: Any) -> Any:
        value = total[b, row, column, o] if scale is None else total[b, row, column, o] * scale[o]
        return value.astype(dtype)

    return te.compute(wide([*shape[:-1], channels]), finish, name="conv2d_scale")
