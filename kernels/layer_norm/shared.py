"""LayerNorm over the last axis by teams: the work-items of one keep a row between them.

One work-item a row waits for memory at every step, and few rows are few work-items. Here each reads its
vectors of a row at once, keeps them in registers, and sums meet in local memory: the mean, and then the
squares of what is left without it, so that a row far from zero loses no digits.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import Any

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder.tirx import prim_func

from ddimcache.kernels.teams import Team, team_size
from ddimcache.kernels.tiling import largest_divisor, local

VECTORS = 5
"""Vectors of a row that a work-item keeps, where a team may have enough of them."""


@cache
def shared_layer_norm(
    rows: int, channels: int, dtype: str, epsilon: float, *, vector: int, work_group: int, threads: int
) -> tirx.PrimFunc:
    """The same as ``kernel.layer_norm``; ``channels`` are a multiple of ``vector``.

    A team has at most ``threads`` work-items, and a work-group ``work_group`` or one team.
    """
    with IRBuilder() as builder, prim_func(is_private=True, s_tir=True):
        T.func_name("kernel")
        T.func_attr({"op_pattern": 8, "tirx.noalias": True, "tirx.is_scheduled": True})
        x = T.arg("x", T.buffer((rows, channels), dtype, layout=None))
        weight, bias = (T.arg(name, T.buffer((channels,), dtype, layout=None)) for name in ("weight", "bias"))
        out = T.arg("out", T.buffer((rows, channels), dtype, layout=None))
        with T.sblock("root"):
            T.reads()
            T.writes()
            _Emitter(rows, channels, vector, work_group, threads).emit(x, weight, bias, out, epsilon)
    return builder.get()


class _Emitter:
    def __init__(self, rows: int, channels: int, vector: int, work_group: int, threads: int) -> None:
        self.rows, self.channels, self.vector = rows, channels, vector
        self.vectors = channels // vector
        self.team = team_size(self.vectors, VECTORS, threads)
        self.each = -(-self.vectors // self.team)
        self.teams = largest_divisor(rows, max(work_group // self.team, 1))

    def emit(self, x: Any, weight: Any, bias: Any, out: Any, epsilon: float) -> None:
        """Emits the whole kernel."""
        items = self.teams * self.team
        with (
            T.thread_binding(0, self.rows // self.teams, thread="blockIdx.x") as block,
            T.thread_binding(0, items, thread="threadIdx.x") as item,
        ):
            team = Team(item, items, self.team)
            self.member, row = team.member, T.bind(block * self.teams + item // self.team)
            held = local(self.each, self.vector)
            self._each(lambda n, c, lane: T.buffer_store(held, T.cast(x[row, c], "float32"), [n, lane]))
            mean = T.bind(self._total(team, lambda n, lane: held[n, lane]) / T.float32(self.channels))
            for n in range(self.each):
                with T.vectorized(0, self.vector) as lane:
                    T.buffer_store(held, held[n, lane] - mean, [n, lane])
            square = self._total(team, lambda n, lane: held[n, lane] * held[n, lane])
            variance = square / T.float32(self.channels) + T.float32(epsilon)
            factor = T.bind(T.float32(1) / T.sqrt(variance))

            def store(n: int, c: Any, lane: Any) -> None:
                value = held[n, lane] * factor * T.cast(weight[c], "float32") + T.cast(bias[c], "float32")
                T.buffer_store(out, T.cast(value, str(out.ty.dtype)), [row, c])

            self._each(store)

    def _each(self, emit: Callable[[int, Any, Any], None]) -> None:
        """Emits a statement for every vector of a work-item: of its number, channel and lane."""
        for n in range(self.each):
            with ExitStack() as inside:
                number = n * self.team + self.member
                if (n + 1) * self.team > self.vectors:
                    inside.enter_context(T.If(number < self.vectors))
                    inside.enter_context(T.Then())
                lane = inside.enter_context(T.vectorized(0, self.vector))
                emit(n, number * self.vector + lane, lane)

    def _total(self, team: Team, value: Callable[[int, Any], Any]) -> Any:
        """The sum over a row of ``value`` of a vector's number and a lane."""
        sums, total = local(self.vector), local(1)
        for n in range(self.each):
            with ExitStack() as inside:
                if n and (n + 1) * self.team > self.vectors:
                    inside.enter_context(T.If(n * self.team + self.member < self.vectors))
                    inside.enter_context(T.Then())
                lane = inside.enter_context(T.vectorized(0, self.vector))
                T.buffer_store(sums, value(n, lane) + (sums[lane] if n else T.float32(0)), [lane])
        T.buffer_store(total, T.float32(0), [0])
        for lane in range(self.vector):
            T.buffer_store(total, total[0] + sums[lane], [0])
        return team.total(total[0])
