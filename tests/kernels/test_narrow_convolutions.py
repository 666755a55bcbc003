"""Convolutions to a few channels against numpy: the whole fused kernel, as the compiler schedules it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import te, tirx

from ddimcache.compiler.target import DeviceProfile, profile
from ddimcache.kernels.conv2d import kernel as conv2d
from ddimcache.kernels.conv2d.reference import conv2d as plain_conv2d
from ddimcache.kernels.matmul.kernel import panel_width
from ddimcache.kernels.tags import WORK
from ddimcache.schedules.narrow_convolutions import MOST_LINES, schedule_narrow_convolution
from tests.kit.kernel_run import rounded_weights, run_kernel, small_tiles, te_function

TOLERANCE = 5e-6
"""Of the largest result: the error of float32 sums of up to 1152 products, times 4."""


def convolution(
    x: np.ndarray,
    channels: int,
    base: DeviceProfile,
    *,
    group: int | None = None,
    taps: tuple[int, int] = (3, 3),
    strides: tuple[int, int] = (1, 1),
) -> tuple[tirx.PrimFunc, list[np.ndarray], np.ndarray]:
    """A convolution of padded ``x`` with bias, its inputs, and the same in numpy."""
    random = np.random.default_rng(3)
    weight = random.standard_normal((channels, *taps, x.shape[-1])).astype("float32")
    bias = random.standard_normal(channels).astype("float32")
    panel = panel_width(channels, base.tiles.columns)
    (packed, *scale), weight = rounded_weights(weight, group, conv2d.pack, panel)

    def compute(x: te.Tensor, packed: te.Tensor, bias: te.Tensor, scale: Any = None) -> te.Tensor:
        product = conv2d.conv2d(x, packed, scale, channels, strides, "float32")
        shape = [*product.shape[:-1], channels]
        return te.compute(shape, lambda *index: product[index] + bias[index[-1]], name="sum")

    arrays = [x, packed, bias, *scale]
    return te_function(compute, arrays), arrays, plain_conv2d(x, weight, strides) + bias


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(4).standard_normal(shape).astype("float32")


def check(x: np.ndarray, channels: int, target: str | DeviceProfile, **more: Any) -> None:
    base = profile(target) if isinstance(target, str) else target
    function, arrays, exact = convolution(x, channels, base, **more)
    scheduled = schedule_narrow_convolution(function, base.tiles)
    assert scheduled is not None, "the direct convolution would be tested"
    taps = arrays[1].shape[1] * arrays[1].shape[2]
    assert int(scheduled.attrs[WORK]) == exact.size * taps * x.shape[-1]
    ours = run_kernel(function, arrays, exact.shape, target=base)
    assert np.abs(ours - exact).max() <= TOLERANCE * np.abs(exact).max()


@given(
    batch=st.sampled_from([1, 2]),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    depth=st.sampled_from([32, 48, 128]),
    channels=st.integers(1, 15),
    group=st.sampled_from([None, 0, 16]),
)
@settings(max_examples=8, deadline=None)
def test_any_picture(
    batch: int, height: int, width: int, depth: int, channels: int, group: int | None
) -> None:
    check(pictures(batch, height + 2, width + 2, depth), channels, "llvm", group=group)


@pytest.mark.parametrize(
    ("taps", "strides"), [((3, 3), (2, 2)), ((1, 1), (1, 1)), ((5, 2), (1, 3)), ((4, 4), (2, 1))]
)
def test_any_taps_and_strides(taps: tuple[int, int], strides: tuple[int, int]) -> None:
    check(pictures(1, 13, 17, 256), 4, "llvm", taps=taps, strides=strides)


def test_more_lines_than_work_items_have() -> None:
    height = profile("llvm").tiles.blocks.groups * MOST_LINES + 5  # type: ignore[union-attr]
    check(pictures(1, height + 2, 5, 32), 3, "llvm")


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_any_table(rows: int) -> None:
    check(pictures(1, 11, 14, 32), 4, small_tiles(profile("llvm"), rows=rows, vector=8))


@pytest.mark.opencl
@pytest.mark.parametrize(
    ("shape", "channels"), [((1, 16, 16, 320), 4), ((2, 7, 5, 128), 3), ((1, 3, 3, 48), 9)]
)
@pytest.mark.parametrize("group", [None, 0, 16])
def test_on_opencl(shape: tuple[int, int, int, int], channels: int, group: int | None) -> None:
    check(pictures(*shape), channels, "opencl", group=group)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_spoils_the_pixels_around_it_only(bad: float) -> None:
    x = pictures(1, 12, 12, 32)
    x[0, 6, 7, 3] = bad
    function, arrays, exact = convolution(x, 4, profile("llvm"))
    ours = run_kernel(function, arrays, exact.shape)
    spoilt = np.zeros(exact.shape, bool)
    spoilt[0, 4:7, 5:8] = True
    np.testing.assert_array_equal(~np.isfinite(ours), spoilt)


@pytest.mark.parametrize(
    ("depth", "channels", "taps", "target"),
    [
        (32, 16, (3, 3), "llvm"),  # a whole vector of channels
        (24, 4, (3, 3), "llvm"),  # input channels that are not whole vectors
        (16, 4, (3, 3), "llvm"),  # too few to add lanes up for
        (2560, 15, (3, 3), "llvm"),  # weights that a work-item should not keep
        (32, 4, (3, 3), "adreno-740"),  # no caches of its own
    ],
)
def test_leaves_other_convolutions_alone(
    depth: int, channels: int, taps: tuple[int, int], target: str
) -> None:
    base = profile(target)
    function, _, _ = convolution(pictures(1, 6, 6, depth), channels, base, taps=taps)
    assert schedule_narrow_convolution(function, base.tiles) is None
