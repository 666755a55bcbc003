"""Which kernels check their arguments: those that something else than a Relax function may call."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from ddimcache.compiler.argument_checks import CHECKED, SkipChecks
from ddimcache.compiler.library import build_library
from ddimcache.compiler.target import profile
from ddimcache.runtime.local_device import host_triple


@I.ir_module
class Module:
    """A function with a kernel of its own, and a kernel that it does not call."""

    @T.prim_func(s_tir=True)
    def called(x: T.Buffer((8,), "float32"), out: T.Buffer((8,), "float32")):
        T.func_attr({"global_symbol": "called", "tirx.noalias": True, "tirx.is_scheduled": True})
        for i in range(8):
            with T.sblock("double"):
                at = T.axis.spatial(8, i)
                out[at] = x[at] * T.float32(2)

    @T.prim_func(s_tir=True)
    def outside(x: T.Buffer((8,), "float32"), out: T.Buffer((8,), "float32")):
        T.func_attr({"global_symbol": "outside", "tirx.noalias": True, "tirx.is_scheduled": True})
        for i in range(8):
            with T.sblock("triple"):
                at = T.axis.spatial(8, i)
                out[at] = x[at] * T.float32(3)

    @R.function(pure=False)
    def main(x: R.Tensor((8,), "float32")) -> R.Tensor((8,), "float32"):
        cls = Module
        out: R.Tensor((8,), "float32") = R.builtin.alloc_tensor(R.shape([8]), R.dtype("float32"), 0)
        cls.called(x, out)
        return out


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> tvm.runtime.Module:
    path = tmp_path_factory.mktemp("checks") / "library.so"
    build_library(Module, profile("llvm"), host_triple(), ["main"], path)
    return tvm.runtime.load_module(str(path))


def tensor(count: int, dtype: str = "float32") -> tvm.runtime.Tensor:
    return tvm.runtime.tensor(np.arange(count, dtype=dtype))


def kernel(library: tvm.runtime.Module, name: str) -> tvm_ffi.Function:
    return library.get_function(name, query_imports=True)


@pytest.mark.parametrize("wrong", [tensor(16), tensor(8, "float64")])
def test_what_is_called_from_outside_refuses_what_does_not_fit(
    library: tvm.runtime.Module, wrong: tvm.runtime.Tensor
) -> None:
    main = relax.VirtualMachine(library, tvm.cpu())["main"]
    assert main(tensor(8)).numpy().tolist() == [2 * number for number in range(8)]
    out = tensor(8)
    kernel(library, "outside")(tensor(8), out)
    assert out.numpy().tolist() == [3 * number for number in range(8)]
    with pytest.raises(Exception, match="main"):
        main(wrong)
    with pytest.raises(Exception, match="outside"):
        kernel(library, "outside")(wrong, tensor(8))
    # Twice as much memory as it reads: without a check there is nothing to see.
    kernel(library, "called")(wrong, tensor(8))


def test_assertions_go_where_callers_have_checked() -> None:
    @T.prim_func
    def before(handle: T.handle, number: T.int32):
        assert number == 3, "three is wanted"
        T.evaluate(T.call_packed("use", handle, number))

    @T.prim_func
    def expected(handle: T.handle, number: T.int32):
        T.evaluate(T.call_packed("use", handle, number))

    module = tvm.IRModule({"checked": before.with_attr(CHECKED, True), "other": before})
    after = SkipChecks()(module)
    tvm.ir.assert_structural_equal(
        after["checked"].without_attr(CHECKED).body, expected.body, map_free_vars=True
    )
    assert after["other"].same_as(module["other"])
    alone = tvm.IRModule({"other": before})
    assert SkipChecks()(alone).same_as(alone)
