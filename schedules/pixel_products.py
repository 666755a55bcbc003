"""Schedule of matrix products and convolutions whose operands are read as pixels (``kernels/pixels.py``).

For four steps of the reduction a work-item reads R pixels of activations from an image and 4 P / 4 vectors of
weights from local memory, and makes 4 R P multiply-adds: 6 x 8 makes 192 of them on 6 and 8 reads, where a
tile of 8 x 4 that reads both from images makes 128 on 12. 12 vectors of four halves are its sums, 6 its
pixels and at most 4 its weights, so that 12 registers are enough and 8 waves of 128 work-items fit. That is
so for rows that lie at equal distances, and have one place for all; others are 5. Of sums in float32 it has
5 x 4 (``kernels/packed_pixels.py``), and 4 x 4.

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
from ddimcache.kernels.packed_pixels import PackedProduct
from ddimcache.kernels.pixel_blocks import (
    WRITTEN_OUT,
    PixelBlocking,
    gated_together,
    line_of,
    tiles_of_rows,
)
from ddimcache.kernels.pixels import PixelProduct
from ddimcache.kernels.tags import PAIRED, PIXELS, WORK, WORKLOAD
from ddimcache.kernels.tiling import PIXEL
from ddimcache.kernels.workload import parse
from ddimcache.schedules.epilogues import Product, read_product, with_loops

WAVE = 128
"""Work-items of a wave."""

PROCESSORS, WAVES = 6, 8
"""Shader processors, and the waves that each holds of a product."""

_RAGGED_WAVES = 6

_MOST_ITEMS = WAVE * WAVES

_MOST_AT_ONCE = 4

WAIT, BARRIER = 400, 60
"""Cycles: of memory's answer, and of a chunk's barriers."""


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
    emitter = (PackedProduct if shape.sums == "float" else PixelProduct)(
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
    line: int = 0
    """How many rows lie at equal distances in the input, one behind another; 0 where all do."""
    paired: bool = False
    """Whether half of the channels gate the others."""

    @property
    def together(self) -> int:
        """How many rows lie at equal distances."""
        return self.line or self.rows

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
    lines = product.stored[:-2] if pairs else product.stored[:-1]
    rows = math.prod(lines)
    high, across = taps or (1, 1)
    dtype = "float32" if sums == "float" else dtype
    strides = parse(str(product.annotations[WORKLOAD])).sizes[7:9] if taps else (1, 1)
    line = line_of(lines, (high, across), (strides[0], strides[1]))
    return PixelShape(rows, depth * across, high, panels, width, str(sums), dtype, line, pairs)


def choose_blocking(shape: PixelShape, table: PixelTable) -> PixelBlocking | None:
    """The blocking that costs least among those of a work-group's limits and of what ``table`` decides.

    ``None`` where a work-group has too few work-items to keep float16 sums short enough.
    """
    written_out = WRITTEN_OUT[shape.dtype]
    item_bytes = np.dtype(shape.dtype).itemsize
    options = [
        PixelBlocking(rows, chunk, down, across, parts, together=together)
        for together in (True, False)
        for chunk in _divisors(shape.depth // PIXEL, table.most_chunk)
        for down in (8, 16, 32, 64)
        if chunk * shape.width * item_bytes * PIXEL <= table.local_bytes * down
        for across in _divisors(shape.panels, 16)
        for parts in _parts(shape, chunk, table)
        if _fills(down * across * parts, shape.dtype, table.most_items)
        for rows in rows_of_item(shape, table, chunk, together)
    ]
    decided = [option for option in options if _is_decided(table) and _as_decided(option, table)]
    options = decided or options
    loops = [option for option in options if option.chunk >= written_out]
    return min(loops or options, key=lambda option: cost(option, shape), default=None)


def rows_of_item(shape: PixelShape, table: PixelTable, chunk: int, together: bool) -> list[int]:
    """How many rows a work-item may have.

    As many as registers take, one less where what is written out takes them for all its steps; where rows are
    together also one less, as that may leave fewer work-items idle.
    """
    most = table.rows_of(shape.width, shape.dtype, together)
    if table.rows:
        return [min(most, shape.together) if together else most]
    if chunk < WRITTEN_OUT[shape.dtype]:
        most -= 1
    return sorted({min(rows, shape.together) for rows in (most, max(most - 1, 1))}) if together else [most]


def _fills(items: int, dtype: str, most: int) -> bool:
    """Whether a work-group may have ``items``.

    A compiler that knows that they cannot fill a processor gives them more registers, which sums in float32
    then take, and leaves fewer waves.
    """
    return items <= most and (dtype == "float16" or _MOST_ITEMS % items == 0)


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
    tiles = tiles_of_rows(shape.rows, shape.together if own.together else 0, own.rows)
    groups = -(-tiles // own.down) * (shape.panels // own.across)
    waves = groups * -(-own.items // WAVE)
    share = -(-waves // PROCESSORS)
    resident = min(WAVES, share)
    chunks = shape.depth // PIXEL // own.chunk * shape.lines
    steps = -(-chunks // own.parts)
    # Parts that end apart take registers, and leave fewer waves.
    resident = min(resident, _RAGGED_WAVES) if chunks % own.parts else resident
    cycles = _BEGIN + steps * (own.chunk * _step(own.rows, shape) + _bring(own, shape)) + _end(own, shape)
    arithmetic, local, images, length = cycles
    # Where parts begin in lines of their own, a fifth row's reads wait for others' registers, mostly.
    twice = shape.dtype == "float32" and own.parts > 1 and shape.lines > 1 and own.rows > _MOST_AT_ONCE
    length += steps * own.chunk * WAIT if twice else 0
    return float(share * max(arithmetic, local, images, length / resident))


_BEGIN = np.array([100.0, 0, 0, 100])
"""What a wave does before its loop. This and what follows: cycles of arithmetic, of local memory and of image
reads, and those that a wave takes by itself, its waits among them. The busiest of the four decides."""


def _step(rows: int, shape: PixelShape) -> np.ndarray:
    """A step of four inputs; arithmetic is what the compiler adds to multiply-adds, too."""
    bytes_of_item = np.dtype(shape.dtype).itemsize
    arithmetic = rows * shape.width * bytes_of_item / 2 + 2.5 * rows + 4
    return np.array([arithmetic, PIXEL * shape.width * bytes_of_item, 8 * rows, arithmetic + WAIT])


def _bring(own: PixelBlocking, shape: PixelShape) -> np.ndarray:
    """Bringing a chunk of weights. A compiler puts barriers between its reads, and waits at each."""
    staged = -(-own.chunk * shape.width // own.down)
    waits = 1 + (staged > 1) + (staged > 3)
    arithmetic = (6 if shape.lines == 1 else 16) + 2 * staged
    local = PIXEL * np.dtype(shape.dtype).itemsize * staged
    return np.array([arithmetic, local, 8 * staged, arithmetic + BARRIER + WAIT * waits])


def _end(own: PixelBlocking, shape: PixelShape) -> np.ndarray:
    """Adding parts up, and finishing vectors, or gated numbers by one or by four."""
    together = gated_together(own, shape.width)
    results, one = (
        (shape.width // 2 // together, 75 if together == 1 else 190)
        if shape.paired
        else (shape.width // PIXEL, 33)
    )
    count = -(-own.rows * results // own.parts)
    finish = np.array([one * count, 0, 0, (one + WAIT) * count])
    if own.parts == 1:
        return finish
    columns = max(shape.width // own.parts, 1) * own.parts
    arithmetic = own.rows * (columns + 12)
    local = 2 * own.rows * (shape.width + columns)
    return finish + np.array([arithmetic, local, 0, arithmetic + 2 * own.rows * BARRIER])


def step_cycles(rows: int, shape: PixelShape, resident: int) -> float:
    """Cycles of a processor for a step of four inputs of one of ``resident`` waves."""
    arithmetic, local, images, length = _step(rows, shape)
    return float(max(arithmetic, local, images, length / resident))
