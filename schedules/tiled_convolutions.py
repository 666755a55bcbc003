"""Schedules of Winograd's convolutions in two launches (``kernels/conv2d/tiled.py``), and which of them pay.

A work-group has 16 times as many work-items as one of a direct convolution: each makes, for a position, 8
output channels of 6 tiles. What a step of four input channels takes is what it takes there (see
``pixel_products.py``), and a pair of channels takes 16 multiply-adds a tile in place of 36. Besides it costs

- the launch that transforms the input: as long as memory takes for four times the numbers;
- weights: a work-item makes four of a chunk's vectors out of nine that it reads, about 35 slots;
- tiles of a work-group that are not there, most of them in small pictures;
- outputs: each is made of nine sums, times the parts of the reduction.

Work-groups have 256, 512 or 1024 work-items: a compiler that knows that others cannot fill a processor gives
them more registers, and leaves fewer waves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import s_tir, tirx

from ddimcache.compiler.target import DeviceProfile, PixelTable, TiledTable, TileTable
from ddimcache.kernels.conv2d.packed_tiles import PackedTiledProduct
from ddimcache.kernels.conv2d.tiled import INPUT, POSITIONS, tiles_of
from ddimcache.kernels.conv2d.winograd_pixels import OUTPUTS, TiledProduct
from ddimcache.kernels.matmul.kernel import panel_width
from ddimcache.kernels.pixel_blocks import WRITTEN_OUT, PixelBlocking
from ddimcache.kernels.tags import PIXELS, TILED, WORK
from ddimcache.kernels.tiling import PIXEL, largest_divisor, vector_lanes
from ddimcache.kernels.workload import Workload
from ddimcache.schedules import pixel_products
from ddimcache.schedules.blocks import extent, sblock_names
from ddimcache.schedules.epilogues import read_product, with_loops
from ddimcache.schedules.pixel_products import (
    BARRIER,
    PROCESSORS,
    WAIT,
    WAVE,
    WAVES,
    PixelShape,
    rows_of_item,
    step_cycles,
)

_BYTES, _LAUNCH = 73, 5100
"""Bytes of memory in a cycle, and cycles of a launch, by the model of ``docs/adreno.md``."""


def tiling_pays(profile: DeviceProfile, workload: Workload, sums: str | None, largest: int = 0) -> bool:
    """Whether a convolution that is summed as ``sums`` says is faster in tiles, by the model.

    Its tiles may have as many bytes as the table says, or as ``largest``, those of the function's largest
    tensor: memory that the function takes anyway, though not always at that moment.
    """
    table = profile.tiles.tiled
    if table is None or _bytes_of_tiles(workload) > max(table.most_bytes, largest):
        return False
    return cycles_saved(profile, workload, sums) > 0


def cycles_saved(profile: DeviceProfile, workload: Workload, sums: str | None) -> float:
    """The cycles of a processor that a convolution saves in tiles, by the model; -inf where it has none.

    Tuning records are about direct ones, and decide nothing here.
    """
    table, pixels = profile.tiles.tiled, profile.tiles.pixels
    if table is None or pixels is None or sums is None:
        return -math.inf
    batch, height, width, depth, channels, *kernel = workload.sizes
    if kernel != [3, 3, 1, 1] or depth % PIXEL or workload.dtype != profile.compute_dtype:
        return -math.inf
    high, wide = tiles_of(height, width)
    panel = panel_width(channels, profile.tiles_of(workload).columns_of(sums))
    dtype = "float32" if sums == "float" else workload.dtype
    panels = -(-channels // panel)
    tiled = PixelShape(batch * high * wide, depth, 1, panels, panel, sums, dtype)
    direct = PixelShape(batch * height * width, depth * 3, 3, panels, panel, sums, dtype, width)
    blocking = choose_blocking(tiled, table, pixels, profile.max_threads)
    other = pixel_products.choose_blocking(direct, pixels)
    if blocking is None or other is None:
        return -math.inf
    transform = _bytes_of_tiles(workload) / _BYTES + _LAUNCH
    return pixel_products.cost(other, direct) - cost(blocking, tiled) - transform


def _bytes_of_tiles(workload: Workload) -> int:
    """Bytes of a convolution's transformed input."""
    batch, height, width, depth = workload.sizes[:4]
    return batch * math.prod(tiles_of(height, width)) * POSITIONS * depth * np.dtype(workload.dtype).itemsize


def schedule_tiled_product(
    function: tirx.PrimFunc, tiles: TileTable, profile: DeviceProfile
) -> tirx.PrimFunc | None:
    """``function`` as a convolution of transformed tiles, or ``None`` where it is none."""
    product = read_product(function) if tiles.pixels is not None and tiles.tiled is not None else None
    if product is None or TILED not in product.annotations:
        return None
    assert tiles.pixels is not None
    assert tiles.tiled is not None
    sums = str(product.annotations[PIXELS])
    shape = tiled_shape(product.x.ty.shape, product.weight.ty.shape, sums, str(product.x.ty.dtype))
    blocking = choose_blocking(shape, tiles.tiled, tiles.pixels, profile.max_threads)
    if blocking is None:
        return None
    height, width = product.shape[1:3]
    emitter = (PackedTiledProduct if shape.sums == "float" else TiledProduct)(
        product.x,
        product.weight,
        product.scale,
        blocking,
        height,
        width,
        product.stored[-1],
        shape.dtype,
        profile.max_image_pixels,
    )
    macs = 9 * math.prod(product.shape) * shape.depth
    scheduled = with_loops(function, lambda: emitter.emit(product.finish))
    return scheduled.with_attrs({WORK: macs, PIXELS: sums})


def tiled_shape(x: Sequence[Any], weight: Sequence[Any], sums: str, dtype: str) -> PixelShape:
    """A position's product of tiles of shape [B, H / 2, W / 2, 16, C] with weights of [O / P, 3, 3, C, P]."""
    rows = math.prod(int(extent) for extent in x[:3])
    dtype = "float32" if sums == "float" else dtype
    return PixelShape(rows, int(x[-1]), 1, int(weight[0]), int(weight[-1]), sums, dtype)


def choose_blocking(
    shape: PixelShape, table: TiledTable, pixels: PixelTable, most_items: int
) -> PixelBlocking | None:
    """The blocking that costs least for work-groups of at most ``most_items``; ``None`` where there is none.

    There is none where a work-group has too few work-items to keep sums short enough.
    """
    vectors, bytes_of_item = shape.depth // PIXEL, np.dtype(shape.dtype).itemsize
    longest = table.longest if shape.sums == "chunks" else shape.depth
    written_out = WRITTEN_OUT[shape.dtype]
    options = [
        PixelBlocking(rows, chunk, down, 1, parts, POSITIONS, together=True)
        for chunk in range(1, min(vectors, pixels.most_chunk) + 1)
        if vectors % chunk == 0
        for down in (4, 8, 16, 32)
        if chunk * shape.width * bytes_of_item * PIXEL <= pixels.local_bytes * down
        for parts in (1, 2, 4, 8, 16)
        if vectors // chunk % parts == 0
        and shape.depth // parts <= longest
        and 256 <= POSITIONS * down * parts <= most_items
        for rows in rows_of_item(shape, pixels, chunk, together=True)
    ]
    loops = [option for option in options if option.chunk >= written_out]
    return min(loops or options, key=lambda option: cost(option, shape), default=None)


def cost(own: PixelBlocking, shape: PixelShape) -> float:
    """Cycles of a processor for the product of tiles, by the terms of the model (``docs/adreno.md``)."""
    groups = -(-shape.rows // (own.rows * own.down)) * (shape.panels // own.across)
    share = math.ceil(groups * own.items / WAVE / PROCESSORS)
    resident = min(WAVES, share)
    steps = shape.depth // PIXEL // own.chunk // own.parts
    step = step_cycles(own.rows, shape, resident)
    waits = 3 if shape.dtype == "float32" else 1
    bring = max(32, (BARRIER + waits * WAIT) / resident)
    # Sums are written and read, nine of each part for each output, and wait for each other twice a tile.
    each = max(OUTPUTS * shape.width / (POSITIONS * own.parts), 1)
    end = own.rows * (2 * shape.width + 18 * own.parts * each + 2 * BARRIER / resident)
    return share * (steps * (own.chunk * step + bring) + end)


_TILES_BESIDE, _VECTORS = 4, 8
"""Tiles along each side of a block that a work-group transforms, and vectors of channels, at most.

Of the 10 x 10 pixels of 4 x 4 tiles 64 are their own, so that what is computed of an input before it is
transformed is computed 1.6 times and not four times. 32 of its channels take 6.4 kB of local memory."""


def schedule_tiled_input(function: tirx.PrimFunc, tiles: TileTable) -> tirx.PrimFunc | None:
    """``function`` as one that transforms tiles, or ``None`` where it is none.

    A work-item has a vector of channels of a tile. What is computed before goes through local memory.
    """
    if tiles.tiled is None:
        return None
    schedule = s_tir.Schedule(function)
    names = sblock_names(schedule)
    if len(names) < 2 or names[-1] != INPUT:
        return None
    *before, tile, last = names
    for name in before[:-1]:
        schedule.compute_inline(schedule.get_sblock(name))
    block, source = schedule.get_sblock(last), schedule.get_sblock(tile)
    batch, row, column, position, channel = schedule.get_loops(block)
    lanes = vector_lanes(extent(schedule, channel), tiles.vector)
    parts = []
    vectors, lane = schedule.split(channel, [None, lanes])
    for loop, most in ((row, _TILES_BESIDE), (column, _TILES_BESIDE), (vectors, _VECTORS)):
        parts.append(schedule.split(loop, [None, largest_divisor(extent(schedule, loop), most)]))
    outer, inner = zip(*parts, strict=True)
    schedule.reorder(batch, *outer, *inner, position, lane)
    grid, item = schedule.fuse(batch, *outer), schedule.fuse(*inner)
    items = extent(schedule, item)
    schedule.bind(grid, "blockIdx.x")
    schedule.bind(item, "threadIdx.x")
    schedule.compute_at(source, item)
    schedule.set_scope(source, 0, "local")
    *sides, own = schedule.get_loops(source)[-3:]
    for loop in (*sides, position):
        schedule.unroll(loop)
    for loop in (own, lane):
        schedule.vectorize(loop)
    if before:
        shared = schedule.get_sblock(before[-1])
        schedule.compute_at(shared, grid)
        schedule.set_scope(shared, 0, "shared")
        *places, channel = schedule.get_loops(shared)[1:]
        vectors, lane = schedule.split(channel, [None, lanes])
        line = schedule.fuse(*places, vectors)
        _, item = schedule.split(line, [None, items])
        schedule.bind(item, "threadIdx.x")
        schedule.vectorize(lane)
    return schedule.mod["main"]
