"""Libraries for every host, by every kind of linker: what they ask of the machine that loads them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import tvm
from tvm.script import tirx as T

from ddimcache.compiler import linker
from ddimcache.compiler.elf import MACHINE_AARCH64, MACHINE_X86_64, read_shared_library
from ddimcache.compiler.linker import Linker, find_linker
from ddimcache.compiler.options import HOSTS
from ddimcache.errors import CompileError

pytestmark = pytest.mark.host

LINKERS = ("ld.lld", "aarch64-linux-gnu-ld", "ld")
EXPECTED = {
    "x86_64-linux-gnu": (MACHINE_X86_64, "libm.so.6", 4096),
    "aarch64-linux-gnu": (MACHINE_AARCH64, "libm.so.6", 65536),
    "aarch64-linux-android": (MACHINE_AARCH64, "libm.so", 16384),
}
PAIRS = [
    (host, program)
    for host in HOSTS
    for program in LINKERS
    if program == "ld.lld" or ("aarch64" in program) == host.startswith("aarch64")
]


@T.prim_func(check_well_formed=False)
def exponential(a: T.handle, b: T.handle):
    source = T.match_buffer(a, (16,), "float32")
    target = T.match_buffer(b, (16,), "float32")
    for i in range(16):
        target[i] = T.exp(source[i])


@T.prim_func(check_well_formed=False)
def double(a: T.handle, b: T.handle):
    source = T.match_buffer(a, (16,), "float32")
    target = T.match_buffer(b, (16,), "float32")
    for i in range(16):
        target[i] = source[i] + source[i]


@T.prim_func(check_well_formed=False)
def stranger(a: T.handle):
    target = T.match_buffer(a, (16,), "int32")
    target[0] = T.call_extern("int32", "getpid")


def export(function: object, host: str, library: Path, with_linker: Linker) -> None:
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    built = tvm.compile(module, target=tvm.target.Target({"kind": "llvm", "mtriple": host}))
    built.export_library(str(library), fcompile=with_linker.compile_function())


def program_path(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize(("host", "program"), PAIRS)
def test_a_library_takes_nothing_from_this_machine(host: str, program: str, tmp_path: Path) -> None:
    machine, math_library, page_bytes = EXPECTED[host]
    link = Linker(program_path(program), host)
    export(double, host, tmp_path / "plain.so", link)
    plain = read_shared_library(tmp_path / "plain.so")
    assert (plain.machine, plain.soname, plain.needed) == (machine, "plain.so", ())
    assert plain.page_bytes == page_bytes
    assert plain.undefined
    assert all(name.startswith("TVMFFI") for name in plain.undefined)
    assert plain.versions == frozenset()
    export(exponential, host, tmp_path / "math.so", link)
    math = read_shared_library(tmp_path / "math.so")
    assert (math.machine, math.soname, math.needed) == (machine, "math.so", (math_library,))
    assert {name for name in math.undefined if not name.startswith("TVMFFI")} == {"expf"}
    assert math.versions == frozenset()


def test_a_library_with_the_c_library_behind_it_runs(tmp_path: Path) -> None:
    import numpy as np

    export(exponential, "x86_64-linux-gnu", tmp_path / "math.so", find_linker("x86_64-linux-gnu"))
    source = tvm.runtime.tensor(np.linspace(-2, 2, 16, dtype="float32"))
    target = tvm.runtime.empty((16,), "float32")
    tvm.runtime.load_module(str(tmp_path / "math.so"))["main"](source, target)
    np.testing.assert_allclose(target.numpy(), np.exp(source.numpy()), rtol=1e-6)


def test_the_reader_agrees_with_readelf(tmp_path: Path) -> None:
    """On a library with everything in it: this machine's C++ library."""
    path = Path(
        subprocess.run(
            ["g++", "-print-file-name=libstdc++.so.6"], capture_output=True, text=True
        ).stdout.strip()
    )
    read = read_shared_library(path)
    dynamic = subprocess.run(["readelf", "-dW", path], capture_output=True, text=True).stdout
    assert list(read.needed) == re.findall(r"NEEDED.*\[(.*)\]", dynamic)
    assert [read.soname] == re.findall(r"SONAME.*\[(.*)\]", dynamic)
    symbols = subprocess.run(["readelf", "--dyn-syms", "-W", path], capture_output=True, text=True).stdout
    undefined = re.findall(r" GLOBAL +DEFAULT +UND +([^@\s]+)", symbols)
    assert read.undefined == set(undefined)
    versions = subprocess.run(["readelf", "-VW", path], capture_output=True, text=True).stdout
    needs = versions[versions.index("Version needs section") :]
    assert read.versions == set(re.findall(r"Name: (\S+)  Flags", needs))


def test_a_torn_library_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.so"
    export(double, "aarch64-linux-android", whole, find_linker("aarch64-linux-android"))
    data = whole.read_bytes()
    for length in (0, 3, 5, 63, 64, 200, len(data) // 2, len(data) - 1):
        (tmp_path / "torn.so").write_bytes(data[:length])
        with pytest.raises(CompileError, match="no whole 64-bit ELF library"):
            read_shared_library(tmp_path / "torn.so")


def test_a_call_that_no_device_has_is_refused(tmp_path: Path) -> None:
    link = find_linker("aarch64-linux-android")
    with pytest.raises(CompileError, match="calls getpid, which neither TVM's runtime nor the C library has"):
        export(stranger, "aarch64-linux-android", tmp_path / "stranger.so", link)


def test_a_linker_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"cannot link out.so for x86_64-linux-gnu: .*nowhere\.o"):
        find_linker("x86_64-linux-gnu").link([str(tmp_path / "nowhere.o")], tmp_path / "out.so")


@pytest.fixture
def bare_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH without any program; nor an NDK."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for variable in linker.NDK_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return folder


def fake_ndk(folder: Path, linked_to: str) -> Path:
    """An NDK's folder as far as its linker; the program is this machine's."""
    programs = folder / "toolchains/llvm/prebuilt/linux-x86_64/bin"
    programs.mkdir(parents=True)
    (programs / "ld.lld").symlink_to(linked_to)
    return programs / "ld.lld"


@pytest.mark.parametrize("variable", linker.NDK_VARIABLES)
def test_the_linker_of_an_ndk_is_found_and_links(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake_ndk(tmp_path / "ndk", program_path("ld.lld"))
    monkeypatch.setenv(variable, str(tmp_path / "ndk"))
    found = find_linker("aarch64-linux-android")
    assert found.path == str(program)
    export(double, "aarch64-linux-android", tmp_path / "double.so", found)
    assert read_shared_library(tmp_path / "double.so").page_bytes == 16384
    assert find_linker("x86_64-linux-gnu").path != str(program)


def test_an_ndk_serves_every_host_where_nothing_else_is(
    bare_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake_ndk(tmp_path / "ndk", "/bin/true")
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "ndk"))
    for host in HOSTS:
        assert find_linker(host) == Linker(str(program), host)


def test_a_folder_that_is_no_ndk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_NDK_ROOT", str(tmp_path))
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    with pytest.raises(CompileError, match=f"ANDROID_NDK_ROOT: {tmp_path} holds no toolchains/"):
        find_linker("aarch64-linux-android")


@pytest.mark.parametrize("host", HOSTS)
def test_a_missing_linker_says_what_to_install(host: str, bare_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        find_linker(host)
    assert caught.value.where == host
    assert "ld.lld" in caught.value.what
    assert re.search("install lld|Android NDK", caught.value.remedy or "")


def test_a_linker_for_another_machine_is_found_out(bare_path: Path, tmp_path: Path) -> None:
    """A program of the right name that links for something else."""
    wrong = bare_path / "ld.lld"
    real = "/usr/bin/ld"
    if not os.path.exists(real):
        pytest.skip("ld is not installed")
    wrong.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    wrong.chmod(0o755)
    with pytest.raises(CompileError, match="cannot link"):
        export(double, "aarch64-linux-gnu", tmp_path / "double.so", find_linker("aarch64-linux-gnu"))
