"""What a convolution reads that stays the same is taken out of it, and no other convolution is touched."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler.passes.hoist_invariants import HoistInvariants, Invariant
from ddimcache.compiler.passes.split_convolutions import SplitConvolutions
from tests.kit.relax_run import run_relax
from tests.passes.test_merge_projections import store


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((1, 2, 5, 5), "float32"),
        timestep: R.Tensor((1,), "float32"),
        context: R.Tensor((1, 3, 4), "float32"),
        surroundings: R.Tensor((1, 3, 5, 5), "float32"),
        w: R.Tensor((4, 5, 3, 3), "float32"),
        b: R.Tensor((4,), "float32"),
    ) -> R.Tensor((1, 4, 5, 5), "float32"):
        with R.dataflow():
            joined = R.concat((x, surroundings), axis=1)
            y = R.nn.conv2d(joined, w, padding=1)
            c = R.reshape(b, (1, 4, 1, 1))
            out = R.add(y, c)
            R.output(out)
        return out


def expected() -> tvm.IRModule:
    """What ``Before`` becomes; weights have names that no script can write."""
    function = Before["main"]
    x, surroundings, bias = (function.params[position] for position in (0, 3, 5))
    first = relax.Var("w+0", relax.TensorType((4, 2, 3, 3), "float32"))
    second = relax.Var("w+2", relax.TensorType((4, 3, 3, 3), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [*function.params, first, second]):
        with builder.dataflow():
            changing = builder.emit(relax.op.nn.conv2d(x, first, padding=1))
            constant = builder.emit(relax.op.nn.conv2d(surroundings, second, padding=1))
            y = builder.emit(relax.op.add(changing, constant))
            c = builder.emit(relax.op.reshape(bias, (1, 4, 1, 1)))
            out = builder.emit_output(relax.op.add(y, c))
        builder.emit_func_output(out)
    return builder.get()


def test_the_constant_channels_get_a_convolution_of_their_own() -> None:
    weights = store(w=(4, 5, 3, 3), b=(4,))
    split = SplitConvolutions(weights, 4, [1, 2, 3])
    after = split(Before)
    tvm.ir.assert_structural_equal(after["main"], expected()["main"], map_free_vars=True)
    assert split.members == {"w+0": ("w",), "w+2": ("w",)}
    np.testing.assert_array_equal(weights.array("w+0"), weights.array("w")[:, :2])
    np.testing.assert_array_equal(weights.array("w+2"), weights.array("w")[:, 2:])


@I.ir_module
class SkipsAndGroups:
    @R.function
    def main(
        x: R.Tensor((1, 2, 5, 5), "float32"),
        timestep: R.Tensor((1,), "float32"),
        context: R.Tensor((1, 3, 4), "float32"),
        surroundings: R.Tensor((1, 2, 5, 5), "float32"),
        w: R.Tensor((4, 4, 1, 1), "float32"),
        grouped: R.Tensor((4, 2, 1, 1), "float32"),
    ) -> R.Tensor((1, 4, 5, 5), "float32"):
        with R.dataflow():
            # A skip connection: both sides change.
            y = R.add(x, surroundings)
            joined = R.concat((x, y), axis=1)
            a = R.nn.conv2d(joined, w)
            # Groups of channels are no sum over all of them.
            sides = R.concat((x, surroundings), axis=1)
            g = R.nn.conv2d(sides, grouped, groups=2)
            # Rows of one picture, not channels.
            rows = R.concat((y, surroundings), axis=2)
            half = R.strided_slice(rows, [2], [0], [5], assume_inbound=True)
            again = R.concat((half, half), axis=1)
            d = R.nn.conv2d(again, w)
            # All of it stays.
            still = R.concat((surroundings, surroundings), axis=1)
            e = R.nn.conv2d(still, w)
            ag = R.add(a, g)
            de = R.add(d, e)
            out = R.add(ag, de)
            R.output(out)
        return out


def test_other_convolutions_are_left_alone() -> None:
    split = SplitConvolutions(store(w=(4, 4, 1, 1), grouped=(4, 2, 1, 1)), 4, [1, 2, 3])
    tvm.ir.assert_structural_equal(split(SkipsAndGroups), SkipsAndGroups)
    assert split.members == {}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@given(
    batch=st.integers(1, 2),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    outputs=st.integers(1, 5),
    sides=st.tuples(st.integers(3, 6), st.integers(3, 6)),
    stride=st.integers(1, 2),
)
@settings(max_examples=5, deadline=None)
def test_the_sum_is_the_convolution(
    order: tuple[int, int],
    batch: int,
    channels: tuple[int, int],
    outputs: int,
    sides: tuple[int, int],
    stride: int,
) -> None:
    """Whatever comes first, and hoisted afterwards."""
    shapes = {"w": (outputs, sum(channels), 3, 3)}
    x, surroundings = (
        relax.Var(name, relax.TensorType((batch, count, *sides), "float32"))
        for name, count in zip(("x", "surroundings"), channels, strict=True)
    )
    weight = relax.Var("w", relax.TensorType(shapes["w"], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, surroundings, weight]):
        with builder.dataflow():
            given = [(x, surroundings)[index] for index in order]
            joined = builder.emit(relax.op.concat(given, axis=1))
            out = relax.op.nn.conv2d(joined, weight, padding=1, strides=stride)
            output = builder.emit_output(builder.normalize(out))
        builder.emit_func_output(output)
    before = builder.get()
    values = store(**shapes)
    after = SplitConvolutions(values, 2, [1])(before)
    hoist = HoistInvariants(2, [Invariant(1, "project_surroundings", "projected")])
    after = hoist(after)
    assert hoist.made == ["project_surroundings"]
    random = np.random.default_rng(outputs)
    latents, fixed = (random.standard_normal((batch, count, *sides), dtype=np.float32) for count in channels)
    [projected] = run_relax(after, [fixed], values, "project_surroundings")
    [found] = run_relax(after, [latents, projected], values)
    [expected] = run_relax(before, [latents, fixed], values)
    assert np.abs(expected - found).max() <= 1e-5 * max(1.0, np.abs(expected).max())
