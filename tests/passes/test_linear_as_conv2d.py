"""A linear layer and a 1x1 convolution are one product: the same kernel, the same weights, nothing between.

Engines whose fast kernels are convolutions turn linear layers into those (LinearToConv2d). Here both are
lowered to the product over packed panels, so there is nothing to turn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from ddimcache.compiler import pipeline
from ddimcache.compiler.compress.weights import Weight, WeightStore
from ddimcache.compiler.passes.annotate_patterns import AnnotatePatterns
from ddimcache.compiler.passes.bundle_weights import BundleWeights
from ddimcache.compiler.passes.lower_products import LowerProducts
from ddimcache.compiler.passes.pack_weights import Packing
from ddimcache.compiler.passes.simplify import Simplify
from ddimcache.compiler.target import profile
from ddimcache.schedules.apply import ApplySchedules
from tests.kit.relax_run import run_relax


def module_of(form: str, side: int, inputs: int, outputs: int, dtype: str) -> tvm.IRModule:
    """A layer over [1, side, side, inputs]: a ``convolution``, ``linear``, or linear over ``tokens``."""
    x = relax.Var("x", relax.TensorType([1, side, side, inputs], dtype))
    shape = [outputs, inputs, 1, 1] if form == "convolution" else [outputs, inputs]
    weight = relax.Var("w", relax.TensorType(shape, dtype))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, weight]):
        with builder.dataflow():
            value: Any = x
            if form == "convolution":
                turned = builder.emit(relax.op.permute_dims(weight, [0, 2, 3, 1]))
                value = relax.op.nn.conv2d(x, turned, data_layout="NHWC", kernel_layout="OHWI")
            else:
                if form == "tokens":
                    value = builder.emit(relax.op.reshape(x, [1, side * side, inputs]))
                value = relax.op.matmul(value, builder.emit(relax.op.permute_dims(weight, [1, 0])))
            out = builder.emit_output(builder.emit(value))
        builder.emit_func_output(out)
    return builder.get()


def lowered(
    form: str, weight: np.ndarray, side: int, target: str, weights: str
) -> tuple[tvm.IRModule, WeightStore, list[str]]:
    """The module with its kernels called, its weights, and their names in the order of the tuple."""
    device, store = profile(target), WeightStore()
    outputs, inputs = weight.shape
    shaped = weight.reshape(outputs, inputs, 1, 1) if form == "convolution" else weight
    store.add("w", Weight(shaped.shape, weight.dtype.name, lambda: shaped))
    bundle = BundleWeights(store, {"main": 1})
    module = module_of(form, side, inputs, outputs, weight.dtype.name)
    with device.tvm_target():
        for phase in (
            Simplify(),
            LowerProducts(Packing(store, device, weights, {"main": 1})),
            bundle,
            relax.transform.LegalizeOps(),
            AnnotatePatterns(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(["main"]),
            ApplySchedules(device),
            relax.transform.RewriteDataflowReshape(),
            relax.transform.DeadCodeElimination(["main"]),
        ):
            module = phase(module)
    return module, store, bundle.names


def kernels(module: tvm.IRModule) -> list[tvm.tirx.PrimFunc]:
    return [function for _, function in module.functions_items() if isinstance(function, tvm.tirx.PrimFunc)]


@pytest.mark.parametrize("weights", ["fp16", "int8", "int8-g32"])
@pytest.mark.parametrize("target", ["opencl", "adreno-740"])
def test_both_forms_come_to_the_same_kernel(target: str, weights: str) -> None:
    matrix = np.random.default_rng(1).standard_normal((48, 64)).astype(profile(target).compute_dtype)
    convolution, linear, tokens = (
        lowered(form, matrix, 8, target, weights) for form in ("convolution", "linear", "tokens")
    )
    [first], [second], [third] = (kernels(module) for module, _, _ in (convolution, linear, tokens))
    tvm.ir.assert_structural_equal(first, second)
    assert first.attrs["ddimcache.workload"] == third.attrs["ddimcache.workload"]
    # Tokens are another shape of the same rows: one launch, and a reshape that moves nothing.
    called = pipeline.operators(tokens[0])
    assert sum(count for name, count in called.items() if name.startswith("kernel")) == 1
    for one, other in zip(convolution[2], tokens[2], strict=True):
        assert np.array_equal(convolution[1].array(one), tokens[1].array(other))


@settings(max_examples=4, deadline=None)
@given(side=st.integers(1, 5), inputs=st.integers(9, 40), outputs=st.integers(9, 40))
def test_they_compute_the_same(side: int, inputs: int, outputs: int) -> None:
    random = np.random.default_rng(side)
    matrix = random.standard_normal((outputs, inputs)).astype("float32")
    x = random.standard_normal((1, side, side, inputs)).astype("float32")
    results = []
    for form in ("convolution", "tokens"):
        store = WeightStore()
        shaped = matrix.reshape(outputs, inputs, 1, 1) if form == "convolution" else matrix
        store.add("w", Weight(shaped.shape, "float32", lambda shaped=shaped: shaped))  # type: ignore[misc]
        module = LowerProducts(Packing(store, profile("llvm"), "fp32", {"main": 1}))(
            module_of(form, side, inputs, outputs, "float32")
        )
        module = relax.transform.LegalizeOps()(relax.transform.DeadCodeElimination(["main"])(module))
        results.append(run_relax(module, [x], store)[0])
    np.testing.assert_array_equal(results[0].reshape(results[1].shape), results[1])
    np.testing.assert_allclose(results[0], x @ matrix.T, rtol=1e-4, atol=1e-4)
