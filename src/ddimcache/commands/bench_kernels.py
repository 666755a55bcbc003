"""``ddimcache bench kernels``: where the time of a step goes, and against what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from ddimcache.commands.terminal import print_json, print_table, progress, say, seconds_text
from ddimcache.errors import UsageError
from ddimcache.manifest import WeightsKind

if TYPE_CHECKING:
    from ddimcache.bench.kernels.measure import KernelTime
    from ddimcache.runtime.peaks import Peaks

PEERS = ("torch", "clblast")

EXAMPLES = """
  ddimcache bench kernels

  ddimcache bench kernels --model sd21 --family conv3x3,attention \\
      --function decode

  ddimcache bench kernels --family matmul --shape 4096x320x320 \\
      --peer torch,clblast --json
"""


def bench_kernels(
    model: Annotated[
        str, typer.Option(help="Whose shapes: sd15 or sd21, at 512x512 and 768x768.", metavar="sd15|sd21")
    ] = "sd15",
    function: Annotated[
        str,
        typer.Option(
            help="Whose kernels, and how often each counts: those of a full or a cached step, or of the "
            "decoder.",
            metavar="full|cached|decode",
        ),
    ] = "full",
    family: Annotated[
        str | None,
        typer.Option(
            help="Only these, separated by commas: matmul, conv1x1, conv3x3, conv_strided, attention, "
            "group_norm, layer_norm, geglu, resize."
        ),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Only this one, as the table shows it: 64x64x320x320.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="opencl, opencl:1 or llvm. Default: the first OpenCL device, else llvm."),
    ] = None,
    weights: Annotated[str, typer.Option(help="int8, int8-g32, int8-g64, int8-g128, fp16 or fp32.")] = "int8",
    activations: Annotated[
        str, typer.Option(help="float, or int8: those of matrix products with int8 weights are rounded too.")
    ] = "float",
    peer: Annotated[
        str, typer.Option(help="What to compare with: torch, clblast (matrix products only), or both.")
    ] = "torch",
    repeats: Annotated[int, typer.Option(help="Rounds in which each is timed; the median counts.")] = 7,
    tune_log: Annotated[
        str | None,
        typer.Option(
            help="Tuning records to use in place of those that come with the package; none for the defaults.",
            metavar="DIR|none",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Time a model's kernels one by one, in turns with PyTorch, and add them up as a step calls them.

    Each layer is compiled as in a model, with its bias; an answer further than 0.1 % of the largest number
    from PyTorch's, of the same rounded weights, fails; 3 % where activations are rounded too.

    The device's peaks are measured first, by its own clock. By the same clock it is at work for the time
    under "on device": what a call takes without the way there and back, for which a step does not wait. Rates
    and shares of the peak are of that time. Products are held against the device's float32 arithmetic, by
    the definition's operations also where Winograd needs fewer, or int8 has four of them at a time; what is
    no product against one read and one write.
    """
    from ddimcache.bench.kernels.shapes import FAMILIES, FUNCTIONS, MODELS, read_shapes
    from ddimcache.commands.choose import choose_device, load_compiler, local_device
    from ddimcache.compiler.options import ACTIVATION_KINDS

    _one_of(model, MODELS, "--model")
    _one_of(function, FUNCTIONS, "--function")
    _one_of(weights, get_args(WeightsKind), "--weights")
    _one_of(activations, ACTIVATION_KINDS, "--activations")
    if activations == "int8" and not weights.startswith("int8"):
        raise UsageError(f"int8 needs weights of int8, not {weights}", where="--activations")
    families = FAMILIES if family is None else _list(family, FAMILIES, "--family")
    peers = _list(peer, PEERS, "--peer")
    if repeats < 1:
        raise UsageError(f"{repeats} is below 1", where="--repeats")
    if device is not None:
        local_device(device)
    shapes = [
        one
        for one in read_shapes(model).kernels
        if getattr(one, function) and one.family in families and shape in (None, one.text)
    ]
    if not shapes:
        raise UsageError(f"{model} has no such kernel in {function}", where="--shape")
    load_compiler()
    chosen = choose_device(device)
    spec = local_device(chosen.name)
    if spec.kind != "opencl" and "clblast" in peers:
        raise UsageError("runs on OpenCL only", where="--peer clblast", remedy="use --device opencl")
    from ddimcache.bench.kernels.clblast import find_clblast
    from ddimcache.bench.kernels.measure import measure
    from ddimcache.bench.unet import core_count
    from ddimcache.runtime.peaks import device_peaks
    from ddimcache.schedules.tuning_records import tuned_profile

    if "clblast" in peers and find_clblast() is None:
        say("CLBlast is not installed and not compared with (apt-get install libclblast1)")
        peers = tuple(name for name in peers if name != "clblast")
    peaks = device_peaks(spec.index, again=True)[0] if spec.kind == "opencl" else None
    tuned, skipped = tuned_profile(chosen.target, tune_log)
    for line in skipped:
        say(line)
    threads = core_count(spec)
    say(f"measuring on {chosen.name}, {repeats} repeats; PyTorch with {threads} threads")
    times = list(
        measure(
            shapes,
            spec,
            tuned,
            chosen.host,
            weights=weights,
            activations=activations,
            peers=peers,
            repeats=repeats,
            threads=threads,
            progress=progress(),
        )
    )
    result: dict[str, Any] = {
        "model": model,
        "function": function,
        "device": chosen.name,
        "weights": weights,
        "activations": activations,
        "peak_gflops": None if peaks is None else peaks.gflops["float32"],
        "peak_gbytes": None if peaks is None else peaks.gbytes,
        "kernels": [_kernel(time, function, peaks) for time in times],
    }
    result["families"] = {name: _family(result["kernels"], name, peers) for name in families}
    result["families"] = {name: total for name, total in result["families"].items() if total is not None}
    if as_json:
        print_json(result)
    else:
        _report(result, peers)


def _one_of(value: str, names: tuple[str, ...], option: str) -> None:
    if value not in names:
        raise UsageError(f"{value!r} is none of: {', '.join(names)}", where=option)


def _list(text: str, names: tuple[str, ...], option: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in found:
        _one_of(name, names, option)
    return found


def _kernel(time: KernelTime, function: str, peaks: Peaks | None) -> dict[str, Any]:
    shape = time.shape
    seconds = time.seconds if time.on_device is None else time.on_device
    floor = None
    if peaks is not None:
        floor = (
            2 * shape.macs / (peaks.gflops["float32"] * 1e9)
            if shape.macs
            else 4 * shape.elements_moved / (peaks.gbytes * 1e9)
        )
    return {
        "family": shape.family,
        "shape": shape.text,
        "calls": getattr(shape, function),
        "launches": time.launches,
        "error": time.error,
        "seconds": time.seconds,
        "seconds_on_device": time.on_device,
        "gflops": 2 * shape.macs / seconds / 1e9,
        "gbytes": 4 * shape.elements_moved / seconds / 1e9,
        "of_peak": None if floor is None else floor / seconds,
        "peers": {
            name: {"seconds": seconds, "ratio": seconds / time.seconds}
            for name, seconds in time.peers.items()
        },
    }


def _family(kernels: list[dict[str, Any]], family: str, peers: tuple[str, ...]) -> dict[str, Any] | None:
    """Sums over a function's calls; a peer's ratio is over the kernels that it computes too."""
    members = [kernel for kernel in kernels if kernel["family"] == family]
    if not members:
        return None

    def total(of: list[dict[str, Any]], seconds: Any) -> float:
        return sum(kernel["calls"] * seconds(kernel) for kernel in of)

    ours = total(members, lambda kernel: kernel["seconds"])
    result: dict[str, Any] = {"seconds": ours, "seconds_on_device": None, "of_peak": None, "peers": {}}
    if members[0]["of_peak"] is not None:
        on_device = total(members, lambda kernel: kernel["seconds_on_device"])
        floor = total(members, lambda kernel: kernel["of_peak"] * kernel["seconds_on_device"])
        result["seconds_on_device"], result["of_peak"] = on_device, floor / on_device
    for peer in peers:
        both = [kernel for kernel in members if peer in kernel["peers"]]
        if both:
            theirs = total(both, lambda kernel, peer=peer: kernel["peers"][peer]["seconds"])
            result["peers"][peer] = {
                "seconds": theirs,
                "ratio": theirs / total(both, lambda kernel: kernel["seconds"]),
            }
    return result


def _report(result: dict[str, Any], peers: tuple[str, ...]) -> None:
    if result["peak_gflops"] is not None:
        say(f"peaks: {result['peak_gflops']:.0f} GFLOP/s, {result['peak_gbytes']:.1f} GB/s\n")
    rows = [
        (
            kernel["family"],
            kernel["shape"],
            str(kernel["calls"]),
            seconds_text(kernel["seconds"]),
            _seconds(kernel["seconds_on_device"]),
            f"{kernel['gflops']:.0f}" if kernel["gflops"] else "",
            f"{kernel['gbytes']:.1f}",
            _percent(kernel["of_peak"]),
            *(_ratio(kernel, peer) for peer in peers),
        )
        for kernel in result["kernels"]
    ]
    heading = (
        "family",
        "shape",
        "calls",
        "a call",
        "on device",
        "GFLOP/s",
        "GB/s",
        "of peak",
        *(f"{p} ×" for p in peers),
    )
    print_table(rows, heading, right=tuple(range(2, len(heading))))
    print(f"\nall calls of {result['function']}, by family:\n")
    rows = [
        (
            name,
            seconds_text(total["seconds"]),
            _seconds(total["seconds_on_device"]),
            _percent(total["of_peak"]),
            *(_ratio(total, peer) for peer in peers),
        )
        for name, total in result["families"].items()
    ]
    heading = ("family", "all calls", "on device", "of peak", *(f"{p} ×" for p in peers))
    print_table(rows, heading, right=tuple(range(1, len(heading))))


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else seconds_text(seconds)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _ratio(entry: dict[str, Any], peer: str) -> str:
    return f"{entry['peers'][peer]['ratio']:.2f}" if peer in entry["peers"] else ""
