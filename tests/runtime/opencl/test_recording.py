"""Launches recorded once and replayed, with every method that the device has."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from ddimcache.compiler.library import build_library
from ddimcache.compiler.passes.plan_memory import PlanMemory
from ddimcache.compiler.target import profile
from ddimcache.runtime import devices
from ddimcache.runtime.local_device import host_triple
from ddimcache.runtime.recording import Recording, record
from ddimcache.schedules.apply import ApplySchedules
from tests.runtime.opencl import programs

pytestmark = pytest.mark.opencl

ELEMENTS = 96
EXTENSIONS = {"command-buffer": "cl_khr_command_buffer", "recordable-queue": "cl_qcom_recordable_queues"}
SOURCE = """
__kernel void blend(__global int* target, __global const int* source, int factor) {
  int i = get_global_id(0);
  target[i] = target[i] * factor + source[i];
}
"""


@pytest.fixture(scope="module", params=["plain", *EXTENSIONS], autouse=True)
def method(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every way to replay that the device has; those that it lacks run on a fake (test_replay_drivers.py)."""
    extension = EXTENSIONS.get(request.param)
    if extension is not None and extension not in devices.list_devices()[0].extensions:
        pytest.skip(f"the device has no {extension}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDIMCACHE_REPLAY", request.param)
        yield request.param


@pytest.fixture(scope="module")
def blend() -> tvm.runtime.Function:
    """``target = target * factor + source``, elementwise."""
    return programs.kernel(SOURCE, "blend", ["handle", "handle", "int32"])


def launch(blend: tvm.runtime.Function, target: object, source: object, factor: int) -> None:
    blend(programs.handle(target), programs.handle(source), factor, ELEMENTS // 32, 32)


def counting(start: int = 0) -> NDArray[np.int32]:
    return np.arange(start, start + ELEMENTS, dtype="int32")


operation = st.one_of(
    st.tuples(st.just("blend"), st.integers(0, 3), st.integers(0, 3), st.integers(-3, 3)),
    st.tuples(st.just("copy"), st.integers(0, 3), st.integers(0, 3), st.just(0)),
)


@settings(max_examples=40, deadline=None)
@given(recorded=st.lists(operation, max_size=12), between=st.lists(operation, max_size=3), data=st.data())
def test_a_replay_does_what_the_calls_would(
    blend: tvm.runtime.Function, recorded: list, between: list, data: st.DataObject
) -> None:
    """Random launches and copies, recorded, against the same in numpy; others in between, and updates."""
    device = tvm.runtime.device("opencl", 0)
    arrays = [counting(7 * index) for index in range(4)]
    tensors = [tvm.runtime.tensor(array, device) for array in arrays]

    def run(operations: list) -> None:
        for kind, target, source, factor in operations:
            if kind == "blend":
                launch(blend, tensors[target], tensors[source], factor)
            else:
                tensors[source].copyto(tensors[target])

    def expect(operations: list) -> None:
        for kind, target, source, factor in operations:
            arrays[target] = arrays[target] * (factor if kind == "blend" else 0) + arrays[source]

    recording = record(lambda: run(recorded))
    for tensor, array in zip(tensors, arrays, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)  # nothing has run yet
    launches = [index for index, (kind, *_) in enumerate(recorded) if kind == "blend"]
    assert recording.summary().launches == len(launches)
    for _ in range(3):
        recording.replay()
        expect(recorded)
        run(between)
        expect(between)
        if launches and data.draw(st.booleans()):
            number = data.draw(st.integers(0, len(launches) - 1))
            kind, target, _, _ = recorded[launches[number]]
            source, factor = data.draw(st.integers(0, 3)), data.draw(st.integers(-3, 3))
            recording.update(number, 1, tensors[source])
            recording.update(number, 2, factor)
            recorded = list(recorded)
            recorded[launches[number]] = (kind, target, source, factor)
    for tensor, array in zip(tensors, arrays, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_buffers_and_kernels_live_as_long_as_the_recording(device: tvm.runtime.Device) -> None:
    gc.collect()
    before = devices.memory_use().live_buffers
    target = tvm.runtime.tensor(np.zeros(ELEMENTS, "int32"), device)

    def make() -> Recording:
        module = programs.load(programs.module_bytes(SOURCE, "blend", ["handle", "handle", "int32"]))
        scratch = tvm.runtime.tensor(counting(), device)

        def work() -> None:
            passing = tvm.runtime.empty((ELEMENTS,), "int32", device)
            scratch.copyto(passing)
            launch(module.get_function("blend"), target, passing, 2)

        return record(work)

    recording = make()
    gc.collect()
    # other buffers where the freed ones may have been
    others = [tvm.runtime.tensor(np.full(ELEMENTS, 7, "int32"), device) for _ in range(8)]
    for _ in range(3):
        recording.replay()
    np.testing.assert_array_equal(target.numpy(), 7 * counting())
    for other in others:
        np.testing.assert_array_equal(other.numpy(), 7)
    del recording, others, other
    gc.collect()
    assert devices.memory_use().live_buffers == before + 1


@I.ir_module
class Scratch:
    """Two tensors in storage of the function's own, which ends with the call, and one that is returned."""

    @R.function
    def main(x: R.Tensor((2048,), "float32"), y: R.Tensor((2048,), "float32")) -> R.Tensor(
        (2048,), "float32"
    ):
        with R.dataflow():
            a = R.add(x, y)
            b = R.sin(a)
            c = R.multiply(a, b)
            R.output(c)
        return c


def planned(folder: Path) -> Path:
    """A library of ``Scratch`` for this device, as the compiler would build it."""
    opencl, module = profile("opencl"), Scratch
    phases = [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        ApplySchedules(opencl),
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        PlanMemory(),
    ]
    with opencl.tvm_target():
        for phase in phases:
            module = phase(module)
    build_library(module, opencl, host_triple(), ["main"], folder / "scratch.so")
    return folder / "scratch.so"


def test_calls_of_a_recording_share_what_they_free(device: tvm.runtime.Device, tmp_path: Path) -> None:
    """And nothing else: a tensor that was there before keeps its numbers, though nobody else has it."""
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(planned(tmp_path))), device)
    numbers = np.linspace(-3, 3, 2048, dtype="float32")
    x = tvm.runtime.tensor(numbers, device)
    given = [machine["main"](x, tvm.runtime.tensor(np.full(2048, 0.5, "float32"), device))]
    before = given[0].numpy()
    results: list[tvm.runtime.Tensor] = []

    def work() -> None:
        last = given.pop()
        for _ in range(4):
            last = machine["main"](x, last)
            results.append(last)

    gc.collect()
    devices.release_idle()
    live = devices.memory_use().live_buffers
    recording = record(work)
    # Storages of one call, and what each of the four returns.
    assert devices.memory_use().live_buffers - live == 2 + 4
    expected, last = [], before
    for _ in range(4):
        summed = numbers + last
        last = summed * np.sin(summed)
        expected.append(last)
    for _ in range(3):
        recording.replay()
        for result, wanted in zip(results, expected, strict=True):
            np.testing.assert_allclose(result.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_an_error_inside_leaves_nothing_behind(
    blend: tvm.runtime.Function, device: tvm.runtime.Device
) -> None:
    target = tvm.runtime.tensor(counting(), device)

    def work() -> None:
        launch(blend, target, target, 5)
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        record(work)
    launch(blend, target, target, 1)  # runs at once again
    np.testing.assert_array_equal(target.numpy(), 2 * counting())


def test_what_cannot_be_recorded(blend: tvm.runtime.Function, device: tvm.runtime.Device) -> None:
    tensor = tvm.runtime.tensor(counting(), device)
    other = record(lambda: launch(blend, tensor, tensor, 1))
    host = np.zeros(ELEMENTS, "int32")
    for work, message in (
        (tensor.numpy, "a copy of 384 bytes from or to the host cannot be recorded"),
        (lambda: tensor.copyfrom(host), "a copy of 384 bytes from or to the host cannot be recorded"),
        (lambda: record(lambda: None), "a recording cannot be recorded"),
        (other.replay, "the replay of a recording cannot be recorded"),
    ):
        with pytest.raises(RuntimeError, match=message):
            record(work)
    np.testing.assert_array_equal(tensor.numpy(), counting())


def test_wrong_updates_are_refused(blend: tvm.runtime.Function, device: tvm.runtime.Device) -> None:
    tensor = tvm.runtime.tensor(counting(), device)
    recording = record(lambda: launch(blend, tensor, tensor, 1))
    whole = tvm.runtime.empty((2, ELEMENTS), "int32", device)
    part = whole._create_view((ELEMENTS,), relative_byte_offset=4 * ELEMENTS)
    for update, error, message in (
        ((1, 0, tensor), IndexError, "launch 1 of a recording that has 1"),
        ((0, 3, 1), IndexError, 'argument 3 of kernel "blend", which takes 3'),
        ((-1, 0, 1), IndexError, "counted from 0"),
        ((0, 2, tensor), TypeError, 'argument 2 of kernel "blend" is a number'),
        ((0, 2, "text"), TypeError, 'argument 2 of kernel "blend" is a number'),
        ((0, 0, 5), TypeError, 'argument 0 of kernel "blend" is a buffer'),
        ((0, 0, tvm.runtime.tensor(counting())), ValueError, "no live OpenCL buffer"),
        ((0, 0, part), ValueError, "starts 384 bytes into its buffer"),
    ):
        with pytest.raises(error, match=message):
            recording.update(*update)
    recording.replay()
    np.testing.assert_array_equal(tensor.numpy(), 2 * counting())


def test_a_profile_times_every_replayed_kernel(
    blend: tvm.runtime.Function, device: tvm.runtime.Device
) -> None:
    tensor = tvm.runtime.tensor(np.zeros(ELEMENTS, "int32"), device)
    ones = tvm.runtime.tensor(np.ones(ELEMENTS, "int32"), device)

    def work() -> None:
        for _ in range(5):
            launch(blend, tensor, ones, 1)
        tensor.copyto(ones)

    recording = record(work)
    before = devices.launches()
    recording.replay()
    devices.profile_start()
    recording.replay()
    profile = {entry.kernel: entry.calls for entry in devices.profile_stop()}
    assert profile == {"blend": 5, "copy device to device": 1}
    recording.replay()
    assert devices.launches() == before + 15
    np.testing.assert_array_equal(tensor.numpy(), 5 + 5 * 5 + 5 * 30)


def test_recordings_in_threads(blend: tvm.runtime.Function, device: tvm.runtime.Device) -> None:
    """One thread's recording takes no launch of another, and replays of several keep to their own buffers."""
    shared = tvm.runtime.tensor(np.zeros(ELEMENTS, "int32"), device)
    one = tvm.runtime.tensor(np.ones(ELEMENTS, "int32"), device)
    adds = record(lambda: launch(blend, shared, one, 1))
    failures = []

    def work(number: int) -> None:
        try:
            tensor = tvm.runtime.tensor(np.zeros(ELEMENTS, "int32"), device)
            own = tvm.runtime.tensor(np.full(ELEMENTS, number, "int32"), device)
            recording = record(lambda: [launch(blend, tensor, own, 1) for _ in range(10)])
            for round_number in range(30):
                recording.replay()
                adds.replay()
                launch(blend, tensor, own, 1)
                if round_number % 10 == number:
                    recording = record(lambda: [launch(blend, tensor, own, 1) for _ in range(10)])
            np.testing.assert_array_equal(tensor.numpy(), 30 * 11 * number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    np.testing.assert_array_equal(shared.numpy(), 4 * 30)


def test_more_replays_than_fit_into_the_queue(
    blend: tvm.runtime.Function, device: tvm.runtime.Device, method: str
) -> None:
    tensor = tvm.runtime.tensor(np.zeros(ELEMENTS, "int32"), device)
    one = tvm.runtime.tensor(np.ones(ELEMENTS, "int32"), device)
    recording = record(lambda: [launch(blend, tensor, one, 1) for _ in range(300)])
    assert recording.summary().method == method
    for _ in range(20):
        recording.replay()
    np.testing.assert_array_equal(tensor.numpy(), 6000)
