"""LayerNorm over the last axis in one kernel: a work-item reads its row twice, the second time from cache."""

from __future__ import annotations

from functools import cache

from tvm import tirx
from tvm.script import tirx as T

from ddimcache.kernels.tiling import largest_divisor, vector_lanes

CHAINS = 4
"""Sums of a row that do not wait for each other, at most; 8 need more registers than there are."""


@cache
def layer_norm(
    rows: int, channels: int, dtype: str, epsilon: float, *, vector: int, work_group: int
) -> tirx.PrimFunc:
    """LayerNorm of ``x`` [R, C] with ``weight`` and ``bias`` [C]; statistics are float32.

    The variance is taken around the row's first element, so that a row far from zero loses
    no digits.

    On a CPU, whose vectors are wide, :data:`CHAINS` sums are made side by side, as each addition
    waits for the one before: 460 us became 310 for 4096 rows of 320 (PoCL on an EPYC, Zen 5,
    other work beside it). A GPU has other waves to run meanwhile.
    """
    lanes = vector_lanes(channels, vector)
    group = largest_divisor(rows, work_group)
    steps = channels // lanes
    chains = largest_divisor(steps, CHAINS) if lanes >= 8 else 1

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
                    total = T.alloc_buffer((chains, lanes), "float32", scope="local")
                    square = T.alloc_buffer((chains, lanes), "float32", scope="local")
                    moment = T.alloc_buffer((3,), "float32", scope="local")
                    row: T.let[T.int32] = block * group + item
                    moment[2] = T.Cast("float32", x[row, 0])
                    for chain in T.unroll(chains):
                        for lane in T.vectorized(lanes):
                            total[chain, lane] = T.float32(0)
                        for lane in T.vectorized(lanes):
                            square[chain, lane] = T.float32(0)
                    for step in range(steps // chains):
                        for chain in T.unroll(chains):
                            for lane in T.vectorized(lanes):
                                total[chain, lane] = total[chain, lane] + (
                                    T.Cast("float32", x[row, (step * chains + chain) * lanes + lane])
                                    - moment[2]
                                )
                            for lane in T.vectorized(lanes):
                                square[chain, lane] = square[chain, lane] + (
                                    T.Cast("float32", x[row, (step * chains + chain) * lanes + lane])
                                    - moment[2]
                                ) * (
                                    T.Cast("float32", x[row, (step * chains + chain) * lanes + lane])
                                    - moment[2]
                                )
                    for chain in T.unroll(chains - 1):
                        for lane in T.vectorized(lanes):
                            total[0, lane] = total[0, lane] + total[chain + 1, lane]
                        for lane in T.vectorized(lanes):
                            square[0, lane] = square[0, lane] + square[chain + 1, lane]
                    moment[0] = T.float32(0)
                    moment[1] = T.float32(0)
                    for lane in T.unroll(lanes):
                        moment[0] = moment[0] + total[0, lane]
                        moment[1] = moment[1] + square[0, lane]
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
