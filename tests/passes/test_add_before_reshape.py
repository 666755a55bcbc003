"""A residual joins the product before it; other additions behind a reshape stay where they are."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.passes.add_before_reshape import AddBeforeReshape
from ddimcache.compiler.passes.partition_at_cut import bindings_of
from ddimcache.compiler.passes.simplify import op_name
from tests.kit.relax_run import run_relax


def test_the_residual_is_added_to_the_list_of_pixels() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((1, 6, 5), "float32"),
            residual: R.Tensor((1, 2, 3, 4), "float32"),
            w: R.Tensor((5, 4), "float32"),
            bias: R.Tensor((4,), "float32"),
        ) -> R.Tensor((1, 2, 3, 4), "float32"):
            with R.dataflow():
                y = R.matmul(x, w)
                b = R.add(y, bias)
                r = R.reshape(b, R.shape([1, 2, 3, 4]))
                z = R.add(r, residual)
                R.output(z)
            return z

    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((1, 6, 5), "float32"),
            residual: R.Tensor((1, 2, 3, 4), "float32"),
            w: R.Tensor((5, 4), "float32"),
            bias: R.Tensor((4,), "float32"),
        ) -> R.Tensor((1, 2, 3, 4), "float32"):
            with R.dataflow():
                y = R.matmul(x, w)
                b = R.add(y, bias)
                r = R.reshape(residual, R.shape([1, 6, 4]))
                s = R.add(b, r)
                z = R.reshape(s, R.shape([1, 2, 3, 4]))
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(AddBeforeReshape()(Before), Expected, map_free_vars=True)


def residual_block(
    pixels: list[int],
    rows: list[int],
    channels: int,
    *,
    biased: bool = True,
    read_twice: bool = False,
    product: bool = True,
    repeated: bool = False,
    swapped: bool = False,
) -> tvm.IRModule:
    """``reshape(x · w + bias, rows) + residual``, and variations of it."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([*pixels, 3], "float32"))
    shape = [1] * len(rows[:-1]) + rows[-1:] if repeated else rows
    residual = relax.Var("residual", relax.TensorType(shape, "float32"))
    weight = relax.Var("w", relax.TensorType([3, channels], "float32"))
    bias = relax.Var("bias", relax.TensorType([channels], "float32"))
    with builder.function("main", [x, residual, weight, bias]):
        with builder.dataflow():
            y = builder.emit(relax.op.matmul(x, weight))
            if not product:
                y = builder.emit(relax.op.exp(y))
            if biased:
                y = builder.emit(relax.op.add(y, bias))
            z = builder.emit(relax.op.reshape(y, rows))
            total = builder.emit(relax.op.add(residual, z) if swapped else relax.op.add(z, residual))
            if read_twice:
                total = builder.emit(relax.op.multiply(total, z))
            output = builder.emit_output(total)
        builder.emit_func_output(output)
    return builder.get()


@pytest.mark.parametrize(
    "module",
    [
        residual_block([1, 6], [1, 2, 3, 4], 4, read_twice=True),
        residual_block([1, 6], [1, 2, 3, 4], 4, product=False),
        residual_block([1, 6], [1, 2, 3, 4], 4, repeated=True),
        residual_block([1, 6], [1, 3, 4, 2], 4),
        residual_block([2, 3], [6, 4], 4),
    ],
    ids=["read twice", "no product", "residual is repeated", "channels are split", "no rows and columns"],
)
def test_leaves_alone(module: tvm.IRModule) -> None:
    tvm.ir.assert_structural_equal(AddBeforeReshape()(module), module, map_free_vars=True)


@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    channels=st.integers(1, 6),
    biased=st.booleans(),
    swapped=st.booleans(),
)
@settings(max_examples=8, deadline=None)
def test_same_numbers(
    batch: int, height: int, width: int, channels: int, biased: bool, swapped: bool
) -> None:
    rows = [batch, height, width, channels]
    module = residual_block([batch, height * width], rows, channels, biased=biased, swapped=swapped)
    moved = AddBeforeReshape()(module)
    names = [op_name(binding.value) for binding in bindings_of(moved["main"])]
    assert [name for name in names if name][-2:] == ["relax.add", "relax.reshape"]
    generator = np.random.default_rng(height)
    inputs = [
        generator.standard_normal([int(side) for side in parameter.ty.shape], dtype=np.float32)
        for parameter in module["main"].params
    ]
    store = WeightStore()
    for ours, theirs in zip(run_relax(moved, inputs, store), run_relax(module, inputs, store), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
