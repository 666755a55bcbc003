"""Convolution over NHWC with packed weights.

Weights lie in panels of ``P`` output channels, ``[ceil(O / P), KH, KW, C, P]``. The input comes padded:
padding joins the element-wise kernel before it, where it is a store at another place, instead of a
test at every multiply-add here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te

from ddimcache.kernels.scales import Scales
from ddimcache.kernels.tags import FAMILY, PIXELS, WORKLOAD
from ddimcache.kernels.tiling import wide
from ddimcache.kernels.workload import Workload


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
    sums: str | None = None,
) -> te.Tensor:
    """Convolves padded ``x`` [B, H, W, C] with packed ``weight``, giving [B, H', W', O] in ``dtype``.

    Accumulates in float32, or as ``sums`` says, which then has the operands read as pixels
    (``kernels/pixels.py``). ``scale``, of int8 weights, is float32 [O] or
    [ceil(O / P), KH, KW, C / group, P] (``kernels/scales.py``).
    """
    scales = Scales(scale, weight)
    batch, height, width, depth = (int(value) for value in x.shape)
    _, kernel_height, kernel_width, _, panel = (int(value) for value in weight.shape)
    out_height = (height - kernel_height) // strides[0] + 1
    out_width = (width - kernel_width) // strides[1] + 1
    dy = te.reduce_axis((0, wide([kernel_height])[0]), "dy")
    dx = te.reduce_axis((0, wide([kernel_width])[0]), "dx")
    # Whole panels, as in ``matmul``.
    shape = wide([batch, out_height, out_width, int(weight.shape[0]) * panel])
    sizes = (batch, out_height, out_width, depth, channels, kernel_height, kernel_width, *strides)
    workload = Workload("conv2d", sizes, str(x.dtype), scales.weights).text
    attributes = {FAMILY: "conv2d", WORKLOAD: workload, **scales.annotations}
    if sums is not None:
        attributes[PIXELS] = sums
    c = te.reduce_axis((0, wide([depth])[0]), "c")

    def product(b: Any, row: Any, column: Any, o: Any) -> Any:
        value = x[b, row * strides[0] + dy, column * strides[1] + dx, c].astype("float32")
        factor = scales.weight(weight, (o // panel, dy, dx, c, o % panel))
        return te.sum(value * factor, axis=[dy, dx, c])

    summed = te.compute(shape, product, name="conv2d", attrs=attributes)
    if scales.of_channels is None and dtype == "float32" and int(shape[-1]) == channels:
        return summed

    def finish(*index: Any) -> Any:
        factor = scales.of_channels
        return (summed[index] if factor is None else summed[index] * factor[index[-1]]).astype(dtype)

    return te.compute(wide([*summed.shape[:-1], channels]), finish, name="conv2d_scale")
