"""The arithmetic of one step of any sampler, on the device.

With ``m`` the model's output and ``x`` the latents: ``x0 = p x + q m`` clamped to ``clip``, ``e = r x + s
m``, ``x' = a x0 + b e + c h + d z``, with ``h`` the ``x0`` of the step before and ``z`` new noise. What a
sampler does not use has a factor of 0: DDIM has ``c = d = 0``. The numbers of every step lie in a table on
the device, one row a step, and the device counts the rows itself: ``row`` holds the present one and the next.
So no launch has an argument that the host must know, and one recording of a step serves for all of its kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder.tirx import prim_func

from ddimcache.kernels.tiling import largest_divisor, vector_lanes
from ddimcache.manifest import TIMES_AT_ONCE

MOST_STEPS = 1000
COLUMNS = 12
"""p, q, r, s, clip, a, b, guidance, c, d, and for :func:`keep_picture` the shares of picture and noise."""

_WORK_GROUP = 64
_LANES = 16


def next_step(shape: tuple[int, ...], dtype: str) -> tirx.PrimFunc:
    """``next_step(times [64, T], row [2] int32, time [1, T])``: moves on, and copies what the new step takes.

    ``shape`` is that of ``time``. ``times`` has a row in ``dtype`` for each of the 64 steps around the new
    one; where ``time`` is [1], the bare timestep, they are [64]. Before the first step ``row[1]`` is 0.
    """
    is_row, width = len(shape) == 2, shape[-1]
    times_shape = (TIMES_AT_ONCE, *shape[1:])
    lanes = vector_lanes(width, _LANES)
    vectors = width // lanes
    group = largest_divisor(vectors, _WORK_GROUP)

    # fmt: off
    @T.prim_func(s_tir=True, check_well_formed=False)
    def next_step(
        times: T.Buffer(times_shape, dtype),
        row: T.Buffer((2,), "int32"),
        time: T.Buffer(shape, dtype),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        for block in T.thread_binding(vectors // group, thread="blockIdx.x"):
            for item in T.thread_binding(group, thread="threadIdx.x"):
                first: T.let[T.int32] = (block * group + item) * lanes
                k: T.let[T.int32] = row[1] % TIMES_AT_ONCE
                if is_row:
                    for lane in T.vectorized(lanes):
                        time[0, first + lane] = times[k, first + lane]
                else:
                    time[0] = times[k]
                # Nobody reads it here: ``step`` reads it, and writes the other one.
                if first == 0:
                    row[0] = row[1]
    # fmt: on
    return next_step


def step(elements: tuple[int, int, int, int]) -> tirx.PrimFunc:
    """``step(latents, prediction, history, noise, table, row)``: changes latents and history.

    All but ``row`` are float32; the first four are ``elements``, [B, 4, h, w].
    """
    return _step(elements, {"prediction": elements}, lambda index, guidance, prediction: prediction[index])


def guide_and_step(elements: tuple[int, int, int, int]) -> tirx.PrimFunc:
    """Like :func:`step`, with ``m = uncond + guidance (cond - uncond)``.

    ``guide_and_step(latents, uncond, cond, history, noise, table, row)``.
    """

    def guided(index: _Index, guidance: Any, uncond: Any, cond: Any) -> Any:
        return uncond[index] + guidance * (cond[index] - uncond[index])

    return _step(elements, {"uncond": elements, "cond": elements}, guided)


def guide_both_and_step(elements: tuple[int, int, int, int]) -> tirx.PrimFunc:
    """Like :func:`guide_and_step`, with both predictions in one tensor [2B, 4, h, w], uncond first.

    ``guide_both_and_step(latents, predictions, history, noise, table, row)``.
    """
    batch = elements[0]

    def guided(index: _Index, guidance: Any, predictions: Any) -> Any:
        n, *place = index
        uncond, cond = predictions[(n, *place)], predictions[(n + batch, *place)]
        return uncond + guidance * (cond - uncond)

    return _step(elements, {"predictions": (2 * batch, *elements[1:])}, guided)


_Index = tuple[Any, Any, Any, Any]


def _step(
    elements: tuple[int, int, int, int],
    given: dict[str, tuple[int, ...]],
    prediction: Callable[..., Any],
) -> tirx.PrimFunc:
    """A kernel that changes latents by ``prediction`` of an index, the guidance and buffers of ``given``."""
    batch, channels, height, width = elements

    def tensor(name: str, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        return T.arg(name, T.buffer(shape, dtype, layout=None))

    with IRBuilder() as builder, prim_func(is_private=True, s_tir=True):
        T.func_name("step")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        latents = tensor("latents", elements)
        predictions = [tensor(name, shape) for name, shape in given.items()]
        history, noise = tensor("history", elements), tensor("noise", elements)
        table, row = tensor("table", (MOST_STEPS, COLUMNS)), tensor("row", (2,), "int32")
        with T.sblock("root"):
            T.reads()
            T.writes()
            with (
                T.thread_binding(0, batch * channels * height, thread="blockIdx.x") as block,
                T.thread_binding(0, width, thread="threadIdx.x") as item,
            ):
                n = T.bind(block // (channels * height))
                c = T.bind(block // height % channels)
                y = T.bind(block % height)
                k = T.bind(row[0])
                with T.If(tirx.all(block == 0, item == 0)), T.Then():
                    T.buffer_store(row, k + 1, [1])
                index = (n, c, y, item)
                x = T.bind(latents[index])
                m = T.bind(prediction(index, table[k, 7], *predictions))
                x0 = T.bind(_picture(table, k, x, m))
                ahead = _next(table, k, x, m, x0, history[index], noise[index])
                T.buffer_store(latents, ahead, list(index))
                T.buffer_store(history, x0, list(index))
    return builder.get()


def keep_picture(elements: tuple[int, int, int, int]) -> tirx.PrimFunc:
    """``keep_picture(latents, picture, noise, mask, table, row)``: changes latents where the mask is 0.

    They become those of a picture with as much noise as the next step expects; where ``mask`` [h, w] is 1
    they stay as ``step`` has left them. ``noise`` is what the loop began with, and all are float32 but
    ``row``.
    """
    batch, channels, height, width = elements

    # fmt: off
    @T.prim_func(s_tir=True, check_well_formed=False)
    def keep_picture(
        latents: T.Buffer((batch, channels, height, width), "float32"),
        picture: T.Buffer((batch, channels, height, width), "float32"),
        noise: T.Buffer((batch, channels, height, width), "float32"),
        mask: T.Buffer((height, width), "float32"),
        table: T.Buffer((MOST_STEPS, COLUMNS), "float32"),
        row: T.Buffer((2,), "int32"),
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        for block in T.thread_binding(batch * channels * height, thread="blockIdx.x"):
            for item in T.thread_binding(width, thread="threadIdx.x"):
                n: T.let[T.int32] = block // (channels * height)
                c: T.let[T.int32] = block // height % channels
                y: T.let[T.int32] = block % height
                k: T.let[T.int32] = row[0]
                if mask[y, item] == T.float32(0):
                    latents[n, c, y, item] = (
                        table[k, 10] * picture[n, c, y, item] + table[k, 11] * noise[n, c, y, item]
                    )
    # fmt: on
    return keep_picture


def _picture(table: Any, k: Any, x: Any, m: Any) -> Any:
    """The picture that the model predicts, clamped."""
    clip = table[k, 4]
    return T.max(T.min(table[k, 0] * x + table[k, 1] * m, clip), T.float32(0) - clip)


def _next(table: Any, k: Any, x: Any, m: Any, x0: Any, history: Any, noise: Any) -> Any:
    """The latents of the next step."""
    ahead = table[k, 5] * x0 + table[k, 6] * (table[k, 2] * x + table[k, 3] * m)
    return ahead + table[k, 8] * history + table[k, 9] * noise
