"""The sums of products that the runtime gives kernels, by instruction and by arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from tests.runtime.opencl.dot_products import check_dots
from tests.runtime.opencl.programs import handle, kernel

pytestmark = pytest.mark.opencl


def test_any_bytes(device: tvm.runtime.Device) -> None:
    check_dots(device)


def test_arithmetic_gives_the_same(device: tvm.runtime.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDIMCACHE_OPENCL_BUILD_OPTIONS", "-DDDIMCACHE_PLAIN_FUNCTIONS")
    check_dots(device)


PAIRS = """
__kernel void add(__global float* restrict sums, __global const int* restrict pairs,
                  __global const int* restrict ones) {
  float16 total = vload16(0, sums);
  for (int k = 0; k < 3; ++k) total = ddimcache_pairs16(total, vload16(k, pairs), ones[k]);
  vstore16(total, 0, sums);
}
"""


def halves(numbers: np.ndarray) -> np.ndarray:
    """Float32 of 16 bits as their upper halves."""
    return (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def check_pairs(device: tvm.runtime.Device) -> None:
    """Pairs of whole numbers, whose products and sums are exact however they are taken."""
    random = np.random.default_rng(4)
    pairs, ones = random.integers(-127, 128, (3, 16, 2)), random.integers(-127, 128, (3, 2))
    start = random.integers(-999, 999, 16).astype(np.float32)
    expected = start + np.einsum("klb,kb->l", pairs, ones)
    sums = tvm.runtime.tensor(start, device)
    packed = tvm.runtime.tensor(halves(pairs).view("<i4").reshape(-1), device)
    single = tvm.runtime.tensor(halves(ones).view("<i4").reshape(-1), device)
    run = kernel(PAIRS, "add", ["handle"] * 3)
    run(handle(sums), handle(packed), handle(single), 1, 1)
    np.testing.assert_array_equal(sums.numpy(), expected.astype(np.float32))


def test_pairs(device: tvm.runtime.Device) -> None:
    check_pairs(device)


def test_arithmetic_gives_the_same_of_pairs(
    device: tvm.runtime.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDIMCACHE_OPENCL_BUILD_OPTIONS", "-DDDIMCACHE_PLAIN_FUNCTIONS")
    check_pairs(device)
