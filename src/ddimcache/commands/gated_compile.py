"""``ddimcache compile --min-psnr``: the bundle takes its name only when its pictures are good enough."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from ddimcache.commands import image_options
from ddimcache.commands.device_options import device_sources
from ddimcache.commands.quality import quality_prompts
from ddimcache.commands.terminal import progress, say
from ddimcache.errors import UsageError

if TYPE_CHECKING:
    from ddimcache.compiler.options import CompileOptions
    from ddimcache.quality.gate import Gate


def parse_gate(
    least_psnr: float | None, least_percent: float | None, steps: int, cache_interval: int
) -> Gate:
    """Return what is asked of a bundle; raises :class:`UsageError` naming the option."""
    from ddimcache.quality.gate import Gate
    from ddimcache.runtime.session import check_sampling

    check_sampling(steps, cache_interval, 1.0)
    if least_psnr is not None and not 0 <= least_psnr <= 100:
        raise UsageError(f"{least_psnr:g} is outside 0 … 100 dB", where="--min-psnr")
    if least_percent is not None and not 0 <= least_percent <= 100:
        raise UsageError(f"{least_percent:g} is outside 0 … 100 percent", where="--min-accuracy")
    share = None if least_percent is None else least_percent / 100
    return Gate(least_psnr, share, steps, cache_interval)


def compile_gated(
    model: Path, output: Path, options: CompileOptions, gate: Gate, pictures: int, device: str | None
) -> None:
    """Compile beside ``output``, draw, and put the bundle there if its pictures are good enough.

    The uncompressed model is compiled as well and kept as other compiled models are. Raises
    :class:`DdimcacheError` where the pictures are worse; then ``output`` is as it was.
    """
    from ddimcache.commands.choose import check_draws_from_text, compiled, load_compiler
    from ddimcache.compiler.bundle import put_in_place
    from ddimcache.compiler.scratch import folder_beside
    from ddimcache.quality.gate import check, check_can_judge, measure
    from ddimcache.quality.notes import keep_notes
    from ddimcache.quality.pictures import Commission
    from ddimcache.runtime.bundle import open_bundle
    from ddimcache.runtime.quality_notes import QualityNotes

    if not 2 <= pictures <= 10_000:
        raise UsageError(f"{pictures} is outside 2 … 10000", where="--gate-pictures")
    if options.batch != 1:
        raise UsageError(
            "pictures are drawn one by one to be measured", where="--batch", remedy="take --batch 1"
        )
    check_draws_from_text(model, "MODEL")
    guidance = image_options.default_guidance(model)
    commission = Commission(quality_prompts(None, pictures), 0, guidance)
    bars = progress()
    output = output.absolute()
    with folder_beside(output) as scratch:
        path = scratch / "bundle"
        load_compiler()(model, path, options, bars)
        candidate = open_bundle(path)
        check_can_judge(gate, candidate)
        uncompressed = dataclasses.replace(options, weights="fp32", dump_ir=None)
        reference = candidate if options.weights == "fp32" else compiled(model, uncompressed, bars)
        named = [] if device is None else [device]
        sources = device_sources(named, None, None, None, kind=candidate.manifest.device_kind)
        try:
            costs = measure(candidate, reference, gate, commission, scratch, sources, bars)
        finally:
            for source in sources:
                source.close()
        check(costs, gate, options.weights)
        keep_notes(candidate, QualityNotes((), (costs.measured(gate),), gate.least_psnr))
        put_in_place(path, output)
    psnr, accuracy = costs.cached["psnr_to_uncompressed"], costs.cached["accuracy"]
    judged = "" if accuracy is None else f", {accuracy:.1%} of what was asked is right"
    say(f"pictures: {'equal' if psnr is None else f'{psnr:.1f} dB'} to the uncompressed model{judged}")
