"""Products and attention that read their operands as pixels: the same sums, by loads and by images."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import tirx

from ddimcache.compiler.passes.limit_kernels import local_bytes
from ddimcache.compiler.passes.list_launches import work_sizes
from ddimcache.compiler.passes.read_pixels import ReadPixels
from ddimcache.compiler.target import PixelTable, PixelTiles, profile
from ddimcache.kernels.attention.kernel import Place
from ddimcache.kernels.attention.pixels import can_read_pixels, pixel_attention
from ddimcache.kernels.conv2d import kernel as conv2d
from ddimcache.kernels.conv2d.reference import conv2d as plain_conv2d
from ddimcache.kernels.matmul import kernel as matmul
from ddimcache.kernels.matmul.reference import matmul as plain_matmul
from ddimcache.kernels.pixels import PixelSum
from tests.kit.kernel_run import rounded_weights, run_kernel, small_tiles, te_function

FLOAT = PixelSum("float")
TABLE = PixelTable(0, 64, 1.0, 8, {"float": PixelTiles(rows=4, unroll=1, across=4, down=2)}, 5, 64)


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


def attention_kernel(
    shape: tuple[int, int, int, int], tokens: int, causal: bool, image_pixels: int
) -> tirx.PrimFunc:
    return pixel_attention(
        shape,
        tokens,
        "float32",
        shape[3] ** -0.5,
        together=2,
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
    """Queries have 72 pixels, keys and values 616; the pass for products leaves them as they are."""
    module = tvm.IRModule({"main": attention_kernel((2, 9, 1, 16), 77, False, image_pixels)})
    read = ReadPixels(0)(module)
    assert tvm_ffi.structural_equal(read, module)
    text = read.script()
    assert set(re.findall(r"read_imagef\W+(\w+)\.data", text)) == images


def test_what_a_team_of_attention_takes() -> None:
    kernel = attention_kernel((2, 9, 1, 16), 77, False, 1 << 16)
    [size] = work_sizes(kernel)
    # Teams of 4 work-items: 3 have the 9 queries, though 5 would fit.
    assert size.items == (12, 1, 1)
    assert local_bytes(kernel) == 12 * 2 * 4 * 4 * 4
    places = (Place(512, 0), Place(1024, 0), Place(1024, 512))
    assert can_read_pixels(512, places, 128)
    assert not can_read_pixels(512, places, 127)
    assert not can_read_pixels(512, (Place(512, 0), Place(1026, 0), Place(1024, 512)), 128)
