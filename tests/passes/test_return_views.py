"""What a function computed is returned in another shape without a copy; what is not its own is copied."""

from __future__ import annotations

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.memory_plan import lifetimes
from ddimcache.compiler.passes.partition_at_cut import bindings_of
from ddimcache.compiler.passes.plan_memory import PlanMemory
from ddimcache.compiler.passes.return_views import ReturnViews
from tests.kit.relax_run import run_relax


def legal(module: tvm.IRModule) -> tvm.IRModule:
    """``module`` as it comes to the pass: operators are kernels, and reshapes inside are views."""
    return relax.transform.RewriteDataflowReshape()(relax.transform.LegalizeOps()(module))


def called(module: tvm.IRModule) -> tvm.IRModule:
    """``module`` with its kernels called into tensors of their own."""
    for phase in (
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
    ):
        module = phase(module)
    return module


def test_a_returned_reshape_is_a_view() -> None:
    @I.ir_module
    class Before:
        @T.prim_func(private=True, s_tir=True)
        def twice(x: T.Buffer((T.int64(6),), "float32"), out: T.Buffer((T.int64(6),), "float32")):
            for i in range(6):
                with T.sblock("twice"):
                    v = T.axis.spatial(6, i)
                    out[v] = x[v] * T.float32(2)

        @T.prim_func(private=True, s_tir=True)
        def reshape(
            x: T.Buffer((T.int64(6),), "float32"), out: T.Buffer((T.int64(2), T.int64(3)), "float32")
        ):
            for i, j in T.grid(T.int64(2), T.int64(3)):
                with T.sblock("reshape"):
                    a, b = T.axis.remap("SS", [i, j])
                    out[a, b] = x[a * T.int64(3) + b]

        @R.function
        def main(x: R.Tensor((6,), "float32")) -> R.Tensor((2, 3), "float32"):
            cls = Before
            with R.dataflow():
                y = R.call_tir(cls.twice, (x,), R.Tensor((6,), "float32"))
                z = R.call_tir(cls.reshape, (y,), R.Tensor((2, 3), "float32"))
                R.output(z)
            return z

    functions = dict(Before.functions_items())
    [main] = [variable for variable in functions if variable.name_hint == "main"]
    [twice] = [variable for variable in functions if variable.name_hint == "twice"]
    x = relax.Var("x", relax.TensorType([6], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(relax.call_tir(twice, [x], relax.TensorType([6], "float32")))
            z = builder.emit_output(relax.op.reshape(y, [2, 3]))
        builder.emit_func_output(z)
    functions[main] = builder.get()["main"]
    after = ReturnViews()(Before)
    tvm.ir.assert_structural_equal(after["main"], functions[main], map_free_vars=True)


@I.ir_module
class NotItsOwn:
    @R.function
    def main(x: R.Tensor((6,), "float32")) -> R.Tensor((2, 3), "float32"):
        with R.dataflow():
            z = R.reshape(x, R.shape([2, 3]))
            R.output(z)
        return z


@I.ir_module
class ReturnedTwice:
    @R.function
    def main(x: R.Tensor((6,), "float32")) -> R.Tuple(R.Tensor((6,), "float32"), R.Tensor((2, 3), "float32")):
        with R.dataflow():
            y = R.exp(x)
            z = R.reshape(y, R.shape([2, 3]))
            R.output(y, z)
        return (y, z)


@I.ir_module
class InTwoShapes:
    @R.function
    def main(
        x: R.Tensor((6,), "float32"),
    ) -> R.Tuple(R.Tensor((3, 2), "float32"), R.Tensor((2, 3), "float32")):
        with R.dataflow():
            y = R.exp(x)
            z = R.reshape(y, R.shape([3, 2]))
            w = R.reshape(y, R.shape([2, 3]))
            R.output(z, w)
        return (z, w)


@I.ir_module
class NoReshape:
    @R.function
    def main(x: R.Tensor((2, 3), "float32")) -> R.Tensor((3, 2), "float32"):
        with R.dataflow():
            y = R.exp(x)
            z = R.permute_dims(y)
            R.output(z)
        return z


def test_leaves_alone_what_is_not_its_own_or_returned_twice() -> None:
    for module in (NotItsOwn, ReturnedTwice, InTwoShapes, NoReshape):
        before = legal(module)
        tvm.ir.assert_structural_equal(ReturnViews()(before), before)


@given(sizes=st.tuples(*[st.integers(1, 6)] * 3), read_again=st.booleans(), two=st.booleans())
@settings(max_examples=6, deadline=None)
def test_the_result_is_the_same(sizes: tuple[int, int, int], read_again: bool, two: bool) -> None:
    """Also where something else reads it, and beside another output; it lies in no storage."""
    first, second, third = sizes
    x = relax.Var("x", relax.TensorType([first, second * third], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(relax.op.exp(x))
            flat = builder.emit(relax.op.reshape(y, [first * second * third]))
            other = builder.emit(relax.op.negative(builder.emit(relax.op.sqrt(flat if read_again else x))))
            z = builder.emit_output(relax.op.reshape(flat, [first * second, third]))
            outputs = [z, builder.emit_output(other)] if two else [z]
        builder.emit_func_output(relax.Tuple(outputs) if two else z)
    before = legal(builder.get())
    after = called(ReturnViews()(before))
    kernels = [getattr(getattr(one.value, "op", None), "name_hint", "") for one in bindings_of(after["main"])]
    assert "tir_exp" in kernels
    assert not any("reshape" in kernel for kernel in kernels)
    assert "tir_exp" not in [tensor.writer for tensor in lifetimes(after["main"])]
    random = np.random.default_rng(first)
    array = random.uniform(0.1, 1.0, (first, second * third)).astype("float32")
    expected = run_relax(called(before), [array], WeightStore())
    results = run_relax(PlanMemory()(after), [array], WeightStore())
    assert [result.shape for result in results] == [other.shape for other in expected]
    for result, other_result in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, other_result)
