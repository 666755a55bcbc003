"""All functions take the same tuple of weights, which holds what any of them uses and nothing else."""

from __future__ import annotations

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler.compress.weights import Weight, WeightStore
from ddimcache.compiler.passes.bundle_weights import BundleWeights
from tests.kit.relax_run import run_relax


def store(**shapes: tuple[int, ...]) -> WeightStore:
    random, result = np.random.default_rng(3), WeightStore()
    for name, shape in shapes.items():
        array = random.standard_normal(shape).astype("float32")
        result.add(name, Weight(shape, "float32", lambda array=array: array))  # type: ignore[misc]
    return result


@I.ir_module
class Before:
    @R.function
    def first(
        x: R.Tensor((2,), "float32"), b: R.Tensor((2,), "float32"), a: R.Tensor((2,), "float32")
    ) -> R.Tensor((2,), "float32"):
        with R.dataflow():
            y = R.add(x, a)
            z = R.multiply(y, b)
            R.output(z)
        return z

    @R.function
    def second(
        x: R.Tensor((2,), "float32"), c: R.Tensor((2,), "float32"), unused: R.Tensor((2,), "float32")
    ) -> R.Tensor((2,), "float32"):
        with R.dataflow():
            y = R.add(x, c)
            R.output(y)
        return y


@I.ir_module
class Expected:
    @R.function
    def first(
        x: R.Tensor((2,), "float32"),
        params: R.Tuple(R.Tensor((2,), "float32"), R.Tensor((2,), "float32"), R.Tensor((2,), "float32")),
    ) -> R.Tensor((2,), "float32"):
        with R.dataflow():
            a = params[0]
            b = params[1]
            y = R.add(x, a)
            z = R.multiply(y, b)
            R.output(z)
        return z

    @R.function
    def second(
        x: R.Tensor((2,), "float32"),
        params: R.Tuple(R.Tensor((2,), "float32"), R.Tensor((2,), "float32"), R.Tensor((2,), "float32")),
    ) -> R.Tensor((2,), "float32"):
        with R.dataflow():
            c = params[2]
            y = R.add(x, c)
            R.output(y)
        return y


def test_weights_become_one_tuple() -> None:
    bundle = BundleWeights(store(a=(2,), b=(2,), c=(2,), unused=(2,)), {"first": 1, "second": 1})
    tvm.ir.assert_structural_equal(bundle(Before), Expected, map_free_vars=True)
    assert bundle.names == ["a", "b", "c"]


def test_leaves_alone_what_has_no_weights() -> None:
    @I.ir_module
    class Plain:
        @R.function
        def main(x: R.Tensor((2,), "float32"), y: R.Tensor((2,), "float32")) -> R.Tensor((2,), "float32"):
            with R.dataflow():
                z = R.add(x, y)
                R.output(z)
            return z

    bundle = BundleWeights(store(), {"main": 2})
    after = bundle(Plain)
    assert bundle.names == []
    # But for the empty tuple, which every function of a component takes.
    tvm.ir.assert_structural_equal(after["main"].body, Plain["main"].body, map_free_vars=True)


@given(uses=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=9))
@settings(max_examples=5, deadline=None)
def test_functions_over_the_tuple_compute_the_same(uses: list[tuple[int, bool]]) -> None:
    weights = store(**{f"w{number}": (3,) for number in range(6)})
    x, *parameters = (
        relax.Var(name, relax.TensorType([3], "float32")) for name in ("x", *(f"w{n}" for n in range(6)))
    )
    builder = relax.BlockBuilder()
    with builder.function("main", [x, *parameters]):
        with builder.dataflow():
            value = x
            for number, adds in uses:
                value = builder.emit((relax.op.add if adds else relax.op.multiply)(value, parameters[number]))
            output = builder.emit_output(relax.op.negative(value))
        builder.emit_func_output(output)
    before, values = builder.get(), np.array([1.0, -2.0, 0.5], "float32")
    bundle = BundleWeights(weights, {"main": 1})
    after = bundle(before)
    assert bundle.names == sorted({f"w{number}" for number, _ in uses})
    [expected] = run_relax(before, [values], weights)
    machine = relax.VirtualMachine(tvm.compile(after, tvm.target.Target("llvm")), tvm.cpu())
    packed = [tvm.runtime.tensor(weights.array(name)) for name in bundle.names]
    np.testing.assert_array_equal(machine["main"](tvm.runtime.tensor(values), packed).numpy(), expected)
