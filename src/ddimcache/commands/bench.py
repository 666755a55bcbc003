"""``ddimcache bench``: how fast, against what, and whether the answer is right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddimcache.commands.bench_kernels import EXAMPLES as KERNEL_EXAMPLES
from ddimcache.commands.bench_kernels import bench_kernels
from ddimcache.commands.terminal import bytes_text, print_json, print_table, progress, say, seconds_text
from ddimcache.errors import UsageError

if TYPE_CHECKING:
    from ddimcache.commands.choose import ChosenDevice
    from ddimcache.runtime.bundle import Bundle
    from ddimcache.runtime.progress import Progress

EMBEDDED = "embedded"
STAND_INS = ("sd15", "sd21")
PEERS = ("torch", "openvino", "openvino-bf16")

EXAMPLES = """
[bold]Examples[/bold]

  ddimcache bench unet

  ddimcache bench unet --model sd15 --device opencl --repeats 3 --peer torch,openvino

  ddimcache bench unet --model sd15.bundle --reference ./stable-diffusion-v1-5 --json
"""

LAUNCH_EXAMPLES = """
[bold]Examples[/bold]

  ddimcache bench launch

  ddimcache bench launch --model sd15 --repeats 5 --json
"""

app = typer.Typer(no_args_is_help=True, help="Measure, and check the answers before any time is reported.")
app.command("kernels", epilog=KERNEL_EXAMPLES)(bench_kernels)


@app.command("unet", epilog=EXAMPLES)
def bench_unet(
    model: Annotated[
        str,
        typer.Option(
            help="Diffusers folder or bundle; embedded; or a size by name: sd15 and sd21 have random "
            "weights, written into the cache folder the first time.",
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

    Bytes and kernels are the UNet's alone.
    """
    from ddimcache.commands.choose import choose_device, load_compiler, local_device
    from ddimcache.runtime.bundle import is_bundle

    peers = _peers(peer)
    if repeats < 1:
        raise UsageError(f"{repeats} is below 1", where="--repeats")
    if device is not None:
        local_device(device)  # refused before anything is written or compiled
    load_compiler()
    bars = progress()
    folder = _find_model(model, bars)
    choices = {name: value for name, value in (("weights", weights), ("cut", cut)) if value is not None}
    if is_bundle(folder):
        bundle, source = _open(folder, reference, choices)
        chosen = choose_device(device, bundle.manifest.device_kind)
    else:
        if reference is not None:
            raise UsageError("is for a bundle; a folder is its own", where="--reference")
        chosen = choose_device(device)
        bundle, source = _compile(folder, choices, chosen, bars), folder
    from ddimcache.bench import unet
    from ddimcache.bench.cache_gain import speedups

    spec = local_device(chosen.name)
    threads = unet.core_count(spec)
    say(f"measuring on {chosen.name}, {repeats} repeats; peers with {_threads(threads)}")
    times = unet.measure(bundle, spec, source, peers=peers, repeats=repeats, threads=threads, progress=bars)
    component = bundle.manifest.components["unet"]
    speedup = speedups(times.seconds_full, times.seconds_cached)
    result = {
        "model": model,
        "device": chosen.name,
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
        "weights_bytes": component.weights_bytes,
        "activation_bytes": component.activation_bytes,
        "kernels": len(component.kernels),
    }
    if as_json:
        print_json(result)
    else:
        _report(result, bundle, threads)


@app.command("launch", epilog=LAUNCH_EXAMPLES)
def bench_launch(
    model: Annotated[
        str,
        typer.Option(
            help="Whose cached step is launched: diffusers folder or bundle, embedded, sd15 or sd21.",
            metavar="DIR|BUNDLE|embedded|sd15|sd21",
        ),
    ] = EMBEDDED,
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
    folder = _find_model(model, bars)
    chosen = choose_device(str(spec))
    bundle = open_bundle(folder) if is_bundle(folder) else _compile(folder, {}, chosen, bars)
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


def _find_model(name: str, bars: Progress) -> Path:
    from ddimcache.commands.choose import find_model

    if name in STAND_INS:
        return _stand_in(name, bars)
    return find_model(None if name == EMBEDDED else Path(name))


def _stand_in_folder(name: str) -> Path:
    from ddimcache.runtime.files import cache_folder

    return cache_folder() / "stand-ins" / name


def _stand_in(name: str, bars: Progress) -> Path:
    """Return a model of a published size with random weights, written the first time."""
    from ddimcache.models.stand_in import write_stand_in

    folder = _stand_in_folder(name)
    if not folder.is_dir():
        say(f"writing {name} with random weights; it is kept in {folder}")
        write_stand_in(name, folder, progress=bars)
    return folder


def _open(folder: Path, reference: Path | None, choices: dict[str, Any]) -> tuple[Bundle, Path]:
    """Return a finished bundle and the model folder that it was compiled from."""
    from ddimcache.runtime.bundle import open_bundle

    bundle = open_bundle(folder)
    manifest = bundle.manifest
    found = {"weights": manifest.weights, "cut": manifest.cut, "batch": manifest.batch}
    for name, value in {"batch": 1, **choices}.items():
        if found[name] != value:
            raise UsageError(
                f"{folder} was compiled with {name} {found[name]}, not {value}",
                where="--model" if name == "batch" else f"--{name}",
                remedy=f"compile the model again with --{name} {value}",
            )
    return bundle, _reference(bundle, reference)


def _reference(bundle: Bundle, given: Path | None) -> Path:
    from ddimcache.commands.choose import DEFAULT_MODEL, find_model
    from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder

    manifest = bundle.manifest
    candidates = [DEFAULT_MODEL, *map(_stand_in_folder, STAND_INS)]
    if given is not None:
        candidates = [find_model(given)]
    for folder in candidates:
        # The sums of gigabytes take a while: only of folders that could be meant.
        meant = given is not None or (folder.is_dir() and folder.resolve().name == manifest.model)
        if meant and load_pipeline_folder(folder).fingerprint() == manifest.model_fingerprint:
            return folder
    if given is not None:
        raise UsageError(f"{bundle.folder} was not compiled from {given}", where="--reference")
    raise UsageError(
        f"the answer of {bundle.folder} cannot be checked without the model that it was compiled from",
        where="--reference",
        remedy=f"name the diffusers folder of {manifest.model!r}",
    )


def _compile(folder: Path, choices: dict[str, Any], device: ChosenDevice, bars: Progress) -> Bundle:
    from ddimcache.commands.choose import compiled
    from ddimcache.compiler.options import CompileOptions

    return compiled(folder, CompileOptions(target=device.target, host=device.host, **choices), bars)


def _report(result: dict[str, Any], bundle: Bundle, threads: int) -> None:
    from ddimcache.bench.cache_gain import PUBLISHED_EFFICIENCY, PUBLISHED_SPEEDUP, STEPS, step_counts

    manifest = bundle.manifest
    width, height = manifest.image_size
    rows: list[tuple[str, ...]] = [
        ("model", f"{result['model']}, {width}×{height}, weights {manifest.weights}, cut {manifest.cut}"),
        ("device", result["device"]),
        ("full call", seconds_text(result["seconds_full"])),
        ("cached call", seconds_text(result["seconds_cached"])),
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
