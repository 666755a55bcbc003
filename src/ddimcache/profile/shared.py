"""Several profiles, of bundles and repeated runs, shared among devices and summed up.

A run is a job of a :class:`~ddimcache.runtime.pool.Pool`: a device that dies loses none, and a second call
of the same command takes over what the first one measured.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddimcache.profile.measure import Wish, measure
from ddimcache.profile.trace import chrome_trace, trace_facts
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.files import write_atomically
from ddimcache.runtime.image import ImageSession, MemoryChoice
from ddimcache.runtime.pool import Job, Worker
from ddimcache.runtime.profiler import Profiler
from ddimcache.runtime.progress import Progress, SilentProgress
from ddimcache.runtime.rpc import RemoteDevice
from ddimcache.runtime.rpc_profiler import RemoteProfiler


@dataclass(frozen=True)
class NamedBundle:
    """A bundle, the folder that the command line named, and a name for files that no other one has."""

    folder: Path
    bundle: Bundle
    name: str


def named(bundles: Sequence[tuple[Path, Bundle]]) -> list[NamedBundle]:
    """Give every bundle its folder's name, with a number where folders of one name differ."""
    taken: dict[str, int] = defaultdict(int)
    result = []
    for folder, bundle in bundles:
        stem = folder.resolve().name
        taken[stem] += 1
        name = stem if taken[stem] == 1 else f"{stem}-{taken[stem]}"
        result.append(NamedBundle(folder, bundle, name))
    return result


def jobs(bundles: Iterable[NamedBundle], wish: Wish, runs: int, output: Path) -> list[Job]:
    """Return a job for each run of each bundle, the first run of all bundles first.

    Each writes its trace into ``output`` and returns what ``profile --json`` prints.
    """
    bundles = list(bundles)
    result = []
    for run in range(1, runs + 1):
        for each in bundles:
            about = dataclasses.asdict(wish)
            # Limits that were measured anew once are no other profile.
            del about["measure_again"]
            what = json.dumps([each.name, each.bundle.identity, run, about], sort_keys=True)
            identity = hashlib.sha256(what.encode()).hexdigest()[:16]
            path = output / f"{each.name}-{run}.trace.json"
            result.append(Job(identity, _Run(each, wish, path)))
    return result


def is_kept(result: Any, output: Path) -> bool:
    """Whether a kept result is one of this program, and its trace is there."""
    return (
        isinstance(result, dict)
        and isinstance(result.get("kernels"), list)
        and isinstance(result.get("trace"), str)
        and (output / Path(result["trace"]).name).is_file()
    )


@dataclass(frozen=True)
class _Run:
    named: NamedBundle
    wish: Wish
    trace: Path

    def __call__(self, worker: Worker) -> dict[str, Any]:
        facts, image = measure(self.named.bundle, _Behind(worker.device), self.wish, SilentProgress())
        write_atomically(self.trace, json.dumps(chrome_trace(image, trace_facts(facts))).encode())
        return {"bundle": str(self.named.folder), **facts, "trace": self.trace.name}


class _Behind:
    """A device of a pool as a profile sees it."""

    def __init__(self, device: RemoteDevice) -> None:
        self._device = device
        self.name = f"{device.address} ({device.info.device})"

    def profiler(self) -> Profiler:
        return RemoteProfiler(self._device)

    def open(self, bundle: Bundle, progress: Progress, memory: MemoryChoice, /) -> ImageSession:
        return self._device.open(bundle, progress, memory)


def merged(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one profile for each bundle on each kind of device, of several runs.

    It is the run whose kernels took the median time (of an even number the faster one in the middle), so its
    parts add up. Beside it, ``runs`` has the device and the seconds in kernels of each run, and every kernel
    the least, median and most seconds that it took in a run. Devices are of a kind where the device's and
    the driver's name are the same.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        groups[result["bundle"], result["device_name"], result["driver"]].append(result)
    return [_merged(group) for group in groups.values()]


def _merged(runs: list[dict[str, Any]]) -> dict[str, Any]:
    ordered = sorted(runs, key=lambda facts: facts["seconds"]["kernels"])
    chosen = ordered[(len(ordered) - 1) // 2]
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for facts in runs:
        for kernel in facts["kernels"]:
            seconds[kernel["component"], kernel["name"]].append(kernel["seconds"])
    kernels = []
    for kernel in chosen["kernels"]:
        its = seconds[kernel["component"], kernel["name"]]
        spread = {"least": min(its), "median": statistics.median(its), "most": max(its)}
        kernels.append({**kernel, "seconds_of_runs": spread})
    about = [
        {"device": facts["device"], "seconds": facts["seconds"]["kernels"], "trace": facts["trace"]}
        for facts in runs
    ]
    return {**chosen, "kernels": kernels, "runs": about}
