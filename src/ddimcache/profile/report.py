"""Sums of an image's launches: by kernel, by layer, by function, and what the device waited for."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from ddimcache.profile.match import Image, TimedLaunch
from ddimcache.runtime.peaks import Peaks

NANOSECOND = 1e-9


def kernels(image: Image, peaks: Peaks, dtype: str) -> list[dict[str, Any]]:
    """Return the kernels, those that took longest first.

    ``roofline`` is the least time that the device's limits allow over the time taken; above 1 the kernel's
    data came from a cache, which the measured rate of memory does not count. ``limit`` says which of the two
    limits is the nearer. Both are None for a kernel that was not launched.
    """
    total = _nanoseconds(image.launches)
    rows = []
    for (component, kernel), launches in _grouped(image, lambda timed, call: (call, timed.launch.kernel)):
        row = _sums(launches, total)
        layers = dict.fromkeys(timed.launch.layer for timed in launches)
        rows.append(
            {
                "name": kernel,
                "component": component,
                **row,
                **rates(row, peaks, dtype),
                "seconds_minimum": min(timed.end - timed.start for timed in launches) * NANOSECOND,
                "layers": list(layers),
            }
        )
    return sorted(rows, key=lambda row: -row["seconds"])


def layers(image: Image) -> list[dict[str, Any]]:
    """Return what each kernel took in each layer, in the order of their first launches."""
    total = _nanoseconds(image.launches)
    return [
        {"component": component, "layer": layer, "kernel": kernel, **_sums(launches, total)}
        for (component, layer, kernel), launches in _grouped(
            image, lambda timed, call: (call, timed.launch.layer, timed.launch.kernel)
        )
    ]


def functions(image: Image) -> list[dict[str, Any]]:
    """Return what a call of each function took, in the order of their first calls.

    ``seconds_call`` is the median over the calls of the time from the first launch's start to the last one's
    end, and ``seconds_busy`` of the part of it in which a kernel ran.
    """
    total = _nanoseconds(image.launches)
    spans: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    launches: dict[tuple[str, str], list[TimedLaunch]] = defaultdict(list)
    for number, timed in sorted(by_call(image).items()):
        call = image.calls[number]
        key = call.component, call.function
        spans[key].append((timed[-1].end - timed[0].start, _nanoseconds(timed)))
        launches[key] += timed
    return [
        {
            "component": component,
            "function": function,
            "calls": len(spans[component, function]),
            "launches": len(timed) // len(spans[component, function]),
            "seconds": _nanoseconds(timed) * NANOSECOND,
            "share": _nanoseconds(timed) / total if total else 0.0,
            "seconds_call": statistics.median(span for span, _ in spans[component, function]) * NANOSECOND,
            "seconds_busy": statistics.median(busy for _, busy in spans[component, function]) * NANOSECOND,
        }
        for (component, function), timed in launches.items()
    ]


def by_call(image: Image) -> dict[int, list[TimedLaunch]]:
    """Return the launches of each call, by its number."""
    launches: dict[int, list[TimedLaunch]] = defaultdict(list)
    for timed in image.launches:
        launches[timed.call].append(timed)
    return launches


def device_seconds(image: Image) -> dict[str, float]:
    """Return where the device's time went, from the first command's start to the last one's end.

    ``kernels`` and ``copies`` are sums, ``idle`` is the time in which no command ran, ``idle_in_calls`` the
    part of it between two launches of one call, where the device waits for the host to enqueue.
    """
    commands = image.commands()
    idle, end = 0, commands[0][0]
    for start, its_end in commands:
        idle += max(0, start - end)
        end = max(end, its_end)
    # A copy between two launches of a call does not occur: a compiled function only launches.
    in_calls = sum(
        max(0, after.start - before.end)
        for launches in by_call(image).values()
        for before, after in pairwise(launches)
    )
    return {
        "total": (end - commands[0][0]) * NANOSECOND,
        "kernels": _nanoseconds(image.launches) * NANOSECOND,
        "copies": sum(copy.end - copy.start for copy in image.copies) * NANOSECOND,
        "idle": idle * NANOSECOND,
        "idle_in_calls": in_calls * NANOSECOND,
    }


def rates(row: dict[str, Any], peaks: Peaks, dtype: str) -> dict[str, Any]:
    """Return rates of arithmetic and memory of a row of sums, and their distance from the roofline."""
    seconds = row["seconds"]
    peak = peaks.gflops.get(dtype, peaks.gflops["float32"])
    arithmetic, memory = row["flops"] / peak * 1e-9, row["bytes"] / peaks.gbytes * 1e-9
    return {
        "gflops": row["flops"] / seconds * 1e-9 if seconds else None,
        "gbytes": row["bytes"] / seconds * 1e-9 if seconds else None,
        "roofline": max(arithmetic, memory) / seconds if seconds else None,
        "limit": "arithmetic" if arithmetic > memory else "memory",
    }


def _nanoseconds(launches: Iterable[TimedLaunch]) -> int:
    return sum(timed.end - timed.start for timed in launches)


def _sums(launches: list[TimedLaunch], total: int) -> dict[str, Any]:
    nanoseconds = _nanoseconds(launches)
    return {
        "calls": len(launches),
        "seconds": nanoseconds * NANOSECOND,
        "share": nanoseconds / total if total else 0.0,
        "flops": sum(timed.launch.flops for timed in launches),
        "bytes": sum(timed.launch.bytes_read + timed.launch.bytes_written for timed in launches),
    }


def _grouped(image: Image, key: Any) -> list[tuple[Any, list[TimedLaunch]]]:
    groups: dict[Any, list[TimedLaunch]] = defaultdict(list)
    for timed in image.launches:
        groups[key(timed, image.calls[timed.call].component)].append(timed)
    return list(groups.items())
