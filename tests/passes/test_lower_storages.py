"""Planned storage keeps its element type on the way to the VM; other storage is TVM's to lower."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler.passes.lower_storages import LowerStorages


@I.ir_module
class Before:
    @R.function(pure=False)
    def main():
        planned = R.memory.alloc_storage(R.shape([64]), 0, "global", "int8")
        returned = R.memory.alloc_storage(R.shape([64]), 0, "global", "uint8")
        return planned, returned


@I.ir_module
class Expected:
    @R.function(pure=False)
    def main():
        planned = R.vm.alloc_storage(R.shape([64]), R.prim_value(0), R.dtype("int8"), R.str("global"))
        returned = R.memory.alloc_storage(R.shape([64]), 0, "global", "uint8")
        return planned, returned


def test_planned_storage_keeps_its_type() -> None:
    lowered = LowerStorages()(Before)
    tvm.ir.assert_structural_equal(lowered, Expected)
    # Its own lowering leaves the type alone, and makes uint8 of the rest.
    text = relax.transform.LowerRuntimeBuiltin()(lowered).script()
    assert text.count('R.dtype("int8")') == text.count('R.dtype("uint8")') == 1


def test_leaves_other_storage_alone() -> None:
    @I.ir_module
    class Returned:
        @R.function(pure=False)
        def main():
            return R.memory.alloc_storage(R.shape([64]), 0, "global", "uint8")

    tvm.ir.assert_structural_equal(LowerStorages()(Returned), Returned)
