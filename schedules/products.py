"""Schedule of matrix products and convolutions over packed weights.

A work-item computes ``rows`` pixels (or tokens) times one panel of output channels and keeps the sums in
registers: at every step of the reduction it reads one row of the panel, as vectors, and ``rows`` scalars.
Work-items of neighbouring rows follow each other, so that a panel stays in cache while the rows pass by.

Operations against bytes, with R rows and P channels a step: R P multiply-adds on P weights and R inputs, so
8 x 32 makes 256 of them on 40 loads; the two load ports of a CPU core are no limit from 8 x 16 up.
"""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from ddimcache.compiler.target import TileTable
from ddimcache.kernels.tags import PAIRED
from ddimcache.kernels.tiling import largest_divisor, vector_lanes
from ddimcache.schedules.blocks import extent, inline_all_but, is_constant, products, sblock_names


def box_rows(shape: list[int], limit: int) -> int:
    """Rows of a work-item: whole trailing extents of ``shape``, times a divisor of the next one.

    Such a tile is a box. A tile that began in one line and ended in the next would be stored as the box
    around it, over results of other work-items.
    """
    rows = 1
    for size in reversed(shape):
        divisor = largest_divisor(size, limit // rows)
        rows *= divisor
        if divisor != size:
            break
    if rows * 2 <= limit < shape[-1]:
        # A line without a good divisor, such as 11: a few more registers rather than half of them.
        rows = max(rows, largest_divisor(shape[-1], limit + limit // 2))
    return rows


def schedule_product(function: tirx.PrimFunc, tiles: TileTable) -> tirx.PrimFunc | None:
    """Schedules ``function`` if its reduction is one of the product families, else returns ``None``."""
    schedule = s_tir.Schedule(function)
    names = products(schedule)
    if not names:
        return None
    if len(names) != 1:
        raise AssertionError(f"one product a kernel, found {names}")
    product = schedule.get_sblock(names[0])
    epilogue = _epilogue(schedule, names[0])
    if epilogue is None:
        epilogue = _store(schedule, product)
    if PAIRED in schedule.get(product).annotations:
        _tile_pairs(schedule, product, epilogue, tiles)
    else:
        _tile(schedule, product, epilogue, tiles)
    return schedule.mod["main"]


def _epilogue(schedule: s_tir.Schedule, product: str) -> Any:
    """The block that stores the result, every block between it and the product being inlined into it."""
    later = [name for name in sblock_names(schedule) if name != product]
    if not later:
        return None
    inline_all_but(schedule, {product, later[-1]})
    return schedule.get_sblock(later[-1])


def _store(schedule: s_tir.Schedule, product: Any) -> Any:
    """A product without an epilogue gets one that copies its registers to memory."""
    return schedule.cache_write(product, 0, "local")


def _tile(schedule: s_tir.Schedule, product: Any, epilogue: Any, tiles: TileTable) -> None:
    loops = schedule.get_loops(product)
    kinds = [variable.iter_type for variable in schedule.get(product).iter_vars]
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.DataPar]
    reduction = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != tirx.IterVar.DataPar]
    lines, columns = spatial[:-1], spatial[-1]
    rows = box_rows([extent(schedule, loop) for loop in lines], tiles.rows)
    panel = _panel(schedule, product)
    lanes = vector_lanes(panel, tiles.vector)
    line = schedule.fuse(*lines) if len(lines) > 1 else lines[0]
    line_outer, line_inner = schedule.split(line, [None, rows])
    column_outer, column_inner = schedule.split(columns, [None, panel])
    vector_outer, vector_inner = schedule.split(column_inner, [None, lanes])
    schedule.reorder(column_outer, line_outer, *reduction, line_inner, vector_outer, vector_inner)
    grid = schedule.fuse(column_outer, line_outer)
    group = largest_divisor(extent(schedule, grid), tiles.work_group)
    block, item = schedule.split(grid, [None, group])
    schedule.bind(block, "blockIdx.x")
    schedule.bind(item, "threadIdx.x")
    schedule.set_scope(product, 0, "local")
    schedule.reverse_compute_at(epilogue, item)
    vectorise_store(schedule, epilogue, item, tiles.vector)
    schedule.unroll(line_inner)
    schedule.unroll(vector_outer)
    if lanes > 1:
        schedule.vectorize(vector_inner)
    schedule.decompose_reduction(product, reduction[0])


def _tile_pairs(schedule: s_tir.Schedule, product: Any, epilogue: Any, tiles: TileTable) -> None:
    """The same tile where the epilogue makes one result of two sums: its loops lead, not the sums'."""
    *lines, panel, column = schedule.get_loops(epilogue)
    rows = box_rows([extent(schedule, loop) for loop in lines], tiles.rows)
    line = schedule.fuse(*lines) if len(lines) > 1 else lines[0]
    line_outer, line_inner = schedule.split(line, [None, rows])
    schedule.reorder(panel, line_outer, line_inner, column)
    grid = schedule.fuse(panel, line_outer)
    block, item = schedule.split(grid, [None, largest_divisor(extent(schedule, grid), tiles.work_group)])
    schedule.bind(block, "blockIdx.x")
    schedule.bind(item, "threadIdx.x")
    schedule.set_scope(product, 0, "local")
    schedule.compute_at(product, item, preserve_unit_loops=True)
    *_, row, _panel_index, side, part, reduction = schedule.get_loops(product)
    lanes = vector_lanes(extent(schedule, part), tiles.vector)
    vector_outer, vector_inner = schedule.split(part, [None, lanes])
    schedule.reorder(reduction, row, side, vector_outer, vector_inner)
    for loop in (row, side, vector_outer):
        schedule.unroll(loop)
    if lanes > 1:
        schedule.vectorize(vector_inner)
    vectorise_store(schedule, epilogue, item, tiles.vector)
    schedule.decompose_reduction(product, reduction)


def _panel(schedule: s_tir.Schedule, product: Any) -> int:
    """The panel width: the last extent of the packed weight, which is the product's second input."""
    return int(schedule.get(product).reads[1].source.shape[-1])


def vectorise_store(schedule: s_tir.Schedule, epilogue: Any, item: Any, vector: int) -> None:
    """Makes vectors of what ``epilogue`` stores inside the loop ``item``."""
    loops = schedule.get_loops(epilogue)
    position = [schedule.get(loop).loop_var.name for loop in loops].index(schedule.get(item).loop_var.name)
    inner = loops[position + 1 :]
    if not inner or not all(is_constant(schedule, loop) for loop in inner):
        # The last panel has columns too many: its tile is cut off, and stays a plain loop.
        return
    for loop in inner[:-1]:
        schedule.unroll(loop)
    lanes = vector_lanes(extent(schedule, inner[-1]), vector)
    outer, lane = schedule.split(inner[-1], [None, lanes])
    schedule.unroll(outer)
    if lanes > 1:
        schedule.vectorize(lane)
