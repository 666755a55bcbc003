"""The gated linear layer against numpy, on shapes that divide nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimcache.compiler.target import profile
from ddimcache.kernels.geglu import kernel as geglu
from ddimcache.kernels.geglu.reference import geglu as plain_geglu
from ddimcache.kernels.matmul import kernel as matmul
from tests.kit.kernel_run import rounded_weights, run_kernel, te_function


def run_geglu(
    shape: tuple[int, ...], channels: int, group: int | None, target: str, spread: float = 1.0
) -> None:
    random = np.random.default_rng(3)
    x = (spread * random.standard_normal(shape)).astype("float32")
    weight = random.standard_normal((2 * channels, shape[-1])).astype("float32")
    bias = random.standard_normal(2 * channels).astype("float32")
    width = matmul.panel_width(2 * channels, profile(target).tiles.columns)
    assert 2 * channels % width == 0, "this test is of whole panels"
    ordered = geglu.interleave(weight, width // 2)
    offsets = geglu.interleave(bias, width // 2)
    packed, _ = rounded_weights(ordered, group, matmul.pack, width)
    _, weight = rounded_weights(weight, group, matmul.pack, width)
    arrays = [x, *packed, offsets]

    def compute(x, packed, *others):  # type: ignore[no-untyped-def]
        return geglu.geglu(x, packed, others[0] if len(others) == 2 else None, others[-1], "float32")

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
    depth=st.sampled_from([1, 3, 8, 20, 33, 48, 64]),
    channels=st.sampled_from([16, 48, 64, 80, 128]),
    group=st.sampled_from([None, 0, 32]),
)
@settings(max_examples=8, deadline=None)
def test_geglu_of_any_shape(batch: int, tokens: int, depth: int, channels: int, group: int | None) -> None:
    run_geglu((batch, tokens, depth), channels, group, "llvm")


@pytest.mark.opencl
@pytest.mark.parametrize(("tokens", "channels", "group"), [(64, 128, None), (7, 80, 0), (64, 64, 32)])
def test_geglu_on_a_device(tokens: int, channels: int, group: int | None) -> None:
    run_geglu((2, tokens, 40), channels, group, "opencl")


def test_wide_sums_stay_finite() -> None:
    """Arguments far outside GELU's bend, whose cube no float16 holds."""
    run_geglu((1, 16, 64), 64, None, "llvm", spread=100.0)


def test_interleaving_puts_gates_beside_their_values() -> None:
    channels = np.arange(16)
    assert geglu.interleave(channels, 4).tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15]
