"""Drivers with known hazards: what is refused or warned of, and builds that crash in a child process."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from tests.fakes import opencl_driver
from tests.fakes.opencl_driver import ADRENO

PRELUDE = """
import json, os, sys
sys.path.insert(0, os.getcwd())
import tvm
from ddimcache.runtime import devices
from tests.runtime.opencl import programs

def prepare(source, name="kern", arguments=("handle",)):
    module = programs.load(programs.module_bytes(source, name, list(arguments)))
    try:
        return devices.prepare(module)
    except RuntimeError as error:
        print(error)

"""


def run(driver: Path, program: str, **variables: str) -> tuple[str, str]:
    """Standard output and standard error of the program; it has to end well."""
    done = opencl_driver.run(driver, PRELUDE + program, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def hazards(driver: Path, **variables: str) -> set[str]:
    program = "print(json.dumps([hazard.name for hazard in devices.list_devices()[0].hazards]))"
    return set(json.loads(run(driver, program, **variables)[0]))


ALWAYS = {"adreno-spills", "adreno-allocation", "adreno-grouping", "adreno-enqueues"}
OF_COMPILER = {
    "adreno-build-crash",
    "adreno-wide-indices",
    "adreno-cast-loads",
    "adreno-helpers",
    "adreno-arguments",
}


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("OpenCL 3.0 QUALCOMM build: 0676.73 Compiler E031.41.03.62", ALWAYS | OF_COMPILER),
        ("OpenCL 2.0 QUALCOMM build: commit #3dad7f8ed7 Compiler E031.38.01.00", ALWAYS | OF_COMPILER),
        ("OpenCL 2.0 QUALCOMM build: commit #3dad7f8ed7 Compiler E031.37.12.01", ALWAYS),
        ("OpenCL 3.0 QUALCOMM build: 0800 Compiler E031.410.1", ALWAYS),
        ("Compiler E031.99999999999999999999999999", ALWAYS),
    ],
)
def test_versions_of_adreno(driver: Path, version: str, expected: set[str]) -> None:
    assert hazards(driver, **{**ADRENO, "FAKE_DRIVER_VERSION": version}) == expected


def test_other_drivers(driver: Path) -> None:
    assert hazards(driver) == set()
    # the version alone says nothing
    assert hazards(driver, FAKE_DRIVER_VERSION=ADRENO["FAKE_DRIVER_VERSION"]) == set()
    pocl = {"FAKE_PLATFORM": "Portable Computing Language", "FAKE_DRIVER_VERSION": "6.0"}
    assert hazards(driver, **pocl) == {"pocl-binaries", "pocl-private-bytes", "pocl-split-vectors"}


def test_verbs_tell_them(driver: Path) -> None:
    program = "from ddimcache.cli import main; sys.argv[1:] = {}; main()"
    listed = opencl_driver.run(driver, PRELUDE + program.format(["devices", "--json"]), **ADRENO)
    (device,) = [entry for entry in json.loads(listed.stdout)["devices"] if entry["device"] == "opencl:0"]
    assert {hazard["name"] for hazard in device["hazards"]} == ALWAYS | OF_COMPILER
    assert all(hazard["problem"] and hazard["handling"] for hazard in device["hazards"])
    checked = opencl_driver.run(driver, PRELUDE + program.format(["doctor"]), **ADRENO)
    assert "opencl:0 adreno-build-crash: clBuildProgram crashes on some programs" in checked.stdout


KERNEL = "__kernel void kern(__global float* restrict out) {{ {body} }}"
PATTERNS = {
    "long i = get_global_id(0); float4 a = vload4(i, out);": "64-bit integers (line 1) and vload4 (line 1)",
    "float4 a = vload4(0, (__global half*)out);": '"out" loaded as vector of half (line 1)',
    "uchar4 a = *(__global uchar4*)(out + 4);": '"out" loaded as vector of uchar (line 1)',
    "char c[16]; int4 a = ((const int4*)(&c[0]))[0];": '"c" loaded as vector of int (line 1)',
    # none of these is one
    "float4 a = vload4(0, (__global float*)out);": None,
    "float4 a = *(__global float4*)(out + 4);": None,
    "int i = get_global_id(0); float4 a = vload4(i, out);": None,
    "// long i; vload4(0, (__global half*)out)": None,
    '/* long */ float4 a = vload4(0, out); char* s = "long";': None,
    "int i = (*(__global int*)out);": None,
    "float b = (float)(out[0]); int longer = 1; float4 a = vload4(0, out);": None,
}


def test_patterns_in_sources_are_warned_of(driver: Path) -> None:
    sources = [KERNEL.format(body=f"{body}\n") for body in PATTERNS]
    program = (
        f"for source in {sources!r}:\n    prepare(source)\n    print('next', file=sys.stderr, flush=True)"
    )
    _, errors = run(driver, program, **ADRENO, DDIMCACHE_BUILD_IN_CHILD="0")
    for (body, expected), said in zip(PATTERNS.items(), errors.split("next\n")[:-1], strict=True):
        if expected is None:
            assert said == "", body
        else:
            assert said.count("\n") == 1, (body, said)
            assert re.match(r'ddimcache: warning: kernel "kern" on device "QUALCOMM', said)
            assert expected in said
    assert "warning" not in run(driver, program)[1]


def test_helpers_are_warned_of(driver: Path) -> None:
    helper = "inline float twice(float x) {\n return x * 2; }\n"
    kernel = "__kernel __attribute__((reqd_work_group_size(64, 1, 1))) void kern(__global float* out) { }\n"
    prototype = "__kernel void other(__global float* out);\n"
    for source, expected in ((prototype + helper + kernel, True), (prototype + kernel, False)):
        _, errors = run(driver, f"prepare({source!r})", **ADRENO, DDIMCACHE_BUILD_IN_CHILD="0")
        assert ('function "twice" is defined (line 2); with this driver' in errors) == expected


def test_too_many_arguments_are_refused_before_the_driver_sees_them(driver: Path) -> None:
    def program(count: int) -> str:
        parameters = ", ".join(f"__global float* a{i}" for i in range(count))
        return f"print(prepare('__kernel void kern({parameters}) {{ }}', arguments=['int32'] * {count}))"

    text, _ = run(driver, program(129), **ADRENO)
    assert 'OpenCL kernel "kern" takes 129 arguments, 516 bytes; more than 128 arguments' in text
    assert "adreno-arguments" in text
    assert run(driver, program(128), **ADRENO)[0] == "1\n"
    assert run(driver, program(129))[0] == "1\n"


def test_spills_are_named_once_a_module(driver: Path) -> None:
    program = "for _ in range(2): prepare('__kernel void kern(__global float* out) { /* SPILLS */ }')"
    spills = {**ADRENO, "DDIMCACHE_REPORT_SPILLS": "1"}
    _, errors = run(driver, program, **spills)
    (line, again) = errors.splitlines()
    assert line == again
    assert line == (
        'ddimcache: warning: on device "QUALCOMM Adreno(TM) 740" (opencl:0) registers spill to memory in '
        "kern (512 bytes)"
    )
    assert run(driver, program, **ADRENO)[1] == ""
    assert run(driver, program.replace("SPILLS", ""), **spills)[1] == ""
    # a number that means nothing is not reported
    assert run(driver, program, **{**spills, "FAKE_PLATFORM": "Portable Computing Language"})[1] == ""


IN_CHILD = {"DDIMCACHE_BUILD_IN_CHILD": "1"}


def source(word: str, kernel: str = "kern") -> str:
    return f"__kernel void {kernel}(__global float* out) {{ /* {word} */ }}"


@pytest.mark.parametrize("cached", ["1", "0"])
def test_a_crash_in_a_child_is_an_error_message(driver: Path, tmp_path: Path, cached: str) -> None:
    program = f"prepare({source('DRIVER_CRASHES')!r}); print(prepare({source('fine')!r}))"
    text, _ = run(
        driver,
        program,
        **IN_CHILD,
        DDIMCACHE_PROGRAM_CACHE=cached,
        DDIMCACHE_CACHE=str(tmp_path / "cache"),
        TMPDIR=str(tmp_path),
    )
    assert re.search(
        r'the driver crashed \(signal 11, Segmentation fault\) when it built kernel "kern" on device "Fake '
        r'Device" \(opencl:0\) in a child process, with options "-cl-mad-enable"',
        text,
    )
    assert text.endswith("\n1\n")
    kept = re.search(r"Its source is kept in (\S+\.cl):", text)
    assert kept is not None
    assert Path(kept[1]).is_relative_to(tmp_path)
    assert "DRIVER_CRASHES" in Path(kept[1]).read_text()


def test_a_hang_in_a_child_is_an_error_message(driver: Path, tmp_path: Path) -> None:
    program = f"prepare({source('DRIVER_HANGS')!r}); print(prepare({source('fine')!r}))"
    start = time.monotonic()
    text, _ = run(driver, program, **IN_CHILD, DDIMCACHE_BUILD_SECONDS="1", TMPDIR=str(tmp_path))
    assert 'the driver took longer than 1 s (DDIMCACHE_BUILD_SECONDS) when it built kernel "kern"' in text
    assert text.endswith("\n1\n")
    # the limit of the test itself is far away
    assert time.monotonic() - start < 60


def test_other_failures_in_a_child(driver: Path, tmp_path: Path) -> None:
    def said(word: str, **more: str) -> str:
        return run(driver, f"print(prepare({source(word)!r}))", **IN_CHILD, TMPDIR=str(tmp_path), **more)[0]

    refused = said("DRIVER_REFUSES")
    assert 'CL_BUILD_PROGRAM_FAILURE (-11) in clBuildProgram of kernel "kern"' in refused
    assert "the log of the fake driver" in refused
    assert "crashed (its process ended with status 7)" in said("DRIVER_EXITS")
    assert said("DRIVER_PRINTS") == "1\n"
    assert "does not hand out the program" in said("fine", FAKE_BINARIES="none")
    # what the child has built without harm may be built here
    assert said("fine", FAKE_BINARIES="refused") == "1\n"


def test_a_build_elsewhere_fills_the_cache(driver: Path, tmp_path: Path) -> None:
    cache = {"DDIMCACHE_PROGRAM_CACHE": "1", "DDIMCACHE_CACHE": str(tmp_path)}
    program = f"prepare({source('fine')!r}); cache = devices.program_cache(); print(cache.hits, cache.misses)"
    assert run(driver, program, **IN_CHILD, **cache)[0] == "0 1\n"
    assert run(driver, program, **IN_CHILD, **cache)[0] == "1 0\n"
    assert run(driver, program, **cache)[0] == "1 0\n"


def test_a_driver_known_to_crash_builds_in_a_child_by_itself(driver: Path, tmp_path: Path) -> None:
    crash = f"prepare({source('DRIVER_CRASHES')!r})"
    text, _ = run(driver, crash, **ADRENO, TMPDIR=str(tmp_path))
    assert "the driver crashed (signal 11" in text
    done = opencl_driver.run(driver, PRELUDE + crash, **ADRENO, DDIMCACHE_BUILD_IN_CHILD="0")
    assert done.returncode == -11


def test_no_child_is_left_behind(driver: Path, tmp_path: Path) -> None:
    """Children end with the process that started them, also when it is killed while a driver hangs."""
    program = (
        "import threading, time, signal\n"
        f"prepare({source('fine')!r})\n"
        f"threading.Thread(target=prepare, args=({source('DRIVER_HANGS')!r},), daemon=True).start()\n"
        "time.sleep(1)\n"
        "print(open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = opencl_driver.run(driver, PRELUDE + program, **IN_CHILD, TMPDIR=str(tmp_path))
    children = [int(word) for word in done.stdout.split()]
    assert len(children) == 1
    deadline = time.monotonic() + 20
    while any(_runs(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_without_the_program_that_builds(driver: Path, tmp_path: Path) -> None:
    """A plug-in alone in its folder: an error where a child was asked for, else a build in the process."""
    from ddimcache.runtime import plugin

    alone = tmp_path / "plugin.so"
    alone.write_bytes(plugin.library_path().read_bytes())
    variables = {"DDIMCACHE_PLUGIN": str(alone)}
    program = f"print(prepare({source('fine')!r}))"
    text, _ = run(driver, program, **variables, **IN_CHILD)
    assert f"cannot build in a child process: {tmp_path}/ddimcache_build_program: No such file" in text
    assert "DDIMCACHE_BUILD_IN_CHILD=0" in text
    text, errors = run(driver, program, **variables, **ADRENO)
    assert text == "1\n"
    assert "ddimcache_build_program is missing: programs are built in this process" in errors
