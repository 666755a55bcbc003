"""Matrix products and convolutions against numpy, on shapes that divide nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimcache.compiler.target import profile
from ddimcache.kernels.conv2d import kernel as conv2d
from ddimcache.kernels.conv2d.reference import conv2d as plain_conv2d
from ddimcache.kernels.matmul import kernel as matmul
from ddimcache.kernels.matmul.reference import matmul as plain_matmul
from tests.kit.kernel_run import rounded_weights, run_kernel, te_function

EXTENTS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 24, 31, 32, 48, 50, 64])
GROUPS = st.sampled_from([None, 0, 32, 128])
TOLERANCE = 2e-5
"""float32 sums of a few hundred products of unit variance, relative to the largest."""


def check(ours: np.ndarray, exact: np.ndarray) -> None:
    assert np.abs(ours - exact).max() <= TOLERANCE * max(1.0, np.abs(exact).max())


def run_matmul(rows: int, depth: int, channels: int, group: int | None, target: str, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    x = random.standard_normal((1, rows, depth)).astype("float32")
    weight = random.standard_normal((channels, depth)).astype("float32")
    width = matmul.panel_width(channels, profile(target).tiles.columns)
    packed, weight = rounded_weights(weight, group, matmul.pack, width)
    arrays = [x, *packed]

    def compute(x, packed, scale=None):  # type: ignore[no-untyped-def]
        return matmul.matmul(x, packed, scale, channels, "float32")

    out = run_kernel(te_function(compute, arrays), arrays, (1, rows, channels), target=target)
    check(out, plain_matmul(x, weight))


def run_conv2d(
    shape: tuple[int, ...], channels: int, size: int, stride: int, group: int | None, target: str
) -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal(shape).astype("float32")
    weight = random.standard_normal((channels, size, size, shape[-1])).astype("float32")
    width = matmul.panel_width(channels, profile(target).tiles.columns)
    packed, weight = rounded_weights(weight, group, conv2d.pack, width)
    arrays = [x, *packed]

    def compute(x, packed, scale=None):  # type: ignore[no-untyped-def]
        return conv2d.conv2d(x, packed, scale, channels, (stride, stride), "float32")

    exact = plain_conv2d(x, weight, (stride, stride))
    check(run_kernel(te_function(compute, arrays), arrays, exact.shape, target=target), exact)


@given(rows=EXTENTS, depth=EXTENTS, channels=EXTENTS, group=GROUPS)
@settings(max_examples=8, deadline=None)
def test_matmul_of_any_shape(rows: int, depth: int, channels: int, group: int | None) -> None:
    run_matmul(rows, depth, channels, group, "llvm")


@given(
    height=st.integers(3, 12),
    width=st.integers(3, 12),
    depth=EXTENTS,
    channels=EXTENTS,
    size=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    group=GROUPS,
)
@settings(max_examples=8, deadline=None)
def test_conv2d_of_any_shape(
    height: int, width: int, depth: int, channels: int, size: int, stride: int, group: int | None
) -> None:
    run_conv2d((1, height, width, depth), channels, size, stride, group, "llvm")


@pytest.mark.opencl
@pytest.mark.parametrize(
    ("rows", "depth", "channels"), [(77, 64, 320), (1, 33, 5), (4099, 7, 48), (64, 40, 100), (1, 96, 64)]
)
@pytest.mark.parametrize("group", [None, 0, 32])
def test_matmul_on_opencl(rows: int, depth: int, channels: int, group: int | None) -> None:
    run_matmul(rows, depth, channels, group, "opencl")


@pytest.mark.opencl
@pytest.mark.parametrize(
    ("shape", "channels", "size", "stride"),
    [
        ((2, 18, 18, 20), 64, 3, 1),
        ((1, 9, 9, 96), 48, 3, 2),
        ((1, 17, 17, 5), 3, 3, 2),
        ((1, 5, 9, 7), 36, 1, 2),
    ],
)
@pytest.mark.parametrize("group", [None, 0, 32])
def test_conv2d_on_opencl(
    shape: tuple[int, ...], channels: int, size: int, stride: int, group: int | None
) -> None:
    run_conv2d(shape, channels, size, stride, group, "opencl")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_inputs_reach_their_row_only(bad: float) -> None:
    random = np.random.default_rng(2)
    x = random.standard_normal((1, 9, 16)).astype("float32")
    x[0, 4, 3] = bad
    weight = random.standard_normal((32, 16)).astype("float32")
    arrays = [x, matmul.pack(weight, 32)]

    def compute(x, packed):  # type: ignore[no-untyped-def]
        return matmul.matmul(x, packed, None, 32, "float32")

    out = run_kernel(te_function(compute, arrays), arrays, (1, 9, 32))
    assert not np.isfinite(out[0, 4]).any()
    assert np.isfinite(np.delete(out[0], 4, axis=0)).all()


def test_packing_keeps_every_weight_at_its_place() -> None:
    weight = np.arange(5 * 3).reshape(5, 3)
    packed = matmul.pack(weight, 4)
    assert packed.shape == (2, 3, 4)
    assert (weight[:4] == packed[0].T).all()
    assert (packed[1, :, 0] == weight[4]).all()
    assert not packed[1, :, 1:].any()


@pytest.mark.parametrize(
    ("channels", "width"), [(320, 32), (48, 48), (16, 16), (40, 40), (3, 4), (5, 8), (100, 20), (50, 16)]
)
def test_panel_widths(channels: int, width: int) -> None:
    assert matmul.panel_width(channels, (32, 48, 16)) == width
