"""A buffer seen as an image, checked by a kernel that reads pixels: for PoCL and, in the lab, llvmpipe."""

from __future__ import annotations

import numpy as np
import tvm

from ddimcache.runtime import devices
from tests.runtime.opencl import programs

READ = """
__kernel void pixels(__read_only image2d_t image, __global float* out) {
  const sampler_t nearest = CLK_NORMALIZED_COORDS_FALSE | CLK_ADDRESS_CLAMP | CLK_FILTER_NEAREST;
  int x = get_global_id(0), y = get_global_id(1);
  vstore4(read_imagef(image, nearest, (int2)(x, y)), y * get_global_size(0) + x, out);
}
"""


def as_image(tensor: tvm.runtime.Tensor) -> tvm.runtime.Tensor:
    """The tensor [..., width, 4] as kernels with an ``image2d_t`` take it."""
    return tvm.get_global_func("ddimcache.opencl.image2d")(tensor)


def check_views(dtype: str, *, shares: bool) -> None:
    """Make images of compact tensors and read them by pixels; ``shares`` where the device needs no copy."""
    device = tvm.runtime.device("opencl", 0)
    info = devices.list_devices()[0]
    read = programs.kernel(READ, "pixels", ["handle", "handle"], tags=("blockIdx.x", "blockIdx.y"))
    alignment = max(1, info.image_pitch_alignment_pixels)
    for shape, aligned in (((5, 3 * alignment, 4), True), ((2, 3, alignment, 4), True), ((3, 5, 4), False)):
        array = np.random.default_rng(len(shape)).standard_normal(shape).astype(dtype)
        other = (array + np.ones((), dtype)).astype(dtype)
        tensor = tvm.runtime.tensor(array, device)
        before = devices.memory_use()
        image = as_image(tensor)
        width, height = shape[-2], int(np.prod(shape[:-2]))
        copied = devices.memory_use().current_bytes - before.current_bytes
        in_place = shares and (aligned or 5 % alignment == 0)
        assert copied == (0 if in_place else array.nbytes), (shape, copied)
        np.testing.assert_array_equal(image.numpy(), array)
        out = tvm.runtime.empty(shape, "float32", device)
        tensor.copyfrom(other)
        read(programs.handle(image), programs.handle(out), width, height)
        np.testing.assert_array_equal(out.numpy(), (other if in_place else array).astype("float32"))
        del tensor  # the image keeps its memory alive
        read(programs.handle(image), programs.handle(out), width, height)
        np.testing.assert_array_equal(out.numpy(), (other if in_place else array).astype("float32"))
        del image
    device.sync()
