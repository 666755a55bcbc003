"""The arithmetic of one DDIM step, on the device.

With ``m`` the model's output and ``x`` the latents: ``x0 = p x + q m`` clamped to ``clip``, ``e = r x + s
m``, ``x' = a x0 + b e`` (Song et al., arXiv 2010.02502, eta 0). The numbers of every step lie in a table on
the device, one row a step, and the device counts the rows itself. So no launch has an argument that the host
must know, and one recording of a step serves for all of its kind.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

MOST_STEPS = 1000
COLUMNS = 9
"""Timestep, p, q, r, s, clip, a, b, guidance."""


def next_step() -> tirx.PrimFunc:
    """``next_step(table [1000, 9] float32, row [1] int32, timestep [1] float32)``.

    Moves on to the next row and writes its timestep. Before the first step ``row`` holds -1.
    """

    # fmt: off
    @T.prim_func(s_tir=True, check_well_formed=False)
    def next_step(
        table: T.Buffer((MOST_STEPS, COLUMNS), "float32"),
        row: T.Buffer((1,), "int32"),
        timestep: T.Buffer((1,), "float32"),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        for _block in T.thread_binding(1, thread="blockIdx.x"):
            for _item in T.thread_binding(1, thread="threadIdx.x"):
                row[0] = row[0] + 1
                timestep[0] = table[row[0], 0]
    # fmt: on
    return next_step


def step(elements: tuple[int, int, int, int]) -> tirx.PrimFunc:
    """``step(latents [B, 4, h, w], noise [B, 4, h, w], table, row)``: changes the latents, all float32."""
    batch, channels, height, width = elements

    # fmt: off
    @T.prim_func(s_tir=True, check_well_formed=False)
    def step(
        latents: T.Buffer((batch, channels, height, width), "float32"),
        noise: T.Buffer((batch, channels, height, width), "float32"),
        table: T.Buffer((MOST_STEPS, COLUMNS), "float32"),
        row: T.Buffer((1,), "int32"),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        for block in T.thread_binding(batch * channels * height, thread="blockIdx.x"):
            for x in T.thread_binding(width, thread="threadIdx.x"):
                n: T.let[T.int32] = block // (channels * height)
                c: T.let[T.int32] = block // height % channels
                y: T.let[T.int32] = block % height
                k: T.let[T.int32] = row[0]
                latents[n, c, y, x] = table[k, 6] * T.max(
                    T.min(table[k, 1] * latents[n, c, y, x] + table[k, 2] * noise[n, c, y, x], table[k, 5]),
                    T.float32(0) - table[k, 5],
                ) + table[k, 7] * (table[k, 3] * latents[n, c, y, x] + table[k, 4] * noise[n, c, y, x])
    # fmt: on
    return step


def guide_and_step(elements: tuple[int, int, int, int]) -> tirx.PrimFunc:
    """Like :func:`step`, with ``m = noise_uncond + guidance (noise_cond - noise_uncond)``.

    ``guide_and_step(latents, noise_uncond, noise_cond, table, row)``.
    """
    batch, channels, height, width = elements

    # fmt: off
    @T.prim_func(s_tir=True, check_well_formed=False)
    def guide_and_step(
        latents: T.Buffer((batch, channels, height, width), "float32"),
        noise_uncond: T.Buffer((batch, channels, height, width), "float32"),
        noise_cond: T.Buffer((batch, channels, height, width), "float32"),
        table: T.Buffer((MOST_STEPS, COLUMNS), "float32"),
        row: T.Buffer((1,), "int32"),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        for block in T.thread_binding(batch * channels * height, thread="blockIdx.x"):
            for x in T.thread_binding(width, thread="threadIdx.x"):
                n: T.let[T.int32] = block // (channels * height)
                c: T.let[T.int32] = block // height % channels
                y: T.let[T.int32] = block % height
                k: T.let[T.int32] = row[0]
                m: T.let[T.float32] = noise_uncond[n, c, y, x] + table[k, 8] * (
                    noise_cond[n, c, y, x] - noise_uncond[n, c, y, x]
                )
                latents[n, c, y, x] = table[k, 6] * T.max(
                    T.min(table[k, 1] * latents[n, c, y, x] + table[k, 2] * m, table[k, 5]),
                    T.float32(0) - table[k, 5],
                ) + table[k, 7] * (table[k, 3] * latents[n, c, y, x] + table[k, 4] * m)
    # fmt: on
    return guide_and_step
