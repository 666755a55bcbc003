"""Products and attention that read pixels, on PoCL in float32; ``tests/lab`` runs them in float16."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import tvm
from tvm import tirx

from ddimcache.compiler.passes.limit_kernels import local_bytes
from ddimcache.compiler.passes.list_launches import work_sizes
from ddimcache.compiler.target import profile
from ddimcache.kernels.attention.kernel import Place
from ddimcache.kernels.attention.pixels import can_read_pixels, pixel_attention
from ddimcache.kernels.conv2d import kernel as conv2d
from ddimcache.kernels.conv2d.reference import conv2d as plain_conv2d
from ddimcache.kernels.geglu import kernel as geglu
from ddimcache.kernels.geglu.reference import geglu as plain_geglu
from ddimcache.kernels.matmul import kernel as matmul
from ddimcache.kernels.matmul.reference import matmul as plain_matmul
from ddimcache.kernels.pixel_blocks import WRITTEN_OUT, line_of, tiles_of_rows
from ddimcache.schedules.apply import ApplySchedules
from ddimcache.schedules.pixel_products import PixelShape, choose_blocking, cost
from tests.kit.kernel_run import rounded_weights, run_kernel, small_tiles, te_function

PHONE = profile("adreno-740").tiles.pixels
assert PHONE is not None
TABLE = dataclasses.replace(PHONE, longest=64, shortened=64, most_items=256)
DEVICE = small_tiles(profile("opencl"), pixels=TABLE, winograd=None, blocks=None, columns=(8, 4))


def weights(shape, group, pack, seed):  # type: ignore[no-untyped-def]
    weight = np.random.default_rng(seed).standard_normal(shape).astype("float32")
    return rounded_weights(weight, group, pack, matmul.panel_width(shape[0], (8, 4)))


@pytest.mark.opencl
@pytest.mark.parametrize(("group", "sums"), [(None, "half"), (0, "chunks"), (32, "chunks"), (0, "float")])
@pytest.mark.parametrize(
    ("rows", "depth", "channels"),
    [(24, 64, 16), (7, 20, 3), (1, 516, 40), (11, 260, 12), (83, 4, 4), (5, 1920, 8)],
)
def test_matmul(rows: int, depth: int, channels: int, group: int | None, sums: str) -> None:
    x = np.random.default_rng(0).standard_normal((1, rows, depth)).astype("float32")
    packed, weight = weights((channels, depth), group, matmul.pack, 1)
    arrays = [x, *packed]
    function = te_function(lambda x, w, s=None: matmul.matmul(x, w, s, channels, "float32", sums), arrays)
    out = run_kernel(function, arrays, (1, rows, channels), target=DEVICE)
    exact = plain_matmul(x, weight)
    assert np.abs(out - exact).max() <= 2e-5 * np.abs(exact).max()


@pytest.mark.opencl
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("group", "sums"), [(0, "chunks"), (32, "chunks"), (32, "float")])
@pytest.mark.parametrize(
    ("shape", "channels"), [((2, 9, 11, 40), 6), ((1, 7, 8, 4), 24), ((1, 6, 5, 128), 8)]
)
def test_conv2d(shape: tuple[int, int, int, int], channels: int, group: int, sums: str, stride: int) -> None:
    x = np.random.default_rng(2).standard_normal(shape).astype("float32")
    packed, weight = weights((channels, 3, 3, shape[-1]), group, conv2d.pack, 3)
    arrays = [x, *packed]
    strides = (stride, stride)
    function = te_function(lambda x, w, s: conv2d.conv2d(x, w, s, channels, strides, "float32", sums), arrays)
    exact = plain_conv2d(x, weight, strides)
    out = run_kernel(function, arrays, exact.shape, target=DEVICE)
    assert np.abs(out - exact).max() <= 2e-5 * np.abs(exact).max()


@pytest.mark.opencl
@pytest.mark.parametrize(("sums", "width"), [("chunks", 8), ("float", 4), ("float", 8)])
@pytest.mark.parametrize(("rows", "depth", "channels"), [(9, 64, 8), (14, 260, 12), (3, 1920, 4)])
def test_geglu(rows: int, depth: int, channels: int, sums: str, width: int) -> None:
    """A panel of a pixel is two values and their gates."""
    random = np.random.default_rng(4)
    x = random.standard_normal((1, rows, depth)).astype("float32")
    plain = random.standard_normal((2 * channels, depth)).astype("float32") / np.float32(depth**0.5)
    bias = random.standard_normal(2 * channels).astype("float32")
    side = width // 2
    _, weight = rounded_weights(plain, 0, matmul.pack, width)
    packed, _ = rounded_weights(geglu.interleave(plain, side), 0, matmul.pack, width)
    arrays = [x, *packed, geglu.interleave(bias, side)]
    function = te_function(lambda x, w, s, b: geglu.geglu(x, w, s, b, "float32", sums), arrays)
    out = run_kernel(function, arrays, (1, rows, channels // side, side), target=DEVICE)
    exact = plain_geglu(x, weight, bias)
    assert np.abs(out.reshape(exact.shape) - exact).max() <= 2e-5 * np.abs(exact).max()


@pytest.mark.opencl
def test_what_is_not_finite_stays_in_its_row() -> None:
    x = np.random.default_rng(5).standard_normal((1, 23, 260)).astype("float32")
    x[0, 7, 31], x[0, 12, 200] = np.inf, np.nan
    packed, _weight = weights((16, 260), 0, matmul.pack, 6)
    arrays = [x, *packed]
    function = te_function(lambda x, w, s: matmul.matmul(x, w, s, 16, "float32", "chunks"), arrays)
    out = run_kernel(function, arrays, (1, 23, 16), target=DEVICE)
    finite = np.isfinite(out[0]).all(axis=-1)
    assert not finite[[7, 12]].any()
    assert finite[[row for row in range(23) if row not in (7, 12)]].all()


def attention_kernel(
    shape: tuple[int, int, int, int], tokens: int, causal: bool, image_pixels: int
) -> tirx.PrimFunc:
    return pixel_attention(
        shape,
        tokens,
        "float32",
        shape[3] ** -0.5,
        together=3,
        work_group=20,
        image_pixels=image_pixels,
        has_bias=causal,
        places=(Place(shape[2] * shape[3], 0),) * 3,
    )


@pytest.mark.opencl
@pytest.mark.parametrize(
    ("queries", "tokens", "heads", "width", "causal", "image_pixels"),
    [
        (30, 30, 2, 40, False, 1 << 16),
        (9, 77, 1, 16, False, 1 << 16),
        (13, 13, 2, 8, True, 1 << 16),
        (5, 70, 1, 64, False, 1 << 16),
        (5, 9, 1, 4, False, 1 << 16),
        # Keys and values are no images then, and nothing is.
        (9, 77, 1, 16, False, 500),
        (13, 13, 2, 8, True, 0),
    ],
)
def test_attention(
    queries: int, tokens: int, heads: int, width: int, causal: bool, image_pixels: int
) -> None:
    random, shape = np.random.default_rng(6), (2, queries, heads, width)
    q, k, v = (
        random.standard_normal((2, count, heads * width)).astype("float32")
        for count in (queries, tokens, tokens)
    )
    allowed = np.arange(tokens)[:, None] <= np.arange(queries)
    bias = np.where(allowed, 0, -1e30).astype("float32") if causal else np.zeros((1, 1), np.float32)
    kernel = attention_kernel(shape, tokens, causal, image_pixels)
    out = run_kernel(kernel, [q, k, v, bias], shape, target=profile("opencl"))
    split = [part.reshape(2, -1, heads, width).astype("float64") for part in (q, k, v)]
    score = np.einsum("bqhd,bkhd->bhqk", *split[:2]) * width**-0.5 + (bias.T if causal else 0)
    share = np.exp(score - score.max(-1, keepdims=True))
    exact = np.einsum("bhqk,bkhd->bqhd", share / share.sum(-1, keepdims=True), split[2])
    assert np.abs(out - exact).max() <= 2e-5 * np.abs(exact).max()


@pytest.mark.parametrize(("image_pixels", "images"), [(616, {"q", "k", "v"}), (615, {"q"}), (71, set())])
def test_attention_reads_what_is_too_large_for_an_image_as_a_buffer(
    image_pixels: int, images: set[str]
) -> None:
    """Queries have 72 pixels, keys and values 616."""
    text = attention_kernel((2, 9, 1, 16), 77, False, image_pixels).script()
    assert set(re.findall(r"read_imagef\W+(\w+)\.data", text)) == images


def test_what_a_team_of_attention_takes() -> None:
    kernel = attention_kernel((2, 9, 1, 16), 77, False, 1 << 16)
    [size] = work_sizes(kernel)
    # Teams of 4 work-items: 3 have the 9 queries, though 5 would fit.
    assert size.items == (12, 1, 1)
    assert local_bytes(kernel) == 12 * 2 * 4 * 4 * 4 + 2 * 4  # and who is above a peak
    places = (Place(512, 0), Place(1024, 0), Place(1024, 512))
    assert can_read_pixels(512, places, 128)
    assert not can_read_pixels(512, places, 127)
    assert not can_read_pixels(512, (Place(512, 0), Place(1026, 0), Place(1024, 512)), 128)


@pytest.mark.opencl
@pytest.mark.parametrize("image_pixels", [20 * 516 // 4, 20 * 516 // 4 - 1, 0])
def test_what_is_too_large_for_an_image_is_read_as_a_buffer(image_pixels: int) -> None:
    """The input has 2580 pixels, the weights 1032."""
    x = np.random.default_rng(7).standard_normal((1, 20, 516)).astype("float32")
    packed, weight = weights((8, 516), 0, matmul.pack, 8)
    arrays = [x, *packed]
    function = te_function(lambda x, w, s: matmul.matmul(x, w, s, 8, "float32", "chunks"), arrays)
    device = dataclasses.replace(DEVICE, max_image_pixels=image_pixels)
    text = ApplySchedules(device)(tvm.IRModule({"main": function})).script()
    images = {2580: {"p0", "p1"}, 2579: {"p1"}, 0: set()}[image_pixels]
    assert set(re.findall(r"read_imagef\W+(p\d)", text)) == images
    out = run_kernel(function, arrays, (1, 20, 8), target=device)
    exact = plain_matmul(x, weight)
    assert np.abs(out - exact).max() <= 2e-5 * np.abs(exact).max()


def shape_of(rows: int, depth: int, lines: int, panels: int, width: int, sums: str = "chunks") -> PixelShape:
    return PixelShape(rows, depth, lines, panels, width, sums, "float32" if sums == "float" else "float16")


@pytest.mark.parametrize("sums", ["half", "chunks", "float"])
@pytest.mark.parametrize(
    "sizes",
    [
        (4096, 320, 1, 40, 8),
        (4096, 960, 3, 40, 8),
        (64, 7680, 3, 160, 8),
        (1, 1280, 1, 160, 8),
        (4096, 12, 3, 40, 8),
        (262144, 384, 3, 1, 4),
        (77, 52, 1, 13, 8),
        (9, 524, 1, 1, 4),
    ],
)
def test_blocks_keep_to_the_table(sizes: tuple[int, int, int, int, int], sums: str) -> None:
    shape = shape_of(*sizes, sums)
    own = choose_blocking(shape, PHONE)
    assert own is not None
    chunks = shape.depth // 4 // own.chunk * shape.lines
    assert shape.depth // 4 % own.chunk == 0
    assert shape.panels % own.across == 0
    assert own.items <= PHONE.most_items
    # Others than these get more registers of a compiler than sums in float32 leave waves for.
    assert sums != "float" or 1024 % own.items == 0
    assert own.chunk * shape.width * 4 * (4 if sums == "float" else 2) <= PHONE.local_bytes * own.down
    if sums == "chunks":
        longest = PHONE.longest if shape.length > PHONE.longest else PHONE.shortened
        assert -(-chunks // own.parts) * own.chunk * 4 <= longest
    decided = choose_blocking(shape, dataclasses.replace(PHONE, down=8))
    written_out = WRITTEN_OUT[shape.dtype]
    assert decided is not None
    assert decided.down == 8
    assert cost(decided, shape) >= cost(own, shape) or decided.chunk < written_out <= own.chunk


@pytest.mark.parametrize(
    ("rows", "line", "together", "each"),
    [
        # All rows of a matrix product, and lines of a picture that six pixels fill well.
        (4096, 0, True, 6),
        (4096, 64, True, 6),
        (1024, 32, True, 6),
        # Two fives are as many work-items a line as two sixes; of three pixels most would be idle.
        (64, 8, True, 5),
        (9000, 3, False, 5),
        (3, 0, True, 3),
    ],
)
def test_rows_that_have_one_place_are_more(rows: int, line: int, together: bool, each: int) -> None:
    shape = dataclasses.replace(shape_of(rows, 960, 3, 40, 8), line=line)
    own = choose_blocking(shape, PHONE)
    assert own is not None
    assert (own.together, own.rows) == (together, each)


@pytest.mark.parametrize(
    ("rows", "line", "together", "each"),
    [(4096, 0, True, 5), (4096, 64, True, 5), (64, 8, True, 4), (9000, 3, False, 4), (3, 0, True, 3)],
)
def test_rows_of_sums_in_float32(rows: int, line: int, together: bool, each: int) -> None:
    shape = dataclasses.replace(shape_of(rows, 960, 3, 80, 4, "float"), line=line)
    own = choose_blocking(shape, PHONE)
    assert own is not None
    assert (own.together, own.rows) == (together, each)


def test_every_row_is_some_work_items() -> None:
    assert tiles_of_rows(4096, 4096, 6) == 683
    assert tiles_of_rows(4096, 64, 6) == 64 * 11
    assert tiles_of_rows(4096, 0, 5) == 820
    assert line_of((2, 8, 9), (1, 1), (1, 1)) == 144
    assert line_of((2, 8, 9), (1, 1), (2, 2)) == line_of((2, 8, 9), (3, 3), (1, 1)) == 9


def test_decisions_that_fit_no_block_are_left() -> None:
    shape = shape_of(64, 320, 1, 40, 8)
    assert choose_blocking(shape, dataclasses.replace(PHONE, chunk=7)) == choose_blocking(shape, PHONE)


def test_a_sum_that_no_group_of_work_items_keeps_short_is_another_schedules() -> None:
    """8 work-items have no room for 4 parts beside the 8 that share weights."""
    few = dataclasses.replace(PHONE, most_items=8)
    assert choose_blocking(shape_of(64, 1280, 1, 40, 8), few) is None
    assert choose_blocking(shape_of(64, 1280, 1, 40, 8, "half"), few) is not None
    x = np.zeros((1, 16, 1280), "float32")
    packed, _ = weights((16, 1280), 0, matmul.pack, 9)
    arrays = [x + 1, *packed]
    function = te_function(lambda x, w, s: matmul.matmul(x, w, s, 16, "float32", "chunks"), arrays)
    device = dataclasses.replace(DEVICE, max_threads=8)
    assert "read_image" not in ApplySchedules(device)(tvm.IRModule({"main": function})).script()
