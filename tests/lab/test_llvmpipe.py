"""The plug-in runs fp16 arithmetic and images on llvmpipe, which no device outside the lab has."""

from __future__ import annotations

import llvmpipe
import pytest

pytestmark = pytest.mark.lab

DEVICE = """
from ddimcache.runtime import devices
(device,) = devices.list_devices()
assert device.name.startswith("llvmpipe"), device
assert device.fp16 and device.images, device
print("right")
"""

MATMUL = """
import numpy as np
from tvm import relax
from tvm.relax.frontend import nn

class Product(nn.Module):
    def forward(self, x, y):
        return nn.op.softmax(nn.op.matmul(x, y), axis=-1)

spec = {"x": nn.spec.Tensor((24, 40), "float16"), "y": nn.spec.Tensor((40, 56), "float16")}
built, _ = Product().export_tvm({"forward": spec})
executable = tvm.compile(built, target=tvm.target.Target({"kind": "opencl"}, host="llvm"))
source = executable.mod.imports[0].imports[0].inspect_source()
assert "half" in source and "cl_khr_fp16" in source, source
device = tvm.runtime.device("opencl", 0)
rng = np.random.default_rng(0)
x, y = (rng.standard_normal(shape).astype("float16") for shape in ((24, 40), (40, 56)))
machine = relax.VirtualMachine(executable, device)
result = machine["forward"](tvm.runtime.tensor(x, device), tvm.runtime.tensor(y, device)).numpy()
logits = x.astype("float64") @ y.astype("float64")
expected = np.exp(logits - logits.max(-1, keepdims=True))
expected /= expected.sum(-1, keepdims=True)
error = np.abs(result - expected).max()
assert result.dtype == np.float16 and 0 < error < 0.02, error
print("right")
"""

IMAGE = """
import numpy as np
from tests.runtime.opencl import programs

source = '''
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
__kernel void twice(__read_only image2d_array_t image, __global half* out) {
  const sampler_t nearest = CLK_NORMALIZED_COORDS_FALSE | CLK_ADDRESS_CLAMP | CLK_FILTER_NEAREST;
  int x = get_global_id(0), y = get_global_id(1), layer = get_global_id(2);
  half4 pixel = read_imageh(image, nearest, (int4)(x, y, layer, 0));
  int index = (layer * get_global_size(1) + y) * get_global_size(0) + x;
  vstore4(pixel + pixel, index, out);
}
'''
tags = ("blockIdx.x", "blockIdx.y", "blockIdx.z")
twice = programs.kernel(source, "twice", ["handle", "handle"], tags=tags)
device = tvm.runtime.device("opencl", 0)
array = np.random.default_rng(1).standard_normal((3, 5, 6, 4)).astype("float16")
image = tvm.runtime.empty(array.shape, "float16", device, mem_scope="global.texture")
image.copyfrom(array)
assert (image.numpy() == array).all()
out = tvm.runtime.empty(array.shape, "float16", device)
twice(programs.handle(image), programs.handle(out), 6, 5, 3)
assert (out.numpy() == array + array).all()
print("right")
"""


TWO_DEVICES = """
import numpy as np
from ddimcache.runtime import devices
from tests.runtime.opencl import programs

found = devices.list_devices()
assert len(found) == 2, found
rank = ["gpu", "accelerator", "cpu", "custom"]
keys = [(rank.index(device.type), device.platform, device.name) for device in found]
assert keys == sorted(keys), keys
first, second = (tvm.runtime.device("opencl", index) for index in range(2))

array = np.arange(256, dtype="float32")
here = tvm.runtime.tensor(array, first)
there = tvm.runtime.empty((256,), "float32", second)
here.copyto(there)
add_one = programs.add_one(256)
for device, source in ((first, here), (second, there)):
    result = tvm.runtime.empty((256,), "float32", device)
    add_one(source, result)
    assert (result.numpy() == array + 1).all()
assert [devices.memory_use(index).live_buffers for index in range(2)] == [1, 2]

copy = programs.kernel(
    "__kernel void copy(__global float* out, __global float* in) { out[0] = in[0]; }", "copy", ["handle"] * 2
)
tvm.get_global_func("__tvm_set_device")(4, 0)
try:
    copy(programs.handle(here), programs.handle(there), 1, 1)
except ValueError as error:
    assert "argument 1 lives on device" in str(error) and "(opencl:1)" in str(error), error
else:
    raise AssertionError("a buffer of another device was taken")
print("right")
"""


def test_two_devices() -> None:
    """PoCL and llvmpipe side by side: their order, copies between them, and no buffer on the wrong one."""
    done = llvmpipe.run_python(TWO_DEVICES, environment={"OCL_ICD_VENDORS": "/etc/OpenCL/vendors"})
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "right", done.stdout


@pytest.mark.parametrize("program", [DEVICE, MATMUL, IMAGE], ids=["device", "matmul", "image"])
def test_on_llvmpipe(program: str) -> None:
    done = llvmpipe.run_python(program)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "right", done.stdout
