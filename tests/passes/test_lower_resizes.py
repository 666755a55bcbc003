"""Pictures that are enlarged by whole factors are copied; other resizes stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.passes.lower_resizes import LowerResizes
from tests.kit.relax_run import run_relax


def test_a_picture_is_copied() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 2, 3, 4), "float32")) -> R.Tensor((1, 4, 9, 4), "float32"):
            with R.dataflow():
                y = R.image.resize2d(x, R.shape([4, 9]), layout="NHWC", method="nearest_neighbor")
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @T.prim_func(private=True, s_tir=True)
        def resize(
            p0: T.Buffer((T.int64(1), T.int64(2), T.int64(3), T.int64(4)), "float32"),
            out: T.Buffer((T.int64(1), T.int64(4), T.int64(9), T.int64(4)), "float32"),
        ):
            for b, row, column, c in T.grid(T.int64(1), T.int64(4), T.int64(9), T.int64(4)):
                with T.sblock("resize"):
                    v_b, v_row, v_column, v_c = T.axis.remap("SSSS", [b, row, column, c])
                    out[v_b, v_row, v_column, v_c] = p0[v_b, v_row // T.int64(2), v_column // T.int64(3), v_c]

        @R.function
        def main(x: R.Tensor((1, 2, 3, 4), "float32")) -> R.Tensor((1, 4, 9, 4), "float32"):
            cls = Expected
            with R.dataflow():
                y = R.call_tir(cls.resize, (x,), out_ty=R.Tensor((1, 4, 9, 4), "float32"))
                R.output(y)
            return y

    after = LowerResizes()(Before)
    body = "[v_b, v_row, v_column, v_c] = p0[v_b, v_row // T.int64(2), v_column // T.int64(3), v_c]"
    assert body in after["resize"].script()
    assert body in Expected["resize"].script()
    tvm.ir.assert_structural_equal(after["main"], Expected["main"], map_free_vars=True)


def resized(shape: tuple[int, ...], height: int, width: int, **attributes: str) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            given = {"layout": "NHWC", "method": "nearest_neighbor", **attributes}
            y = builder.emit_output(relax.op.image.resize2d(x, (height, width), **given))
        builder.emit_func_output(y)
    return builder.get()


@pytest.mark.parametrize(
    ("height", "attributes"),
    [
        (5, {}),
        (4, {"method": "linear"}),
        (4, {"layout": "NCHW"}),
        (4, {"coordinate_transformation_mode": "align_corners"}),
        (4, {"coordinate_transformation_mode": "asymmetric", "rounding_method": "round"}),
    ],
)
def test_others_stay(height: int, attributes: dict[str, str]) -> None:
    before = resized((1, 2, 2, 2), height, 4, **attributes)
    tvm.ir.assert_structural_equal(LowerResizes()(before), before)


@settings(max_examples=8, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 3)] * 3, st.integers(1, 9)),
    down=st.integers(1, 5),
    right=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_it_is_what_pytorch_makes(shape: tuple[int, ...], down: int, right: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal(shape).astype("float32")
    module = LowerResizes()(resized(shape, shape[1] * down, shape[2] * right))
    assert "resize2d" not in str(module)
    picture = torch.from_numpy(x).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(picture, scale_factor=(down, right), mode="nearest")
    [ours] = run_relax(module, [x], WeightStore())
    np.testing.assert_array_equal(ours, theirs.permute(0, 2, 3, 1).numpy())
