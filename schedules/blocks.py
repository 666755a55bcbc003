"""Small helpers over TVM's schedules."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import s_tir, tirx

from ddimcache.kernels.tags import FAMILY, WORKLOAD
from ddimcache.kernels.workload import Workload, parse


def extent(schedule: s_tir.Schedule, loop: Any) -> int:
    """The extent of a loop."""
    return int(schedule.get(loop).extent)


def is_constant(schedule: s_tir.Schedule, loop: Any) -> bool:
    """Whether the extent of a loop is a number."""
    return isinstance(schedule.get(loop).extent, tirx.IntImm)


def sblock_names(schedule: s_tir.Schedule) -> list[str]:
    """The names of the blocks of ``main``, in the order in which they run, without the root."""
    root = schedule.get_sblock("root")
    return [schedule.get(block).name_hint for block in schedule.get_child_blocks(root)]


def products(schedule: s_tir.Schedule) -> list[str]:
    """The names of the blocks that multiply: those of a product family."""
    return [
        name
        for name in sblock_names(schedule)
        if FAMILY in schedule.get(schedule.get_sblock(name)).annotations
    ]


def is_spatial(schedule: s_tir.Schedule, name: str) -> bool:
    """Whether every iteration of the block stores to a place of its own."""
    block = schedule.get(schedule.get_sblock(name))
    return all(variable.iter_type == tirx.IterVar.DataPar for variable in block.iter_vars)


def inline_all_but(schedule: s_tir.Schedule, kept: set[str]) -> None:
    """Inlines every block that is not in ``kept`` into its consumers."""
    for name in sblock_names(schedule):
        if name not in kept:
            schedule.compute_inline(schedule.get_sblock(name))


def panel_of(function: tirx.PrimFunc) -> int | None:
    """Output channels of a panel of the weight that a kernel multiplies with, ``None`` without a product."""
    found: list[int] = []

    def visit(block: Any) -> None:
        if FAMILY in block.annotations and len(block.reads) > 1:
            found.append(int(block.reads[1].source.shape[-1]))

    tvm_ffi.structural_walk(function.body, [(s_tir.SBlock, visit)], order="pre")
    return found[0] if found else None


def workload_of(function: tirx.PrimFunc) -> Workload | None:
    """The workload that a kernel's product is tagged with, or ``None``."""
    found: list[str] = []

    def visit(block: Any) -> None:
        if WORKLOAD in block.annotations:
            found.append(str(block.annotations[WORKLOAD]))

    tvm_ffi.structural_walk(function.body, [(s_tir.SBlock, visit)], order="pre")
    return parse(found[0]) if found else None
