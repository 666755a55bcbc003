"""Recordings on devices that only the lab has: PoCL 6 with its newer command buffers, fp16 on llvmpipe."""

from __future__ import annotations

import llvmpipe
import pytest

pytestmark = pytest.mark.lab

PROGRAM = """
import os
import sys
import numpy as np
from ddimcache.runtime import devices
from ddimcache.runtime.recording import record
from tests.runtime.opencl import programs

dtype = sys.argv[1]
(info,) = devices.list_devices()
print(info.name, "|", "cl_khr_command_buffer" in info.extensions)
source = '''
#ifdef cl_khr_fp16
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#endif
__kernel void blend(__global TYPE* target, __global const TYPE* source, int factor) {
  int i = get_global_id(0);
  target[i] = target[i] * (TYPE)factor + source[i];
}
'''.replace("TYPE", {"float16": "half", "float32": "float"}[dtype])
blend = programs.kernel(source, "blend", ["handle", "handle", "int32"])
device = tvm.runtime.device("opencl", 0)
x, y, z = (np.arange(64).astype(dtype) % (3 + shift) for shift in range(3))
there = [tvm.runtime.tensor(array, device) for array in (x, y, z)]

def launch(target, source, factor):
    blend(programs.handle(there[target]), programs.handle(there[source]), factor, 2, 32)

def work():
    launch(0, 1, 0)
    launch(0, 1, 1)
    launch(0, 0, 1)
    there[0].copyto(there[2])
    launch(2, 1, -1)
    launch(2, 1, 2)

methods = ["plain"] + ["command-buffer"] * ("cl_khr_command_buffer" in info.extensions)
for method in methods:
    os.environ["DDIMCACHE_REPLAY"] = method
    recording = record(work)
    assert recording.summary().method == method, recording.summary()
    for factor in (1, 1, 3):
        recording.update(1, 2, factor)
        for _ in range(3):
            recording.replay()
            x = y * 0 + y
            x = x * factor + y
            x = x + x
            z = (y - x) * 2 + y
    for array, tensor in zip((x, y, z), there):
        assert (tensor.numpy() == array).all(), (method, tensor.numpy(), array)
os.environ["DDIMCACHE_REPLAY"] = "auto"
print("right", *methods, record(work).summary().method)
"""


@pytest.mark.parametrize(
    ("driver", "dtype", "name", "methods"),
    [
        ("pocl", "float32", "cpu", "plain command-buffer"),
        ("rusticl", "float16", "llvmpipe", "plain"),
    ],
)
def test_recording(driver: str, dtype: str, name: str, methods: str) -> None:
    environment = {"OCL_ICD_VENDORS": f"/etc/OpenCL/vendors/{driver}.icd"}
    done = llvmpipe.run_python(PROGRAM, [dtype], environment=environment)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert name in lines[0], done.stdout
    assert lines[-1].startswith(f"right {methods}"), done.stdout
