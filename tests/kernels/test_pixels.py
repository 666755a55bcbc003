"""Products that read their operands as pixels: the same sums, by loads on a CPU and by images on OpenCL."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ddimcache.compiler.target import PixelTable, PixelTiles, profile
from ddimcache.kernels.conv2d import kernel as conv2d
from ddimcache.kernels.conv2d.reference import conv2d as plain_conv2d
from ddimcache.kernels.matmul import kernel as matmul
from ddimcache.kernels.matmul.reference import matmul as plain_matmul
from ddimcache.kernels.pixels import PixelSum
from tests.kit.kernel_run import rounded_weights, run_kernel, small_tiles, te_function

FLOAT = PixelSum("float")
TABLE = PixelTable(0, 64, 1.0, 8, {"float": PixelTiles(rows=4, unroll=1, across=4, down=2)}, 8, 64, 64)


@pytest.mark.parametrize("target", ["llvm", pytest.param("opencl", marks=pytest.mark.opencl)])
@pytest.mark.parametrize("group", [None, 0, 32])
@pytest.mark.parametrize(("rows", "depth", "channels"), [(24, 64, 16), (7, 20, 3)])
def test_matmul(rows: int, depth: int, channels: int, group: int | None, target: str) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((1, rows, depth)).astype("float32")
    weight = random.standard_normal((channels, depth)).astype("float32")
    packed, weight = rounded_weights(weight, group, matmul.pack, 4)
    arrays = [x, *packed]

    def compute(x, packed, scale=None):  # type: ignore[no-untyped-def]
        return matmul.matmul(x, packed, scale, channels, "float32", FLOAT)

    device = small_tiles(profile(target), pixels=TABLE)
    out = run_kernel(te_function(compute, arrays), arrays, (1, rows, channels), target=device)
    exact = plain_matmul(x, weight)
    assert np.abs(out - exact).max() <= 2e-5 * np.abs(exact).max()


@pytest.mark.parametrize("target", ["llvm", pytest.param("opencl", marks=pytest.mark.opencl)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("group", [0, 32])
def test_conv2d(stride: int, group: int, target: str) -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal((2, 9, 11, 40)).astype("float32")
    weight = random.standard_normal((6, 3, 3, 40)).astype("float32")
    packed, weight = rounded_weights(weight, group, conv2d.pack, 4)
    arrays = [x, *packed]

    def compute(x, packed, scale):  # type: ignore[no-untyped-def]
        return conv2d.conv2d(x, packed, scale, 6, (stride, stride), "float32", FLOAT)

    exact = plain_conv2d(x, weight, (stride, stride))
    device = small_tiles(profile(target), pixels=TABLE)
    out = run_kernel(te_function(compute, arrays), arrays, exact.shape, target=device)
    assert np.abs(out - exact).max() <= 2e-5 * np.abs(exact).max()


@pytest.mark.opencl
@pytest.mark.parametrize("unroll", [2, 4])
def test_steps_that_are_written_out(unroll: int) -> None:
    """What a loop reads then moves by several pixels, and no counter goes with it."""
    random = np.random.default_rng(2)
    x = random.standard_normal((1, 16, 64)).astype("float32")
    weight = random.standard_normal((32, 64)).astype("float32")
    packed, weight = rounded_weights(weight, 0, matmul.pack, 4)
    arrays = [x, *packed]

    def compute(x, packed, scale):  # type: ignore[no-untyped-def]
        return matmul.matmul(x, packed, scale, 32, "float32", FLOAT)

    tiles = {"float": PixelTiles(rows=4, unroll=unroll, across=4, down=2)}
    device = small_tiles(profile("opencl"), pixels=dataclasses.replace(TABLE, tiles=tiles))
    out = run_kernel(te_function(compute, arrays), arrays, (1, 16, 32), target=device)
    exact = plain_matmul(x, weight)
    assert np.abs(out - exact).max() <= 2e-5 * np.abs(exact).max()
