"""Trials without the phone: the Adreno 740's compiler in the lab, and the model of time over what it says.

What spills, does not fit the instruction cache or takes too much local memory is refused, and so is what
breaks more demands of ``adreno/bars.py`` than its rival. Nothing is run, so that a trial has no error: the
kernels' answers are checked on llvmpipe (``tests/lab``).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from ddimcache.adreno.bars import broken
from ddimcache.adreno.isa import INSTRUCTION_CACHE, LOCAL_BYTES_LIMIT, KernelStatistics
from ddimcache.adreno.lab import LabError
from ddimcache.adreno.model import kernel_time
from ddimcache.adreno.report import statistics_of, with_work_sizes
from ddimcache.compiler.passes.list_launches import work_sizes
from ddimcache.compiler.target import DeviceProfile, profile
from ddimcache.kernels.workload import Workload, parse
from ddimcache.runtime.trial import Outcome
from ddimcache.tuning import kernels
from ddimcache.tuning.outcome import Request


@dataclass(frozen=True)
class Score:
    """What the model says of a kernel: ``refused`` says why it cannot be taken, ``breaks`` which demands it
    does not meet, ``seconds`` are those of a launch where it compiles."""

    seconds: float | None
    limit: str = ""
    breaks: tuple[str, ...] = ()
    refused: str = ""


def model_trial(request: Request) -> Outcome:
    """The outcome of a trial by the model; raises :class:`LabError` without a lab."""
    workload, base = parse(request.workload), profile(request.target)
    ours = score(workload, dataclasses.replace(base, tuned={workload: request.decisions}))
    if ours.refused:
        return Outcome("refused", message=ours.refused)
    rival = score(workload, dataclasses.replace(base, tuned={workload: request.rival}))
    if len(ours.breaks) > len(rival.breaks) and not rival.refused:
        return Outcome("refused", message=f"breaks {'; '.join(ours.breaks)}; the rival does not"[:500])
    text = f"modelled, limited by {ours.limit}"
    return Outcome("good", ours.seconds, rival.seconds, message="; ".join([text, *ours.breaks])[:500])


def score(workload: Workload, device: DeviceProfile) -> Score:
    """The modelled time of the kernel of ``workload`` with the decisions of ``device``."""
    inputs = kernels.blank_arguments(workload, device)
    try:
        function = kernels.kernel_of(workload, device, inputs)
        source = kernels.build(function, device).mod.imports[0].inspect_source()
        sizes = work_sizes(function)
        parts = statistics_of(with_work_sizes(source, sizes))
    except MemoryError:
        raise
    except LabError as error:
        if "does not compile" not in str(error):
            raise
        return Score(None, refused=str(error).splitlines()[0][:500])
    except Exception as error:
        # As on a device: schedules raise whatever they like at tiles that they do not know.
        return Score(None, refused=f"{type(error).__name__}: {str(error)[-300:]}")
    moved = sum({id(array): array.nbytes for array in inputs}.values())
    moved += math.prod(kernels.result_shape(function)) * np.dtype(workload.stored).itemsize
    time = kernel_time(list(zip(parts, sizes, strict=True)), moved, workload.macs)
    family = "attention" if workload.family == "attention" else "product"
    breaks = tuple(sorted({demand for part in parts for demand in broken(part, family)}))
    return Score(time.seconds, time.limit, breaks, next(filter(None, map(_misfit, parts)), ""))


def _misfit(part: KernelStatistics) -> str:
    """Why a device function cannot be taken; nothing if it can."""
    if part.private_bytes or part.spills:
        return f"spills {part.private_bytes} B"
    if part.instructions > INSTRUCTION_CACHE:
        return f"{part.instructions} instructions"
    return f"local memory {part.local_bytes} B" if part.local_bytes > LOCAL_BYTES_LIMIT else ""
