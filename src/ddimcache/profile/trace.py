"""An image as a trace for Perfetto (ui.perfetto.dev) and chrome://tracing: Chrome's trace event format."""

from __future__ import annotations

from typing import Any

from ddimcache.profile.match import Image
from ddimcache.profile.report import by_call

_PROCESS = 1
_TRACKS = {1: "calls", 2: "kernels", 3: "copies"}
_KEPT = ("model", "device", "device_name", "driver", "prompt")


def trace_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what of a profile's facts a trace keeps beside its events."""
    return {name: facts[name] for name in _KEPT}


def chrome_trace(image: Image, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the trace as a JSON value: a track of calls, one of kernels and one of copies.

    Times are in microseconds from the first command's start; ``facts`` are kept beside the events.
    """
    begin = image.commands()[0][0]
    events: list[dict[str, Any]] = [_metadata("process_name", 0, str(facts.get("device", "device")))]
    events += [_metadata("thread_name", track, name) for track, name in _TRACKS.items()]

    def complete(track: int, name: str, start: int, end: int, arguments: dict[str, Any]) -> None:
        events.append(
            {
                "ph": "X",
                "pid": _PROCESS,
                "tid": track,
                "name": name,
                "cat": _TRACKS[track],
                "ts": (start - begin) / 1000,
                "dur": (end - start) / 1000,
                "args": arguments,
            }
        )

    for number, launches in sorted(by_call(image).items()):
        call = image.calls[number]
        arguments: dict[str, Any] = {"component": call.component}
        if call.step is not None:
            arguments["step"] = call.step
        complete(1, call.function, launches[0].start, launches[-1].end, arguments)
    for timed in image.launches:
        launch = timed.launch
        arguments = {
            "layer": launch.layer,
            "component": image.calls[timed.call].component,
            "flops": launch.flops,
            "bytes": launch.bytes_read + launch.bytes_written,
            "shape": list(launch.shape),
        }
        complete(2, launch.kernel, timed.start, timed.end, arguments)
    for copy in image.copies:
        complete(3, copy.name, copy.start, copy.end, {})
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": facts}


def _metadata(name: str, track: int, value: str) -> dict[str, Any]:
    return {"ph": "M", "pid": _PROCESS, "tid": track, "name": name, "args": {"name": value}}
