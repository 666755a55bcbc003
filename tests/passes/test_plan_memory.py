"""Tensors of different moments share storages; those of one moment never do."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler import pipeline
from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.memory_plan import Lifetime, Plan, buffers, lifetimes, peak, plan_in_turns
from ddimcache.compiler.passes.plan_memory import PlanMemory, plan, plan_together
from tests.kit import random_graphs
from tests.kit.random_graphs import VALUE, Step, sums_and_joins
from tests.kit.relax_run import run_relax
from tests.passes.test_pipeline import request


def called(module: tvm.IRModule) -> tvm.IRModule:
    """``module`` with its kernels called into tensors of their own, none fused."""
    for phase in (
        relax.transform.LegalizeOps(),
        relax.transform.RewriteDataflowReshape(),
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
    ):
        module = phase(module)
    return module


def alive_together(function: relax.Function) -> None:
    """No two tensors of a planned function are in one storage while both are still read."""
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    storage: dict[relax.Var, relax.Var] = {}
    of: dict[relax.Var, relax.Var] = {}
    made: dict[relax.Var, int] = {}
    ends: dict[relax.Var, int] = {}
    for number, binding in enumerate(bindings):
        value = binding.value
        if isinstance(value, relax.Call) and str(value.op) == 'I.Op("relax.memory.alloc_tensor")':
            storage[binding.var], of[binding.var] = value.args[0], binding.var
            continue
        for variable in relax.analysis.free_vars(value):
            if variable in of:
                made.setdefault(of[variable], number)
                ends[of[variable]] = number
                if not (isinstance(value, relax.Call) and isinstance(value.op, relax.GlobalVar)):
                    of[binding.var] = of[variable]
    for one in storage:
        for other in storage:
            if not one.same_as(other) and storage[one].same_as(storage[other]):
                assert ends[one] < made[other] or ends[other] < made[one]


@I.ir_module
class Chain:
    @R.function
    def main(x: R.Tensor((4,), "float32")) -> R.Tensor((2,), "float32"):
        with R.dataflow():
            a = R.exp(x)
            b = R.negative(a)
            c = R.concat((b, b), axis=0)
            d = R.strided_slice(c, axes=[0], begin=[1], end=[3])
            e = R.exp(d)
            f = R.negative(e)
            R.output(f)
        return f


def test_tensors_of_different_moments_share_a_storage() -> None:
    before = called(Chain)
    planner = PlanMemory()
    after = planner(before)
    # b and d beside the joined c of 32 bytes, into whose place a and e go.
    assert sorted(buffers(after["main"])) == [8, 16, 32]
    assert planner.note == "2 storages of 48 bytes; main: 5 tensors in 2"
    assert planner.storages == (32, 16)
    alive_together(after["main"])

    def allocations(module: tvm.IRModule, name: str) -> int:
        return module.script().count(f"R.{name}(")

    assert (allocations(before, "builtin.alloc_tensor"), allocations(before, "memory.alloc_tensor")) == (6, 0)
    assert (allocations(after, "builtin.alloc_tensor"), allocations(after, "memory.alloc_tensor")) == (1, 5)
    assert allocations(after, "memory.alloc_storage") == 2
    [result] = run_relax(after, [np.arange(4, dtype="float32")], WeightStore())
    middle = np.tile(-np.exp(np.arange(4)), 2)[1:3]
    np.testing.assert_allclose(result, -np.exp(middle), rtol=1e-5)


def test_leaves_alone_what_is_returned() -> None:
    @I.ir_module
    class Single:
        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            with R.dataflow():
                a = R.exp(x)
                R.output(a)
            return a

    module = called(Single)
    tvm.ir.assert_structural_equal(PlanMemory()(module), module)


@st.composite
def random_lifetimes(draw: st.DrawFn) -> list[Lifetime]:
    count = draw(st.integers(1, 30))
    found = []
    for number in range(count):
        first = draw(st.integers(0, 40))
        last = first + draw(st.integers(0, 12))
        size = draw(st.integers(1, 1000))
        variable = relax.Var(f"t{number}", relax.TensorType([size], "int8"))
        found.append(Lifetime(variable, size, first, last, "kernel"))
    return sorted(found, key=lambda tensor: tensor.first)


@settings(max_examples=60, deadline=None)
@given(tensors=random_lifetimes())
def test_a_plan_is_between_the_floor_and_no_sharing(tensors: list[Lifetime]) -> None:
    storages = plan(tensors)
    placed = [tensor for storage in storages for tensor in storage.tensors]
    assert sorted(map(id, placed)) == sorted(map(id, tensors))
    for storage in storages:
        assert storage.bytes == max(tensor.bytes for tensor in storage.tensors)
        ordered = sorted(storage.tensors, key=lambda tensor: tensor.first)
        assert all(one.last < other.first for one, other in itertools.pairwise(ordered))
    total = sum(storage.bytes for storage in storages)
    moments = [[one.bytes for one in tensors if one.first <= t.first <= one.last] for t in tensors]
    # The k-th storage by size is at least as large as the k-th tensor of any moment.
    most = max(map(len, moments))
    ranked = [sorted(moment, reverse=True) + [0] * (most - len(moment)) for moment in moments]
    floor = sum(max(moment[rank] for moment in ranked) for rank in range(most))
    assert floor <= total <= sum(tensor.bytes for tensor in tensors)


@given(
    components=st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=6), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_components_in_turns_find_their_storages(components: list[list[int]], order: random.Random) -> None:
    plans = [Plan(tuple(sorted(sizes, reverse=True)), 7) for sizes in components]
    shared = plan_in_turns(plans)
    assert shared.outputs == 7 * len(plans)
    assert max(map(sum, components)) <= sum(shared.storages) <= sum(map(sum, components))
    for sizes in components:
        # As the runtime does: in any order, each time the smallest that is free and large enough.
        free = list(shared.storages)
        for size in order.sample(sizes, len(sizes)):
            free.remove(min(storage for storage in free if storage >= size))
    for place, storage in enumerate(shared.storages):
        assert any(place < len(plan.storages) and plan.storages[place] == storage for plan in plans)


@settings(max_examples=6, deadline=None)
@given(taken=random_graphs.steps())
def test_planned_functions_compute_the_same(taken: list[Step]) -> None:
    """Random graphs of sums and joins, whose tensors have many sizes and live long and short."""
    module, expected = sums_and_joins({"main": taken})
    module = PlanMemory()(called(module))
    alive_together(module["main"])
    [result] = run_relax(module, [VALUE], WeightStore())
    np.testing.assert_allclose(result, expected["main"], rtol=1e-6)


def test_functions_of_a_component_take_the_same_storages() -> None:
    """The first needs 32 bytes beside 16, the second 16 beside 8: it takes two that the first has."""

    @I.ir_module
    class Two:
        @R.function
        def long(x: R.Tensor((4,), "float32")) -> R.Tensor((8,), "float32"):
            with R.dataflow():
                a = R.exp(x)
                b = R.concat((a, a), axis=0)
                c = R.negative(b)
                R.output(c)
            return c

        @R.function
        def short(x: R.Tensor((2,), "float32")) -> R.Tensor((4,), "float32"):
            with R.dataflow():
                a = R.exp(x)
                b = R.concat((a, a), axis=0)
                c = R.negative(b)
                R.output(c)
            return c

    planner = PlanMemory()
    after = planner(called(Two))
    assert planner.note == "2 storages of 48 bytes; long: 2 tensors in 2, short: 2 tensors in 2"
    assert planner.storages == (32, 16)
    # The storages, and what is returned.
    assert sorted(buffers(after["long"])) == [16, 32, 32]
    assert sorted(buffers(after["short"])) == [16, 16, 32]
    for name, values in (("long", np.ones(4)), ("short", np.ones(2))):
        alive_together(after[name])
        [result] = run_relax(after, [values.astype("float32")], WeightStore(), name)
        np.testing.assert_allclose(result, -np.exp(np.ones(2 * len(values))), rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(first=random_lifetimes(), second=random_lifetimes())
def test_a_plan_of_two_functions_holds_each(first: list[Lifetime], second: list[Lifetime]) -> None:
    plans = plan_together({"first": first, "second": second, "none": []})
    assert [one.bytes for one in plans["first"]] == [one.bytes for one in plans["second"]]
    for name, tensors in (("first", first), ("second", second), ("none", [])):
        placed = [tensor for storage in plans[name] for tensor in storage.tensors]
        assert sorted(map(id, placed)) == sorted(map(id, tensors))
        for storage in plans[name]:
            assert all(tensor.bytes <= storage.bytes for tensor in storage.tensors)
            ordered = sorted(storage.tensors, key=lambda tensor: tensor.first)
            assert all(one.last < other.first for one, other in itertools.pairwise(ordered))
    total = sum(one.bytes for one in plans["first"])
    assert total <= sum(tensor.bytes for tensor in [*first, *second])


@pytest.mark.parametrize("component", ["text_encoder", "unet"])
def test_components_need_no_more_than_by_tvms_own_plan(component: str) -> None:
    asked = request(component, target="adreno-740")
    compilation = pipeline.start(asked)
    modules: list[tvm.IRModule] = []
    with asked.profile.tvm_target():
        for name, phase in pipeline.phases(asked, compilation):
            if name == "plan memory":
                modules.append(compilation.module)
            compilation.module = phase(compilation.module)
    [before] = modules
    tvms = relax.transform.StaticPlanBlockMemory()(before)
    outputs = {
        name: sum(buffers(before[name])) - sum(tensor.bytes for tensor in lifetimes(before[name]))
        for name in compilation.inputs
    }
    apart = {name: sum(buffers(tvms[name])) - outputs[name] for name in compilation.inputs}
    least = max(peak(name, before[name]).bytes for name in compilation.inputs)
    # All functions together need no more than the largest of them by TVM's plan, which is for each alone.
    assert least <= sum(compilation.storages) <= max(apart.values())
    for name in compilation.inputs:
        alive_together(compilation.module[name])
        storages = list(buffers(compilation.module[name]))
        assert sum(storages) - outputs[name] <= sum(compilation.storages)
