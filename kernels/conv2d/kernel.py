"""Convolution over NHWC with packed weights.

Weights lie in panels of ``P`` output channels, ``[ceil(O / P), KH, KW, C, P]``. The input comes padded:
padding joins the element-wise kernel before it, where it is a store at another place, instead of a
test at every multiply-add here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te

from ddimcache.kernels.pixels import PixelSum, pixels, scaled, total
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
    pixel_sum: PixelSum | None = None,
) -> te.Tensor:
    """Convolves padded ``x`` [B, H, W, C] with packed ``weight``, giving [B, H', W', O] in ``dtype``.

    Accumulates in float32, or as ``pixel_sum`` says, which then reads the operands as pixels. ``scale``, of
    int8 weights, is float32 [O] or [ceil(O / P), KH, KW, C / group, P] (``kernels/scales.py``).
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
    attributes = {FAMILY: "conv2d", WORKLOAD: workload}
    if pixel_sum is not None:
        summed = _pixel_sum(x, weight, scales, shape, strides, pixel_sum, attributes)
        return _finish(summed, scales.of_channels, channels, dtype, pixel_sum)
    c = te.reduce_axis((0, wide([depth])[0]), "c")

    def product(b: Any, row: Any, column: Any, o: Any) -> Any:
        value = x[b, row * strides[0] + dy, column * strides[1] + dx, c].astype("float32")
        factor = scales.weight(weight, (o // panel, dy, dx, c, o % panel))
        return te.sum(value * factor, axis=[dy, dx, c])

    summed = te.compute(shape, product, name="conv2d", attrs={**attributes, **scales.annotations})
    if scales.of_channels is None and dtype == "float32" and int(shape[-1]) == channels:
        return summed

    return _finish(summed, scales.of_channels, channels, dtype, None)


def _finish(
    summed: te.Tensor, scale: te.Tensor | None, channels: int, dtype: str, pixel_sum: PixelSum | None
) -> te.Tensor:
    def finish(*index: Any) -> Any:
        factor = None if scale is None else scale[index[-1]]
        return scaled(summed[index], factor, pixel_sum).astype(dtype)

    return te.compute(wide([*summed.shape[:-1], channels]), finish, name="conv2d_scale")


def _pixel_sum(
    x: te.Tensor,
    weight: te.Tensor,
    scales: Scales,
    shape: list[Any],
    strides: tuple[int, int],
    pixel_sum: PixelSum,
    attributes: dict[str, Any],
) -> te.Tensor:
    values, factors = pixels(x, pixel_sum.dtype, "x"), pixels(weight, pixel_sum.dtype, "weight")
    _, height, width, depth, panel = (int(value) for value in weight.shape)
    # A chunk is made of channels of one tap, so that it reads one row of the panel after another.
    size = scales.chunk(pixel_sum)
    chunked = pixel_sum.how == "chunks" or scales.group
    extents = wide([height, width, depth // size])
    within = te.reduce_axis((0, wide([size])[0]), "c")

    def product(*index: Any) -> Any:
        dy, dx, chunk, b, row, column, o = index
        c = chunk * size + within if size < depth else within
        value = values[b, row * strides[0] + dy, column * strides[1] + dx, c]
        return value * factors[o // panel, dy, dx, c, o % panel]

    attributes = {**attributes, PIXELS: pixel_sum.how}
    taps = [
        te.reduce_axis((0, extent), name) for extent, name in zip(extents, ("dy", "dx", "chunk"), strict=True)
    ]
    if not chunked:
        return te.compute(
            shape,
            lambda *index: te.sum(product(*taps[:2], 0, *index), axis=[*taps[:2], within]),
            name="conv2d",
            attrs=attributes,
        )
    part = te.compute(
        [*extents, *shape],
        lambda *index: te.sum(product(*index), axis=within),
        name="conv2d",
        attrs=attributes,
    )

    def scaled_part(*index: Any) -> Any:
        o, (dy, dx, chunk) = index[-1], taps
        return scales.total(part[(*taps, *index)], (o // panel, dy, dx, chunk * size, o % panel), pixel_sum)

    return total(shape, scaled_part, taps, "conv2d_total")
