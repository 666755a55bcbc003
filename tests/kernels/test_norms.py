"""GroupNorm and LayerNorm against numpy, also far from zero and on constant input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ddimcache.kernels.group_norm import kernel as group_norm
from ddimcache.kernels.group_norm.fused import (
    NormBlocking,
    blocking_of,
    channel_parameters,
    fused_group_norm,
    vectors_of,
)
from ddimcache.kernels.group_norm.normalisation import Normalisation
from ddimcache.kernels.group_norm.reference import group_norm as plain_group_norm
from ddimcache.kernels.group_norm.rows import apply_rows, bands, row_moments
from ddimcache.kernels.group_norm.shared_parameters import shared_parameters
from ddimcache.kernels.layer_norm.kernel import layer_norm
from ddimcache.kernels.layer_norm.reference import layer_norm as plain_layer_norm
from ddimcache.kernels.layer_norm.shared import shared_layer_norm
from tests.kit.kernel_run import run_kernel, te_function


def deviations(x: np.ndarray, groups: int) -> float:
    """How many deviations the mean of a group of ``x`` [B, R, C] is away from zero, at most.

    What is multiplied and what is added then are as many times larger than the result.
    """
    grouped = x.astype("float64").reshape(*x.shape[:2], groups, -1)
    mean, variance = grouped.mean(axis=(1, 3)), grouped.var(axis=(1, 3))
    return float((np.abs(mean) / np.sqrt(variance + 1e-5)).max())


def run_group_norm(rows: int, size: int, groups: int, offset: float, target: str = "llvm") -> None:
    random = np.random.default_rng(4)
    channels = size * groups
    x = (random.standard_normal((2, rows, channels)) + offset).astype("float32")
    weight, bias = (random.standard_normal(channels).astype("float32") for _ in range(2))
    # Two bands where they can be, as of a picture that is cut: both are summed around a number of the first.
    bands_of_rows = np.array_split(x, min(rows, 2), axis=1)
    first = bands_of_rows[0]
    found = []
    for band in bands_of_rows:
        kernel = group_norm.moments(
            2, band.shape[1], first.shape[1], channels, groups, "float32", vector=16, work_group=4
        )
        parts = group_norm.chunks(band.shape[1])
        found.append(run_kernel(kernel, [band, first], (2, parts, 2, channels), target=target))
    sums = np.concatenate(found, axis=1)
    sizes = (2, rows, first.shape[1], sums.shape[1], channels, groups, 1e-5, "float32")
    own, shape = [sums, first, weight, bias], (2, 2, channels)
    parameters = run_kernel(group_norm.parameters(*sizes, work_group=4), own, shape, target=target)
    arrays = [x, parameters]
    if target == "opencl":
        again = run_kernel(shared_parameters(*sizes, threads=16), own, shape, target=target)
        assert np.abs(again - parameters).max() <= 2e-5 * np.abs(parameters).max()
    out = run_kernel(te_function(group_norm.apply, arrays), arrays, x.shape, target=target)
    exact = plain_group_norm(x, weight, bias, groups, 1e-5)
    assert np.abs(out - exact).max() <= 2e-7 * (10 + deviations(x, groups)) * np.abs(exact).max()


def run_layer_norm(rows: int, channels: int, offset: float, target: str = "llvm") -> None:
    random = np.random.default_rng(5)
    x = (random.standard_normal((rows, channels)) + offset).astype("float32")
    weight, bias = (random.standard_normal(channels).astype("float32") for _ in range(2))
    function = layer_norm(rows, channels, "float32", 1e-5, vector=16, work_group=4)
    out = run_kernel(function, [x, weight, bias], x.shape, target=target)
    exact = plain_layer_norm(x, weight, bias, 1e-5)
    error = 2e-7 * (10 + deviations(x[:, None], 1))
    assert np.abs(out - exact).max() <= error * max(1.0, np.abs(exact).max())


@given(
    rows=st.integers(1, 70),
    size=st.integers(1, 20),
    groups=st.sampled_from([1, 2, 8]),
    offset=st.sampled_from([0.0, 5.0, 1000.0]),
)
@settings(max_examples=6, deadline=None)
def test_group_norm_of_any_shape(rows: int, size: int, groups: int, offset: float) -> None:
    if rows * size > 1:
        run_group_norm(rows, size, groups, offset)


@given(rows=st.integers(1, 40), channels=st.integers(2, 70), offset=st.sampled_from([0.0, 100.0]))
@example(rows=3, channels=320, offset=100.0)  # sums side by side: 4, 3, and none
@example(rows=5, channels=96, offset=0.0)
@example(rows=31, channels=2, offset=100.0)  # two numbers that are nearly equal
@example(rows=2, channels=80, offset=0.0)
@settings(max_examples=6, deadline=None)
def test_layer_norm_of_any_shape(rows: int, channels: int, offset: float) -> None:
    run_layer_norm(rows, channels, offset)


def check_whole(norm: Normalisation, out: np.ndarray, x: np.ndarray, parameters: list[np.ndarray]) -> None:
    """Holds ``out`` against numpy; its border is zero."""
    exact = plain_group_norm(x, *parameters, norm.groups, norm.epsilon)
    if norm.silu:
        exact = exact / (1 + np.exp(-exact))
    top, left, bottom, right = norm.padding
    exact = exact.reshape(norm.batch, norm.height, norm.width, norm.channels)
    exact = np.pad(exact, ((0, 0), (top, bottom), (left, right), (0, 0)))
    error = 2e-7 * (10 + deviations(x, norm.groups))
    assert np.abs(out - exact).max() <= error * max(1.0, np.abs(exact).max())


def random_input(norm: Normalisation, offset: float) -> tuple[np.ndarray, list[np.ndarray]]:
    random = np.random.default_rng(norm.channels)
    x = (random.standard_normal(norm.flat) + offset).astype("float32")
    return x, [random.standard_normal(norm.channels).astype("float32") for _ in range(2)]


def run_one_launch(
    norm: Normalisation, offset: float, threads: int, vector: int, target: str, widest: int = 0
) -> None:
    blocking = blocking_of(norm, vector, threads, widest)
    assert blocking is not None
    x, parameters = random_input(norm, offset)
    out = run_kernel(fused_group_norm(norm, blocking), [x, *parameters], norm.shape, target=target)
    check_whole(norm, out, x, parameters)


def run_parameters(norm: Normalisation, offset: float, threads: int, vector: int) -> None:
    """Sums in one launch, what they make of the input in another."""
    blocking = blocking_of(norm, vector, threads)
    assert blocking is not None
    x, own = random_input(norm, offset)
    kernel = channel_parameters(norm, blocking)
    found = run_kernel(kernel, [x, *own], (norm.batch, 2, norm.channels), target="opencl")
    arrays = [x, found]
    out = run_kernel(te_function(group_norm.apply, arrays), arrays, x.shape, target="opencl")
    check_whole(norm, out.reshape(norm.shape), x, own)


def run_bands(norm: Normalisation, offset: float, most: int, target: str) -> None:
    x, parameters = random_input(norm, offset)
    shape = (norm.batch, bands(norm, most), 2, norm.groups)
    sums = run_kernel(row_moments(norm, most, 16), [x], shape, target=target)
    out = run_kernel(apply_rows(norm, most, 16), [x, sums, *parameters], norm.shape, target=target)
    check_whole(norm, out, x, parameters)


normalisations = st.builds(
    lambda batch, height, width, size, groups, silu, padding: Normalisation(
        batch, height, width, size * groups, groups, 1e-5, "float32", silu, padding
    ),
    st.integers(1, 2),
    st.integers(2, 13),
    st.integers(1, 12),
    st.integers(1, 20),
    st.sampled_from([1, 2, 3, 8]),
    st.booleans(),
    st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 1), (2, 0, 1, 3)]),
)


@given(
    norm=normalisations,
    offset=st.sampled_from([0.0, 5.0, 1000.0]),
    most=st.integers(1, 7),
    widest=st.sampled_from([0, 160]),
)
@example(Normalisation(2, 8, 3, 640, 32, 1e-5, "float32"), 5.0, 3, 160)
@settings(max_examples=6, deadline=None)
def test_whole_group_norms_of_any_shape(norm: Normalisation, offset: float, most: int, widest: int) -> None:
    run_one_launch(norm, offset, 1, 16, "llvm", widest)
    run_bands(norm, offset, most, "llvm")


@pytest.mark.parametrize(
    ("channels", "groups", "vector", "threads", "expected"),
    [
        # Whole groups and whole vectors, two work-groups where they can be.
        (320, 32, 16, 1, NormBlocking(80, 16, 1)),
        (960, 32, 16, 1, NormBlocking(240, 16, 1)),
        (32, 2, 16, 1, NormBlocking(16, 16, 1)),
        (21, 3, 16, 1, NormBlocking(21, 16, 1)),
        # 20 channels are 5 vectors, so that 51 pixels are read by 255 work-items at a time.
        (320, 32, 4, 256, NormBlocking(20, 4, 255)),
        (2560, 32, 4, 256, NormBlocking(80, 4, 240)),
        (6, 2, 4, 256, None),
        (8192, 1, 4, 256, None),
    ],
)
def test_how_work_groups_share_a_group_norm(
    channels: int, groups: int, vector: int, threads: int, expected: NormBlocking | None
) -> None:
    norm = Normalisation(1, 16, 16, channels, groups, 1e-5, "float32")
    assert blocking_of(norm, vector, threads) == expected


@pytest.mark.parametrize(
    ("batch", "channels", "slab"),
    # 16 work-groups of 80 channels become 8, and 32 become 16; 8 stay, or become as many of both pictures.
    [(1, 1280, 160), (1, 2560, 160), (1, 640, 80), (2, 640, 160), (1, 1920, 240), (1, 320, 80)],
)
def test_lone_work_items_own_more_where_enough_remain(batch: int, channels: int, slab: int) -> None:
    norm = Normalisation(batch, 8, 8, channels, 32, 1e-5, "float32")
    assert blocking_of(norm, 16, 1, widest=160) == NormBlocking(slab, 16, 1)


def test_vectors_of_a_slab_become_narrower() -> None:
    assert vectors_of(21, 16) == [(0, 16), (16, 4), (20, 1)]


def test_what_is_missing_stays_in_its_group() -> None:
    """An infinite or missing number makes its group missing, in either kernel, and no other."""
    norm = Normalisation(1, 4, 4, 32, 2, 1e-5, "float32", True, (1, 1, 1, 1))
    x, parameters = random_input(norm, 0.0)
    x[0, 5, 3], x[0, 6, 4] = np.inf, np.nan
    blocking = blocking_of(norm, 16, 1)
    assert blocking is not None
    sums = run_kernel(row_moments(norm, 2, 16), [x], (1, 2, 2, 2))
    outs = [
        run_kernel(fused_group_norm(norm, blocking), [x, *parameters], norm.shape),
        run_kernel(apply_rows(norm, 2, 16), [x, sums, *parameters], norm.shape),
    ]
    for out in outs:
        assert np.isnan(out[0, 1:-1, 1:-1, :16]).all()
        assert np.isfinite(out[..., 16:]).all()
        assert not out[0, 0].any()


@pytest.mark.opencl
@pytest.mark.parametrize(
    ("norm", "threads", "vector"),
    [
        (Normalisation(2, 7, 5, 40, 4, 1e-5, "float32", True, (1, 1, 1, 1)), 1, 16),
        # Work-items that share a picture through local memory, more of them than pixels and fewer.
        (Normalisation(2, 7, 5, 40, 4, 1e-5, "float32", True, (1, 1, 1, 1)), 64, 4),
        (Normalisation(1, 3, 1, 24, 3, 1e-5, "float32"), 64, 4),
        (Normalisation(1, 32, 32, 320, 32, 1e-5, "float32", True, (0, 1, 2, 0)), 256, 4),
    ],
)
def test_whole_group_norms_on_opencl(norm: Normalisation, threads: int, vector: int) -> None:
    run_one_launch(norm, 1000.0, threads, vector, "opencl")
    run_bands(norm, 1000.0, 5, "opencl")


@pytest.mark.opencl
@pytest.mark.parametrize(
    ("norm", "threads"),
    [
        (Normalisation(2, 7, 5, 40, 4, 1e-5, "float32"), 64),
        (Normalisation(1, 3, 1, 24, 3, 1e-5, "float32"), 64),
        (Normalisation(1, 40, 33, 60, 4, 1e-5, "float32"), 256),
    ],
)
def test_sums_in_one_launch_for_another_on_opencl(norm: Normalisation, threads: int) -> None:
    run_parameters(norm, 1000.0, threads, 4)


@pytest.mark.opencl
def test_norms_on_opencl() -> None:
    run_group_norm(256, 10, 32, 100.0, "opencl")
    run_layer_norm(77, 320, 3.0, "opencl")


@pytest.mark.opencl
@pytest.mark.parametrize(
    ("rows", "channels", "threads"), [(7, 4, 64), (77, 320, 64), (6, 92, 4), (5, 1284, 64)]
)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_rows_that_are_shared(rows: int, channels: int, threads: int, offset: float) -> None:
    random = np.random.default_rng(6)
    x = (random.standard_normal((rows, channels)) + offset).astype("float32")
    x[rows // 2, channels // 2] = np.inf
    x[0] = 3
    weight, bias = (random.standard_normal(channels).astype("float32") for _ in range(2))
    function = shared_layer_norm(rows, channels, "float32", 1e-5, vector=4, work_group=48, threads=threads)
    out = run_kernel(function, [x, weight, bias], x.shape, target="opencl")
    finite = np.arange(rows) != rows // 2
    assert not np.isfinite(out[~finite]).any()
    exact = plain_layer_norm(x[finite], weight, bias, 1e-5)
    assert np.abs(out[finite] - exact).max() <= 2e-6 * (10 + 100 * (offset > 0)) * np.abs(exact).max()


def test_a_constant_row_becomes_the_bias() -> None:
    x = np.full((3, 24), 7.25, "float32")
    weight, bias = np.ones(24, "float32"), np.arange(24, dtype="float32")
    function = layer_norm(3, 24, "float32", 1e-5, vector=16, work_group=1)
    assert np.array_equal(run_kernel(function, [x, weight, bias], x.shape), np.broadcast_to(bias, x.shape))
