"""The device under test."""

from __future__ import annotations

from pathlib import Path

import pytest
import tvm

from tests.fakes import opencl_driver


@pytest.fixture
def device() -> tvm.runtime.Device:
    """The first OpenCL device."""
    return tvm.runtime.device("opencl", 0)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OpenCL library of the fake driver."""
    return opencl_driver.build(tmp_path_factory.mktemp("driver"))
