"""Convolutions that ``LowerProducts`` makes of transformed tiles, and those that it leaves direct."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from ddimcache.compiler.compress.weights import Weight, WeightStore
from ddimcache.compiler.passes.lower_products import LowerProducts, largest_tensor
from ddimcache.compiler.passes.pack_weights import Packing
from ddimcache.compiler.passes.partition_at_cut import bindings_of
from ddimcache.compiler.passes.simplify import op_name, static_shape
from ddimcache.compiler.target import profile
from ddimcache.kernels.workload import Workload
from tests.kit.kernel_run import small_tiles
from tests.kit.relax_run import run_relax

PHONE = profile("adreno-740")
# In float32, so that LLVM runs what TVM makes of the definitions.
DEVICE = dataclasses.replace(small_tiles(PHONE, columns=(8, 4)), compute_dtype="float32")


def network(
    shape: tuple[int, int, int, int], channels: int, size: int, stride: int, padding: int
) -> tuple[tvm.IRModule, WeightStore]:
    """A convolution of ``x`` [B, H, W, C] with a SiLU before it and a bias behind it."""
    random = np.random.default_rng(8)
    arrays = {
        "weight": random.standard_normal((channels, size, size, shape[-1])).astype("float32"),
        "bias": random.standard_normal(channels).astype("float32"),
    }
    store = WeightStore()
    for name, array in arrays.items():
        store.add(name, Weight(array.shape, "float32", lambda array=array: array))  # type: ignore[misc]
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    weights = [relax.Var(name, relax.TensorType(array.shape, "float32")) for name, array in arrays.items()]
    builder = relax.BlockBuilder()
    with builder.function("main", [x, *weights]):
        with builder.dataflow():
            product = relax.op.nn.conv2d(
                builder.emit(relax.op.nn.silu(x)),
                weights[0],
                strides=stride,
                padding=padding,
                data_layout="NHWC",
                kernel_layout="OHWI",
            )
            out = builder.emit_output(relax.op.add(builder.emit(product), weights[1]))
        builder.emit_func_output(out)
    return builder.get(), store


def lower(
    module: tvm.IRModule, store: WeightStore, answer: bool, asked: list[tuple[Workload, str | None, int]]
) -> tvm.IRModule:
    def tiled(workload: Workload, sums: str | None, largest: int) -> bool:
        asked.append((workload, sums, largest))
        return answer

    return LowerProducts(Packing(store, DEVICE, "fp32", {"main": 1}), tiled)(module)


def test_the_largest_tensor_is_none_of_weights_and_none_that_nobody_reads() -> None:
    """16 channels of 4 x 4 pixels in float16; the weight, twice its size, and a sum of more are not."""
    x = relax.Var("x", relax.TensorType((1, 4, 4, 8), "float16"))
    weight = relax.Var("weight", relax.TensorType((8, 128), "float16"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, weight]):
        with builder.dataflow():
            moved = builder.emit(relax.op.reshape(weight, [8, 8, 16]))
            taken = builder.emit(relax.op.strided_slice(moved, [1], [0], [1]))
            product = builder.emit(relax.op.matmul(x, relax.op.reshape(taken, [8, 16])))
            builder.emit(relax.op.astype(product, "float32"))
            out = builder.emit_output(relax.op.nn.silu(product))
        builder.emit_func_output(out)
    assert largest_tensor(builder.get()["main"], {weight}) == 16 * 16 * 2


def kernels(module: tvm.IRModule) -> list[tuple[str, tuple[int, ...]]]:
    """Kernels and operators of ``main`` with the shapes of their results."""
    found = []
    for binding in bindings_of(module["main"]):
        name = op_name(binding.value)
        name = binding.value.args[0].name_hint if name == "relax.call_tir" else name
        found.append((name.removeprefix("relax."), tuple(static_shape(binding.var) or ())))
    return found


def test_a_convolution_reads_tiles_that_a_kernel_made() -> None:
    asked: list[tuple[Workload, str | None, int]] = []
    module, store = network((2, 7, 6, 8), 12, 3, 1, 1)
    lowered = lower(module, store, True, asked)
    assert kernels(lowered) == [
        ("nn.silu", (2, 7, 6, 8)),
        ("nn.pad", (2, 9, 8, 8)),
        ("winograd_input", (2, 4, 3, 16, 8)),
        ("conv2d", (2, 7, 6, 12)),
        ("add", (2, 7, 6, 12)),
    ]
    # Weights stay as the direct convolution has them.
    assert store["weight@fp32@4"].shape == (3, 3, 3, 8, 4)
    [(workload, sums, largest)] = asked
    assert workload.text == "conv2d 2x7x6x8x12x3x3x1x1 float32 float32"
    assert sums == "float"
    # The result's, which has more numbers than the input.
    assert largest == 2 * 7 * 6 * 12 * 4


@pytest.mark.parametrize(("size", "stride", "answer"), [(3, 1, False), (3, 2, False), (1, 1, True)])
def test_what_is_left_direct(size: int, stride: int, answer: bool) -> None:
    """A convolution that nobody speaks for; and a product, about which nobody is asked."""
    asked: list[tuple[Workload, str | None, int]] = []
    module, store = network((1, 6, 6, 8), 8, size, stride, size // 2)
    names = [name for name, _ in kernels(lower(module, store, answer, asked))]
    direct = ["nn.pad", "conv2d"] if size == 3 else ["matmul"]
    assert names == ["nn.silu", *direct, "add"]
    assert len(asked) == (size == 3)


@given(
    batch=st.sampled_from([1, 2]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    depth=st.sampled_from([4, 8, 20]),
    channels=st.sampled_from([3, 8, 12]),
    padding=st.sampled_from([0, 1, 2]),
)
@settings(max_examples=5, deadline=None)
def test_the_result_stays(
    batch: int, height: int, width: int, depth: int, channels: int, padding: int
) -> None:
    if min(height, width) + 2 * padding < 3:
        return
    shape = (batch, height, width, depth)
    x = np.random.default_rng(9).standard_normal(shape).astype("float32")
    results = []
    for answer in (False, True):
        module, store = network(shape, channels, 3, 1, padding)
        lowered = relax.transform.LegalizeOps()(lower(module, store, answer, []))
        [out] = run_relax(lowered, [x], store)
        results.append(out)
    assert np.abs(results[0] - results[1]).max() <= 2e-5 * np.abs(results[0]).max()
