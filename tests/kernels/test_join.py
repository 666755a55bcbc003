"""Joined channels against numpy, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimcache.kernels.join.kernel import join_channels
from ddimcache.kernels.join.reference import join_channels as plain_join
from tests.kit.kernel_run import run_kernel


def check(
    rows: int, channels: tuple[int, ...], vector: int, rows_of_group: int, work_group: int, target: str
) -> None:
    random = np.random.default_rng(rows)
    parts = [random.standard_normal((rows, count)).astype("float32") for count in channels]
    parts[0][0, 0] = np.nan
    kernel = join_channels(
        rows, channels, "float32", vector=vector, rows_of_group=rows_of_group, work_group=work_group
    )
    out = run_kernel(kernel, parts, (rows, sum(channels)), target=target)
    np.testing.assert_array_equal(out, plain_join(parts))


@given(
    rows=st.integers(1, 20),
    channels=st.lists(st.integers(1, 40), min_size=2, max_size=3),
    vector=st.sampled_from([4, 16]),
    rows_of_group=st.integers(1, 5),
    work_group=st.sampled_from([1, 3]),
)
@settings(max_examples=6, deadline=None)
def test_any_shape(rows: int, channels: list[int], vector: int, rows_of_group: int, work_group: int) -> None:
    check(rows, tuple(channels), vector, rows_of_group, work_group, "llvm")


@pytest.mark.opencl
def test_on_opencl() -> None:
    check(49, (640, 320), 16, 4, 1, "opencl")
    check(49, (640, 324), 4, 1, 64, "opencl")
