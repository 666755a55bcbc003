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
from ddimcache.compiler.passes.partition_at_cut import PartitionAtCut, cut_count
from ddimcache.errors import UsageError
from tests.kit.relax_run import run_relax


@I.ir_module
class TwoLevels:
    """The shape of a UNet: two skips, each joined again on the way up; channels are the last axis."""

    @R.function
    def main(x: R.Tensor((1, 4, 4, 2), "float32"), w: R.Tensor((2,), "float32")) -> R.Tensor(
        (1, 4, 4, 6), "float32"
    ):
        with R.dataflow():
            outer = R.multiply(x, w)
            inner = R.exp(outer)
            middle = R.sin(inner)
            up = R.concat((middle, inner), axis=3)
            bent = R.tanh(up)
            joined = R.concat((bent, outer), axis=3)
            out = R.abs(joined)
            R.output(out)
        return out


@I.ir_module
class CutOutermost:
    @R.function
    def full(x: R.Tensor((1, 4, 4, 2), "float32"), w: R.Tensor((2,), "float32")):
        with R.dataflow():
            outer = R.multiply(x, w)
            inner = R.exp(outer)
            middle = R.sin(inner)
            up = R.concat((middle, inner), axis=3)
            bent = R.tanh(up)
            joined = R.concat((bent, outer), axis=3)
            out = R.abs(joined)
            result = (out, bent)
            R.output(result)
        return result

    @R.function
    def cached(
        x: R.Tensor((1, 4, 4, 2), "float32"),
        feature: R.Tensor((1, 4, 4, 4), "float32"),
        w: R.Tensor((2,), "float32"),
    ) -> R.Tensor((1, 4, 4, 6), "float32"):
        with R.dataflow():
            outer = R.multiply(x, w)
            joined = R.concat((feature, outer), axis=3)
            out = R.abs(joined)
            R.output(out)
        return out


def operators(function: relax.Function) -> list[str]:
    calls = [binding.value for block in function.body.blocks for binding in block.bindings]
    return [call.op.name.removeprefix("relax.") for call in calls if isinstance(call, relax.Call)]


def test_the_outermost_cut() -> None:
    tvm.ir.assert_structural_equal(PartitionAtCut(0, 1)(TwoLevels), CutOutermost)


def test_an_inner_cut_keeps_what_is_outside_it() -> None:
    module = PartitionAtCut(1, 1)(TwoLevels)
    assert operators(module["cached"]) == ["multiply", "exp", "concat", "tanh", "concat", "abs"]
    assert [str(parameter.name) for parameter in module["cached"].params] == ["x", "feature", "w"]


def test_counts_cuts_and_refuses_others() -> None:
    assert cut_count(TwoLevels) == 2
    with pytest.raises(UsageError, match=r"no cut 2; it has 2, from 0 .* to 1"):
        PartitionAtCut(2, 1)(TwoLevels)


def test_leaves_concatenations_that_join_no_skip_out_of_the_count() -> None:
    @I.ir_module
    class Embedding:
        @R.function
        def main(x: R.Tensor((1, 8), "float32")) -> R.Tensor((1, 16), "float32"):
            with R.dataflow():
                a = R.sin(x)
                b = R.cos(x)
                c = R.concat((a, b), axis=-1)
                R.output(c)
            return c

    assert cut_count(Embedding) == 0


def test_a_feature_that_is_its_own_skip_is_replaced_once() -> None:
    @I.ir_module
    class NoMiddle:
        @R.function
        def main(x: R.Tensor((1, 4, 4, 2), "float32")) -> R.Tensor((1, 4, 4, 4), "float32"):
            with R.dataflow():
                down = R.exp(x)
                up = R.concat((down, down), axis=3)
                out = R.tanh(up)
                R.output(out)
            return out

    module = PartitionAtCut(0, 1)(NoMiddle)
    assert operators(module["cached"]) == ["exp", "concat", "tanh"]


@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_a_cached_step_with_the_full_steps_feature_is_the_full_step(data: st.DataObject) -> None:
    """UNets of random depth, width and batch at a random cut: what is left out is exactly the feature."""
    levels, channels = data.draw(st.integers(1, 4), "levels"), data.draw(st.integers(1, 3), "channels")
    batch, height, width = (data.draw(st.integers(1, 3), name) for name in ("batch", "height", "width"))
    x, w = (
        relax.Var(name, relax.TensorType(shape, "float32"))
        for name, shape in (("x", [batch, height, width, channels]), ("w", [channels]))
    )
    builder, skips = relax.BlockBuilder(), []
    with builder.function("main", [x, w]):
        with builder.dataflow():
            level = builder.emit(relax.op.multiply(x, w))
            for _ in range(levels):
                skips.append(level)
                level = builder.emit(relax.op.sin(level))
            for skip in reversed(skips):
                level = builder.emit(relax.op.tanh(builder.emit(relax.op.concat([level, skip], 3))))
            output = builder.emit_output(relax.op.negative(level))
        builder.emit_func_output(output)
    before = builder.get()
    assert cut_count(before) == levels
    cut = data.draw(st.integers(0, levels - 1), "cut")
    after = PartitionAtCut(cut, 1)(before)
    random = np.random.default_rng(levels)
    first, second = (random.standard_normal([batch, height, width, channels], "float32") for _ in range(2))
    weight = random.standard_normal([channels], "float32")
    [expected] = run_relax(before, [first, weight], WeightStore())
    noise, feature = run_relax(after, [first, weight], WeightStore(), "full")
    np.testing.assert_array_equal(noise, expected)
    [cached] = run_relax(after, [first, feature, weight], WeightStore(), "cached")
    np.testing.assert_array_equal(cached, expected)
    # Of other latents the part outside the cut is computed anew.
    [stale] = run_relax(after, [second, feature, weight], WeightStore(), "cached")
    assert not np.array_equal(stale, expected)
