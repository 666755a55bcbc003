"""Images of odd shapes, images in buffers, and copies of tensors whose rows are padded."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tvm
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimcache.runtime import devices
from tests.runtime.opencl import images

pytestmark = pytest.mark.opencl

copy = tvm.get_global_func("runtime.TVMTensorCopyFromTo")
strided_view = tvm.get_global_func("ddimcache.opencl.strided_view")
SCOPES = ("global.texture", "global.texture-weight", "global.texture-nhwc")


@settings(deadline=None, max_examples=60)
@given(
    scope=st.sampled_from(SCOPES),
    sides=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    dtype=st.sampled_from(["float32", "float16", "int8", "uint8", "int16", "int32"]),
    seed=st.integers(0, 99),
)
def test_images_of_odd_shapes_hold_tensors(scope: str, sides: list[int], dtype: str, seed: int) -> None:
    if scope == "global.texture-nhwc" and len(sides) == 2:
        sides = [*sides, 2]
    device = tvm.runtime.device("opencl", 0)
    shape = (*sides, 4)
    array = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    image = tvm.runtime.empty(shape, dtype, device, mem_scope=scope)
    image.copyfrom(array)
    buffer = tvm.runtime.empty(shape, dtype, device)
    image.copyto(buffer)
    back = tvm.runtime.empty(shape, dtype, device, mem_scope=scope)
    buffer.copyto(back)
    # An image of another arrangement takes the same bytes.
    other = tvm.runtime.empty((1, math.prod(sides), 4), dtype, device, mem_scope="global.texture")
    copy(back, other)
    np.testing.assert_array_equal(other.numpy().reshape(shape), array)


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_rows_may_be_padded_and_axes_in_any_order(data: st.DataObject) -> None:
    """Any permutation and padding on either side, on the device and on the host, image or buffer."""
    device = tvm.runtime.device("opencl", 0)
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4), "shape"))
    as_image = data.draw(st.sampled_from(["", "from", "to"]), "image") if len(shape) >= 2 else ""
    if as_image:
        shape = (*shape, 4)

    def layout(name: str) -> tuple[np.ndarray, tuple[slice, ...], list[int]]:
        """A padded host array, the part of it that is the tensor, and the order of its axes."""
        order = data.draw(st.permutations(range(len(shape))), f"order of {name}")
        low = [data.draw(st.integers(0, 2), f"padding of {name}") for _ in shape]
        high = [data.draw(st.integers(0, 2), f"padding of {name}") for _ in shape]
        sides = [low[axis] + shape[axis] + high[axis] for axis in order]
        part = tuple(slice(low[axis], low[axis] + shape[axis]) for axis in order)
        return np.random.default_rng(7).integers(0, 99, sides).astype("float32"), part, list(order)

    def view(base: np.ndarray, part: tuple[slice, ...], order: list[int]) -> np.ndarray:
        return base[part].transpose(np.argsort(order))

    def place(name: str):
        """What to copy from or to, the numpy array that mirrors it, and a function that reads it back."""
        if as_image == name:
            array = np.random.default_rng(3).integers(0, 99, shape).astype("float32")
            image = tvm.runtime.empty(shape, "float32", device, mem_scope="global.texture")
            image.copyfrom(array)
            return image, array, array, image.numpy
        base, part, order = layout(name)
        mirror = base.copy()
        if not as_image and data.draw(st.booleans(), f"{name} on the host") and name != on_device:
            return (
                tvm_ffi.from_dlpack(view(base, part, order)),
                mirror,
                view(mirror, part, order),
                lambda: base,
            )
        there = tvm.runtime.tensor(base, device)
        source = view(mirror, part, order)
        strides = tuple(stride // 4 for stride in source.strides)
        offset = (source.__array_interface__["data"][0] - mirror.__array_interface__["data"][0]) // 4
        return strided_view(there, shape, strides, offset), mirror, source, there.numpy

    on_device = data.draw(st.sampled_from(["from", "to"]), "surely on the device")
    source, _, source_view, _ = place("from")
    target, mirror, target_view, read = place("to")
    target_view[...] = source_view
    copy(source, target)
    np.testing.assert_array_equal(read(), mirror)
    del source, target


def test_images_in_buffers() -> None:
    info = devices.list_devices()[0]
    images.check_views("float32", shares="cl_khr_image2d_from_buffer" in info.extensions)
