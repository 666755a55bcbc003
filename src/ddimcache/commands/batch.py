"""``ddimcache batch``: many prompts and seeds, shared among devices, and resumed where a run broke off."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddimcache.commands import device_options, image_options
from ddimcache.commands.device_options import device_sources
from ddimcache.commands.generate import asked_size, check_fits, chosen_steps, picture_facts
from ddimcache.commands.pool_results import raise_failures, share_facts
from ddimcache.commands.terminal import parse_size, print_json, progress, say
from ddimcache.errors import UsageError

if TYPE_CHECKING:
    from ddimcache.runtime.bundle import Bundle
    from ddimcache.runtime.pool import Job, Worker
    from ddimcache.runtime.pool_devices import DeviceSource
    from ddimcache.runtime.progress import Progress

RESULTS = "results.jsonl"
_MOST_PICTURES = 1_000_000

EXAMPLES = """
  ddimcache batch prompts.txt -o pictures --seeds 1..4

  ddimcache batch prompts.txt -o pictures --sampler dpm++2m-karras \\
      --steps 20 --cache-interval 2

  ddimcache batch prompts.txt -o pictures --tracker 127.0.0.1:9190 \\
      --device-key adreno-740

  ddimcache batch prompts.txt -o pictures \\
      --device rpc://127.0.0.1:9090/KEY --device opencl
"""


def batch(
    prompts: Annotated[Path, typer.Argument(help="A text file with a prompt a line.", metavar="FILE")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for the pictures; made when missing.", metavar="DIR"),
    ],
    seeds: Annotated[str, typer.Option(help="Seeds of each prompt: 7, or 1,5,9, or 1..8.")] = "0",
    model: image_options.Model = None,
    weights: image_options.Weights = None,
    cut: image_options.Cut = None,
    size: image_options.Size = None,
    sampler: image_options.Sampler = "ddim",
    steps: image_options.Steps = 50,
    cache_interval: image_options.CacheIntervalOfSampler = None,
    cache_schedule: image_options.CacheSchedule = "auto",
    guidance: image_options.Guidance = None,
    negative_prompt: image_options.NegativePrompt = "",
    device: device_options.Devices = None,
    tracker: device_options.Tracker = None,
    device_key: device_options.DeviceKey = None,
    key: device_options.TrackerKey = None,
    seconds_per_picture: Annotated[
        float | None,
        typer.Option(help="A device that takes longer is left, and the picture drawn elsewhere."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Draw every prompt with every seed, on as many devices as there are.

    A device that dies loses nothing: its picture is drawn elsewhere. A second run of the same command draws
    what is missing. Facts of every picture are in results.jsonl beside them.
    """
    from ddimcache.commands.choose import check_draws_from_text, find_model
    from ddimcache.quality.schedules import check_choice
    from ddimcache.runtime.bundle import is_bundle, open_bundle
    from ddimcache.runtime.files import make_folder
    from ddimcache.runtime.picture_files import is_kept
    from ddimcache.runtime.pool import Pool
    from ddimcache.runtime.result_log import ResultLog
    from ddimcache.runtime.session import check_sampling

    cache_interval, guidance = image_options.of_sampler(sampler, cache_interval, guidance, model)
    numbers = (steps, cache_interval, guidance)
    check_sampling(*numbers, sampler)
    image_options.check_text(negative_prompt, "--negative-prompt")
    image_options.warn_of_unused_text(negative_prompt, guidance)
    check_choice(cache_schedule)
    if seconds_per_picture is not None and not seconds_per_picture > 0:
        raise UsageError(f"{seconds_per_picture:g} is no time", where="--seconds-per-picture")
    texts, numbers_of_noise = read_prompts(prompts), _parse_seeds(seeds)
    if len(texts) * len(numbers_of_noise) > _MOST_PICTURES:
        raise UsageError(f"more than {_MOST_PICTURES} pictures", where="--seeds")
    width, height = parse_size(size)
    choices = {"weights": weights, "cut": cut, "width": width or None, "height": height or None}
    given = {name: value for name, value in choices.items() if value is not None}
    folder = find_model(model)
    check_draws_from_text(folder)
    kind = open_bundle(folder, sums=False).manifest.device_kind if is_bundle(folder) else None
    sources = device_sources(device or [], tracker, device_key, key, kind=kind)
    make_folder(output, "--output")
    log = ResultLog(output / RESULTS)
    try:
        bars = progress()
        bundle = open_or_compile(folder, given, sources, bars)
        drawn = bundle.manifest.size_of(asked_size(given)).image_size
        own_size = None if drawn == bundle.manifest.image_size else drawn
        # What was measured is of the bundle's first size.
        schedule, cache_interval, full_steps = chosen_steps(
            bundle, cache_schedule, steps, cache_interval, measured=sampler == "ddim" and own_size is None
        )
        settings = Settings(sampler, (steps, cache_interval, guidance), schedule, full_steps, own_size)
        jobs = _jobs(bundle, texts, numbers_of_noise, negative_prompt, settings, output)
        pool = Pool(sources, seconds_per_job=seconds_per_picture)
        report = pool.run(jobs, log, bars, lambda result: is_kept(result, output))
    finally:
        log.close()
        for source in sources:
            source.close()
    if as_json:
        print_json(
            {
                "folder": str(output.absolute()),
                "pictures": [report.results[job.identity] for job in jobs if job.identity in report.results],
                "drawn_before": report.taken_over,
                **share_facts(report),
            }
        )
    else:
        for line in report.lost:
            say(f"lost {line}")
        shares = ", ".join(f"{name}: {count}" for name, count in sorted(report.by_device.items()))
        before = f"; {report.taken_over} were there already" if report.taken_over else ""
        print(f"{len(report.results)} pictures in {output.absolute()} ({shares or 'no device'}{before})")
    raise_failures(report, "pictures could not be drawn", output / RESULTS)


def read_prompts(path: Path) -> list[str]:
    """Return the lines of a text file that hold something, each once; raises :class:`UsageError`."""
    try:
        # No `splitlines`: it also ends lines at letters that may stand within a prompt.
        texts = [line.strip() for line in path.read_text("utf-8-sig").split("\n")]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", where="FILE") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8", where="FILE") from error
    found = list(dict.fromkeys(text for text in texts if text))
    if not found:
        raise UsageError(f"{path} holds no prompt", where="FILE", remedy="write one a line")
    for text in found:
        image_options.check_text(text, "FILE")
    return found


def _parse_seeds(text: str) -> list[int]:
    from ddimcache.runtime.session import LARGEST_SEED

    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,19})(?:\.\.([0-9]{1,19}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= LARGEST_SEED or last - first >= _MOST_PICTURES:
            raise UsageError(f"{part!r} is no seed", where="--seeds", remedy="write 7, or 1,5,9, or 1..8")
        seeds.update(dict.fromkeys(range(first, last + 1)))
    return list(seeds)


def open_or_compile(
    folder: Path, given: dict[str, Any], sources: list[DeviceSource], bars: Progress
) -> Bundle:
    """Open the bundle, or compile a model folder for what the first device is."""
    from ddimcache.commands.choose import compiled, limits_at_hand, target_of
    from ddimcache.runtime.bundle import is_bundle, open_bundle
    from ddimcache.runtime.pool_devices import LocalServer

    if is_bundle(folder):
        bundle = open_bundle(folder)
        check_fits(given, bundle.manifest, folder)
    else:
        from ddimcache.compiler.options import CompileOptions

        CompileOptions(**given)  # refused before anything is connected to
        device = sources[0].connect(20.0)
        info = device.info
        device.close()
        target = target_of(info.kind, info.device_name)
        here = all(isinstance(source, LocalServer) for source in sources)
        limits = tuple(limits_at_hand(target, info.host)) if here else ()
        options = CompileOptions(**given, target=target, host=info.host, limits=limits)
        bundle = compiled(folder, options, bars)
    if bundle.manifest.batch != 1:
        remedy = "compile it with --batch 1"
        raise UsageError(f"{folder} makes {bundle.manifest.batch} at once", where="--model", remedy=remedy)
    return bundle


@dataclass(frozen=True)
class Settings:
    """How every picture is sampled: ``numbers`` are steps, cache interval and guidance.

    ``size`` is in pixels, None for the bundle's first. ``full_steps`` are those that ``schedule`` chose to
    run the whole UNet; none: as the interval says.
    """

    sampler: str
    numbers: tuple[int, int, float]
    schedule: str
    full_steps: tuple[int, ...]
    size: tuple[int, int] | None = None

    def named(self) -> list[Any]:
        """Return what makes the name of a picture; a uniform schedule follows from the numbers."""
        chosen = [] if self.schedule == "uniform" else [self.schedule, list(self.full_steps)]
        size = [] if self.size is None else ["x".join(map(str, self.size))]
        return [self.sampler, *self.numbers, *chosen, *size]


def _jobs(
    bundle: Bundle,
    prompts: list[str],
    seeds: list[int],
    negative_prompt: str,
    settings: Settings,
    output: Path,
) -> list[Job]:
    from ddimcache.runtime.pool import Job
    from ddimcache.runtime.tokenizer import Tokenizer

    tokenizer = Tokenizer(bundle.tokenizer)
    negative_ids, model = tokenizer.encode(negative_prompt), bundle.identity
    image_options.warn_of_long_texts(tokenizer, (*prompts, negative_prompt))
    jobs = []
    for number, prompt in enumerate(prompts, 1):
        ids = tokenizer.encode(prompt)
        for seed in seeds:
            what = json.dumps([model, prompt, negative_prompt, seed, *settings.named()])
            identity = hashlib.sha256(what.encode()).hexdigest()[:16]
            picture = _Picture(
                bundle,
                prompt,
                negative_prompt,
                ids,
                negative_ids,
                seed,
                settings,
                output,
                f"{number:05d}-{seed}-{identity[:6]}.png",
            )
            jobs.append(Job(identity, picture.draw))
    return jobs


class _Picture:
    """One prompt and seed, drawn on whichever device."""

    def __init__(
        self,
        bundle: Bundle,
        prompt: str,
        negative_prompt: str,
        ids: list[int],
        negative_ids: list[int],
        seed: int,
        settings: Settings,
        output: Path,
        name: str,
    ) -> None:
        self._bundle = bundle
        self._prompts = prompt, negative_prompt
        self._ids = ids, negative_ids
        self._seed = seed
        self._settings = settings
        self._path = output / name

    def draw(self, worker: Worker) -> dict[str, Any]:
        """Draw it, write its file, and return the facts for the log."""
        from ddimcache.runtime.image import ImageRequest, encode_png, run_image
        from ddimcache.runtime.picture_files import keep_picture
        from ddimcache.runtime.progress import SilentProgress

        session = worker.session(self._bundle)
        chosen = self._settings
        ids, negative_ids = self._ids
        request = ImageRequest(
            ids,
            negative_ids,
            self._seed,
            *chosen.numbers,
            chosen.full_steps,
            chosen.sampler,
            size=chosen.size,
        )
        done = run_image(session, request, SilentProgress())
        manifest = self._bundle.manifest
        facts = picture_facts(*self._prompts, self._seed, chosen.sampler, chosen.numbers, manifest)
        if chosen.schedule != "uniform":
            facts["cache_schedule"] = chosen.schedule
        content = encode_png(done.drawn.pixels[0], facts)
        return {
            **keep_picture(self._path.parent, self._path.name, content),
            "prompt": self._prompts[0],
            "seed": self._seed,
            **done.timings,
        }
