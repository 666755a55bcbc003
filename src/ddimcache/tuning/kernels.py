"""The kernel of a workload by itself: what it is given, what is right, and how it is built.

Inputs are made without regard to decisions, once a workload; :func:`arguments` then packs the weights as the
decisions ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tvm
from tvm import te, tirx

from ddimcache.compiler.compress.quantize import dequantize, quantize, scale_of
from ddimcache.compiler.passes.lower_attention import attention_kernel
from ddimcache.compiler.target import DeviceProfile
from ddimcache.kernels.attention.kernel import Place
from ddimcache.kernels.attention.reference import attention as plain_attention
from ddimcache.kernels.conv2d import kernel as conv2d
from ddimcache.kernels.conv2d.reference import conv2d as plain_conv2d
from ddimcache.kernels.geglu import kernel as geglu
from ddimcache.kernels.geglu.reference import geglu as plain_geglu
from ddimcache.kernels.matmul import kernel as matmul
from ddimcache.kernels.matmul.dots import pack_fours
from ddimcache.kernels.matmul.reference import matmul as plain_matmul
from ddimcache.kernels.matmul.reference import rounded_rows
from ddimcache.kernels.tiling import wide
from ddimcache.kernels.workload import Workload, tagged
from ddimcache.schedules.apply import ApplySchedules
from ddimcache.schedules.spaces import sums_of

Arrays = Mapping[str, np.ndarray]


def make_inputs(workload: Workload, seed: int = 0) -> dict[str, np.ndarray]:
    """Random operands: ``x``, ``weight`` (output channels first) with ``scale`` for int8, and ``bias``;
    or ``q``, ``k`` and ``v``.

    The scale of weights is such that sums of any length are about 1.
    """
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, np.float32)

    if workload.family == "attention":
        batch, queries, tokens, heads, width = workload.sizes
        counts = {"q": queries, "k": tokens, "v": tokens}
        return {
            name: normal(batch, count, heads * width).astype(workload.stored)
            for name, count in counts.items()
        }
    if workload.family == "conv2d":
        batch, height, width, depth, channels, high, across, down, right = workload.sizes
        x = normal(batch, (height - 1) * down + high, (width - 1) * right + across, depth)
        weight = normal(channels, high, across, depth) / np.float32((high * across * depth) ** 0.5)
    else:
        rows, depth, channels = workload.sizes
        x = normal(1, rows, depth)
        weight = normal(channels, depth) / np.float32(depth**0.5)
    arrays = {"x": x.astype(workload.stored)}
    if workload.rounded:
        group = workload.group
        arrays |= {"weight": quantize(weight, group), "scale": scale_of(weight, group)}
    else:
        arrays["weight"] = weight.astype(workload.weights)
    if workload.family == "geglu":
        arrays["bias"] = normal(weight.shape[0]).astype(workload.stored)
    return arrays


def expected(workload: Workload, arrays: Arrays) -> np.ndarray:
    """The right answer in float64, by the family's reference."""
    if workload.family == "attention":
        batch, _, _, heads, width = workload.sizes
        q, k, v = (arrays[name].reshape(batch, -1, heads, width) for name in "qkv")
        # Head by head: the reference keeps all scores.
        parts = [
            plain_attention(q[:, :, only], k[:, :, only], v[:, :, only], width**-0.5)
            for only in (slice(head, head + 1) for head in range(heads))
        ]
        return np.concatenate(parts, axis=2)
    x, weight = arrays["x"], arrays["weight"]
    if workload.dtype == "int8":
        x = rounded_rows(x)
    if "scale" in arrays:
        weight = dequantize(weight, arrays["scale"])
    if workload.family == "conv2d":
        return plain_conv2d(x, weight, (workload.sizes[7], workload.sizes[8]))
    if workload.family == "geglu":
        return plain_geglu(x, weight, arrays["bias"])
    return plain_matmul(x, weight)


def panel(workload: Workload, device: DeviceProfile) -> int:
    """The width of the weight's panels on ``device``."""
    tiles = device.tiles_of(workload)
    columns = tiles.columns_of(sums_of(tiles, workload))
    return matmul.panel_width(workload.sizes[4 if workload.family == "conv2d" else 2], columns)


def arguments(workload: Workload, device: DeviceProfile, arrays: Arrays) -> list[np.ndarray]:
    """What :func:`kernel_of` is given, without its output."""
    if workload.family == "attention":
        q, k, v = (arrays[name] for name in "qkv")
        # As models have them: parts of one product's rows, and an array that is given twice is one.
        if workload.sizes[1] == workload.sizes[2]:
            q = k = v = np.concatenate([q, k, v], axis=2)
        else:
            k = v = np.concatenate([k, v], axis=2)
        return [q, k, v, np.zeros((1, 1), np.float32)]
    width, weight = panel(workload, device), arrays["weight"]
    others = [arrays[name] for name in ("scale", "bias") if name in arrays]
    if workload.family == "geglu":
        weight, *others = (geglu.interleave(array, width // 2) for array in (weight, *others))
    pack = conv2d.pack if workload.family == "conv2d" else matmul.pack
    if workload.group:
        # Scales of groups are packed as the weights are.
        others[0] = pack(others[0], width)
    if workload.dtype == "int8":
        pack = pack_fours
    return [arrays["x"], pack(weight, width), *others]


def blank_arguments(workload: Workload, device: DeviceProfile) -> list[np.ndarray]:
    """Arguments of the right shapes for what does not look at numbers."""
    arrays = {name: np.zeros_like(array) for name, array in make_inputs(workload).items()}
    return arguments(workload, device, arrays)


def unscheduled(workload: Workload, device: DeviceProfile, inputs: list[np.ndarray]) -> tirx.PrimFunc:
    """The kernel of ``workload`` over arrays like ``inputs``, before its schedule where it gets one.

    Its result is the last parameter.
    """
    if workload.family == "attention":
        _, queries, tokens, heads, width = workload.sizes
        size = heads * width
        places = (Place(size, 0), Place(2 * size, 0), Place(2 * size, size))
        if queries == tokens:
            places = (Place(3 * size, 0), Place(3 * size, size), Place(3 * size, 2 * size))
        function = attention_kernel(device, workload, width**-0.5, {"has_bias": False, "places": places})
        return tagged(function, workload, device.tuned.get(workload))
    placeholders = [
        te.placeholder(wide(array.shape), str(array.dtype), f"p{number}")
        for number, array in enumerate(inputs)
    ]
    return te.create_prim_func([*placeholders, _computation(workload, device, placeholders)])


def kernel_of(workload: Workload, device: DeviceProfile, inputs: list[np.ndarray]) -> tirx.PrimFunc:
    """The scheduled kernel of ``workload`` over arrays like ``inputs``."""
    function = unscheduled(workload, device, inputs)
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    with device.tvm_target():
        return ApplySchedules(device)(module)["main"]  # type: ignore[operator]


def _computation(workload: Workload, device: DeviceProfile, given: list[te.Tensor]) -> te.Tensor:
    x, weight, *others = given
    dtype, sums = workload.stored, sums_of(device.tiles, workload)
    scale = others[0] if workload.rounded else None
    if workload.family == "geglu":
        return geglu.geglu(x, weight, scale, others[-1], dtype, sums)
    if workload.family == "conv2d":
        strides = (workload.sizes[7], workload.sizes[8])
        return conv2d.conv2d(x, weight, scale, workload.sizes[4], strides, dtype, sums)
    return matmul.matmul(x, weight, scale, workload.sizes[2], dtype, sums)


def build(function: tirx.PrimFunc, device: DeviceProfile, host: str = "x86_64-linux-gnu") -> Any:
    """``function`` compiled for ``host``, to be called there as ``["main"]``."""
    return tvm.compile(tvm.IRModule({"main": function}), target=device.tvm_target(host))


def result_shape(function: tirx.PrimFunc) -> tuple[int, ...]:
    """The shape of the last parameter."""
    return tuple(int(extent) for extent in function.params[-1].ty.shape)
