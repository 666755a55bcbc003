"""Devices: what there is, and how people name one.

A device is named ``opencl``, ``opencl:1``, ``llvm`` or ``rpc://host:port/key``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from ddimcache.runtime import plugin

WHAT_TO_INSTALL = (
    "install a driver for the GPU, or PoCL for the CPU: "
    "`apt-get install pocl-opencl-icd ocl-icd-libopencl1`, "
    "or without root `pip install pocl-binary-distribution pyopencl`"
)


@dataclass(frozen=True)
class Hazard:
    """Something that is known to go wrong with a device's driver."""

    name: str
    problem: str
    handling: str
    """What the runtime does about it."""


@dataclass(frozen=True)
class DeviceInfo:
    """What one OpenCL device says about itself. Sizes are in bytes where the name says so."""

    index: int
    name: str
    vendor: str
    platform: str
    driver_version: str
    version: str
    type: str
    """``gpu``, ``accelerator``, ``cpu`` or ``custom``."""
    extensions: tuple[str, ...]
    fp16: bool
    """Whether kernels can compute with ``half`` (``cl_khr_fp16``)."""
    images: bool
    max_alloc_bytes: int
    """Largest single buffer."""
    global_mem_bytes: int
    global_cache_bytes: int
    local_mem_bytes: int
    constant_mem_bytes: int
    max_work_group_size: int
    max_work_item_sizes: tuple[int, int, int]
    compute_units: int
    max_clock_mhz: int
    max_kernel_argument_bytes: int
    base_address_alignment: int
    """Bytes that every buffer's start is aligned to."""
    image2d_max_width: int
    image2d_max_height: int
    image_max_array_size: int
    image_max_buffer_pixels: int
    image_pitch_alignment_pixels: int
    hazards: tuple[Hazard, ...]

    @property
    def device(self) -> str:
        """How ``--device`` names it: ``opencl:<index>``."""
        return f"opencl:{self.index}"


@dataclass(frozen=True)
class DeviceSpec:
    """A parsed device name. ``host``, ``port`` and ``key`` are set for ``rpc`` only."""

    kind: str
    """``opencl``, ``llvm`` or ``rpc``."""
    index: int = 0
    host: str | None = None
    port: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        if self.kind == "rpc":
            host = f"[{self.host}]" if ":" in str(self.host) else self.host
            return f"rpc://{host}:{self.port}/{self.key}"
        return self.kind if self.index == 0 else f"{self.kind}:{self.index}"


MEMORY_KINDS = ("weights", "activations", "workspace", "images", "other")
"""What memory on a device is for; see :func:`memory_kind`."""


@dataclass(frozen=True)
class KindUse:
    """Buffers and images of one kind that are in use."""

    buffers: int
    current_bytes: int
    peak_bytes: int
    """Most bytes of this kind at one time since the process started or :func:`reset_peak`."""


@dataclass(frozen=True)
class MemoryUse:
    """Buffers, images and programs of this process on one device."""

    live_buffers: int
    """Buffers and images that the driver made and has not got back."""
    current_bytes: int
    """Their bytes: the sum over ``kinds``, ``idle_bytes`` and ``waiting_bytes``."""
    peak_bytes: int
    """Most ``current_bytes`` at one time since the process started or :func:`reset_peak`."""
    kinds: dict[str, KindUse]
    """What is in use, by each of :data:`MEMORY_KINDS`."""
    idle_bytes: int
    """Freed, and kept to be given out again; see :func:`release_idle`."""
    waiting_bytes: int
    """Freed under commands that had not run, and not released yet."""
    idle_limit_bytes: int
    """The most that is kept idle; an eighth of the device's memory, or what :func:`set_idle_limit` set."""
    budget_bytes: int
    """The most that ``current_bytes`` may be; 0 where :func:`set_memory_budget` set none."""
    live_programs: int
    """Compiled kernels that are still loaded."""


@dataclass(frozen=True)
class ProgramCache:
    """The cache of compiled programs, as this process sees it."""

    folder: str | None
    """None when it is turned off, or no home is known."""
    hits: int
    """Kernels that did not have to be compiled."""
    misses: int
    """Kernels that were looked for and had to be compiled."""
    waiting: int
    """Compiled programs that :func:`keep_programs` would put into the cache."""
    problem: str | None
    """Why the last program could not be put there, or None."""


@dataclass(frozen=True)
class KernelTime:
    """What one kernel, or one kind of copy, took on the device in a profile."""

    kernel: str
    calls: int
    seconds: float
    seconds_minimum: float
    """The fastest call."""


@dataclass(frozen=True)
class Command:
    """One command in a profile's timeline; nanoseconds on the device's clock."""

    kernel: str
    queued: int
    start: int
    end: int


_RPC = re.compile(r"rpc://(?P<host>\[[^\]]+\]|[^/:]+):(?P<port>[0-9]+)/(?P<key>[^/]+)")
_LOCAL = re.compile(r"(?P<kind>opencl|llvm)(?::(?P<index>[0-9]+))?")


def parse_device(text: str) -> DeviceSpec:
    """Parse ``opencl``, ``opencl:1``, ``llvm`` or ``rpc://host:port/key``.

    Raises:
        ValueError: the text is none of these; the message quotes it and says what is wrong.
    """
    if text.startswith("rpc:"):
        if (match := _RPC.fullmatch(text)) is None:
            raise ValueError(f"device {text!r} is not of the form rpc://host:port/key")
        port = int(match["port"])
        if not 0 < port < 65536:
            raise ValueError(f"device {text!r}: port {port} is not between 1 and 65535")
        return DeviceSpec("rpc", host=match["host"].strip("[]"), port=port, key=match["key"])
    if (match := _LOCAL.fullmatch(text)) is None:
        raise ValueError(f"device {text!r} is not known: use opencl, opencl:1, llvm or rpc://host:port/key")
    index = int(match["index"] or 0)
    if match["kind"] == "llvm" and index != 0:
        raise ValueError(f"device {text!r}: there is one llvm device, called llvm")
    return DeviceSpec(match["kind"], index)


def call_plugin(name: str, *arguments: Any) -> Any:
    """Call a global function of the plug-in.

    Raises:
        RuntimeError: the plug-in is not loaded; the message says why.
    """
    import tvm  # noqa: F401  importing it loads the plug-in
    import tvm_ffi

    if (problem := plugin.problem()) is not None:
        raise RuntimeError(f"the OpenCL plug-in is not loaded: {problem}")
    return tvm_ffi.get_global_func(f"ddimcache.opencl.{name}")(*arguments)


def list_devices() -> list[DeviceInfo]:
    """All OpenCL devices of this machine, in the order of their indices; empty when there are none.

    Raises:
        RuntimeError: the plug-in is not loaded.
    """
    known = [field.name for field in fields(DeviceInfo)]
    devices = []
    for entry in json.loads(call_plugin("devices")):
        values = {name: entry[name] for name in known}
        values["hazards"] = [Hazard(**hazard) for hazard in entry["hazards"]]
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        devices.append(DeviceInfo(**{**values, **lists}))
    return devices


def describe_missing() -> str | None:
    """Why no OpenCL device can be used and what to install, or None when there is at least one."""
    try:
        if list_devices():
            return None
        state = json.loads(call_plugin("library"))
    except RuntimeError as error:
        return str(error)
    if state["library"] is None:
        return str(state["problem"])
    return f"{state['library']} was opened, but it offers no OpenCL device: {WHAT_TO_INSTALL}"


def opencl_library() -> str | None:
    """Name or path of the OpenCL library in use, or None when none could be opened.

    Raises:
        RuntimeError: the plug-in is not loaded.
    """
    library = json.loads(call_plugin("library"))["library"]
    return None if library is None else str(library)


def memory_use(index: int = 0, *, wait: bool = True) -> MemoryUse:
    """Buffers of this process on device ``opencl:<index>``.

    With ``wait`` everything enqueued has run first, so that nothing is only waiting to be released.

    Raises:
        ValueError: there is no such device.
        RuntimeError: the plug-in is not loaded, or no device can be used.
    """
    if wait:
        call_plugin("synchronise", index)
    values = json.loads(call_plugin("memory", index))
    kinds = {name: KindUse(**use) for name, use in values.pop("kinds").items()}
    return MemoryUse(kinds=kinds, **values)


def reset_peak(index: int = 0) -> None:
    """Let every ``peak_bytes`` of :func:`memory_use` start again at the current bytes."""
    call_plugin("reset_peak", index)


def set_memory_budget(index: int, most_bytes: int) -> None:
    """Let no allocation on the device take this process above ``most_bytes``; 0 lifts the bound.

    An allocation that would exceed it first releases idle memory, then raises ``RuntimeError`` with the size
    asked for, what is in use by kind, and the budget. What is in use already stays.

    Raises:
        ValueError: ``most_bytes`` is below zero, or there is no such device.
    """
    call_plugin("set_memory_budget", index, most_bytes)


def set_idle_limit(index: int, most_bytes: int) -> None:
    """Let freed memory of at most ``most_bytes`` be kept for reuse; 0 keeps none.

    Raises:
        ValueError: ``most_bytes`` is below zero, or there is no such device.
    """
    call_plugin("set_idle_limit", index, most_bytes)


def release_idle(index: int = 0) -> None:
    """Give all idle memory back to the driver, without waiting for running commands that still use it."""
    call_plugin("release_idle", index)


@contextmanager
def memory_kind(kind: str) -> Iterator[None]:
    """Count what this thread allocates inside as ``kind``, one of :data:`MEMORY_KINDS`.

    Without it, storage of the Relax VM is ``activations``, scratch of kernels ``workspace``, images are
    ``images`` and the rest is ``other``. Does nothing where the plug-in is not loaded.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in MEMORY_KINDS:
        raise ValueError(f"there is no kind of memory {kind!r}; there are {', '.join(MEMORY_KINDS)}")
    import tvm  # noqa: F401  importing it loads the plug-in

    if plugin.problem() is not None:
        yield
        return
    before = call_plugin("memory_kind", kind)
    try:
        yield
    finally:
        call_plugin("memory_kind", before)


def program_cache() -> ProgramCache:
    """Where compiled programs are kept, and how often this process found one, on all devices together.

    Raises:
        RuntimeError: the plug-in is not loaded.
    """
    return ProgramCache(**json.loads(call_plugin("program_cache")))


def keep_programs(most: int = 2**31) -> int:
    """Put at most ``most`` waiting programs into the cache; returns how many wait after that.

    Programs wait where a driver hands them out only at the price of another compilation (PoCL, about as long
    as the first), so call it when nobody waits for the device.

    Raises:
        RuntimeError: the plug-in is not loaded.
    """
    return int(call_plugin("keep_programs", most))


def _opencl_modules(library: Any) -> list[Any]:
    """Return the OpenCL modules among a loaded library and what it imports."""
    found = [library] if library.kind == "opencl" else []
    return [*found, *(module for imported in library.imports for module in _opencl_modules(imported))]


def prepare(
    library: Any, index: int = 0, threads: int = 0, on_progress: Callable[[int, int], None] | None = None
) -> int:
    """Compile the kernels of a loaded library for ``opencl:<index>``, or load them from the cache.

    Without it, each is compiled at its first launch. A driver that compiles one program at a time gains
    nothing from threads.

    Parameters
    ----------
    library : what ``tvm.runtime.load_module`` returned.
    threads : how many kernels at once; 0 is one a processor.
    on_progress : called with how many kernels of a module are done, and of how many.

    Returns the number of kernels.

    Raises
    ------
    RuntimeError
        A kernel does not compile; the message names it and holds the driver's log.
    """
    return sum(
        int(module.get_function("ddimcache.prepare")(index, threads, on_progress))
        for module in _opencl_modules(library)
    )


def launches(index: int = 0) -> int:
    """How many kernels this process has launched on device ``opencl:<index>``."""
    return int(call_plugin("launches", index))


def profile_start(index: int = 0) -> None:
    """Start to time every command on the device; forgets a profile that was already running."""
    call_plugin("profile_start", index)


def profile_stop(index: int = 0) -> list[KernelTime]:
    """Stop timing and return the times by kernel, longest total first; empty when none was started."""
    return [KernelTime(**entry) for entry in json.loads(call_plugin("profile_stop", index))]


def profile_stop_timeline(index: int = 0) -> list[Command]:
    """Stop timing and return every command in the order in which it was enqueued."""
    return [Command(**entry) for entry in json.loads(call_plugin("profile_stop_timeline", index))]
