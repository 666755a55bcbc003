"""The cache of compiled programs when writers are killed, disks are full, and many processes are at it.

With the fake driver a program is built at once and its binary holds its source, so processes do little else
than write and read the cache, and every answer can be checked.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.fakes import opencl_driver
from tests.runtime.opencl.test_program_cache import framed, parts

PROGRAM = """
import json, os, random, sys
sys.path.insert(0, os.getcwd())
import tvm
from ddimcache.runtime import devices
from tests.runtime.opencl import programs

def build(number):
    source = f"// {number} " + "x" * (1000 * (number % 200)) + "\\n__kernel void kern(__global float* out) {}"
    devices.prepare(programs.load(programs.module_bytes(source, "kern", ["handle"])), threads=1)

def counts():
    cache = devices.program_cache()
    return [cache.hits, cache.misses]

devices.list_devices()
print("ready", flush=True)
"""


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    return {"DDIMCACHE_PROGRAM_CACHE": "1", "DDIMCACHE_CACHE": str(tmp_path)}


def result(driver: Path, work: str, **variables: str) -> list[int]:
    """What the program prints last, as JSON."""
    done = opencl_driver.run(driver, PROGRAM + work, **variables)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


def check_files(folder: Path, most: int = 10**9) -> list[int]:
    """``most`` files of the cache are whole, their binaries of their keys; returns their numbers."""
    numbers = []
    for path in itertools.islice(folder.glob("*.program"), most):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # evicted meanwhile
            continue
        key, binary = parts(data)
        assert framed(key, binary) == data
        source = binary.removeprefix(b"binary of ")
        assert f"source {len(source)}\n".encode() + source in key
        numbers.append(int(source.split()[1]))
    return numbers


def campaign(driver: Path, cache: dict[str, str], kills: int) -> None:
    """Kill writers at random moments; what they leave is whole, is used, and nothing else stays."""
    rng = random.Random(1)
    folder = Path(cache["DDIMCACHE_CACHE"]) / "programs"
    endless = "while True: build(random.randrange(10**6))"
    cache = {**cache, "DDIMCACHE_PROGRAM_CACHE_BYTES": str(4_000_000)}

    def launch() -> subprocess.Popen[str]:
        return opencl_driver.start(driver, PROGRAM + endless, **cache)

    unfinished = 0
    following = launch()
    for _ in range(kills):
        # a start takes longer than what is to be killed, so the next process starts meanwhile
        process, following = following, launch()
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
        check_files(folder, most=3)
        unfinished += len(list(folder.glob(".writing-*")))
    following.kill()
    following.communicate()
    numbers = check_files(folder)
    print(f"{kills} writers killed, {unfinished} unfinished files seen, {len(numbers)} programs kept")
    work = f"for number in {numbers}: build(number)\nprint(counts())"
    assert result(driver, work, **cache) == [len(numbers), 0]
    # a process lists the folder when it writes for the first time, and finds what killed writers left
    assert result(driver, "build(10**7)\nprint(counts())", **cache) == [0, 1]
    assert not list(folder.glob(".writing-*"))


def test_killed_writers(driver: Path, cache: dict[str, str]) -> None:
    campaign(driver, cache, 6)


@pytest.mark.full
def test_a_hundred_killed_writers(driver: Path, cache: dict[str, str]) -> None:
    campaign(driver, cache, 100)


def crowd(driver: Path, cache: dict[str, str], processes: int, rounds: int) -> None:
    """Processes that want more programs than there is room for."""
    bound = 2_000_000
    work = (
        f"for _ in range({rounds}): build(random.randrange(60))\n"
        f"hits, misses = counts(); assert hits + misses == {rounds}; print([hits, misses])"
    )
    bounded = {**cache, "DDIMCACHE_PROGRAM_CACHE_BYTES": str(bound)}
    running = [opencl_driver.start(driver, PROGRAM + work, **bounded) for _ in range(processes)]
    folder = Path(cache["DDIMCACHE_CACHE"]) / "programs"
    while any(process.poll() is None for process in running):
        check_files(folder, most=3)
        time.sleep(0.05)
    for process in running:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert errors == ""
        hits, misses = json.loads(output.splitlines()[-1])
        assert hits > 0
        assert misses > 0
    assert check_files(folder)
    # whoever writes next lists the folder
    result(driver, "build(1)\nbuild(1001)\nprint(counts())", **bounded)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= bound
    assert not list(folder.glob(".writing-*"))


def test_readers_writers_and_evictors_at_once(driver: Path, cache: dict[str, str]) -> None:
    crowd(driver, cache, 3, 300)


@pytest.mark.full
def test_many_readers_writers_and_evictors_at_once(driver: Path, cache: dict[str, str]) -> None:
    crowd(driver, cache, 16, 5000)


def test_a_full_disk(driver: Path, cache: dict[str, str], tmp_path: Path) -> None:
    """Writing stops in the middle of a file: nothing of it stays, builds go on, and it is told once."""
    folder = tmp_path / "programs"
    work = "for number in range(6): build(number)\nprint(counts())"
    assert result(driver, work, **cache) == [0, 6]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for path in before:
        if len(before[path]) > 2000:
            path.write_bytes(b"to be replaced")
    damaged = sum(len(data) > 2000 for data in before.values())
    assert 2 <= damaged < 6
    disk = tmp_path / "full_disk.so"
    shim = Path(opencl_driver.__file__).parents[1] / "full_disk.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", disk, shim, "-ldl"], check=True)
    done = opencl_driver.run(driver, PROGRAM + work, **cache, LD_PRELOAD=str(disk), FULL_DISK_BYTES="2000")
    assert json.loads(done.stdout.splitlines()[-1]) == [6 - damaged, damaged]
    assert done.stderr.count("ddimcache: warning") == 1
    assert "compiled programs cannot be kept, so every start compiles them again" in done.stderr
    assert f"{folder}: No space left on device" in done.stderr
    assert set(folder.iterdir()) == set(before)
    assert result(driver, work, **cache) == [6 - damaged, damaged]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
