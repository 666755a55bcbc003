"""``ddimcache bench table1``: whole images by steps and cache interval, beside the paper's."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ddimcache.commands import bench_options
from ddimcache.commands.quality import parse_numbers
from ddimcache.commands.terminal import print_json, print_table, progress, say, seconds_text
from ddimcache.errors import UsageError

EXAMPLES = """
  ddimcache bench table1

  ddimcache bench table1 --model sd15 --steps 20 --intervals 1,2,5,10 \\
      --guidance 1

  ddimcache bench table1 --steps 20,50,100,1000 --json
"""


def bench_table1(
    model: bench_options.Model = bench_options.EMBEDDED,
    reference: bench_options.Reference = None,
    device: bench_options.Device = None,
    weights: bench_options.Weights = None,
    cut: bench_options.Cut = None,
    size: bench_options.Size = None,
    steps: Annotated[str, typer.Option(help="DDIM steps, separated by commas.")] = "20,50,100",
    intervals: Annotated[
        str, typer.Option(help="Cache intervals n, separated by commas; 1 is always measured.")
    ] = "1,2,3,5,6,10",
    guidance: Annotated[
        float, typer.Option(help="Above 1 every step runs the UNet for two prompts, as the paper's.")
    ] = 7.5,
    repeats: Annotated[int, typer.Option(help="Rounds in which every loop is timed; the median counts.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Time whole denoising loops by DDIM steps and cache interval, as in Table 1 of DDIMCache's paper.

    S(n) is the time without the cache over that at interval n, E(n) is S(n) / n; both are measured here, in
    the loop that draws pictures.

    The UNet's full and cached answers are held against PyTorch's before any time is taken.
    """
    from ddimcache.bench import table1, unet
    from ddimcache.runtime.session import check_sampling

    all_steps = parse_numbers(steps, "--steps", 1000)
    all_intervals = sorted({1, *parse_numbers(intervals, "--intervals", 1000)})
    for count in all_steps:
        check_sampling(count, 1, guidance)
    if repeats < 1:
        raise UsageError(f"{repeats} is below 1", where="--repeats")
    bars = progress()
    found = bench_options.find_subject(model, reference, device, weights, cut, size, bars)
    threads = unet.core_count(found.spec)
    error = unet.check(found.bundle, found.spec, found.source, threads=threads, progress=bars)
    say(f"measuring on {found.device}, {len(all_steps) * len(all_intervals)} loops, {repeats} repeats")
    times = table1.measure(
        found.bundle,
        found.spec,
        steps=all_steps,
        intervals=all_intervals,
        guidance=guidance,
        repeats=repeats,
        progress=bars,
    )
    alone = {time.steps: time.seconds for time in times if time.cache_interval == 1}
    loops = []
    for time in times:
        published = table1.PUBLISHED_SECONDS.get(time.steps, {})
        seconds = published.get(time.cache_interval)
        speedup = alone[time.steps] / time.seconds
        loops.append(
            {
                "steps": time.steps,
                "cache_interval": time.cache_interval,
                "full_steps": time.full_steps,
                "cached_steps": time.cached_steps,
                "seconds": time.seconds,
                "speedup": speedup,
                "efficiency": speedup / time.cache_interval,
                "published_seconds": seconds,
                "published_speedup": published[1] / seconds if seconds else None,
            }
        )
    result = {"model": model, "device": found.device, "guidance": guidance, "error": error, "loops": loops}
    if as_json:
        print_json(result)
    else:
        _report(result)


def _report(result: dict[str, Any]) -> None:
    head = [("model", result["model"]), ("device", result["device"]), ("guidance", f"{result['guidance']:g}")]
    print_table([*head, ("error", f"{result['error']:.2g} of the largest number")])
    print()
    rows = []
    for loop in result["loops"]:
        published, gain = loop["published_seconds"], loop["published_speedup"]
        rows.append(
            (
                str(loop["steps"]),
                str(loop["cache_interval"]),
                f"{loop['full_steps']} + {loop['cached_steps']}",
                seconds_text(loop["seconds"]),
                f"{loop['speedup']:.2f}",
                f"{loop['efficiency']:.2f}",
                f"{published:g} s" if published else "",
                f"{gain:.2f}" if gain else "",
            )
        )
    heading = ("steps", "n", "full + cached", "loop", "S(n)", "E(n)", "paper's", "its S(n)")
    print_table(rows, heading, right=tuple(range(len(heading))))
    say("\nthe paper's: Table 1 of Wu, Kybernetika 60(6), 2024; SD 1.5 on a Galaxy S23 Ultra, whole images")
