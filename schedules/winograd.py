"""Schedule of 3x3 convolutions of stride 1 by Winograd's minimal filtering.

Operations, in vector instructions for a tile of 4 x 4 outputs, with C input and O output channels in lanes of
16 and a work-group of ``tiles`` times ``columns``: 36 C O / 16 multiply-adds instead of 144; 144 for the
inputs of 16 channels, again for every ``columns`` outputs; about 100 for the weights of 16 pairs of channels,
again for every ``tiles`` tiles; 100 for 16 outputs. With 32 tiles and 160 columns that adds 2.5 %, 8.7 % and,
at 320 input channels, 0.9 %.

Bytes: the sums of a work-group are 36 x 32 x 160 x 4, inputs and weights of 64 channels 36 x 64 x 64 x 4.
These 1.3 MB stay in the second cache; 40 KB of one position are in use at a time. They are private memory,
which a CPU device takes from its thread's stack, and that may be as small as 2 MB.
"""

from __future__ import annotations

from tvm import tirx

from ddimcache.compiler.target import TileTable, WinogradTable
from ddimcache.kernels.conv2d.winograd import Blocking, winograd
from ddimcache.kernels.tags import FAMILY, WORK
from ddimcache.kernels.tiling import largest_divisor
from ddimcache.schedules.blocked_products import columns_of, strip_rows
from ddimcache.schedules.epilogues import Product, read_product, with_loops

WEIGHT_COST = {2: 60, 4: 150}
"""What transforming a vector of weights costs, by the size of a tile: multiply-adds of a vector in its place.

Measured on an EPYC (Zen 5): 32 x 32 pixels of 1920 channels take 17.4 ms in blocks of 16 tiles, whose weights
are transformed 4 times, and 15.6 in those of 32, so a transform costs as much as 4.2 tiles. At 8 x 8, 4 tiles
of 4 x 4 are 294 and 16 of 2 x 2 are 316, 2.5 and 2.8 ms for 1280 channels."""


def schedule_winograd(function: tirx.PrimFunc, tiles: TileTable) -> tirx.PrimFunc | None:
    """``function`` with Winograd's loops, or ``None`` where it is no convolution that they serve."""
    table = tiles.winograd
    product = None if table is None else read_product(function)
    if table is None or product is None or product.annotations[FAMILY] != "conv2d":
        return None
    shape, weight = ([int(extent) for extent in tensor.ty.shape] for tensor in (product.x, product.weight))
    if weight[1:3] != [3, 3] or shape[1:3] != [extent + 2 for extent in product.shape[1:3]]:
        return None
    depth, panel, channels = shape[-1], weight[-1], product.stored[-1]
    if depth % tiles.vector or panel % tiles.vector or channels % panel:
        return None
    blocking = choose_blocking(product, table, tiles.vector)
    macs = 9 * depth * channels * product.shape[0] * product.shape[1] * product.shape[2]
    return with_loops(
        function,
        lambda: winograd(product.x, product.weight, product.scale, blocking, tiles.vector, product.finish),
    ).with_attr(WORK, macs)


def choose_blocking(product: Product, table: WinogradTable, vector: int) -> Blocking:
    """The largest blocks of ``table`` that the shape fills, narrower ones where work-groups would be few."""
    sizes = [table.size] if table.size in WEIGHT_COST else list(WEIGHT_COST)
    options = (_sized_blocking(product, size, table, vector) for size in sizes)
    return min(options, key=lambda option: option[0])[1]


def _sized_blocking(product: Product, size: int, table: WinogradTable, vector: int) -> tuple[int, Blocking]:
    """The blocking for one size of tiles, after its cost in vector multiply-adds for a pair of channels."""
    batch, height, width, _ = product.shape
    count = batch * -(-height // size) * -(-width // size)
    positions = (size + 2) ** 2
    rows = strip_rows(count, table.rows)
    strips = -(-count // rows)
    tiles = rows * min(strips, max(1, table.tiles * 36 // positions // rows))
    panels, _, _, depth, panel = (int(extent) for extent in product.weight.ty.shape)
    tile_blocks = -(-count // tiles)
    columns = columns_of(panels, panel, tile_blocks, table.columns, table.groups)
    block = largest_divisor(depth // vector, max(1, table.depth // vector)) * vector
    cost = tile_blocks * (tiles * positions + WEIGHT_COST[size])
    return cost, Blocking(size, tiles, columns, block, rows)
