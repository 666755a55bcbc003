"""``ddimcache bench decoder``: from latents to a picture, beside PyTorch."""

from __future__ import annotations

from typing import Annotated

import typer

from ddimcache.commands import bench_options
from ddimcache.commands.terminal import bytes_text, print_json, print_table, progress, say, seconds_text
from ddimcache.errors import UsageError

EXAMPLES = """
  ddimcache bench decoder

  ddimcache bench decoder --model sd15 --repeats 3 --json
"""


def bench_decoder(
    model: bench_options.Model = bench_options.EMBEDDED,
    reference: bench_options.Reference = None,
    device: bench_options.Device = None,
    weights: bench_options.Weights = None,
    size: bench_options.Size = None,
    repeats: Annotated[int, typer.Option(help="How often each decodes; the median counts.")] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Time the image decoder in turns with PyTorch, which computes in float32, eagerly, on as many cores.

    A pixel more than 2 of 255 levels from PyTorch's, of the same latents and rounded weights, fails.
    """
    from ddimcache.bench import decoder, unet

    if repeats < 1:
        raise UsageError(f"{repeats} is below 1", where="--repeats")
    bars = progress()
    found = bench_options.find_subject(model, reference, device, weights, None, size, bars)
    threads = unet.core_count(found.spec)
    say(f"measuring on {found.device}, {repeats} repeats; PyTorch on as many cores: {threads}")
    times = decoder.measure(
        found.bundle, found.spec, found.source, repeats=repeats, threads=threads, progress=bars
    )
    component = found.bundle.manifest.components["vae_decoder"]
    ratio = times.torch_seconds / times.seconds
    if as_json:
        print_json(
            {
                "model": model,
                "device": found.device,
                "seconds": times.seconds,
                "levels": times.levels,
                "peers": {"torch": {"seconds": times.torch_seconds, "ratio": ratio}},
                "weights_bytes": component.weights_bytes,
                "activation_bytes": component.activation_bytes,
                "kernels": len(component.kernels),
            }
        )
        return
    width, height = found.bundle.manifest.image_size
    print_table(
        [
            ("model", f"{model}, {width}×{height}, weights {found.bundle.manifest.weights}"),
            ("device", found.device),
            ("a picture", seconds_text(times.seconds)),
            ("torch", f"{seconds_text(times.torch_seconds)}, {ratio:.3g} × ours"),
            ("difference", f"{times.levels} of 255 levels at most"),
            ("weights", bytes_text(component.weights_bytes)),
            ("activations", bytes_text(component.activation_bytes)),
            ("kernels", str(len(component.kernels))),
        ]
    )
