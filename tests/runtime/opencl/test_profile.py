"""Times of kernels."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tvm

from ddimcache.runtime import devices
from tests.runtime.opencl import programs

pytestmark = pytest.mark.opencl

SPIN = """
__kernel void spin(__global float* out, int rounds) {
  float x = get_global_id(0);
  for (int i = 0; i < rounds; ++i) x = x * 0.999f + 1.0f;
  out[get_global_id(0)] = x;
}
"""


def test_a_profile_counts_and_times_what_ran(device: tvm.runtime.Device) -> None:
    spin = programs.kernel(SPIN, "spin", ["handle", "int32"])
    out = tvm.runtime.empty((64,), "float32", device)
    spin(programs.handle(out), 1, 1, 64)
    devices.profile_start()
    begin = time.perf_counter()
    for rounds in (10, 1_000_000, 10):
        spin(programs.handle(out), rounds, 1, 64)
    device.sync()
    elapsed = time.perf_counter() - begin
    out.numpy()
    profile = {entry.kernel: entry for entry in devices.profile_stop()}
    assert set(profile) == {"spin", "copy device to host"}
    assert profile["spin"].calls == 3
    assert profile["copy device to host"].calls == 1
    assert 0 < profile["spin"].seconds_minimum < profile["spin"].seconds / 3
    assert profile["spin"].seconds <= elapsed


def test_a_timeline_is_in_order(device: tvm.runtime.Device) -> None:
    spin = programs.kernel(SPIN, "spin", ["handle", "int32"])
    out = tvm.runtime.empty((64,), "float32", device)
    devices.profile_start()
    for _ in range(1500):  # more than the profiler holds events for
        spin(programs.handle(out), 1, 1, 64)
    timeline = devices.profile_stop_timeline()
    assert [command.kernel for command in timeline] == ["spin"] * 1500
    assert all(command.queued <= command.start <= command.end for command in timeline)
    ends = [command.end for command in timeline]
    assert ends == sorted(ends)


def test_without_a_start_there_is_nothing(device: tvm.runtime.Device) -> None:
    programs.add_one(64)(*[tvm.runtime.empty((64,), "float32", device) for _ in range(2)])
    assert devices.profile_stop() == []
    assert devices.profile_stop_timeline() == []


def test_results_stay_right_across_starts_and_stops(device: tvm.runtime.Device) -> None:
    """Starting and stopping changes the queue under running commands."""
    add_one = programs.add_one(64)
    tensors = [
        tvm.runtime.tensor(np.zeros(64, "float32"), device),
        tvm.runtime.empty((64,), "float32", device),
    ]
    for step in range(20):
        if step % 5 == 1:
            devices.profile_start()
        if step % 5 == 3:
            assert sum(entry.calls for entry in devices.profile_stop()) == 2
        add_one(tensors[step % 2], tensors[(step + 1) % 2])
    np.testing.assert_array_equal(tensors[0].numpy(), np.full(64, 20, "float32"))


def test_launches_are_counted(device: tvm.runtime.Device) -> None:
    add_one = programs.add_one(64)
    tensor = tvm.runtime.empty((64,), "float32", device)
    other = tvm.runtime.empty((64,), "float32", device)
    before = devices.launches()
    for _ in range(5):
        add_one(tensor, other)
    assert devices.launches() == before + 5
