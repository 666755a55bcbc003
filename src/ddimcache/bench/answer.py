"""A bench times an answer only once it is right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ddimcache.errors import DeviceError
from ddimcache.runtime.devices import DeviceSpec

NO_TIME = "no time was taken; try --device llvm, which tells a driver's fault from a kernel's"
"""What to do about a wrong answer."""


def relative_error(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Return the largest difference over the largest magnitude of ``theirs``; NaN where ours has one."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def checked_error(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], what: str, spec: DeviceSpec, largest: float
) -> float:
    """Return the relative error of ``ours`` against PyTorch's answer, both of one shape.

    Raises :class:`DeviceError` naming ``what`` and the device where the error is above ``largest``.
    """
    error = relative_error(ours, theirs)
    if not error <= largest:  # a NaN is wrong as well
        raise DeviceError(
            f"{what} is {error:.3g} of the largest number away from PyTorch, at most {largest:g} is right",
            where=f"device {spec}",
            remedy=NO_TIME,
        )
    return error
