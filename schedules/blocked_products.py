"""Schedule of matrix products in blocks, for devices whose work-groups have caches and not threads.

Operations against bytes, with R rows and N columns of a work-group and K deep: R N K multiply-adds; an input
is loaded once and read from the nearest cache for every panel, a weight is loaded and converted once for R
rows, which is 3 instructions against R. A work-item for itself converts its weights anew for every tile: 4
instructions in vectors against the 16 multiply-adds of 8 rows and 32 columns.
"""

from __future__ import annotations

import math

from tvm import tirx

from ddimcache.compiler.target import BlockTable, TileTable
from ddimcache.kernels.matmul.blocked import ProductBlocking, blocked_product
from ddimcache.kernels.tags import FAMILY, PAIRED, WORK
from ddimcache.kernels.tiling import largest_divisor
from ddimcache.schedules.epilogues import read_product, with_loops


def schedule_blocked_product(function: tirx.PrimFunc, tiles: TileTable) -> tirx.PrimFunc | None:
    """``function`` as a blocked product, or ``None`` where it is none or too small to share anything."""
    table = tiles.blocks
    product = None if table is None else read_product(function)
    if table is None or product is None or product.annotations[FAMILY] != "matmul":
        return None
    *lines, depth = (int(extent) for extent in product.x.ty.shape)
    panels, _, panel = (int(extent) for extent in product.weight.ty.shape)
    pairs = PAIRED in product.annotations
    rows, lanes = math.prod(lines), tiles.vector
    ragged = math.prod(product.stored) * (2 if pairs else 1) != rows * panels * panel
    if rows < table.strip // 2 or depth % lanes or (panel // 2 if pairs else panel) % lanes or ragged:
        return None
    blocking = choose_blocking(rows, depth, panels, panel, table, lanes)
    return with_loops(
        function,
        lambda: blocked_product(
            product.x, product.weight, product.scale, blocking, lanes, pairs, product.finish
        ),
    ).with_attr(WORK, rows * depth * panels * panel)


def strip_rows(count: int, limit: int) -> int:
    """Rows to keep in registers: as few as can be beyond the last of ``count``, then as many as can be."""
    least = min(limit, count, max(4, limit // 2))
    return min(range(min(limit, count), least - 1, -1), key=lambda rows: -(-count // rows) * rows)


def columns_of(panels: int, panel: int, row_blocks: int, limit: int, groups: int) -> int:
    """Columns of a work-group: as many as ``limit`` allows while there are ``groups`` work-groups."""
    divisors = [d for d in range(1, panels + 1) if panels % d == 0 and d * panel <= max(panel, limit)]
    return panel * max((d for d in divisors if panels // d * row_blocks >= groups), default=1)


def choose_blocking(
    rows: int, depth: int, panels: int, panel: int, table: BlockTable, lanes: int
) -> ProductBlocking:
    """The largest blocks of ``table`` that the shape fills, narrower ones where work-groups would be few."""
    strip = strip_rows(rows, table.strip)
    block = strip * min(-(-rows // strip), max(1, table.rows // strip))
    columns = columns_of(panels, panel, -(-rows // block), table.columns, table.groups)
    return ProductBlocking(
        block, columns, largest_divisor(depth // lanes, max(1, table.depth // lanes)) * lanes, strip
    )
