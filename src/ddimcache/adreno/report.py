"""Every kernel of a bundle through the Adreno 740's compiler, and the modelled time of a picture."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ddimcache.adreno import lab
from ddimcache.adreno.bars import broken, family_of
from ddimcache.adreno.isa import KernelStatistics, parse_compiler_log
from ddimcache.adreno.model import ASSUMPTIONS, KernelTime, kernel_time
from ddimcache.errors import BundleError
from ddimcache.launches import Launch, WorkSize
from ddimcache.manifest import GUIDED
from ddimcache.runtime.files import cache_folder

if TYPE_CHECKING:
    from ddimcache.runtime.bundle import Bundle


@dataclass(frozen=True)
class Picture:
    """A guided picture of the model's: the UNet runs twice in each of ``steps``, in full in every
    ``interval``-th. ``published`` are the seconds that others report of theirs, ``by`` whom."""

    steps: int
    interval: int
    published: float | None = None
    by: str = ""


PICTURES = (
    Picture(20, 1, 10.96, "ML Drift, Stable Diffusion 1.4, 20 steps, Galaxy S23"),
    Picture(20, 5),
    Picture(50, 1),
    Picture(50, 5, 6.2, "DDIMCache, 50 steps, n = 5"),
)
"""The pictures whose time is modelled, beside what is published of such."""

_FUNCTION = re.compile(r"__kernel void (\w+)\(")


@dataclass(frozen=True)
class KernelReport:
    """One kernel of a bundle: what its device functions are and how long a launch is modelled to take."""

    component: str
    kernel: str
    family: str
    parts: tuple[KernelStatistics, ...]
    breaks: tuple[str, ...]
    time: KernelTime


def with_work_sizes(source: str, sizes: Sequence[WorkSize]) -> str:
    """``source`` with the work-group of each of its device functions, in their order, as an attribute."""
    rest = iter(sizes)

    def attribute(found: re.Match[str]) -> str:
        x, y, z = next(rest).items
        return f"__attribute__((reqd_work_group_size({x}, {y}, {z}))) {found[0]}"

    return _FUNCTION.sub(attribute, source)


def statistics_of(source: str) -> tuple[KernelStatistics, ...]:
    """What the Adreno 740's compiler makes of ``source``; kept in the cache folder, by what it was made of.

    Raises :class:`ddimcache.adreno.lab.LabError`.
    """
    digest = hashlib.sha256(f"{lab.identity()}\0{source}".encode()).hexdigest()
    path = cache_folder() / "adreno" / f"{digest}.log.gz"
    with contextlib.suppress(OSError, EOFError, zlib.error, ValueError):
        return tuple(parse_compiler_log(gzip.decompress(path.read_bytes()).decode()))
    log = lab.compiler_log(source)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        scratch.write_bytes(gzip.compress(log.encode()))
        scratch.replace(path)
    return tuple(parse_compiler_log(log))


_Work = tuple[str, Launch, str, tuple[WorkSize, ...]]
"""Component, first launch, source and work sizes of a kernel."""


def _work(bundle: Bundle) -> list[_Work]:
    work: list[_Work] = []
    for component in bundle.manifest.components:
        sources, lists = bundle.kernel_sources(component), bundle.launches(component)
        first: dict[str, Launch] = {}
        for launches in lists.functions.values():
            for launch in launches:
                first.setdefault(launch.kernel, launch)
        for name, launch in first.items():
            if name in sources and name in lists.work:
                work.append((component, launch, sources[name], lists.work[name]))
    return work


def count_kernels(bundle: Bundle) -> int:
    """How many kernels of ``bundle`` :func:`compile_kernels` will compile."""
    return len(_work(bundle))


def compile_kernels(
    bundle: Bundle, advance: Callable[[], object] = lambda: None, processes: int = 0
) -> list[KernelReport]:
    """Compile every kernel of ``bundle`` in the lab, ``processes`` at once (0: one a processor).

    ``advance`` is called after each. Raises :class:`BundleError` for a bundle without OpenCL sources, and
    :class:`ddimcache.adreno.lab.LabError`.
    """
    work = _work(bundle)
    if not work:
        raise BundleError(
            "no kernel with an OpenCL source and its work-groups is in it",
            where=bundle.folder,
            remedy="compile the model again with --target adreno-740",
        )
    lock = threading.Lock()

    def one(entry: _Work) -> KernelReport:
        component, launch, source, sizes = entry
        parts = statistics_of(with_work_sizes(source, sizes))
        with lock:
            advance()
        family = family_of(launch.kernel, launch.macs)
        problems = [problem for part in parts for problem in broken(part, family)]
        moved = launch.bytes_read + launch.bytes_written
        time = kernel_time(list(zip(parts, sizes, strict=True)), moved, launch.macs)
        return KernelReport(component, launch.kernel, family, parts, tuple(problems), time)

    with ThreadPoolExecutor(processes or os.cpu_count() or 1) as pool:
        return list(pool.map(one, work))


def function_seconds(bundle: Bundle, reports: Sequence[KernelReport]) -> dict[str, float]:
    """Modelled seconds of one call of every function of ``bundle``."""
    times = {(report.component, report.kernel): report.time.seconds for report in reports}
    return {
        function: sum(times.get((component, launch.kernel), 0.0) for launch in launches)
        for component in bundle.manifest.components
        for function, launches in bundle.launches(component).functions.items()
    }


def picture_seconds(functions: Mapping[str, float], steps: int, interval: int) -> float:
    """Modelled seconds of a guided picture: text twice, UNet for both prompts a step, one decode.

    What is computed once, for the prompt and for 64 steps at a time, is counted where the UNet has it.
    """
    full = -(-steps // interval)
    both = "full" + GUIDED in functions
    step = functions["guide_both_and_step" if both else "guide_and_step"] + functions["next_step"]
    times, ending = (1, GUIDED) if both else (2, "")
    once = 2 * functions.get("project_context", 0.0) + -(-steps // 64) * functions.get("embed_time", 0.0)
    calls = full * functions["full" + ending] + (steps - full) * functions["cached" + ending]
    denoise = times * calls + steps * step
    return 2 * functions["encode"] + once + denoise + functions["decode"]


def group_of(kernel: str, family: str) -> str:
    """Where a kernel stands in the table of groups; ``family`` is as :func:`family_of` gives it."""
    if family == "attention":
        return "attention"
    if family == "product":
        return next((name for part, name in _PRODUCTS.items() if part in kernel), "matmul")
    return "norms" if "norm" in kernel else "the rest"


_PRODUCTS = {"conv2d": "convolution", "geglu": "geglu"}


def kernel_groups(kernels: Sequence[Mapping[str, Any]], functions: Iterable[str]) -> list[dict[str, Any]]:
    """The kernels of :func:`describe` in groups, with what a call of each function takes in them."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for kernel in kernels:
        groups.setdefault(group_of(kernel["name"], kernel["family"]), []).append(kernel)
    names = list(functions)
    return [
        {
            "group": group,
            "kernels": len(members),
            "broken": sum(1 for kernel in members if kernel["breaks"]),
            "spilled": sum(1 for kernel in members if any(part["spills"] for part in kernel["functions"])),
            "modelled_seconds": {
                name: sum(kernel["modelled_seconds"] * kernel["calls"].get(name, 0) for kernel in members)
                for name in names
            },
        }
        for group, members in sorted(groups.items())
    ]


def describe(bundle: Bundle, reports: Sequence[KernelReport]) -> dict[str, Any]:
    """What ``inspect --adreno --json`` prints."""
    functions = function_seconds(bundle, reports)
    calls: dict[tuple[str, str], dict[str, int]] = {}
    for component in bundle.manifest.components:
        for function, launches in bundle.launches(component).functions.items():
            for launch in launches:
                counts = calls.setdefault((component, launch.kernel), {})
                counts[function] = counts.get(function, 0) + 1
    kernels = [_kernel(report, calls[report.component, report.kernel]) for report in reports]
    return {
        "device": "Adreno 740, Mesa's compiler",
        "kernels": kernels,
        "groups": kernel_groups(kernels, functions),
        "broken": sum(1 for report in reports if report.breaks),
        "model": {
            "note": "a model over compiler statistics; nothing was measured on a phone",
            "assumptions": asdict(ASSUMPTIONS),
            "seconds": functions,
            "pictures": [
                {
                    "steps": picture.steps,
                    "guided": True,
                    "cache_interval": picture.interval,
                    "modelled_seconds": picture_seconds(functions, picture.steps, picture.interval),
                    "published_seconds": picture.published,
                    "published_by": picture.by or None,
                }
                for picture in PICTURES
            ],
        },
    }


def _kernel(report: KernelReport, calls: dict[str, int]) -> dict[str, Any]:
    return {
        "name": report.kernel,
        "component": report.component,
        "family": report.family,
        "calls": calls,
        "breaks": list(report.breaks),
        "modelled_seconds": report.time.seconds,
        "limit": report.time.limit,
        "unit_seconds": report.time.units,
        "functions": [_part(part) for part in report.parts],
    }


def _part(part: KernelStatistics) -> dict[str, Any]:
    hot = part.hot_loop
    return {
        "name": part.kernel,
        "instructions": part.instructions,
        "registers": part.registers,
        "waves": part.waves,
        "wave_size": part.wave_size,
        "spills": part.spills,
        "private_bytes": part.private_bytes,
        "local_bytes": part.local_bytes,
        "multiply_add_share": hot.mix.multiply_add_share if hot is not None else None,
        "loops": [
            {"depth": loop.depth, "trips": loop.trips, "runs": loop.runs, **asdict(loop.mix)}
            for loop in part.loops
        ],
    }
