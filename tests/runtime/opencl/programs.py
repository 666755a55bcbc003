"""Small programs for the tests: TIR with a chosen work-group, OpenCL C with a chosen signature."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

import tvm
import tvm_ffi
from tvm import s_tir, te

TARGET = {"kind": "opencl"}

DTYPES = {
    "handle": (3, 64),
    "int32": (0, 32),
    "int64": (0, 64),
    "float32": (2, 32),
    "float16": (2, 16),
    "int16": (0, 16),
    "unknown": (77, 13),
}


def add_one(elements: int, work_group: int = 64, dtype: str = "float32") -> tvm.runtime.Executable:
    """``B[i] = A[i] + 1`` over ``elements``, which ``work_group`` divides."""
    source = te.placeholder((elements,), name="A", dtype=dtype)
    result = te.compute((elements,), lambda i: source[i] + tvm.tirx.const(1, dtype), name="B")
    schedule = s_tir.Schedule(te.create_prim_func([source, result]))
    (loop,) = schedule.get_loops(schedule.get_sblock("B"))
    block, thread = schedule.split(loop, [None, work_group])
    schedule.bind(block, "blockIdx.x")
    schedule.bind(thread, "threadIdx.x")
    return tvm.compile(schedule.mod, target=tvm.target.Target(TARGET, host="llvm"))


def _text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def module_bytes(
    source: str,
    name: str,
    arguments: Sequence[str],
    tags: Sequence[str] = ("blockIdx.x", "threadIdx.x"),
    form: str = "cl",
) -> bytes:
    """A serialised module with one kernel, written from the description of the format alone."""
    function = _text(name) + struct.pack("<Q", len(arguments))
    function += b"".join(struct.pack("<BBH", *DTYPES[argument], 1) for argument in arguments)
    function += struct.pack("<Q", len(tags)) + b"".join(_text(tag) for tag in tags)
    function += struct.pack("<Q", 0)
    return _text(form) + struct.pack("<Q", 1) + _text(name) + function + _text(source)


def load(data: bytes) -> tvm_ffi.Module:
    """What TVM does with the OpenCL part of a library that it loads."""
    return tvm_ffi.get_global_func("ffi.Module.load_from_bytes.opencl")(data)


def kernel(source: str, name: str, arguments: Sequence[str], **more: Sequence[str]) -> tvm_ffi.Function:
    """A launchable kernel from OpenCL C: call it with the arguments and then the launch extents."""
    return load(module_bytes(source, name, arguments, **more)).get_function(name)


def handle(tensor: tvm.runtime.Tensor) -> ctypes.c_void_p:
    """What a kernel gets for a tensor."""
    return ctypes.c_void_p(tensor.data_ptr())
