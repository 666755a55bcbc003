"""What is demanded of products (``adreno/bars.py``), of shapes whose registers are short.

A bundle of SD 1.5 has them too; these take seconds, and others' sizes and options are among them.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from tvm import tirx

from ddimcache.adreno.bars import broken
from ddimcache.adreno.report import statistics_of, with_work_sizes
from ddimcache.compiler.passes.list_launches import work_sizes
from ddimcache.compiler.target import PixelTable, profile
from ddimcache.kernels.conv2d.tiled import POSITIONS, tiled_conv2d, tiles_of
from ddimcache.kernels.workload import parse
from ddimcache.schedules.apply import ApplySchedules
from ddimcache.tuning.kernels import blank_arguments, build, kernel_of
from tests.kit.kernel_run import te_function

pytestmark = pytest.mark.lab

PHONE = dataclasses.replace(profile("adreno-740"), tuned={})


def problems(function: tirx.PrimFunc) -> list[str]:
    source = build(function, PHONE).mod.imports[0].inspect_source()
    found = []
    for statistics in statistics_of(with_work_sizes(source, work_sizes(function))):
        assert statistics.registers <= 12
        found += broken(statistics, "product")
    return found


@pytest.mark.parametrize(
    "text",
    [
        "matmul 4096x320x320 float16 int8",
        "matmul 77x768x640 float16 int8",
        "matmul 2304x1280x640 float16 int8",
        # A reduction in 16 parts, and one whose weights have scales of groups.
        "matmul 256x5120x1280 float16 int8",
        "matmul 1024x640x640 float16 int8g64",
        "geglu 4096x320x2560 float16 int8",
        "geglu 1024x640x5120 float16 int8",
        "conv2d 1x64x64x4x320x3x3x1x1 float16 int8",
        "conv2d 1x512x512x128x128x3x3x1x1 float16 int8",
        "conv2d 1x40x56x320x640x3x3x2x2 float16 int8",
        # In 32 parts, more than are added up at once.
        "conv2d 1x16x16x1280x1280x3x3x2x2 float16 int8",
        "conv2d 1x8x8x2560x1280x3x3x1x1 float16 int8",
    ],
)
def test_products(text: str) -> None:
    workload = parse(text)
    assert not problems(kernel_of(workload, PHONE, blank_arguments(workload, PHONE)))


@pytest.mark.parametrize(
    "text",
    [
        "matmul 4096x320x320 float16 float16",
        "matmul 77x768x640 float16 float16",
        "matmul 77x3072x768 float16 float16",
        "matmul 2304x1280x640 float16 int8",
        "matmul 256x5120x1280 float16 float16",
        "matmul 1024x640x640 float16 int8g64",
        "matmul 64x1280x1280 float16 float16",
        "matmul 23x2560x24 float16 int8g128",
        "geglu 4096x320x2560 float16 float16",
        "geglu 1024x640x5120 float16 float16",
        "geglu 64x1280x10240 float16 int8",
        "geglu 2304x640x5120 float16 int8g32",
        "conv2d 1x64x64x4x320x3x3x1x1 float16 float16",
        "conv2d 1x96x80x4x320x3x3x1x1 float16 int8",
        "conv2d 1x512x512x128x3x3x3x1x1 float16 float16",
        "conv2d 1x512x512x128x128x3x3x1x1 float16 int8g32",
        "conv2d 1x40x56x320x640x3x3x2x2 float16 float16",
        "conv2d 1x16x16x1280x1280x3x3x2x2 float16 float16",
        "conv2d 1x8x8x2560x1280x3x3x1x1 float16 float16",
        "conv2d 1x64x64x320x4x3x3x1x1 float16 float16",
        "conv2d 1x44x60x16x48x3x3x1x1 float16 float16",
    ],
)
def test_products_with_sums_in_float32(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PixelTable, "sums_of", lambda *_: "float")
    workload = parse(text)
    assert not problems(kernel_of(workload, PHONE, blank_arguments(workload, PHONE)))


@pytest.mark.parametrize(
    ("height", "width", "depth", "channels"),
    [
        (64, 64, 320, 320),
        (16, 16, 1280, 1280),
        (16, 16, 2560, 1280),
        (40, 56, 640, 320),
        (96, 96, 320, 320),
        (24, 40, 1280, 640),
        (33, 17, 320, 44),
    ],
)
@pytest.mark.parametrize(("weights", "sums"), [("int8", "chunks"), ("int8", "float"), ("float16", "float")])
def test_convolutions_in_tiles(
    height: int, width: int, depth: int, channels: int, weights: str, sums: str
) -> None:
    panel = 4 if sums == "float" else 8
    arrays = [
        np.zeros((1, *tiles_of(height, width), POSITIONS, depth), "float16"),
        np.zeros((-(-channels // panel), 3, 3, depth, panel), weights),
        np.zeros(channels, "float32"),
    ][: 3 if weights == "int8" else 2]
    function = te_function(
        lambda x, w, s=None: tiled_conv2d(x, w, s, (height, width), channels, "float16", sums), arrays
    )
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    with PHONE.tvm_target():
        module = ApplySchedules(PHONE)(module)
    assert not problems(module["main"])
