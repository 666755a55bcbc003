"""The exponential as arithmetic that every vector width has, for devices whose library is slower."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm.script import tirx as T

LOG2_E = 1.4426950408889634
LEAST, MOST = -87.0, 88.0
"""Numbers below and above are taken for these, whose powers are still normal numbers."""

LEAST_POWER = -126.0
"""The same of powers of two."""

POWER = "ddimcache_power16"
"""OpenCL function of the runtime (``runtime/cc/device_functions.cc``): ``float16 f(float16 values)`` is
:func:`power_of_two` of each."""

POWER_LANES = 16
"""Numbers of a vector, where :data:`POWER` is called."""

ROUNDER = 9_000_000
"""Added to a small number it leaves the nearest integer in the low bits: floats of this size are integers.

OpenCL's text keeps seven digits of a constant."""

DEGREE = 5


def _coefficients() -> list[float]:
    """Those of 2**r for r of -1/2 to 1/2, by Chebyshev's points; relative errors stay below 2e-7. The first
    is 1 but for 1e-7, and taken for 1, so that powers of whole numbers are exact."""
    points = np.polynomial.chebyshev.Chebyshev.interpolate(np.exp2, DEGREE, domain=[-0.5, 0.5])
    return [1.0, *(float(value) for value in points.convert(kind=np.polynomial.Polynomial).coef[1:])]


COEFFICIENTS = _coefficients()


def exponential(value: Any, *, below_one: bool = False) -> Any:
    """e to the float32 ``value``: 2**n · 2**r with n the nearest integer. A missing number stays missing.

    With ``below_one``, ``value`` must not be above 0.
    """
    value = T.Select(value < T.float32(LEAST), T.float32(LEAST), value)
    if not below_one:
        value = T.Select(value > T.float32(MOST), T.float32(MOST), value)
    return _power(value * T.float32(LOG2_E))


def power_of_two(value: Any) -> Any:
    """2 to the float32 ``value``, which must be below 127. A missing number stays missing."""
    return _power(T.Select(value < T.float32(LEAST_POWER), T.float32(LEAST_POWER), value))


def _power(value: Any) -> Any:
    """2 to a ``value`` whose power is a normal number."""
    shifted = value + T.float32(ROUNDER)
    # As integers, because the compiler takes a number that is added and subtracted for nothing.
    whole = T.reinterpret("int32", shifted) - T.int32(int(np.float32(ROUNDER).view(np.int32)))
    rest = value - T.cast(whole, "float32")
    power = T.float32(COEFFICIENTS[-1])
    for coefficient in COEFFICIENTS[-2::-1]:
        power = power * rest + T.float32(coefficient)
    return power * T.reinterpret("float32", (whole + T.int32(127)) << 23)
