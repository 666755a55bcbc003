"""Schedule of matrix products and convolutions whose operands are read as pixels (``kernels/pixels.py``).

For four steps of the reduction a work-item reads R pixels of activations from an image and 4 P / 4 vectors of
weights from local memory, and makes 4 R P multiply-adds: 5 x 8 makes 160 of them on 5 and 8 reads, where a
tile of 8 x 4 that reads both from images makes 128 on 12. 10 vectors of four halves are its sums, 5 its
pixels and at most 4 its weights, so that 12 registers are enough and 8 waves of 128 work-items fit.

Blocks are chosen by what they cost in cycles of a wave, after the model of ``docs/adreno.md``; a tuning
record may decide otherwise.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from ddimcache.compiler.target import DeviceProfile, PixelTable, TileTable
from ddimcache.kernels.pixels import WRITTEN_OUT, PixelBlocking, PixelProduct
from ddimcache.kernels.tags import PAIRED, PIXELS, WORK, WORKLOAD
from ddimcache.kernels.tiling import PIXEL
from ddimcache.kernels.workload import parse
from ddimcache.schedules.epilogues import Product, read_product, with_loops

WAVE = 128
"""Work-items of a wave."""

PROCESSORS, WAVES = 6, 8
"""Shader processors, and the waves that each holds of a product."""

_RAGGED_WAVES = 6

WAIT, STEP, BARRIER = 400, 64, 60
"""Cycles: of memory's answer, of a step of a wave among others, and of a chunk's barriers."""


def schedule_pixel_product(
    function: tirx.PrimFunc, tiles: TileTable, profile: DeviceProfile
) -> tirx.PrimFunc | None:
    """``function`` as a product of pixels, or ``None`` where it is none."""
    if tiles.pixels is None:
        return None
    table = dataclasses.replace(tiles.pixels, most_items=min(tiles.pixels.most_items, profile.max_threads))
    product = read_product(function)
    shape = None if product is None else product_shape(product)
    blocking = None if shape is None else choose_blocking(shape, table)
    if product is None or shape is None or blocking is None:
        return None
    pairs = PAIRED in product.annotations
    taps = len(product.weight.ty.shape) == 5
    lines = product.stored[:-2] if pairs else product.stored[:-1]
    sizes = parse(str(product.annotations[WORKLOAD])).sizes
    strides = (sizes[7], sizes[8]) if taps else (1, 1)
    emitter = PixelProduct(
        product.x,
        product.weight,
        product.scale,
        blocking,
        lines,
        strides,
        pairs,
        product.stored[-1],
        shape.dtype,
        profile.max_image_pixels,
    )
    macs = shape.rows * shape.depth * shape.lines * shape.panels * shape.width
    scheduled = with_loops(function, lambda: emitter.emit(product.finish))
    return scheduled.with_attrs({WORK: macs, PIXELS: shape.sums})


@dataclass(frozen=True)
class PixelShape:
    """Sizes of a product: ``rows`` of ``lines`` times ``depth`` inputs, ``panels`` of ``width`` channels.

    A line of taps is what lies together in the input: all channels of the pixels side by side.
    """

    rows: int
    depth: int
    lines: int
    panels: int
    width: int
    sums: str
    """How products are summed (``kernels/pixels.py``)."""
    dtype: str
    """The type in which they are, parts of float16 sums aside."""

    @property
    def length(self) -> int:
        """Multiply-adds of a result."""
        return self.depth * self.lines


def product_shape(product: Product) -> PixelShape | None:
    """The sizes of a product that can read pixels, or ``None``."""
    panels, *taps, depth, width = (int(extent) for extent in product.weight.ty.shape)
    sums, dtype = product.annotations.get(PIXELS), str(product.x.ty.dtype)
    if (
        sums is None
        or depth % PIXEL
        or width not in (PIXEL, 2 * PIXEL)
        or dtype not in ("float16", "float32")
    ):
        return None
    pairs = PAIRED in product.annotations
    rows = math.prod(product.stored[:-2] if pairs else product.stored[:-1])
    high, across = taps or (1, 1)
    dtype = "float32" if sums == "float" else dtype
    return PixelShape(rows, depth * across, high, panels, width, str(sums), dtype)


def choose_blocking(shape: PixelShape, table: PixelTable) -> PixelBlocking | None:
    """The blocking that costs least among those of a work-group's limits and of what ``table`` decides.

    ``None`` where a work-group has too few work-items to keep float16 sums short enough.
    """
    rows, written_out = table.rows_of(shape.width, shape.dtype), WRITTEN_OUT[shape.dtype]
    item_bytes = np.dtype(shape.dtype).itemsize
    options = [
        # What is written out takes registers for all its steps.
        PixelBlocking(rows if chunk >= written_out or table.rows else rows - 1, chunk, down, across, parts)
        for chunk in _divisors(shape.depth // PIXEL, table.most_chunk)
        for down in (8, 16, 32, 64)
        if chunk * shape.width * item_bytes * PIXEL <= table.local_bytes * down
        for across in _divisors(shape.panels, 16)
        for parts in _parts(shape, chunk, table)
        if down * across * parts <= table.most_items
    ]
    decided = [option for option in options if _is_decided(table) and _as_decided(option, table)]
    options = decided or options
    loops = [option for option in options if option.chunk >= written_out]
    return min(loops or options, key=lambda option: cost(option, shape), default=None)


def _is_decided(table: PixelTable) -> bool:
    return any((table.chunk, table.down, table.across, table.parts))


def _as_decided(option: PixelBlocking, table: PixelTable) -> bool:
    wanted = (table.chunk, table.down, table.across, table.parts)
    given = (option.chunk, option.down, option.across, option.parts)
    return all(number in (0, own) for number, own in zip(wanted, given, strict=True))


def _divisors(number: int, most: int) -> list[int]:
    return [divisor for divisor in range(1, min(number, most) + 1) if number % divisor == 0]


def _parts(shape: PixelShape, chunk: int, table: PixelTable) -> list[int]:
    """Into how many parts the reduction may be cut so that no float16 sum is too long.

    Powers of two, and above the width of a panel, each of whose columns a part adds up, also what makes equal
    parts.
    """
    chunks = shape.depth // PIXEL // chunk * shape.lines
    longest = table.longest_of(shape.sums, shape.length)
    least = -(-chunks // max(longest // (chunk * PIXEL), 1))
    counts = {1 << power for power in range(table.most_items.bit_length())}
    counts |= {count for count in _divisors(chunks, table.most_items) if count > shape.width}
    return [count for count in sorted(counts) if least <= count < 2 * max(chunks, least)]


def cost(own: PixelBlocking, shape: PixelShape) -> float:
    """Cycles of a processor for the whole product, by the terms of the model (``docs/adreno.md``)."""
    groups = -(-shape.rows // (own.rows * own.down)) * (shape.panels // own.across)
    waves = groups * -(-own.items // WAVE)
    share = -(-waves // PROCESSORS)
    resident = min(WAVES, share)
    chunks = shape.depth // PIXEL // own.chunk * shape.lines
    steps = -(-chunks // own.parts)
    # Parts that end apart take registers, and leave fewer waves.
    resident = min(resident, _RAGGED_WAVES) if chunks % own.parts else resident
    staged = -(-own.chunk * shape.width // own.down)
    step = max(STEP, (STEP + WAIT) / resident)
    bring = max(16 * staged, (BARRIER + WAIT) / resident)
    add = 0 if own.parts == 1 else own.rows * (2 * (shape.width + own.parts) + BARRIER / resident)
    return share * (steps * (own.chunk * step + bring) + add)
