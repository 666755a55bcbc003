"""Builds one kernel, as the compiler would, and runs it on a device of this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import te, tirx

from ddimcache.compiler.compress.quantize import dequantize, group_of, quantize, scale_of
from ddimcache.compiler.target import DeviceProfile, profile
from ddimcache.kernels.tiling import wide
from ddimcache.schedules.apply import ApplySchedules


def small_tiles(base: DeviceProfile, **tiles: object) -> DeviceProfile:
    """``base`` with other numbers in its tile table."""
    return dataclasses.replace(base, tiles=dataclasses.replace(base.tiles, **tiles))  # type: ignore[arg-type]


def rounded_weights(
    weight: np.ndarray, group: int | None, pack: Callable[[np.ndarray, int], np.ndarray], width: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """What a kernel reads of ``weight`` [O, ..., C], and the values that it stands for.

    Float32 as it is where ``group`` is None; else int8 with scales of groups of at most so many input
    channels, or of output channels.
    """
    if group is None:
        return [pack(weight, width)], weight
    group = group_of(weight.shape, group)
    scale, quantized = scale_of(weight, group), quantize(weight, group)
    kept = pack(scale, width) if group else scale
    return [pack(quantized, width), kept], dequantize(quantized, scale)


def te_function(compute: Callable[..., te.Tensor], inputs: Sequence[np.ndarray]) -> tirx.PrimFunc:
    """The unscheduled kernel that ``compute`` describes over arrays like ``inputs``."""
    placeholders = [
        te.placeholder(wide(array.shape), array.dtype.name, f"p{index}") for index, array in enumerate(inputs)
    ]
    return te.create_prim_func([*placeholders, compute(*placeholders)])


def run_kernel(
    function: tirx.PrimFunc,
    inputs: Sequence[np.ndarray],
    shape: Sequence[int],
    dtype: str = "float32",
    target: str | DeviceProfile = "llvm",
) -> np.ndarray:
    """Schedules ``function`` for ``target``, runs it over ``inputs`` and returns its output of ``shape``."""
    device_profile = profile(target) if isinstance(target, str) else target
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    with device_profile.tvm_target():
        module = ApplySchedules(device_profile)(module)
    library = tvm.compile(module, target=device_profile.tvm_target())
    device = tvm.device("opencl" if device_profile.kind == "opencl" else "cpu", 0)
    arguments = [tvm.runtime.tensor(array, device) for array in inputs]
    # Anything that is not written shows as NaN, or as a number that no test expects.
    untouched = np.full(tuple(shape), np.nan if dtype.startswith("float") else 77, dtype)
    out = tvm.runtime.tensor(untouched, device)
    library["main"](*arguments, out)
    return out.numpy()
