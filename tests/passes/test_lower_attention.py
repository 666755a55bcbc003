"""Attention becomes a call of its kernel, which reads merged projections where they lie."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.passes.lower_attention import LowerAttention, attention_kernel
from ddimcache.compiler.passes.simplify import op_name
from ddimcache.compiler.target import profile
from ddimcache.errors import FrontendError
from ddimcache.kernels.attention import reference
from ddimcache.kernels.attention.kernel import Place
from ddimcache.kernels.workload import Workload, tagged
from tests.kit.relax_run import run_relax

PROFILE = profile("llvm")


def self_attention(lowered: bool) -> tvm.IRModule:
    """Over the query, key and value that lie side by side in rows of 24: as they are, or by the kernel."""
    z = relax.Var("z", relax.TensorType([2, 5, 24], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [z]):
        with builder.dataflow():
            if lowered:
                places = tuple(Place(24, begin) for begin in (0, 8, 16))
                workload = Workload("attention", (2, 5, 5, 2, 4), "float32")
                kernel = attention_kernel(PROFILE, workload, 0.5, {"has_bias": False, "places": places})
                variable = builder.add_func(tagged(kernel, workload, None), "attention")
                none = relax.const(np.zeros((1, 1), np.float32))
                out = relax.TensorType([2, 5, 2, 4], "float32")
                output = builder.emit_output(relax.call_tir(variable, [z, z, z, none], out))
            else:
                parts = [
                    builder.emit(
                        relax.op.reshape(
                            builder.emit(
                                relax.op.strided_slice(z, [2], [begin], [begin + 8], assume_inbound=True)
                            ),
                            [2, 5, 2, 4],
                        )
                    )
                    for begin in (0, 8, 16)
                ]
                output = builder.emit_output(relax.op.nn.attention(*parts, scale=0.5))
        builder.emit_func_output(output)
    return builder.get()


def test_one_kernel_reads_all_three_in_place() -> None:
    after = relax.transform.DeadCodeElimination(["main"])(LowerAttention(PROFILE)(self_attention(False)))
    tvm.ir.assert_structural_equal(after, self_attention(True), map_free_vars=True)


def test_leaves_alone_what_is_no_attention() -> None:
    x = relax.Var("x", relax.TensorType([2, 4, 4], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            scores = builder.emit(relax.op.nn.softmax(builder.emit(relax.op.matmul(x, x)), -1))
            output = builder.emit_output(relax.op.matmul(scores, x))
        builder.emit_func_output(output)
    module = builder.get()
    tvm.ir.assert_structural_equal(LowerAttention(PROFILE)(module), module)


def attended(shapes: list[tuple[int, ...]], bias: str, scale: float | None) -> tvm.IRModule:
    operands = [relax.Var(name, relax.TensorType(shape, "float32")) for name, shape in zip("qkvb", shapes)]  # noqa: B905
    builder = relax.BlockBuilder()
    with builder.function("main", operands):
        with builder.dataflow():
            q, k, v, *given_bias = operands
            causal = "TopLeft" if "causal" in bias else None
            value = relax.op.nn.attention(q, k, v, *given_bias, scale=scale, causal_mask=causal)
            output = builder.emit_output(value)
        builder.emit_func_output(output)
    return builder.get()


@given(
    sides=st.tuples(st.integers(1, 2), st.integers(1, 20), st.integers(1, 20), st.integers(1, 3)),
    width=st.sampled_from([1, 3, 8, 40, 64]),
    bias=st.sampled_from(["none", "given", "causal", "causal and given"]),
    scale=st.sampled_from([None, 0.3]),
)
@settings(max_examples=6, deadline=None)
def test_the_kernel_attends_as_it_is_written(
    sides: tuple[int, int, int, int], width: int, bias: str, scale: float | None
) -> None:
    batch, queries, tokens, heads = sides
    shapes = [(batch, queries, heads, width), *[(batch, tokens, heads, width)] * 2]
    if "given" in bias:
        shapes.append((1, 1, queries, tokens))
    random = np.random.default_rng(sum(sides))
    arrays = [random.standard_normal(shape).astype("float32") for shape in shapes]
    lowered = LowerAttention(PROFILE)(attended(shapes, bias, scale))
    names = [op_name(binding.value) for binding in lowered["main"].body.blocks[0].bindings]
    assert names.count("relax.call_tir") == 1
    [found] = run_relax(lowered, arrays, WeightStore())
    added = np.zeros((tokens, queries))
    if "given" in bias:
        added += arrays[3][0, 0].T
    if "causal" in bias:
        added += np.where(np.arange(tokens)[:, None] <= np.arange(queries)[None, :], 0.0, -1e30)
    expected = reference.attention(*arrays[:3], scale or width**-0.5, added)
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(1, 4, 2, 8), (1, 5, 2, 8), (1, 5, 2, 6)], "keys and values of one known shape"),
        ([(1, 4, 2, 8), (1, 5, 2, 8), (1, 5, 2, 8), (1, 2, 4, 5)], "one for all heads"),
    ],
)
def test_what_no_kernel_computes_is_refused(shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(FrontendError, match=message):
        LowerAttention(PROFILE)(attended(shapes, "none", None))
