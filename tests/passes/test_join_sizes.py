"""Modules of several picture sizes become one; what is equal in two of them is there once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tvm
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from ddimcache.compiler.join_sizes import join_sizes
from ddimcache.errors import CompileError


def size(rows: int) -> tvm.IRModule:
    """``full`` doubles [rows] and negates [4], which ``once`` does by itself as well."""

    @I.ir_module
    class Module:
        @T.prim_func(private=True, s_tir=True)
        def double(x: T.Buffer((rows,), "float32"), y: T.Buffer((rows,), "float32")):
            for i in range(rows):
                with T.sblock("double"):
                    v = T.axis.spatial(rows, i)
                    y[v] = x[v] * T.float32(2)

        @T.prim_func(private=True, s_tir=True)
        def negate(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")):
            for i in range(4):
                with T.sblock("negate"):
                    v = T.axis.spatial(4, i)
                    y[v] = T.float32(0) - x[v]

        @R.function
        def full(x: R.Tensor((rows,), "float32"), z: R.Tensor((4,), "float32")):
            R.func_attr({"relax.force_pure": True})
            cls = Module
            a = R.call_tir(cls.double, (x,), R.Tensor((rows,), "float32"))
            b = R.call_tir(cls.negate, (z,), R.Tensor((4,), "float32"))
            return (a, b)

        @R.function
        def once(z: R.Tensor((4,), "float32")):
            R.func_attr({"relax.force_pure": True})
            cls = Module
            b = R.call_tir(cls.negate, (z,), R.Tensor((4,), "float32"))
            return b

    return Module


def compilation(rows: int, weights: list[str]) -> SimpleNamespace:
    """What ``join_sizes`` reads of a compilation, its kernels called as the last phases leave them."""
    module = tvm.relax.transform.CallTIRRewrite()(size(rows))
    return SimpleNamespace(module=module, inputs={"full": 2, "once": 1}, weight_names=weights)


def calls(function: tvm.relax.Function) -> list[str]:
    bindings = [binding.value for block in function.body.blocks for binding in block.bindings]
    return [
        value.op.name_hint
        for value in bindings
        if isinstance(value, tvm.relax.Call) and isinstance(value.op, tvm.ir.GlobalVar)
    ]


def test_equal_kernels_and_functions_are_there_once() -> None:
    sizes = [("", 8), ("_128x64", 16), ("_64x128", 16)]
    module, names = join_sizes([(suffix, compilation(rows, ["w"])) for suffix, rows in sizes])  # type: ignore[misc]
    assert names == ("full", "once", "full_128x64", "full_64x128")
    kernels = {variable.name_hint for variable in module.get_global_vars()} - set(names)
    assert kernels == {"double", "negate", "double_128x64"}
    assert calls(module["full"]) == ["double", "negate"]
    assert calls(module["full_128x64"]) == calls(module["full_64x128"]) == ["double_128x64", "negate"]
    assert calls(module["once"]) == ["negate"]
    assert str(module["full_64x128"].attrs["global_symbol"]) == "full_64x128"


def test_one_size_stays_as_it_is() -> None:
    alone = compilation(8, ["w"])
    module, names = join_sizes([("", alone)])  # type: ignore[list-item]
    assert names == ("full", "once")
    tvm.ir.assert_structural_equal(module, alone.module)


def test_sizes_that_want_other_weights_are_refused() -> None:
    sizes = [("", compilation(8, ["w@int8@32"])), ("_128x64", compilation(16, ["w@int8@16"]))]
    with pytest.raises(CompileError, match="size 128x64 and the first one differ in weight w@int8@16"):
        join_sizes(sizes)  # type: ignore[arg-type]
