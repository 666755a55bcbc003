"""The gated linear layer of a transformer block becomes one kernel."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax, te

from ddimcache.compiler.compress.quantize import stored_values
from ddimcache.compiler.compress.weights import Weight, WeightStore
from ddimcache.compiler.passes.fuse_geglu import FuseGeglu
from ddimcache.compiler.passes.lower_products import OUT_ELEMENTWISE_FUSABLE, call_kernel
from ddimcache.compiler.passes.pack_weights import Packing
from ddimcache.compiler.passes.simplify import op_name
from ddimcache.compiler.target import profile
from ddimcache.kernels.geglu import kernel as geglu_kernel
from ddimcache.kernels.geglu.reference import geglu
from ddimcache.schedules.apply import ApplySchedules
from tests.kit.relax_run import run_relax

PROFILE = profile("llvm")


def gated(tokens: int, depth: int, channels: int, swapped: bool = False, sections: int = 2) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, tokens, depth), "float32"))
    w = relax.Var("w", relax.TensorType((sections * channels, depth), "float32"))
    b = relax.Var("b", relax.TensorType((sections * channels,), "float32"))
    with builder.function("main", [x, w, b]):
        with builder.dataflow():
            product = builder.emit(relax.op.matmul(x, builder.emit(relax.op.permute_dims(w, [1, 0]))))
            parts = builder.emit(relax.op.split(builder.emit(relax.op.add(product, b)), sections, axis=-1))
            value = builder.emit(relax.TupleGetItem(parts, 0))
            gate = builder.emit(relax.op.nn.gelu(builder.emit(relax.TupleGetItem(parts, 1))))
            sides = (gate, value) if swapped else (value, gate)
            output = builder.emit_output(relax.op.multiply(*sides))
        builder.emit_func_output(output)
    return builder.get()


def weights(depth: int, channels: int, sections: int = 2) -> WeightStore:
    random = np.random.default_rng(8)
    result = WeightStore()
    for name, shape in (("w", (sections * channels, depth)), ("b", (sections * channels,))):
        array = random.standard_normal(shape).astype("float32")
        result.add(name, Weight(shape, "float32", lambda array=array: array))  # type: ignore[misc]
    return result


def fuse(module: tvm.IRModule, store: WeightStore, kind: str = "fp32") -> tvm.IRModule:
    return FuseGeglu(Packing(store, PROFILE, kind, {"main": 1}))(module)


def operators(module: tvm.IRModule) -> list[str]:
    return [op_name(binding.value) for binding in module["main"].body.blocks[0].bindings]


@given(
    tokens=st.integers(1, 9),
    depth=st.sampled_from([1, 7, 12, 20, 48, 64]),
    channels=st.sampled_from([8, 16, 24, 80]),
    swapped=st.booleans(),
    kind=st.sampled_from(["fp32", "int8", "int8-g32"]),
)
@settings(max_examples=6, deadline=None)
def test_value_and_gate_become_one_kernel(
    tokens: int, depth: int, channels: int, swapped: bool, kind: str
) -> None:
    store = weights(depth, channels)
    module = fuse(gated(tokens, depth, channels, swapped), store, kind)
    assert operators(module) == ["relax.call_tir", "relax.reshape"]
    w, b = store.array("w"), store.array("b")
    w = stored_values(w, kind)
    x = np.random.default_rng(9).standard_normal((1, tokens, depth)).astype("float32")
    # Parameters that were the model's weights are not read any more.
    body = module["main"]
    used = set(relax.analysis.free_vars(body.body)) | {body.params[0]}
    parameters = [parameter for parameter in body.params if parameter in used]
    function = relax.Function(parameters, body.body, body.ret_ty, True, body.attrs)
    module.update_func(module.get_global_var("main"), function)
    with PROFILE.tvm_target():
        module = ApplySchedules(PROFILE)(module)
    [found] = run_relax(module, [x], store)
    exact = geglu(x, w, b)
    assert np.abs(found - exact).max() <= 2e-5 * max(1.0, np.abs(exact).max())


@pytest.mark.parametrize(
    ("module", "store"),
    [
        (gated(4, 6, 5), weights(6, 5)),  # ten channels fill no panel
        (gated(4, 6, 16, sections=3), weights(6, 16, 3)),  # the parts are not halves
    ],
)
def test_leaves_other_layers_alone(module: tvm.IRModule, store: WeightStore) -> None:
    tvm.ir.assert_structural_equal(fuse(module, store), module, map_free_vars=True)


def test_the_layer_before_and_after() -> None:
    store = weights(12, 16)
    after = fuse(gated(5, 12, 16), store)
    packed = next(parameter for parameter in after["main"].params if "@" in parameter.name)

    def compute(x: te.Tensor, weight: te.Tensor, bias: te.Tensor) -> te.Tensor:
        return geglu_kernel.geglu(x, weight, None, bias, "float32", None)

    builder = relax.BlockBuilder()
    shapes = {
        "x": (1, 5, 12),
        "w": (32, 12),
        "b": (32,),
        "packed": store[packed.name].shape,
        "shifted": (32,),
    }
    variables = [relax.Var(name, relax.TensorType(shape, "float32")) for name, shape in shapes.items()]
    with builder.function("main", variables):
        with builder.dataflow():
            arguments = [variables[0], *variables[3:]]
            call = call_kernel(builder, "geglu", compute, arguments, {"op_pattern": OUT_ELEMENTWISE_FUSABLE})
            output = builder.emit_output(relax.op.reshape(builder.emit(call), [1, 5, 16]))
        builder.emit_func_output(output)
    tvm.ir.assert_structural_equal(after, builder.get(), map_free_vars=True)
