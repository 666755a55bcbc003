"""One trial in a process of its own: ``python -m ddimcache.tuning.child REQUEST RESULT``.

Whatever a candidate does to this process, the tuner goes on. The result is a JSON file, an
:class:`~ddimcache.tuning.outcome.Outcome`; without one the process has crashed.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddimcache.records import from_json, loads, to_json
from ddimcache.tuning.outcome import Outcome, Request

TOLERANCE = {"float32": 1e-4, "float16": 2e-2}
"""The largest difference to the reference that is right, by the activations' dtype: a share of its largest
number. Sums of thousands of products in that type, Winograd's transforms included, stay well below."""

HOPELESS = 3
"""So many times the rival's time is not worth a second look."""

WAITING = 1.25
"""So many times as long by the clock as by processor time, in ratios to the rival, is threads that wait."""

_BLOCK_SECONDS, _MOST_CALLS = 0.01, 20
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def run(request: Request) -> Outcome:
    """The outcome of a trial, in this process; only what belongs to no candidate is raised."""
    try:
        if request.place == "lab":
            from ddimcache.tuning.lab import model_trial

            return model_trial(request)
        return _timed(request)
    except MemoryError:
        return Outcome("memory", message="asked for more memory than a trial may have")


def _timed(request: Request) -> Outcome:
    import numpy as np
    import tvm

    from ddimcache.compiler.target import profile
    from ddimcache.kernels.workload import parse
    from ddimcache.runtime.devices import parse_device
    from ddimcache.runtime.local_device import is_cpu, open_device
    from ddimcache.tuning import kernels

    workload, base, spec = parse(request.workload), profile(request.target), parse_device(request.place)
    device = open_device(spec, base.kind)
    with np.load(request.inputs, allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in kept.files}
    right = arrays.pop("expected")

    def prepare(decisions: dict[str, int]) -> tuple[Callable[[], None], Any]:
        own = dataclasses.replace(base, tuned={workload: decisions})
        inputs = kernels.arguments(workload, own, arrays)
        function = kernels.kernel_of(workload, own, inputs)
        library = kernels.build(function, own)
        uploaded = {id(array): tvm.runtime.tensor(array, device) for array in inputs}
        tensors = [uploaded[id(array)] for array in inputs]
        # What is not written shows.
        blank = np.full(kernels.result_shape(function), np.nan, workload.dtype)
        out = tvm.runtime.tensor(blank, device)
        call = library["main"]
        return (lambda: call(*tensors, out)), out

    try:
        candidate, out = prepare(request.decisions)
    except MemoryError:
        raise
    except Exception as error:
        # Schedules and code generators raise whatever they like at tiles that they do not know.
        return Outcome("refused", message=_last_line(error))
    try:
        candidate()
        answer = out.numpy().astype(np.float64).reshape(right.shape)
        distance = float(np.abs(answer - right).max() / max(np.abs(right).max(), 1e-30))
        if not distance <= TOLERANCE[workload.dtype]:  # a NaN is wrong as well
            known = distance if math.isfinite(distance) else None
            return Outcome("wrong", error=known, message=f"{distance:.3g} of the largest number away")
        rival, _ = prepare(request.rival)
        rival()
        seconds, rival_seconds = _interleaved(candidate, rival, device.sync, request.repeats, is_cpu(spec))
        return Outcome("good", seconds, rival_seconds, distance)
    except RuntimeError as error:
        kind = "memory" if "OUT_OF" in str(error) or "ALLOCATION" in str(error) else "failed"
        return Outcome(kind, message=_last_line(error))  # type: ignore[arg-type]


def _interleaved(
    candidate: Callable[[], None],
    rival: Callable[[], None],
    sync: Callable[[], None],
    repeats: int,
    cpu: bool,
) -> tuple[float, float]:
    """Seconds of a call of both, timed in turns; the rival's are a median, ours follow by the ratios' median.

    On a ``cpu`` the ratio is of processor time, which other work on the machine does not stretch, unless the
    clock says that threads wait for each other.
    """

    def seconds(call: Callable[[], None], count: int) -> tuple[float, float]:
        start, busy = time.perf_counter(), time.process_time()
        for _ in range(count):
            call()
        sync()
        return (time.perf_counter() - start) / count, (time.process_time() - busy) / count

    sync()
    (first, _), (other, _) = seconds(candidate, 1), seconds(rival, 1)
    if first > HOPELESS * other:
        (first, _), (other, _) = seconds(candidate, 1), seconds(rival, 1)
        if first > HOPELESS * other:
            return first, other
    count = max(1, min(_MOST_CALLS, math.ceil(_BLOCK_SECONDS / max(min(first, other), 1e-9))))
    pairs = [(seconds(candidate, count), seconds(rival, count)) for _ in range(repeats)]
    # The machine's other work hits both of a turn.
    clock, busy = (
        statistics.median(ours[kind] / max(theirs[kind], 1e-9) for ours, theirs in pairs) for kind in (0, 1)
    )
    ratio = busy if cpu and clock < WAITING * busy else clock
    rival_seconds = statistics.median(theirs[0] for _, theirs in pairs)
    return rival_seconds * ratio, rival_seconds


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:500]


def main(arguments: list[str]) -> int:
    """Runs the trial of a request file and writes its result."""
    ctypes.CDLL(None, use_errno=True).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    # TVM takes PyTorch along where it is installed, which costs more than most trials.
    sys.modules["torch"] = None  # type: ignore[assignment]
    request_path, result_path = map(Path, arguments)
    request = from_json(Request, loads(request_path.read_bytes()))
    if request.memory:
        resource.setrlimit(resource.RLIMIT_AS, (request.memory, request.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    outcome = run(request)
    scratch = result_path.with_suffix(".new")
    scratch.write_text(json.dumps(to_json(outcome), allow_nan=False), encoding="utf-8")
    scratch.replace(result_path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
