from __future__ import annotations

import tvm
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler.passes.partition_at_cut import bindings_of
from ddimcache.compiler.passes.simplify import Simplify, op_name


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
