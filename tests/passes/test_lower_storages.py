"""Planned storage keeps its element type on the way to the VM; other storage is TVM's to lower."""

from __future__ import annotations

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler.passes.lower_storages import LowerStorages
from ddimcache.compiler.passes.plan_memory import PlanMemory
from ddimcache.compiler.passes.simplify import op_name
from tests.kit import random_graphs
from tests.kit.random_graphs import VALUE, Step, sums_and_joins
from tests.passes.test_plan_memory import called


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


def storage_bytes(module: tvm.IRModule, operator: str) -> list[int]:
    """The bytes of all storages that ``operator`` allocates, in the order of the calls."""
    return [
        int(binding.value.args[0].values[0])
        for _, function in sorted(module.functions_items(), key=lambda item: item[0].name_hint)
        if isinstance(function, relax.Function)
        for block in function.body.blocks
        for binding in block.bindings
        if op_name(binding.value) == operator
    ]


@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_functions_of_one_arena_compute_the_same(data: st.DataObject) -> None:
    """Storages of random sizes, which calls of three functions take in any order and leave behind."""
    names = ("one", "two", "three")
    taken: dict[str, list[Step]] = {name: data.draw(random_graphs.steps(3), label=name) for name in names}
    module, expected = sums_and_joins(taken)
    planner = PlanMemory()
    planned = planner(called(module))
    lowered = LowerStorages()(planned)
    # An allocator rounds sizes up, so that a wrong one need not show in the numbers.
    sizes = storage_bytes(planned, "relax.memory.alloc_storage")
    assert set(sizes) <= set(planner.storages)
    assert storage_bytes(lowered, "relax.vm.alloc_storage") == sizes != []
    assert not storage_bytes(lowered, "relax.memory.alloc_storage")

    def run(module: tvm.IRModule, order: list[str]) -> list[bytes]:
        # The pooled allocator hands a storage that is given back to the next call that asks for its size.
        built = tvm.compile(module, tvm.target.Target("llvm"))
        machine = relax.VirtualMachine(built, tvm.cpu(), memory_cfg="pooled")
        return [machine[name](tvm.runtime.tensor(VALUE)).numpy().tobytes() for name in order]

    order = data.draw(st.lists(st.sampled_from(names), min_size=4, max_size=8), label="order")
    results = run(lowered, order)
    assert results == run(planned, order)
    for name, result in zip(order, results, strict=True):
        np.testing.assert_allclose(np.frombuffer(result, "float32"), expected[name], rtol=1e-6)
