"""The CMake project takes a toolchain file of the Android NDK's form: what it would compile and link."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

# As far as the project sees it: the NDK's file sets ANDROID, takes ANDROID_ABI and ANDROID_PLATFORM and
# names a clang with a target. There is no bionic here: a compiler is tried out without linking.
TOOLCHAIN = """
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(ANDROID TRUE)
if(NOT ANDROID_ABI STREQUAL "arm64-v8a" OR NOT ANDROID_PLATFORM STREQUAL "android-29")
  message(FATAL_ERROR "this file makes arm64-v8a for android-29")
endif()
set(CMAKE_CXX_COMPILER clang++)
set(CMAKE_CXX_COMPILER_TARGET aarch64-none-linux-android29)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ANDROID_ABI ANDROID_PLATFORM)
set(CMAKE_HAVE_LIBC_PTHREAD TRUE)
"""


def configure(tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    toolchain = tmp_path / "ndk/build/cmake/android.toolchain.cmake"
    toolchain.parent.mkdir(parents=True)
    toolchain.write_text(TOOLCHAIN)
    for file in (
        "tvm/include/tvm/runtime/device_api.h",
        "tvm/lib/libtvm_runtime.so",
        "tvm_ffi/include/tvm/ffi/c_api.h",
        "tvm_ffi/lib/libtvm_ffi.so",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    options = [
        f"-DCMAKE_TOOLCHAIN_FILE={toolchain}",
        "-DANDROID_ABI=arm64-v8a",
        "-DANDROID_PLATFORM=android-29",
    ]
    options += ["-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", "-DCMAKE_DISABLE_FIND_PACKAGE_Python=ON", "-GNinja"]
    return subprocess.run(
        ["cmake", "-S", PROJECT, "-B", tmp_path / "build", *options, *more], capture_output=True, text=True
    )


@pytest.fixture(autouse=True)
def needs_tools() -> None:
    for program in ("cmake", "ninja", "clang++"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def test_the_project_is_configured_without_python(tmp_path: Path) -> None:
    folders = [f"-DDDIMCACHE_TVM_DIR={tmp_path / 'tvm'}", f"-DDDIMCACHE_TVM_FFI_DIR={tmp_path / 'tvm_ffi'}"]
    done = configure(tmp_path, *folders, "-DDDIMCACHE_EXAMPLES=ON")
    assert done.returncode == 0, done.stderr
    every = json.loads((tmp_path / "build/compile_commands.json").read_text())
    commands = [command for command in every if "ddimcache_objects.dir" in command["command"]]
    sources = {Path(command["file"]).relative_to(PROJECT / "runtime/cc") for command in commands}
    assert [command["file"] for command in every].count(str(PROJECT / "examples/draw.cc")) == 1
    assert {Path("plugin.cc"), Path("opencl_api.cc"), Path("queue.cc")} <= sources
    for command in commands:
        arguments = shlex.split(command["command"])
        assert "--target=aarch64-none-linux-android29" in arguments
        assert "-fPIC" in arguments
        assert str(tmp_path / "tvm/include") in arguments
    link = (tmp_path / "build/build.ninja").read_text()
    assert "-Wl,-z,max-page-size=16384" in link
    assert str(tmp_path / "tvm/lib/libtvm_runtime.so") in link
    assert str(tmp_path / "tvm_ffi/lib/libtvm_ffi.so") in link
    assert "libOpenCL" not in link


def test_a_folder_without_tvm_is_named(tmp_path: Path) -> None:
    done = configure(
        tmp_path, f"-DDDIMCACHE_TVM_DIR={tmp_path}", f"-DDDIMCACHE_TVM_FFI_DIR={tmp_path / 'tvm_ffi'}"
    )
    assert done.returncode != 0
    assert "DDIMCACHE_TVM_DIR or" in " ".join(done.stderr.split())
