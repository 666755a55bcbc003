"""Sums of products of int8 by the runtime's function, checked on any device."""

from __future__ import annotations

import numpy as np
import tvm

from tests.runtime.opencl.programs import handle, kernel

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


def check_dots(device: tvm.runtime.Device) -> None:
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
