"""Pictures are joined along their channels by a kernel of its own; other joins stay what they are."""

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
from ddimcache.compiler.passes.lower_joins import LowerJoins
from ddimcache.compiler.target import profile
from ddimcache.kernels.join.kernel import join_channels
from tests.kit.relax_run import run_relax

PROFILE = profile("llvm")


def test_rows_are_copied() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(a: R.Tensor((1, 4, 8, 32), "float32"), b: R.Tensor((1, 4, 8, 16), "float32")) -> R.Tensor(
            (1, 4, 8, 48), "float32"
        ):
            with R.dataflow():
                y = R.concat((a, b), axis=3)
                R.output(y)
            return y

    builder = relax.BlockBuilder()
    a, b = (relax.Var(n, relax.TensorType([1, 4, 8, c], "float32")) for n, c in (("a", 32), ("b", 16)))
    with builder.function("main", [a, b]):
        with builder.dataflow():
            flat = [builder.emit(relax.op.reshape(x, [32, c])) for x, c in ((a, 32), (b, 16))]
            kernel = join_channels(32, (32, 16), "float32", vector=16, rows_of_group=2, work_group=1)
            out = relax.TensorType([32, 48], "float32")
            joined = builder.emit(relax.call_tir(builder.add_func(kernel, "join"), flat, out))
            output = builder.emit_output(relax.op.reshape(joined, [1, 4, 8, 48]))
        builder.emit_func_output(output)
    tvm.ir.assert_structural_equal(LowerJoins(PROFILE)(Before), builder.get(), map_free_vars=True)


def test_a_tensor_is_put_behind_itself() -> None:
    @I.ir_module
    class Twice:
        @R.function
        def main(a: R.Tensor((2, 3, 5), "float32")) -> R.Tensor((4, 3, 5), "float32"):
            with R.dataflow():
                y = R.concat((a, a), axis=0)
                R.output(y)
            return y

    after = LowerJoins(PROFILE)(Twice)
    [binding] = after["main"].body.blocks[0].bindings
    assert binding.value.op.name == "relax.call_tir"
    assert binding.value.args[0].name_hint == "repeat"
    # Number by number, so that it joins what is computed of it, and never ends a product.
    assert int(after["repeat"].attrs["op_pattern"]) == 2
    given = np.random.default_rng(5).standard_normal((2, 3, 5)).astype("float32")
    [result] = run_relax(after, [given], WeightStore())
    np.testing.assert_array_equal(result, np.concatenate([given, given]))


def joined(shapes: list[list[int]], axis: int) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    parts = [relax.Var(f"x{n}", relax.TensorType(shape, "float32")) for n, shape in enumerate(shapes)]
    with builder.function("main", parts):
        with builder.dataflow():
            output = builder.emit_output(builder.emit(relax.op.concat(parts, axis)))
        builder.emit_func_output(output)
    return builder.get()


@pytest.mark.parametrize(
    ("shapes", "axis"),
    [
        ([[1, 2, 3, 4], [1, 5, 3, 4]], 1),
        ([[1, 2, 3, 4], [1, 2, 5, 4]], 2),
        ([[2, 4], [2, 3]], 1),
        ([[2, 4], [2, 4]], 0),
    ],
)
def test_leaves_other_joins_alone(shapes: list[list[int]], axis: int) -> None:
    module = joined(shapes, axis)
    tvm.ir.assert_structural_equal(LowerJoins(PROFILE)(module), module)


@given(
    sides=st.tuples(st.integers(1, 2), st.integers(1, 7), st.integers(1, 7)),
    channels=st.lists(st.integers(1, 40), min_size=2, max_size=4),
)
@settings(max_examples=5, deadline=None)
def test_the_result_is_the_same(sides: tuple[int, int, int], channels: list[int]) -> None:
    random = np.random.default_rng(7)
    shapes = [[*sides, count] for count in channels]
    arrays = [random.standard_normal(shape).astype("float32") for shape in shapes]
    [result] = run_relax(LowerJoins(PROFILE)(joined(shapes, -1)), arrays, WeightStore())
    np.testing.assert_array_equal(result, np.concatenate(arrays, axis=-1))
