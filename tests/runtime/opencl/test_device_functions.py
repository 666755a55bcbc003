"""Powers of two that the runtime gives kernels, by instructions and by arithmetic, and lines brought near."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from tests.runtime.opencl.programs import handle, kernel

pytestmark = pytest.mark.opencl

POWERS = """
__kernel void powers(__global float* restrict numbers) {
  const size_t at = get_group_id(0);
  vstore16(ddimcache_power16(vload16(at, numbers)), at, numbers);
}
"""

NEAR = """
__kernel void add_one(__global float* restrict numbers) {
  ddimcache_prefetch((&(numbers[16])));
  numbers[0] += 1.0f;
}
"""


def powers(values: np.ndarray, device: tvm.runtime.Device) -> np.ndarray:
    numbers = tvm.runtime.tensor(values, device)
    kernel(POWERS, "powers", ["handle"])(handle(numbers), len(values) // 16, 1)
    return numbers.numpy()


def check_powers(device: tvm.runtime.Device) -> None:
    values = np.linspace(-126, 126, 6400, dtype="float32")
    exact = np.exp2(values.astype("float64"))
    assert np.abs(powers(values, device) / exact - 1).max() <= 4e-7
    whole = np.arange(-126, 34, dtype="float32")
    np.testing.assert_array_equal(powers(whole, device), np.exp2(whole))
    low = powers(np.array([-np.inf, -1e30, -150, -126.5] * 4, "float32"), device)
    assert (low >= 0).all()
    assert (low <= 2.0**-126).all()
    assert np.isnan(powers(np.full(16, np.nan, "float32"), device)).all()


def test_powers(device: tvm.runtime.Device) -> None:
    check_powers(device)


def test_arithmetic_gives_the_same_powers(
    device: tvm.runtime.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDIMCACHE_OPENCL_BUILD_OPTIONS", "-DDDIMCACHE_PLAIN_FUNCTIONS")
    check_powers(device)


def test_a_line_is_brought_near(device: tvm.runtime.Device) -> None:
    numbers = tvm.runtime.tensor(np.zeros(32, "float32"), device)
    kernel(NEAR, "add_one", ["handle"])(handle(numbers), 1, 1)
    np.testing.assert_array_equal(numbers.numpy(), [1.0] + [0.0] * 31)
