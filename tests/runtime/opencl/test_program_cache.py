"""The cache of compiled programs: found again by other processes, and never trusted."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddimcache.runtime import devices
from tests.kit.no_torch import without_torch
from tests.runtime.opencl import programs

pytestmark = pytest.mark.opencl

SCALE = "__kernel void scale(__global float* out) { out[get_global_id(0)] = get_global_id(0) * FACTOR; }"
MAGIC = b"DDIMPROG"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that is on; the folder itself does not exist yet."""
    monkeypatch.setenv("DDIMCACHE_PROGRAM_CACHE", "1")
    monkeypatch.setenv("DDIMCACHE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "programs"


def scaled(factor: int = 3) -> str:
    """Build the kernel with that factor anew, run it, check its answer; "hit", "miss" or "off"."""
    before = devices.program_cache()
    device = tvm.runtime.device("opencl", 0)
    out = tvm.runtime.empty((16,), "float32", device)
    function = programs.kernel(SCALE.replace("FACTOR", str(factor)), "scale", ["handle"])
    function(programs.handle(out), 2, 8)
    np.testing.assert_array_equal(out.numpy(), np.arange(16) * factor)
    after = devices.program_cache()
    return {(1, 0): "hit", (0, 1): "miss", (0, 0): "off"}[
        after.hits - before.hits, after.misses - before.misses
    ]


def the_file(folder: Path) -> Path:
    """The only file in the cache."""
    (path,) = folder.iterdir()
    assert path.suffix == ".program"
    return path


def checksum(data: bytes) -> bytes:
    """FNV-1a of 64 bits."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & (2**64 - 1)
    return struct.pack("<Q", value)


def framed(key: bytes, binary: bytes, magic: bytes = MAGIC, version: int = 1, tail: bytes = b"") -> bytes:
    """A file written from the description of the layout alone."""
    body = (
        magic + struct.pack("<IQ", version, len(key)) + key + struct.pack("<Q", len(binary)) + binary + tail
    )
    return body + checksum(body)


def parts(file: bytes) -> tuple[bytes, bytes]:
    """Key and binary of a good file."""
    (key_length,) = struct.unpack_from("<Q", file, 12)
    key = file[20 : 20 + key_length]
    (length,) = struct.unpack_from("<Q", file, 20 + key_length)
    return key, file[28 + key_length : 28 + key_length + length]


def test_a_second_build_hits(folder: Path) -> None:
    assert [scaled(), scaled(), scaled(4), scaled(4)] == ["miss", "hit", "miss", "hit"]
    assert devices.program_cache().folder == str(folder)
    assert len(list(folder.iterdir())) == 2
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())


def test_the_layout_is_the_one_described(folder: Path) -> None:
    scaled()
    data = the_file(folder).read_bytes()
    key, binary = parts(data)
    assert framed(key, binary) == data
    info = devices.list_devices()[0]
    for fact in (
        SCALE.replace("FACTOR", "3"),
        "-cl-mad-enable",
        info.name,
        info.driver_version,
        info.version,
    ):
        assert f" {len(fact)}\n{fact}\n".encode() in key


def test_other_options_are_another_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "__kernel void option(__global int* out) { out[0] = CHOSEN; }"
    out = tvm.runtime.empty((1,), "int32", tvm.runtime.device("opencl", 0))
    for chosen in (1, 2, 1, 2):
        monkeypatch.setenv("DDIMCACHE_OPENCL_BUILD_OPTIONS", f"-DCHOSEN={chosen}")
        programs.kernel(source, "option", ["handle"])(programs.handle(out), 1, 1)
        assert out.numpy()[0] == chosen
    assert len(list(folder.iterdir())) == 2


def test_a_source_that_does_not_compile_is_told_again(folder: Path) -> None:
    out = tvm.runtime.empty((1,), "int32", tvm.runtime.device("opencl", 0))
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"(?s)CL_BUILD_PROGRAM_FAILURE.*build log:.*'nowhere'"):
            programs.kernel("__kernel void bad(__global int* p) { p[0] = nowhere; }", "bad", ["handle"])(
                programs.handle(out), 1, 1
            )
    assert not folder.exists()


PROCESS = """
import json
from tests.runtime.opencl import test_program_cache as test
from ddimcache.runtime import devices
for factor in range(3, 9):
    test.scaled(factor)
cache = devices.program_cache()
print(json.dumps([cache.hits, cache.misses]))
"""


def start() -> subprocess.Popen[str]:
    """A process that builds six kernels and checks their answers."""
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS],
        cwd=Path(__file__).parents[3],
        env=without_torch({**os.environ, "PYTHONPATH": "src"}),
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> list[int]:
    """Hits and misses of it."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return list(json.loads(output.splitlines()[-1]))


def test_processes_at_once_and_one_after_them(folder: Path) -> None:
    for process in [start(), start()]:
        assert sum(finish(process)) == 6
    assert len(list(folder.glob("*.program"))) == len(list(folder.iterdir())) == 6
    assert finish(start()) == [6, 0]


@pytest.fixture
def damaged(folder: Path) -> Callable[[bytes], None]:
    """Check that a file of these bytes is a miss, the answer right, and the file good again after it."""

    def check(data: bytes) -> None:
        path = the_file(folder)
        good = path.read_bytes()
        path.write_bytes(data)
        assert scaled() == ("hit" if data == good else "miss")
        assert parts(path.read_bytes())[0] == parts(good)[0]
        assert scaled() == "hit"

    scaled()
    return check


several = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@several
@given(data=st.data())
def test_a_flipped_byte_is_a_miss(
    damaged: Callable[[bytes], None], folder: Path, data: st.DataObject
) -> None:
    file = bytearray(the_file(folder).read_bytes())
    file[data.draw(st.integers(0, len(file) - 1))] ^= data.draw(st.integers(1, 255))
    damaged(bytes(file))


@several
@given(data=st.data())
def test_a_cut_file_is_a_miss(damaged: Callable[[bytes], None], folder: Path, data: st.DataObject) -> None:
    file = the_file(folder).read_bytes()
    damaged(file[: data.draw(st.integers(0, len(file) - 1))])


@several
@given(data=st.data())
def test_a_cut_with_a_right_checksum_is_a_miss(
    damaged: Callable[[bytes], None], folder: Path, data: st.DataObject
) -> None:
    file = the_file(folder).read_bytes()
    # near the lengths, which is where reading past the end would begin
    key_end = 20 + len(parts(file)[0])
    near = st.sampled_from([*range(21), *range(key_end - 2, key_end + 10)])
    body = file[: data.draw(near | st.integers(0, len(file) - 9))]
    damaged(body + checksum(body))


@several
@given(noise=st.binary(max_size=200), head=st.sampled_from([b"", MAGIC, MAGIC + struct.pack("<I", 1)]))
def test_garbage_is_a_miss(damaged: Callable[[bytes], None], noise: bytes, head: bytes) -> None:
    damaged(head + noise)
    damaged(head + noise + checksum(head + noise))


def test_a_well_formed_file_of_something_else_is_a_miss(
    damaged: Callable[[bytes], None], folder: Path
) -> None:
    key, binary = parts(the_file(folder).read_bytes())
    damaged(b"")
    damaged(framed(key.replace(b"* 3", b"* 5"), binary))
    damaged(framed(key + b"x", binary))
    damaged(framed(key[:-1], binary))
    damaged(framed(key, binary, version=2))
    damaged(framed(key, binary, magic=b"DDIMCACH"))
    damaged(framed(key, binary, tail=b"\0"))
    # what the driver refuses
    damaged(framed(key, b""))
    damaged(framed(key, b"no binary of any driver"))
    for length in (2**64 - 1, 2**63, len(key) + len(binary) + 9):
        body = MAGIC + struct.pack("<IQ", 1, length) + key + struct.pack("<Q", len(binary)) + binary
        damaged(body + checksum(body))
        body = MAGIC + struct.pack("<IQ", 1, len(key)) + key + struct.pack("<Q", length) + binary
        damaged(body + checksum(body))


def test_what_is_no_file_is_a_miss(folder: Path) -> None:
    scaled()
    path = the_file(folder)
    path.unlink()
    os.mkfifo(path)
    assert [scaled(), scaled()] == ["miss", "hit"]
    path.unlink()
    path.mkdir()
    assert [scaled(), scaled()] == ["miss", "miss"]
    assert list(folder.iterdir()) == [path]
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert [scaled(), scaled()] == ["miss", "hit"]


def test_a_giant_file_is_not_read(folder: Path) -> None:
    scaled()
    os.truncate(the_file(folder), 2**40)
    assert [scaled(), scaled()] == ["miss", "hit"]


def test_the_least_recently_used_go_when_the_bound_is_passed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for factor in range(10, 14):
        scaled(factor)
    paths = {
        factor: next(path for path in folder.iterdir() if f"* {factor};".encode() in path.read_bytes())
        for factor in range(10, 14)
    }
    for factor, path in paths.items():
        os.utime(path, (1000 + factor, 1000 + factor))
    assert scaled(10) == "hit"
    stranger = folder / "notes.txt"
    stranger.write_bytes(bytes(10**6))
    left_behind, in_work = folder / ".writing-abcdef", folder / ".writing-ghijkl"
    left_behind.write_bytes(bytes(100))
    in_work.write_bytes(bytes(100))
    writer = os.open(in_work, os.O_RDONLY)
    fcntl.flock(writer, fcntl.LOCK_EX)
    sizes = [path.stat().st_size for path in paths.values()]
    # room for four, and with the eighth that is freed for three
    monkeypatch.setenv("DDIMCACHE_PROGRAM_CACHE_BYTES", str(sum(sizes) + 100))
    assert scaled(14) == "miss"
    assert [path.exists() for path in paths.values()] == [True, False, False, True]
    assert stranger.exists()
    assert not left_behind.exists()
    assert in_work.exists()
    os.close(writer)
    assert [scaled(14), scaled(10), scaled(13)] == ["hit", "hit", "hit"]


def test_the_bound_holds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaled()
    bound = int(3.5 * the_file(folder).stat().st_size)
    monkeypatch.setenv("DDIMCACHE_PROGRAM_CACHE_BYTES", str(bound))
    for factor in itertools.chain(range(20, 30), range(20, 30)):
        scaled(factor)
        assert sum(path.stat().st_size for path in folder.iterdir()) <= bound
        assert scaled(factor) == "hit"


def test_a_bound_of_nothing_keeps_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDIMCACHE_PROGRAM_CACHE_BYTES", "0")
    assert [scaled(), scaled()] == ["miss", "miss"]
    assert not folder.exists()
    monkeypatch.setenv("DDIMCACHE_PROGRAM_CACHE_BYTES", "much")
    assert [scaled(), scaled()] == ["miss", "hit"]


def test_it_can_be_turned_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaled()
    monkeypatch.setenv("DDIMCACHE_PROGRAM_CACHE", "0")
    assert devices.program_cache().folder is None
    assert [scaled(), scaled(4)] == ["off", "off"]
    the_file(folder)


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for impossible in ("/proc/no", str(tmp_path / "file"), "/dev/null", "x" * 5000):
        monkeypatch.setenv("DDIMCACHE_CACHE", impossible)
        assert [scaled(), scaled()] == ["miss", "miss"]
        problem = devices.program_cache().problem
        assert problem is not None
        assert problem.startswith(f"{impossible}/programs: ")
        # once, not for every program
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("ddimcache: warning: compiled programs cannot be kept, so every start")
        assert f": {problem}. Free space or" in line
        assert "DDIMCACHE_CACHE" in line
    monkeypatch.setenv("DDIMCACHE_CACHE", str(tmp_path / "cache"))
    assert scaled() == "miss"
    assert devices.program_cache().problem is None


def test_a_read_only_folder_is_read(folder: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        scaled()
        folder.chmod(0o500)
        assert [scaled(), scaled(4), scaled(4)] == ["hit", "miss", "miss"]
        folder.chmod(0o700)
        return
    # permissions do not bind root
    scaled()
    subprocess.run(["chattr", "+i", folder], check=True)
    try:
        assert [scaled(), scaled(4), scaled(4)] == ["hit", "miss", "miss"]
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)


def test_programs_that_wait_are_kept_when_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not any(hazard.name == "pocl-binaries" for hazard in devices.list_devices()[0].hazards):
        pytest.skip("this driver hands out programs without compiling them again")
    monkeypatch.delenv("DDIMCACHE_PROGRAM_CACHE")
    devices.keep_programs()
    assert [scaled(31), scaled(31), scaled(32)] == ["miss", "miss", "miss"]
    assert not folder.exists()
    assert devices.program_cache().waiting == 2
    assert devices.keep_programs(1) == 1
    assert [scaled(31), scaled(32)] == ["hit", "miss"]
    assert devices.keep_programs() == devices.program_cache().waiting == 0
    assert [scaled(31), scaled(32)] == ["hit", "hit"]


def test_where_the_folder_is(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept() -> str | None:
        return devices.program_cache().folder

    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setenv("DDIMCACHE_CACHE", "~/mine")
    assert kept() == "/home/somebody/mine/programs"
    monkeypatch.setenv("DDIMCACHE_CACHE", "")
    assert kept() == "/caches/ddimcache/programs"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert kept() == "/home/somebody/.cache/ddimcache/programs"
    monkeypatch.delenv("HOME")
    assert kept() is None
    assert scaled() == "off"
