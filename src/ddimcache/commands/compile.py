"""``ddimcache compile``: a diffusers folder in, a bundle out."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from ddimcache.commands import image_options
from ddimcache.commands.terminal import (
    bytes_text,
    parse_bytes,
    parse_sizes,
    print_json,
    print_table,
    progress,
    say,
    seconds_text,
)
from ddimcache.errors import UsageError

EXAMPLES = """
  ddimcache compile ./stable-diffusion-v1-5 -o sd15.bundle \\
      --target adreno-740 --host aarch64-linux-android

  ddimcache compile ./stable-diffusion-v1-5 -o ink.bundle \\
      --lora ink.safetensors:0.8 --lora detail.safetensors

  ddimcache compile ./stable-diffusion-v1-5 -o sd15.bundle --image-to-image

  ddimcache compile ./stable-diffusion-v1-5 -o sd15.bundle \\
      --guide-in-one-call

  ddimcache compile ./stable-diffusion-v1-5 -o fast.bundle \\
      --activations int8 --attention bfloat16

  ddimcache compile ./stable-diffusion-inpainting -o inpaint.bundle

  ddimcache compile ./stable-diffusion-v1-5 -o sd15.bundle \\
      --size 512x512,640x384,384x640

  ddimcache compile ./my-model -o my.bundle --target llvm --weights fp32 \\
      --size 256x256 --json
"""


def compile_model(
    model: Annotated[Path, typer.Argument(help="Diffusers folder (SD 1.x or 2.x).", metavar="MODEL")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle's folder.", metavar="BUNDLE")],
    target: Annotated[str, typer.Option(help="adreno-740, opencl or llvm.")] = "opencl",
    weights: Annotated[str, typer.Option(help="int8, int8-g32, int8-g64, int8-g128, fp16 or fp32.")] = "int8",
    cut: Annotated[int, typer.Option(help="Where the cache cuts the UNet, 0 the outermost.")] = 0,
    size: Annotated[
        str | None,
        typer.Option(
            help="Pixels; several with commas, or a range such as 384..640x384..640:64, make one bundle for "
            "all of them, whose first is drawn by default. Default: the model's own.",
            metavar="WIDTHxHEIGHT",
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(help="Pictures of a prompt made at once, 1 … 64; only `generate` draws several.")
    ] = 1,
    host: Annotated[
        str | None,
        typer.Option(
            help="x86_64-linux-gnu, aarch64-linux-gnu or aarch64-linux-android. Default: this machine's."
        ),
    ] = None,
    lora: image_options.Lora = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(
            help="Most activation memory, such as 400M; large pictures are cut into bands.", metavar="BYTES"
        ),
    ] = None,
    tune_log: Annotated[
        str | None,
        typer.Option(
            help="Tuning records to use in place of those that come with the package; none for the defaults.",
            metavar="DIR|none",
        ),
    ] = None,
    guide_in_one_call: Annotated[
        bool,
        typer.Option(
            "--guide-in-one-call",
            help="Also compile steps for both prompts of guidance at once: some per cent faster than two "
            "calls, for up to twice the activation memory and as long again to compile.",
        ),
    ] = False,
    image_to_image: Annotated[
        bool,
        typer.Option(
            "--image-to-image",
            help="Also compile the image encoder, for `generate --image` and `--mask`; more to keep. A model "
            "for inpainting has it anyway.",
        ),
    ] = False,
    accumulate: Annotated[
        list[str] | None,
        typer.Option(
            help="How products are summed where the device computes in float16: float32, float16 (faster, "
            "long sums in chunks), or auto, which is float16 where weights are int8; for all layers or "
            "PATTERN=KIND for some, and the last that names a layer counts.",
            metavar="[PATTERN=]KIND",
        ),
    ] = None,
    activations: Annotated[
        list[str] | None,
        typer.Option(
            help="What activations of the UNet's matrix products are multiplied as: float, or int8, rounded "
            "row by row as they are read; for all layers or PATTERN=KIND for some. Faster on CPUs with "
            "instructions for it, for an error of about 0.7 % in each product; `quality` says what it costs.",
            metavar="[PATTERN=]KIND",
        ),
    ] = None,
    attention: Annotated[
        str,
        typer.Option(
            help="What the UNet's attention multiplies in: float, or bfloat16, 8 bits, with sums and softmax "
            "in float32. Faster on CPUs with instructions for it."
        ),
    ] = "float",
    keep_fp16: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-fp16",
            help="Layers that keep fp16 weights where others get int8, by a pattern of their paths such as "
            "'mid_block.*'; `quality --quant-report` says which suffer.",
            metavar="PATTERN",
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="Lower a limit of the target, such as max_allocation=268435456. For opencl those of this "
            "machine's device are taken where they are lower.",
            metavar="NAME=NUMBER",
        ),
    ] = None,
    dump_ir: Annotated[
        Path | None, typer.Option(help="Write the IR after every phase.", metavar="DIR")
    ] = None,
    min_psnr: Annotated[
        float | None,
        typer.Option(
            help="Refuse a bundle whose pictures are below this to float32 without a cache.", metavar="DB"
        ),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(help="Refuse one that gets less of what captions ask right.", metavar="PERCENT"),
    ] = None,
    gate_pictures: Annotated[int, typer.Option(help="Pictures that are drawn to decide so, 2 … 10000.")] = 16,
    gate_steps: Annotated[int, typer.Option(help="Their DDIM steps.")] = 50,
    cache_interval: Annotated[int, typer.Option(help="Their cache interval.")] = 5,
    device: Annotated[
        str | None,
        typer.Option(help="What draws them: opencl, llvm or rpc://host:port/key. Default: this machine's."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Compile a model into a bundle: libraries, weights and a manifest.

    The bundle appears as a whole when everything is done; a bundle of that name is replaced then.
    """
    from ddimcache.commands.choose import limits_at_hand
    from ddimcache.compiler.bundle import check_destination
    from ddimcache.compiler.options import CompileOptions
    from ddimcache.runtime.local_device import host_triple

    (width, height), *more_sizes = parse_sizes(size) or [(0, 0)]
    options = CompileOptions(
        target=target,
        weights=weights,
        cut=cut,
        width=width,
        height=height,
        more_sizes=tuple(more_sizes),
        batch=batch,
        host=host or host_triple(),
        memory_budget=parse_bytes(memory_budget, "--memory-budget"),
        tune_log=tune_log,
        guide_in_one_call=guide_in_one_call,
        image_to_image=image_to_image,
        dump_ir=None if dump_ir is None else str(dump_ir),
        loras=tuple(lora or ()),
        accumulate=tuple(accumulate or ()),
        activations=tuple(activations or ()),
        attention=attention,
        keep_fp16=tuple(keep_fp16 or ()),
        limits=(*(limit or ()), *limits_at_hand(target, host)),
    )
    if not (model / "model_index.json").is_file():
        raise UsageError(f"{model} holds no model_index.json, so it is no diffusers folder", where="MODEL")
    check_destination(output)

    from ddimcache.commands.choose import load_compiler
    from ddimcache.runtime.bundle import open_bundle

    start = time.perf_counter()
    compile_pipeline = load_compiler()
    if min_psnr is None and min_accuracy is None:
        compile_pipeline(model, output, options, progress())
    else:
        from ddimcache.commands.gated_compile import compile_gated, parse_gate

        gate = parse_gate(min_psnr, min_accuracy, gate_steps, cache_interval)
        compile_gated(model, output, options, gate, gate_pictures, device)
    seconds = time.perf_counter() - start
    manifest = open_bundle(output, sums=False).manifest
    kernels = sum(len(component.kernels) for component in manifest.components.values())
    if as_json:
        print_json(
            {
                "bundle": str(output.absolute()),
                "seconds": seconds,
                "weights_bytes": manifest.weights_bytes,
                "activation_bytes": manifest.activation_bytes,
                "kernels": kernels,
            }
        )
        return
    print(f"{output.absolute()}\n")
    print_table(
        [
            ("compiled in", seconds_text(seconds)),
            ("pictures", ", ".join(each.text for each in manifest.sizes)),
            ("weights", bytes_text(manifest.weights_bytes)),
            ("activations", bytes_text(manifest.activation_bytes)),
            ("kernels", str(kernels)),
            ("full step", f"{manifest.macs_full / 1e9:.3g} GMAC"),
            ("cached step", f"{manifest.macs_cached / 1e9:.3g} GMAC"),
        ]
    )
    place = shlex.quote(str(output))
    say(f'\nnext: ddimcache generate "a prompt" --model {place}, or ddimcache inspect {place}')
