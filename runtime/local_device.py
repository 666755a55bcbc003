"""A device of this machine as TVM's runtime sees it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ddimcache.errors import DeviceError
from ddimcache.runtime import devices, plugin
from ddimcache.runtime.devices import DeviceSpec

_DOCTOR = "`ddimcache devices` lists what is there, `ddimcache doctor` says what is missing"


def open_device(spec: DeviceSpec, wanted_kind: str) -> Any:
    """Return TVM's handle of a local device.

    Raises :class:`DeviceError` when the device is of another kind than ``wanted_kind`` (what the bundle was
    compiled for), is behind RPC, or is not there.
    """
    import tvm

    if spec.kind != wanted_kind:
        raise DeviceError(
            f"the bundle was compiled for {wanted_kind}",
            where=f"device {spec}",
            remedy=f"run it with --device {wanted_kind}, or compile it with another --target",
        )
    if spec.kind == "llvm":
        return tvm.cpu(spec.index)
    missing = plugin.problem() or devices.describe_missing()
    if missing is not None:
        raise DeviceError(missing, where=f"device {spec}", remedy="see `ddimcache doctor`")
    if not tvm.device("opencl", spec.index).exist:
        raise DeviceError("is not there", where=f"device {spec}", remedy=_DOCTOR)
    return tvm.device("opencl", spec.index)


@contextmanager
def device_failures(spec: DeviceSpec) -> Iterator[None]:
    """Turn what the OpenCL plug-in raises inside (``RuntimeError`` itself) into :class:`DeviceError`."""
    try:
        yield
    except RuntimeError as error:
        # TVM's own errors are of subclasses: those are defects, and keep their trace.
        if type(error) is not RuntimeError:
            raise
        raise DeviceError(str(error), where=f"device {spec}", remedy="see `ddimcache doctor`") from error


def keep_programs(spec: DeviceSpec, most: int) -> int:
    """Put at most ``most`` compiled programs that wait for it into the cache; returns how many still wait.

    See :func:`ddimcache.runtime.devices.keep_programs`.
    """
    if spec.kind == "llvm" or plugin.problem() is not None:
        return 0
    return devices.keep_programs(most)


def device_name(spec: DeviceSpec) -> str:
    """Return the driver's name of a local device that is there, the machine's for ``llvm``."""
    if spec.kind == "llvm":
        return platform.machine()
    return devices.list_devices()[spec.index].name


def device_driver(spec: DeviceSpec) -> str:
    """Return the platform and version of the driver of a local device that is there; LLVM's for ``llvm``."""
    if spec.kind == "llvm":
        return "LLVM"
    info = devices.list_devices()[spec.index]
    return f"{info.platform}, {info.driver_version}"


def is_cpu(spec: DeviceSpec) -> bool:
    """Whether a local device that is there runs on this machine's processor."""
    return spec.kind == "llvm" or devices.list_devices()[spec.index].type == "cpu"


def host_triple() -> str:
    """Return which of the compiler's ``--host`` values this process can load libraries of."""
    android = hasattr(sys, "getandroidapilevel")
    return f"{platform.machine()}-linux-{'android' if android else 'gnu'}"
