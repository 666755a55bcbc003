"""Norms become kernels over channels that lie last; those that are fused later wait."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.passes.fuse_group_norm import FuseGroupNorm
from ddimcache.compiler.passes.lower_norms import LowerNorms
from ddimcache.compiler.target import DeviceProfile, profile
from ddimcache.errors import FrontendError
from ddimcache.kernels.layer_norm.kernel import layer_norm
from tests.kit.kernel_run import small_tiles
from tests.kit.relax_run import run_relax

PROFILE = profile("llvm")
ALONE = small_tiles(PROFILE, norms=None)


def layer_normed(shape: list[int], lowered: bool = False) -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    weight, bias = (relax.Var(name, relax.TensorType(shape[-1:], "float32")) for name in ("w", "b"))
    rows, channels, tiles = int(np.prod(shape[:-1])), shape[-1], PROFILE.tiles
    builder = relax.BlockBuilder()
    with builder.function("main", [x, weight, bias]):
        with builder.dataflow():
            if lowered:
                kernel = layer_norm(
                    rows,
                    channels,
                    "float32",
                    1e-5,
                    vector=tiles.vector,
                    work_group=tiles.injective_work_group,
                )
                variable = builder.add_func(kernel, "layer_norm")
                flat = builder.emit(relax.op.reshape(x, [rows, channels]))
                out = relax.TensorType([rows, channels], "float32")
                normed = builder.emit(relax.call_tir(variable, [flat, weight, bias], out))
                output = builder.emit_output(relax.op.reshape(normed, shape))
            else:
                output = builder.emit_output(relax.op.nn.layer_norm(x, weight, bias, [-1], epsilon=1e-5))
        builder.emit_func_output(output)
    return builder.get()


def group_normed(shape: list[int], groups: int, axis: int) -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    weight, bias = (relax.Var(name, relax.TensorType([shape[axis]], "float32")) for name in ("w", "b"))
    axes = [index for index in range(1, len(shape)) if index != axis]
    builder = relax.BlockBuilder()
    with builder.function("main", [x, weight, bias]):
        with builder.dataflow():
            value = relax.op.nn.group_norm(x, weight, bias, groups, axis, axes, epsilon=1e-5)
            output = builder.emit_output(value)
        builder.emit_func_output(output)
    return builder.get()


def test_layer_norm_is_one_kernel() -> None:
    before, expected = layer_normed([2, 3, 8]), layer_normed([2, 3, 8], lowered=True)
    tvm.ir.assert_structural_equal(LowerNorms(PROFILE)(before), expected, map_free_vars=True)


def test_a_norm_that_is_fused_later_is_left_alone() -> None:
    module = group_normed([1, 4, 4, 8], 2, 3)
    tvm.ir.assert_structural_equal(LowerNorms(PROFILE)(module), module)


def test_what_is_no_norm_is_left_alone() -> None:
    x = relax.Var("x", relax.TensorType([2, 8], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            centred = builder.emit(relax.op.subtract(x, builder.emit(relax.op.mean(x, [1], keepdims=True))))
            output = builder.emit_output(relax.op.divide(centred, relax.op.std(x, [1], keepdims=True)))
        builder.emit_func_output(output)
    module = builder.get()
    tvm.ir.assert_structural_equal(LowerNorms(PROFILE)(module), module)


@pytest.mark.parametrize("axis", [2, 3])
def test_other_axes_are_refused(axis: int) -> None:
    with pytest.raises(FrontendError, match=f"GroupNorm along axis {axis} of 5"):
        LowerNorms(PROFILE)(group_normed([1, 4, 4, 4, 2], 2, axis))


def numbers(shape: list[int], channels: int) -> list[np.ndarray]:
    random = np.random.default_rng(sum(shape))
    x = random.standard_normal(shape) * 3 + random.standard_normal()
    return [array.astype("float32") for array in (x, *random.standard_normal((2, channels)))]


@given(
    rows=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    channels=st.sampled_from([1, 3, 8, 20, 48]),
)
@settings(max_examples=5, deadline=None)
def test_a_lowered_layer_norm_computes_the_same(rows: list[int], channels: int) -> None:
    arrays = numbers([*rows, channels], channels)
    [found] = run_relax(LowerNorms(PROFILE)(layer_normed([*rows, channels])), arrays, WeightStore())
    x, weight, bias = (array.astype("float64") for array in arrays)
    spread = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    expected = (x - x.mean(-1, keepdims=True)) / spread * weight + bias
    assert np.abs(found - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


@given(
    sides=st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9)),
    groups=st.integers(1, 4),
    each=st.sampled_from([1, 3, 4, 8]),
    first=st.booleans(),
    device=st.sampled_from([PROFILE, ALONE]),
)
@settings(max_examples=6, deadline=None)
def test_a_lowered_group_norm_computes_the_same(
    sides: tuple[int, int, int], groups: int, each: int, first: bool, device: DeviceProfile
) -> None:
    """Channels last, and the decoder's [B, C, T] with channels first; fused, and with statistics apart."""
    batch, height, width = sides
    channels = groups * each
    shape = [batch, channels, height * width] if first else [batch, height, width, channels]
    axis = 1 if first else 3
    arrays = numbers(shape, channels)
    lowered = FuseGroupNorm(device)(LowerNorms(device)(group_normed(shape, groups, axis)))
    [found] = run_relax(lowered, arrays, WeightStore())
    x, weight, bias = (array.astype("float64") for array in arrays)
    last = np.moveaxis(x, axis, -1).reshape(batch, -1, groups, each)
    spread = np.sqrt(last.var((1, 3), keepdims=True) + 1e-5)
    normed = ((last - last.mean((1, 3), keepdims=True)) / spread).reshape(batch, -1, channels) * weight + bias
    expected = normed.transpose(0, 2, 1).reshape(shape) if first else normed.reshape(shape)
    assert np.abs(found - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())
