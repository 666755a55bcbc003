"""``ddimcache bench``: how fast, against what, and whether the answer is right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddimcache.commands.terminal import bytes_text, print_json, print_table, progress, say, seconds_text
from ddimcache.errors import UsageError

if TYPE_CHECKING:
    from ddimcache.runtime.bundle import Bundle
    from ddimcache.runtime.progress import Progress

EMBEDDED = "embedded"
STAND_INS = ("sd15", "sd21")

EXAMPLES = """
[bold]Examples[/bold]

  ddimcache bench unet

  ddimcache bench unet --model sd15 --device opencl --repeats 3

  ddimcache bench unet --model sd15.bundle --reference ./stable-diffusion-v1-5 --json
"""

app = typer.Typer(no_args_is_help=True, help="Measure, and check the answers before any time is reported.")


@app.command("unet", epilog=EXAMPLES)
def bench_unet(
    model: Annotated[
        str,
        typer.Option(
            help="Diffusers folder or bundle, embedded, or a size by name: sd15 and sd21 have random weights, "
            "written into the cache folder the first time.",
            metavar="DIR|BUNDLE|embedded|sd15|sd21",
        ),
    ] = EMBEDDED,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="For a bundle: the diffusers folder it was compiled from, which its answer is checked "
            "against. The embedded model and sizes by name are found without.",
            metavar="DIR",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="opencl, opencl:1 or llvm. Default: what a bundle was compiled for; for a folder the first "
            "OpenCL device, else llvm."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="int8, fp16 or fp32, for a folder that is compiled. Default: int8.")
    ] = None,
    cut: Annotated[
        int | None, typer.Option(help="Where the cache cuts the UNet, 0 the outermost. Default: 0.")
    ] = None,
    peer: Annotated[str, typer.Option(help="What to compare with, separated by commas: torch.")] = "torch",
    repeats: Annotated[int, typer.Option(help="Timed calls of each kind; their median counts.")] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Time one full and one cached call of the UNet at batch 1, in turns with PyTorch.

    First the answer of both is checked against PyTorch with the same rounded weights: an error above 1 % of
    the largest number fails, and nothing is timed. Speed-up and efficiency of the cache are computed from the
    two times for 50 steps. PyTorch runs in float32 and eager mode on as many threads as we use cores; a
    peer's ratio is its time over ours. Bytes and kernels are the UNet's.
    """
    peers = _peers(peer)
    if repeats < 1:
        raise UsageError(f"{repeats} is below 1", where="--repeats")
    from ddimcache.commands.choose import choose_device, load_compiler, local_device

    if device is not None:
        local_device(device)  # refused before anything is written or compiled
    load_compiler()
    bars = progress()
    folder = _find_model(model, bars)
    bundle, source, chosen = _prepare(folder, reference, {"weights": weights, "cut": cut})(
        lambda kind: choose_device(device, kind), bars
    )
    from ddimcache.bench import unet

    spec = local_device(chosen)
    threads = unet.core_count(spec)
    say(f"measuring on {chosen}; PyTorch with {threads} thread{'s' * (threads != 1)}, {repeats} repeats")
    times = unet.measure(
        bundle, spec, source, peers=peers, repeats=repeats, threads=threads, progress=bars
    )
