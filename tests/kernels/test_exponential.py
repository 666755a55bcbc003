"""The exponential against numpy's in float64, where it ends and where numbers are missing."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import te

from ddimcache.kernels.exponential import LEAST, LEAST_POWER, MOST, exponential, power_of_two
from tests.kit.kernel_run import run_kernel, te_function


def powers(values: np.ndarray, below_one: bool, target: str) -> np.ndarray:
    def compute(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *at: exponential(x[at], below_one=below_one), name="power")

    return run_kernel(te_function(compute, [values]), [values], values.shape, target=target)


@pytest.mark.parametrize("target", ["llvm", pytest.param("opencl", marks=pytest.mark.opencl)])
@pytest.mark.parametrize("below_one", [False, True])
def test_close_to_the_exact_one(target: str, below_one: bool) -> None:
    most = 0.0 if below_one else MOST
    for least, limit in ((LEAST, 2e-6), (-5.0, 4e-7)):
        values = np.linspace(least, min(most, -least), 1600, dtype="float32")
        exact = np.exp(values.astype("float64"))
        assert np.abs(powers(values, below_one, target) / exact - 1).max() <= limit


@pytest.mark.parametrize("target", ["llvm", pytest.param("opencl", marks=pytest.mark.opencl)])
def test_ends_in_numbers_and_keeps_what_is_missing(target: str) -> None:
    values = np.array([-np.inf, -1e30, -100, np.nan, 0, 100, 1e30, np.inf] * 2, "float32")
    result = powers(values, False, target)[:8]
    assert np.isnan(result[3])
    assert result[4] == pytest.approx(1, rel=2e-7)
    least, most = np.exp([LEAST, MOST])
    np.testing.assert_allclose(np.delete(result, [3, 4]), [least] * 3 + [most] * 3, rtol=2e-6)
    below = powers(values, True, target)[:5]
    np.testing.assert_array_equal(below, result[:5])


@pytest.mark.parametrize("target", ["llvm", pytest.param("opencl", marks=pytest.mark.opencl)])
def test_powers_of_two(target: str) -> None:
    values = np.linspace(LEAST_POWER, 126, 1600, dtype="float32")
    values[:6] = [-np.inf, -1e30, -200, np.nan, 0, 100]

    def compute(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *at: power_of_two(x[at]), name="power")

    result = run_kernel(te_function(compute, [values]), [values], values.shape, target=target)
    np.testing.assert_array_equal(result[:5], [2**LEAST_POWER] * 3 + [np.nan, 1])
    exact = np.exp2(values[5:].astype("float64"))
    assert np.abs(result[5:] / exact - 1).max() <= 4e-7
