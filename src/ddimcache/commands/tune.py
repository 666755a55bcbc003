"""``ddimcache tune``: find better tiles for a model's kernels, and keep them."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import math
import os
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddimcache.commands import device_options
from ddimcache.commands.terminal import (
    parse_bytes,
    print_json,
    print_table,
    progress,
    say,
    seconds_text,
)
from ddimcache.errors import UsageError

if TYPE_CHECKING:
    from ddimcache.commands.tune_places import Place
    from ddimcache.tuning.tuner import Result, Task

FAMILIES = ("matmul", "geglu", "conv2d", "attention")
ENGINES = ("decisions", "metaschedule")
_LOCK = ".lock"

EXAMPLES = """
  ddimcache tune ./stable-diffusion-v1-5 --trials 64 --time-limit 3600

  ddimcache tune sd15.bundle --family attention,conv2d --tune-log my-records

  ddimcache tune --workload "matmul 4096x320x320 float32 int8" \\
      --device opencl

  # in the lab, by the model of its time
  ddimcache tune sd15-adreno.bundle --target adreno-740

  # on a phone
  ddimcache tune sd15-adreno.bundle --device rpc://127.0.0.1:9090/KEY

  # on several
  ddimcache tune sd15-adreno.bundle --tracker 127.0.0.1:9190 \\
      --device-key adreno-740

  ddimcache compile ./stable-diffusion-v1-5 -o sd15.bundle \\
      --tune-log my-records
"""


def tune(
    model: Annotated[
        Path | None,
        typer.Argument(help="Diffusers folder or bundle, whose kernels are tuned.", metavar="MODEL|BUNDLE"),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="adreno-740, opencl or llvm. Default: what --device is.")
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="opencl, opencl:1, llvm or rpc://host:port/key, several if they are alike; lab for "
            "adreno-740, where nothing is run but modelled."
        ),
    ] = None,
    tracker: device_options.Tracker = None,
    device_key: device_options.DeviceKey = None,
    key: device_options.TrackerKey = None,
    host: Annotated[
        str | None,
        typer.Option(help="Machine that devices behind RPC run host code on; default: what they say."),
    ] = None,
    weights: Annotated[str, typer.Option(help="Of a diffusers folder: int8, fp16 or fp32.")] = "int8",
    family: Annotated[
        str | None, typer.Option(help="Only these, separated by commas: matmul, geglu, conv2d, attention.")
    ] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(help="A workload as `inspect --json` names it; may be repeated, with or without MODEL."),
    ] = None,
    trials: Annotated[int, typer.Option(help="Of each workload, those of earlier runs included.")] = 64,
    time_limit: Annotated[float | None, typer.Option(help="End after so many seconds.")] = None,
    tune_log: Annotated[
        Path | None,
        typer.Option(
            "--tune-log",
            "-o",
            help="Where records are kept. Default: tune_logs/TARGET.",
            metavar="DIR",
        ),
    ] = None,
    trial_seconds: Annotated[float, typer.Option(help="A trial that takes longer hangs and is ended.")] = 60,
    trial_memory: Annotated[
        str, typer.Option(help="The most address space that a trial may have.", metavar="BYTES")
    ] = "16GiB",
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    engine: Annotated[
        str,
        typer.Option(
            help="decisions: search the tiles of our schedules, what compile takes; metaschedule: TVM's own "
            "search over the same kernels, kept in its database, to compare."
        ),
    ] = "decisions",
    export_metaschedule: Annotated[
        Path | None,
        typer.Option(help="Write the records as MetaSchedule's database, and tune nothing.", metavar="DIR"),
    ] = None,
    import_metaschedule: Annotated[
        Path | None,
        typer.Option(help="Take records out of such a database, and tune nothing.", metavar="DIR"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Search for the tiles with which each kernel of a model is fastest on a device.

    Every candidate is built and run in a process of its own, checked against a plain reference, and timed in
    turns with the best so far. What wins is kept where `compile --tune-log` finds it. May be stopped and
    started again at any time: trials that were made count.
    """
    from ddimcache.commands.tune_places import FarPlace, LocalPlace, is_far, note_origin
    from ddimcache.compiler.target import profile
    from ddimcache.tuning.cost_model import check_installed
    from ddimcache.tuning.metaschedule_search import MetaScheduleSearch
    from ddimcache.tuning.tuner import Tuner

    families = _families(family)
    if trials < 1:
        raise UsageError(f"{trials} is below 1", where="--trials")
    for option, seconds in (("--time-limit", time_limit), ("--trial-seconds", trial_seconds)):
        if seconds is not None and not 0 < seconds < math.inf:
            raise UsageError(f"{seconds:g} is no time", where=option)
    memory = parse_bytes(trial_memory, "--trial-memory") or 0
    if engine not in ENGINES:
        raise UsageError(f"{engine!r} is none of: {', '.join(ENGINES)}", where="--engine")
    if is_far(device or [], tracker) or engine == "metaschedule":
        if export_metaschedule is not None or import_metaschedule is not None:
            raise UsageError("needs no device behind RPC", where="--device", remedy="take --target")
        sources = device_options.device_sources(device or [], tracker, device_key, key)
        place: Place = FarPlace(sources, target, host)
    else:
        if host is not None:
            raise UsageError("is for devices behind RPC", where="--host")
        place = LocalPlace(target, device[0] if device else None)
    with place:
        folder = tune_log or Path("tune_logs") / place.target
        if export_metaschedule is not None or import_metaschedule is not None:
            _exchange(folder, place, export_metaschedule, import_metaschedule, as_json)
            return
        check_installed()
        tasks = _tasks(model, place.target, place.host, weights, workload or [], families)
        with _locked(folder):
            note = partial(note_origin, folder, place.target)
            with place.runner(trial_seconds, memory, note) as runner:
                say(
                    f"tuning {len(tasks)} workloads on {place.name}, {place.method}; "
                    f"what is found is kept in {folder}"
                )
                if engine == "metaschedule":
                    search = MetaScheduleSearch(folder, profile(place.target), runner, seed=seed)
                    skipped: list[str] = []
                    results, stopped = _run(partial(search.tune, tasks, trials, progress()), time_limit)
                else:
                    tuner = Tuner(folder, profile(place.target), runner, method=place.method, seed=seed)
                    skipped = tuner.skipped
                    for line in skipped[:5]:
                        say(line)
                    results, stopped = _run(partial(tuner.tune, tasks, trials, progress()), time_limit)
    _report(folder, place.method, results, stopped, skipped, as_json)


def _exchange(folder: Path, place: Place, out: Path | None, source: Path | None, as_json: bool) -> None:
    """Reads and writes databases of MetaSchedule; what is taken wins more than what was kept before."""
    from ddimcache.commands.tune_places import note_origin
    from ddimcache.compiler.target import profile
    from ddimcache.schedules import tuning_records as store
    from ddimcache.tuning import metaschedule

    device, method = profile(place.target), place.method
    facts: dict[str, Any] = {"tune_log": str(folder.absolute()), "imported": 0, "exported": 0, "skipped": []}
    if source is not None:
        found = metaschedule.import_records(source, device)
        facts["skipped"] = list(found.skipped)
        with _locked(folder):
            place.note(partial(note_origin, folder, place.target))
            known = store.read_log(folder, device, method).records
            for workload, record in found.records.items():
                if record.method != method:
                    facts["skipped"].append(f"{source}: {workload.text} is {record.method}, not {method}")
                elif workload not in known or record.ratio < known[workload].ratio:
                    # Where it ran is in a manifest that is not here.
                    store.append(folder / store.RECORDS, dataclasses.replace(record, origin=""))
                    facts["imported"] += 1
    if out is not None:
        facts["exported"] = metaschedule.export_records(store.read_log(folder, device), device, out)
    for line in facts["skipped"]:
        say(line)
    if as_json:
        print_json(facts)
    else:
        counts = facts["imported"], facts["exported"], len(facts["skipped"])
        print("{} records taken, {} written, {} skipped".format(*counts))


def _run(tune: Callable[..., object], limit: float | None) -> tuple[list[Result], bool]:
    """The results, and whether the reader stopped it: that is no failure, all trials are kept."""
    results: list[Result] = []
    try:
        tune(seconds=limit or math.inf, done=results.append)
    except KeyboardInterrupt:
        say("stopped; the same command goes on where this one was")
        return results, True
    return results, False


def _families(text: str | None) -> tuple[str, ...]:
    if text is None:
        return FAMILIES
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in found:
        if name not in FAMILIES:
            raise UsageError(f"{name!r} is none of: {', '.join(FAMILIES)}", where="--family")
    return found


def _tasks(
    model: Path | None, target: str, host: str, weights: str, texts: list[str], families: tuple[str, ...]
) -> list[Task]:
    from ddimcache.tuning.tuner import tasks_of

    named = [(text, 1) for text in texts]
    if model is not None or not texts:
        named += _workloads(model, target, host, weights)
    try:
        tasks = tasks_of(named, families)
    except ValueError as error:
        raise UsageError(str(error), where="--workload") from error
    if not tasks:
        raise UsageError("nothing of the model is of these families", where="--family")
    return tasks


def _workloads(model: Path | None, target: str, host: str, weights: str) -> list[tuple[str, int]]:
    """The workloads of a bundle, or of what a model compiles to, with their launches."""
    from ddimcache.commands.choose import compiled, find_model
    from ddimcache.compiler.options import CompileOptions
    from ddimcache.runtime.bundle import is_bundle, open_bundle

    found = find_model(model)
    if is_bundle(found):
        bundle = open_bundle(found, sums=False)
        if bundle.manifest.target != target:
            raise UsageError(
                f"{found} was compiled for {bundle.manifest.target}, not for {target}",
                where="BUNDLE",
                remedy=f"take --target {bundle.manifest.target}, or the model's folder",
            )
    else:
        options = CompileOptions(target=target, weights=weights, host=host)
        bundle = compiled(found, options, progress())
    named = []
    for component in bundle.manifest.components:
        lists = bundle.launches(component)
        counts: dict[str, int] = {}
        for launches in lists.functions.values():
            for launch in launches:
                counts[launch.kernel] = counts.get(launch.kernel, 0) + 1
        named += [(entry.workload, counts.get(kernel, 1)) for kernel, entry in lists.workloads.items()]
    return named


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other tuners out of ``folder``, which is made when missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=f"--tune-log {folder}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError("another process tunes into it", where=f"--tune-log {folder}") from error
        yield
    finally:
        os.close(handle)


def _report(
    folder: Path, method: str, results: list[Result], stopped: bool, skipped: list[str], as_json: bool
) -> None:
    if as_json:
        facts: list[dict[str, Any]] = [
            {**dataclasses.asdict(result), "workload": result.workload.text, "trials": result.trials}
            for result in results
        ]
        print_json(
            {
                "tune_log": str(folder.absolute()),
                "method": method,
                "stopped": stopped,
                "skipped": skipped,
                "workloads": facts,
            }
        )
        return
    rows = [
        (
            result.workload.text,
            str(result.trials),
            ", ".join(f"{count} {status}" for status, count in sorted(result.statuses.items())),
            seconds_text(result.seconds),
            f"{1 / result.ratio:.2f}" if result.kept or result.trace else "–",
            result.trace
            or ", ".join(f"{place} {number}" for place, number in result.best.items())
            or "the defaults",
        )
        for result in results
    ]
    if rows:
        heading = ("workload", "trials", "of them", f"best, {method}", "times the default", "decisions")
        print_table(rows, heading, right=(1, 3, 4))
    say(f"\nnext: ddimcache compile MODEL -o BUNDLE --tune-log {shlex.quote(str(folder))}")
