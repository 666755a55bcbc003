"""The device under test."""

from __future__ import annotations

import pytest
import tvm


@pytest.fixture
def device() -> tvm.runtime.Device:
    """The first OpenCL device."""
    return tvm.runtime.device("opencl", 0)
