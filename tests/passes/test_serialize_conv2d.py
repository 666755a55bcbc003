"""Convolutions whose operands are too large for a device are computed in parts, with the same numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler import pipeline
from ddimcache.compiler.compress.weights import Weight, WeightStore
from ddimcache.compiler.passes.lower_products import LowerProducts
from ddimcache.compiler.passes.pack_weights import Packing
from ddimcache.compiler.passes.serialize_conv2d import (
    MOST_PARTS,
    Convolution,
    Parts,
    SerializeConv2d,
    choose,
    excess,
)
from ddimcache.compiler.target import DeviceProfile, profile
from tests.kit.relax_run import run_relax
from tests.passes.test_pipeline import request


def limited(**limits: Any) -> DeviceProfile:
    return dataclasses.replace(profile("adreno-740"), **limits)


@I.ir_module
class Whole:
    @R.function
    def main(x: R.Tensor((1, 4, 4, 16), "float32"), w: R.Tensor((8, 3, 3, 16), "float32")) -> R.Tensor(
        (1, 4, 4, 8), "float32"
    ):
        with R.dataflow():
            y = R.nn.conv2d(x, w, padding=[1, 1, 1, 1], data_layout="NHWC", kernel_layout="OHWI")
            R.output(y)
        return y


def test_large_weights_are_split_by_output_channels() -> None:
    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 4, 4, 16), "float32"), w: R.Tensor((8, 3, 3, 16), "float32")) -> R.Tensor(
            (1, 4, 4, 8), "float32"
        ):
            with R.dataflow():
                a = R.strided_slice(w, axes=[0], begin=[0], end=[4])
                b = R.nn.conv2d(x, a, padding=[1, 1, 1, 1], data_layout="NHWC", kernel_layout="OHWI")
                c = R.strided_slice(w, axes=[0], begin=[4], end=[8])
                d = R.nn.conv2d(x, c, padding=[1, 1, 1, 1], data_layout="NHWC", kernel_layout="OHWI")
                y = R.concat((b, d), axis=-1)
                R.output(y)
            return y

    serialize = SerializeConv2d(limited(max_image_pixels=8 * 9 * 16 // 8), "fp32")
    tvm.ir.assert_structural_equal(serialize(Whole), Expected)
    assert serialize.note == "1 in 2 parts along outputs (weights too large)"


def test_a_large_input_is_split_by_input_channels_and_summed_in_float32() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 9, 9, 8), "float16"), w: R.Tensor((4, 1, 1, 8), "float16")) -> R.Tensor(
            (1, 9, 9, 4), "float16"
        ):
            with R.dataflow():
                y = R.nn.conv2d(x, w, data_layout="NHWC", kernel_layout="OHWI")
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 9, 9, 8), "float16"), w: R.Tensor((4, 1, 1, 8), "float16")) -> R.Tensor(
            (1, 9, 9, 4), "float16"
        ):
            with R.dataflow():
                a = R.strided_slice(x, axes=[3], begin=[0], end=[4])
                b = R.strided_slice(w, axes=[3], begin=[0], end=[4])
                c = R.nn.conv2d(a, b, data_layout="NHWC", kernel_layout="OHWI", out_dtype="float32")
                d = R.strided_slice(x, axes=[3], begin=[4], end=[8])
                e = R.strided_slice(w, axes=[3], begin=[4], end=[8])
                f = R.nn.conv2d(d, e, data_layout="NHWC", kernel_layout="OHWI", out_dtype="float32")
                g = R.add(c, f)
                y = R.astype(g, "float16")
                R.output(y)
            return y

    serialize = SerializeConv2d(limited(max_image_pixels=100), "fp16")
    tvm.ir.assert_structural_equal(serialize(Before), Expected)
    assert serialize.note == "1 in 2 parts along inputs (input too large)"


@pytest.mark.parametrize(
    ("limits", "note"),
    [
        ({}, "1 within the limits"),
        ({"max_image_pixels": 8}, "1 left whole, no 8 parts are within them (weights too large)"),
    ],
)
def test_leaves_alone_what_fits_and_what_no_split_helps(limits: dict[str, int], note: str) -> None:
    serialize = SerializeConv2d(limited(**limits), "fp32")
    tvm.ir.assert_structural_equal(serialize(Whole), Whole)
    assert serialize.note == note


def test_the_convolution_that_is_published_takes_the_least_factor() -> None:
    """1x32x32x1920 -> 640 of Stable Diffusion: the fewest parts that fit, along the side that moves less."""
    sizes = Convolution(34 * 34 * 1920, 32 * 32 * 640, 640, 9, 1920, 2, 1, 0)
    for pixels in (1 << 19, 1 << 20, 1 << 21):
        device = limited(max_image_pixels=pixels)
        assert excess(sizes, device) == "weights"
        parts = choose(sizes, device)
        if parts is not None:
            smaller = [Parts(parts.side, count) for count in range(2, parts.count)]
            assert not excess(sizes, device, parts)
            assert all(excess(sizes, device, one) for one in smaller if 640 % (4 * one.count) == 0)
    # Twice the input costs more than partial sums of a third of its channels, once the weights need 8 parts.
    assert choose(sizes, limited(max_image_pixels=1 << 21)) == Parts("outputs", 2)
    assert choose(sizes, limited(max_image_pixels=400_000)) == Parts("inputs", 8)
    # An input that is too large leaves no choice.
    assert choose(dataclasses.replace(sizes, taps=1), limited(max_image_pixels=310_000)) == Parts("inputs", 2)


def conv_module(
    side: int, inputs: int, outputs: int, kernel: int, stride: int, dtype: str = "float32"
) -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType([1, side, side + 1, inputs], dtype))
    w = relax.Var("w", relax.TensorType([outputs, inputs, kernel, kernel], dtype))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, w]):
        with builder.dataflow():
            turned = builder.emit(relax.op.permute_dims(w, [0, 2, 3, 1]))
            value = relax.op.nn.conv2d(
                x, turned, (stride, stride), kernel // 2, data_layout="NHWC", kernel_layout="OHWI"
            )
            out = builder.emit_output(builder.emit(value))
        builder.emit_func_output(out)
    return builder.get()


def outputs_of(
    module: tvm.IRModule, weights: str, device: DeviceProfile, x: np.ndarray, w: np.ndarray, serial: bool
) -> tuple[np.ndarray, str]:
    store = WeightStore()
    store.add("w", Weight(w.shape, w.dtype.name, lambda: w))
    serialize = SerializeConv2d(device, weights)
    if serial:
        module = serialize(module)
    module = LowerProducts(Packing(store, device, weights, {"main": 1}))(module)
    module = relax.transform.DeadCodeElimination(["main"])(module)
    module = relax.transform.LegalizeOps()(module)
    return run_relax(module, [x], store)[0], serialize.note


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_parts_make_the_whole(data: st.DataObject) -> None:
    """Of rounded weights too: a part has the numbers and the scales of the whole."""
    weights = data.draw(st.sampled_from(["fp32", "int8", "int8-g32"]), "weights")
    side, kernel = data.draw(st.integers(2, 5), "side"), data.draw(st.sampled_from([1, 3]), "kernel")
    inputs, outputs = (4 * data.draw(st.integers(3, 12), name) for name in ("inputs", "outputs"))
    stride = data.draw(st.integers(1, 2), "stride")
    item = {"fp32": 4}.get(weights, 1)
    whole = outputs * inputs * kernel * kernel * item
    device = dataclasses.replace(
        profile("llvm"), max_allocation=-(-whole // data.draw(st.integers(2, MOST_PARTS), "parts"))
    )
    random = np.random.default_rng(inputs)
    x = random.standard_normal((1, side, side + 1, inputs)).astype("float32")
    w = random.standard_normal((outputs, inputs, kernel, kernel)).astype("float32")
    module = conv_module(side, inputs, outputs, kernel, stride)
    expected, _ = outputs_of(module, weights, device, x, w, serial=False)
    result, note = outputs_of(module, weights, device, x, w, serial=True)
    assert "within" not in note or "left whole" in note
    # Only the order of float32 sums differs.
    bound = 2**-23 * np.sqrt(inputs) * kernel * np.abs(expected).max()
    np.testing.assert_allclose(result, expected, rtol=0, atol=4 * bound)


@pytest.mark.parametrize("weights", ["int8", "int8-g32"])
def test_input_channels_in_parts_keep_rounded_weights(weights: str) -> None:
    device = dataclasses.replace(limited(max_image_pixels=2100), kind="llvm")
    random = np.random.default_rng(3)
    x = random.standard_normal((1, 6, 7, 384)).astype("float16")
    w = random.standard_normal((12, 384, 1, 1)).astype("float16")
    module = conv_module(6, 384, 12, 1, 1, "float16")
    expected, _ = outputs_of(module, weights, device, x, w, serial=False)
    result, note = outputs_of(module, weights, device, x, w, serial=True)
    assert note == "1 in 2 parts along inputs (input too large)"
    # The same chunks of float16, added in another order, and one rounding on each side.
    np.testing.assert_allclose(
        result.astype("f4"), expected.astype("f4"), atol=2**-10 * np.abs(expected).max()
    )


def test_a_unet_for_small_images_is_serialised_and_within_them() -> None:
    asked = request("unet", target="adreno-740")
    plain = pipeline.run(asked)
    device = limited(max_image_pixels=3000)
    compilation = pipeline.run(dataclasses.replace(asked, profile=device))
    notes = {report.phase: report.note for report in compilation.reports}
    assert "parts along outputs (weights too large)" in notes["serialize conv2d"]
    assert "within the limits" in notes["serialize conv2d"]
    launches = [sum(pipeline.operators(one.module).values()) for one in (plain, compilation)]
    assert launches[1] > launches[0]
    assert {name.partition("|")[0].partition("@")[0] for name in compilation.weight_names} == {
        name.partition("|")[0].partition("@")[0] for name in plain.weight_names
    }
