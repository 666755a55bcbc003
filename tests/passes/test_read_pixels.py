"""What is larger than the device's images is read as a buffer; the rest as pixels."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from tvm import te

from ddimcache.compiler.passes.read_pixels import ReadPixels
from ddimcache.compiler.target import profile
from ddimcache.kernels.matmul import kernel as matmul_kernel
from ddimcache.kernels.pixels import PixelSum
from ddimcache.schedules.apply import ApplySchedules
from tests.kit.kernel_run import te_function

ROWS, DEPTH, CHANNELS = 48, 64, 16
DEVICE = profile("adreno-740")


def scheduled() -> tvm.IRModule:
    def compute(x: te.Tensor, weight: te.Tensor) -> te.Tensor:
        return matmul_kernel.matmul(x, weight, None, CHANNELS, "float16", PixelSum("half"))

    arrays = [np.zeros((ROWS, DEPTH), "float16"), np.zeros((CHANNELS // 4, DEPTH, 4), "float16")]
    function = te_function(compute, arrays).with_attr("global_symbol", "main")
    with DEVICE.tvm_target():
        return ApplySchedules(DEVICE)(tvm.IRModule({"main": function}))


@pytest.mark.parametrize(
    ("most", "images"),
    [
        (ROWS * DEPTH // 4, {"p0", "p1"}),
        (ROWS * DEPTH // 4 - 1, {"p1"}),
        (CHANNELS * DEPTH // 4 - 1, set()),
    ],
)
def test_tensors_above_the_largest_image_are_read_as_buffers(most: int, images: set[str]) -> None:
    text = ReadPixels(most)(scheduled()).script()
    assert set(re.findall(r"read_imageh\W+(p\d)", text)) == images
    for name in {"p0", "p1"} - images:
        assert re.search(rf"= {name}(_\d)?\[", text), "read as a buffer"
