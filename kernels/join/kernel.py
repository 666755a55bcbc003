"""Joins tensors along their channels, the last axis: each row is copied as the vectors that it is made of."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder.tirx import prim_func

from ddimcache.kernels.tiling import vector_lanes


@cache
def join_channels(
    rows: int, channels: tuple[int, ...], dtype: str, *, vector: int, rows_of_group: int, work_group: int
) -> tirx.PrimFunc:
    """The kernel of inputs [R, C] for each C of ``channels``, and [R, sum of all C].

    A work-group copies ``rows_of_group`` rows, its ``work_group`` work-items vectors beside each other.
    """
    groups = -(-rows // rows_of_group)
    with IRBuilder() as builder, prim_func(is_private=True, s_tir=True):
        T.func_name("kernel")
        T.func_attr({"op_pattern": 8, "tirx.noalias": True, "tirx.is_scheduled": True})
        parts = [
            T.arg(f"x{number}", T.buffer((rows, count), dtype, layout=None))
            for number, count in enumerate(channels)
        ]
        out = T.arg("out", T.buffer((rows, sum(channels)), dtype, layout=None))
        with T.sblock("root"):
            T.reads()
            T.writes()
            with (
                T.thread_binding(0, groups, thread="blockIdx.x") as group,
                T.thread_binding(0, work_group, thread="threadIdx.x") as item,
                ExitStack() as inside,
            ):
                number = inside.enter_context(T.serial(0, rows_of_group))
                row = T.bind(group * rows_of_group + number)
                if rows % rows_of_group:
                    inside.enter_context(T.If(row < rows))
                    inside.enter_context(T.Then())
                first = 0
                for part, count in zip(parts, channels, strict=True):
                    # Vectors that both its own row and the joined one are made of.
                    lanes = vector_lanes(count, vector_lanes(first, vector) if first else vector)
                    vectors = count // lanes
                    with ExitStack() as copy:
                        step = copy.enter_context(T.serial(0, -(-vectors // work_group)))
                        place = T.bind(step * work_group + item)
                        if vectors % work_group:
                            copy.enter_context(T.If(place < vectors))
                            copy.enter_context(T.Then())
                        lane = copy.enter_context(T.vectorized(0, lanes))
                        value = part[row, place * lanes + lane]
                        T.buffer_store(out, value, [row, first + place * lanes + lane])
                    first += count
    return builder.get()
