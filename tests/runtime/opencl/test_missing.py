"""Without a plug-in, a library or a driver, `import tvm` works and the reason is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddimcache.runtime import plugin
from tests.kit.no_torch import without_torch

PROGRAM = """
import tvm
from ddimcache.runtime import devices, plugin
print("exist", tvm.runtime.device("opencl", 0).exist)
print("missing", devices.describe_missing())
try:
    tvm.runtime.empty((4,), "float32", tvm.runtime.device("opencl", 0))
except Exception as error:
    print(type(error).__name__, error)
"""


def run(**variables: str) -> str:
    """Output of the program in a fresh process with these variables."""
    environment = {**without_torch(os.environ), **variables}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_library(tmp_path: Path) -> None:
    absent = tmp_path / "libabsent.so"
    output = run(DDIMCACHE_OPENCL_LIBRARY=str(absent))
    assert "exist False" in output
    assert output.count(f"{absent}: cannot open shared object file") == 2
    assert "RuntimeError OpenCL is not usable: no OpenCL library could be opened" in output
    assert "apt-get install pocl-opencl-icd" in output
    assert "DDIMCACHE_OPENCL_LIBRARY" in output


def test_a_library_that_is_not_opencl() -> None:
    output = run(DDIMCACHE_OPENCL_LIBRARY="libc.so.6")
    assert "exist False" in output
    assert "libc.so.6: has no clGetPlatformIDs, which OpenCL 1.2 requires" in output


@pytest.mark.opencl
def test_a_loader_without_drivers(tmp_path: Path) -> None:
    output = run(OCL_ICD_VENDORS=str(tmp_path))
    assert "exist False" in output
    assert "it offers no" in output
    assert "pocl-opencl-icd" in output


def test_no_plugin(tmp_path: Path) -> None:
    absent = tmp_path / "absent.so"
    output = run(DDIMCACHE_PLUGIN=str(absent))
    assert "exist False" in output
    assert f"the OpenCL plug-in is not built: looked for {absent}" in output


def test_a_plugin_that_is_no_library(tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    output = run(DDIMCACHE_PLUGIN=str(broken))
    assert "exist False" in output
    assert "broken.so" in output


def test_a_library_without_our_entry_point() -> None:
    import tvm_ffi.libinfo

    output = run(DDIMCACHE_PLUGIN=tvm_ffi.libinfo.find_libtvm_ffi())
    assert "exist False" in output
    assert "ddimcache_interface" in output


def test_a_plugin_from_before_an_edit(tmp_path: Path) -> None:
    source = tmp_path / "old.c"
    source.write_text("int ddimcache_interface(void) { return 0; }")
    library = tmp_path / "old.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    output = run(DDIMCACHE_PLUGIN=str(library))
    assert "exist False" in output
    assert f"{library} has interface 0, but {plugin.INTERFACE} is needed: run `pip install -e .`" in output
