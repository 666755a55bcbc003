"""The same picture on 64-bit ARM: everything cross-built here, served there, emulated, over RPC."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import aarch64_root
import numpy as np
import pytest

from ddimcache.compiler.elf import MACHINE_AARCH64, read_shared_library
from tests.fakes.running_server import KEY, RunningServer
from tests.kit.device_run import compile_to, distance
from tests.kit.family import stand_in

pytestmark = [pytest.mark.aarch64, pytest.mark.timeout(3600)]

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the cross-built wheel's packages."""
    scratch = tmp_path_factory.mktemp("wheel")
    packages = aarch64_root.root_folder() / "opt/packages"
    folders = f"-DDDIMCACHE_TVM_DIR={packages / 'tvm'} -DDDIMCACHE_TVM_FFI_DIR={packages / 'tvm_ffi'}"
    variables = {
        "CMAKE_TOOLCHAIN_FILE": str(PROJECT / "tools/aarch64-linux-gnu.cmake"),
        "CMAKE_ARGS": folders,
        # what the wheel is named after
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
    }
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-cache-dir",
    ]
    done = subprocess.run(
        [*pip, "--wheel-dir", str(scratch), "-C", f"build-dir={scratch / 'build'}", str(PROJECT)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = scratch.glob("ddimcache-*-py3-none-linux_aarch64.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(scratch / "product")
    return scratch / "product"


@pytest.fixture(scope="module")
def model() -> Path:
    """One of few kernels, for each takes seconds to compile there."""
    return stand_in("smallest", "float16")


def draw(bundle: Path, device: str, out: Path) -> np.ndarray:
    """Draws with the command line; returns the final latents [1, 4, 8, 8]."""
    options = ["--steps", "6", "--cache-interval", "3", "--guidance", "3", "--seed", "5"]
    command = [sys.executable, "-m", "ddimcache.cli", "generate", "a red circle", "--model", str(bundle)]
    command += ["--device", device, *options, "--save-latents", f"{out}.npy", "-o", f"{out}.png"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(f"{out}.npy")


def test_the_plug_in_is_for_arm(product: Path) -> None:
    library = read_shared_library(product / "ddimcache/lib/libddimcache_opencl.so")
    assert library.machine == MACHINE_AARCH64
    assert {"libtvm_runtime.so", "libtvm_ffi.so"} <= set(library.needed)


@pytest.mark.parametrize("kind", ["llvm", pytest.param("opencl", marks=pytest.mark.opencl)])
def test_a_picture_drawn_there_is_the_one_drawn_here(
    kind: str, product: Path, model: Path, tmp_path: Path
) -> None:
    """Equal within float32's rounding: vectors there have another width, so sums have another order."""
    compile_to(model, tmp_path / "here", target=kind)
    compile_to(model, tmp_path / "there", target=kind, host="aarch64-linux-gnu")
    expected = draw(tmp_path / "here", kind, tmp_path / "expected")
    python = [*aarch64_root.command(product, tmp_path, {"DDIMCACHE_KEY": KEY}), "/usr/bin/python3"]
    server = RunningServer("/mnt/work/store", kind, python=python)
    try:
        found = draw(tmp_path / "there", server.address, tmp_path / "found")
    finally:
        code, log = server.stop()
    assert code == 0, log
    assert distance(found, expected) < 2e-5
    assert (tmp_path / "store" / "files").is_dir()
