"""Winograd's convolutions in two kernels, on PoCL in float32; ``tests/lab`` runs them in float16."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import te, topi
from tvm.s_tir.analysis import estimate_tir_flops

from ddimcache.compiler.passes.limit_kernels import local_bytes
from ddimcache.compiler.passes.list_launches import work_sizes
from ddimcache.compiler.target import TiledTable, profile
from ddimcache.kernels.conv2d import kernel as conv2d
from ddimcache.kernels.conv2d.reference import conv2d as plain_conv2d
from ddimcache.kernels.conv2d.tiled import POSITIONS, tiled_conv2d, tiled_input, tiles_of
from ddimcache.kernels.matmul.kernel import panel_width
from ddimcache.kernels.pixel_blocks import WRITTEN_OUT, PixelBlocking
from ddimcache.kernels.tags import WORK
from ddimcache.kernels.workload import Workload, parse
from ddimcache.schedules.apply import ApplySchedules
from ddimcache.schedules.pixel_products import PixelShape
from ddimcache.schedules.tiled_convolutions import choose_blocking, cost, schedule_tiled_product, tiling_pays
from tests.kit.kernel_run import rounded_weights, run_kernel, small_tiles, te_function

PHONE = profile("adreno-740")
TABLE, PIXELS = PHONE.tiles.tiled, PHONE.tiles.pixels
assert TABLE is not None
assert PIXELS is not None
DEVICE = small_tiles(
    profile("opencl"),
    pixels=dataclasses.replace(PIXELS, local_bytes=64),
    tiled=dataclasses.replace(TABLE, longest=64),
    winograd=None,
    blocks=None,
    columns=(8, 4),
)
TOLERANCE = 3e-5
"""Of the largest result: the error of float32 sums of hundreds of products, with what the transforms add."""


def transformed(x: np.ndarray) -> np.ndarray:
    """The tiles of padded ``x`` in float64, each between its transposed matrix and itself."""
    matrix = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float64)
    batch, height, width, depth = x.shape
    high, wide = tiles_of(height - 2, width - 2)
    x = np.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0))).astype("float64")
    windows = np.lib.stride_tricks.sliding_window_view(x, (4, 4), axis=(1, 2))[:, ::2, ::2]
    tiles = np.einsum("im,bhwcmn,jn->bhwijc", matrix, windows, matrix)
    return tiles.reshape(batch, high, wide, POSITIONS, depth)


def operands(
    shape: Sequence[int], channels: int, group: int | None
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """A padded input, the packed weights of a convolution, and their values."""
    random = np.random.default_rng(3)
    batch, height, width, depth = shape
    x = random.standard_normal((batch, height + 2, width + 2, depth)).astype("float32")
    weight = random.standard_normal((channels, 3, 3, depth)).astype("float32")
    packed, weight = rounded_weights(weight, group, conv2d.pack, panel_width(channels, (8, 4)))
    return x, packed, weight


def convolution(shape: Sequence[int], channels: int, arrays: list[np.ndarray], sums: str) -> Any:
    """The kernel with a bias and a residual sum behind it."""

    def compute(x: te.Tensor, bias: te.Tensor, other: te.Tensor, w: te.Tensor, s: Any = None) -> te.Tensor:
        product = tiled_conv2d(x, w, s, (shape[1], shape[2]), channels, "float32", sums)
        return te.compute(
            product.shape, lambda *index: product[index] + bias[index[-1]] + other[index], name="sum"
        )

    return te_function(compute, arrays)


def check(shape: Sequence[int], channels: int, group: int | None, sums: str, device: Any = DEVICE) -> None:
    """Both kernels one after another against numpy."""
    x, packed, weight = operands(shape, channels, group)
    tiles = transformed(x)
    made = run_kernel(te_function(tiled_input, [x]), [x], tiles.shape, target=device)
    assert np.abs(made - tiles).max() <= 1e-6 * np.abs(tiles).max()
    random = np.random.default_rng(4)
    bias = random.standard_normal(channels).astype("float32")
    other = random.standard_normal((*shape[:3], channels)).astype("float32")
    arrays = [made, bias, other, *packed]
    function = convolution(shape, channels, arrays, sums)
    assert schedule_tiled_product(function, device.tiles, device) is not None
    out = run_kernel(function, arrays, other.shape, target=device)
    exact = plain_conv2d(x, weight, (1, 1)) + bias + other
    assert np.abs(out - exact).max() <= TOLERANCE * np.abs(exact).max()


@pytest.mark.opencl
@pytest.mark.parametrize(
    ("group", "sums"), [(None, "half"), (0, "chunks"), (32, "chunks"), (None, "float"), (0, "float")]
)
@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((1, 16, 16, 64), 24),
        ((2, 7, 5, 32), 16),
        ((2, 13, 11, 40), 6),
        ((1, 1, 3, 256), 8),
        ((1, 2, 17, 96), 12),
        ((1, 23, 1, 512), 8),
    ],
)
def test_both_kernels(shape: tuple[int, int, int, int], channels: int, group: int | None, sums: str) -> None:
    check(shape, channels, group, sums)


@pytest.mark.opencl
@given(
    batch=st.sampled_from([1, 2]),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    depth=st.sampled_from([4, 12, 20, 64, 128]),
    channels=st.sampled_from([3, 8, 20, 40]),
)
@settings(max_examples=6, deadline=None)
def test_any_picture(batch: int, height: int, width: int, depth: int, channels: int) -> None:
    check((batch, height, width, depth), channels, 0, "chunks")


@pytest.mark.opencl
@pytest.mark.parametrize(("height", "width", "depth"), [(8, 8, 32), (7, 5, 12), (13, 2, 40), (1, 1, 8)])
def test_what_comes_before_is_computed_with_the_tiles(height: int, width: int, depth: int) -> None:
    """An element-wise kernel and padding go through local memory, in one launch with the transform."""
    x = np.random.default_rng(5).standard_normal((2, height, width, depth)).astype("float32")

    def compute(x: te.Tensor) -> te.Tensor:
        scaled = te.compute(x.shape, lambda *index: x[index] * x[index] + 1, name="scaled")
        return tiled_input(topi.nn.pad(scaled, [0, 1, 1, 0], [0, 1, 1, 0]))

    exact = transformed(np.pad(x.astype("float64") ** 2 + 1, ((0, 0), (1, 1), (1, 1), (0, 0))))
    out = run_kernel(te_function(compute, [x]), [x], exact.shape, target=DEVICE)
    assert np.abs(out - exact).max() <= 1e-6 * np.abs(exact).max()


@pytest.mark.parametrize(("height", "width"), [(87, 64), (86, 45)])
def test_odd_pictures_take_no_more_local_memory(height: int, width: int) -> None:
    def used(high: int, wide: int) -> int:
        x = np.zeros((1, high, wide, 64), "float32")
        pad = ([0, 1, 1, 0], [0, 1, 1, 0])
        function = te_function(
            lambda x: tiled_input(topi.nn.pad(te.compute(x.shape, lambda *at: x[at] + 1), *pad)), [x]
        )
        module = tvm.IRModule({"main": function})
        with DEVICE.tvm_target():
            return int(local_bytes(ApplySchedules(DEVICE)(module)["main"]))

    assert 0 < used(height, width) <= used(88, 64)


@pytest.mark.parametrize(("shape", "channels"), [((1, 5, 4, 8), 8), ((2, 3, 3, 4), 12)])
def test_the_definition_is_a_convolution(shape: tuple[int, int, int, int], channels: int) -> None:
    """Without the loops that take its place, on a target that has none of them."""
    x, packed, weight = operands(shape, channels, None)
    tiles = transformed(x).astype("float32")
    function = te_function(
        lambda x, w: tiled_conv2d(x, w, None, shape[1:3], channels, "float32", "chunks"), [tiles, *packed]
    )
    exact = plain_conv2d(x, weight, (1, 1))
    out = run_kernel(function, [tiles, *packed], exact.shape)
    assert np.abs(out - exact).max() <= TOLERANCE * np.abs(exact).max()


@pytest.mark.opencl
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_tiles(bad: float) -> None:
    shape, channels = (1, 12, 12, 64), 8
    x, packed, weight = operands(shape, channels, 0)
    # Row 6 and column 6 are read for the outputs 4 ... 6, which are two tiles along each side.
    x[0, 6, 6, 3] = bad
    tiles = transformed(x).astype("float32")
    function = te_function(
        lambda x, w, s: tiled_conv2d(x, w, s, shape[1:3], channels, "float32", "chunks"), [tiles, *packed]
    )
    exact = plain_conv2d(x, weight, (1, 1))
    out = run_kernel(function, [tiles, *packed], exact.shape, target=DEVICE)
    assert not np.isfinite(out[~np.isfinite(exact)]).any()
    spread = ~np.isfinite(out).all(axis=(0, 3))
    assert spread[4:7, 4:7].all()
    spread[4:8, 4:8] = False
    assert not spread.any()


@pytest.mark.opencl
@pytest.mark.parametrize(("image_pixels", "images"), [(1 << 16, {"p0", "p3"}), (1151, {"p0"}), (0, set())])
def test_what_is_too_large_for_an_image_is_read_as_a_buffer(image_pixels: int, images: set[str]) -> None:
    """The tiles have 1024 pixels, the weights 1152."""
    device = dataclasses.replace(DEVICE, max_image_pixels=image_pixels)
    shape, channels = (1, 8, 8, 16), 32
    x, packed, _ = operands(shape, channels, 0)
    arrays = [transformed(x).astype("float32"), np.zeros(channels, "float32")]
    arrays += [np.zeros((1, 8, 8, channels), "float32"), *packed]
    function = convolution(shape, channels, arrays, "chunks")
    text = ApplySchedules(device)(tvm.IRModule({"main": function})).script()
    assert set(re.findall(r"read_imagef\W+(p\d)", text)) == images
    check(shape, channels, 0, "chunks", device)


def workload(side: int, depth: int, channels: int, rest: str = "3x3x1x1", dtype: str = "float16") -> Workload:
    return parse(f"conv2d 1x{side}x{side}x{depth}x{channels}x{rest} {dtype} int8")


@pytest.mark.parametrize(
    ("side", "depth", "channels", "pays"),
    [
        (64, 320, 320, True),
        (32, 640, 640, True),
        (32, 1920, 640, True),
        (16, 1280, 1280, True),
        (64, 512, 512, True),  # the decoder's
        (64, 960, 320, False),  # 31 MB of tiles
        (16, 2560, 1280, True),
        (16, 5120, 1280, False),  # 16 parts of 320 products
        (8, 1280, 1280, False),  # 16 tiles of the 40 that a work-group has
        (64, 4, 320, False),
    ],
)
def test_where_it_pays(side: int, depth: int, channels: int, pays: bool) -> None:
    assert tiling_pays(PHONE, workload(side, depth, channels), "chunks") is pays


def test_where_it_is_not_asked_for() -> None:
    own = workload(64, 320, 320)
    assert tiling_pays(PHONE, own, "half")
    assert tiling_pays(PHONE, own, "float")
    assert not tiling_pays(PHONE, own, None)
    assert not tiling_pays(PHONE, workload(64, 320, 320, "3x3x2x2"), "chunks")
    assert not tiling_pays(PHONE, workload(64, 320, 320, "1x1x1x1"), "chunks")
    assert not tiling_pays(PHONE, workload(64, 320, 320, dtype="float32"), "chunks")
    assert not tiling_pays(small_tiles(PHONE, tiled=None), own, "chunks")
    assert not tiling_pays(small_tiles(PHONE, pixels=None), own, "chunks")
    assert not tiling_pays(profile("opencl"), own, "chunks")
    # A tuning record is about the direct convolution.
    assert tiling_pays(dataclasses.replace(PHONE, tuned={own: {"pixels.down": 8}}), own, "chunks")
    # Bytes of the tiles: 4 times 64 x 64 x 320 numbers of two.
    for most, pays in ((10485760, True), (10485759, False)):
        table = TiledTable(most_bytes=most, longest=240)
        assert tiling_pays(small_tiles(PHONE, tiled=table), own, "chunks") is pays
        # Or those of a tensor that is there.
        assert tiling_pays(PHONE, workload(128, 512, 512), "chunks", (64 << 20) - 10485760 + most) is pays


@pytest.mark.parametrize("sums", ["half", "chunks", "float"])
@pytest.mark.parametrize(
    "sizes", [(1024, 320, 40, 8), (64, 1280, 160, 8), (256, 960, 80, 8), (9, 52, 3, 4), (3, 12, 1, 8)]
)
def test_blocks_keep_to_the_table(sizes: tuple[int, int, int, int], sums: str) -> None:
    rows, depth, panels, width = sizes
    assert TABLE is not None
    assert PIXELS is not None
    dtype, size = ("float32", 4) if sums == "float" else ("float16", 2)
    width = 4 if sums == "float" else width
    shape = PixelShape(rows, depth, 1, panels, width, sums, dtype)
    own = choose_blocking(shape, TABLE, PIXELS, 1024)
    assert own is not None
    assert own.rows <= rows
    assert depth // 4 % (own.chunk * own.parts) == 0
    assert own.positions == POSITIONS
    assert own.items in (256, 512, 1024)
    assert own.chunk * width * size * 4 <= PIXELS.local_bytes * own.down
    if sums == "chunks":
        assert depth // own.parts <= TABLE.longest
    others = [PixelBlocking(own.rows, own.chunk, down, 1, own.parts, POSITIONS, True) for down in (8, 16, 32)]
    fitting = [
        one
        for one in others
        if one.items in (256, 512, 1024) and one.chunk * width * size * 4 <= PIXELS.local_bytes * one.down
    ]
    assert own.chunk < WRITTEN_OUT[dtype] or cost(own, shape) == min(cost(one, shape) for one in fitting)


def test_a_sum_that_no_work_group_keeps_short_has_no_blocks() -> None:
    assert TABLE is not None
    assert PIXELS is not None
    shape = PixelShape(64, 5120, 1, 160, 8, "chunks", "float16")
    assert choose_blocking(shape, TABLE, PIXELS, 1024) is None
    assert choose_blocking(dataclasses.replace(shape, sums="half"), TABLE, PIXELS, 1024) is not None
    assert choose_blocking(dataclasses.replace(shape, sums="half"), TABLE, PIXELS, 128) is None


@pytest.mark.parametrize("sums", ["chunks", "float"])
@pytest.mark.parametrize("group", [None, 0, 16])
def test_what_a_bundle_lists_of_a_kernel(group: int | None, sums: str) -> None:
    """As the compiler counts a launch's work, which not every expression lets it."""
    shape, channels = (1, 8, 7, 16), 12
    x, packed, _ = operands(shape, channels, group)
    arrays = [transformed(x).astype("float32"), np.zeros(channels, "float32")]
    arrays += [np.zeros((*shape[:3], channels), "float32"), *packed]
    module = tvm.IRModule({"main": convolution(shape, channels, arrays, sums)})
    scheduled = ApplySchedules(DEVICE)(module)["main"]
    [size] = work_sizes(scheduled)
    assert size.items in ((256, 1, 1), (512, 1, 1), (1024, 1, 1))
    assert estimate_tir_flops(scheduled.body) > 0


def test_the_work_of_a_kernel_is_that_of_the_definition() -> None:
    arrays = [np.zeros((1, 4, 4, POSITIONS, 16), "float32"), np.zeros((4, 3, 3, 16, 8), "float32")]
    function = te_function(lambda x, w: tiled_conv2d(x, w, None, (8, 7), 32, "float32", "chunks"), arrays)
    scheduled = schedule_tiled_product(function, DEVICE.tiles, DEVICE)
    assert scheduled is not None
    assert int(scheduled.attrs[WORK]) == 8 * 7 * 9 * 16 * 32
