"""``ddimcache schedule``: searches for the steps at which a bundle renews its cached feature."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from ddimcache.commands import image_options
from ddimcache.commands.quality import calibration_prompts, is_embedded, parse_numbers
from ddimcache.commands.terminal import print_json, print_table, progress, say
from ddimcache.errors import UsageError

# Away from the seeds that `ddimcache quality` draws with.
_FIRST_SEED = 1_000_000

EXAMPLES = """
[bold]Examples[/bold]

  ddimcache schedule my.bundle --steps 50 --cache-interval 5,10

  ddimcache schedule sd15.bundle --steps 20 --cache-interval 3 --prompts prompts.txt --most-tried 60
"""


def schedule(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="The bundle, or a diffusers folder to compile. Default: the embedded model."),
    ] = None,
    steps: image_options.Steps = 50,
    cache_interval: Annotated[
        str, typer.Option(help="Budgets: as many full steps as every n-th of the steps, for each n.")
    ] = "5",
    guidance: image_options.Guidance = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A calibration prompt a line. Default: captions of the embedded model's training."),
    ] = None,
    pictures: Annotated[int, typer.Option(help="Calibration pictures, 1 … 1000.")] = 8,
    most_tried: Annotated[int, typer.Option(help="Schedules tried for each budget, 1 … 100000.")] = 120,
    device: Annotated[str | None, typer.Option(help="opencl, opencl:1, llvm or rpc://host:port/key.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Search for the best steps at which to run the whole UNet, and keep them in the bundle.

    Schedules are tried on calibration prompts and held against the same pictures without a cache. `generate`
    uses what was found with --cache-schedule auto, its default.
    """
    from ddimcache.commands.choose import choose_device, find_model
    from ddimcache.quality.notes import keep_notes
    from ddimcache.quality.search import Calibration, search
    from ddimcache.runtime.bundle import is_bundle, open_bundle
    from ddimcache.runtime.image import ImageRequest, MemoryChoice
    from ddimcache.runtime.quality_notes import SearchedSchedule, read_notes
    from ddimcache.runtime.refresh import full_count
    from ddimcache.runtime.session import check_sampling
    from ddimcache.runtime.tokenizer import Tokenizer

    folder = find_model(bundle)
    if guidance is None:
        guidance = image_options.default_guidance(bundle is None or is_embedded(bundle))
    check_sampling(steps, 1, guidance)
    intervals = parse_numbers(cache_interval, "--cache-interval", steps, least=2)
    for option, number, most in (("--pictures", pictures, 1000), ("--most-tried", most_tried, 100_000)):
        if not 1 <= number <= most:
            raise UsageError(f"{number} is outside 1 … {most}", where=option)
    texts = calibration_prompts(prompts, pictures)
    bars = progress()
    kind = open_bundle(folder, sums=False).manifest.device_kind if is_bundle(folder) else None
    chosen = choose_device(device, kind)
    try:
        opened = open_bundle(folder) if is_bundle(folder) else _compiled(folder, chosen, bars)
        tokenizer = Tokenizer(opened.tokenizer)
        negative = tuple(tokenizer.encode(""))
        requests = [
            ImageRequest(tuple(tokenizer.encode(text)), negative, _FIRST_SEED + index, steps, 1, guidance)
            for index, text in enumerate(texts)
        ]
        session = chosen.open(opened, bars, MemoryChoice())
        try:
            calibration = Calibration(session, requests, bars)
            found = {
                interval: search(calibration, steps, full_count(steps, interval), most_tried, bars)
                for interval in intervals
            }
        finally:
            session.close()
    finally:
        chosen.close()
    searched = [
        SearchedSchedule(steps, each.full_steps, guidance, _psnr(each.error), _psnr(each.uniform_error))
        for each in found.values()
    ]
    notes = read_notes(opened)
    replaced = {(steps, len(each.full_steps)) for each in searched}
    kept = [each for each in notes.schedules if (each.steps, len(each.full_steps)) not in replaced]
    # What was measured of a schedule that is no longer there says nothing about the new one.
    measured = [each for each in notes.measured if (each.steps, each.schedule) != (steps, "searched")]
    keep_notes(opened, dataclasses.replace(notes, schedules=(*kept, *searched), measured=tuple(measured)))
    rows: list[dict[str, Any]] = [
        {
            "steps": steps,
            "cache_interval": interval,
            "full_steps": list(each.full_steps),
            "psnr": _psnr(each.error),
            "psnr_uniform": _psnr(each.uniform_error),
            "tried": each.tried,
        }
        for interval, each in found.items()
    ]
    if as_json:
        print_json({"bundle": str(opened.folder.absolute()), "guidance": guidance, "schedules": rows})
        return
    print_table(
        [
            [
                str(row["cache_interval"]),
                " ".join(map(str, row["full_steps"])),
                _text(row["psnr"]),
                _text(row["psnr_uniform"]),
            ]
            for row in rows
        ],
        ("as n", "full steps", "PSNR to n = 1", "uniform"),
        right=(0, 2, 3),
    )
    say(f"\nkept in {opened.folder}; `generate` uses them there")


def _compiled(folder: Path, chosen: Any, bars: Any) -> Any:
    from ddimcache.commands.choose import compiled
    from ddimcache.compiler.options import CompileOptions

    return compiled(folder, CompileOptions(target=chosen.target, host=chosen.host), bars)


def _psnr(error: float) -> float | None:
    return None if error == 0 else 10 * math.log10(255**2 / error)


def _text(decibels: float | None) -> str:
    return "∞" if decibels is None else f"{decibels:.1f} dB"
