"""Blocked matrix products against numpy: the whole fused kernel, for any table of blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import te

from ddimcache.compiler.target import BlockTable, DeviceProfile, profile
from ddimcache.kernels.matmul import kernel as matmul
from ddimcache.kernels.matmul.reference import matmul as plain_matmul
from ddimcache.kernels.tags import WORK
from ddimcache.schedules.blocked_products import schedule_blocked_product
from tests.kit.kernel_run import rounded_weights, run_kernel, small_tiles, te_function

TOLERANCE = 2e-5
"""float32 sums of a few hundred products of unit variance, relative to the largest."""


def product_with_epilogue(
    lines: tuple[int, ...],
    depth: int,
    channels: int,
    group: int | None,
    target: DeviceProfile,
    bad: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A product with bias and a residual sum on ``target``, and the same in numpy."""
    random = np.random.default_rng(5)
    x = random.standard_normal((*lines, depth)).astype("float32")
    if bad is not None:
        x[bad[0]] = bad[1]
    weight = random.standard_normal((channels, depth)).astype("float32")
    bias = random.standard_normal(channels).astype("float32")
    residual = random.standard_normal((*lines, channels)).astype("float32")
    (packed, *scale), weight = rounded_weights(weight, group, matmul.pack, 32)
    arrays = [x, packed, bias, residual, *scale]

    def compute(
        x: te.Tensor, packed: te.Tensor, bias: te.Tensor, residual: te.Tensor, scale: Any = None
    ) -> te.Tensor:
        product = matmul.matmul(x, packed, scale, channels, "float32")
        return te.compute(
            product.shape, lambda *index: product[index] + bias[index[-1]] + residual[index], name="sum"
        )

    function = te_function(compute, arrays)
    scheduled = schedule_blocked_product(function, target.tiles)
    assert scheduled is not None, "another schedule would be tested"
    assert int(scheduled.attrs[WORK]) == int(np.prod(lines)) * depth * channels
    ours = run_kernel(function, arrays, residual.shape, target=target)
    return ours, plain_matmul(x, weight) + bias + residual


@given(
    lines=st.sampled_from([(1, 4), (1, 77), (2, 13), (1, 5, 7), (2, 3, 11), (1, 131)]),
    depth=st.sampled_from([16, 48, 112]),
    channels=st.sampled_from([32, 96, 160]),
    rows=st.integers(1, 200),
    columns=st.integers(1, 200),
    block=st.integers(1, 200),
    strip=st.integers(1, 9),
    groups=st.integers(1, 9),
    group=st.sampled_from([None, 0, 32, 64]),
)
@settings(max_examples=12, deadline=None)
def test_any_shape_and_table(
    lines: tuple[int, ...],
    depth: int,
    channels: int,
    rows: int,
    columns: int,
    block: int,
    strip: int,
    groups: int,
    group: int | None,
) -> None:
    table = BlockTable(rows=rows, columns=columns, depth=block, strip=strip, groups=groups)
    target = small_tiles(profile("llvm"), blocks=table)
    ours, exact = product_with_epilogue(lines, depth, channels, group, target)
    assert np.abs(ours - exact).max() <= TOLERANCE * np.abs(exact).max()


@pytest.mark.opencl
@pytest.mark.parametrize("lines", [(1, 77), (2, 9, 15)])
@pytest.mark.parametrize("group", [None, 0, 64])
def test_on_opencl(lines: tuple[int, ...], group: int | None) -> None:
    ours, exact = product_with_epilogue(lines, 336, 96, group, profile("opencl"))
    assert np.abs(ours - exact).max() <= TOLERANCE * np.abs(exact).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_inputs_reach_their_row_only(bad: float) -> None:
    ours, _ = product_with_epilogue((1, 11), 48, 64, None, profile("llvm"), ((0, 10, 7), bad))
    assert not np.isfinite(ours[0, 10]).any()
    assert np.isfinite(ours[0, :10]).all()


def test_what_shares_nothing_is_left_to_the_other_schedule() -> None:
    tiles = profile("llvm").tiles

    def function(rows: int, depth: int, channels: int) -> Any:
        arrays = [np.zeros((1, rows, depth), "float32"), np.zeros((-(-channels // 32), depth, 32), "float32")]
        return te_function(lambda x, w: matmul.matmul(x, w, None, channels, "float32"), arrays)

    assert schedule_blocked_product(function(64, 32, 64), tiles) is not None
    assert schedule_blocked_product(function(1, 32, 64), tiles) is None
    assert schedule_blocked_product(function(64, 33, 64), tiles) is None
    assert schedule_blocked_product(function(64, 32, 63), tiles) is None
    assert schedule_blocked_product(function(64, 32, 64), profile("adreno-740").tiles) is None
