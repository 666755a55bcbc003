"""Several threads at once, and nothing left behind."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable

import numpy as np
import pytest
import tvm
import tvm_ffi

from ddimcache.runtime import devices
from tests.runtime.opencl import programs

pytestmark = pytest.mark.opencl


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run ``work(0) … work(count - 1)`` at once; raises the first exception of any."""
    failures: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_one_kernel_with_other_arguments_in_every_thread(device: tvm.runtime.Device) -> None:
    """The arguments of a kernel object are state: without a guard, launches take each other's."""
    source = "__kernel void fill(__global int* out, int value) { out[get_global_id(0)] = value; }"
    fill = programs.kernel(source, "fill", ["handle", "int32"])

    def work(index: int) -> None:
        out = tvm.runtime.empty((256,), "int32", device)
        for round_number in range(100):
            fill(programs.handle(out), 1000 * index + round_number, 4, 64)
            values = np.unique(out.numpy())
            assert values.tolist() == [1000 * index + round_number]

    in_threads(4, work)


def test_allocation_and_copies_in_threads(device: tvm.runtime.Device) -> None:
    gc.collect()
    base = devices.memory_use()

    def work(index: int) -> None:
        rng = np.random.default_rng(index)
        for _ in range(60):
            array = rng.integers(0, 100, rng.integers(1, 5000)).astype("int32")
            there = tvm.runtime.tensor(array, device)
            again = tvm.runtime.empty(array.shape, "int32", device)
            there.copyto(again)
            np.testing.assert_array_equal(again.numpy(), array)

    in_threads(4, work)
    gc.collect()
    use = devices.memory_use()
    assert (use.live_buffers, use.current_bytes) == (base.live_buffers, base.current_bytes)


def test_the_first_launch_in_two_threads_builds_once(device: tvm.runtime.Device) -> None:
    add_one = programs.add_one(64)

    def work(_: int) -> None:
        source = tvm.runtime.tensor(np.arange(64, dtype="float32"), device)
        target = tvm.runtime.empty((64,), "float32", device)
        add_one(source, target)
        np.testing.assert_array_equal(target.numpy(), np.arange(1, 65))

    in_threads(2, work)


def test_profiling_while_another_thread_launches(device: tvm.runtime.Device) -> None:
    add_one = programs.add_one(64)
    stop = threading.Event()

    def launch() -> None:
        source = tvm.runtime.tensor(np.arange(64, dtype="float32"), device)
        target = tvm.runtime.empty((64,), "float32", device)
        while not stop.is_set():
            add_one(source, target)
            np.testing.assert_array_equal(target.numpy(), np.arange(1, 65))

    def profile() -> None:
        try:
            for _ in range(20):
                devices.profile_start()
                assert all(entry.seconds >= 0 for entry in devices.profile_stop())
        finally:
            stop.set()

    in_threads(2, lambda index: (launch, profile)[index]())


def test_modules_leave_no_program_behind(device: tvm.runtime.Device) -> None:
    gc.collect()
    base = json.loads(tvm_ffi.get_global_func("ddimcache.opencl.memory")(0))
    data = programs.module_bytes("__kernel void none(__global int* out) { out[0] = 1; }", "none", ["handle"])
    for _ in range(30):
        out = tvm.runtime.empty((1,), "int32", device)
        programs.load(data).get_function("none")(programs.handle(out), 1, 1)
        assert out.numpy()[0] == 1
        del out
    gc.collect()
    now = json.loads(tvm_ffi.get_global_func("ddimcache.opencl.memory")(0))
    assert now["live_buffers"] == base["live_buffers"]
    assert now["live_programs"] == base["live_programs"]
