"""Matrix product with packed weights.

Weights are packed once, at compile time, into panels of ``P`` output channels:
``[ceil(N / P), K, P]``, so that a work-item reads one contiguous row of a panel at every step of the
reduction. int8 weights are converted where they are multiplied; nothing wider is ever stored. Their
scales are those of ``kernels/scales.py``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import te

from ddimcache.kernels.scales import Scales
from ddimcache.kernels.tags import FAMILY, PIXELS, WORKLOAD
from ddimcache.kernels.tiling import vector_lanes, wide
from ddimcache.kernels.workload import Workload


def panel_width(channels: int, widths: tuple[int, ...]) -> int:
    """Output channels in a panel: the first of ``widths`` that divides ``channels``.

    Without one, the divisor that makes the widest vectors; where even that is below 4 lanes, the least of
    ``widths`` or the next power of two, with columns in the last panel that nobody reads.
    """
    for width in widths:
        if channels % width == 0:
            return width
    divisors = [width for width in range(1, max(widths) + 1) if channels % width == 0]
    best = max(divisors, key=lambda width: (vector_lanes(width, max(widths)), width))
    if vector_lanes(best, max(widths)) >= 4:
        return best
    return min(min(widths), 1 << (channels - 1).bit_length())


def pack(weight: np.ndarray, width: int) -> np.ndarray:
    """Packs ``weight`` [N, K] into panels [ceil(N / width), K, width], the last one filled with zeros."""
    channels, depth = weight.shape
    panels = -(-channels // width)
    padded = np.zeros((panels * width, depth), weight.dtype)
    padded[:channels] = weight
    return np.ascontiguousarray(padded.reshape(panels, width, depth).transpose(0, 2, 1))


def matmul(
    x: te.Tensor,
    weight: te.Tensor,
    scale: te.Tensor | None,
    channels: int,
    dtype: str,
    sums: str | None = None,
) -> te.Tensor:
    """``x`` [..., K] times packed ``weight``, giving [..., N] in ``dtype``.

    Accumulates in float32, or as ``sums`` says, which then has the operands read as pixels
    (``kernels/pixels.py``). ``scale``, of int8 weights, is float32 [N] or
    [ceil(N / P), K / group, P].
    """
    rows = math.prod(int(extent) for extent in x.shape[:-1])
    scales = Scales(scale, weight)
    sizes = (rows, int(x.shape[-1]), channels)
    workload = Workload("matmul", sizes, scales.activations(x), scales.weights).text
    depth, width = x.shape[-1], weight.shape[-1]
    reduction = te.reduce_axis((0, wide([depth])[0]), "k")
    # Whole panels: the columns that the last panel has too many are computed and not stored.
    shape = wide([*x.shape[:-1], int(weight.shape[0]) * int(width)])

    def product(*index: Any) -> Any:
        rows, column = index[:-1], index[-1]
        value = x[(*rows, reduction)].astype("float32")
        factor = scales.weight(weight, (column // width, reduction, column % width))
        return te.sum(value * factor, axis=reduction)

    attributes = {FAMILY: "matmul", WORKLOAD: workload, **scales.annotations}
    if sums is not None:
        attributes[PIXELS] = sums
    summed = te.compute(shape, product, name="matmul", attrs=attributes)
    if scales.of_channels is None and dtype == "float32" and int(shape[-1]) == channels:
        return summed

    def finish(*index: Any) -> Any:
        factor = scales.of_channels
        return (summed[index] if factor is None else summed[index] * factor[index[-1]]).astype(dtype)

    return te.compute(wide([*x.shape[:-1], channels]), finish, name="matmul_scale")
