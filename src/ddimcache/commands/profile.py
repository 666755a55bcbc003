"""``ddimcache profile``: where the time of a real image goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddimcache.commands import image_options
from ddimcache.commands.terminal import (
    bytes_text,
    print_json,
    print_table,
    progress,
    say,
    seconds_text,
)
from ddimcache.errors import UsageError

if TYPE_CHECKING:
    from ddimcache.commands.choose import ChosenDevice
    from ddimcache.manifest import Manifest
    from ddimcache.profile.match import Image
    from ddimcache.runtime.bundle import Bundle
    from ddimcache.runtime.image import ImageRequest
    from ddimcache.runtime.peaks import Peaks

EXAMPLES = """
[bold]Examples[/bold]

  ddimcache profile sd15.bundle

  ddimcache profile sd15.bundle --device rpc://127.0.0.1:9090/KEY --html profile.html --trace trace.json

  ddimcache profile sd15.bundle --steps 10 --guidance 1 --json | jq '.kernels[0]'
"""


def profile(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", metavar="BUNDLE")],
    device: Annotated[
        str | None,
        typer.Option(help="opencl, opencl:1 or rpc://host:port/key. Default: the first OpenCL device."),
    ] = None,
    prompt: Annotated[str, typer.Option(help="What to draw.")] = "a photograph of an astronaut",
    negative_prompt: image_options.NegativePrompt = "",
    steps: image_options.Steps = 5,
    cache_interval: image_options.CacheInterval = 5,
    guidance: Annotated[
        float, typer.Option(help="Scale of classifier-free guidance; 1 or below: one UNet call a step.")
    ] = 7.5,
    seed: Annotated[int, typer.Option(help="Seed of the noise, 0 … 2⁶³ − 1.")] = 0,
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Time every kernel of an image, and say how far it is from what the device can do and where it belongs.

    Draws one image to warm up, then a second one on which every command is timed by the device.

    Few steps tell as much as many: steps of a kind take the same time. The table is of what was run.
    """
    from ddimcache.runtime.files import check_can_write, write_atomically
    from ddimcache.runtime.session import LARGEST_SEED, check_sampling

    check_sampling(steps, cache_interval, guidance)
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"{seed} is outside 0 … 2⁶³ − 1", where="--seed")
    if top < 1:
        raise UsageError(f"{top} is below 1", where="--top")
    for path, option in ((html, "--html"), (trace, "--trace")):
        if path is not None:
            check_can_write(path, option)
    numbers = (steps, cache_interval, guidance)
    facts, image = _measure(bundle, device, (prompt, negative_prompt), seed, numbers, measure_again)
    if html is not None:
        from ddimcache.profile.page import page

        write_atomically(html, page(facts).encode())
        say(f"page: {html.absolute()}")
    if trace is not None:
        from ddimcache.profile.trace import chrome_trace

        known = {name: facts[name] for name in ("model", "device", "device_name", "driver", "prompt")}
        write_atomically(trace, json.dumps(chrome_trace(image, known)).encode())
        say(f"trace: {trace.absolute()}, open it at ui.perfetto.dev")
    if as_json:
        print_json(facts)
    else:
        _report(facts, top)


def _measure(
    folder: Path,
    device_text: str | None,
    prompts: tuple[str, str],
    seed: int,
    numbers: tuple[int, int, float],
    measure_again: bool,
) -> tuple[dict[str, Any], Image]:
    from ddimcache.commands.choose import choose_device
    from ddimcache.runtime.bundle import open_bundle
    from ddimcache.runtime.image import ImageRequest
    from ddimcache.runtime.tokenizer import Tokenizer

    opened = open_bundle(folder)
    manifest = opened.manifest
    if manifest.device_kind != "opencl":
        raise UsageError(
            f"{folder} was compiled for {manifest.device_kind}, whose kernels nobody times",
            where="BUNDLE",
            remedy="compile the model with --target opencl",
        )
    tokenizer = Tokenizer(opened.tokenizer)
    ids, negative_ids = map(tokenizer.encode, prompts)
    request = ImageRequest(ids, negative_ids, seed, *numbers)
    device = choose_device(device_text, "opencl")
    try:
        peaks, kept, memory, peak_bytes, image = _run(opened, device, request, measure_again)
    finally:
        device.close()
    facts = _facts(manifest, request, image, peaks)
    return {
        "bundle": str(folder),
        "model": manifest.model,
        "device": device.name,
        "device_name": peaks.device,
        "driver": peaks.driver,
        "prompt": prompts[0],
        "negative_prompt": prompts[1],
        "seed": seed,
        **facts,
        "peaks": {
            "gflops": peaks.gflops,
            "gbytes": peaks.gbytes,
            "measured": peaks.measured,
            "kept": kept,
        },
        "memory": memory,
        "peak_bytes": peak_bytes,
    }, image


def _run(
    bundle: Bundle, device: ChosenDevice, request: ImageRequest, measure_again: bool
) -> tuple[Peaks, bool, dict[str, Any], int, Image]:
    import dataclasses

    from ddimcache.profile.match import expected_calls, match
    from ddimcache.runtime.image import MemoryChoice, run_image

    bars = progress()
    profiler = device.profiler()
    say("measuring the device's limits, unless they are kept")
    peaks, kept = profiler.peaks(measure_again)
    session = device.open(bundle, bars, MemoryChoice())
    try:
        # Never as many as are profiled: what is computed once a schedule would be there already.
        steps = 3 if request.steps == 2 else 2
        interval = 1 if request.cache_interval == 1 else 2
        say(f"warming up: an image of {steps} steps")
        run_image(session, dataclasses.replace(request, steps=steps, cache_interval=interval), bars)
        say(f"profiling: an image of {request.steps} step{'s' * (request.steps > 1)}")
        profiler.start()
        try:
            run_image(session, request, bars)
        finally:
            timeline = profiler.stop()
        memory, peak_bytes = profiler.memory(), session.peak_bytes
    finally:
        session.close()
    once = bundle.manifest.components["unet"].functions
    calls = expected_calls(request.steps, request.cache_interval, request.guidance > 1, once)
    return peaks, kept, memory, peak_bytes, match(timeline, calls, bundle)


def _facts(manifest: Manifest, request: ImageRequest, image: Image, peaks: Peaks) -> dict[str, Any]:
    from ddimcache.profile import report

    full = -(-request.steps // request.cache_interval)
    dtype = manifest.context.dtype
    return {
        "weights": manifest.weights,
        "size": list(manifest.image_size),
        "batch": manifest.batch,
        "cut": manifest.cut,
        "dtype": dtype,
        "steps": request.steps,
        "cache_interval": request.cache_interval,
        "guidance": request.guidance,
        "full_steps": full,
        "cached_steps": request.steps - full,
        "unet_calls_a_step": 2 if request.guidance > 1 else 1,
        "seconds": report.device_seconds(image),
        "functions": report.functions(image),
        "kernels": report.kernels(image, peaks, dtype),
        "layers": report.layers(image),
    }


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
                f"{facts['steps']} steps ({facts['full_steps']} full, {facts['cached_steps']} cached), "
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
    say("\nnext: --html FILE shows it by layer, --trace FILE in time, --json all of it for scripts")


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
