"""Modules: export and load, bytes that nobody should trust, sources, and what a failing kernel says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimcache.runtime import devices
from tests.kit.no_torch import without_torch
from tests.runtime.opencl import programs

COPY = """
__kernel void duplicate(__global float* out, __global const float* in) {
  out[get_global_id(0)] = in[get_global_id(0)];
}
"""
GOOD = programs.module_bytes(COPY, "duplicate", ["handle", "handle"])


def opencl_part(library: tvm.runtime.Executable) -> tvm_ffi.Module:
    """The module that holds the kernels."""
    (part,) = (module for module in library.mod.imports if module.kind == "opencl")
    return part


LOAD_AND_RUN = """
import sys
import numpy as np
import tvm
device = tvm.runtime.device("opencl", 0)
function = tvm.runtime.load_module(sys.argv[1])["main"]
source = tvm.runtime.tensor(np.arange(256, dtype="float32"), device)
target = tvm.runtime.empty((256,), "float32", device)
function(source, target)
assert (target.numpy() == np.arange(1, 257)).all(), target.numpy()
print("right")
"""


@pytest.mark.opencl
def test_export_and_load_in_a_fresh_process(tmp_path: Path) -> None:
    path = tmp_path / "add_one.so"
    programs.add_one(256).export_library(str(path))
    command = [sys.executable, "-c", LOAD_AND_RUN, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=without_torch(os.environ))
    assert done.stdout.strip() == "right", done.stderr


def test_building_and_exporting_need_no_device(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from tests.runtime.opencl import programs\n"
        "programs.add_one(256).export_library(sys.argv[1])\n"
    )
    path = tmp_path / "add_one.so"
    root = Path(__file__).parents[3]
    absent = {"DDIMCACHE_OPENCL_LIBRARY": str(tmp_path / "absent.so"), "PATH": "/usr/bin:/bin"}
    variables = without_torch(absent)
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, cwd=root, env=variables
    )
    assert done.returncode == 0, done.stderr
    assert path.stat().st_size > 0


def test_source_can_be_read() -> None:
    library = programs.add_one(256)
    source = opencl_part(library).inspect_source()
    assert "__kernel void main_kernel" in source
    assert opencl_part(library).inspect_source("cl") == source
    assert opencl_part(library).inspect_source("ptx") == ""
    assert programs.load(GOOD).inspect_source() == COPY


def test_an_unknown_function_is_not_there() -> None:
    assert not programs.load(GOOD).implements_function("other")
    assert programs.load(GOOD).implements_function("duplicate")


@pytest.mark.opencl
def test_bytes_written_by_hand_run(device: tvm.runtime.Device) -> None:
    source = tvm.runtime.tensor(np.arange(8, dtype="float32"), device)
    target = tvm.runtime.empty((8,), "float32", device)
    function = programs.load(GOOD).get_function("duplicate")
    function(programs.handle(target), programs.handle(source), 2, 4)
    np.testing.assert_array_equal(target.numpy(), np.arange(8))


def test_every_cut_is_refused() -> None:
    for length in range(len(GOOD)):
        with pytest.raises(ValueError, match=r"not an OpenCL module, or a damaged one: at byte \d+ of"):
            programs.load(GOOD[:length])


def test_bytes_behind_the_end_are_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes follow the source"):
        programs.load(GOOD + b"abc")


@settings(deadline=None, max_examples=400)
@given(data=st.binary(max_size=300))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not an OpenCL module, or a damaged one"):
        programs.load(data)


@settings(deadline=None, max_examples=400)
@given(
    position=st.integers(0, len(GOOD) - 1),
    replacement=st.binary(min_size=1, max_size=9),
)
def test_damaged_bytes_are_refused_or_harmless(position: int, replacement: bytes) -> None:
    """Damage inside the kernel's text cannot be seen; anywhere else it is refused. Nothing crashes."""
    damaged = GOOD[:position] + replacement + GOOD[position + len(replacement) :]
    try:
        module = programs.load(damaged)
    except ValueError:
        return
    assert module.kind == "opencl"
    assert isinstance(module.inspect_source(), str)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "spirv"}, 'the format is not "cl"'),
        ({"name": "no identifier"}, "a function's name is not an identifier"),
        ({"name": ""}, "a function's name is not an identifier"),
        ({"tags": ("blockIdx.w",)}, 'wants "blockIdx.w", which OpenCL does not have'),
        ({"tags": ("blockIdx.x", "tirx.use_dyn_shared_memory")}, "declares local memory with a fixed size"),
        (
            {"arguments": ["handle", "unknown"]},
            "type code 77, 13 bits, 1 lanes, which cannot be passed by value",
        ),
        ({"tags": ("clusterCtaIdx.x",)}, 'wants "clusterCtaIdx.x", which OpenCL does not have'),
    ],
)
def test_what_opencl_cannot_do_is_named(change: dict[str, object], message: str) -> None:
    arguments = {"source": COPY, "name": "duplicate", "arguments": ["handle", "handle"], **change}
    with pytest.raises(ValueError, match=message):
        programs.load(programs.module_bytes(**arguments))  # type: ignore[arg-type]


def test_a_giant_count_is_refused_before_memory_is_taken() -> None:
    head = programs.module_bytes(COPY, "duplicate", ["handle"])[:10]
    with pytest.raises(ValueError, match="the table of functions claims 9223372036854775807 entries"):
        programs.load(head + (2**63 - 1).to_bytes(8, "little") + bytes(64))


@pytest.mark.opencl
def test_a_kernel_that_does_not_compile_shows_the_build_log(device: tvm.runtime.Device) -> None:
    broken = COPY.replace("in[get_global_id(0)]", "nowhere")
    function = programs.kernel(broken, "duplicate", ["handle", "handle"])
    tensor = tvm.runtime.empty((8,), "float32", device)
    with pytest.raises(
        RuntimeError,
        match=r"(?s)OpenCL error CL_BUILD_PROGRAM_FAILURE \(-11\) in clBuildProgram of kernel \"duplicate\" "
        r"on device \".*\" \(opencl:0\) with options \"-cl-mad-enable\".*"
        r"build log:.*undeclared identifier 'nowhere'",
    ):
        function(programs.handle(tensor), programs.handle(tensor), 1, 1)


@pytest.mark.opencl
def test_build_options_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, device: tvm.runtime.Device
) -> None:
    source = "__kernel void option(__global int* out) { out[0] = CHOSEN; }"
    monkeypatch.setenv("DDIMCACHE_OPENCL_BUILD_OPTIONS", "-DCHOSEN=42")
    out = tvm.runtime.empty((1,), "int32", device)
    programs.kernel(source, "option", ["handle"])(programs.handle(out), 1, 1)
    assert out.numpy()[0] == 42


@pytest.mark.opencl
def test_a_kernel_that_the_source_lacks(device: tvm.runtime.Device) -> None:
    function = programs.kernel(COPY, "another", ["handle"])
    tensor = tvm.runtime.empty((8,), "float32", device)
    with pytest.raises(
        RuntimeError,
        match=r"CL_INVALID_KERNEL_NAME \(-46\) in clCreateKernel of kernel \"another\".*"
        r"the source defines no kernel",
    ):
        function(programs.handle(tensor), 1, 1)


@pytest.mark.opencl
def test_a_too_large_work_group_is_refused_before_it_is_enqueued(device: tvm.runtime.Device) -> None:
    limit = devices.list_devices()[0].max_work_group_size
    library = programs.add_one(4 * limit, work_group=2 * limit)
    tensor = tvm.runtime.empty((4 * limit,), "float32", device)
    before = devices.launches()
    with pytest.raises(
        RuntimeError,
        match=rf"OpenCL kernel \"main_kernel\" is launched with work-groups of {2 * limit} work-items "
        rf"\({2 * limit}x1x1\), but on device \".*\" \(opencl:0\) this kernel can have \d+",
    ):
        library(tensor, tensor)
    assert devices.launches() == before


@pytest.mark.opencl
def test_too_many_argument_bytes(device: tvm.runtime.Device) -> None:
    limit = devices.list_devices()[0].max_kernel_argument_bytes
    count = limit // 8 + 1
    parameters = ", ".join(f"__global float* p{i}" for i in range(count))
    function = programs.kernel(f"__kernel void wide({parameters}) {{}}", "wide", ["handle"] * count)
    tensor = tvm.runtime.empty((8,), "float32", device)
    with pytest.raises(RuntimeError, match=rf"takes {8 * count} bytes of arguments; .* allows {limit}"):
        function(*[programs.handle(tensor)] * count, 1, 1)


@pytest.mark.opencl
def test_a_wrong_number_of_values(device: tvm.runtime.Device) -> None:
    function = programs.kernel(COPY, "duplicate", ["handle", "handle"])
    with pytest.raises(ValueError, match="takes 2 arguments and 2 launch extents, but got 1 values"):
        function(programs.handle(tvm.runtime.empty((8,), "float32", device)))


@pytest.mark.opencl
def test_a_host_tensor_is_no_buffer(device: tvm.runtime.Device) -> None:
    function = programs.kernel(COPY, "duplicate", ["handle", "handle"])
    host = tvm.runtime.empty((64,), "float32", tvm.runtime.device("cpu"))
    there = tvm.runtime.empty((64,), "float32", device)
    with pytest.raises(ValueError, match="duplicate got a handle that is no live OpenCL buffer"):
        function(programs.handle(there), programs.handle(host), 1, 1)


@pytest.mark.opencl
def test_a_view_with_an_offset_is_refused_by_the_compiled_function(device: tvm.runtime.Device) -> None:
    """TVM compiles functions for tensors that start where their buffer starts, and checks it."""
    library = programs.add_one(64)
    large = tvm.runtime.empty((128,), "float32", device)
    view = large._create_view((64,), "float32", relative_byte_offset=256)
    with pytest.raises(ValueError, match="byte_offset"):
        library(view, large._create_view((64,), "float32", relative_byte_offset=0))


@pytest.mark.opencl
def test_kernels_describe_what_they_need() -> None:
    import json

    described = json.loads(opencl_part(programs.add_one(256)).get_function("ddimcache.describe_kernels")(0))
    assert [entry["kernel"] for entry in described] == ["main_kernel"]
    assert described[0]["work_group_size"] >= 64


@pytest.mark.opencl
def test_one_program_a_kernel(device: tvm.runtime.Device) -> None:
    """A module of two kernels builds one although the other's part of the source is broken."""
    good = programs.module_bytes(
        "#define ONE 1\n"
        "// Function: first\n"
        "__kernel void first(__global int* out);\n"
        "__kernel void second(__global int* out, broken);\n"
        "__kernel void first(__global int* out) { out[0] = ONE; }\n"
        "// Function: second\n"
        "__kernel void second(__global int* out) { broken }\n",
        "first",
        ["handle"],
    )
    out = tvm.runtime.empty((1,), "int32", device)
    programs.load(good).get_function("first")(programs.handle(out), 1, 1)
    assert out.numpy()[0] == 1


def test_a_library_holds_each_kernel_once_and_no_declarations() -> None:
    """The code generator declares every kernel before each one, which made two thirds of a UNet's library."""
    text = (
        "#define ONE 1\n"
        "// Function: first\n"
        "__kernel void first(__global int* out);\n"
        "__kernel void second(__global int* out);\n"
        "__kernel void outside(__global int* out);\n"
        "__kernel void first(__global int* out) { out[0] = ONE; }\n"
    )
    kept = text.replace("__kernel void first(__global int* out);\n", "")
    assert programs.load(programs.module_bytes(text, "first", ["handle"])).inspect_source() == kept
    without_marker = text.replace("// Function: first\n", "")
    whole = programs.load(programs.module_bytes(without_marker, "first", ["handle"]))
    assert whole.inspect_source() == without_marker
    built = opencl_part(programs.add_one(256)).inspect_source()
    assert built.count("__kernel void main_kernel(") == 1
