"""What a device can do at best, measured: the two limits of its roofline.

A kernel of multiply-additions that touches no memory gives the peak rate of arithmetic, and a kernel that
copies or adds long vectors the rate of memory. Both are tried in several widths and the best counts. They are
measured once a device and driver, and kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from ddimcache.errors import DdimcacheError, DeviceError
from ddimcache.records import Limits, RecordProblem, from_json, loads, to_json
from ddimcache.runtime import devices
from ddimcache.runtime.files import cache_folder, write_atomically
from ddimcache.runtime.opencl_program import handle, launch_on, opencl_kernel

METHOD = 1
"""Counted up when the measurement changes: what was kept by another one is not used."""

Rate = Annotated[float, Limits(minimum=1e-6, maximum=1e12)]

_CHAINS = 8
"""Independent multiply-additions in flight in a work-item: more than any pipeline is deep, per lane."""
_LONG_ENOUGH = 0.002
"""Seconds of a launch: far more than it costs, and short enough that other work seldom falls into it."""
_TRIES = 4
_TRIES_OF_THE_BEST = 60
_LARGEST_BUFFER = 64 << 20

_ARITHMETIC = """
{pragma}
__kernel void arithmetic(__global {scalar}* out, int rounds) {{
  const {vector} a = ({vector})(({scalar})0.9990234375f);
  const {vector} b = ({vector})(({scalar})0.0009765625f);
  {vector} {declared};
  for (int i = 0; i < rounds; ++i) {{
    {steps}
  }}
  const {vector} sum = {sum};
  out[get_global_id(0)] = {total};
}}
"""

_COPY = """
__kernel void copy(__global const float{width}* x, __global const float{width}* y,
                   __global float{width}* out) {{
  out[get_global_id(0)] = x[get_global_id(0)];
}}
"""

_TRIAD = """
__kernel void triad(__global const float{width}* x, __global const float{width}* y,
                    __global float{width}* out) {{
  out[get_global_id(0)] = x[get_global_id(0)] + 0.5f * y[get_global_id(0)];
}}
"""


@dataclass(frozen=True)
class Peaks:
    """The measured limits of a device.

    ``gflops`` is by compute type, ``float32`` and where the device has it ``float16``; a multiply-addition
    counts two. ``gbytes`` are the billions of bytes a second, read and written together, of long vectors.
    """

    method: int
    device: str
    driver: str
    gflops: dict[str, Rate]
    gbytes: Rate
    measured: str
    """Day of the measurement, as 2026-11-20."""


def device_peaks(index: int, again: bool = False) -> tuple[Peaks, bool]:
    """Return the limits of device ``opencl:<index>`` and whether they were kept from before.

    ``again`` measures them anew. What is kept and cannot be read is measured anew too; a cache folder that
    cannot be written is no error.

    Raises :class:`DeviceError` when the device fails.
    """
    info = devices.list_devices()[index]
    path = _path(info)
    if not again and (kept := _read(path, info)) is not None:
        return kept, True
    peaks = measure(index)
    with suppress(DdimcacheError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(to_json(peaks)).encode())
    return peaks, False


def _path(info: devices.DeviceInfo) -> Path:
    facts = (METHOD, info.platform, info.vendor, info.name, info.version, info.driver_version)
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    return cache_folder() / "peaks" / f"{name}.json"


def _read(path: Path, info: devices.DeviceInfo) -> Peaks | None:
    try:
        peaks = from_json(Peaks, loads(path.read_bytes()))
    except (OSError, RecordProblem):
        return None
    same = (peaks.method, peaks.device, peaks.driver) == (METHOD, info.name, info.driver_version)
    return peaks if same and "float32" in peaks.gflops else None


def measure(index: int) -> Peaks:
    """Measure the limits of device ``opencl:<index>`` in some seconds; forgets a running profile."""
    info = devices.list_devices()[index]
    launch_on(index)
    scalars = ["float", *(["half"] if info.fp16 else [])]
    names = {"float": "float32", "half": "float16"}
    return Peaks(
        method=METHOD,
        device=info.name,
        driver=info.driver_version,
        gflops={
            names[scalar]: _best_rate(index, _arithmetic(index, info, scalar)) / 1e9 for scalar in scalars
        },
        gbytes=_best_rate(index, _memory(index, info)) / 1e9,
        measured=time.strftime("%Y-%m-%d", time.gmtime()),
    )


def _seconds(index: int, launch: Callable[[], None], tries: int) -> float:
    """The device's fastest time of a launch, over ``tries``."""
    best = float("inf")
    for _ in range(tries):
        devices.profile_start(index)
        launch()
        [command] = devices.profile_stop_timeline(index)
        best = min(best, (command.end - command.start) * 1e-9)
    if best <= 0:
        raise DeviceError(
            "the driver says that a kernel took no time", where=f"opencl:{index}", remedy="update the driver"
        )
    return best


def _best_rate(index: int, candidates: Iterable[tuple[float, Callable[[], None]]]) -> float:
    """The highest rate over launches and their amounts of work; the fastest one is timed most often."""
    rates = [(work / _seconds(index, launch, _TRIES), work, launch) for work, launch in candidates]
    rate, work, launch = max(rates, key=lambda candidate: candidate[0])
    return max(rate, work / _seconds(index, launch, _TRIES_OF_THE_BEST))


def _arithmetic(
    index: int, info: devices.DeviceInfo, scalar: str
) -> Iterator[tuple[float, Callable[[], None]]]:
    """Launches that multiply and add, with their operations, over vector widths and sizes of work-groups."""
    import tvm

    device = tvm.device("opencl", index)
    # Which of the two functions is one instruction differs by device and driver.
    for function, width in product(("mad", "fma"), (1, 2, 4, 8, 16)):
        source = _arithmetic_source(scalar, width, function)
        kernel = opencl_kernel(source, "arithmetic", ["handle", "int32"])
        for items in (1, min(64, info.max_work_group_size)):
            groups = info.compute_units * (64 if items > 1 else 16)
            out = tvm.runtime.empty((groups * items,), "float32", device)  # wide enough for both types
            rounds = 64
            launch = partial(_launch, kernel, [out], rounds, groups, items)
            while (seconds := _seconds(index, launch, 1)) < _LONG_ENOUGH and rounds < 1 << 28:
                # Grown in steps: the first time is mostly the launch.
                rounds *= min(64, max(2, int(1.2 * _LONG_ENOUGH / seconds)))
                launch = partial(_launch, kernel, [out], rounds, groups, items)
            yield 2.0 * _CHAINS * width * rounds * groups * items, launch


def _launch(kernel: Any, tensors: Sequence[Any], *numbers: int) -> None:
    kernel(*map(handle, tensors), *numbers)


def _arithmetic_source(scalar: str, width: int, function: str) -> str:
    vector = scalar if width == 1 else f"{scalar}{width}"
    names = [f"x{chain}" for chain in range(_CHAINS)]
    lanes = [f"sum.s{lane:x}" for lane in range(width)] if width > 1 else ["sum"]
    return _ARITHMETIC.format(
        pragma="#pragma OPENCL EXTENSION cl_khr_fp16 : enable" if scalar == "half" else "",
        scalar=scalar,
        vector=vector,
        # From the work-item's number, so that nothing is known at compile time.
        declared=", ".join(
            f"{name} = ({vector})(({scalar})((get_global_id(0) + {chain}) % 7))"
            for chain, name in enumerate(names)
        ),
        steps=" ".join(f"{name} = {function}({name}, a, b);" for name in names),
        sum=" + ".join(names),
        total=" + ".join(lanes),
    )


def _memory(index: int, info: devices.DeviceInfo) -> Iterator[tuple[float, Callable[[], None]]]:
    """Launches that copy or add long vectors, with the bytes that they move, in several widths."""
    import tvm

    room = min(info.max_alloc_bytes, info.global_mem_bytes // 8, _LARGEST_BUFFER)
    count = 1 << (room.bit_length() - 3)  # float32 numbers; a power of two, which every width divides
    device = tvm.device("opencl", index)
    tensors = [tvm.runtime.tensor(np.ones(count, "float32"), device) for _ in range(3)]
    items = 1 << (min(256, info.max_work_group_size).bit_length() - 1)
    for (source, name, moved), width in product(((_COPY, "copy", 2), (_TRIAD, "triad", 3)), (1, 4, 16)):
        text = source.format(width="" if width == 1 else width)
        kernel = opencl_kernel(text, name, ["handle"] * 3)
        yield moved * 4.0 * count, partial(_launch, kernel, tensors, count // width // items, items)
