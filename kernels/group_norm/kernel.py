"""GroupNorm over channels-last tensors in three launches, for many work-items and for bands of a picture.

The memory-bound ones stay vectorised and the last one fuses with what follows: ``moments`` sums every
channel over a chunk of rows, ``parameters`` makes of them what each channel is multiplied by and adds,
``apply`` is element-wise and is fused with SiLU and padding by the compiler. Statistics are float32.
"""

from __future__ import annotations

from functools import cache

from tvm import te, tirx
from tvm.script import tirx as T

from ddimcache.kernels.group_norm.normalisation import sample_of
from ddimcache.kernels.tags import SAMPLED
from ddimcache.kernels.tiling import largest_divisor, vector_lanes

ROWS_PER_CHUNK = 64
"""Rows that one work-item sums: enough to pay for its start, few enough to occupy the device."""


def chunks(rows: int) -> int:
    """Chunks into which ``rows`` rows are divided."""
    return rows // largest_divisor(rows, ROWS_PER_CHUNK)


@cache
def moments(
    batch: int,
    rows: int,
    first_rows: int,
    channels: int,
    groups: int,
    dtype: str,
    *,
    vector: int,
    work_group: int,
) -> tirx.PrimFunc:
    """Per-chunk sums of ``x`` [B, R, C] and of its squares: [B, chunks, 2, C] float32.

    They are of what is left without a number of the group (``normalisation.sample_of``) in ``first``
    [B, R', C] with R' = ``first_rows``: ``x`` itself, or the first band of what ``x`` is a band of.
    """
    size, sample = channels // groups, sample_of(first_rows)
    lanes = vector_lanes(channels, vector)
    parts = chunks(rows)
    depth = rows // parts
    items = batch * parts * (channels // lanes)
    group = largest_divisor(items, work_group)

    # fmt: off
    @T.prim_func(private=True, s_tir=True, check_well_formed=False)
    def kernel(
        x: T.Buffer((batch, rows, channels), dtype),
        first: T.Buffer((batch, first_rows, channels), dtype),
        out: T.Buffer((batch, parts, 2, channels), "float32"),
    ):
        T.func_attr({"op_pattern": 8, "tirx.noalias": True, "tirx.is_scheduled": True, SAMPLED: 1})
        with T.sblock("root"):
            T.reads()
            T.writes()
            for block in T.thread_binding(items // group, thread="blockIdx.x"):
                for item in T.thread_binding(group, thread="threadIdx.x"):
                    total = T.alloc_buffer((lanes,), "float32", scope="local")
                    square = T.alloc_buffer((lanes,), "float32", scope="local")
                    samples = T.alloc_buffer((lanes,), "float32", scope="local")
                    c: T.let[T.int32] = (block * group + item) % (channels // lanes) * lanes
                    part: T.let[T.int32] = (block * group + item) // (channels // lanes) % parts
                    b: T.let[T.int32] = (block * group + item) // (channels // lanes * parts)
                    for lane in range(lanes):
                        samples[lane] = T.Cast("float32", first[b, sample, (c + lane) // size * size])
                    for lane in T.vectorized(lanes):
                        total[lane] = T.float32(0)
                    for lane in T.vectorized(lanes):
                        square[lane] = T.float32(0)
                    for row in range(depth):
                        for lane in T.vectorized(lanes):
                            total[lane] = total[lane] + (
                                T.Cast("float32", x[b, part * depth + row, c + lane]) - samples[lane]
                            )
                        for lane in T.vectorized(lanes):
                            square[lane] = square[lane] + (
                                T.Cast("float32", x[b, part * depth + row, c + lane]) - samples[lane]
                            ) * (T.Cast("float32", x[b, part * depth + row, c + lane]) - samples[lane])
                    for lane in T.vectorized(lanes):
                        out[b, part, 0, c + lane] = total[lane]
                    for lane in T.vectorized(lanes):
                        out[b, part, 1, c + lane] = square[lane]
    # fmt: on
    return kernel


@cache
def parameters(
    batch: int,
    rows: int,
    first_rows: int,
    parts: int,
    channels: int,
    groups: int,
    epsilon: float,
    dtype: str,
    *,
    work_group: int,
) -> tirx.PrimFunc:
    """What normalising multiplies each channel by, and what it adds then: [B, 2, C] float32.

    Of ``moments`` and the ``first`` that they were made with, and of ``weight`` and ``bias`` [C], all in
    ``dtype``. ``parts`` sums over ``rows`` rows together; how they share the rows does not matter.
    """
    size, sample = channels // groups, sample_of(first_rows)
    items = batch * groups
    count = float(rows * size)
    group = largest_divisor(items, work_group)

    # fmt: off
    @T.prim_func(private=True, s_tir=True, check_well_formed=False)
    def kernel(
        x: T.Buffer((batch, parts, 2, channels), "float32"),
        first: T.Buffer((batch, first_rows, channels), dtype),
        weight: T.Buffer((channels,), dtype),
        bias: T.Buffer((channels,), dtype),
        out: T.Buffer((batch, 2, channels), "float32"),
    ):
        T.func_attr({"op_pattern": 8, "tirx.noalias": True, "tirx.is_scheduled": True, SAMPLED: 1})
        with T.sblock("root"):
            T.reads()
            T.writes()
            for block in T.thread_binding(items // group, thread="blockIdx.x"):
                for item in T.thread_binding(group, thread="threadIdx.x"):
                    total = T.alloc_buffer((1,), "float32", scope="local")
                    square = T.alloc_buffer((1,), "float32", scope="local")
                    b: T.let[T.int32] = (block * group + item) // groups
                    g: T.let[T.int32] = (block * group + item) % groups
                    total[0] = T.float32(0)
                    square[0] = T.float32(0)
                    for part in range(parts):
                        for c in range(size):
                            total[0] = total[0] + x[b, part, 0, g * size + c]
                        for c in range(size):
                            square[0] = square[0] + x[b, part, 1, g * size + c]
                    total[0] = total[0] / T.float32(count)
                    # Rounding can make the difference of two near numbers negative.
                    square[0] = T.float32(1) / T.sqrt(
                        T.max(square[0] / T.float32(count) - total[0] * total[0], T.float32(0))
                        + T.float32(epsilon)
                    )
                    total[0] = total[0] + T.Cast("float32", first[b, sample, g * size])
                    for c in range(size):
                        out[b, 0, g * size + c] = square[0] * T.Cast("float32", weight[g * size + c])
                        out[b, 1, g * size + c] = (
                            T.Cast("float32", bias[g * size + c]) - total[0] * out[b, 0, g * size + c]
                        )
    # fmt: on
    return kernel


def apply(x: te.Tensor, parameters: te.Tensor) -> te.Tensor:
    """Normalises ``x`` [B, ..., C] with ``parameters`` [B, 2, C]."""

    def normalise(*index):
        b, c = index[0], index[-1]
        value = x[index].astype("float32") * parameters[b, 0, c] + parameters[b, 1, c]
        return value.astype(x.dtype)

    return te.compute(x.shape, normalise, name="group_norm_apply")
