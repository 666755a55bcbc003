"""``ddimcache bench``: how fast, against what, and whether the answer is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddimcache.commands import bench_options
from ddimcache.commands.bench_decoder import EXAMPLES as DECODER_EXAMPLES
from ddimcache.commands.bench_decoder import bench_decoder
from ddimcache.commands.bench_kernels import EXAMPLES as KERNEL_EXAMPLES
from ddimcache.commands.bench_kernels import bench_kernels
from ddimcache.commands.bench_table1 import EXAMPLES as TABLE1_EXAMPLES
from ddimcache.commands.bench_table1 import bench_table1
from ddimcache.commands.examples import Verb
from ddimcache.commands.terminal import bytes_text, print_json, print_table, progress, say, seconds_text
from ddimcache.errors import UsageError

if TYPE_CHECKING:
    from ddimcache.runtime.bundle import Bundle

PEERS = ("torch", "openvino", "openvino-bf16")

EXAMPLES = """
  ddimcache bench unet

  ddimcache bench unet --model sd15 --device opencl --repeats 3 \\
      --peer torch,openvino

  ddimcache bench unet --model sd15.bundle \\
      --reference ./stable-diffusion-v1-5 --json
"""

LAUNCH_EXAMPLES = """
  ddimcache bench launch

  ddimcache bench launch --model sd15 --repeats 5 --json
"""

app = typer.Typer(no_args_is_help=True, help="Measure, and check the answers before any time is reported.")
app.command("kernels", cls=Verb, epilog=KERNEL_EXAMPLES)(bench_kernels)
app.command("decoder", cls=Verb, epilog=DECODER_EXAMPLES)(bench_decoder)
app.command("table1", cls=Verb, epilog=TABLE1_EXAMPLES)(bench_table1)


@app.command("unet", cls=Verb, epilog=EXAMPLES)
def bench_unet(
    model: bench_options.Model = bench_options.EMBEDDED,
    reference: bench_options.Reference = None,
    device: bench_options.Device = None,
    weights: bench_options.Weights = None,
    cut: bench_options.Cut = None,
    size: bench_options.Size = None,
    peer: Annotated[
        str, typer.Option(help=f"What to compare with, separated by commas: {', '.join(PEERS)}.")
    ] = "torch",
    repeats: Annotated[
        int, typer.Option(help="How often each kind of call is timed; the median counts.")
    ] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Time one full and one cached call of the UNet at batch 1, in turns with its peers.

    An answer further than 1 % of the largest number from PyTorch's, of the same rounded weights, fails.

    PyTorch computes in float32, eagerly; OpenVINO (not installed with ddimcache) in float32 or bfloat16; all
    on as many threads as we use cores. A peer's ratio is its time over ours.

    The cache's speed-up S(n) and efficiency S(n)/n follow from both times and 50 steps.

    A bundle that guides in one call shows the time of such calls, and the ratio to two calls.

    Bytes and kernels are the UNet's alone.
    """
    peers = _peers(peer)
    if repeats < 1:
        raise UsageError(f"{repeats} is below 1", where="--repeats")
    bars = progress()
    found = bench_options.find_subject(model, reference, device, weights, cut, size, bars)
    from ddimcache.bench import unet
    from ddimcache.bench.cache_gain import speedups

    bundle, spec = found.bundle, found.spec
    threads = unet.core_count(spec)
    say(f"measuring on {found.device}, {repeats} repeats; peers with {_threads(threads)}")
    times = unet.measure(
        bundle, spec, found.source, peers=peers, repeats=repeats, threads=threads, progress=bars
    )
    component = bundle.manifest.components["unet"]
    speedup = speedups(times.seconds_full, times.seconds_cached)
    result = {
        "model": model,
        "device": found.device,
        "seconds_full": times.seconds_full,
        "seconds_cached": times.seconds_cached,
        "seconds_once": times.seconds_once,
        "speedup": {str(interval): value for interval, value in speedup.items()},
        "efficiency": {str(interval): value / interval for interval, value in speedup.items()},
        "error": times.error,
        "peers": {
            name: {"seconds": seconds, "ratio": seconds / times.seconds_full}
            for name, seconds in times.peers.items()
        },
        "guided": {
            name: {"seconds": seconds, "ratio": seconds / (2 * getattr(times, f"seconds_{name}"))}
            for name, seconds in times.seconds_guided.items()
        },
        "weights_bytes": component.weights_bytes,
        "activation_bytes": component.activation_bytes,
        "kernels": len(component.kernels),
    }
    if as_json:
        print_json(result)
    else:
        _report(result, bundle, threads)


@app.command("launch", cls=Verb, epilog=LAUNCH_EXAMPLES)
def bench_launch(
    model: Annotated[
        str,
        typer.Option(
            help="Whose cached step is launched: diffusers folder or bundle, embedded, sd15 or sd21.",
            metavar="DIR|BUNDLE|embedded|sd15|sd21",
        ),
    ] = bench_options.EMBEDDED,
    device: Annotated[
        str | None, typer.Option(help="opencl or opencl:1. Default: the first OpenCL device.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Rounds in which every way is timed; the median counts.")] = 15,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Time what a launch costs: direct, replayed one by one, and by what the driver has for replays.

    A kernel that does next to nothing shows the cost alone, the UNet's cached step what is left of it.

    The profile's overhead is a step's time with one over that without.
    """
    from ddimcache.commands.choose import choose_device, load_compiler, local_device
    from ddimcache.runtime.bundle import is_bundle, open_bundle

    if repeats < 1:
        raise UsageError(f"{repeats} is below 1", where="--repeats")
    spec = local_device(device or "opencl")
    if spec.kind != "opencl":
        raise UsageError("only OpenCL has launches to replay", where="--device", remedy="use opencl")
    load_compiler()
    bars = progress()
    folder = bench_options.find_model_of(model, bars)
    chosen = choose_device(str(spec))
    bundle = open_bundle(folder) if is_bundle(folder) else bench_options.compile_for(folder, {}, chosen, bars)
    from ddimcache.bench import launch

    say(f"measuring on {chosen.name}, {repeats} repeats")
    costs = launch.measure(bundle, spec, repeats=repeats, progress=bars)
    counts = {"kernel": launch.LAUNCHES, "step": costs.step_launches}
    result: dict[str, Any] = {"model": model, "device": chosen.name, "automatic": costs.automatic}
    for name, ways in (("kernel", costs.kernel), ("step", costs.step)):
        result[name] = {
            "launches": counts[name],
            **{
                way: {
                    "host_seconds_a_launch": cost.host_seconds / counts[name],
                    "seconds_a_launch": cost.seconds / counts[name],
                    "ratio": cost.seconds / ways["direct"].seconds,
                }
                for way, cost in ways.items()
            },
        }
    result["profile"] = {"ratio": costs.profile}
    if as_json:
        print_json(result)
    else:
        _report_launches(result)


def _report_launches(result: dict[str, Any]) -> None:
    print_table([("device", result["device"]), ("model", result["model"])])
    titles = {"kernel": "launches of a kernel that adds one", "step": "launches of a cached step"}
    for name, title in titles.items():
        print(f"\n{result[name]['launches']} {title}, microseconds a launch:\n")
        rows = [
            (
                way,
                f"{cost['host_seconds_a_launch'] * 1e6:.2f}",
                f"{cost['seconds_a_launch'] * 1e6:.2f}",
                f"{cost['ratio']:.3f}",
            )
            for way, cost in result[name].items()
            if way != "launches"
        ]
        print_table(rows, ("launched", "handed over", "run", "over direct"), right=(1, 2, 3))
    print(f"\na recording here uses {result['automatic']} where nobody chooses")
    print(f"a profiled step takes {result['profile']['ratio']:.3f} × the time of one that is not")


def _peers(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in PEERS:
            raise UsageError(f"{name!r} is none of: {', '.join(PEERS)}", where="--peer")
    if set(names) & {"openvino", "openvino-bf16"}:
        from ddimcache.bench.openvino_unet import require_openvino

        require_openvino()
    return names


def _report(result: dict[str, Any], bundle: Bundle, threads: int) -> None:
    from ddimcache.bench.cache_gain import PUBLISHED_EFFICIENCY, PUBLISHED_SPEEDUP, STEPS, step_counts

    manifest = bundle.manifest
    width, height = manifest.image_size
    rows: list[tuple[str, ...]] = [
        ("model", f"{result['model']}, {width}×{height}, weights {manifest.weights}, cut {manifest.cut}"),
        ("device", result["device"]),
        ("full call", seconds_text(result["seconds_full"])),
        ("cached call", seconds_text(result["seconds_cached"])),
        *(
            (f"both prompts, {name}", f"{seconds_text(both['seconds'])}, {both['ratio']:.3f} × two calls")
            for name, both in result["guided"].items()
        ),
        *((f"before the steps, {name}", seconds_text(once)) for name, once in result["seconds_once"].items()),
        ("error", f"{result['error']:.2g} of the largest number"),
    ]
    rows += [
        (f"{name}, full", f"{seconds_text(peer['seconds'])}, {peer['ratio']:.3g} × ours, {_threads(threads)}")
        for name, peer in result["peers"].items()
    ]
    rows += [
        ("weights", bytes_text(result["weights_bytes"])),
        ("activations", bytes_text(result["activation_bytes"])),
        ("kernels", str(result["kernels"])),
    ]
    print_table(rows)
    print(f"\nthe cache over {STEPS} steps:\n")
    table: list[tuple[str, ...]] = []
    for interval, published in PUBLISHED_SPEEDUP.items():
        full, cached = step_counts(interval)
        speedup, efficiency = (result[name][str(interval)] for name in ("speedup", "efficiency"))
        numbers = (speedup, published, efficiency, PUBLISHED_EFFICIENCY[interval])
        table.append((str(interval), str(full), str(cached), *(f"{number:.2f}" for number in numbers)))
    heading = ("n", "full", "cached", "S(n)", "paper's S", "E(n)", "paper's E")
    print_table(table, heading, right=tuple(range(len(heading))))
    say("\nthe paper's: Table 3 of Wu, Kybernetika 60(6), 2024; SD 1.5 on a Galaxy S23 Ultra")


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"
