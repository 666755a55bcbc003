"""Schedule of everything that is no product: element-wise chains, and reductions that nobody tuned."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from ddimcache.compiler.target import TileTable
from ddimcache.kernels.tiling import largest_divisor, vector_lanes
from ddimcache.schedules.blocks import extent, is_spatial, sblock_names


def schedule_element_wise(function: tirx.PrimFunc, tiles: TileTable) -> tirx.PrimFunc:
    """Inlines what can be inlined and spreads each remaining block over work-items, as vectors.

    A block with a reduction runs it serially in one work-item for each output.
    """
    schedule = s_tir.Schedule(function)
    outputs = {parameter.name for parameter in function.params}
    for name in sblock_names(schedule):
        block = schedule.get_sblock(name)
        written = {region.source.name for region in schedule.get(block).writes}
        if is_spatial(schedule, name) and not written & outputs:
            try:
                schedule.compute_inline(block)
            except s_tir.ScheduleError:
                # Its consumer reads it through a reduction's own index: it stays a step of its own.
                continue
    for name in sblock_names(schedule):
        _spread(schedule, schedule.get_sblock(name), tiles)
    return schedule.mod["main"]


def _spread(schedule: s_tir.Schedule, block: Any, tiles: TileTable) -> None:
    loops = schedule.get_loops(block)
    kinds = [variable.iter_type for variable in schedule.get(block).iter_vars]
    if not loops:
        loops = [schedule.add_unit_loop(block)]
        kinds = [tirx.IterVar.DataPar]
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.DataPar]
    reduction = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != tirx.IterVar.DataPar]
    if not spatial:
        spatial = [schedule.add_unit_loop(loops[0])]
    lanes = 1 if reduction else vector_lanes(extent(schedule, spatial[-1]), tiles.vector)
    *outer, last = spatial
    steps, lane = schedule.split(last, [None, lanes])
    schedule.reorder(*outer, steps, *reduction, lane)
    line = schedule.fuse(*outer, steps) if outer else steps
    serial = 1 if reduction else largest_divisor(extent(schedule, line), tiles.injective_vectors)
    group = largest_divisor(extent(schedule, line) // serial, tiles.injective_work_group)
    grid, item, _ = schedule.split(line, [None, group, serial])
    schedule.bind(grid, "blockIdx.x")
    schedule.bind(item, "threadIdx.x")
    if lanes > 1:
        schedule.vectorize(lane)
    if reduction:
        schedule.decompose_reduction(block, reduction[0])
