"""A part of the packed row joins the kernel before it; other additions stay as they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.passes.annotate_patterns import AnnotatePatterns
from ddimcache.compiler.passes.lower_row_adds import LowerRowAdds
from ddimcache.compiler.passes.simplify import op_name
from ddimcache.compiler.pipeline import operators
from ddimcache.kernels.tags import ELEMENT_WISE
from tests.kit.relax_run import run_relax


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor((1, 2, 3, 4), "float32"), times: R.Tensor((1, 9), "float32")) -> R.Tensor(
        (1, 2, 3, 4), "float32"
    ):
        with R.dataflow():
            part = R.strided_slice(times, [1], [5], [9], assume_inbound=True)
            row = R.reshape(part, (1, 1, 1, 4))
            y = R.add(x, row)
            R.output(y)
        return y


@I.ir_module
class Expected:
    @T.prim_func(private=True, s_tir=True)
    def add_row(
        p0: T.Buffer((T.int64(1), T.int64(2), T.int64(3), T.int64(4)), "float32"),
        p1: T.Buffer((T.int64(1), T.int64(9)), "float32"),
        add_row: T.Buffer((T.int64(1), T.int64(2), T.int64(3), T.int64(4)), "float32"),
    ):
        T.func_attr({"ddimcache.element_wise": True, "tirx.noalias": True})
        for i0, i1, i2, i3 in T.grid(T.int64(1), T.int64(2), T.int64(3), T.int64(4)):
            with T.sblock("add_row"):
                v0, v1, v2, v3 = T.axis.remap("SSSS", [i0, i1, i2, i3])
                T.reads(p0[v0, v1, v2, v3], p1[T.int64(0), v3 + T.int64(5)])
                T.writes(add_row[v0, v1, v2, v3])
                add_row[v0, v1, v2, v3] = p0[v0, v1, v2, v3] + p1[T.int64(0), v3 + T.int64(5)]

    @R.function
    def main(x: R.Tensor((1, 2, 3, 4), "float32"), times: R.Tensor((1, 9), "float32")) -> R.Tensor(
        (1, 2, 3, 4), "float32"
    ):
        cls = Expected
        with R.dataflow():
            part = R.strided_slice(times, [1], [5], [9], assume_inbound=True)
            _row = R.reshape(part, (1, 1, 1, 4))
            y = R.call_tir(cls.add_row, (x, times), out_ty=R.Tensor((1, 2, 3, 4), "float32"))
            R.output(y)
        return y


def test_the_part_is_read_at_its_place() -> None:
    lowered = LowerRowAdds()(Before)
    tvm.ir.assert_structural_equal(lowered["main"], Expected["main"], map_free_vars=True)
    # Only the types of bounds differ from what is written above.
    assert lowered["add_row"].script().count("+ T.int64(5)]") == 2


def test_it_counts_as_element_wise() -> None:
    """With an offset TVM's own analysis says less, and the kernel would not join the one before it."""
    module = AnnotatePatterns()(LowerRowAdds()(Before))
    assert int(module["add_row"].attrs["op_pattern"]) == 0
    assert ELEMENT_WISE not in module["add_row"].attrs


def added(shape: list[int], times: list[int], compute: Callable[..., relax.Expr]) -> tvm.IRModule:
    """``x + row`` where ``compute`` makes the row of ``times``."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    packed = relax.Var("times", relax.TensorType(times, "float32"))
    with builder.function("main", [x, packed]):
        with builder.dataflow():
            row = compute(builder.emit, packed)
            output = builder.emit_output(relax.op.add(x, row))
        builder.emit_func_output(output)
    return builder.get()


def part(emit: Callable[..., relax.Var], packed: relax.Var, begin: int, end: int) -> relax.Var:
    return emit(relax.op.strided_slice(packed, [1], [begin], [end], assume_inbound=True))


@pytest.mark.parametrize(
    ("shape", "times", "compute"),
    [
        ([1, 2, 4], [1, 4], lambda emit, packed: emit(relax.op.reshape(packed, [1, 1, 4]))),
        ([2, 3, 4], [2, 5], lambda emit, packed: emit(relax.op.reshape(part(emit, packed, 0, 4), [2, 1, 4]))),
        ([1, 4, 2], [1, 5], lambda emit, packed: emit(relax.op.reshape(part(emit, packed, 0, 4), [1, 4, 1]))),
        ([1, 2, 4], [1, 8], lambda emit, packed: emit(relax.op.reshape(part(emit, packed, 0, 8), [1, 2, 4]))),
    ],
    ids=["no part", "several rows", "not along channels", "a part of every pixel"],
)
def test_leaves_alone(shape: list[int], times: list[int], compute: Callable[..., relax.Expr]) -> None:
    before = added(shape, times, compute)
    tvm.ir.assert_structural_equal(LowerRowAdds()(before), before, map_free_vars=True)


@given(
    batch=st.integers(1, 3),
    sides=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    channels=st.integers(1, 6),
    before=st.integers(0, 3),
    behind=st.integers(0, 3),
    data=st.data(),
)
@settings(max_examples=8, deadline=None)
def test_same_numbers(
    batch: int, sides: list[int], channels: int, before: int, behind: int, data: st.DataObject
) -> None:
    repeats = data.draw(st.booleans(), label="repeats")

    def row(emit: Callable[..., relax.Var], packed: relax.Var) -> relax.Expr:
        taken = part(emit, packed, before, before + channels)
        if repeats:
            taken = emit(relax.op.broadcast_to(taken, [batch, channels]))
        lead = batch if repeats else 1
        return emit(relax.op.reshape(taken, [lead, *[1] * len(sides), channels]))

    width = before + channels + behind
    module = added([batch, *sides, channels], [1, width], row)
    lowered = LowerRowAdds()(module)
    # Only this shape is a row for every pixel and no more.
    assert operators(lowered)["add"] == 0
    assert op_name(lowered["main"].body.blocks[0].bindings[-1].value) in ("relax.call_tir", "")
    random = np.random.default_rng(width)
    inputs = [
        random.standard_normal((batch, *sides, channels), dtype=np.float32),
        random.standard_normal((1, width), dtype=np.float32),
    ]
    [expected], [found] = (run_relax(each, inputs, WeightStore()) for each in (module, lowered))
    assert np.array_equal(expected, found)
