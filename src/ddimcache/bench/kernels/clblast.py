"""CLBlast's matrix product on an OpenCL device, through its C interface and a context of its own."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from ctypes import POINTER, byref, c_float, c_int, c_size_t, c_uint, c_void_p
from typing import Any

import numpy as np

from ddimcache.errors import DeviceError, UsageError

_NAMES = ("libclblast.so.1", "libclblast.so")
_ROW_MAJOR, _NO_TRANSPOSE = 101, 111
_ALL_DEVICES = 0xFFFFFFFF
_READ_WRITE = 1
_LARGEST_ERROR = 1e-4


def find_clblast() -> str | None:
    """The name by which the library loads here, or ``None``."""
    for name in _NAMES:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return None


class Clblast:
    """Products on device number ``index``, counted over all platforms as the runtime counts them.

    Raises :class:`UsageError` where the library is missing, :class:`DeviceError` where OpenCL fails.
    """

    def __init__(self, index: int) -> None:
        name = find_clblast()
        opencl = ctypes.util.find_library("OpenCL")
        if name is None or opencl is None:
            raise UsageError(
                "CLBlast is not installed", where="--peer clblast", remedy="apt-get install libclblast1"
            )
        self._blast, self._cl = ctypes.CDLL(name), ctypes.CDLL(opencl)
        for function in ("clCreateContext", "clCreateCommandQueue", "clCreateBuffer"):
            getattr(self._cl, function).restype = c_void_p
        self._device = self._find_device(index)
        status = c_int()
        self._context = c_void_p(
            self._cl.clCreateContext(None, 1, byref(self._device), None, None, byref(status))
        )
        self._check("clCreateContext", status.value)
        self._queue = c_void_p(
            self._cl.clCreateCommandQueue(self._context, self._device, ctypes.c_uint64(0), byref(status))
        )
        self._check("clCreateCommandQueue", status.value)

    def _find_device(self, index: int) -> c_void_p:
        count = c_uint()
        self._check("clGetPlatformIDs", self._cl.clGetPlatformIDs(0, None, byref(count)))
        platforms = (c_void_p * count.value)()
        self._check("clGetPlatformIDs", self._cl.clGetPlatformIDs(count, platforms, None))
        found: list[int] = []
        for platform in platforms:
            kind = ctypes.c_uint64(_ALL_DEVICES)
            if self._cl.clGetDeviceIDs(c_void_p(platform), kind, 0, None, byref(count)) != 0:
                continue  # a platform without devices
            devices = (c_void_p * count.value)()
            self._cl.clGetDeviceIDs(c_void_p(platform), kind, count, devices, None)
            found += [device for device in devices if device is not None]
        return c_void_p(found[index])

    def _check(self, call: str, status: int) -> None:
        if status != 0:
            raise DeviceError(f"{call} failed with {status}", where="CLBlast's context")

    def _buffer(self, array: np.ndarray[Any, Any]) -> c_void_p:
        status = c_int()
        buffer = c_void_p(
            self._cl.clCreateBuffer(
                self._context, ctypes.c_uint64(_READ_WRITE), c_size_t(array.nbytes), None, byref(status)
            )
        )
        self._check("clCreateBuffer", status.value)
        self._copy("clEnqueueWriteBuffer", buffer, array)
        return buffer

    def _copy(self, call: str, buffer: c_void_p, array: np.ndarray[Any, Any]) -> None:
        pointer = array.ctypes.data_as(c_void_p)
        size = c_size_t(array.nbytes)
        copy = getattr(self._cl, call)
        self._check(call, copy(self._queue, buffer, 1, c_size_t(0), size, pointer, 0, None, None))

    def product(self, rows: int, depth: int, channels: int) -> Callable[[], object]:
        """A call that multiplies [R, K] by [K, N] in float32 and waits; its answer was checked."""
        random = np.random.default_rng(0)
        x = random.standard_normal((rows, depth), np.float32)
        weight = random.standard_normal((depth, channels), np.float32)
        out = np.zeros((rows, channels), np.float32)
        buffers = [self._buffer(array) for array in (x, weight, out)]
        size, queue = c_size_t, byref(self._queue)

        def call() -> None:
            status = self._blast.CLBlastSgemm(
                *(_ROW_MAJOR, _NO_TRANSPOSE, _NO_TRANSPOSE, size(rows), size(channels), size(depth)),
                *(c_float(1), buffers[0], size(0), size(depth), buffers[1], size(0), size(channels)),
                *(c_float(0), buffers[2], size(0), size(channels), queue, POINTER(c_void_p)()),
            )
            self._check("CLBlastSgemm", status)
            self._check("clFinish", self._cl.clFinish(self._queue))

        call()
        self._copy("clEnqueueReadBuffer", buffers[2], out)
        exact = x @ weight
        if not np.abs(out - exact).max() <= _LARGEST_ERROR * np.abs(exact).max():
            raise DeviceError(f"{rows}x{depth}x{channels} is wrong by CLBlast", where="CLBlast")
        return call
