"""Allocation, copies and counters."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimcache.runtime import devices
from tests.runtime.opencl import programs

pytestmark = pytest.mark.opencl

DTYPES = ["float32", "float16", "int8", "uint8", "int32", "int64", "float64", "bool"]


def device_zero() -> tvm.runtime.Device:
    return tvm.runtime.device("opencl", 0)


def some_array(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(0, 17), min_size=0, max_size=4).map(tuple),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
def test_host_to_device_and_back(shape: tuple[int, ...], dtype: str, seed: int) -> None:
    array = some_array(shape, dtype, seed)
    there = tvm.runtime.tensor(array, device_zero())
    copy = tvm.runtime.empty(shape, dtype, device_zero())
    there.copyto(copy)
    np.testing.assert_array_equal(copy.numpy(), array)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_copies_between_views_with_offsets(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 300), "elements")
    length = data.draw(st.integers(1, total), "length")
    source_at = data.draw(st.integers(0, total - length), "source offset")
    target_at = data.draw(st.integers(0, total - length), "target offset")
    same = data.draw(st.booleans(), "same buffer")
    array = np.arange(total, dtype="float32")
    source = tvm.runtime.tensor(array, device_zero())
    expected = array.copy() if same else np.zeros(total, "float32")
    target = source if same else tvm.runtime.tensor(expected, device_zero())
    expected[target_at : target_at + length] = array[source_at : source_at + length]

    def view(tensor: tvm.runtime.Tensor, at: int) -> tvm.runtime.Tensor:
        return tensor._create_view((length,), "float32", relative_byte_offset=4 * at)

    view(source, source_at).copyto(view(target, target_at))
    np.testing.assert_array_equal(target.numpy(), expected)


def test_a_copy_beyond_the_buffer_is_refused(device: tvm.runtime.Device) -> None:
    scope = "global.texture"
    image = tvm.runtime.empty((2, 3, 4), "float32", device, mem_scope=scope)
    view = image._create_view((4,), "float32", relative_byte_offset=0)
    with pytest.raises(ValueError, match="an image is copied whole, and this one has 96 bytes"):
        view.copyfrom(np.zeros(4, "float32"))


@pytest.mark.parametrize(
    ("scope", "shape"),
    [
        ("global.texture", (2, 3, 5, 7, 4)),
        ("global.texture-weight", (6, 3, 5, 4)),
        ("global.texture-nhwc", (2, 6, 7, 3, 4)),
        ("global.texture", (9, 4)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_images_hold_tensors(
    scope: str, shape: tuple[int, ...], dtype: str, device: tvm.runtime.Device
) -> None:
    if scope == "global.texture" and len(shape) == 2:
        with pytest.raises(ValueError, match="does not fit the image scope"):
            tvm.runtime.empty(shape, dtype, device, mem_scope=scope)
        return
    array = some_array(shape, dtype, 3)
    image = tvm.runtime.empty(shape, dtype, device, mem_scope=scope)
    image.copyfrom(array)
    np.testing.assert_array_equal(image.numpy(), array)
    buffer = tvm.runtime.empty(shape, dtype, device)
    image.copyto(buffer)
    np.testing.assert_array_equal(buffer.numpy(), array)
    second = tvm.runtime.empty(shape, dtype, device, mem_scope=scope)
    buffer.copyto(second)
    third = tvm.runtime.empty(shape, dtype, device, mem_scope=scope)
    second.copyto(third)
    np.testing.assert_array_equal(third.numpy(), array)


def test_images_have_limits(device: tvm.runtime.Device) -> None:
    width = devices.list_devices()[0].image2d_max_width + 1
    with pytest.raises(
        RuntimeError, match=rf"OpenCL image of {width}x1 pixels in 1 layers exceeds the limits of"
    ):
        tvm.runtime.empty((1, width, 4), "float32", device, mem_scope="global.texture")
    with pytest.raises(ValueError, match="an image holds four channels, but the last dimension"):
        tvm.runtime.empty((2, 3, 5), "float32", device, mem_scope="global.texture")
    with pytest.raises(ValueError, match=r'no memory scope "global\.texture-what"'):
        tvm.runtime.empty((2, 3, 4), "float32", device, mem_scope="global.texture-what")
    with pytest.raises(ValueError, match="no channels of type float64"):
        tvm.runtime.empty((2, 3, 4), "float64", device, mem_scope="global.texture")


def test_a_too_large_buffer_names_size_and_limit(device: tvm.runtime.Device) -> None:
    limit = devices.list_devices()[0].max_alloc_bytes
    before = devices.memory_use()
    with pytest.raises(
        RuntimeError,
        match=rf"OpenCL allocation of {limit + 1} bytes exceeds the limit of {limit} bytes for one buffer "
        rf"\(CL_DEVICE_MAX_MEM_ALLOC_SIZE\) on device \".*\" \(opencl:0\): split the tensor",
    ):
        tvm.runtime.empty((limit + 1,), "int8", device)
    assert devices.memory_use() == before


def test_a_buffer_freed_under_a_running_kernel_is_released_later(device: tvm.runtime.Device) -> None:
    source = """
    __kernel void slow(__global float* out, __global const float* in, int rounds) {
      float x = in[get_global_id(0)];
      for (int i = 0; i < rounds; ++i) x = x * 0.5f + 1.0f;
      out[get_global_id(0)] = x;
    }
    """
    slow = programs.kernel(source, "slow", ["handle", "handle", "int32"])
    base = devices.memory_use()
    out = tvm.runtime.empty((64,), "float32", device)
    for step in range(150):  # more than may wait to be released
        temporary = tvm.runtime.tensor(np.full(64, step, "float32"), device)
        slow(programs.handle(out), programs.handle(temporary), 10_000, 1, 64)
        del temporary
    np.testing.assert_allclose(out.numpy(), np.full(64, 2.0, "float32"))
    use = devices.memory_use()
    assert (use.live_buffers, use.current_bytes) == (base.live_buffers + 1, base.current_bytes + 256)


def test_counters_follow_buffers_and_return(device: tvm.runtime.Device) -> None:
    gc.collect()
    base = devices.memory_use()
    devices.reset_peak()
    first = tvm.runtime.empty((1000,), "float32", device)
    second = tvm.runtime.empty((500,), "float32", device)
    use = devices.memory_use()
    assert use.live_buffers == base.live_buffers + 2
    assert use.current_bytes == base.current_bytes + 6000
    del second
    third = tvm.runtime.empty((4, 4, 4), "float32", device, mem_scope="global.texture")
    use = devices.memory_use()
    assert use.current_bytes == base.current_bytes + 4000 + 256
    assert use.peak_bytes == base.current_bytes + 6000
    del first, third
    use = devices.memory_use()
    assert (use.live_buffers, use.current_bytes) == (base.live_buffers, base.current_bytes)
    devices.reset_peak()
    assert devices.memory_use().peak_bytes == base.current_bytes
