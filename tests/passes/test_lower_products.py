"""Convolutions and linear layers of any shape compute the same over packed weights."""

from __future__ import annotations

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from ddimcache.compiler.compress.quantize import stored_values
from ddimcache.compiler.compress.weights import Weight, WeightStore
from ddimcache.compiler.passes.bundle_weights import BundleWeights
from ddimcache.compiler.passes.lower_products import OUT_ELEMENTWISE_FUSABLE, LowerProducts, call_kernel
from ddimcache.compiler.passes.pack_weights import Packing
from ddimcache.compiler.target import profile
from ddimcache.kernels.matmul import kernel as matmul_kernel
from ddimcache.schedules.apply import ApplySchedules
from tests.kit.relax_run import run_relax

PROFILE = profile("llvm")
KINDS = st.sampled_from(["fp32", "fp16", "int8", "int8-g32"])


def stored(**arrays: np.ndarray) -> WeightStore:
    result = WeightStore()
    for name, array in arrays.items():
        result.add(name, Weight(array.shape, array.dtype.name, lambda array=array: array))  # type: ignore[misc]
    return result


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def variable(name: str, *shape: int) -> relax.Var:
    return relax.Var(name, relax.TensorType(list(shape), "float32"))


def linear(rows: int, depth: int, channels: int) -> tvm.IRModule:
    x, w = variable("x", 2, rows, depth), variable("w", channels, depth)
    builder = relax.BlockBuilder()
    with builder.function("main", [x, w]):
        with builder.dataflow():
            turned = builder.emit(relax.op.permute_dims(w, [1, 0]))
            output = builder.emit_output(relax.op.matmul(x, turned))
        builder.emit_func_output(output)
    return builder.get()


def test_a_linear_layer_becomes_a_kernel_over_panels() -> None:
    store = stored(w=numbers(24, 12))
    bundle = BundleWeights(store, {"main": 1})
    after = bundle(LowerProducts(Packing(store, PROFILE, "int8", {"main": 1}))(linear(3, 12, 24)))
    panels, scales = names = bundle.names
    assert (store[panels].dtype, store[scales].dtype) == ("int8", "float32")

    x = variable("x", 2, 3, 12)
    params = relax.Var(
        "params",
        relax.TupleType([relax.TensorType(store[name].shape, store[name].dtype) for name in names]),
    )

    def compute(x: tvm.te.Tensor, weight: tvm.te.Tensor, scale: tvm.te.Tensor) -> tvm.te.Tensor:
        return matmul_kernel.matmul(x, weight, scale, 24, "float32", None)

    builder = relax.BlockBuilder()
    with builder.function("main", [x, params]):
        with builder.dataflow():
            fields = [builder.emit(relax.TupleGetItem(params, index)) for index in range(2)]
            call = call_kernel(
                builder, "matmul", compute, [x, *fields], {"op_pattern": OUT_ELEMENTWISE_FUSABLE}
            )
            output = builder.emit_output(call)
        builder.emit_func_output(output)
    tvm.ir.assert_structural_equal(after, builder.get(), map_free_vars=True)


def lowered(module: tvm.IRModule, store: WeightStore, kind: str) -> tvm.IRModule:
    """``module`` over packed weights, with loops; weights that became packed are no parameters any more."""
    module = LowerProducts(Packing(store, PROFILE, kind, {"main": 1}))(module)
    body = module["main"]
    used = set(relax.analysis.free_vars(body.body)) | {body.params[0]}
    parameters = [parameter for parameter in body.params if parameter in used]
    function = relax.Function(parameters, body.body, body.ret_ty, True, body.attrs)
    module.update_func(module.get_global_var("main"), function)
    module = relax.transform.DeadCodeElimination(["main"])(module)
    with PROFILE.tvm_target():
        return ApplySchedules(PROFILE)(module)


@given(rows=st.integers(1, 9), depth=st.sampled_from([1, 7, 12, 64]), channels=st.integers(1, 40), kind=KINDS)
@settings(max_examples=6, deadline=None)
def test_a_linear_layer_computes_the_same(rows: int, depth: int, channels: int, kind: str) -> None:
    x, w = numbers(2, rows, depth), numbers(channels, depth)
    store = stored(w=w)
    [found] = run_relax(lowered(linear(rows, depth, channels), store, kind), [x], store)
    expected = x.astype("float64") @ stored_values(w, kind).astype("float64").T
    assert np.abs(found - expected).max() <= 2e-5 * max(1.0, np.abs(expected).max())


@given(
    sides=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    depth=st.sampled_from([3, 8, 12]),
    channels=st.integers(1, 24),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    kind=KINDS,
)
@settings(max_examples=6, deadline=None)
def test_a_convolution_computes_the_same(
    sides: tuple[int, int],
    depth: int,
    channels: int,
    size: tuple[int, int],
    strides: tuple[int, int],
    padding: list[int],
    kind: str,
) -> None:
    x, w = variable("x", 1, *sides, depth), variable("w", channels, *size, depth)
    builder = relax.BlockBuilder()
    with builder.function("main", [x, w]):
        with builder.dataflow():
            layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
            value = relax.op.nn.conv2d(x, w, strides=strides, padding=padding, **layouts)
            output = builder.emit_output(value)
        builder.emit_func_output(output)
    module, weights, inputs = builder.get(), numbers(channels, *size, depth), numbers(1, *sides, depth)
    store = stored(w=weights)
    [found] = run_relax(lowered(module, store, kind), [inputs], store)
    kept = np.moveaxis(stored_values(np.moveaxis(weights, -1, 1), kind), 1, -1)
    [expected] = run_relax(module, [inputs, np.ascontiguousarray(kept)], WeightStore())
    assert np.abs(found - expected).max() <= 2e-5 * max(1.0, np.abs(expected).max())
