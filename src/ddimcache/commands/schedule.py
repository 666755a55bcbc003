"""``ddimcache schedule``: searches for the steps, and the cut, at which to renew the cached feature."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddimcache.commands import image_options
from ddimcache.commands.quality import calibration_prompts, parse_numbers
from ddimcache.commands.terminal import print_json, print_table, progress, say
from ddimcache.errors import UsageError

if TYPE_CHECKING:
    from ddimcache.commands.choose import ChosenDevice
    from ddimcache.commands.variants import Variants
    from ddimcache.quality.search import Found
    from ddimcache.runtime.bundle import Bundle
    from ddimcache.runtime.progress import Progress

# Away from the seeds that `ddimcache quality` draws with.
_FIRST_SEED = 1_000_000

EXAMPLES = """
  ddimcache schedule my.bundle --steps 50 --cache-interval 5,10

  ddimcache schedule my.bundle --steps 50 --cache-interval 5,10 \\
      --cuts 0,1,2,3

  ddimcache schedule sd15.bundle --steps 20 --cache-interval 3 \\
      --prompts prompts.txt --most-tried 60
"""


def schedule(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="The bundle, or a diffusers folder to compile. Default: the embedded model."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of the model that the bundle was made of, for other cuts.", metavar="DIR"),
    ] = None,
    lora: image_options.Lora = None,
    steps: image_options.Steps = 50,
    cache_interval: Annotated[
        str, typer.Option(help="Budgets: as many full steps as every n-th of the steps, for each n.")
    ] = "5",
    cuts: Annotated[
        str | None,
        typer.Option(
            help="Cuts to search beside its own, such as 0,1,2,3, each at the budget's cost at cut 0. "
            "The bundle becomes one of the best cut. Default: the bundle's own."
        ),
    ] = None,
    guidance: image_options.Guidance = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A calibration prompt a line. Default: captions of the embedded model's training."),
    ] = None,
    pictures: Annotated[int, typer.Option(help="Calibration pictures, 1 … 1000.")] = 8,
    most_tried: Annotated[
        int, typer.Option(help="Schedules tried for each budget and cut, 1 … 100000.")
    ] = 120,
    device: Annotated[str | None, typer.Option(help="opencl, opencl:1, llvm or rpc://host:port/key.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Search for the best steps at which to run the whole UNet, and keep them in the bundle.

    Schedules are tried on calibration prompts and held against the same pictures without a cache. `generate`
    uses what was found with --cache-schedule auto, its default.
    """
    from ddimcache.commands.choose import check_draws_from_text, choose_device, find_model
    from ddimcache.commands.variants import Variants
    from ddimcache.quality.cuts import best_cut
    from ddimcache.runtime.bundle import is_bundle, open_bundle
    from ddimcache.runtime.refresh import full_count
    from ddimcache.runtime.session import check_sampling

    folder = find_model(bundle)
    check_draws_from_text(folder, "BUNDLE")
    if guidance is None:
        guidance = image_options.default_guidance(bundle)
    check_sampling(steps, 1, guidance)
    intervals = parse_numbers(cache_interval, "--cache-interval", steps, least=2)
    for option, number, most in (("--pictures", pictures, 1000), ("--most-tried", most_tried, 100_000)):
        if not 1 <= number <= most:
            raise UsageError(f"{number} is outside 1 … {most}", where=option)
    texts = calibration_prompts(prompts, pictures)
    loras = tuple(lora or ())
    bars = progress()
    kind = open_bundle(folder, sums=False).manifest.device_kind if is_bundle(folder) else None
    chosen = choose_device(device, kind)
    try:
        own = open_bundle(folder) if is_bundle(folder) else _compiled(folder, loras, chosen, bars)
        if own.manifest.batch != 1:
            raise UsageError(
                f"{folder} makes {own.manifest.batch} at once",
                where="BUNDLE",
                remedy="compile it with --batch 1",
            )
        search = _Search(chosen, texts, steps, guidance, most_tried, bars)
        budgets = [full_count(steps, interval) for interval in intervals]
        if cuts is None:
            candidates, counts = [own], {own.manifest.cut: budgets}
        else:
            # Its own is always among them, so that the bundle never becomes a worse one.
            numbers = {own.manifest.cut, *parse_numbers(cuts, "--cuts", own.manifest.cuts - 1, least=0)}
            variants = Variants(own, folder, model, bars, loras)
            candidates, counts = _affordable(variants, numbers, steps, budgets)
        found = {each.manifest.cut: search.run(each, counts[each.manifest.cut]) for each in candidates}
    finally:
        chosen.close()
    best = best_cut(found)
    for each in candidates:
        cut = each.manifest.cut
        _keep(each, steps, guidance, found[cut], budgets if cuts is not None else None)
    if best != own.manifest.cut and is_bundle(folder):
        _replace(own, next(each for each in candidates if each.manifest.cut == best))
    rows: list[dict[str, Any]] = [
        {
            "steps": steps,
            "cache_interval": interval,
            "cut": cut,
            "full_steps": list(each.full_steps),
            "psnr": _psnr(each.error),
            "psnr_uniform": _psnr(each.uniform_error),
            "tried": each.tried,
        }
        for cut in sorted(found)
        for interval, each in zip(intervals, found[cut], strict=True)
    ]
    if as_json:
        print_json(
            {"bundle": str(own.folder.absolute()), "guidance": guidance, "cut": best, "schedules": rows}
        )
        return
    print_table(
        [
            [
                str(row["cache_interval"]),
                str(row["cut"]),
                " ".join(map(str, row["full_steps"])),
                _text(row["psnr"]),
                _text(row["psnr_uniform"]),
            ]
            for row in rows
        ],
        ("as n", "cut", "full steps", "PSNR to n = 1", "uniform"),
        right=(0, 1, 3, 4),
    )
    say(f"\n{_outcome(own, best, is_bundle(folder))}")


class _Search:
    """The calibration of one search, for whichever bundle."""

    def __init__(
        self,
        device: ChosenDevice,
        texts: Sequence[str],
        steps: int,
        guidance: float,
        most_tried: int,
        bars: Progress,
    ) -> None:
        self._device, self._texts = device, texts
        self._steps, self._guidance, self._most_tried = steps, guidance, most_tried
        self._bars = bars

    def run(self, bundle: Bundle, counts: Sequence[int]) -> list[Found]:
        """Return the best schedule of each number of full steps."""
        from ddimcache.quality.search import Calibration, search
        from ddimcache.runtime.image import ImageRequest, MemoryChoice
        from ddimcache.runtime.tokenizer import Tokenizer

        tokenizer = Tokenizer(bundle.tokenizer)
        negative = tuple(tokenizer.encode(""))
        steps = self._steps
        requests = [
            ImageRequest(
                tuple(tokenizer.encode(text)), negative, _FIRST_SEED + index, steps, 1, self._guidance
            )
            for index, text in enumerate(self._texts)
        ]
        session = self._device.open(bundle, self._bars, MemoryChoice())
        try:
            calibration = Calibration(session, requests, self._bars)
            return [search(calibration, steps, count, self._most_tried, self._bars) for count in counts]
        finally:
            session.close()


def _compiled(folder: Path, loras: tuple[str, ...], chosen: ChosenDevice, bars: Progress) -> Bundle:
    from ddimcache.commands.choose import compiled
    from ddimcache.compiler.options import CompileOptions

    return compiled(folder, CompileOptions(**chosen.compile_choices, loras=loras), bars)


def _affordable(
    variants: Variants, numbers: Collection[int], steps: int, budgets: Sequence[int]
) -> tuple[list[Bundle], dict[int, list[int]]]:
    """Return the bundles of the cuts that fit every budget, and how many full steps each may have."""
    from ddimcache.quality.cuts import affordable_full_steps

    weights = variants.own.manifest.weights
    outermost = variants.get(weights, 0).manifest
    candidates, counts = [], {}
    for cut in sorted(numbers):
        bundle = variants.get(weights, cut)
        full = [affordable_full_steps(steps, budget, outermost, bundle.manifest) for budget in budgets]
        if min(full) < 1:
            say(f"cut {cut}: one full step and {steps - 1} cached ones cost more than the smallest budget")
            continue
        candidates.append(bundle)
        counts[cut] = full
    if not candidates:
        raise UsageError("no cut fits the budget", where="--cuts", remedy="add cut 0, or ask for a smaller n")
    return candidates, counts


def _keep(
    bundle: Bundle, steps: int, guidance: float, found: Sequence[Found], budgets: Sequence[int] | None
) -> None:
    """Write the schedules into the bundle's notes, in place of those of the same steps and budget."""
    from ddimcache.quality.notes import keep_notes
    from ddimcache.runtime.quality_notes import SearchedSchedule, read_notes

    searched = [
        SearchedSchedule(
            steps, each.full_steps, guidance, _psnr(each.error), _psnr(each.uniform_error), budget
        )
        for each, budget in zip(found, budgets or [0] * len(found), strict=True)
    ]
    notes = read_notes(bundle)
    replaced = {each.key for each in searched}
    kept = [each for each in notes.schedules if each.key not in replaced]
    # What was measured of a schedule that is no longer there says nothing about the new one.
    measured = [each for each in notes.measured if (each.steps, each.schedule) != (steps, "searched")]
    keep_notes(bundle, dataclasses.replace(notes, schedules=(*kept, *searched), measured=tuple(measured)))


def _replace(own: Bundle, better: Bundle) -> None:
    """Put the bundle of another cut, with its schedules, in place of ``own``, whose gate goes on."""
    from ddimcache.compiler.bundle import write_bundle
    from ddimcache.quality.notes import keep_notes
    from ddimcache.runtime.bundle import open_bundle
    from ddimcache.runtime.quality_notes import read_notes

    better = open_bundle(better.folder)
    gate = read_notes(own).least_psnr
    write_bundle(own.folder, better.manifest, {name: better.path(name) for name in better.manifest.files})
    placed = open_bundle(own.folder, sums=False)
    keep_notes(placed, dataclasses.replace(read_notes(placed), least_psnr=gate))


def _outcome(own: Bundle, best: int, is_own_folder: bool) -> str:
    if best == own.manifest.cut:
        return f"kept in {own.folder}; `generate` uses them there"
    if is_own_folder:
        return f"{own.folder} has cut {best} now, in place of {own.manifest.cut}; `generate` uses these there"
    return f"the best is cut {best}: `generate --cut {best}` uses these"


def _psnr(error: float) -> float | None:
    return None if error == 0 else 10 * math.log10(255**2 / error)


def _text(decibels: float | None) -> str:
    return "∞" if decibels is None else f"{decibels:.1f} dB"
