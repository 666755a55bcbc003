"""Kernels from OpenCL C, without the compiler: what a library holds, written by hand."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ctypes import c_void_p
from typing import Any

_ARGUMENTS = {"handle": (3, 64), "int32": (0, 32), "float32": (2, 32)}
_OPENCL = 4
"""The device's number in DLPack."""


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def opencl_kernel(source: str, name: str, arguments: Sequence[str]) -> Any:
    """Return a kernel of ``source`` to launch: call it with its arguments, work-groups and work-items in one.

    ``arguments`` are ``handle`` (give :func:`handle` of a tensor), ``int32`` or ``float32``.
    """
    import tvm  # noqa: F401  importing it loads the plug-in
    import tvm_ffi

    tags = ("blockIdx.x", "threadIdx.x")
    signature = _text(name) + struct.pack("<Q", len(arguments))
    signature += b"".join(struct.pack("<BBH", *_ARGUMENTS[argument], 1) for argument in arguments)
    signature += struct.pack("<Q", len(tags)) + b"".join(map(_text, tags)) + struct.pack("<Q", 0)
    module = _text("cl") + struct.pack("<Q", 1) + _text(name) + signature + _text(source)
    return tvm_ffi.get_global_func("ffi.Module.load_from_bytes.opencl")(module).get_function(name)


def handle(tensor: Any) -> c_void_p:
    """Return what a kernel is given for a tensor."""
    return c_void_p(tensor.data_ptr())


def launch_on(index: int) -> None:
    """Let what this thread launches run on ``opencl:<index>``."""
    import tvm_ffi

    tvm_ffi.get_global_func("__tvm_set_device")(_OPENCL, index)
