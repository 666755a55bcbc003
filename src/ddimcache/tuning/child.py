"""One trial in a process of its own: ``python -m ddimcache.tuning.child REQUEST RESULT``.

Whatever a candidate does to this process, the tuner goes on. The result is a JSON file, an
:class:`~ddimcache.tuning.outcome.Outcome`; without one the process has crashed.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from ddimcache.records import from_json, loads, to_json
from ddimcache.runtime.trial import Outcome, Prepared, check_and_time, last_line
from ddimcache.tuning.outcome import Request

TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "int8": 5e-3, "bfloat16": 2e-2}
"""The largest difference to the reference that is right, by the activations' dtype: a share of its largest
number. Sums of thousands of products in that type, Winograd's transforms included, stay well below."""

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def run(request: Request) -> Outcome:
    """The outcome of a trial, in this process; only what belongs to no candidate is raised."""
    try:
        if request.place == "lab":
            from ddimcache.tuning.lab import model_trial

            return model_trial(request)
        if request.place in ("build", "module"):
            from ddimcache.tuning.builder import build_for_host

            return build_for_host(request)
        return _timed(request)
    except MemoryError:
        return Outcome("memory", message="asked for more memory than a trial may have")


def _timed(request: Request) -> Outcome:
    import numpy as np

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

    def built(decisions: dict[str, int]) -> Callable[[], Prepared]:
        own = dataclasses.replace(base, tuned={workload: decisions})
        inputs = kernels.arguments(workload, own, arrays)
        function = kernels.kernel_of(workload, own, inputs)
        call, shape = kernels.build(function, own)["main"], kernels.result_shape(function)
        return lambda: Prepared(call, inputs, shape, workload.stored, device)

    try:
        candidate = built(request.decisions)
    except MemoryError:
        raise
    except Exception as error:
        # Schedules and code generators raise whatever they like at tiles that they do not know.
        return Outcome("refused", message=last_line(error))
    return check_and_time(
        candidate,
        lambda: built(request.rival)(),
        right,
        TOLERANCE[workload.dtype],
        device.sync,
        request.repeats,
        is_cpu(spec),
    )


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
