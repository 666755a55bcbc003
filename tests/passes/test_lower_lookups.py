"""Tables that a caller's numbers are looked up in become int8, row by row; other tables stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from ddimcache.compiler.compress.quantize import stored_values
from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.passes.lower_lookups import LowerLookups
from ddimcache.compiler.pipeline import operators
from tests.kit.relax_run import run_relax


@I.ir_module
class Before:
    @R.function
    def main(ids: R.Tensor((1, 3), "int32"), tokens: R.Tensor((20, 16), "float32")) -> R.Tensor(
        (3, 16), "float32"
    ):
        with R.dataflow():
            flat = R.reshape(ids, R.shape([3]))
            y = R.take(tokens, flat, axis=0, mode="clip")
            R.output(y)
        return y


@I.ir_module
class Expected:
    @T.prim_func(private=True, s_tir=True)
    def lookup(
        p0: T.Buffer((T.int64(20), T.int64(16)), "int8"),
        p1: T.Buffer((T.int64(20),), "float32"),
        p2: T.Buffer((T.int64(3),), "int32"),
        lookup: T.Buffer((T.int64(3), T.int64(16)), "float32"),
    ):
        T.evaluate(0)

    @R.function
    def main(
        ids: R.Tensor((1, 3), "int32"),
        tokens: R.Tensor((20, 16), "float32"),
        numbers: R.Tensor((20, 16), "int8"),
        scale: R.Tensor((20,), "float32"),
    ) -> R.Tensor((3, 16), "float32"):
        cls = Expected
        with R.dataflow():
            flat = R.reshape(ids, R.shape([3]))
            y = R.call_tir(cls.lookup, (numbers, scale, flat), out_ty=R.Tensor((3, 16), "float32"))
            R.output(y)
        return y


def table(rows: int = 20, channels: int = 16) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, channels)).astype("float32")


def store_of(tokens: np.ndarray) -> WeightStore:
    import torch

    return WeightStore.from_torch({"tokens": torch.from_numpy(tokens)})


def lookup(rows: int, channels: int, count: int, dtype: str = "float32") -> tvm.IRModule:
    """``count`` rows of a table of tokens."""
    ids = relax.Var("ids", relax.TensorType([count], "int32"))
    tokens = relax.Var("tokens", relax.TensorType([rows, channels], dtype))
    builder = relax.BlockBuilder()
    with builder.function("main", [ids, tokens]):
        with builder.dataflow():
            output = builder.emit_output(relax.op.take(tokens, ids, axis=0, mode="clip"))
        builder.emit_func_output(output)
    return builder.get()


def test_a_table_becomes_int8() -> None:
    lowerer = LowerLookups(store_of(table()), "int8", {"main": 1})
    lowered = lowerer(Before)
    tvm.ir.assert_structural_equal(lowered["main"], Expected["main"], map_free_vars=True)
    assert [parameter.name for parameter in lowered["main"].params[2:]] == ["tokens@int8", "tokens@scale"]
    assert lowerer.note == "1 tables in int8, one scale a row"


@given(
    rows=st.integers(3, 40),
    channels=st.integers(3, 40),
    ids=st.lists(st.integers(-3, 45), min_size=1, max_size=6),
    kind=st.sampled_from(["int8", "int8-g32"]),
)
@example(rows=20, channels=8, ids=[3, -1, 20], kind="int8-g32")
@settings(max_examples=6, deadline=None)
def test_it_computes_what_the_rounded_table_has(rows: int, channels: int, ids: list[int], kind: str) -> None:
    numbers = table(rows, channels)
    store = store_of(numbers)
    [found] = run_relax(
        LowerLookups(store, kind, {"main": 1})(lookup(rows, channels, len(ids))),
        [np.array(ids, dtype="int32")],
        store,
    )
    expected = stored_values(numbers, kind, table=True)[np.clip(ids, 0, rows - 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@I.ir_module
class Others:
    """Positions, a table that is not clipped, columns, and a table that is an input itself."""

    @R.function
    def main(
        ids: R.Tensor((3,), "int32"),
        given_table: R.Tensor((20, 16), "float32"),
        tokens: R.Tensor((20, 16), "float32"),
    ):
        with R.dataflow():
            positions = R.take(tokens, R.const([0, 1, 2], "int32"), axis=0, mode="clip")
            fast = R.take(tokens, ids, axis=0, mode="fast")
            columns = R.take(tokens, ids, axis=1, mode="clip")
            own = R.take(given_table, ids, axis=0, mode="clip")
            out = (positions, fast, columns, own)
            R.output(out)
        return out


def test_leaves_other_lookups_alone() -> None:
    tvm.ir.assert_structural_equal(LowerLookups(store_of(table()), "int8", {"main": 2})(Others), Others)


@pytest.mark.parametrize("weights", ["fp16", "fp32"])
def test_leaves_tables_alone_where_weights_are_not_int8(weights: str) -> None:
    assert LowerLookups(store_of(table()), weights, {"main": 1})(Before).same_as(Before)


@pytest.mark.parametrize(("channels", "kept"), [(16, True), (8, False)])
def test_a_table_that_is_kept_and_a_narrow_one_are_rounded_to_fp16(channels: int, kept: bool) -> None:
    store = store_of(numbers := table(20, channels))
    lowerer = LowerLookups(store, "int8", {"main": 1}, lambda name: kept)
    module = lowerer(lookup(20, channels, 3))
    assert operators(module)["take"] == 1
    assert lowerer.note == "1 tables in fp16"
    assert [parameter.name for parameter in module["main"].params[2:]] == ["tokens@fp16"]
    np.testing.assert_array_equal(store.array("tokens@fp16"), numbers.astype("float16").astype("float32"))


def test_leaves_a_narrow_table_of_float16_alone() -> None:
    before = lookup(20, 8, 3, "float16")
    store = store_of(table(20, 8).astype("float16"))
    tvm.ir.assert_structural_equal(LowerLookups(store, "int8", {"main": 1})(before), before)
