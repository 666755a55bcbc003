from __future__ import annotations

import math

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.passes.partition_at_cut import bindings_of
from ddimcache.compiler.passes.simplify import Simplify, op_name, static_shape
from tests.kit.relax_run import run_relax


def test_neutral_arithmetic_and_casts_go() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 3), "float32")) -> R.Tensor((2, 3), "float32"):
            with R.dataflow():
                a = R.divide(x, R.const(1.0, "float32"))
                b = R.astype(a, dtype="float32")
                c = R.add(b, R.const(0.0, "float32"))
                d = R.exp(c)
                R.output(d)
            return d

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 3), "float32")) -> R.Tensor((2, 3), "float32"):
            with R.dataflow():
                d = R.exp(x)
                R.output(d)
            return d

    tvm.ir.assert_structural_equal(Simplify()(Before), Expected)


def test_transposes_that_undo_each_other_go() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 3, 4, 5), "float32")) -> R.Tensor((2, 3, 4, 5), "float32"):
            with R.dataflow():
                a = R.permute_dims(x, [0, 2, 1, 3])
                b = R.permute_dims(a, [0, 2, 1, 3])
                c = R.exp(b)
                R.output(c)
            return c

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 3, 4, 5), "float32")) -> R.Tensor((2, 3, 4, 5), "float32"):
            with R.dataflow():
                c = R.exp(x)
                R.output(c)
            return c

    tvm.ir.assert_structural_equal(Simplify()(Before), Expected)


def test_what_is_transposed_and_activated_is_activated_first() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 3, 4, 5), "float32")) -> R.Tensor((2, 3, 4, 5), "float32"):
            with R.dataflow():
                a = R.permute_dims(x, [0, 3, 1, 2])
                b = R.nn.silu(a)
                c = R.permute_dims(b, [0, 2, 3, 1])
                d = R.exp(c)
                R.output(d)
            return d

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 3, 4, 5), "float32")) -> R.Tensor((2, 3, 4, 5), "float32"):
            with R.dataflow():
                b = R.nn.silu(x)
                d = R.exp(b)
                R.output(d)
            return d

    tvm.ir.assert_structural_equal(Simplify()(Before), Expected)


def test_what_is_transposed_and_normalised_is_normalised_first() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((2, 3, 4, 8), "float32"), g: R.Tensor((8,), "float32"), b: R.Tensor((8,), "float32")
        ) -> R.Tensor((2, 3, 4, 8), "float32"):
            with R.dataflow():
                a = R.permute_dims(x, [0, 3, 1, 2])
                n = R.nn.group_norm(a, g, b, num_groups=2, channel_axis=1, axes=[2, 3], epsilon=1e-6)
                c = R.permute_dims(n, [0, 2, 3, 1])
                d = R.exp(c)
                R.output(d)
            return d

    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((2, 3, 4, 8), "float32"), g: R.Tensor((8,), "float32"), b: R.Tensor((8,), "float32")
        ) -> R.Tensor((2, 3, 4, 8), "float32"):
            with R.dataflow():
                n = R.nn.group_norm(x, g, b, num_groups=2, channel_axis=3, axes=[1, 2], epsilon=1e-6)
                d = R.exp(n)
                R.output(d)
            return d

    tvm.ir.assert_structural_equal(Simplify()(Before), Expected)


def test_what_is_normalised_over_other_axes_stays_behind_its_transpose() -> None:
    @I.ir_module
    class Rows:
        @R.function
        def main(
            x: R.Tensor((2, 8, 4, 3), "float32"), g: R.Tensor((8,), "float32"), b: R.Tensor((8,), "float32")
        ) -> R.Tensor((2, 3, 4, 8), "float32"):
            with R.dataflow():
                a = R.permute_dims(x, [0, 3, 2, 1])
                n = R.nn.group_norm(a, g, b, num_groups=2, channel_axis=3, axes=[1, 2])
                R.output(n)
            return n

    tvm.ir.assert_structural_equal(Simplify()(Rows), Rows)


def test_a_transpose_that_moves_only_ones_is_a_reshape_and_reshapes_join() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((7,), "float32")) -> R.Tensor((1, 1, 1, 7), "float32"):
            with R.dataflow():
                a = R.expand_dims(x, axis=[1])
                b = R.reshape(a, R.shape([1, 7, 1, 1]))
                c = R.permute_dims(b, [0, 2, 3, 1])
                d = R.exp(c)
                R.output(d)
            return d

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((7,), "float32")) -> R.Tensor((1, 1, 1, 7), "float32"):
            with R.dataflow():
                c = R.reshape(x, R.shape([1, 1, 1, 7]))
                d = R.exp(c)
                R.output(d)
            return d

    # The transpose becomes a reshape, which the second run joins with the one before it.
    tvm.ir.assert_structural_equal(Simplify()(Simplify()(Before)), Expected)


def test_what_is_transposed_alike_is_added_and_joined_first() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 2, 3, 4), "float32"), y: R.Tensor((1, 2, 3, 4), "float32")) -> R.Tensor(
            (1, 2, 3, 8), "float32"
        ):
            with R.dataflow():
                a = R.permute_dims(x, [0, 3, 1, 2])
                b = R.permute_dims(y, [0, 3, 1, 2])
                c = R.add(a, b)
                d = R.concat((c, b), axis=1)
                e = R.permute_dims(d, [0, 2, 3, 1])
                R.output(e)
            return e

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 2, 3, 4), "float32"), y: R.Tensor((1, 2, 3, 4), "float32")) -> R.Tensor(
            (1, 2, 3, 8), "float32"
        ):
            with R.dataflow():
                c = R.add(x, y)
                e = R.concat((c, y), axis=3)
                R.output(e)
            return e

    tvm.ir.assert_structural_equal(Simplify()(Before), Expected)


def test_what_is_transposed_in_other_ways_or_repeated_stays() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 3, 3), "float32"), y: R.Tensor((1, 3, 1, 3), "float32")) -> R.Tensor(
            (1, 6, 3, 3), "float32"
        ):
            with R.dataflow():
                a = R.permute_dims(x, [0, 3, 1, 2])
                b = R.permute_dims(x, [0, 2, 3, 1])
                c = R.permute_dims(y, [0, 2, 3, 1])
                d = R.add(b, c)
                e = R.concat((a, d), axis=3)
                f = R.permute_dims(e, [0, 3, 2, 1])
                R.output(f)
            return f

    after = Simplify()(Before)
    names = [op_name(binding.value) for binding in bindings_of(after["main"])]
    assert names.count("relax.permute_dims") == 4
    tvm.ir.assert_structural_equal(after, Before)


def test_leaves_real_work_alone() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 3), "float32")) -> R.Tensor((3, 2), "float16"):
            with R.dataflow():
                a = R.multiply(x, R.const(2.0, "float32"))
                b = R.permute_dims(a, [1, 0])
                c = R.astype(b, dtype="float16")
                R.output(c)
            return c

    tvm.ir.assert_structural_equal(Simplify()(Before), Before)


def test_what_met_leaves_no_name_in_the_way() -> None:
    """The reshapes come to nothing, and the transposes on both sides of them meet."""

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 5), "float32")) -> R.Tensor((1, 3, 4, 5), "float32"):
            with R.dataflow():
                a = R.permute_dims(x, [0, 2, 1, 3])
                b = R.reshape(a, (4, 3, 5))
                c = R.reshape(b, (1, 4, 3, 5))
                d = R.permute_dims(c, [0, 2, 1, 3])
                e = R.exp(d)
                R.output(e)
            return e

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 4, 5), "float32")) -> R.Tensor((1, 3, 4, 5), "float32"):
            with R.dataflow():
                e = R.exp(x)
                R.output(e)
            return e

    tvm.ir.assert_structural_equal(Simplify()(Before), Expected)


STEPS = ("transpose", "merge", "split", "one", "zero", "cast", "silu", "sine", "sum", "join")


@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_same_numbers(data: st.DataObject) -> None:
    """Random chains of what it moves, joins and drops, over random shapes."""
    shape = data.draw(st.lists(st.integers(1, 4), min_size=3, max_size=4), "shape")
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    builder, tensors = relax.BlockBuilder(), [x]
    with builder.function("main", [x]):
        with builder.dataflow():
            for step in data.draw(st.lists(st.sampled_from(STEPS), min_size=3, max_size=12), "steps"):
                source = tensors[-1]
                sides = static_shape(source) or []
                if step == "transpose":
                    made = relax.op.permute_dims(source, data.draw(st.permutations(range(len(sides)))))
                elif step == "merge":
                    made = relax.op.reshape(source, [sides[0] * sides[1], *sides[2:]])
                elif step == "split":
                    made = relax.op.reshape(source, [1, *sides])
                elif step in ("one", "zero"):
                    number = relax.const(float(step == "one"), "float32")
                    made = (relax.op.multiply if step == "one" else relax.op.add)(source, number)
                elif step == "cast":
                    made = relax.op.astype(source, "float32")
                elif step in ("silu", "sine"):
                    made = relax.op.nn.silu(source) if step == "silu" else relax.op.sin(source)
                else:
                    # With an earlier tensor of the same shape, which may be transposed alike or not.
                    alike = [tensor for tensor in tensors if static_shape(tensor) == sides]
                    other = data.draw(st.sampled_from(alike))
                    axis = data.draw(st.integers(0, len(sides) - 1))
                    joined = relax.op.concat([source, other], axis)
                    made = relax.op.add(source, other) if step == "sum" else joined
                made_sides = static_shape(builder.normalize(made)) or []
                if 2 <= len(made_sides) <= 5 and math.prod(made_sides) < 2000:
                    tensors.append(builder.emit(made))
            output = builder.emit_output(tensors[-1])
        builder.emit_func_output(output)
    before = builder.get()
    values = np.random.default_rng(len(tensors)).standard_normal(shape).astype("float32")
    [expected] = run_relax(before, [values], WeightStore())
    [found] = run_relax(Simplify()(before), [values], WeightStore())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
