"""The passes that turn operators into kernels: what they match, what they leave, and their results."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler.compress.quantize import channel_scale, dequantize, quantize
from ddimcache.compiler.compress.weights import Weight, WeightStore
from ddimcache.compiler.passes.bundle_weights import BundleWeights
from ddimcache.compiler.passes.count_work import count_work
from ddimcache.compiler.passes.lower_attention import LowerAttention
from ddimcache.compiler.passes.lower_norms import LowerNorms
from ddimcache.compiler.passes.lower_products import LowerProducts
from ddimcache.compiler.passes.pack_weights import Packing
from ddimcache.compiler.passes.simplify import op_name
from ddimcache.compiler.target import NormTable, profile
from ddimcache.errors import FrontendError
from tests.kit.kernel_run import small_tiles

PROFILE = profile("llvm")


def store(**arrays: np.ndarray) -> WeightStore:
    result = WeightStore()
    for name, array in arrays.items():
        result.add(name, Weight(array.shape, array.dtype.name, lambda array=array: array))  # type: ignore[misc]
    return result


def calls(module: tvm.IRModule, name: str = "main") -> list[str]:
    found = []
    for block in module[name].body.blocks:
        for binding in block.bindings:
            call = binding.value
            if op_name(call) == "relax.call_tir":
                found.append(call.args[0].name_hint)
            elif op_name(call):
                found.append(op_name(call).removeprefix("relax."))
    return found


@I.ir_module
class Layers:
    @R.function
    def main(
        x: R.Tensor((1, 6, 6, 11), "float32"),
        conv: R.Tensor((18, 11, 3, 3), "float32"),
        pointwise: R.Tensor((14, 18, 1, 1), "float32"),
        linear: R.Tensor((16, 14), "float32"),
    ) -> R.Tensor((1, 6, 6, 16), "float32"):
        with R.dataflow():
            a = R.permute_dims(conv, [0, 2, 3, 1])
            b = R.nn.conv2d(x, a, padding=[1, 1, 1, 1], data_layout="NHWC", kernel_layout="OHWI")
            c = R.permute_dims(pointwise, [0, 2, 3, 1])
            d = R.nn.conv2d(b, c, data_layout="NHWC", kernel_layout="OHWI")
            e = R.permute_dims(linear, [1, 0])
            f = R.matmul(d, e)
            R.output(f)
        return f


def layer_weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(6)
    shapes = {"conv": (18, 11, 3, 3), "pointwise": (14, 18, 1, 1), "linear": (16, 14)}
    return {name: random.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


def test_convolutions_and_linear_layers_become_kernels_over_one_tuple() -> None:
    weights = store(**layer_weights())
    module = LowerProducts(Packing(weights, PROFILE, "int8", {"main": 1}))(Layers)
    bundle = BundleWeights(weights, {"main": 1})
    module = bundle(module)
    # A 1x1 convolution is a matrix product, and nothing moves weights about at run time.
    assert [name.rstrip("0123456789") for name in calls(module)] == ["nn.pad", "conv2d", "matmul", "matmul"]
    assert len(module["main"].params) == 2
    kinds = {name: weights[name].dtype for name in bundle.names}
    assert sorted(kinds.values()) == ["float32"] * 3 + ["int8"] * 3
    names = {name.partition("@")[0].partition("|")[0] for name in bundle.names}
    assert names == {"conv", "pointwise", "linear"}


def test_packed_weights_are_the_rounded_ones() -> None:
    arrays = layer_weights()
    weights = store(**arrays)
    bundle = BundleWeights(weights, {"main": 1})
    bundle(LowerProducts(Packing(weights, PROFILE, "int8", {"main": 1}))(Layers))
    packed = next(
        weights.array(name) for name in bundle.names if name.startswith("linear") and "int8" in name
    )
    scale = next(
        weights.array(name) for name in bundle.names if name.startswith("linear") and "scale" in name
    )
    ours = packed[0].T * scale[:, None]
    expected = dequantize(quantize(arrays["linear"]), channel_scale(arrays["linear"]))
    assert np.array_equal(ours, expected)
    assert np.abs(ours - arrays["linear"]).max() <= scale.max() / 2


def test_first_and_last_layers_are_not_rounded_to_int8() -> None:
    """A convolution between latents and features keeps its weights in fp16, whatever the others get."""

    @I.ir_module
    class FirstLayer:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 4), "float32"), conv: R.Tensor((16, 4, 3, 3), "float32")) -> R.Tensor(
            (1, 4, 4, 16), "float32"
        ):
            with R.dataflow():
                a = R.permute_dims(conv, [0, 2, 3, 1])
                b = R.nn.conv2d(x, a, data_layout="NHWC", kernel_layout="OHWI")
                R.output(b)
            return b

    values = np.random.default_rng(8).standard_normal((16, 4, 3, 3)).astype("float32")
    weights = store(conv=values)
    bundle = BundleWeights(weights, {"main": 1})
    bundle(LowerProducts(Packing(weights, PROFILE, "int8", {"main": 1}))(FirstLayer))
    [name] = bundle.names
    assert "@fp16@" in name
    kept = weights.array(name)
    assert np.array_equal(np.sort(kept.ravel()), np.sort(values.astype("float16").astype("float32").ravel()))


def test_leaves_products_of_two_activations_alone() -> None:
    @I.ir_module
    class Scores:
        @R.function
        def main(q: R.Tensor((4, 6), "float32"), k: R.Tensor((6, 4), "float32")) -> R.Tensor(
            (4, 4), "float32"
        ):
            with R.dataflow():
                s = R.matmul(q, k)
                R.output(s)
            return s

    module = LowerProducts(Packing(WeightStore(), PROFILE, "int8", {"main": 2}))(Scores)
    assert calls(module) == ["matmul"]


def test_grouped_convolutions_are_refused() -> None:
    @I.ir_module
    class Grouped:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 4), "float32"), w: R.Tensor((4, 3, 3, 2), "float32")) -> R.Tensor(
            (1, 4, 4, 4), "float32"
        ):
            with R.dataflow():
                y = R.nn.conv2d(x, w, groups=2, data_layout="NHWC", kernel_layout="OHWI")
                R.output(y)
            return y

    weights = store(w=np.zeros((4, 3, 3, 2), "float32"))
    with pytest.raises(FrontendError, match="groups and dilation"):
        LowerProducts(Packing(weights, PROFILE, "int8", {"main": 1}))(Grouped)


def test_work_is_counted_before_lowering() -> None:
    conv, pointwise, linear = 36 * 18 * 99, 36 * 14 * 18, 36 * 16 * 14
    assert count_work(Layers["main"]) == conv + pointwise + linear


@I.ir_module
class Attention:
    @R.function
    def main(q: R.Tensor((1, 9, 2, 8), "float32"), k: R.Tensor((1, 5, 2, 8), "float32")):
        with R.dataflow():
            a = R.nn.attention(q, k, k)
            R.output(a)
        return a


def test_attention_becomes_one_kernel() -> None:
    assert calls(LowerAttention(PROFILE)(Attention)) == ["reshape", "reshape", "reshape", "attention"]
    assert count_work(Attention["main"]) == 2 * 9 * 5 * 8 * 2


def test_a_causal_mask_reaches_the_kernel() -> None:
    query = relax.Var("q", relax.TensorType([1, 4, 1, 8], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [query]):
        with builder.dataflow():
            out = builder.emit_output(
                builder.emit(relax.op.nn.attention(query, query, query, causal_mask="TopLeft"))
            )
        builder.emit_func_output(out)
    module = LowerAttention(PROFILE)(builder.get())
    call = next(
        binding.value
        for block in module["main"].body.blocks
        for binding in block.bindings
        if op_name(binding.value) == "relax.call_tir"
    )
    bias = call.args[1][3].value.numpy()
    assert np.array_equal(bias == 0, np.tri(4, dtype=bool).T)


@pytest.mark.parametrize(("shape", "axis"), [((1, 4, 4, 8), 3), ((1, 8, 6), 1)])
def test_group_norm_becomes_statistics_and_one_elementwise_kernel(shape: tuple[int, ...], axis: int) -> None:
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    weight = relax.Var("weight", relax.TensorType([8], "float32"))
    axes = [index for index in range(1, len(shape)) if index != axis]
    builder = relax.BlockBuilder()
    with builder.function("main", [x, weight]):
        with builder.dataflow():
            value = relax.op.nn.group_norm(x, weight, weight, 2, axis, axes)
            out = builder.emit_output(builder.emit(value))
        builder.emit_func_output(out)
    alone = small_tiles(PROFILE, norms=None)
    kernels = [name for name in calls(LowerNorms(alone)(builder.get())) if name.startswith("group_norm")]
    assert kernels == ["group_norm_moments", "group_norm_parameters", "group_norm_apply"]
    # 6 or 16 pixels, which one launch may sum from the input itself.
    table = NormTable(pixels=1, threads=16, bands=0, summed_pixels=10)
    summed = small_tiles(PROFILE, norms=table, vector=4)
    kernels = [name for name in calls(LowerNorms(summed)(builder.get())) if name.startswith("group_norm")]
    few = math.prod(shape) // 8 <= 10
    assert kernels == ([] if few else ["group_norm_moments"]) + ["group_norm_parameters", "group_norm_apply"]


def test_layer_norm_over_other_axes_is_refused() -> None:
    x = relax.Var("x", relax.TensorType([2, 3, 4], "float32"))
    weight = relax.Var("weight", relax.TensorType([3, 4], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, weight]):
        with builder.dataflow():
            out = builder.emit_output(builder.emit(relax.op.nn.layer_norm(x, weight, weight, [1, 2])))
        builder.emit_func_output(out)
    with pytest.raises(FrontendError, match="the last one is"):
        LowerNorms(PROFILE)(builder.get())
