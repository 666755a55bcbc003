"""Kernels over a limit of the device are refused, by kernel, layer, limit and figure; others stay."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax, s_tir, te

from ddimcache.compiler import pipeline
from ddimcache.compiler.options import TARGETS, CompileOptions
from ddimcache.compiler.passes.limit_kernels import LimitKernels, local_bytes
from ddimcache.compiler.target import DeviceProfile, profile, with_limits
from ddimcache.errors import CompileError
from tests.passes.test_pipeline import request

PROFILE = profile("opencl")


def limited(**limits: Any) -> DeviceProfile:
    return dataclasses.replace(PROFILE, **limits)


def scaled_sum(threads: tuple[int, int, int], shared: int = 0) -> tvm.tirx.PrimFunc:
    """A kernel with ``threads`` work-items a work-group, which share ``shared`` rows of 64 numbers."""
    x, y, z = threads
    source = te.placeholder((4 * z, y, x, 64), name="source")
    doubled = te.compute(source.shape, lambda *index: source[index] * 2.0, name="doubled")
    out = te.compute(source.shape, lambda *index: doubled[index] + 1.0, name="out")
    schedule = s_tir.Schedule(te.create_prim_func([source, out]))
    deep, row, column, _ = schedule.get_loops(schedule.get_sblock("out"))
    group, item = schedule.split(deep, [None, z])
    for loop, tag in (
        (group, "blockIdx.x"),
        (item, "threadIdx.z"),
        (row, "threadIdx.y"),
        (column, "threadIdx.x"),
    ):
        schedule.bind(loop, tag)
    if shared:
        schedule.set_scope(schedule.get_sblock("doubled"), 0, "shared")
        schedule.compute_at(schedule.get_sblock("doubled"), group)
    else:
        schedule.compute_inline(schedule.get_sblock("doubled"))
    return schedule.mod["main"].without_attr("global_symbol")


def module_of(kernel: tvm.tirx.PrimFunc, weights: int = 8, dtype: str = "float32") -> tvm.IRModule:
    """A function that launches ``kernel`` upon a float32 weight of the right shape, behind one of so many
    numbers of ``dtype``."""
    shape = [int(side) for side in kernel.params[0].ty.shape]
    fields = relax.TupleType([relax.TensorType([weights], dtype), relax.TensorType(shape, "float32")])
    params = relax.Var("params", fields)
    builder = relax.BlockBuilder()
    variable = builder.add_func(kernel, "scaled")
    with builder.function("main", [params], {"relax.force_pure": True}):
        source = builder.emit(relax.TupleGetItem(params, 1))
        out = builder.emit(relax.op.builtin.alloc_tensor(relax.ShapeExpr(shape), "float32", 0))
        builder.emit(relax.Call(variable, [source, out]))
        builder.emit_func_output(out)
    return builder.get()


PATHS = ("table.weight", "blocks.0.conv.weight")


def refusal(
    kernel: tvm.tirx.PrimFunc, device: DeviceProfile, weights: int = 8, dtype: str = "float32"
) -> str:
    with pytest.raises(CompileError) as caught:
        LimitKernels(device, "unet", PATHS)(module_of(kernel, weights, dtype))
    return str(caught.value)


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"max_kernel_arguments": 1}, "2 arguments, opencl takes 1"),
        ({"max_argument_bytes": 12}, "16 bytes of arguments, opencl takes 12"),
        ({"max_threads": 47}, "work-groups of 48 work-items, opencl takes 47"),
        ({"max_work_items": (64, 64, 1)}, "work-groups of 2 work-items along z, opencl takes 1"),
        ({"max_local_memory": 12287}, "12288 bytes of local memory, opencl takes 12287"),
    ],
)
def test_a_kernel_over_a_limit_is_refused(limits: dict[str, Any], text: str) -> None:
    message = refusal(scaled_sum((8, 3, 2), 48), limited(**limits))
    assert f"kernel scaled of layer blocks.0.conv has {text}" in message
    assert message.startswith("unet")


@pytest.mark.parametrize(
    ("dtype", "numbers", "remedy"), [("float32", 262145, "--weights"), ("int8", 1048580, "--target")]
)
def test_a_weight_over_the_allocation_is_refused(dtype: str, numbers: int, remedy: str) -> None:
    message = refusal(scaled_sum((8, 1, 1)), limited(max_allocation=1 << 20), numbers, dtype)
    assert f"weight `table.weight` of {numbers} in {dtype} has 1048580 bytes" in message
    assert remedy in message


def test_leaves_alone_what_is_within_the_limits() -> None:
    exact = limited(
        max_kernel_arguments=2,
        max_argument_bytes=16,
        max_threads=48,
        max_work_items=(8, 3, 2),
        max_local_memory=12288,
    )
    module = module_of(scaled_sum((8, 3, 2), 48))
    limit = LimitKernels(exact, "unet", PATHS)
    tvm.ir.assert_structural_equal(limit(module), module)
    assert limit.note == (
        "1 kernels within the limits: 2 of 2 arguments, 48 of 48 work-items, "
        "12288 of 12288 bytes of local memory"
    )


@settings(max_examples=10, deadline=None)
@given(
    threads=st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3)),
    most=st.integers(1, 64),
    shared=st.booleans(),
)
def test_the_figure_is_that_of_the_kernel(threads: tuple[int, int, int], most: int, shared: bool) -> None:
    kernel, items = scaled_sum(threads, int(shared)), int(np.prod(threads))
    assert local_bytes(kernel) == (items * 64 * 4 if shared else 0)
    device = limited(max_threads=most, max_local_memory=1 << 30)
    if items > most:
        assert f"{items} work-items, opencl takes {most}" in refusal(kernel, device)
    else:
        LimitKernels(device, "unet", PATHS)(module_of(kernel))


def test_arguments_limit_images_too() -> None:
    """A kernel reads an argument as one image at most, and OpenCL guarantees 128 of them."""
    for target in TARGETS:
        device = profile(target)
        assert device.tiles.pixels is None or device.most_arguments <= 128


def test_no_tensor_has_more_numbers_than_indices_of_32_bits_count() -> None:
    for target in TARGETS:
        assert profile(target).max_allocation // 4 < 2**31


def test_limits_are_only_ever_lowered() -> None:
    options = CompileOptions(limits=("max_threads=64", "max_threads=32", "max_allocation=99999999999"))
    device = with_limits(PROFILE, options.lower_limits)
    assert (device.max_threads, device.max_allocation) == (32, PROFILE.max_allocation)


def test_a_component_whose_tiles_are_too_large_is_refused_by_layer() -> None:
    """As a tuning record of another device might have them."""
    asked = request("text_encoder")
    tiles = dataclasses.replace(PROFILE.tiles, injective_work_group=512)
    device = limited(tiles=tiles, max_threads=64)
    with pytest.raises(CompileError, match=r"kernel \w+ of layer [\w.]+ has work-groups of \d+ work-items"):
        pipeline.run(dataclasses.replace(asked, profile=device))
