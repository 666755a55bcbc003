"""Products of int8 with activations that are rounded to int8, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import te

from ddimcache.compiler.compress.quantize import dequantize, group_of, quantize, scale_of
from ddimcache.compiler.target import DeviceProfile, DotTable, profile
from ddimcache.kernels.geglu import kernel as geglu
from ddimcache.kernels.geglu.reference import geglu as plain_geglu
from ddimcache.kernels.matmul import kernel as matmul
from ddimcache.kernels.matmul.dots import LARGEST, pack_fours
from ddimcache.kernels.matmul.reference import matmul as plain_matmul
from ddimcache.kernels.tags import WORK
from ddimcache.schedules.dot_products import schedule_dot_product
from tests.kit.kernel_run import run_kernel, small_tiles, te_function

TOLERANCE = 2e-5
"""float32 sums and products of what is exact until then, relative to the largest."""


def whole_rows(*shape: int) -> np.ndarray:
    """What rounding leaves as it is: a row has whole multiples of a power of two, to 127 of them."""
    random = np.random.default_rng(sum(shape))
    numbers = random.integers(-LARGEST, LARGEST, shape, endpoint=True)
    numbers[..., 0] = LARGEST
    return (numbers * 2.0 ** random.integers(-9, 9, (*shape[:-1], 1))).astype("float32")


def packed_weights(weight: np.ndarray, group: int, width: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The packed weight and its scales, and the values that they stand for."""
    group = group_of(weight.shape, group)
    scale, numbers = scale_of(weight, group), quantize(weight, group)
    kept = matmul.pack(scale, width) if group else scale
    return [pack_fours(numbers, width), kept], dequantize(numbers, scale).reshape(weight.shape)


def product(
    x: np.ndarray, channels: int, group: int, width: int, target: DeviceProfile
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``x`` times random weights with a bias on ``target``, the same in numpy, and the weights."""
    random = np.random.default_rng(3)
    weight = random.standard_normal((channels, x.shape[-1])).astype("float32")
    bias = random.standard_normal(channels).astype("float32")
    (packed, scale), weight = packed_weights(weight, group, width)
    arrays = [x, packed, scale, bias]

    def compute(x: te.Tensor, packed: te.Tensor, scale: te.Tensor, bias: te.Tensor) -> te.Tensor:
        product = matmul.matmul(x, packed, scale, channels, "float32")
        return te.compute(product.shape, lambda *index: product[index] + bias[index[-1]], name="sum")

    function = te_function(compute, arrays)
    scheduled = schedule_dot_product(function, target.tiles)
    assert scheduled is not None, "another schedule would be tested"
    assert int(scheduled.attrs[WORK]) == x.size * channels
    ours = run_kernel(function, arrays, (*x.shape[:-1], channels), target=target)
    return ours, plain_matmul(x, weight) + bias, weight


@given(
    lines=st.sampled_from([(1, 1), (1, 77), (2, 13), (1, 5, 7), (2, 3, 11), (1, 131)]),
    depth=st.sampled_from([4, 12, 48, 64, 192]),
    panels=st.integers(1, 5),
    width=st.sampled_from([16, 32, 48]),
    rows=st.integers(1, 200),
    size=st.integers(1, 9000),
    strip=st.integers(1, 9),
    groups=st.integers(1, 9),
    group=st.sampled_from([0, 32]),
)
@settings(max_examples=12, deadline=None)
def test_any_shape_and_table(
    lines: tuple[int, ...],
    depth: int,
    panels: int,
    width: int,
    rows: int,
    size: int,
    strip: int,
    groups: int,
    group: int,
) -> None:
    table = DotTable(rows=rows, bytes=size, strip=strip, groups=groups, instruction=False)
    target = small_tiles(profile("llvm"), dots=table)
    ours, exact, _ = product(whole_rows(*lines, depth), panels * width, group, width, target)
    assert np.abs(ours - exact).max() <= TOLERANCE * np.abs(exact).max()


@pytest.mark.opencl
@pytest.mark.parametrize(("lines", "depth", "width"), [((1, 77), 320, 32), ((2, 9, 15), 68, 48)])
@pytest.mark.parametrize("group", [0, 64])
def test_on_opencl(lines: tuple[int, ...], depth: int, width: int, group: int) -> None:
    ours, exact, _ = product(whole_rows(*lines, depth), 3 * width, group, width, profile("opencl"))
    assert np.abs(ours - exact).max() <= TOLERANCE * np.abs(exact).max()


@pytest.mark.parametrize("name", ["llvm", pytest.param("opencl", marks=pytest.mark.opencl)])
@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e6])
def test_rounding_is_to_the_nearest_of_255_numbers(name: str, spread: float) -> None:
    random = np.random.default_rng(8)
    x = (spread * random.standard_normal((1, 33, 96))).astype("float32")
    ours, exact, weight = product(x, 64, 0, 32, profile(name))
    half = np.abs(x).max(axis=-1) / LARGEST / 2
    bound = half[..., None] * np.abs(weight).sum(axis=-1)
    error = np.abs(ours - exact)
    assert (error <= 1.001 * bound + TOLERANCE * np.abs(exact).max()).all()
    # Rounding a row to so many numbers shows: another kernel is not taken for this one.
    assert error.max() > 0.01 * bound.max()


@pytest.mark.parametrize("name", ["llvm", pytest.param("opencl", marks=pytest.mark.opencl)])
def test_a_row_of_zeros_is_no_division_by_zero(name: str) -> None:
    x = whole_rows(1, 9, 64)
    x[0, 4] = 0
    ours, exact, _ = product(x, 32, 0, 32, profile(name))
    assert np.abs(ours - exact).max() <= TOLERANCE * np.abs(exact).max()


@pytest.mark.parametrize("name", ["llvm", pytest.param("opencl", marks=pytest.mark.opencl)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_inputs_reach_their_row_only(name: str, bad: float) -> None:
    x = whole_rows(1, 11, 64)
    x[0, 10, 7] = bad
    ours, exact, _ = product(x, 32, 0, 32, profile(name))
    assert not np.isfinite(ours[0, 10]).any()
    assert np.abs(ours[0, :10] - exact[0, :10]).max() <= TOLERANCE * np.abs(exact[0, :10]).max()


@pytest.mark.parametrize("name", ["llvm", pytest.param("opencl", marks=pytest.mark.opencl)])
@pytest.mark.parametrize(("tokens", "depth", "channels", "group"), [(7, 40, 48, 0), (33, 64, 32, 32)])
def test_gated_layers(name: str, tokens: int, depth: int, channels: int, group: int) -> None:
    random = np.random.default_rng(5)
    width = 32
    x = whole_rows(2, tokens, depth)
    x /= np.abs(x).max()
    weight = random.standard_normal((2 * channels, depth)).astype("float32")
    bias = random.standard_normal(2 * channels).astype("float32")
    arrays = [x, *packed_weights(geglu.interleave(weight, width // 2), group, width)[0]]
    arrays.append(geglu.interleave(bias, width // 2))

    def compute(x: te.Tensor, packed: te.Tensor, scale: te.Tensor, bias: te.Tensor) -> te.Tensor:
        return geglu.geglu(x, packed, scale, bias, "float32")

    function = te_function(compute, arrays)
    assert schedule_dot_product(function, profile(name).tiles) is not None
    shape = (2, tokens, 2 * channels // width, width // 2)
    ours = run_kernel(function, arrays, shape, target=name).reshape(2, tokens, channels)
    exact = plain_geglu(x, packed_weights(weight, group, width)[1], bias)
    assert np.abs(ours - exact).max() <= TOLERANCE * max(1.0, np.abs(exact).max())


@given(panels=st.integers(1, 3), width=st.integers(1, 9), fours=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_four_weights_are_the_bytes_of_a_number(panels: int, width: int, fours: int) -> None:
    channels = panels * width
    weight = np.random.default_rng(width).integers(-127, 128, (channels, 4 * fours)).astype("int8")
    packed = pack_fours(weight, width)
    assert packed.shape == (panels, fours, width)
    assert packed.dtype == np.int32
    for channel in range(channels):
        numbers = packed[channel // width, :, channel % width]
        read = [(int(number) >> 8 * byte & 255) - 128 for number in numbers for byte in range(4)]
        assert read == weight[channel].tolist()


def test_other_products_are_left_to_other_schedules() -> None:
    def function(weight: Any) -> Any:
        arrays = [np.zeros((1, 8, 32), "float32"), weight]
        return te_function(lambda x, w: matmul.matmul(x, w, None, 32, "float32"), arrays)

    tiles = profile("llvm").tiles
    assert schedule_dot_product(function(np.zeros((1, 8, 32), "int32")), tiles) is not None
    assert schedule_dot_product(function(np.zeros((1, 32, 32), "float32")), tiles) is None
    with pytest.raises(AssertionError, match="no table"):
        schedule_dot_product(function(np.zeros((1, 8, 32), "int32")), profile("adreno-740").tiles)
