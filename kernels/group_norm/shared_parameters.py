"""What GroupNorm does to each channel, by teams: the work-items of one share the sums of a group.

A picture of 512x512 leaves 4096 sums a channel, and one work-item a group waits for each of them.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder.tirx import prim_func

from ddimcache.kernels.group_norm.normalisation import sample_of
from ddimcache.kernels.teams import Team, team_size
from ddimcache.kernels.tiling import local

NUMBERS = 8
"""Sums that a work-item adds up one after another, where a team may have enough of them."""


@cache
def shared_parameters(
    batch: int,
    rows: int,
    first_rows: int,
    parts: int,
    channels: int,
    groups: int,
    epsilon: float,
    dtype: str,
    *,
    threads: int,
) -> tirx.PrimFunc:
    """The same as ``kernel.parameters``, by teams of at most ``threads`` work-items."""
    size = channels // groups
    count = float(rows * size)
    team_items = team_size(parts * size, NUMBERS, threads)
    steps = -(-parts * size // team_items)
    with IRBuilder() as builder, prim_func(is_private=True, s_tir=True):
        T.func_name("kernel")
        T.func_attr({"op_pattern": 8, "tirx.noalias": True, "tirx.is_scheduled": True})
        x = T.arg("x", T.buffer((batch, parts, 2, channels), "float32", layout=None))
        first = T.arg("first", T.buffer((batch, first_rows, channels), dtype, layout=None))
        weight, bias = (T.arg(name, T.buffer((channels,), dtype, layout=None)) for name in ("weight", "bias"))
        out = T.arg("out", T.buffer((batch, 2, channels), "float32", layout=None))
        with T.sblock("root"):
            T.reads()
            T.writes()
            with (
                T.thread_binding(0, batch * groups, thread="blockIdx.x") as block,
                T.thread_binding(0, team_items, thread="threadIdx.x") as item,
            ):
                b, g = T.bind(block // groups), T.bind(block % groups)
                team, sums = Team(item, team_items, team_items), local(2)
                for side in range(2):
                    T.buffer_store(sums, T.float32(0), [side])
                with ExitStack() as inside:
                    step = inside.enter_context(T.serial(0, steps))
                    number = T.bind(step * team_items + item)
                    if steps * team_items > parts * size:
                        inside.enter_context(T.If(number < parts * size))
                        inside.enter_context(T.Then())
                    for side in range(2):
                        value = x[b, number // size, side, g * size + number % size]
                        T.buffer_store(sums, sums[side] + value, [side])
                mean = T.bind(team.total(sums[0]) / T.float32(count))
                # Rounding can make the difference of two near numbers negative.
                variance = T.max(team.total(sums[1]) / T.float32(count) - mean * mean, T.float32(0))
                factor = T.bind(T.float32(1) / T.sqrt(variance + T.float32(epsilon)))
                sample = T.cast(first[b, sample_of(first_rows), g * size], "float32")
                whole_mean = T.bind(sample + mean)
                with ExitStack() as inside:
                    step = inside.enter_context(T.serial(0, -(-size // team_items)))
                    number = T.bind(step * team_items + item)
                    if size % team_items:
                        inside.enter_context(T.If(number < size))
                        inside.enter_context(T.Then())
                    channel = T.bind(g * size + number)
                    own = T.bind(factor * T.cast(weight[channel], "float32"))
                    T.buffer_store(out, own, [b, 0, channel])
                    T.buffer_store(out, T.cast(bias[channel], "float32") - whole_mean * own, [b, 1, channel])
    return builder.get()
