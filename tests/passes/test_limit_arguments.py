"""Joins and fused groups of too many arguments become several of fewer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.passes.limit_arguments import LimitArguments
from ddimcache.compiler.target import DeviceProfile, profile
from tests.kit.relax_run import run_relax


def device(most: int, pointers: int = 1 << 20) -> DeviceProfile:
    return dataclasses.replace(
        profile("llvm"), max_kernel_arguments=most, max_argument_bytes=8 * min(most, pointers)
    )


def fused(module: tvm.IRModule, device: DeviceProfile) -> tvm.IRModule:
    """``module`` as the pipeline fuses it for ``device``."""
    for phase in (
        LimitArguments(device),
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        LimitArguments(device),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(["main"]),
    ):
        module = phase(module)
    return module


def joined(shapes: list[list[int]], axis: int, sums: int = 0) -> tvm.IRModule:
    """All tensors of ``shapes`` joined, then exponents of it, to which ``sums`` more tensors are added."""
    tensors = [
        relax.Var(f"x{index}", relax.TensorType(shape, "float32")) for index, shape in enumerate(shapes)
    ]
    whole = list(shapes[0])
    whole[axis] = sum(shape[axis] for shape in shapes)
    more = [relax.Var(f"y{index}", relax.TensorType(whole, "float32")) for index in range(sums)]
    builder = relax.BlockBuilder()
    with builder.function("main", [*tensors, *more]):
        with builder.dataflow():
            value = builder.emit(relax.op.exp(builder.emit(relax.op.concat(tensors, axis))))
            for tensor in more:
                value = builder.emit(relax.op.add(value, tensor))
            out = builder.emit_output(value)
        builder.emit_func_output(out)
    return builder.get()


def arguments(module: tvm.IRModule) -> list[int]:
    return sorted(
        len(function.params)
        for _, function in module.functions_items()
        if isinstance(function, tvm.tirx.PrimFunc)
    )


def test_a_join_is_made_of_smaller_ones() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(
            a: R.Tensor((1, 2), "float32"), b: R.Tensor((1, 3), "float32"), c: R.Tensor((1, 4), "float32")
        ) -> R.Tensor((1, 9), "float32"):
            with R.dataflow():
                y = R.concat((a, b, c), axis=1)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(
            a: R.Tensor((1, 2), "float32"), b: R.Tensor((1, 3), "float32"), c: R.Tensor((1, 4), "float32")
        ) -> R.Tensor((1, 9), "float32"):
            with R.dataflow():
                t = R.concat((a, b), axis=1)
                y = R.concat((t, c), axis=1)
                R.output(y)
            return y

    limit = LimitArguments(device(3))
    tvm.ir.assert_structural_equal(limit(Before), Expected)
    assert limit.note == "0 of 1 within 3 arguments, 1 joins made of smaller ones"


def test_a_group_is_taken_apart() -> None:
    """The part that is computed first has one result, and what only it reads is no argument of the other."""

    @I.ir_module
    class Before:
        @T.prim_func(private=True, s_tir=True)
        def add(a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32"), c: T.Buffer((4,), "float32")):
            T.func_attr({"op_pattern": 0})
            for i in range(4):
                with T.sblock("add"):
                    v = T.axis.spatial(4, i)
                    c[v] = a[v] + b[v]

        @R.function(private=True)
        def fused_add_add(
            a: R.Tensor((4,), "float32"), b: R.Tensor((4,), "float32"), c: R.Tensor((4,), "float32")
        ) -> R.Tensor((4,), "float32"):
            R.func_attr({"Primitive": True})
            cls = Before
            with R.dataflow():
                s = R.call_tir(cls.add, (a, b), out_ty=R.Tensor((4,), "float32"))
                z = R.call_tir(cls.add, (s, c), out_ty=R.Tensor((4,), "float32"))
                R.output(z)
            return z

        @R.function
        def main(
            a: R.Tensor((4,), "float32"), b: R.Tensor((4,), "float32"), c: R.Tensor((4,), "float32")
        ) -> R.Tensor((4,), "float32"):
            cls = Before
            with R.dataflow():
                z = cls.fused_add_add(a, b, c)
                R.output(z)
            return z

    @I.ir_module
    class Expected:
        @T.prim_func(private=True, s_tir=True)
        def add(a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32"), c: T.Buffer((4,), "float32")):
            T.func_attr({"op_pattern": 0})
            for i in range(4):
                with T.sblock("add"):
                    v = T.axis.spatial(4, i)
                    c[v] = a[v] + b[v]

        @R.function(private=True)
        def fused_add_add_part(a: R.Tensor((4,), "float32"), b: R.Tensor((4,), "float32")) -> R.Tensor(
            (4,), "float32"
        ):
            R.func_attr({"Primitive": True})
            cls = Expected
            with R.dataflow():
                s = R.call_tir(cls.add, (a, b), out_ty=R.Tensor((4,), "float32"))
                R.output(s)
            return s

        @R.function
        def main(
            a: R.Tensor((4,), "float32"), b: R.Tensor((4,), "float32"), c: R.Tensor((4,), "float32")
        ) -> R.Tensor((4,), "float32"):
            cls = Expected
            with R.dataflow():
                s = cls.fused_add_add_part(a, b)
                z = cls.fused_add_add_part(s, c)
                R.output(z)
            return z

    limit = LimitArguments(device(3))
    after = relax.transform.DeadCodeElimination(["main"])(limit(Before))
    # Both parts add two tensors, so they are one function.
    tvm.ir.assert_structural_equal(after, Expected)
    assert limit.note == "0 of 1 within 3 arguments, 1 groups taken apart into 2"


@pytest.mark.parametrize("sums", [0, 3])
def test_leaves_alone_what_is_within_the_limit(sums: int) -> None:
    module = joined([[2, 3]] * 5, 1, sums)
    limit = LimitArguments(device(6 + sums))
    tvm.ir.assert_structural_equal(limit(module), module)
    assert limit.note == f"1 of 1 within {6 + sums} arguments"
    assert arguments(fused(module, device(6 + sums))) == [6 + sums]


def test_a_join_of_two_hundred_tensors_for_a_phone() -> None:
    """Fusion puts the halves of a join together again, so that only the group's check keeps them apart."""
    phone = profile("adreno-740")
    module = joined([[1, 2]] * 200, 1)
    assert arguments(fused(module, device(1 << 16))) == [201]
    counts = arguments(fused(module, phone))
    assert max(counts) <= phone.max_kernel_arguments == 128
    assert sum(counts) < 201 + 3 * len(counts), "no more launches than needed"
    values = [np.full((1, 2), index % 7, "float32") for index in range(200)]
    [out] = run_relax(fused(module, phone), values, WeightStore())
    np.testing.assert_allclose(out, np.exp(np.concatenate(values, 1)), rtol=1e-6)


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_the_result_is_that_of_the_whole(data: st.DataObject) -> None:
    most = data.draw(st.integers(3, 9), "most")
    count = data.draw(st.integers(2, 14), "tensors")
    axis = data.draw(st.integers(0, 1), "axis")
    sides = data.draw(st.lists(st.integers(1, 4), min_size=count, max_size=count), "sides")
    shapes = [[side, 3] if axis == 0 else [3, side] for side in sides]
    sums = data.draw(st.integers(0, 10), "sums")
    module = fused(joined(shapes, axis, sums), device(most))
    assert max(arguments(module)) <= most
    random = np.random.default_rng(count)
    whole = [sum(sides), 3] if axis == 0 else [3, sum(sides)]
    inputs = [random.standard_normal(shape).astype("float32") for shape in [*shapes, *[whole] * sums]]
    [out] = run_relax(module, inputs, WeightStore())
    expected = np.exp(np.concatenate(inputs[:count], axis)) + sum(inputs[count:])
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
