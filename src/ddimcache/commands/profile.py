"""``ddimcache profile``: where the time of a real image goes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddimcache.commands import device_options, image_options
from ddimcache.commands.device_options import device_sources
from ddimcache.commands.pool_results import raise_failures, share_facts
from ddimcache.commands.terminal import (
    asked,
    bytes_text,
    print_json,
    print_table,
    progress,
    say,
    seconds_text,
)
from ddimcache.errors import UsageError

if TYPE_CHECKING:
    from ddimcache.profile.measure import Wish
    from ddimcache.runtime.pool_devices import DeviceSource

RESULTS = "results.jsonl"
_MOST_RUNS = 1000

EXAMPLES = """
  ddimcache profile sd15.bundle

  ddimcache profile sd15.bundle --device rpc://127.0.0.1:9090/KEY \\
      --html profile.html --trace trace.json

  ddimcache profile sd15.bundle --steps 10 --guidance 1 --json \\
      | jq '.kernels[0]'

  ddimcache profile before.bundle after.bundle --runs 5 -o compared \\
      --tracker 127.0.0.1:9190 --device-key s23
"""


def profile(
    bundles: Annotated[list[Path], typer.Argument(help="Folders of bundles.", metavar="BUNDLE…")],
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="opencl, opencl:1 or rpc://host:port/key; several share the runs. "
            "Default: the first OpenCL device."
        ),
    ] = None,
    prompt: Annotated[str, typer.Option(help="What to draw.")] = "a photograph of an astronaut",
    negative_prompt: image_options.NegativePrompt = "",
    steps: image_options.Steps = 5,
    cache_interval: image_options.CacheInterval = 5,
    guidance: Annotated[
        float, typer.Option(help="Scale of classifier-free guidance; 1 or below: one UNet call a step.")
    ] = 7.5,
    seed: Annotated[int, typer.Option(help="Seed of the noise, 0 … 2⁶³ − 1.")] = 0,
    size: image_options.Size = None,
    top: Annotated[int, typer.Option(help="Kernels in the table; --json has all.")] = 25,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write a page for a browser.", metavar="FILE.html")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Also write a trace for Perfetto (ui.perfetto.dev).", metavar="FILE.json"),
    ] = None,
    measure_again: Annotated[
        bool,
        typer.Option("--measure-again", help="Measure the device's limits anew; they are kept otherwise."),
    ] = False,
    runs: Annotated[
        int, typer.Option(help=f"Profiles of each bundle, 1 … {_MOST_RUNS}; the one of median time is shown.")
    ] = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for results, pages and traces where several bundles, runs or devices are named.",
            metavar="DIR",
        ),
    ] = None,
    tracker: device_options.Tracker = None,
    device_key: device_options.DeviceKey = None,
    key: device_options.TrackerKey = None,
    seconds_per_run: Annotated[
        float | None,
        typer.Option(help="A device that takes longer is left, and the run measured elsewhere."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Time every kernel of an image, and say how far it is from what the device can do and where it belongs.

    Draws one image to warm up, then a second one on which every command is timed by the device.

    Few steps tell as much as many: steps of a kind take the same time. The table is of what was run.

    Several bundles, runs or devices share the work: a device that dies loses no run, and a second call of the
    same command with the same -o takes over what is there.
    """
    from ddimcache.commands.choose import check_draws_from_text
    from ddimcache.profile.measure import Wish
    from ddimcache.runtime.files import check_can_write
    from ddimcache.runtime.session import LARGEST_SEED, check_sampling

    check_sampling(steps, cache_interval, guidance)
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"{seed} is outside 0 … 2⁶³ − 1", where="--seed")
    if top < 1:
        raise UsageError(f"{top} is below 1", where="--top")
    if not 1 <= runs <= _MOST_RUNS:
        raise UsageError(f"{runs} is outside 1 … {_MOST_RUNS}", where="--runs")
    if seconds_per_run is not None and not seconds_per_run > 0:
        raise UsageError(f"{seconds_per_run:g} is no time", where="--seconds-per-run")
    for path, option in ((html, "--html"), (trace, "--trace")):
        if path is not None:
            check_can_write(path, option)
    for bundle in bundles:
        check_draws_from_text(bundle, "BUNDLE")
    wish = Wish(prompt, negative_prompt, seed, steps, cache_interval, guidance, measure_again, asked(size))
    written = _Output(html, trace, as_json, top)
    devices = list(dict.fromkeys(device or []))
    if len(bundles) == 1 and runs == 1 and len(devices) < 2 and tracker is None and output is None:
        _profile_one(bundles[0], devices[0] if devices else None, wish, written)
        return
    if output is None:
        raise UsageError(
            "is missing", where="--output", remedy="name a folder that keeps what several runs measure"
        )
    for path, option in ((html, "--html"), (trace, "--trace")):
        if path is not None:
            remedy = f"pages and traces of several runs are written into {output}"
            raise UsageError("is for one image", where=option, remedy=remedy)
    sources = device_sources(devices, tracker, device_key, key, kind="opencl")
    _profile_shared(list(dict.fromkeys(bundles)), sources, wish, runs, seconds_per_run, output, written)


@dataclass(frozen=True)
class _Output:
    """Where a profile of one image goes beside the terminal, and how many kernels the terminal shows."""

    html: Path | None
    trace: Path | None
    as_json: bool
    top: int


def _profile_one(folder: Path, device_text: str | None, wish: Wish, output: _Output) -> None:
    from ddimcache.commands.choose import choose_device
    from ddimcache.profile.measure import measure, open_profiled
    from ddimcache.runtime.files import write_atomically

    opened = open_profiled(folder, wish.size)
    device = choose_device(device_text, "opencl")
    try:
        measured, image = measure(opened, device, wish, progress(), say)
    finally:
        device.close()
    facts = {"bundle": str(folder), **measured}
    if output.html is not None:
        _write_page(output.html, facts)
    if output.trace is not None:
        from ddimcache.profile.trace import chrome_trace, trace_facts

        write_atomically(output.trace, json.dumps(chrome_trace(image, trace_facts(facts))).encode())
        say(f"trace: {output.trace.absolute()}, open it at ui.perfetto.dev")
    if output.as_json:
        print_json(facts)
    else:
        _report(facts, output.top)
        say("\nnext: --html FILE shows it by layer, --trace FILE in time, --json all of it for scripts")


def _profile_shared(
    folders: list[Path],
    sources: list[DeviceSource],
    wish: Wish,
    runs: int,
    seconds_per_run: float | None,
    folder: Path,
    output: _Output,
) -> None:
    from ddimcache.profile.measure import open_profiled
    from ddimcache.profile.shared import is_kept, jobs, merged, named
    from ddimcache.runtime.pool import Pool
    from ddimcache.runtime.result_log import ResultLog

    bundles = named([(path, open_profiled(path, wish.size)) for path in folders])
    folder.mkdir(parents=True, exist_ok=True)
    log = ResultLog(folder / RESULTS)
    try:
        wanted = jobs(bundles, wish, runs, folder)
        pool = Pool(sources, seconds_per_job=seconds_per_run)
        report = pool.run(wanted, log, progress(), lambda result: is_kept(result, folder))
    finally:
        log.close()
        for source in sources:
            source.close()
    results = [report.results[job.identity] for job in wanted if job.identity in report.results]
    profiles = merged(results)
    names = {str(each.folder): each.name for each in bundles}
    for number, facts in enumerate(profiles):
        of_bundle = [each for each in profiles[:number] if each["bundle"] == facts["bundle"]]
        suffix = f"-{len(of_bundle) + 1}" if of_bundle else ""
        facts["page"] = f"{names[facts['bundle']]}{suffix}.html"
        _write_page(folder / facts["page"], facts)
    if output.as_json:
        print_json(
            {
                "folder": str(folder.absolute()),
                "profiles": profiles,
                "measured_before": report.taken_over,
                **share_facts(report),
            }
        )
    else:
        for line in report.lost:
            say(f"lost {line}")
        for facts in profiles:
            _report(facts, output.top)
            print()
        print_comparison(profiles)
    raise_failures(report, "runs failed", folder / RESULTS)


def _write_page(path: Path, facts: dict[str, Any]) -> None:
    from ddimcache.profile.page import page
    from ddimcache.runtime.files import write_atomically

    write_atomically(path, page(facts).encode())
    say(f"page: {path.absolute()}")


def print_comparison(profiles: list[dict[str, Any]]) -> None:
    """Print what a call of each function took, a column a profile; nothing for a single one of one run."""
    if len(profiles) < 2:
        return
    calls: dict[tuple[str, str], list[str]] = {}
    for number, facts in enumerate(profiles):
        for entry in facts["functions"]:
            row = calls.setdefault((entry["component"], entry["function"]), ["–"] * len(profiles))
            row[number] = seconds_text(entry["seconds_call"])
    heading = ("a call", *(f"{facts['bundle']} on {facts['device_name']}" for facts in profiles))
    rows = [(f"{component}.{function}", *row) for (component, function), row in calls.items()]
    print_table(rows, heading, right=tuple(range(1, len(heading))))


def _report(facts: dict[str, Any], top: int) -> None:
    seconds, peaks = facts["seconds"], facts["peaks"]
    peak = peaks["gflops"].get(facts["dtype"], peaks["gflops"]["float32"])
    many = "s" * (facts["unet_calls_a_step"] > 1)
    print_table(
        [
            ("model", f"{facts['model']}, weights {facts['weights']}, cut {facts['cut']}"),
            ("device", f"{facts['device']}: {facts['device_name']}, driver {facts['driver']}"),
            (
                "image",
                f"{'×'.join(map(str, facts['size']))}, {facts['steps']} steps "
                f"({facts['full_steps']} full, {facts['cached_steps']} cached), "
                f"{facts['unet_calls_a_step']} UNet call{many} a step",
            ),
            ("on the device", seconds_text(seconds["total"])),
            ("in kernels", seconds_text(seconds["kernels"])),
            ("in copies", seconds_text(seconds["copies"])),
            (
                "idle",
                f"{seconds_text(seconds['idle'])}, {seconds['idle'] / seconds['total']:.1%}; "
                f"between launches of one call {seconds_text(seconds['idle_in_calls'])}",
            ),
            (
                "limits",
                f"{peak:.3g} GFLOP/s {facts['dtype']}, {peaks['gbytes']:.3g} GB/s, "
                f"measured {peaks['measured']}",
            ),
            ("most memory", bytes_text(facts["peak_bytes"])),
        ]
    )
    print()
    rows: list[tuple[str, ...]] = [
        (
            f"{entry['component']}.{entry['function']}",
            str(entry["calls"]),
            str(entry["launches"]),
            seconds_text(entry["seconds_call"]),
            seconds_text(entry["seconds_busy"]),
            f"{entry['share']:.1%}",
        )
        for entry in facts["functions"]
    ]
    heading: tuple[str, ...] = ("function", "calls", "launches a call", "a call", "in kernels", "share")
    print_table(rows, heading, right=(1, 2, 3, 4, 5))
    print()
    rows = [_kernel_row(kernel) for kernel in facts["kernels"][:top]]
    heading = ("kernel", "calls", "time", "share", "GFLOP/s", "GB/s", "of roofline", "layer")
    print_table(rows, heading, right=(1, 2, 3, 4, 5, 6))
    others = facts["kernels"][top:]
    if others:
        share = sum(kernel["share"] for kernel in others)
        say(f"\nand {len(others)} kernels more, {share:.1%} of the time: --top {len(facts['kernels'])}")


def _kernel_row(kernel: dict[str, Any]) -> tuple[str, ...]:
    more = f" and {len(kernel['layers']) - 1} more" if len(kernel["layers"]) > 1 else ""
    return (
        kernel["name"],
        str(kernel["calls"]),
        seconds_text(kernel["seconds"]),
        f"{kernel['share']:.1%}",
        *(f"{kernel[name]:.3g}" if kernel[name] is not None else "–" for name in ("gflops", "gbytes")),
        f"{kernel['roofline']:.0%}" if kernel["roofline"] is not None else "–",
        f"{kernel['component']}: {kernel['layers'][0]}{more}",
    )
