"""What a launch costs, one by one and replayed, and what a profile adds.

Two programs are timed: many launches of a kernel that does next to nothing, which a compiled function makes,
and a cached step of a bundle's UNet. All ways of launching them take turns, and medians count.
No time is taken before each way has given the right answer.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddimcache.bench.unet import DeviceUnet, random_inputs
from ddimcache.errors import DeviceError
from ddimcache.runtime import devices
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.local_device import device_failures
from ddimcache.runtime.progress import Progress
from ddimcache.runtime.recording import Recording, record

LAUNCHES = 256
"""Launches of the small kernel a turn."""

_SMALL_KERNEL = f"""
# from tvm.script import ir as I
# from tvm.script import tirx as T
@I.ir_module
class Module:
    @T.prim_func
    def main(number: T.Buffer((1,), "int32")):
        for _ in T.serial({LAUNCHES}):
            for _block in T.thread_binding(1, thread="blockIdx.x"):
                for _thread in T.thread_binding(1, thread="threadIdx.x"):
                    number[0] = number[0] + 1
"""

_BLOCK_SECONDS = 0.1
"""What is timed with a profile and without: steps for as long."""

REPLAY_VARIABLE = "DDIMCACHE_REPLAY"
METHODS = {"command-buffer": "cl_khr_command_buffer", "recordable-queue": "cl_qcom_recordable_queues"}


@dataclass(frozen=True)
class Cost:
    """Medians of one way to launch a program."""

    host_seconds: float
    """Until all launches were handed to the driver."""
    seconds: float
    """Until they had run."""


@dataclass(frozen=True)
class LaunchCosts:
    """What was measured; the ways are ``direct``, ``plain`` and the replays that the device has."""

    kernel: dict[str, Cost]
    """Of :data:`LAUNCHES` launches of the small kernel."""
    step: dict[str, Cost]
    """Of one cached step."""
    step_launches: int
    profile: float
    """Time of a step with a profile over that without: the median over rounds of one beside the other."""
    automatic: str
    """What a recording uses on this device where nobody chooses."""


def measure(bundle: Bundle, spec: DeviceSpec, *, repeats: int, progress: Progress) -> LaunchCosts:
    """Check and time launches on a local OpenCL device.

    Parameters
    ----------
    bundle, spec : a bundle for OpenCL at batch 1, and the device.
    repeats : rounds of turns.

    Raises :class:`DeviceError` when a replay gives another answer than the calls that it recorded, and as
    :class:`DeviceUnet`.
    """
    import tvm

    unet = DeviceUnet(bundle, spec)
    device = tvm.runtime.device("opencl", spec.index)
    with device_failures(spec), progress.stage("bench", total=3 + 2 * repeats) as stage:
        with _replay_by("auto"):
            automatic = record(lambda: None, spec.index).summary().method
        kernel = _small_kernel(device, spec)
        stage.advance(1, "small kernel")
        placed = unet.place(random_inputs(bundle.manifest), bundle.manifest)
        _, features = unet.full(placed)
        step = _cached_step(unet, placed, features, spec)
        stage.advance(1, "cached step")
        profile = _profile_ratio(step["direct"], device, spec, 3 * repeats)
        stage.advance(1, "profile")
        costs = []
        for ways in (kernel, step):
            seconds: dict[str, list[Cost]] = {name: [] for name in ways}
            for _ in range(repeats):
                for name, call in ways.items():
                    seconds[name].append(_time(call, device))
                stage.advance(1, "turns")
            costs.append({name: _median(times) for name, times in seconds.items()})
    before = devices.launches(spec.index)
    step["direct"]()
    return LaunchCosts(costs[0], costs[1], devices.launches(spec.index) - before, profile, automatic)


@contextmanager
def _replay_by(method: str) -> Iterator[None]:
    before = os.environ.get(REPLAY_VARIABLE)
    os.environ[REPLAY_VARIABLE] = method
    try:
        yield
    finally:
        if before is None:
            del os.environ[REPLAY_VARIABLE]
        else:
            os.environ[REPLAY_VARIABLE] = before


def _recordings(call: Callable[[], object], spec: DeviceSpec) -> dict[str, Recording]:
    """Record ``call`` for every way to replay that the device has."""
    extensions = devices.list_devices()[spec.index].extensions
    found = {}
    for method in ("plain", *(name for name, extension in METHODS.items() if extension in extensions)):
        with _replay_by(method):
            found[method] = record(call, spec.index)
    return found


def _small_kernel(device: Any, spec: DeviceSpec) -> dict[str, Callable[[], object]]:
    """Return ways to launch a kernel that adds one to one number, :data:`LAUNCHES` times."""
    import tvm

    add = _compile_small_kernel()
    number = tvm.runtime.tensor(np.zeros(1, np.int32), device)
    ways: dict[str, Callable[[], object]] = {"direct": lambda: add(number)}
    ways |= {name: recording.replay for name, recording in _recordings(ways["direct"], spec).items()}
    for turn, (name, call) in enumerate(ways.items(), 1):
        call()
        if (found := int(number.numpy()[0])) != turn * LAUNCHES:
            raise _wrong(spec, f"{LAUNCHES} launches, {name}, counted to {found - (turn - 1) * LAUNCHES}")
    return ways


def _compile_small_kernel() -> Any:
    import tvm

    module = tvm.script.from_source(_SMALL_KERNEL)
    return tvm.compile(module, target=tvm.target.Target({"kind": "opencl"}, host="llvm"))["main"]


def _cached_step(
    unet: DeviceUnet, placed: tuple[Any, ...], features: tuple[Any, ...], spec: DeviceSpec
) -> dict[str, Callable[[], object]]:
    expected = unet.cached(placed, features).numpy()
    answers: list[Any] = []
    ways: dict[str, Callable[[], object]] = {}
    for name, recording in _recordings(
        lambda: answers.append(unet.launch_cached(placed, features)), spec
    ).items():
        noise = answers[len(ways)]
        # its buffer may hold the right answer from a call before
        noise.copyfrom(np.full_like(expected, np.nan))
        recording.replay()
        if not np.array_equal(noise.numpy(), expected):
            raise _wrong(spec, f"a cached step, {name}, gives another prediction")
        ways[name] = recording.replay
    return {"direct": lambda: unet.launch_cached(placed, features), **ways}


def _profile_ratio(call: Callable[[], object], device: Any, spec: DeviceSpec, rounds: int) -> float:
    count = max(1, math.ceil(_BLOCK_SECONDS / _time(call, device).seconds))

    def steps() -> None:
        for _ in range(count):
            call()

    ratios = []
    for turn in range(rounds):
        # either first as often as second, because a core may slow down or speed up within a round
        seconds = {}
        for profiled in (turn % 2 == 0, turn % 2 == 1):
            if profiled:
                devices.profile_start(spec.index)
            seconds[profiled] = _time(steps, device).seconds
            if profiled:
                devices.profile_stop(spec.index)
        ratios.append(seconds[True] / seconds[False])
    return statistics.median(ratios)


def _time(call: Callable[[], object], device: Any) -> Cost:
    device.sync()
    start = time.perf_counter()
    call()
    handed = time.perf_counter()
    device.sync()
    return Cost(handed - start, time.perf_counter() - start)


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.host_seconds for cost in costs),
        statistics.median(cost.seconds for cost in costs),
    )


def _wrong(spec: DeviceSpec, what: str) -> DeviceError:
    return DeviceError(
        what,
        where=f"device {spec}",
        remedy=f"no time was taken; set {REPLAY_VARIABLE}=plain, and report the driver",
    )
