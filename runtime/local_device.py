"""A device of this machine as TVM's runtime sees it, and the memory that is in use on it."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Any

from ddimcache.errors import DeviceError

if TYPE_CHECKING:
    from ddimcache.runtime.devices import DeviceSpec


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
    try:
        device = tvm.device("opencl", spec.index)
        exists = bool(device.exist)
    except (RuntimeError, ValueError, AttributeError) as error:
        raise DeviceError(f"no OpenCL runtime: {error}", where=f"device {spec}", remedy=_DOCTOR) from error
    if not exists:
        raise DeviceError("is not there", where=f"device {spec}", remedy=_DOCTOR)
    return device


_DOCTOR = "`ddimcache devices` lists what is there, `ddimcache doctor` says what is missing"


def memory_bytes(spec: DeviceSpec) -> tuple[int, int]:
    """Return (now, peak) bytes: of the device's buffers where the plug-in counts them, else of the process."""
    if spec.kind == "opencl":
        import tvm_ffi

        counters = tvm_ffi.get_global_func("ddimcache.opencl.memory", allow_missing=True)
        if counters is not None:
            now, peak = counters(spec.index)
            return int(now), int(peak)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak, peak
