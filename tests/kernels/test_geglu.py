"""The gated linear layer against numpy, on shapes that divide nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimcache.compiler.compress.quantize import channel_scale, dequantize, quantize
from ddimcache.compiler.target import profile
from ddimcache.kernels.geglu import kernel as geglu
from ddimcache.kernels.geglu.reference import geglu as plain_geglu
from ddimcache.kernels.matmul import kernel as matmul
from tests.kit.kernel_run import run_kernel, te_function


def run_geglu(shape: tuple[int, ...], channels: int, int8: bool, target: str, spread: float = 1.0) -> None:
    random = np.random.default_rng(3)
    x = (spread * random.standard_normal(shape)).astype("float32")
    weight = random.standard_normal((2 * channels, shape[-1])).astype("float32")
    bias = random.standard_normal(2 * channels).astype("float32")
    width = matmul.panel_width(2 * channels, profile(target).tiles.columns)
    assert 2 * channels % width == 0, "this test is of whole panels"
    ordered = geglu.interleave(weight, width // 2)
    offsets = geglu.interleave(bias, width // 2)
    if int8:
        arrays = [x, matmul.pack(quantize(ordered), width), channel_scale(ordered), offsets]
        weight = dequantize(quantize(weight), channel_scale(weight))
    else:
        arrays = [x, matmul.pack(ordered, width), offsets]

    def compute(x, packed, *others):  # type: ignore[no-untyped-def]
        return geglu.geglu(x, packed, others[0] if int8 else None, others[-1], "float32")

    panels = 2 * channels // width
    out = run_kernel(
        te_function(compute, arrays), arrays, (*shape[:-1], panels, width // 2), target=target
    ).reshape(*shape[:-1], channels)
    exact = plain_geglu(x, weight, bias)
    # float32 sums of up to a hundred products, twice, and a product of both.
    assert np.abs(out - exact).max() <= 2e-5 * max(1.0, np.abs(exact).max())


@given(
    batch=st.integers(1, 3),
    tokens=st.sampled_from([1, 5, 7, 8, 13, 16, 31]),
    depth=st.sampled_from([1, 3, 8, 20, 33]),
    channels=st.sampled_from([16, 48, 64, 80, 128]),
    int8=st.booleans(),
)
@settings(max_examples=8, deadline=None)
def test_geglu_of_any_shape(batch: int, tokens: int, depth: int, channels: int, int8: bool) -> None:
    run_geglu((batch, tokens, depth), channels, int8, "llvm")


@pytest.mark.opencl
@pytest.mark.parametrize(("tokens", "channels", "int8"), [(64, 128, False), (7, 80, True)])
def test_geglu_on_a_device(tokens: int, channels: int, int8: bool) -> None:
    run_geglu((2, tokens, 40), channels, int8, "opencl")


def test_wide_sums_stay_finite() -> None:
    """Arguments far outside GELU's bend, whose cube no float16 holds."""
    run_geglu((1, 16, 64), 64, False, "llvm", spread=100.0)


def test_interleaving_puts_gates_beside_their_values() -> None:
    channels = np.arange(16)
    assert geglu.interleave(channels, 4).tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15]
