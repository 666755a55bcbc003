"""LayerNorm over the last axis in one kernel: a work-item reads its row twice, the second time from cache."""

from __future__ import annotations

from functools import cache

from tvm import tirx
from tvm.script import tirx as T

from ddimcache.kernels.tiling import largest_divisor, vector_lanes


@cache
def layer_norm(
    rows: int, channels: int, dtype: str, epsilon: float, *, vector: int, work_group: int
) -> tirx.PrimFunc:
    """LayerNorm of ``x`` [R, C] with ``weight`` and ``bias`` [C]; statistics are float32.

    The variance is taken around the row's first element, so that a row far from zero loses
    no digits.
    """
    lanes = vector_lanes(channels, vector)
    group = largest_divisor(rows, work_group)
    steps = channels // lanes

    # fmt: off
    @T.prim_func(private=True, s_tir=True, check_well_formed=False)
    def kernel(
        x: T.Buffer((rows, channels), dtype),
        weight: T.Buffer((channels,), dtype),
        bias: T.Buffer((channels,), dtype),
        out: T.Buffer((rows, channels), dtype),
    ):
        T.func_attr({"op_pattern": 8, "tirx.noalias": True, "tirx.is_scheduled": True})
        with T.sblock("root"):
            T.reads()
            T.writes()
            for block in T.thread_binding(rows // group, thread="blockIdx.x"):
                for item in T.thread_binding(group, thread="threadIdx.x"):
                    total = T.alloc_buffer((lanes,), "float32", scope="local")
                    square = T.alloc_buffer((lanes,), "float32", scope="local")
                    moment = T.alloc_buffer((3,), "float32", scope="local")
                    row: T.let[T.int32] = block * group + item
                    moment[2] = T.Cast("float32", x[row, 0])
                    for lane in T.vectorized(lanes):
                        total[lane] = T.float32(0)
                    for lane in T.vectorized(lanes):
                        square[lane] = T.float32(0)
                    for step in range(steps):
                        for lane in T.vectorized(lanes):
                            total[lane] = total[lane] + (
                                T.Cast("float32", x[row, step * lanes + lane]) - moment[2]
                            )
                        for lane in T.vectorized(lanes):
                            square[lane] = square[lane] + (
                                T.Cast("float32", x[row, step * lanes + lane]) - moment[2]
                            ) * (T.Cast("float32", x[row, step * lanes + lane]) - moment[2])
                    moment[0] = T.float32(0)
                    moment[1] = T.float32(0)
                    for lane in T.unroll(lanes):
                        moment[0] = moment[0] + total[lane]
                        moment[1] = moment[1] + square[lane]
                    moment[0] = moment[0] / T.float32(channels)
                    moment[1] = T.float32(1) / T.sqrt(
                        T.max(moment[1] / T.float32(channels) - moment[0] * moment[0], T.float32(0))
                        + T.float32(epsilon)
                    )
                    moment[0] = moment[0] + moment[2]
                    for step in range(steps):
                        for lane in T.vectorized(lanes):
                            out[row, step * lanes + lane] = T.Cast(
                                dtype,
                                (T.Cast("float32", x[row, step * lanes + lane]) - moment[0])
                                * moment[1]
                                * T.Cast("float32", weight[step * lanes + lane])
                                + T.Cast("float32", bias[step * lanes + lane]),
                            )
    # fmt: on
    return kernel
