"""The device under test."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import tvm

from ddimcache.runtime import devices
from tests.fakes import opencl_driver


@pytest.fixture
def device() -> tvm.runtime.Device:
    """The first OpenCL device, with nothing idle: what a test allocates is then allocated anew and counts."""
    gc.collect()
    devices.release_idle()
    return tvm.runtime.device("opencl", 0)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OpenCL library of the fake driver."""
    return opencl_driver.build(tmp_path_factory.mktemp("driver"))
