"""The arithmetic of one DDIM step, on the device.

With ``m`` the model's output and ``x`` the latents: ``x0 = p x + q m`` clamped to ``clip``,
``e = r x + s m``, ``x' = a x0 + b e`` (Song et al., arXiv 2010.02502, eta 0). The host computes the seven
numbers for the scheduler's prediction type; the tensors stay where they are.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T


def set_timestep() -> tirx.PrimFunc:
    """``set_timestep(out [1] float32, value float32)`` writes ``value`` to ``out``."""

    # fmt: off
    @T.prim_func(s_tir=True, check_well_formed=False)
    def set_timestep(out: T.Buffer((1,), "float32"), value: T.float32):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        for _block in T.thread_binding(1, thread="blockIdx.x"):
            for _item in T.thread_binding(1, thread="threadIdx.x"):
                out[0] = value
    # fmt: on
    return set_timestep


def step(elements: tuple[int, int, int, int]) -> tirx.PrimFunc:
    """``step(latents, noise, latents_out, p, q, r, s, clip, a, b)`` over float32 [B, 4, h, w] tensors."""
    batch, channels, height, width = elements

    # fmt: off
    @T.prim_func(s_tir=True, check_well_formed=False)
    def step(
        latents: T.Buffer((batch, channels, height, width), "float32"),
        noise: T.Buffer((batch, channels, height, width), "float32"),
        out: T.Buffer((batch, channels, height, width), "float32"),
        p: T.float32, q: T.float32, r: T.float32, s: T.float32,
        clip: T.float32, a: T.float32, b: T.float32,
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        for block in T.thread_binding(batch * channels * height, thread="blockIdx.x"):
            for x in T.thread_binding(width, thread="threadIdx.x"):
                n: T.let[T.int32] = block // (channels * height)
                c: T.let[T.int32] = block // height % channels
                y: T.let[T.int32] = block % height
                out[n, c, y, x] = a * T.max(
                    T.min(p * latents[n, c, y, x] + q * noise[n, c, y, x], clip), T.float32(0) - clip
                ) + b * (r * latents[n, c, y, x] + s * noise[n, c, y, x])
    # fmt: on
    return step


def guide_and_step(elements: tuple[int, int, int, int]) -> tirx.PrimFunc:
    """Like :func:`step`, with ``m = noise_uncond + guidance (noise_cond - noise_uncond)``.

    ``guide_and_step(latents, noise_uncond, noise_cond, latents_out, guidance, p, q, r, s, clip, a, b)``.
    """
    batch, channels, height, width = elements

    # fmt: off
    @T.prim_func(s_tir=True, check_well_formed=False)
    def guide_and_step(
        latents: T.Buffer((batch, channels, height, width), "float32"),
        noise_uncond: T.Buffer((batch, channels, height, width), "float32"),
        noise_cond: T.Buffer((batch, channels, height, width), "float32"),
        out: T.Buffer((batch, channels, height, width), "float32"),
        guidance: T.float32, p: T.float32, q: T.float32, r: T.float32, s: T.float32,
        clip: T.float32, a: T.float32, b: T.float32,
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        for block in T.thread_binding(batch * channels * height, thread="blockIdx.x"):
            for x in T.thread_binding(width, thread="threadIdx.x"):
                n: T.let[T.int32] = block // (channels * height)
                c: T.let[T.int32] = block // height % channels
                y: T.let[T.int32] = block % height
                m: T.let[T.float32] = noise_uncond[n, c, y, x] + guidance * (
                    noise_cond[n, c, y, x] - noise_uncond[n, c, y, x]
                )
                out[n, c, y, x] = a * T.max(
                    T.min(p * latents[n, c, y, x] + q * m, clip), T.float32(0) - clip
                ) + b * (r * latents[n, c, y, x] + s * m)
    # fmt: on
    return guide_and_step
