"""TVM's own operators by TVM's own pipelines, with and without textures, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import s_tir, te, tirx

from tests.kit import stock_programs
from tests.runtime.opencl import programs

pytestmark = pytest.mark.opencl


@pytest.mark.parametrize("target", stock_programs.TARGETS)
@pytest.mark.parametrize("name", stock_programs.PROGRAMS)
def test_float32(name: str, target: str) -> None:
    program = stock_programs.PROGRAMS[name]
    if target == "textures" and not program.images:
        target = "adreno"  # no image in it: the same program
    stock_programs.check(name, target, "float32")


def zero() -> tirx.PrimExpr:
    return tirx.const(0, "float32")


MASKS = {
    "compared": (
        lambda a, m, i, k: tirx.Select(a[i, k] > zero(), a[i, k], tirx.const(-1, "float32")),
        lambda a, m, i, k: np.where(a > 0, a, -1),
    ),
    "one for all lanes": (
        lambda a, m, i, k: tirx.Select(i > 3, a[i, k], tirx.const(-1, "float32")),
        lambda a, m, i, k: np.where(i > 3, a, -1),
    ),
    "nested": (
        lambda a, m, i, k: tirx.Select(i > 3, tirx.Select(a[i, k] > zero(), a[i, k], zero()), m[i, k]),
        lambda a, m, i, k: np.where(i > 3, np.where(a > 0, a, 0), m),
    ),
    "all of several": (
        lambda a, m, i, k: tirx.Select(tirx.all(a[i, k] > zero(), k < 3, i > 2), a[i, k], m[i, k]),
        lambda a, m, i, k: np.where((a > 0) & (k < 3) & (i > 2), a, m),
    ),
    "not": (
        lambda a, m, i, k: tirx.Select(tirx.Not(a[i, k] > zero()), a[i, k], m[i, k]),
        lambda a, m, i, k: np.where(~(a > 0), a, m),
    ),
    "counted": (
        lambda a, m, i, k: (a[i, k] > zero()).astype("float32") + (i > 3).astype("float32"),
        lambda a, m, i, k: (a > 0) * 1.0 + (i > 3),
    ),
    "of integers": (
        lambda a, m, i, k: tirx.Select(i > 3, a[i, k].astype("int32"), k).astype("float32"),
        lambda a, m, i, k: np.where(i > 3, a.astype("int32"), k),
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_truth_of_vectors(name: str, device: tvm.runtime.Device) -> None:
    """TVM takes truth for 1, OpenCL's vectors for -1: without repair, three of these are wrong."""
    compute, reference = MASKS[name]
    first = te.placeholder((8, 4), name="A", dtype="float32")
    second = te.placeholder((8, 4), name="M", dtype="float32")
    result = te.compute((8, 4), lambda i, k: compute(first, second, i, k), name="B")
    schedule = s_tir.Schedule(te.create_prim_func([first, second, result]))
    row, lane = schedule.get_loops(schedule.get_sblock("B"))
    schedule.bind(row, "threadIdx.x")
    schedule.vectorize(lane)
    function = tvm.compile(schedule.mod, target=tvm.target.Target(programs.TARGET, host="llvm"))
    a, m = (4 * np.random.default_rng(seed).standard_normal((8, 4)).astype("float32") for seed in (0, 1))
    i, k = np.meshgrid(np.arange(8), np.arange(4), indexing="ij")
    out = tvm.runtime.empty((8, 4), "float32", device)
    function(tvm.runtime.tensor(a, device), tvm.runtime.tensor(m, device), out)
    np.testing.assert_array_equal(out.numpy(), reference(a, m, i, k).astype("float32"))


def test_select_that_was_written_by_hand_is_left_alone(device: tvm.runtime.Device) -> None:
    source = """
    __kernel void pick(__global float* out) {
      vstore4(select((float4)(1), (float4)(2), (convert_int4((uint4)(1, 0, 0x80000000, 3)))), 0, out);
    }
    """
    pick = programs.kernel(source, "pick", ["handle"])
    out = tvm.runtime.empty((4,), "float32", device)
    pick(programs.handle(out), 1, 1)
    np.testing.assert_array_equal(out.numpy(), [1, 1, 2, 1])


def test_what_stock_tvm_does_with_textures(device: tvm.runtime.Device) -> None:
    """The defect that the texture pipeline is for: when this fails, TVM has mended it."""
    target = tvm.target.Target(stock_programs.TARGETS["textures"], host="llvm")
    one = te.placeholder((4,), name="A", dtype="float32")
    function = te.create_prim_func([one, te.compute((4,), lambda i: one[i], name="B")])
    with pytest.raises(TypeError, match="cannot unpack non-iterable ModulePass object"):
        tvm.compile(function, target=target, tir_pipeline="adreno")
