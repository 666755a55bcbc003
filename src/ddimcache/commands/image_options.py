"""Options of a picture that more than one verb takes, each said once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddimcache.commands.terminal import say
from ddimcache.errors import UsageError

if TYPE_CHECKING:
    from ddimcache.runtime.tokenizer import Tokenizer

Model = Annotated[
    Path | None,
    typer.Option(help="Diffusers folder or bundle. Default: the embedded model.", metavar="DIR|BUNDLE"),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="int8, int8-g32, int8-g64, int8-g128, fp16 or fp32, for a folder that is compiled. "
        "Default: int8."
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        help="LoRA to merge into the model before it is compiled, safetensors of diffusers, PEFT or kohya, "
        "and how much of it; give it once a file. Default scale: 1.",
        metavar="FILE[:SCALE]",
    ),
]
Cut = Annotated[int | None, typer.Option(help="Where the cache cuts the UNet, 0 the outermost. Default: 0.")]
Size = Annotated[
    str | None,
    typer.Option(
        help="Pixels, of a bundle one of its sizes. Default: the model's own, or the bundle's first.",
        metavar="WIDTHxHEIGHT",
    ),
]
Steps = Annotated[int, typer.Option(help="Steps of the sampler, 1 … 1000.")]
Sampler = Annotated[
    str,
    typer.Option(
        help="ddim, euler, dpm++2m, euler-karras or dpm++2m-karras (with Karras' noise levels), or lcm for a "
        "model that was distilled for it: 2 to 8 steps, no cache, hardly any guidance."
    ),
]
CacheInterval = Annotated[
    int,
    typer.Option(help="Run the whole UNet every n-th step and reuse its U2 feature between; 1: always."),
]
CacheIntervalOfSampler = Annotated[
    int | None,
    typer.Option(
        help="Run the whole UNet every n-th step and reuse its U2 feature between; 1: always. Default: 5; 1 "
        "with --sampler lcm, which takes no other."
    ),
]
CacheSchedule = Annotated[
    str,
    typer.Option(
        help="Which steps run the whole UNet, at the number that the interval makes: uniform, quadratic, "
        "searched (kept in the bundle by `ddimcache schedule`), or auto: searched where there is one."
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        help="Scale of classifier-free guidance; 1 or below: none. Default: 7.5; embedded model 2; lcm 1."
    ),
]
NegativePrompt = Annotated[str, typer.Option(help="What not to draw.")]


def default_guidance(model: Path | None) -> float:
    """Return the guidance where none is named, of a model folder or bundle.

    The embedded model follows its captions without much of it, and its shapes bend with more.
    """
    from ddimcache.commands.choose import is_embedded

    return 2.0 if is_embedded(model) else 7.5


def of_sampler(
    sampler: str, cache_interval: int | None, guidance: float | None, model: Path | None
) -> tuple[int, float]:
    """Return cache interval and guidance, by what suits the sampler and the model where they are not named.

    Raises :class:`UsageError` for a cache with ``lcm``.
    """
    is_lcm = sampler == "lcm"
    if is_lcm and cache_interval is not None and cache_interval > 1:
        raise UsageError(
            "lcm's few steps are too far apart to reuse each other's features",
            where="--cache-interval",
            remedy="use 1, or another --sampler",
        )
    if cache_interval is None:
        cache_interval = 1 if is_lcm else 5
    if guidance is None:
        guidance = 1.0 if is_lcm else default_guidance(model)
    return cache_interval, guidance


def picture_files(output: Path, count: int) -> list[Path]:
    """Return the files of ``count`` pictures that are made at once: ``output``, or as many beside it.

    Raises :class:`UsageError` where one of these cannot be written.
    """
    from ddimcache.runtime.files import check_can_write

    if count == 1:
        return [output]
    files = [output.with_stem(f"{output.stem}-{number}") for number in range(1, count + 1)]
    for file in files:
        check_can_write(file, "--output")
    return files


def check_text(text: str, where: str) -> None:
    """Raise :class:`UsageError` for a text that no picture file could name."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError("is not UTF-8", where=where, remedy="check the terminal's encoding") from error
    if "\0" in text:
        raise UsageError("holds a NUL character", where=where)


def warn_of_long_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """Say of which texts the model does not read the end, at most three of them."""
    ends = [end for end in map(tokenizer.left_out, texts) if end]
    for end in ends[:3]:
        shown = end if len(end) <= 80 else f"{end[:79]}…"
        # Two of the places are for the tokens of begin and end.
        say(f"longer than the {tokenizer.max_length - 2} tokens that the model reads; left out: {shown!r}")
    if len(ends) > 3:
        say(f"so are {len(ends) - 3} other prompts")


def warn_of_unused_text(negative_prompt: str, guidance: float) -> None:
    """Say that a negative prompt was given in vain."""
    if negative_prompt and guidance <= 1:
        say(f"the negative prompt changes nothing: there is no guidance at {guidance:g}")
