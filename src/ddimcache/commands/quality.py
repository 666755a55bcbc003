"""``ddimcache quality``: are a bundle's pictures as good as those of the model that it was made of?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddimcache.commands import device_options, image_options
from ddimcache.commands.batch import read_prompts
from ddimcache.commands.device_options import device_sources
from ddimcache.commands.terminal import asked, parse_size, print_json, print_table, progress, say
from ddimcache.errors import UsageError

if TYPE_CHECKING:
    from ddimcache.commands.variants import Variants
    from ddimcache.quality.pictures import Setting
    from ddimcache.runtime.bundle import Bundle

PAGE = "quality.html"
STATISTICS = "real-statistics.npz"
_GRID_STEPS = "10,20,50,100,1000"
_GRID_INTERVALS = "1,2,3,5,6,10"
_REFERENCE = "fp32"

EXAMPLES = """
  ddimcache quality my.bundle -o quality

  ddimcache quality my.bundle -o grid --grid --grid-steps 10,20,50 \\
      --pictures 64 --workers 2

  ddimcache quality sd15.bundle --model ./stable-diffusion-v1-5 \\
      --prompts prompts.txt --json
"""


def quality(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="The bundle, or a diffusers folder to compile. Default: the embedded model."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the model that the bundle was made of, for what has to be compiled beside it.",
            metavar="DIR",
        ),
    ] = None,
    lora: image_options.Lora = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for pictures, results and quality.html; a second run goes on there.",
        ),
    ] = Path("quality"),
    pictures: Annotated[int, typer.Option(help="Pictures of every setting, 2 … 10000.")] = 256,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A prompt a line. Default: captions that the embedded model was not trained on."),
    ] = None,
    steps: image_options.Steps = 50,
    cache_interval: image_options.CacheInterval = 5,
    guidance: image_options.Guidance = None,
    seed: Annotated[int, typer.Option(help="Seed of the first picture; the next has the next one.")] = 0,
    grid: Annotated[bool, typer.Option("--grid", help="Measure steps × cache interval.")] = False,
    grid_steps: Annotated[str, typer.Option(help="DDIM steps of the grid.")] = _GRID_STEPS,
    grid_intervals: Annotated[str, typer.Option(help="Cache intervals of the grid.")] = _GRID_INTERVALS,
    weights: Annotated[
        str | None,
        typer.Option(help="Kinds of weights to measure, such as fp32,fp16,int8,int8-g64. Default: its own."),
    ] = None,
    cuts: Annotated[
        str | None, typer.Option(help="Cuts to measure, such as 0,1,3. Default: the bundle's.")
    ] = None,
    schedules: Annotated[
        str, typer.Option(help="Places of the full steps: uniform, quadratic, searched.")
    ] = "uniform",
    shown: Annotated[int, typer.Option(help="Prompts whose pictures the page shows.")] = 16,
    quant_report: Annotated[
        str | None,
        typer.Option(
            help="Instead: the error of every block of the model when its weights are rounded; "
            "int8, int8-g32, int8-g64, int8-g128 or fp16.",
            metavar="KIND",
        ),
    ] = None,
    clip: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a CLIPModel, for the CLIP score of pictures and prompts: config.json, "
            "model.safetensors, tokenizer.",
            metavar="DIR",
        ),
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(
            help="Inception V3's weights, for the FID to --real: a state dict in safetensors or .pth.",
            metavar="DIR|FILE",
        ),
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option(
            help="Real pictures that the FID is taken to: a folder, or their mu and sigma in .npz.",
            metavar="DIR|NPZ",
        ),
    ] = None,
    min_psnr: Annotated[
        float | None,
        typer.Option(
            help="Keep in the bundle which settings are below this PSNR to n = 1; generate heeds it.",
            metavar="DB",
        ),
    ] = None,
    size: image_options.Size = None,
    device: device_options.Devices = None,
    workers: Annotated[int, typer.Option(help="Processes for each device of this machine, 1 … 64.")] = 1,
    tracker: device_options.Tracker = None,
    device_key: device_options.DeviceKey = None,
    key: device_options.TrackerKey = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Draw the same prompts and seeds with the bundle and with the uncompressed model, and compare.

    Uncompressed is float32 weights without a cache. Pictures of the embedded model are also judged: what they
    show, and how far they are from real drawings. A run that was killed goes on where it stopped.
    """
    from ddimcache.commands.batch import open_or_compile
    from ddimcache.commands.choose import check_draws_from_text, find_model
    from ddimcache.commands.variants import Variants
    from ddimcache.quality.page import page
    from ddimcache.quality.pictures import Commission, draw_sets
    from ddimcache.quality.real_models import RealModels
    from ddimcache.quality.report import Measured, heading, table_row
    from ddimcache.runtime.bundle import is_bundle, open_bundle
    from ddimcache.runtime.files import make_folder, write_atomically
    from ddimcache.runtime.noise import LARGEST_SEED
    from ddimcache.runtime.session import check_sampling

    if not 2 <= pictures <= 10_000:
        raise UsageError(f"{pictures} is outside 2 … 10000", where="--pictures")
    if not 0 <= seed <= LARGEST_SEED - pictures:
        raise UsageError(f"{seed} leaves no seeds for {pictures} pictures", where="--seed")
    if shown < 0:
        raise UsageError(f"{shown} is negative", where="--shown")
    if min_psnr is not None and not 0 <= min_psnr <= 100:
        raise UsageError(f"{min_psnr:g} is outside 0 … 100 dB", where="--min-psnr")
    if not 1 <= workers <= 64:
        raise UsageError(f"{workers} is outside 1 … 64", where="--workers")
    if guidance is None:
        guidance = image_options.default_guidance(bundle)
    folder = find_model(bundle)
    check_draws_from_text(folder, "BUNDLE")
    if quant_report is not None:
        report_blocks(folder, model, quant_report, guidance, as_json)
        return
    all_steps = parse_numbers(grid_steps, "--grid-steps", 1000) if grid else [steps]
    intervals = parse_numbers(grid_intervals, "--grid-intervals", 1000) if grid else [1, cache_interval]
    for count in all_steps:
        check_sampling(count, 1, guidance)
    for interval in intervals:
        check_sampling(1, interval, guidance)
    commission = Commission(quality_prompts(prompts, pictures), seed, guidance)
    bars = progress()
    models = RealModels(clip, inception, real, bars)
    kind = open_bundle(folder, sums=False).manifest.device_kind if is_bundle(folder) else None
    sources = device_sources(device or [], tracker, device_key, key, workers, kind)
    try:
        loras = tuple(lora or ())
        given: dict[str, Any] = {"loras": loras} if loras and not is_bundle(folder) else {}
        if size is not None:
            given |= dict(zip(("width", "height"), parse_size(size), strict=True))
        own = open_or_compile(folder, given, sources, bars).at(asked(size))
        if min_psnr is not None and own.names.suffix:
            remedy = "leave --size out"
            raise UsageError("is kept for the first size of a bundle", where="--min-psnr", remedy=remedy)
        variants = Variants(own, folder, model, bars, loras)
        wanted = _wanted(variants, all_steps, intervals, weights, cuts, _schedules(schedules))
        make_folder(output, "--output")
        sets = draw_sets(wanted, commission, output, sources, bars)
    finally:
        for source in sources:
            source.close()
    measured = Measured(sets, commission, _REFERENCE)
    with bars.stage("measure", len(sets)) as stage:
        rows = []
        for pictures_of in sets:
            rows.append({**measured.row(pictures_of), **models.row(pictures_of, commission)})
            stage.advance()
    if min_psnr is not None:
        keep_gate(variants.own, rows, min_psnr)
    manifest, about = variants.own.manifest, measured.about()
    facts = [
        f"{len(commission.prompts)} pictures a setting, seeds from {seed}, guidance {guidance:g}, "
        f"compiled for {manifest.target}.",
    ]
    if about["judge"] is not None:
        facts.append(
            "The Fréchet distance is taken over the classifier's features; as many fresh real drawings have "
            f"{about['frechet_distance_of_real']:.2f}. Of real drawings the reader, who tells the accuracy, "
            f"gets {about['judge']['reader']:.1%} right, the classifier {about['judge']['classifier']:.1%}."
        )
    if models.about["inception"] is not None and not models.about["inception"]["is_fid"]:
        facts.append("Inception's weights are not those of 1008 classes that FID is defined by.")
    title = f"Quality of {manifest.model}"
    if real is not None and (statistics := models.statistics()) is not None:
        write_atomically(output / STATISTICS, statistics)
        facts.append(f"Statistics of the real pictures: {STATISTICS}, which --real takes as well.")
    write_atomically(output / PAGE, page(title, facts, sets, rows, commission, shown).encode())
    if as_json:
        print_json(
            {
                "model": manifest.model,
                "pictures": len(commission.prompts),
                "seed": seed,
                "guidance": guidance,
                "page": str((output / PAGE).absolute()),
                **about,
                **models.about,
                "settings": rows,
            }
        )
        return
    names = heading(rows)
    cells = [table_row(each.setting, row) for each, row in zip(sets, rows, strict=True)]
    print_table(cells, names, right=tuple(range(1, len(names))))
    for fact in facts:
        say(fact)
    say(f"\npictures side by side: {output / PAGE}")


def report_blocks(folder: Path, model: Path | None, kind: str, guidance: float, as_json: bool) -> None:
    """Print the errors that rounding the weights of one block after another makes, the worst first."""
    from ddimcache.commands.choose import DEFAULT_MODEL
    from ddimcache.commands.variants import bundle_fingerprint, fingerprint
    from ddimcache.quality.sensitivity import ROUNDINGS, load_pipeline, sensitivity
    from ddimcache.runtime.bundle import is_bundle

    if kind not in ROUNDINGS:
        raise UsageError(f"{kind!r} is none of: {', '.join(ROUNDINGS)}", where="--quant-report")
    source = model if model is not None else DEFAULT_MODEL if is_bundle(folder) else folder
    if is_bundle(folder) and fingerprint(source) != bundle_fingerprint(folder):
        remedy = "name the folder that was given to `ddimcache compile`"
        raise UsageError(
            f"{source} is not the model that {folder} was compiled from", where="--model", remedy=remedy
        )
    found = sensitivity(
        load_pipeline(source), calibration_prompts(None, 2), guidance, ROUNDINGS[kind], progress()
    )
    rows = [dataclasses.asdict(each) for each in found]
    if as_json:
        print_json({"model": str(source.absolute()), "rounding": kind, "blocks": rows})
        return
    cells = [
        [
            each.component,
            each.block,
            str(each.parameters),
            f"{each.reconstruction_error:.1e}",
            f"{each.output_error:.1e}",
        ]
        for each in found
    ]
    print_table(
        cells, ("component", "block", "parameters", "of its output", "of the component's"), right=(2, 3, 4)
    )


def keep_gate(bundle: Bundle, rows: list[dict[str, Any]], least_psnr: float) -> None:
    """Write what was measured of a bundle's own settings, and the gate, into its notes."""
    from ddimcache.quality.notes import keep_notes
    from ddimcache.runtime.quality_notes import MeasuredSetting, read_notes

    own = (bundle.manifest.weights, bundle.manifest.cut)
    fresh = {
        (row["steps"], row["cache_interval"], row["schedule"]): MeasuredSetting(
            row["steps"], row["cache_interval"], row["schedule"], row["psnr_to_uncached"]
        )
        for row in rows
        if (row["weights"], row["cut"]) == own and row["cached_steps"] and row["ssim_to_uncached"] is not None
    }
    notes = read_notes(bundle)
    kept = [each for each in notes.measured if (each.steps, each.cache_interval, each.schedule) not in fresh]
    measured = (*kept, *fresh.values())
    keep_notes(bundle, dataclasses.replace(notes, measured=measured, least_psnr=least_psnr))


def _wanted(
    variants: Variants,
    all_steps: list[int],
    intervals: list[int],
    weights: str | None,
    cuts: str | None,
    schedules: list[str],
) -> list[tuple[Bundle, Setting]]:
    """Return every setting once, those without a cache first; the uncompressed model's are always there."""
    from ddimcache.manifest import WeightsKind
    from ddimcache.quality.pictures import Setting
    from ddimcache.quality.schedules import placed

    manifest = variants.own.manifest
    kinds = [manifest.weights] if weights is None else weights.split(",")
    for kind in kinds:
        if kind not in WeightsKind.__args__:  # type: ignore[attr-defined]
            raise UsageError(f"{kind!r} is none of: {', '.join(WeightsKind.__args__)}", where="--weights")  # type: ignore[attr-defined]
    all_cuts = [manifest.cut] if cuts is None else parse_numbers(cuts, "--cuts", manifest.cuts - 1, least=0)
    wanted: dict[Setting, Bundle] = {}
    reference = variants.get(_REFERENCE, manifest.cut)
    for count in all_steps:
        wanted[Setting.of_interval(reference, count, 1)] = reference
    for kind in kinds:
        for cut in all_cuts:
            bundle = variants.get(kind, cut)
            for count in all_steps:
                for interval in intervals:
                    for name in schedules if 1 < interval < count else ["uniform"]:
                        full = placed(name, bundle, count, interval)
                        setting = Setting(kind, cut, count, interval, name, full)
                        wanted[setting] = bundle
    return [(bundle, setting) for setting, bundle in wanted.items()]


def quality_prompts(path: Path | None, count: int, *, held_out: bool = True) -> tuple[str, ...]:
    """Return prompts to measure by: of a file, or captions that the embedded model was not trained on."""
    if path is not None:
        given = read_prompts(path)
        return tuple(given[index % len(given)] for index in range(count))
    from ddimcache.models.shapes.grammar import scenes_to_ask

    return tuple(scene.caption() for scene in scenes_to_ask(count, seed=0, held_out=held_out))


def calibration_prompts(path: Path | None, count: int) -> tuple[str, ...]:
    """Return prompts to decide by: of a file, or captions that quality is not measured on."""
    return quality_prompts(path, count, held_out=False)


def _schedules(text: str) -> list[str]:
    from ddimcache.quality.schedules import SCHEDULES

    names = text.split(",")
    for name in names:
        if name not in SCHEDULES:
            raise UsageError(f"{name!r} is none of: {', '.join(SCHEDULES)}", where="--schedules")
    return names


def parse_numbers(text: str, option: str, most: int, least: int = 1) -> list[int]:
    """Read ``10,20,50``; raises :class:`UsageError` naming the option."""
    numbers = []
    for part in text.split(","):
        if not part.strip().isdecimal() or not least <= int(part) <= most:
            raise UsageError(
                f"{part!r} is no whole number from {least} to {most}", where=option, remedy="write 10,20,50"
            )
        numbers.append(int(part))
    return list(dict.fromkeys(numbers))
