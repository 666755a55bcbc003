"""Linear layers of one input become one product, and nothing else does."""

from __future__ import annotations

import numpy as np
import tvm
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler.compress.weights import Weight, WeightStore
from ddimcache.compiler.passes.lower_attention import LowerAttention
from ddimcache.compiler.passes.merge_projections import MergeProjections
from ddimcache.compiler.passes.simplify import op_name
from ddimcache.compiler.target import profile
from tests.kit.relax_run import run_relax


def store(**shapes: tuple[int, ...]) -> WeightStore:
    random = np.random.default_rng(2)
    result = WeightStore()
    for name, shape in shapes.items():
        array = random.standard_normal(shape).astype("float32")
        result.add(name, Weight(shape, "float32", lambda array=array: array))  # type: ignore[misc]
    return result


@I.ir_module
class SelfAttention:
    @R.function
    def main(
        x: R.Tensor((2, 5, 6), "float32"),
        wq: R.Tensor((8, 6), "float32"),
        wk: R.Tensor((8, 6), "float32"),
        wv: R.Tensor((8, 6), "float32"),
    ) -> R.Tensor((2, 5, 2, 4), "float32"):
        with R.dataflow():
            tq = R.permute_dims(wq, [1, 0])
            q = R.matmul(x, tq)
            tk = R.permute_dims(wk, [1, 0])
            k = R.matmul(x, tk)
            tv = R.permute_dims(wv, [1, 0])
            v = R.matmul(x, tv)
            qs = R.reshape(q, (2, 5, 2, 4))
            ks = R.reshape(k, (2, 5, 2, 4))
            vs = R.reshape(v, (2, 5, 2, 4))
            out = R.nn.attention(qs, ks, vs, scale=0.5)
            R.output(out)
        return out


@I.ir_module
class MergedSelfAttention:
    @R.function
    def main(
        x: R.Tensor((2, 5, 6), "float32"),
        wq: R.Tensor((8, 6), "float32"),
        wk: R.Tensor((8, 6), "float32"),
        wv: R.Tensor((8, 6), "float32"),
        merged: R.Tensor((24, 6), "float32"),
    ) -> R.Tensor((2, 5, 2, 4), "float32"):
        with R.dataflow():
            turned = R.permute_dims(merged, [1, 0])
            z = R.matmul(x, turned)
            q = R.strided_slice(z, [2], [0], [8], assume_inbound=True)
            k = R.strided_slice(z, [2], [8], [16], assume_inbound=True)
            v = R.strided_slice(z, [2], [16], [24], assume_inbound=True)
            qs = R.reshape(q, (2, 5, 2, 4))
            ks = R.reshape(k, (2, 5, 2, 4))
            vs = R.reshape(v, (2, 5, 2, 4))
            out = R.nn.attention(qs, ks, vs, scale=0.5)
            R.output(out)
        return out


WEIGHTS = {"wq": (8, 6), "wk": (8, 6), "wv": (8, 6)}


def test_query_key_and_value_become_one_product() -> None:
    weights = store(**WEIGHTS)
    module = MergeProjections(weights, {"main": 1})(SelfAttention)
    tvm.ir.assert_structural_equal(module, MergedSelfAttention, map_free_vars=True)
    parts = [weights.array(name) for name in ("wq", "wk", "wv")]
    assert np.array_equal(weights.array("wq+2"), np.concatenate(parts))


def test_attention_reads_the_merged_product_in_place() -> None:
    weights = store(**WEIGHTS)
    merged = LowerAttention(profile("llvm"))(MergeProjections(weights, {"main": 1})(SelfAttention))
    values = [binding.value for binding in merged["main"].body.blocks[0].bindings]
    q, k, v, _ = next(value for value in values if op_name(value) == "relax.call_tir").args[1]
    assert q.same_as(k)
    assert k.same_as(v)
    x = np.random.default_rng(4).standard_normal((2, 5, 6)).astype("float32")
    [before] = run_relax(LowerAttention(profile("llvm"))(SelfAttention), [x], weights)
    [after] = run_relax(merged, [x], weights)
    assert np.abs(before - after).max() <= 1e-6


@I.ir_module
class KeyUsedTwice:
    """The key has another reader and the value another input, so there is nothing to merge."""

    @R.function
    def main(
        x: R.Tensor((1, 5, 6), "float32"),
        y: R.Tensor((1, 5, 6), "float32"),
        wq: R.Tensor((8, 6), "float32"),
        wk: R.Tensor((8, 6), "float32"),
        wv: R.Tensor((8, 6), "float32"),
    ) -> R.Tuple(R.Tensor((1, 5, 2, 4), "float32"), R.Tensor((1, 5, 8), "float32")):
        with R.dataflow():
            tq = R.permute_dims(wq, [1, 0])
            q = R.matmul(x, tq)
            tk = R.permute_dims(wk, [1, 0])
            k = R.matmul(x, tk)
            tv = R.permute_dims(wv, [1, 0])
            v = R.matmul(y, tv)
            qs = R.reshape(q, (1, 5, 2, 4))
            ks = R.reshape(k, (1, 5, 2, 4))
            vs = R.reshape(v, (1, 5, 2, 4))
            out = R.nn.attention(qs, ks, vs, scale=0.5)
            result = (out, k)
            R.output(result)
        return result


def test_leaves_products_with_other_readers_and_inputs_alone() -> None:
    module = MergeProjections(store(**WEIGHTS), {"main": 2})(KeyUsedTwice)
    tvm.ir.assert_structural_equal(module, KeyUsedTwice, map_free_vars=True)


def test_leaves_products_that_are_asked_to_differ_alone() -> None:
    def asked(weight: str, function: str) -> object:
        return function == "main" and weight == "wv"

    module = MergeProjections(store(**WEIGHTS), {"main": 1}, asked)(SelfAttention)
    tvm.ir.assert_structural_equal(module, SelfAttention, map_free_vars=True)


def joined(rows: int, depth: int, sizes: list[int], bias: bool) -> tvm.IRModule:
    """``concat`` of linear layers over one input, as ``HoistInvariants`` leaves them."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, rows, depth), "float32"))
    weights = [relax.Var(f"w{i}", relax.TensorType((size, depth), "float32")) for i, size in enumerate(sizes)]
    biases = [relax.Var(f"b{i}", relax.TensorType((size,), "float32")) for i, size in enumerate(sizes)]
    with builder.function("main", [x, *weights, *(biases if bias else [])]):
        with builder.dataflow():
            results = []
            for weight, offset in zip(weights, biases, strict=True):
                turned = builder.emit(relax.op.permute_dims(weight, [1, 0]))
                product = builder.emit(relax.op.matmul(x, turned))
                results.append(builder.emit(relax.op.add(product, offset)) if bias else product)
            output = builder.emit_output(relax.op.concat(results, axis=-1))
        builder.emit_func_output(output)
    return builder.get()


@given(
    rows=st.integers(1, 5),
    depth=st.integers(1, 12),
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=4),
    bias=st.booleans(),
)
@settings(max_examples=8, deadline=None)
@example(rows=2, depth=9, sizes=[8, 9], bias=True)
@example(rows=2, depth=8, sizes=[8, 9], bias=True)
@example(rows=2, depth=12, sizes=[9, 20, 9], bias=False)
def test_joined_layers_become_one_product(rows: int, depth: int, sizes: list[int], bias: bool) -> None:
    before = joined(rows, depth, sizes, bias)
    weights = store(
        **{f"w{i}": (size, depth) for i, size in enumerate(sizes)},
        **{f"b{i}": (size,) for i, size in enumerate(sizes)},
    )
    after = MergeProjections(weights, {"main": 1})(before)
    names = [binding.value.op.name for binding in after["main"].body.blocks[0].bindings]
    # A layer of 8 channels or fewer on a side keeps float16, and would be rounded as a part of a larger one.
    kept = depth <= 8 or (min(sizes) <= 8 and sum(sizes) <= 8)
    if kept or min(sizes) > 8:
        assert names == ["relax.permute_dims", "relax.matmul"] + ["relax.add"] * bias
    else:
        assert names.count("relax.matmul") == len(sizes)
    x = np.random.default_rng(5).standard_normal((1, rows, depth)).astype("float32")
    [expected], [found] = run_relax(before, [x], weights), run_relax(after, [x], weights)
    assert np.abs(expected - found).max() <= 1e-5 * max(1.0, np.abs(expected).max())
