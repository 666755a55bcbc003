"""Winograd's convolutions against numpy: the whole fused kernel, as the compiler schedules it."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import te

from ddimcache.compiler.target import DeviceProfile, WinogradTable, profile
from ddimcache.kernels.conv2d import kernel as conv2d
from ddimcache.kernels.conv2d import winograd
from ddimcache.kernels.conv2d.reference import conv2d as plain_conv2d
from ddimcache.kernels.tags import WORK
from ddimcache.schedules.epilogues import read_product
from ddimcache.schedules.winograd import choose_blocking, schedule_winograd
from tests.kit.kernel_run import rounded_weights, run_kernel, small_tiles, te_function

TOLERANCE = 2e-5
"""Of the largest result: the error of float32 sums of 576 products, times 4 for what the transforms add."""


def run(
    shape: tuple[int, int, int, int],
    channels: int,
    group: int | None,
    target: str | DeviceProfile,
    bad: tuple[tuple[int, ...], float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A convolution with bias and a residual sum on ``target``, and the same in numpy."""
    base = profile(target) if isinstance(target, str) else target
    random = np.random.default_rng(3)
    batch, height, width, depth = shape
    x = random.standard_normal((batch, height + 2, width + 2, depth)).astype("float32")
    if bad is not None:
        x[bad[0]] = bad[1]
    weight = random.standard_normal((channels, 3, 3, depth)).astype("float32")
    bias = random.standard_normal(channels).astype("float32")
    residual = random.standard_normal((batch, height, width, channels)).astype("float32")
    panel = base.tiles.columns[0]
    (packed, *scale), weight = rounded_weights(weight, group, conv2d.pack, panel)
    arrays = [x, packed, bias, residual, *scale]

    def compute(
        x: te.Tensor, packed: te.Tensor, bias: te.Tensor, residual: te.Tensor, scale: Any = None
    ) -> te.Tensor:
        product = conv2d.conv2d(x, packed, scale, channels, (1, 1), "float32")
        return te.compute(
            product.shape, lambda *index: product[index] + bias[index[-1]] + residual[index], name="sum"
        )

    function = te_function(compute, arrays)
    assert schedule_winograd(function, base.tiles) is not None, "the direct convolution would be tested"
    ours = run_kernel(function, arrays, residual.shape, target=base)
    return ours, plain_conv2d(x, weight, (1, 1)) + bias + residual


def check(ours: np.ndarray, exact: np.ndarray) -> None:
    assert np.abs(ours - exact).max() <= TOLERANCE * np.abs(exact).max()


@given(
    batch=st.sampled_from([1, 2]),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    depth=st.sampled_from([16, 48, 64]),
    channels=st.sampled_from([32, 96]),
    group=st.sampled_from([None, 0, 32]),
)
@settings(max_examples=8, deadline=None)
def test_any_picture(
    batch: int, height: int, width: int, depth: int, channels: int, group: int | None
) -> None:
    check(*run((batch, height, width, depth), channels, group, "llvm"))


@given(
    tiles=st.integers(1, 12),
    columns=st.sampled_from([1, 32, 64]),
    depth=st.integers(1, 64),
    rows=st.integers(1, 9),
)
@settings(max_examples=6, deadline=None)
def test_any_table(tiles: int, columns: int, depth: int, rows: int) -> None:
    table = WinogradTable(tiles=tiles, columns=columns, depth=depth, rows=rows, groups=3)
    check(*run((1, 11, 13, 48), 64, 32, small_tiles(profile("llvm"), winograd=table)))


@pytest.mark.opencl
@pytest.mark.parametrize(
    ("shape", "channels"),
    [((1, 16, 16, 64), 96), ((2, 7, 5, 32), 64), ((1, 1, 3, 16), 32), ((1, 8, 8, 128), 32)],
)
@pytest.mark.parametrize("group", [None, 0, 64])
def test_on_opencl(shape: tuple[int, int, int, int], channels: int, group: int | None) -> None:
    check(*run(shape, channels, group, "opencl"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_inputs_reach_all_that_they_must_and_stay_in_their_tiles(bad: float) -> None:
    # The padded row 6 and column 6 are read for the outputs 4 ... 6, all of the second tile.
    ours, exact = run((1, 12, 12, 16), 32, None, "llvm", ((0, 6, 6, 3), bad))
    assert not np.isfinite(ours[~np.isfinite(exact)]).any()
    spread = ~np.isfinite(ours).all(axis=(0, 3))
    assert spread[4:7, 4:7].all()
    spread[4:8, 4:8] = False
    assert not spread.any()


@pytest.mark.parametrize("size", [2, 4])
def test_transforms_are_those_of_a_convolution(size: int) -> None:
    random = np.random.default_rng(4)
    d, g = random.standard_normal(size + 2), random.standard_normal(3)

    def numbers(values: list[Any]) -> np.ndarray:
        return np.array([float(value.value if hasattr(value, "value") else value) for value in values])

    u, v = (
        winograd.transform_weight(size, list(map(_number, g))),
        winograd.transform_input(size, list(map(_number, d))),
    )
    products = [_number(float(a.value) * float(b.value)) for a, b in zip(u, v, strict=True)]
    out = numbers(winograd.transform_output(size, products))
    assert np.allclose(out, [d[i : i + 3] @ g for i in range(size)], rtol=1e-5, atol=1e-5)


def _number(value: float) -> Any:
    from tvm import tirx

    return tirx.const(float(value), "float32")


def test_what_is_not_for_winograd_is_left_to_the_direct_schedule() -> None:
    tiles = profile("llvm").tiles
    assert tiles.winograd is not None

    def function(depth: int, size: int, stride: int, channels: int = 32) -> Any:
        x = np.zeros((1, 9, 9, depth), "float32")
        packed = conv2d.pack(np.zeros((channels, size, size, depth), "float32"), 32)
        return te_function(
            lambda x, w: conv2d.conv2d(x, w, None, channels, (stride, stride), "float32"), [x, packed]
        )

    assert schedule_winograd(function(16, 3, 1), tiles) is not None
    assert schedule_winograd(function(16, 3, 2), tiles) is None
    assert schedule_winograd(function(16, 1, 1), tiles) is None
    assert schedule_winograd(function(4, 3, 1), tiles) is None
    assert schedule_winograd(function(16, 3, 1, 40), tiles) is None
    assert schedule_winograd(function(16, 3, 1), profile("adreno-740").tiles) is None


@pytest.mark.parametrize(("side", "size"), [(4, 2), (8, 4), (64, 4)])
def test_small_pictures_get_small_tiles(side: int, size: int) -> None:
    tiles = profile("llvm").tiles
    assert tiles.winograd is not None
    arrays = [np.zeros((1, side + 2, side + 2, 32), "float32"), np.zeros((2, 3, 3, 32, 32), "int8")]
    function = te_function(lambda x, w: conv2d.conv2d(x, w, None, 64, (1, 1), "float32"), arrays)
    product = read_product(function)
    assert product is not None
    assert choose_blocking(product, tiles.winograd, tiles.vector).size == size


@pytest.mark.parametrize(("side", "depth", "channels"), [(64, 960, 320), (8, 2560, 1280), (512, 256, 256)])
def test_private_memory_fits_a_stack(side: int, depth: int, channels: int) -> None:
    """A thread of glibc has 2 MiB of it where nobody limits stacks, and PoCL's frame wants some more."""
    arrays = [
        np.zeros((1, side + 2, side + 2, depth), "float32"),
        np.zeros((channels // 32, 3, 3, depth, 32), "int8"),
    ]
    function = te_function(lambda x, w: conv2d.conv2d(x, w, None, channels, (1, 1), "float32"), arrays)
    scheduled = schedule_winograd(function, profile("opencl").tiles)
    assert scheduled is not None
    shapes = [buffer.ty.shape for buffer in scheduled.body.block.alloc_buffers]
    assert 1 << 18 < sum(4 * math.prod(map(int, shape)) for shape in shapes) < 3 << 19


def test_positions_do_not_share_the_sets_of_a_cache() -> None:
    """What lies between them stays in the program, where lowering cuts off what no one reads."""
    arrays = [np.zeros((1, 34, 34, 64), "float32"), np.zeros((10, 3, 3, 64, 32), "int8")]
    function = te_function(lambda x, w: conv2d.conv2d(x, w, None, 320, (1, 1), "float32"), arrays)
    tiles = profile("opencl").tiles
    scheduled = schedule_winograd(function, tiles)
    assert scheduled is not None
    built = tvm.compile(
        tvm.IRModule({"main": scheduled.with_attr("global_symbol", "main")}),
        target=tvm.target.Target("opencl", host="llvm"),
    )
    source = "".join(part.inspect_source() for part in built.mod.imports)
    sizes = {int(size) for size in re.findall(r"^ *float \w+\[(\d+)\];", source, re.MULTILINE)}
    product = read_product(function)
    assert product is not None
    assert tiles.winograd is not None
    blocking = choose_blocking(product, tiles.winograd, tiles.vector)
    strides = [blocking.tiles * blocking.depth, blocking.depth * 32, blocking.tiles * blocking.columns]
    assert all(stride * 4 % 4096 == 0 for stride in strides)
    # The last position has nothing behind it.
    assert {36 * (stride + tiles.vector) - tiles.vector for stride in strides} <= sizes


def test_the_work_of_a_kernel_is_that_of_the_definition() -> None:
    x = np.zeros((1, 10, 10, 16), "float32")
    packed = conv2d.pack(np.zeros((32, 3, 3, 16), "float32"), 32)
    function = te_function(lambda x, w: conv2d.conv2d(x, w, None, 32, (1, 1), "float32"), [x, packed])
    scheduled = schedule_winograd(function, profile("llvm").tiles)
    assert scheduled is not None
    assert int(scheduled.attrs[WORK]) == 8 * 8 * 9 * 16 * 32
