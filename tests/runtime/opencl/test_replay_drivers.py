"""Replays, their fall-back and hints on drivers that no machine here has: a strict fake takes their place."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.no_torch import without_torch

FAKE = Path(__file__).parents[2] / "fakes" / "fake_opencl.c"
QUALCOMM = "cl_qcom_recordable_queues cl_qcom_perf_hint cl_qcom_priority_hint"
KHRONOS = "cl_khr_command_buffer cl_khr_priority_hints cl_khr_throttle_hints"

# 40 launches, a copy, 3 launches; replayed, updated twice, replayed, profiled; numbers checked all the way
PROGRAM = """
import numpy as np
import tvm
from ddimcache.runtime import devices
from ddimcache.runtime.recording import record
from tests.runtime.opencl import programs

blend = programs.kernel("", "blend", ["handle", "handle", "int32"])
device = tvm.runtime.device("opencl", 0)
x, y, z = (np.arange(start, start + 8, dtype="int32") for start in (0, 5, 100))
there = [tvm.runtime.tensor(array, device) for array in (x, y, z)]

def launch(target, source, factor):
    blend(programs.handle(there[target]), programs.handle(there[source]), factor, 1, 8)

def work():
    for factor in range(40):
        launch(0, 1, factor)
    there[0].copyto(there[2])
    for factor in range(3):
        launch(2, 1, factor)

def expect(seventh=(1, 6)):
    arrays = [x, y, z]
    for factor in range(40):
        source, factor = seventh if factor == 6 else (1, factor)
        arrays[0] = arrays[0] * np.int32(factor) + arrays[source]
    arrays[2] = arrays[0]
    for factor in range(3):
        arrays[2] = arrays[2] * np.int32(factor) + arrays[1]
    return arrays

print("record", flush=True)
recording = record(work)
print(recording.summary(), flush=True)
for _ in range(5):
    recording.replay()
    x, y, z = expect()
for source, factor in ((1, 8), (2, 9)):
    recording.update(6, 1, there[source])
    recording.update(6, 2, factor)
for _ in range(3):
    recording.replay()
    x, y, z = expect((2, 9))
devices.profile_start()
recording.replay()
x, y, z = expect((2, 9))
profile = {entry.kernel: entry.calls for entry in devices.profile_stop() if entry.kernel == "blend"}
assert profile == {"blend": 43}, profile
for array, tensor in zip((x, y, z), there):
    np.testing.assert_array_equal(tensor.numpy(), array)
print(recording.summary(), flush=True)
assert devices.launches() == 9 * 43
del recording
print("right", flush=True)
"""


@dataclass
class Run:
    """What a process said: the driver and the program between them on standard output."""

    code: int
    output: list[str]
    error: str

    def count(self, line: str) -> int:
        return self.output.count(line)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("fake") / "libfake_opencl.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", built, FAKE], check=True)
    return built


def run(library: Path, code: str = PROGRAM, **environment: str) -> Run:
    variables = {"DDIMCACHE_OPENCL_LIBRARY": str(library), "DDIMCACHE_PROGRAM_CACHE": "0", **environment}
    done = subprocess.run(
        # the fake's lines must not wait in a buffer behind Python's
        ["stdbuf", "-o0", sys.executable, "-c", code],
        env=without_torch({**os.environ, **variables}),
        capture_output=True,
        text=True,
    )
    return Run(done.returncode, done.stdout.splitlines(), done.stderr)


def test_recordable_queues(library: Path) -> None:
    done = run(library, FAKE_EXTENSIONS=QUALCOMM, DDIMCACHE_REPLAY="recordable-queue")
    assert done.code == 0, done.error
    assert done.output[-1] == "right"
    # the queue takes 16 launches; the check before has its own three parts
    first = done.output.index("record")
    recorded = [line for line in done.output[first:] if line.startswith("recorded")]
    assert recorded == ["recorded 16"] * 3 + ["recorded 16", "recorded 16", "recorded 8", "recorded 3"]
    assert "RecordingSummary(method='recordable-queue', launches=43, copies=1, calls=5)" in done.output
    assert done.count("replay 8 with 0 updates") == 8
    assert done.count("replay 3 with 0 updates") == 8
    assert done.count("replay 16 with 2 updates") == 3
    assert done.count("launch blend") == 43  # those of the profile
    # low priority and the usual clock, on the context; a recordable queue has no other property
    assert done.output[0] == "context 1084=platform+0 40c2=40c4 40c9=40cc"
    assert {line for line in done.output if line.startswith("queue")} == {
        "queue 0",
        "queue 2",
        "queue 40000000",
    }


@pytest.mark.parametrize("simultaneous", [False, True])
def test_command_buffers(library: Path, simultaneous: bool) -> None:
    """One buffer where it may run several times at once, else two in turns; both made anew for an update."""
    more = {"FAKE_SIMULTANEOUS": "1"} if simultaneous else {}
    hints = {"DDIMCACHE_GPU_PRIORITY": "high", "DDIMCACHE_GPU_PERFORMANCE": "low"}
    done = run(library, FAKE_EXTENSIONS=KHRONOS, DDIMCACHE_REPLAY="command-buffer", **hints, **more)
    assert done.code == 0, done.error
    assert done.output[-1] == "right"
    assert "RecordingSummary(method='command-buffer', launches=43, copies=1, calls=3)" in done.output
    assert done.count("finalised 40") == (2 if simultaneous else 4)
    assert done.count("finalised 3") == (1 if simultaneous else 2)
    assert done.count("replay buffer 40") == 8
    assert not [line for line in done.output if "while pending" in line]
    assert done.output[:2] == ["context", "queue with 1093=0 1096=1 1097=4"]
    assert "queue with 1093=2 1096=1 1097=4" in done.output


@pytest.mark.parametrize(
    ("extensions", "failure", "message"),
    [
        (QUALCOMM, {"FAKE_FAIL": "clEnqueueRecordingQCOM", "FAKE_AFTER": "40"}, "CL_OUT_OF_RESOURCES"),
        (KHRONOS, {"FAKE_FAIL": "clEnqueueCommandBufferKHR", "FAKE_AFTER": "16"}, "CL_OUT_OF_RESOURCES"),
        (QUALCOMM, {"FAKE_FAIL": "clNewRecordingQCOM", "FAKE_AFTER": "4"}, "clNewRecordingQCOM"),
    ],
    ids=["replaying-a-queue", "replaying-a-buffer", "recording"],
)
def test_a_driver_that_fails_later_is_given_launches_one_by_one(
    library: Path, extensions: str, failure: dict[str, str], message: str
) -> None:
    method = "recordable-queue" if extensions is QUALCOMM else "command-buffer"
    done = run(library, FAKE_EXTENSIONS=extensions, DDIMCACHE_REPLAY=method, **failure)
    assert done.code == 0, done.error
    assert done.output[-1] == "right"
    assert "RecordingSummary(method='plain', launches=43, copies=1, calls=44)" in done.output
    lines = [line for line in done.error.splitlines() if line.startswith("ddimcache: ")]
    assert len(lines) == 1
    assert lines[0].startswith(
        'ddimcache: launches are replayed one by one on device "Fake GPU" (opencl:0): '
    )
    assert message in lines[0]


def test_a_driver_that_computes_something_else_is_found_out(library: Path) -> None:
    done = run(library, FAKE_EXTENSIONS=f"{QUALCOMM} {KHRONOS}", FAKE_WRONG="1")
    assert done.code == 0, done.error
    assert done.output[-1] == "right"
    assert "RecordingSummary(method='plain', launches=43, copies=1, calls=44)" in done.output
    for method in ("recordable-queue", "command-buffer"):
        assert f"ddimcache: replays do without {method}: " in done.error
    assert "instead of" in done.error
    done = run(library, FAKE_EXTENSIONS=KHRONOS, FAKE_WRONG="1", DDIMCACHE_REPLAY="command-buffer")
    assert done.code != 0
    assert "RuntimeError: DDIMCACHE_REPLAY is command-buffer, but device" in done.error


def test_hints_that_are_refused_are_left_out(library: Path) -> None:
    code = "import tvm; tvm.runtime.empty((4,), 'int32', tvm.runtime.device('opencl', 0)).numpy()"
    done = run(library, code, FAKE_EXTENSIONS=QUALCOMM, FAKE_FAIL="clCreateContext")
    assert done.code == 0, done.error
    assert done.output[:2] == ["context 1084=platform+0 40c2=40c4 40c9=40cc", "context"]
    assert "priority and performance hints are left out on device" in done.error
    done = run(library, code, FAKE_EXTENSIONS=KHRONOS, FAKE_FAIL="clCreateCommandQueueWithProperties")
    assert done.code == 0, done.error
    assert done.output[:3] == ["context", "queue with 1093=0 1096=4 1097=2", "queue 0"]
    assert "priority and throttle hints are left out on device" in done.error


def test_a_wrong_hint_is_refused(library: Path) -> None:
    code = "import tvm; tvm.runtime.empty((4,), 'int32', tvm.runtime.device('opencl', 0))"
    done = run(library, code, DDIMCACHE_GPU_PRIORITY="top")
    assert done.code != 0
    assert 'ValueError: DDIMCACHE_GPU_PRIORITY is "top", but can be: low, normal, high' in done.error
