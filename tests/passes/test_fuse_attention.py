"""Attention that is written out becomes one operator; what only looks like it stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from diffusers.models.attention_processor import AttnProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler import pipeline
from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
from ddimcache.compiler.frontend.unet import import_unet
from ddimcache.compiler.passes.fuse_attention import FuseAttention
from ddimcache.compiler.passes.lower_attention import LowerAttention
from ddimcache.compiler.passes.simplify import Simplify, op_name
from ddimcache.compiler.target import profile
from tests.kit.family import stand_in
from tests.kit.relax_run import run_relax


@I.ir_module
class WrittenOut:
    @R.function
    def main(
        q: R.Tensor((2, 3, 7, 4), "float32"),
        k: R.Tensor((2, 3, 5, 4), "float32"),
        v: R.Tensor((2, 3, 5, 4), "float32"),
        b: R.Tensor((7, 5), "float32"),
    ) -> R.Tensor((2, 3, 7, 4), "float32"):
        with R.dataflow():
            t = R.permute_dims(k, [0, 1, 3, 2])
            s = R.matmul(q, t)
            m = R.divide(s, R.const(2.0))
            a = R.add(m, b)
            p = R.nn.softmax(a, axis=-1)
            y = R.matmul(p, v)
            R.output(y)
        return y


@I.ir_module
class Fused:
    @R.function
    def main(
        q: R.Tensor((2, 3, 7, 4), "float32"),
        k: R.Tensor((2, 3, 5, 4), "float32"),
        v: R.Tensor((2, 3, 5, 4), "float32"),
        b: R.Tensor((7, 5), "float32"),
    ) -> R.Tensor((2, 3, 7, 4), "float32"):
        with R.dataflow():
            qt = R.permute_dims(q, [0, 2, 1, 3])
            kt = R.permute_dims(k, [0, 2, 1, 3])
            vt = R.permute_dims(v, [0, 2, 1, 3])
            bt = R.reshape(b, (1, 1, 7, 5))
            a = R.nn.attention(qt, kt, vt, bt, scale=0.5)
            at = R.permute_dims(a, [0, 2, 1, 3])
            y = R.reshape(at, (2, 3, 7, 4))
            R.output(y)
        return y


def test_scores_softmax_and_product_become_one_operator() -> None:
    tvm.ir.assert_structural_equal(FuseAttention()(WrittenOut), Fused)


@I.ir_module
class OneBatch:
    """Heads are rows of the batch, as diffusers' plain processor has them."""

    @R.function
    def main(q: R.Tensor((2, 7, 12), "float32"), k: R.Tensor((2, 5, 12), "float32")) -> R.Tensor(
        (6, 7, 4), "float32"
    ):
        with R.dataflow():
            q3 = R.reshape(R.permute_dims(R.reshape(q, (2, 7, 3, 4)), [0, 2, 1, 3]), (6, 7, 4))
            k3 = R.reshape(R.permute_dims(R.reshape(k, (2, 5, 3, 4)), [0, 2, 1, 3]), (6, 5, 4))
            s = R.multiply(R.matmul(q3, R.permute_dims(k3, [0, 2, 1])), R.const(0.5))
            y = R.matmul(R.nn.softmax(s, axis=-1), k3)
            R.output(y)
        return y


def test_heads_that_were_rows_are_found_again() -> None:
    module = Simplify()(FuseAttention()(relax.transform.Normalize()(OneBatch)))
    values = [binding.value for binding in module["main"].body.blocks[0].bindings]
    names = [op_name(value).removeprefix("relax.") for value in values]
    # The transposes have met the model's own; only what the model did behind attention is left.
    assert names == ["reshape", "reshape", "nn.attention", "permute_dims", "reshape"]


Write = Callable[[relax.BlockBuilder, relax.Var, relax.Var, relax.Var], list[relax.Expr]]


def built(write: Write, width: int = 4, dtype: str = "float32") -> tvm.IRModule:
    """What ``write`` makes of a query, a key and a value of 3 heads, of 6, 5 and 5 tokens."""
    shapes = {"q": (1, 3, 6, 4), "k": (1, 3, 5, 4), "v": (1, 3, 5, width)}
    q, k, v = (relax.Var(name, relax.TensorType(shape, dtype)) for name, shape in shapes.items())
    builder = relax.BlockBuilder()
    with builder.function("main", [q, k, v]):
        with builder.dataflow():
            results = [builder.normalize(result) for result in write(builder, q, k, v)]
            output = builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
        builder.emit_func_output(output)
    return relax.transform.CanonicalizeBindings()(builder.get())


def scores(builder: relax.BlockBuilder, q: relax.Var, k: relax.Var) -> relax.Var:
    return builder.emit(relax.op.matmul(q, builder.emit(relax.op.permute_dims(k, [0, 1, 3, 2]))))


def softmax(builder: relax.BlockBuilder, s: relax.Var, axis: int = -1) -> relax.Var:
    return builder.emit(relax.op.nn.softmax(s, axis))


def reads_scores_twice(builder: relax.BlockBuilder, q: relax.Var, k: relax.Var, v: relax.Var) -> list:
    s = scores(builder, q, k)
    return [builder.emit(relax.op.matmul(softmax(builder, s), v)), s]


def reads_weights_twice(builder: relax.BlockBuilder, q: relax.Var, k: relax.Var, v: relax.Var) -> list:
    p = softmax(builder, scores(builder, q, k))
    return [builder.emit(relax.op.matmul(p, v)), p]


def over_queries(builder: relax.BlockBuilder, q: relax.Var, k: relax.Var, v: relax.Var) -> list:
    return [builder.emit(relax.op.matmul(softmax(builder, scores(builder, q, k), 2), v))]


def scaled_after_bias(builder: relax.BlockBuilder, q: relax.Var, k: relax.Var, v: relax.Var) -> list:
    biased = builder.emit(relax.op.add(scores(builder, q, k), relax.const(np.ones((6, 5), "float32"))))
    scaled = builder.emit(relax.op.multiply(biased, relax.const(0.5)))
    return [builder.emit(relax.op.matmul(softmax(builder, scaled), v))]


def bias_for_each_head(builder: relax.BlockBuilder, q: relax.Var, k: relax.Var, v: relax.Var) -> list:
    bias = relax.const(np.ones((1, 3, 6, 5), "float32"))
    return [
        builder.emit(
            relax.op.matmul(softmax(builder, builder.emit(relax.op.add(scores(builder, q, k), bias))), v)
        )
    ]


def without_softmax(builder: relax.BlockBuilder, q: relax.Var, k: relax.Var, v: relax.Var) -> list:
    return [builder.emit(relax.op.matmul(builder.emit(relax.op.exp(scores(builder, q, k))), v))]


def plain(builder: relax.BlockBuilder, q: relax.Var, k: relax.Var, v: relax.Var) -> list:
    return [builder.emit(relax.op.matmul(softmax(builder, scores(builder, q, k)), v))]


@pytest.mark.parametrize(
    "module",
    [
        built(reads_scores_twice),
        built(reads_weights_twice),
        built(over_queries),
        built(scaled_after_bias),
        built(bias_for_each_head),
        built(without_softmax),
        built(plain, width=8),  # no kernel has values of another width
    ],
)
def test_leaves_alone(module: tvm.IRModule) -> None:
    tvm.ir.assert_structural_equal(FuseAttention()(module), module, map_free_vars=True)


@given(
    sides=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    width=st.integers(1, 9),
    scaled=st.lists(st.sampled_from(["query", "key", "turned", "scores"]), max_size=3, unique=True),
    biased=st.booleans(),
    ranks=st.sampled_from([3, 4]),
)
@settings(max_examples=8, deadline=None)
def test_the_result_is_the_same(
    sides: tuple[int, int, int, int], width: int, scaled: list[str], biased: bool, ranks: int
) -> None:
    batch, heads, queries, tokens = sides
    lead = (batch, heads) if ranks == 4 else (batch * heads,)
    shapes = [(*lead, queries, width), (*lead, tokens, width), (*lead, tokens, width)]
    q, k, v = (relax.Var(n, relax.TensorType(s, "float32")) for n, s in zip("qkv", shapes, strict=True))
    builder = relax.BlockBuilder()
    half = relax.const(0.5)
    random = np.random.default_rng(sum(sides))
    bias = random.standard_normal((queries, tokens)).astype("float32")
    with builder.function("main", [q, k, v]):
        with builder.dataflow():
            left = builder.emit(relax.op.multiply(q, half)) if "query" in scaled else q
            right = builder.emit(relax.op.multiply(half, k)) if "key" in scaled else k
            order = [*range(len(lead)), len(lead) + 1, len(lead)]
            right = builder.emit(relax.op.permute_dims(right, order))
            right = builder.emit(relax.op.divide(right, half)) if "turned" in scaled else right
            s = builder.emit(relax.op.matmul(left, right))
            s = builder.emit(relax.op.multiply(s, half)) if "scores" in scaled else s
            s = builder.emit(relax.op.add(relax.const(bias), s)) if biased else s
            output = builder.emit_output(relax.op.matmul(softmax(builder, s), v))
        builder.emit_func_output(output)
    before = builder.get()
    after = FuseAttention()(before)
    names = [op_name(binding.value) for binding in after["main"].body.blocks[0].bindings]
    assert sum(name.startswith("relax.nn.attention") for name in names) == 1
    assert "relax.matmul" not in names
    inputs = [random.standard_normal(shape).astype("float32") for shape in shapes]
    [expected] = run_relax(before, inputs, WeightStore())
    [found] = run_relax(LowerAttention(profile("llvm"))(after), inputs, WeightStore())
    assert np.abs(expected - found).max() <= 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_unet_that_writes_its_attention_out_becomes_that_of_others(dtype: str) -> None:
    """diffusers' plain processor: heads in the batch, scores by ``baddbmm``, softmax, ``bmm``."""
    device, made = profile("llvm"), []
    for processor in (None, AttnProcessor()):
        folder = load_pipeline_folder(stand_in("tiny-sd15"))
        unet = folder.load_unet()
        if processor is not None:
            unet.set_attn_processor(processor)
        asked = pipeline.Request(
            import_unet(unet, 1, *folder.latent_size, folder.text_length, dtype), device, "fp16", "main", 0
        )
        compilation = pipeline.start(asked)
        with device.tvm_target():
            for name, phase in pipeline.phases(asked, compilation):
                compilation.module = phase(compilation.module)
                if name == "lower attention":
                    break
        made.append(compilation)
    ours, theirs = made
    operators = pipeline.operators(ours.module)
    assert operators["kernel attention"] > 10
    assert operators == pipeline.operators(theirs.module)
    assert ours.macs == theirs.macs
