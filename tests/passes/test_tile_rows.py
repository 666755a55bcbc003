"""Bands of rows: what is cut and what stays whole, and that the numbers are those of one piece."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler.passes.lower_norms import LowerNorms
from ddimcache.compiler.passes.tile_rows import TileRows, Tiling
from ddimcache.compiler.target import profile
from ddimcache.schedules.apply import ApplySchedules

PROFILE = profile("llvm")


def tile(module: tvm.IRModule, bands: int, limit: int = 0) -> tvm.IRModule:
    return TileRows(Tiling(bands, limit, "a test"), PROFILE)(module)


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((1, 5, 4, 2), "float32"),
        weight: R.Tensor((3, 3, 3, 2), "float32"),
        bias: R.Tensor((1, 1, 1, 3), "float32"),
    ) -> R.Tensor((1, 5, 4, 3), "float32"):
        with R.dataflow():
            a = R.nn.conv2d(x, weight, padding=[1, 1, 1, 1], data_layout="NHWC", kernel_layout="OHWI")
            b = R.add(a, bias)
            c = R.nn.silu(b)
            R.output(c)
        return c


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor((1, 5, 4, 2), "float32"),
        weight: R.Tensor((3, 3, 3, 2), "float32"),
        bias: R.Tensor((1, 1, 1, 3), "float32"),
    ) -> R.Tensor((1, 5, 4, 3), "float32"):
        with R.dataflow():
            # The first band has two rows, and reads the first one of the second band's.
            x0 = R.strided_slice(x, [1], [0], [3])
            a0 = R.nn.conv2d(x0, weight, padding=[1, 1, 0, 1], data_layout="NHWC", kernel_layout="OHWI")
            b0 = R.add(a0, bias)
            c0 = R.nn.silu(b0)
            x1 = R.strided_slice(x, [1], [1], [5])
            a1 = R.nn.conv2d(x1, weight, padding=[0, 1, 1, 1], data_layout="NHWC", kernel_layout="OHWI")
            b1 = R.add(a1, bias)
            c1 = R.nn.silu(b1)
            c = R.concat((c0, c1), axis=1)
            R.output(c)
        return c


def test_a_convolution_runs_band_after_band() -> None:
    tvm.ir.assert_structural_equal(tile(Before, 2), Expected)


def test_small_tensors_stay_whole() -> None:
    # Bytes of the largest tensor: 5 x 4 x 3 of four.
    tvm.ir.assert_structural_equal(tile(Before, 2, limit=240), Before)
    assert not tvm_ffi.structural_equal(tile(Before, 2, limit=239), Before)


def test_without_a_tiling_nothing_changes() -> None:
    tvm.ir.assert_structural_equal(TileRows(None, PROFILE)(Before), Before)


@I.ir_module
class NeedsAllRows:
    @R.function
    def main(x: R.Tensor((1, 2, 6, 6), "float32"), weight: R.Tensor((2, 2, 3, 3), "float32")) -> R.Tensor(
        (1, 72), "float32"
    ):
        with R.dataflow():
            a = R.nn.conv2d(x, weight, padding=[1, 1, 1, 1])
            b = R.nn.softmax(a, axis=2)
            c = R.image.resize2d(b, R.shape([6, 6]), layout="NCHW", method="linear")
            d = R.reshape(c, R.shape([1, 72]))
            R.output(d)
        return d


def test_other_layouts_and_operators_over_all_rows_are_left_alone() -> None:
    tvm.ir.assert_structural_equal(tile(NeedsAllRows, 3), NeedsAllRows)


def test_what_needs_all_rows_gets_the_bands_put_together() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([1, 6, 4, 2], "float32"))
    weight = relax.Var("weight", relax.TensorType([2, 3, 3, 2], "float32"))
    with builder.function("main", [x, weight]):
        with builder.dataflow():
            convolved = convolution(builder, x, weight, 1, 1)
            output = builder.emit_output(relax.op.nn.softmax(convolved, axis=1))
        builder.emit_func_output(output)
    names = [binding.value.op.name for binding in tile(builder.get(), 3)["main"].body.blocks[0].bindings]
    assert names[-2:] == ["relax.concat", "relax.nn.softmax"]
    assert names.count("relax.nn.conv2d") == 3


def convolution(
    builder: relax.BlockBuilder, x: relax.Expr, weight: relax.Expr, stride: int, padding: int
) -> relax.Var:
    return builder.emit(
        relax.op.nn.conv2d(
            x,
            weight,
            strides=[stride, stride],
            padding=[padding] * 4,
            data_layout="NHWC",
            kernel_layout="OHWI",
            out_layout="NHWC",
        )
    )


def network(
    batch: int, height: int, width: int, kernel: int, stride: int, factor: int, skips: bool
) -> tvm.IRModule:
    """Every operator that can be cut, over x [B, H, W, 4], with two outputs."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([batch, height, width, 4], "float32"))
    first = relax.Var("first", relax.TensorType([4, kernel, kernel, 4], "float32"))
    second = relax.Var("second", relax.TensorType([6, 3, 3, 8 if skips else 4], "float32"))
    scale = relax.Var("scale", relax.TensorType([4], "float32"))
    shift = relax.Var("shift", relax.TensorType([1, 1, 1, 4], "float32"))

    def norm(value: relax.Expr) -> relax.Var:
        flat = builder.emit(relax.op.reshape(shift, [4]))
        call = relax.op.nn.group_norm(value, scale, flat, num_groups=2, channel_axis=3, axes=[1, 2])
        return builder.emit(relax.op.nn.silu(builder.emit(call)))

    with builder.function("main", [x, first, second, scale, shift]):
        with builder.dataflow():
            start = builder.emit(relax.op.add(convolution(builder, x, first, 1, kernel // 2), shift))
            inner = convolution(builder, norm(start), first, 1, kernel // 2)
            inner = builder.emit(relax.op.add(builder.emit(relax.op.add(inner, shift)), start))
            size = relax.ShapeExpr([int(extent) * factor for extent in inner.ty.shape.values[1:3]])
            large = builder.emit(
                relax.op.image.resize2d(
                    inner,
                    size,
                    layout="NHWC",
                    method="nearest_neighbor",
                    coordinate_transformation_mode="half_pixel",
                    rounding_method="round",
                )
            )
            if skips:
                large = builder.emit(relax.op.concat([large, norm(large)], axis=3))
            last = convolution(builder, large, second, stride, 1)
            output = builder.emit_output(relax.Tuple([last, builder.emit(relax.op.tanh(inner))]))
        builder.emit_func_output(output)
    return builder.get()


def results(module: tvm.IRModule, target: str) -> list[np.ndarray]:
    """What ``main`` gives over inputs that are the same for the same shapes."""
    device_profile = profile(target)
    device = tvm.device("opencl" if device_profile.kind == "opencl" else "cpu", 0)
    random = np.random.default_rng(11)
    shapes = [[int(extent) for extent in variable.ty.shape.values] for variable in module["main"].params]
    arguments = [
        tvm.runtime.tensor(random.standard_normal(shape).astype("float32"), device) for shape in shapes
    ]
    with device_profile.tvm_target():
        for phase in (
            LowerNorms(device_profile),
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            ApplySchedules(device_profile),
        ):
            module = phase(module)
    library = tvm.compile(module, target=device_profile.tvm_target())
    outputs = relax.VirtualMachine(library, device)["main"](*arguments)
    return [output.numpy() for output in outputs]


def assert_same(module: tvm.IRModule, bands: int, target: str) -> None:
    tiled = tile(module, bands)
    assert not tvm_ffi.structural_equal(tiled, module)
    for whole, banded in zip(results(module, target), results(tiled, target), strict=True):
        assert np.abs(whole - banded).max() <= 1e-5 * np.abs(whole).max()


@settings(max_examples=3, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(3, 13),
    st.integers(3, 6),
    st.sampled_from([1, 3, 5]),
    st.integers(1, 2),
    st.integers(1, 3),
    st.booleans(),
    st.integers(2, 9),
)
def test_any_bands_give_the_numbers_of_one_piece(
    batch: int, height: int, width: int, kernel: int, stride: int, factor: int, skips: bool, bands: int
) -> None:
    assert_same(network(batch, height, width, kernel, stride, factor, skips), bands, "llvm")


@pytest.mark.opencl
def test_bands_of_odd_heights_on_a_device() -> None:
    assert_same(network(2, 7, 5, 3, 2, 2, True), 3, "opencl")
