"""Rows of an int8 table against numpy, numbers outside the table among them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimcache.kernels.lookup.kernel import lookup
from ddimcache.kernels.lookup.reference import lookup as plain_lookup
from tests.kit.kernel_run import run_kernel, te_function


def check(rows: int, channels: int, taken: list[int], target: str) -> None:
    random = np.random.default_rng(channels)
    table = random.integers(-127, 128, (rows, channels)).astype("int8")
    scale = random.uniform(0.001, 2, rows).astype("float32")
    numbers = np.array(taken, dtype="int32")
    kernel = te_function(lambda *places: lookup(*places, "float32"), [table, scale, numbers])
    out = run_kernel(kernel, [table, scale, numbers], (len(taken), channels), target=target)
    # One product, rounded once.
    np.testing.assert_allclose(out, plain_lookup(table, scale, numbers), rtol=2.0**-23, atol=0)


@given(
    rows=st.integers(1, 30),
    channels=st.integers(1, 40),
    taken=st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 31), min_size=1, max_size=9),
)
@settings(max_examples=6, deadline=None)
def test_any_shape(rows: int, channels: int, taken: list[int]) -> None:
    check(rows, channels, taken, "llvm")


@pytest.mark.opencl
def test_on_opencl() -> None:
    check(300, 768, [0, 299, 7, 7, -1, 300, 2**31 - 1, -(2**31), 128], "opencl")
    check(5, 13, [4, 3], "opencl")
