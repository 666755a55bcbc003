"""Schedule of matrix products with activations that are rounded to int8, in blocks of rows.

Operations against bytes, with R rows and N columns of a work-group and K deep: R N K / 64 instructions of
64 multiply-adds, where float32 has R N K / 16; about R K / 2 instructions round the rows, so that N of 320 or
more hide them; and of the weights, which are bytes now and need no conversion, each panel stays in a near
cache while the rows pass by. Four times float32's peak is the limit.
"""

from __future__ import annotations

import math

from tvm import tirx

from ddimcache.compiler.target import DotTable, TileTable
from ddimcache.kernels.matmul.dots import DotBlocking, dot_product
from ddimcache.kernels.tags import DOTS, PAIRED, WORK
from ddimcache.schedules.blocked_products import columns_of, strip_rows
from ddimcache.schedules.epilogues import read_product, with_loops


def schedule_dot_product(function: tirx.PrimFunc, tiles: TileTable) -> tirx.PrimFunc | None:
    """``function`` as a product of int8 with int8, or ``None`` where it is none.

    Raises :class:`AssertionError` for one that was made for a device without a ``DotTable``: no other
    schedule rounds activations.
    """
    table, product = tiles.dots, read_product(function)
    if product is None or DOTS not in product.annotations:
        return None
    if table is None:
        raise AssertionError("no table for products of int8")
    *lines, depth = (int(extent) for extent in product.x.ty.shape)
    panels, _, panel = (int(extent) for extent in product.weight.ty.shape)
    rows = math.prod(lines)
    blocking = choose_dot_blocking(rows, depth, panels, panel, table)
    pairs = PAIRED in product.annotations
    return with_loops(
        function,
        lambda: dot_product(
            product.x,
            product.weight,
            product.scale,
            blocking,
            pairs,
            table.instruction,
            product.finish,
        ),
    ).with_attr(WORK, rows * depth * panels * panel)


def choose_dot_blocking(rows: int, depth: int, panels: int, panel: int, table: DotTable) -> DotBlocking:
    """Fewer rows where work-groups would be few, then fewer columns, whose work-groups all round the rows."""
    # Wide panels have fewer rows in registers: two vectors of columns have all of them, three two thirds.
    strip = strip_rows(rows, max(1, table.strip * 32 // max(panel, 32)))
    fitting = max(1, min(table.rows, table.bytes // depth) // strip)
    wanted = max(1, rows // table.groups // strip)
    # A weight should serve as many rows as take longer than to load it.
    block = strip * min(-(-rows // strip), fitting, max(wanted, 32 // strip))
    columns = columns_of(panels, panel, -(-rows // block), panels * panel, table.groups)
    return DotBlocking(block, columns, strip)
