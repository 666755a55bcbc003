"""Kernels say how they may be fused, by TVM's analysis or their own word, and fused ones compute the same."""

from __future__ import annotations

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax, te

from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.passes.annotate_patterns import AnnotatePatterns
from ddimcache.compiler.passes.lower_products import call_kernel
from ddimcache.kernels.tags import ELEMENT_WISE
from tests.kit.relax_run import run_relax


def kernel(**attributes: object) -> tvm.IRModule:
    source = te.placeholder((8,), name="source")
    out = te.compute((8,), lambda i: source[7 - i], name="out")
    function = te.create_prim_func([source, out]).with_attrs(attributes)
    return tvm.IRModule({"main": function})


def test_a_kernel_that_says_so_is_element_wise() -> None:
    after = AnnotatePatterns()(kernel(**{ELEMENT_WISE: True}))
    tvm.ir.assert_structural_equal(after, kernel(op_pattern=0))


def test_kernels_that_say_nothing_get_what_tvm_sees() -> None:
    before = kernel()
    tvm.ir.assert_structural_equal(AnnotatePatterns()(before), relax.transform.AnnotateTIROpPattern()(before))
    assert int(AnnotatePatterns()(before)["main"].attrs["op_pattern"]) > 0


def test_leaves_alone_what_has_no_kernels_and_what_kernels_bring_along() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([8], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            output = builder.emit_output(relax.op.exp(x))
        builder.emit_func_output(output)
    for module in (builder.get(), kernel(op_pattern=4)):
        tvm.ir.assert_structural_equal(AnnotatePatterns()(module), module)


@given(
    sides=st.tuples(st.integers(1, 5), st.integers(1, 9)),
    offsets=st.lists(st.none() | st.integers(0, 6), min_size=2, max_size=6),
)
@settings(max_examples=5, deadline=None)
def test_what_is_fused_by_it_computes_the_same(sides: tuple[int, int], offsets: list[int | None]) -> None:
    """Activations and sums with a row that lies at an offset, in any order, become one kernel."""
    height, width = sides
    x = relax.Var("x", relax.TensorType([height, width], "float32"))
    row = relax.Var("row", relax.TensorType([width + 6], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, row]):
        with builder.dataflow():
            value: relax.Expr = x
            for offset in offsets:
                if offset is None:
                    value = builder.emit(relax.op.nn.silu(value))
                    continue

                def add(source: te.Tensor, row: te.Tensor, offset: int = offset) -> te.Tensor:
                    return te.compute(source.shape, lambda i, j: source[i, j] + row[j + offset])

                value = builder.emit(call_kernel(builder, "add_row", add, [value, row], {ELEMENT_WISE: True}))
            output = builder.emit_output(relax.op.negative(value))
        builder.emit_func_output(output)
    before = relax.transform.LegalizeOps()(builder.get())
    after = AnnotatePatterns()(before)
    assert not any(ELEMENT_WISE in (function.attrs or {}) for _, function in after.functions_items())
    fused = relax.transform.FuseTIR()(relax.transform.FuseOps()(after))
    assert len(fused["main"].body.blocks[0].bindings) == 1
    random = np.random.default_rng(len(offsets))
    inputs = [random.standard_normal(shape).astype("float32") for shape in ((height, width), (width + 6,))]
    [expected] = run_relax(before, inputs, WeightStore())
    [found] = run_relax(fused, inputs, WeightStore())
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
