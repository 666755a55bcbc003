"""``ddimcache generate``: a prompt in, a picture out."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddimcache.commands import image_options
from ddimcache.commands.terminal import (
    bytes_text,
    memory_choice,
    parse_size,
    print_json,
    print_table,
    progress,
    say,
    seconds_text,
)
from ddimcache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from ddimcache.commands.choose import ChosenDevice
    from ddimcache.manifest import Manifest
    from ddimcache.runtime.bundle import Bundle
    from ddimcache.runtime.image import MemoryChoice

EXAMPLES = """
  ddimcache generate \\
      "a red circle above a blue square on a white background" -o out.png

  ddimcache generate "a red fox" --model ./stable-diffusion-v1-5 \\
      --steps 20 --cache-interval 3 --seed 7

  ddimcache generate "a red fox" --model sd15.bundle \\
      --sampler dpm++2m-karras --steps 20 --cache-interval 2

  ddimcache generate "a red fox" --model ./stable-diffusion-v1-5 \\
      --image dog.png --strength 0.6

  ddimcache generate "a hat" --model ./stable-diffusion-inpainting \\
      --image dog.png --mask head.png

  ddimcache generate "a red fox in the snow" --model sd15.bundle \\
      --device rpc://127.0.0.1:9090/KEY --json
"""


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    model: image_options.Model = None,
    weights: image_options.Weights = None,
    lora: image_options.Lora = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="opencl, opencl:1, llvm or rpc://host:port/key. Default: what a bundle was compiled for; "
            "for a folder the first OpenCL device, else llvm."
        ),
    ] = None,
    sampler: image_options.Sampler = "ddim",
    steps: image_options.Steps = 50,
    cache_interval: image_options.CacheIntervalOfSampler = None,
    cache_schedule: image_options.CacheSchedule = "auto",
    cut: image_options.Cut = None,
    guidance: image_options.Guidance = None,
    negative_prompt: image_options.NegativePrompt = "",
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the noise, 0 … 2⁶³ − 1. Default: a random one, which is reported."),
    ] = None,
    size: image_options.Size = None,
    latents: Annotated[
        Path | None,
        typer.Option(
            help="Initial noise in place of the seed: float32 1×4×h×w of unit variance, or as many as a "
            "bundle makes pictures.",
            metavar="FILE.npy",
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            help="A picture to begin with, stretched to the size; for a bundle of compile --image-to-image.",
            metavar="FILE",
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="A picture that is white where that one is drawn anew and black where it stays, of any size "
            "and mode; stretched as well.",
            metavar="FILE",
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="How much of that picture is changed: the share of the steps that is taken. Default: 0.8; 1 "
            "with --mask, where nothing of what lies below it remains.",
            show_default=False,
        ),
    ] = None,
    save_latents: Annotated[
        Path | None, typer.Option(help="Also write the final latents.", metavar="FILE.npy")
    ] = None,
    memory: Annotated[
        str,
        typer.Option(
            help="What is on the device together: resident (everything), pipelined (the UNet stays), "
            "load-on-use (the part at work), or auto: the fastest that fits."
        ),
    ] = "auto",
    memory_budget: Annotated[
        str | None,
        typer.Option(help="Most memory on the device, such as 900MiB. Default: all of it.", metavar="BYTES"),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The picture; of a bundle that makes several at once FILE-1.png, FILE-2.png and so on.",
            metavar="FILE.png",
        ),
    ] = Path("out.png"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Make a picture from a text.

    Compiles a model folder that is not compiled yet and keeps the result, so the first picture takes longer.
    """
    from ddimcache.quality.schedules import check_choice
    from ddimcache.runtime.files import check_can_write
    from ddimcache.runtime.noise import LARGEST_SEED
    from ddimcache.runtime.session import check_sampling, check_strength

    cache_interval, guidance = image_options.of_sampler(sampler, cache_interval, guidance, model)
    check_sampling(steps, cache_interval, guidance, sampler)
    check_choice(cache_schedule)
    image_options.check_text(prompt, "PROMPT")
    image_options.check_text(negative_prompt, "--negative-prompt")
    image_options.warn_of_unused_text(negative_prompt, guidance)
    if seed is not None and latents is not None:
        raise UsageError("takes the place of --seed", where="--latents", remedy="give one of the two")
    if image is None and (mask is not None or strength is not None):
        raise UsageError(
            "is about a picture to begin with, and there is none",
            where="--strength" if mask is None else "--mask",
            remedy="give --image as well",
        )
    strength = strength if strength is not None else 0.8 if mask is None else 1.0
    if image is not None:
        check_strength(steps, strength)
        if latents is not None:
            raise UsageError(
                "a picture is drawn on with noise of the seed",
                where="--latents",
                remedy="give --seed instead",
            )
    if latents is not None and sampler == "lcm":
        raise UsageError(
            "lcm adds noise of the seed at every step", where="--latents", remedy="give --seed instead"
        )
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"{seed} is outside 0 … 2⁶³ − 1", where="--seed")
    _check_suffix(output, ".png", "--output")
    check_can_write(output, "--output")
    if save_latents is not None:
        _check_suffix(save_latents, ".npy", "--save-latents")
        check_can_write(save_latents, "--save-latents")
    from ddimcache.runtime.image import read_latents

    initial = None if latents is None else read_latents(latents, "--latents")
    width, height = parse_size(size)
    choice = memory_choice(memory, memory_budget)
    if seed is None and initial is None:
        seed = secrets.randbelow(LARGEST_SEED + 1)

    def finished(result: dict[str, Any]) -> None:
        if as_json:
            print_json(result)
        else:
            _report(result, guidance)

    _run(
        prompt=prompt,
        negative_prompt=negative_prompt,
        model=model,
        device_text=device,
        compile_choices={
            "weights": weights,
            "cut": cut,
            "width": width or None,
            "height": height or None,
            "loras": tuple(lora) if lora else None,
        },
        image=image,
        mask=mask,
        strength=strength,
        seed=seed,
        latents=initial,
        sampler=sampler,
        numbers=(steps, cache_interval, guidance),
        cache_schedule=cache_schedule,
        memory=choice,
        output=output,
        save_latents=save_latents,
        finished=finished,
    )


def _keep_programs(device: ChosenDevice) -> None:
    """Put into the cache what the driver compiled and hands out only now that the picture is there."""
    waiting = device.keep_programs(0)
    if waiting == 0:
        return
    # the picture is finished for whoever reads this output
    sys.stdout.flush()
    with progress().stage("keep compiled kernels for the next start", total=waiting) as stage:
        try:
            while waiting > 0:
                waiting = device.keep_programs(1)
                stage.advance()
        except KeyboardInterrupt:
            say(f"{waiting} compiled kernels are not kept: the next start compiles them again")


def chosen_steps(
    bundle: Bundle, cache_schedule: str, steps: int, cache_interval: int, *, measured: bool
) -> tuple[str, int, tuple[int, ...]]:
    """Return the schedule that is used, its interval, and the steps that run the whole UNet; says warnings.

    ``measured``: what the bundle keeps of its quality holds for these steps. Raises :class:`UsageError` for a
    schedule that was searched for others, or for none.
    """
    from ddimcache.quality.schedules import choose, few_full_steps, placed
    from ddimcache.runtime.quality_notes import QualityNotes, read_notes

    if cache_schedule == "searched" and not measured:
        raise UsageError(
            "schedules are searched for all steps of ddim, and hold for no others",
            where="--cache-schedule",
            remedy="take auto, uniform or quadratic here",
        )
    notes = read_notes(bundle) if measured else QualityNotes()
    used, cache_interval, warning = choose(cache_schedule, notes, steps, cache_interval)
    if warning is None:
        warning = few_full_steps(notes, steps, cache_interval, used)
    if warning is not None:
        say(warning)
    return used, cache_interval, placed(used, bundle, steps, cache_interval)


def _run(
    *,
    prompt: str,
    negative_prompt: str,
    model: Path | None,
    device_text: str | None,
    compile_choices: dict[str, Any],
    image: Path | None,
    mask: Path | None,
    strength: float,
    seed: int | None,
    latents: NDArray[np.float32] | None,
    sampler: str,
    numbers: tuple[int, int, float],
    cache_schedule: str,
    memory: MemoryChoice,
    output: Path,
    save_latents: Path | None,
    finished: Callable[[dict[str, Any]], None],
) -> None:
    from ddimcache.commands.choose import choose_device, compiled, find_model, inpaints
    from ddimcache.runtime.bundle import is_bundle, open_bundle
    from ddimcache.runtime.files import write_atomically
    from ddimcache.runtime.image import (
        ImageRequest,
        encode_npy,
        encode_png,
        latents_bytes,
        read_mask,
        read_picture,
        run_image,
    )
    from ddimcache.runtime.sampler import steps_taken
    from ddimcache.runtime.tokenizer import Tokenizer

    folder = find_model(model)
    if mask is None and inpaints(folder):
        raise UsageError(
            f"{folder} fills in a part of a picture",
            where="--mask",
            remedy="give a picture with --image, and a mask that is white where it is drawn anew",
        )
    given = {name: value for name, value in compile_choices.items() if value is not None}
    bars = progress()
    bundle = options = None
    if is_bundle(folder):
        bundle = open_bundle(folder)
        check_fits(given, bundle.manifest, folder)
    else:
        from ddimcache.compiler.options import CompileOptions

        # Refused before anything is connected to.
        options = CompileOptions(**given, image_to_image=image is not None)
    device = choose_device(device_text, bundle.manifest.device_kind if bundle else None)
    try:
        if options is not None:
            import dataclasses

            options = dataclasses.replace(options, **device.compile_choices)
            bundle = compiled(folder, options, bars)
        assert bundle is not None
        manifest = bundle.manifest
        files = image_options.picture_files(output, manifest.batch)
        size = manifest.size_of(asked_size(given))
        begin = white = b""
        if image is not None:
            if not manifest.takes_images:
                raise UsageError(
                    f"{folder} has no image encoder",
                    where="--image",
                    remedy="compile the model with --image-to-image",
                )
            begin = read_picture(image, "--image", size.image_size)
        if mask is not None:
            white = read_mask(mask, "--mask", size.image_size)
        noise: int | bytes = seed if seed is not None else b""
        if latents is not None:
            noise = latents_bytes(latents, "--latents", manifest.latents_of(size.latent_size))
        tokenizer = Tokenizer(bundle.tokenizer)
        ids, negative_ids = tokenizer.encode(prompt), tokenizer.encode(negative_prompt)
        image_options.warn_of_long_texts(tokenizer, (prompt, negative_prompt))
        steps, cache_interval, guidance = numbers
        taken = steps_taken(steps, strength) if begin else steps
        # What was measured is of all of DDIM's steps, at the bundle's first size.
        measured = sampler == "ddim" and not begin and size == manifest.sizes[0]
        used, cache_interval, full_steps = chosen_steps(
            bundle, cache_schedule, taken, cache_interval, measured=measured
        )
        numbers = (steps, cache_interval, guidance)
        session = device.open(bundle, bars, memory)
        try:
            request = ImageRequest(
                ids,
                negative_ids,
                noise,
                *numbers,
                full_steps,
                sampler,
                begin,
                strength,
                white,
                size.image_size,
            )
            done = run_image(session, request, bars)
            peak_bytes = session.peak_bytes
        finally:
            session.close()
        facts = picture_facts(prompt, negative_prompt, seed, sampler, numbers, manifest)
        if used != "uniform":
            facts["cache_schedule"] = used
        if begin:
            facts["strength"] = repr(strength)
        if mask is not None:
            facts["mask"] = mask.name
        for number, (file, pixels) in enumerate(zip(files, done.drawn.pixels, strict=True), 1):
            place = {"picture": f"{number} of {len(files)}"} if len(files) > 1 else {}
            write_atomically(file, encode_png(pixels, facts | place))
        if save_latents is not None:
            write_atomically(save_latents, encode_npy(done.drawn.latents))
        finished(
            {
                "image": str(files[0].absolute()),
                "images": [str(file.absolute()) for file in files],
                "seed": seed,
                "device": device.name,
                "size": list(size.image_size),
                "sampler": sampler,
                "steps": steps,
                "strength": strength if begin else None,
                "mask": None if mask is None else str(mask.absolute()),
                "cache_interval": cache_interval,
                "cache_schedule": used,
                "cut": manifest.cut,
                **done.timings,
                "peak_bytes": peak_bytes,
            }
        )
        _keep_programs(device)
    finally:
        device.close()


def picture_facts(
    prompt: str,
    negative_prompt: str,
    seed: int | None,
    sampler: str,
    numbers: tuple[int, int, float],
    manifest: Manifest,
) -> dict[str, str]:
    """Return what a picture's file says of itself; ``numbers`` are steps, cache interval and guidance."""
    steps, cache_interval, guidance = numbers
    return {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "seed": "" if seed is None else str(seed),
        "sampler": sampler,
        "steps": str(steps),
        "cache_interval": str(cache_interval),
        "guidance": repr(guidance),
        "cut": str(manifest.cut),
        "model": manifest.model,
        "weights": manifest.weights,
        **({"loras": loras_text(manifest)} if manifest.loras else {}),
        "software": "ddimcache",
    }


def loras_text(manifest: Manifest) -> str:
    """Return the LoRAs that a bundle has merged, as they were given."""
    return ", ".join(f"{lora.name}:{lora.scale:g}" for lora in manifest.loras)


def _check_suffix(path: Path, suffix: str, option: str) -> None:
    if path.suffix.lower() != suffix:
        raise UsageError(
            f"{path} does not end in {suffix}", where=option, remedy=f"name it like name{suffix}"
        )


def asked_size(given: dict[str, Any]) -> tuple[int, int] | None:
    """Return the size (width, height) among options that were given, None without one."""
    return (given["width"], given["height"]) if "width" in given else None


def check_fits(given: dict[str, Any], manifest: Manifest, folder: Path) -> None:
    """Refuse options that a finished bundle does not have."""
    if "loras" in given:
        raise UsageError(
            f"{folder} is compiled, and a LoRA is merged before that",
            where="--lora",
            remedy="name the diffusers folder with --model, or give --lora to `ddimcache compile`",
        )
    manifest.size_of(asked_size(given))
    found = {"weights": manifest.weights, "cut": manifest.cut}
    for name, value in given.items():
        if name in found and found[name] != value:
            raise UsageError(
                f"{folder} was compiled with {name} {found[name]}, not {value}",
                where=f"--{name}",
                remedy="leave the option out, or compile the model again with it",
            )


def _report(result: dict[str, Any], guidance: float) -> None:
    seconds = result["seconds"]
    print("\n".join(result["images"]) + "\n")
    passes = "2 UNet calls a step" if guidance > 1 else "1 UNet call a step"
    print_table(
        [
            ("text", seconds_text(seconds["text"]), ""),
            (
                "denoise",
                seconds_text(seconds["denoise"]),
                f"{result['full_steps']} full steps of {seconds_text(result['seconds_full_step'])}, "
                f"{result['cached_steps']} cached of {seconds_text(result['seconds_cached_step'])}; {passes}",
            ),
            ("decode", seconds_text(seconds["decode"]), ""),
            (
                "total",
                seconds_text(seconds["total"]),
                f"with loading; peak {bytes_text(result['peak_bytes'])}",
            ),
        ]
    )
    seed = "the noise of --latents" if result["seed"] is None else f"seed {result['seed']}"
    say(f"\non {result['device']}, {seed}")
    if result["sampler"] == "lcm":
        return
    if result["cache_interval"] == 1:
        say("next: --cache-interval 5 reuses the inner UNet on four of five steps")
    elif result["cached_steps"]:
        say("next: --cache-interval 1 with the same seed shows what the cache changes in the picture")
    else:
        say("next: more --steps than --cache-interval, so that the cache is used")
