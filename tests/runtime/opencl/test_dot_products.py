"""The sums of products that the runtime gives kernels, by instruction and by arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from tests.runtime.opencl.programs import handle, kernel

pytestmark = pytest.mark.opencl

SOURCE = """
__kernel void add(__global int* restrict sums, __global const int* restrict weights,
                  __global const char* restrict fours) {
  char own[12];
  for (int i = 0; i < 12; ++i) own[i] = fours[i];
  int16 total = vload16(0, sums);
  for (int k = 0; k < 3; ++k) total = ddimcache_dot16(total, vload16(k, weights), own + 4 * k);
  vstore16(total, 0, sums);
}
"""


def check(device: tvm.runtime.Device) -> None:
    """Random bytes, and the largest of both signs, against numpy."""
    random = np.random.default_rng(2)
    weights = random.integers(0, 256, (3, 16, 4)).astype(np.uint8)
    fours = random.integers(-128, 128, (3, 4)).astype(np.int8)
    weights[0, :2], weights[0, 2] = 255, 0
    fours[0] = -128
    fours[1] = 127
    start = random.integers(-(2**20), 2**20, 16).astype(np.int32)
    expected = start + np.einsum("klb,kb->l", weights.astype(np.int32), fours.astype(np.int32))
    sums = tvm.runtime.tensor(start, device)
    packed = tvm.runtime.tensor(np.ascontiguousarray(weights).view("<i4").reshape(-1), device)
    with_bytes = tvm.runtime.tensor(fours.reshape(-1), device)
    run = kernel(SOURCE, "add", ["handle"] * 3)
    run(handle(sums), handle(packed), handle(with_bytes), 1, 1)
    np.testing.assert_array_equal(sums.numpy(), expected)


def test_any_bytes(device: tvm.runtime.Device) -> None:
    check(device)


def test_arithmetic_gives_the_same(device: tvm.runtime.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDIMCACHE_OPENCL_BUILD_OPTIONS", "-DDDIMCACHE_PLAIN_DOTS")
    check(device)


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
    monkeypatch.setenv("DDIMCACHE_OPENCL_BUILD_OPTIONS", "-DDDIMCACHE_PLAIN_DOTS")
    check_pairs(device)
