"""Schedule of convolutions to a few channels, such as a UNet's last to 4 and a decoder's last to 3."""

from __future__ import annotations

from tvm import tirx

from ddimcache.compiler.target import TileTable
from ddimcache.kernels.conv2d.narrow import narrow_convolution
from ddimcache.kernels.tags import FAMILY, WORK, WORKLOAD
from ddimcache.kernels.tiling import largest_divisor
from ddimcache.kernels.workload import parse
from ddimcache.schedules.epilogues import Product, read_product, with_loops

SUMS = 24
"""Vectors of sums that are in registers, of 32."""

LEAST_STEPS = 16
"""Vectors that are multiplied for a sum, at least: fewer are not worth adding its lanes up."""

WEIGHT_BYTES = 512 << 10
"""Of the weights that a work-item keeps, at most."""

MOST_LINES = 16
"""Lines of a work-item, at most."""


def schedule_narrow_convolution(function: tirx.PrimFunc, tiles: TileTable) -> tirx.PrimFunc | None:
    """``function`` with input channels as lanes, or ``None`` where it is no convolution to a few channels."""
    table = tiles.blocks
    product = None if table is None else read_product(function)
    if table is None or product is None or product.annotations[FAMILY] != "conv2d":
        return None
    _, high, wide, depth, _ = (int(extent) for extent in product.weight.ty.shape)
    if len(product.stored) != 4 or product.stored[:3] != product.shape[:3]:
        return None
    batch, height, width, channels = product.stored
    steps, kept = high * wide * depth // tiles.vector, 4 * high * wide * depth * channels
    if channels >= tiles.vector or depth % tiles.vector or steps < LEAST_STEPS or kept > WEIGHT_BYTES:
        return None
    lines = min(-(-batch * height // table.groups), MOST_LINES)
    pixels = largest_divisor(width, max(min(tiles.rows, SUMS // channels), 1))
    return with_loops(
        function,
        lambda: narrow_convolution(
            product.x,
            product.weight,
            product.scale,
            (batch, height, width, channels),
            _strides(product),
            lines=lines,
            pixels=pixels,
            lanes=tiles.vector,
            finish=product.finish,
        ),
    ).with_attr(WORK, steps * tiles.vector * channels * batch * height * width)


def _strides(product: Product) -> tuple[int, int]:
    """Down and right, by the workload that the product is tagged with."""
    *_, down, right = parse(str(product.annotations[WORKLOAD])).sizes
    return down, right
