"""GroupNorm and LayerNorm against numpy, also far from zero and on constant input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimcache.kernels.group_norm import kernel as group_norm
from ddimcache.kernels.group_norm.reference import group_norm as plain_group_norm
from ddimcache.kernels.layer_norm.kernel import layer_norm
from ddimcache.kernels.layer_norm.reference import layer_norm as plain_layer_norm
from tests.kit.kernel_run import run_kernel, te_function


def run_group_norm(rows: int, size: int, groups: int, offset: float, target: str = "llvm") -> None:
    random = np.random.default_rng(4)
    channels = size * groups
    x = (random.standard_normal((2, rows, channels)) + offset).astype("float32")
    weight, bias = (random.standard_normal(channels).astype("float32") for _ in range(2))
    moments = group_norm.moments(2, rows, channels, "float32", vector=16, work_group=4)
    sums = run_kernel(moments, [x], (2, group_norm.chunks(rows), 2, channels), target=target)
    statistics = group_norm.statistics(2, rows, group_norm.chunks(rows), channels, groups, 1e-5, work_group=4)
    statistic = run_kernel(statistics, [sums], (2, groups, 2), target=target)
    for least in (1, 4):
        if lanes := group_norm.slab_lanes(2, channels, groups, 16, least):
            assert 2 * channels // math.lcm(lanes, size) >= least
            whole = group_norm.whole_statistics(2, rows, channels, groups, 1e-5, "float32", lanes=lanes)
            again = run_kernel(whole, [x], (2, groups, 2), target=target)
            # Both lose offset**2 of the variance's digits, not the same ones.
            np.testing.assert_allclose(again, statistic, rtol=2e-6 * (10 + offset**2), atol=1e-6)
    arrays = [x, statistic, weight, bias]
    out = run_kernel(te_function(group_norm.apply, arrays), arrays, x.shape, target=target)
    exact = plain_group_norm(x, weight, bias, groups, 1e-5)
    # Squares of numbers around ``offset`` lose offset**2 of the variance's digits.
    assert np.abs(out - exact).max() <= 2e-6 * (10 + offset**2) * np.abs(exact).max()


def run_layer_norm(rows: int, channels: int, offset: float, target: str = "llvm") -> None:
    random = np.random.default_rng(5)
    x = (random.standard_normal((rows, channels)) + offset).astype("float32")
    weight, bias = (random.standard_normal(channels).astype("float32") for _ in range(2))
    function = layer_norm(rows, channels, "float32", 1e-5, vector=16, work_group=4)
    out = run_kernel(function, [x, weight, bias], x.shape, target=target)
    exact = plain_layer_norm(x, weight, bias, 1e-5)
    assert np.abs(out - exact).max() <= 2e-6 * (10 + abs(offset)) * max(1.0, np.abs(exact).max())


@given(
    rows=st.integers(1, 70),
    size=st.integers(1, 20),
    groups=st.sampled_from([1, 2, 8]),
    offset=st.sampled_from([0.0, 5.0]),
)
@settings(max_examples=6, deadline=None)
def test_group_norm_of_any_shape(rows: int, size: int, groups: int, offset: float) -> None:
    if rows * size > 1:
        run_group_norm(rows, size, groups, offset)


@given(rows=st.integers(1, 40), channels=st.integers(2, 70), offset=st.sampled_from([0.0, 100.0]))
@settings(max_examples=6, deadline=None)
def test_layer_norm_of_any_shape(rows: int, channels: int, offset: float) -> None:
    run_layer_norm(rows, channels, offset)


@pytest.mark.parametrize(
    ("batch", "channels", "least", "lanes"),
    [(1, 640, 8, 16), (1, 320, 8, 8), (1, 1280, 1, 16), (2, 320, 8, 16), (1, 96, 1, 16), (1, 96, 40, 0)],
)
def test_work_groups_of_whole_statistics(batch: int, channels: int, least: int, lanes: int) -> None:
    assert group_norm.slab_lanes(batch, channels, 32, 16, least) == lanes


@pytest.mark.opencl
def test_norms_on_opencl() -> None:
    run_group_norm(256, 10, 32, 0.0, "opencl")
    run_layer_norm(77, 320, 3.0, "opencl")


def test_a_constant_row_becomes_the_bias() -> None:
    x = np.full((3, 24), 7.25, "float32")
    weight, bias = np.ones(24, "float32"), np.arange(24, dtype="float32")
    function = layer_norm(3, 24, "float32", 1e-5, vector=16, work_group=1)
    assert np.array_equal(run_kernel(function, [x, weight, bias], x.shape), np.broadcast_to(bias, x.shape))
